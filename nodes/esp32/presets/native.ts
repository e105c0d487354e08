import { EARLIEST_TRUSTED_MS } from "../../common/clock.js";
import type { WattError } from "../../common/errors.js";
import { isObject } from "../../common/json.js";
import type { BadReason, PointValue } from "../../common/reading.js";
import { isPointName, unitOf } from "../../common/units.js";
import type { Arrival, Decoded, DeviceSample, Preset, PresetOptions } from "../preset.js";
import { isPossible } from "../time.js";
import { invalid as refused, levelsBelow, parseJson, textOf } from "../values.js";

/** Topics begin with it unless the node says otherwise. */
const PREFIX = "wattledger";
/** Levels behind the prefix: the device's name and this. */
const LAST_LEVEL = "data";
const LONGEST_TEXT = 200;
/** Properties of a sample that are no points. */
const OWN = new Set(["up", "ts", "sig", "est"]);

/**
 * Our own envelope, one message of one device:
 * `{"v":1,"id":"esp32-ab12cd","boot":17,"seq":4211,"up":123456789,"ts":1795257600000,"s":[{"up":123451789,"ac_power_w":1234.5}]}`.
 * `boot` counts the device's starts, `seq` its messages since, `up` is ms since the start, `ts` ms UTC where the device has a clock (null
 * or absent where not), `sig` a signature (docs/evidence.md), `sim` true where nothing was measured, `class` what the device is;
 * `est` in a sample true where its values were reckoned, such as power from current alone: they are never claimed.
 * Points are in our names, units and signs; null is a value that could not be read.
 */
export const native: Preset = {
    id: "native",
    topics: ({ prefix }) => [`${prefix || PREFIX}/+/${LAST_LEVEL}`],
    createDecoder: ({ prefix }: PresetOptions) => ({ decode: (arrival) => [decodeEnvelope(arrival, prefix || PREFIX)] }),
};

function decodeEnvelope(arrival: Arrival, prefix: string): Decoded {
    const message = parseJson(textOf(arrival));
    if (!isObject(message)) throw invalid("the message must be an object");
    if (message["v"] !== undefined && message["v"] !== 1) throw invalid("v must be 1");
    const id = message["id"];
    if (id !== undefined && (typeof id !== "string" || id === "")) throw invalid("id must be the device's name");
    const named = arrival.via === "mqtt" ? deviceOfTopic(arrival.topic ?? "", prefix) : undefined;
    const device = id ?? named;
    if (device === undefined) throw invalid("id, the device's name, is missing");
    if (named !== undefined && device !== named) throw invalid("id must be the name in the topic");
    const [boot, seq] = [count(message, "boot"), count(message, "seq")];
    if ((boot === undefined) !== (seq === undefined)) throw invalid("boot and seq belong together");
    const sent: Sent = { up: amount(message, "up"), ts: amount(message, "ts"), at: arrival.at };
    const { up } = sent;
    const kind = message["class"];
    if (kind !== undefined && (typeof kind !== "string" || !/^[a-z][a-z0-9_]{0,30}$/.test(kind))) throw invalid("class must be a word such as meter");
    const list = message["s"];
    if (!Array.isArray(list) || list.length === 0) throw invalid("s must be a list of samples");
    const signature = text(message, "sig");
    if (signature !== undefined && list.length > 1) throw invalid("with several samples each has a sig of its own");
    const isSimulated = message["sim"];
    if (isSimulated !== undefined && typeof isSimulated !== "boolean") throw invalid("sim must be true or false");
    const samples = list.map((entry: unknown): DeviceSample => {
        const sample = decodeSample(entry, device, sent);
        if (signature !== undefined) sample.signature ??= signature;
        if (kind !== undefined) sample.class = kind;
        return sample;
    });
    return {
        device,
        ...(boot !== undefined && seq !== undefined && { boot, seq }),
        ...(up !== undefined && { up }),
        ...(isSimulated === true && { simulated: true }),
        samples,
    };
}

