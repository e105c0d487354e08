import { isObject } from "../../common/json.js";
import { SHAPE } from "../limits.js";
import { mappedName } from "../mapping.js";
import { guessPoint } from "../names.js";
import type { Arrival, Decoded, Preset, PresetOptions } from "../preset.js";
import { deviceName, invalid, type JsonObject, levelsBelow, own, parseJson, parseNumber, parseTime, said, textOf, Values } from "../values.js";

const MAX_ITEMS = 500;

/**
 * emoncms, as emonTx, EmonESP and OEM's devices talk to it: `emon/<node>/<key>` with a plain value, `emon/<node>` with an object;
 * `/input/post` and `/input/bulk` with the times of the latter relative to `sentat`, `offset`, `time` or its last entry.
 * It names no units: they are taken from the mapping, or from a name that leaves no doubt.
 */
export const emoncms: Preset = {
    id: "emoncms",
    reply: "ok",
    topics: ({ prefix }) => [`${prefix || "emon"}/+`, `${prefix || "emon"}/+/+`],
    createDecoder: (options) => ({
        decode: (arrival) => {
            if (arrival.via === "mqtt") return published(arrival, options);
            const fields = parameters(arrival);
            return fields.has("data") && (/bulk/.test(arrival.topic ?? "") || (fields.get("data") ?? "").trim().startsWith("[")) ? bulk(fields, arrival, options) : post(fields, arrival, options);
        },
    }),
};

function published(arrival: Arrival, options: PresetOptions): Decoded[] {
    const levels = levelsBelow(arrival.topic, options.prefix || "emon") ?? [];
    if (levels.length === 0 || levels.length > 2) throw invalid("Not a topic of emoncms: emon/<node> or emon/<node>/<key> was expected.");
    const fields = levels.length === 2 ? { [levels[1]!]: textOf(arrival) } : pairs(textOf(arrival));
    return inputs(deviceName(levels[0]), fields, parseTime(own(fields, "time"), "UTC", arrival.at), arrival, options);
}

function post(fields: URLSearchParams, arrival: Arrival, options: PresetOptions): Decoded[] {
    const text = fields.get("fulljson") ?? fields.get("json") ?? fields.get("data") ?? fields.get("csv");
    if (text === null) throw invalid("Not a request of emoncms: fulljson, json, csv or data was expected.");
    const values = fields.has("csv") ? positional(text.split(",")) : pairs(text);
    const time = parseNumber(fields.get("time")) ?? own(values, "time");
    return inputs(deviceName(fields.get("node") ?? arrival.device), values, parseTime(time, "UTC", arrival.at), arrival, options);
}

/** `[[time, node, value, …, {"key": value}], …]`, times in seconds from a reference. */
function bulk(fields: URLSearchParams, arrival: Arrival, options: PresetOptions): Decoded[] {
    const items = parseJson(fields.get("data") ?? "");
    if (!Array.isArray(items) || items.length > MAX_ITEMS) throw invalid(`The bulk data must be a list of up to ${MAX_ITEMS} entries.`);
    const now = Math.floor(arrival.at / 1000);
    const given = (name: string) => {
        const value = parseNumber(fields.get(name));
        if (value === "decode") throw invalid(`${name} must be a number.`);
        return value;
    };
    const [sentat, offset, time] = [given("sentat"), given("offset"), given("time")];
    const last = parseNumber((items.at(-1) as unknown[] | undefined)?.[0]);
    const isReckoned = sentat !== undefined || offset !== undefined || time === undefined;
    const reference = sentat !== undefined ? now - sentat : offset !== undefined ? now - offset : (time ?? now - (typeof last === "number" ? last : 0));
    return items.flatMap((item: unknown) => {
        if (!Array.isArray(item) || item.length < 2) throw invalid("An entry of the bulk data must be a list of time, node and values.");
        const [at, node, ...rest] = item as unknown[];
        const seconds = parseNumber(at);
        if (typeof seconds !== "number") throw invalid("An entry of the bulk data begins with its time in seconds.");
        const values: JsonObject = positional(rest.filter((value) => !isObject(value)));
        for (const named of rest.filter(isObject)) Object.assign(values, named);
        return inputs(deviceName(node), values, parseTime(reference + seconds, "UTC", arrival.at), arrival, options, isReckoned);
    });
}

/** What the path says of the query, or a form in the body; a body that is JSON alone is `fulljson`. */
function parameters(arrival: Arrival): URLSearchParams {
    const fields = new URLSearchParams(arrival.query);
    if (arrival.body.length === 0) return fields;
    const text = textOf(arrival);
    if (/^[[{]/.test(text)) fields.set(text.startsWith("[") ? "data" : "fulljson", text);
    else for (const [key, value] of new URLSearchParams(text)) fields.set(key, value);
    return fields;
}

/** JSON, or the shorter `{power:200,temp:12.5}` and `CT1:3935,CT2:325`. */
function pairs(text: string): JsonObject {
    if (/^\{\s*(["}])/.test(text)) {
        const parsed = parseJson(text);
        if (isObject(parsed)) return parsed;
    }
    const entries = text.replaceAll(/[{}"\s]/g, "").split(",").map((pair) => pair.split(":"));
    if (entries.some((pair) => pair.length !== 2 || pair[0] === "")) throw invalid("The values must be JSON or key:value pairs.");
    return Object.fromEntries(entries) as JsonObject;
}

/** emoncms numbers values without names from 1. */
function positional(values: readonly unknown[]): JsonObject {
    return Object.fromEntries(values.map((value, i) => [String(i + 1), value]));
}

function inputs(device: string, fields: JsonObject, ts: number | undefined, arrival: Arrival, { mapping, forward }: PresetOptions, isReckoned = false): Decoded[] {
    if (Object.keys(fields).length > SHAPE.keys) throw invalid(`The message has more than ${SHAPE.keys} values of one node.`);
    const values = new Values();
    const unmapped: string[] = [];
    for (const [key, raw] of Object.entries(fields)) {
        if (key === "time") continue;
        const found = mappedName(mapping, key, arrival) ?? guessPoint(key);
        if (found) values.put(found.point, raw, found.factor);
        else unmapped.push(key);
    }
    const more = { ...(mapping?.class !== undefined ? { class: mapping.class } : forward === "export" && { class: "inverter" }), ...(ts !== undefined && { ts, ...(isReckoned && { isReckoned }) }) };
    return said(device, values.sample(device, arrival, more), unmapped);
}
