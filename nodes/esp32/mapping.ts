import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";
import { isPointName, unitOf } from "../common/units.js";
import { matches } from "../mqtt/topics.js";
import type { Arrival, DeviceSample, MappedPoint, Mapping } from "./preset.js";
import { deviceName, factorOf, invalid, own, parseTime, Values } from "./values.js";

const pointSchema = z
    .strictObject({
        path: z.string().trim().min(1).max(200).optional(),
        topic: z
            .string()
            .trim()
            .min(1)
            .max(200)
            .refine((topic) => !topic.includes("#") && !topic.startsWith("$"), "must name levels or + for any one; # is too much")
            .optional(),
        point: z.string().trim().refine(isPointName, "must be snake_case and end in its unit, such as ac_power_w"),
        unit: z.string().trim().optional(),
        scale: z.number({ error: "must be a number" }).refine((scale) => Number.isFinite(scale) && scale !== 0, "must not be 0").optional(),
    })
    .refine(({ path, topic }) => path !== undefined || topic !== undefined, { error: "needs a path or a topic" })
    .refine(({ point }) => unitOf(point) !== undefined, { error: "must be a point that ends in its unit, such as ac_power_w" })
    .refine(({ unit, point }) => unit === undefined || factorOf(unit, point) !== undefined, { error: "has a unit that is not one of the point's kind" });

const mappingSchema = z.strictObject({
    device: z.string().trim().min(1).max(200).optional(),
    time: z.string().trim().min(1).max(200).optional(),
    class: z.string().trim().min(1).max(40).optional(),
    points: z.array(pointSchema, { error: "must be a list" }).min(1, "must name at least one point").max(500),
});

/**
 * A mapping as JSON gives it: `{device, time, class, points: [{path, topic, point, unit, scale}]}`, or the list of points alone.
 * @throws WattError CONFIG_INVALID that names the entry at fault.
 */
export function parseMapping(json: unknown): Mapping {
    let value = json;
    if (typeof json === "string") {
        try {
            value = JSON.parse(json);
        } catch (error) {
            throw new WattError("CONFIG_INVALID", "Check the settings: the mapping is no JSON.", { cause: error });
        }
    }
    const parsed = parseConfig(z.object({ mapping: mappingSchema }), { mapping: Array.isArray(value) ? { points: value as unknown[] } : value });
    return parsed.mapping as Mapping;
}

/** What stands at `a.b[0]['c']`, or at a key that is written so; undefined where there is nothing. */
export function valueAt(json: unknown, path: string): unknown {
    const direct = own(json, path);
    if (direct !== undefined) return direct;
    let found = json;
    for (const [step, name, index, quoted] of path.matchAll(/\.?([^.[\]]+)|\[(\d+)\]|\[["']([^"']+)["']\]/g)) {
        if (step === "") return undefined;
        found = index === undefined ? own(found, name ?? quoted ?? "") : Array.isArray(found) ? found[Number(index)] : own(found, index);
        if (found === undefined) return undefined;
    }
    return found;
}

/** Turns the source's value into the point's unit. */
export function mappedFactor({ point, unit, scale = 1 }: MappedPoint): number {
    return scale * (unit === undefined ? 1 : (factorOf(unit, point) ?? 1));
}

/** True for an entry that a message of this topic can hold. */
export function fits({ topic }: MappedPoint, arrival: Pick<Arrival, "topic">): boolean {
    return topic === undefined || (arrival.topic !== undefined && matches(topic, arrival.topic));
}

/**
 * The samples that a mapping finds in a message: one, or one for each entry of a list.
 * @param json What the body says; a plain value as it is.
 */
export function mapped(mapping: Mapping, arrival: Arrival, json: unknown, zone: string): DeviceSample[] {
    const entries = mapping.points.filter((entry) => fits(entry, arrival));
    const list = Array.isArray(json) && !entries.some(({ path }) => path?.startsWith("[")) ? (json as unknown[]) : [json];
    return list.flatMap((item) => {
        const values = new Values();
        for (const entry of entries) {
            const raw = entry.path === undefined ? item : valueAt(item, entry.path);
            if (!isObject(raw) && !Array.isArray(raw)) values.put(entry.point, raw, mappedFactor(entry));
        }
        const ts = mapping.time === undefined ? undefined : parseTime(msOrIso(valueAt(item, mapping.time)), zone, arrival.at);
        const more = { ...(mapping.class !== undefined && { class: mapping.class }), ...(ts !== undefined && { ts }) };
        return values.sample(mappedDevice(mapping, arrival, item), arrival, more);
    });
}

/** Seconds, milliseconds and texts of both. */
function msOrIso(raw: unknown): unknown {
    const value = typeof raw === "string" && /^\d+(\.\d+)?$/.test(raw.trim()) ? Number(raw) : raw;
    return typeof value === "number" && value > 1e11 ? value / 1000 : value;
}

/** By the mapping; else the key it came by, what `+` stood for in its topic, the last level of the topic, `node` or `device` of the query. */
function mappedDevice({ device, points }: Mapping, arrival: Arrival, json: unknown): string {
    const levels = arrival.topic?.split("/") ?? [];
    if (device !== undefined) {
        const level = /^topic\[(\d+)\]$/.exec(device)?.[1];
        return deviceName(level === undefined ? valueAt(json, device) : levels[Number(level)]);
    }
    if (arrival.device !== undefined) return arrival.device;
    const filter = points.find((entry) => entry.topic !== undefined && fits(entry, arrival))?.topic?.split("/");
    const wild = filter?.indexOf("+") ?? -1;
    const name = wild >= 0 ? levels[wild] : (arrival.query?.["device"] ?? arrival.query?.["node"] ?? (levels.at(-1) || undefined));
    if (name === undefined) throw invalid("The message does not say which device it is of: name it in the mapping, in the topic or by its key.");
    return deviceName(name);
}

/** An entry of the user's for a value of this name. */
export function mappedName(mapping: Mapping | undefined, name: string, arrival: Pick<Arrival, "topic">): { point: string; factor: number } | undefined {
    const entry = mapping?.points.find((candidate) => (candidate.path === undefined ? candidate.topic !== undefined : candidate.path === name) && fits(candidate, arrival));
    return entry && { point: entry.point, factor: mappedFactor(entry) };
}