/** When a message was sent, by the device's count and clock; `at` when it came, by ours. */
interface Sent {
    up: number | undefined;
    ts: number | undefined;
    at: number;
}

function decodeSample(entry: unknown, device: string, sent: Sent): DeviceSample {
    if (!isObject(entry)) throw invalid("each sample must be an object");
    const [up, own, signature] = [amount(entry, "up"), amount(entry, "ts"), text(entry, "sig")];
    const values: Record<string, PointValue> = {};
    const isEstimated = entry["est"] ?? false;
    if (typeof isEstimated !== "boolean") throw invalid("est must be true or false");
    const bad: Record<string, BadReason> = {};
    for (const [point, value] of Object.entries(entry)) {
        if (OWN.has(point) || value === null) continue;
        const hasUnit = unitOf(point) !== undefined;
        if (!isPointName(point) || (typeof value === "number" && !hasUnit)) throw invalid(`point name "${point.slice(0, 50)}" must be snake_case and end in its unit, such as ac_power_w`);
        const isText = typeof value === "string" && !hasUnit && value.length <= LONGEST_TEXT;
        if (typeof value !== "number" && !isText) throw invalid(`${point} must be a number, or null where it could not be read`);
        values[point] = value;
        if (isEstimated) bad[point] = "estimated";
    }
    const reckoned = own === undefined ? reckonedTime(up, sent) : undefined;
    const ts = own ?? reckoned;
    const ageMs = ageBetween(own, sent);
    return {
        device,
        values,
        ...(isEstimated && { bad }),
        ...(ts !== undefined && { ts }),
        ...(reckoned !== undefined && { isReckoned: true }),
        ...(up !== undefined && { up }),
        ...(ageMs !== undefined && { ageMs }),
        ...(signature !== undefined && { signature }),
    };
}

/** What the device's clock says when it sends dates its samples better than when they come; a clock that is wrong dates none. */
function reckonedTime(up: number | undefined, sent: Sent): number | undefined {
    if (sent.ts === undefined || !isPossible(sent.ts, sent.at)) return undefined;
    if (up === undefined) return sent.ts;
    return sent.up === undefined ? undefined : sent.ts - (sent.up - up);
}

/** By a clock that may be wrong, but is the same at both ends: not where it was set in between. */
function ageBetween(own: number | undefined, sent: Sent): number | undefined {
    if (own === undefined || sent.ts === undefined || own > sent.ts) return undefined;
    return own < EARLIEST_TRUSTED_MS === sent.ts < EARLIEST_TRUSTED_MS ? sent.ts - own : undefined;
}

/** A count that an exact number holds; null is as good as absent. */
function count(from: Record<string, unknown>, key: string): number | undefined {
    const value = from[key] ?? undefined;
    if (value !== undefined && !(Number.isSafeInteger(value) && (value as number) >= 0)) throw invalid(`${key} must be a whole number from 0`);
    return value as number | undefined;
}

function amount(from: Record<string, unknown>, key: string): number | undefined {
    const value = from[key] ?? undefined;
    if (value !== undefined && !(typeof value === "number" && Number.isFinite(value) && value >= 0)) throw invalid(`${key} must be a number of ms`);
    return value;
}

function text(from: Record<string, unknown>, key: string): string | undefined {
    const value = from[key] ?? undefined;
    if (value !== undefined && (typeof value !== "string" || value.length > LONGEST_TEXT)) throw invalid(`${key} must be a text`);
    return value;
}

function deviceOfTopic(topic: string, prefix: string): string {
    const [device, last, ...more] = levelsBelow(topic, prefix) ?? [];
    if (!device || last !== LAST_LEVEL || more.length > 0) throw invalid(`the topic must be ${prefix}/DEVICE/${LAST_LEVEL}`);
    return device;
}

function invalid(what: string): WattError {
    return refused(`Not an envelope of version 1: ${what}.`);
}
