import { DateTime } from "luxon";
import { EARLIEST_TRUSTED_MS } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";
import type { BadReason, PointValue } from "../common/reading.js";
import { unitOf, unitText } from "../common/units.js";
import { checkShape } from "./limits.js";
import { isDeviceName, LONGEST_NAME } from "./names.js";
import type { Arrival, Decoded, DeviceSample } from "./preset.js";

export type JsonObject = Record<string, unknown>;

/** A source's key, the point it is, and what its value is multiplied with to be in the point's unit. */
export type PointTable = Readonly<Record<string, readonly [point: string, factor?: number] | undefined>>;

/** Takes time by the length of the text, not by its square. */
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;
const ABSENT = new Set(["", "nan", "unavailable", "unknown", "n/a", "none", "null"]);

/** A message that is not what was expected. @param what Says what was, as a sentence. */
export function invalid(what: string): WattError {
    return new WattError("PAYLOAD_INVALID", what);
}

/**
 * A device's name as a reading can carry it.
 * @throws WattError PAYLOAD_INVALID
 */
export function deviceName(name: unknown): string {
    const text = typeof name === "string" || typeof name === "number" ? String(name).trim() : "";
    if (isDeviceName(text)) return text;
    throw invalid(`The device has no usable name: up to ${LONGEST_NAME} characters, none of them /, + or #.`);
}

/** What stands at a key, where `from` is an object and has it itself. */
export function own(from: unknown, key: string): unknown {
    return isObject(from) && Object.hasOwn(from, key) ? from[key] : undefined;
}

/** A body as text, without the zero that ends a text in C. */
export function textOf({ body }: Pick<Arrival, "body">): string {
    let end = body.length;
    while (end > 0 && body[end - 1] === 0) end--;
    return body.toString("utf8", 0, end).trim();
}

/**
 * @returns what the text says; NaN and infinity, which C's printf writes, are null.
 * @throws WattError PAYLOAD_INVALID for no JSON, or one nested too deep or with too many keys.
 */
export function parseJson(text: string): unknown {
    checkShape(Buffer.from(text));
    try {
        return JSON.parse(text);
    } catch {
        try {
            return JSON.parse(text.replaceAll(/([:[,]\s*)[-+]?(?:nan|inf(?:inity)?)(?=\s*[,}\]])/gi, "$1null"));
        } catch {
            throw invalid("The message is no JSON.");
        }
    }
}

/** @throws WattError PAYLOAD_INVALID for anything but a JSON object. */
export function parseJsonObject(text: string): JsonObject {
    const parsed = parseJson(text);
    if (isObject(parsed)) return parsed;
    throw invalid("The message is no JSON object.");
}

/** A number, also as text; undefined for what stands for none; `decode` for anything else. */
export function parseNumber(value: unknown): number | "decode" | undefined {
    if (typeof value === "number") return Number.isFinite(value) ? value : "decode";
    if (value === null || value === undefined) return undefined;
    if (typeof value !== "string") return "decode";
    const text = value.trim();
    if (NUMBER.test(text) && Number.isFinite(Number(text))) return Number(text);
    return ABSENT.has(text.toLowerCase()) ? undefined : "decode";
}

/** The product without the dust of binary fractions: 1290.396 kWh are 1290396 Wh. */
export function times(value: number, factor: number): number {
    return factor === 1 ? value : Number((value * factor).toPrecision(15));
}

/** Ratios that some firmware gives as such and some in percent: no true one is as small as 1 %. */
export function asRatio(raw: unknown): unknown {
    const value = parseNumber(raw);
    return typeof value === "number" && Math.abs(value) > 1.005 ? times(value, 0.01) : value;
}

/**
 * Seconds since 1970 as ms UTC; undefined for a clock that was not set.
 */
export function secondsOf(raw: unknown): number | undefined {
    const value = parseNumber(raw);
    const ms = typeof value === "number" ? exact(value * 1000) : undefined;
    return ms !== undefined && ms >= EARLIEST_TRUSTED_MS ? ms : undefined;
}

/**
 * A date and time in ISO 8601 as ms UTC, without a zone in `zone`; a number is in seconds; undefined for none. A clock that was not
 * set is told, too: by it a list's samples are known to be of different times. An hour that comes twice when summer time ends is the one
 * nearer to `at`.
 */
export function parseTime(raw: unknown, zone: string, at: number): number | undefined {
    if (typeof raw === "number") return exact(raw * 1000);
    if (typeof raw !== "string" || raw.length > 40) return undefined;
    const time = DateTime.fromISO(raw.trim(), { zone });
    if (!time.isValid) return undefined;
    const hasZone = /(z|[+-]\d\d(:?\d\d)?)$/i.test(raw.trim().slice(10));
    const candidates = (hasZone ? [time] : time.getPossibleOffsets()).map((candidate) => candidate.toMillis());
    return exact(candidates.reduce((best, ms) => (Math.abs(ms - at) < Math.abs(best - at) ? ms : best)));
}

function exact(ms: number): number | undefined {
    return Math.abs(ms) <= 8.64e15 ? Math.round(ms) : undefined;
}

/** How many of the source's units one of the point is; undefined where the point has another kind of unit. */
export function factorOf(unit: unknown, point: string): number | undefined {
    const key = unitOf(point);
    return typeof unit === "string" && key !== undefined ? unitText(unit)?.[key] : undefined;
}

/** Collects the values of one sample, whether they can be true or not. */
export class Values {
    private readonly values: Record<string, PointValue> = {};
    private readonly bad: Record<string, BadReason> = {};
    private isEmpty = true;

    /** @param factor Turns the value into the unit of the point; NaN where that is not possible. */
    put(point: string, raw: unknown, factor = 1): void {
        const value = parseNumber(raw);
        if (value === undefined) return;
        this.isEmpty = false;
        if (value === "decode") {
            this.bad[point] = "decode";
            return;
        }
        const inUnit = times(value, factor);
        if (Number.isFinite(inUnit)) this.values[point] = inUnit + 0;
        else this.bad[point] = "decode";
    }

    /** What a table knows of an object. */
    putAll(from: JsonObject, table: PointTable): void {
        for (const key in table) {
            const [point, factor] = table[key]!;
            this.put(point, own(from, key), factor);
        }
    }

    /** A number of which there is one for each phase: `name_unit` becomes `name_l1_unit` and so on. @returns what all add up to, if none is missing. */
    putPhases(point: string, raws: readonly unknown[], factor = 1): number | undefined {
        let sum: number | undefined = raws.length === 0 ? undefined : 0;
        for (const [i, raw] of raws.entries()) {
            const value = parseNumber(raw);
            sum = typeof value === "number" && sum !== undefined ? sum + value : undefined;
            if (i < 3) this.put(phasePoint(point, i + 1), raw, factor);
        }
        return sum;
    }

    /** Marks what is there as not truly measured. */
    markAll(reason: BadReason): void {
        for (const point in this.values) this.bad[point] ??= reason;
    }

    /** The sample; none where there was no value, not even a broken one. */
    sample(device: string, { retained }: Pick<Arrival, "retained">, more: Omit<Partial<DeviceSample>, "values" | "bad"> = {}): DeviceSample[] {
        if (this.isEmpty) return [];
        const { values, bad } = this;
        return [{ device, ...more, values, ...(Object.keys(bad).length > 0 && { bad }), ...(retained && { stale: true }) }];
    }
}

/** `ac_power_w` of phase 1 is `ac_power_l1_w`. */
export function phasePoint(point: string, phase: number): string {
    const unit = unitOf(point) ?? "";
    return `${point.slice(0, -unit.length)}l${phase}_${unit}`;
}

/** What a message said: nothing where it holds no sample. */
export function said(device: string, samples: DeviceSample[], unmapped: readonly string[] = []): Decoded[] {
    if (samples.length === 0 && unmapped.length === 0) return [];
    return [{ device, samples, ...(unmapped.length > 0 && { unmapped: unmapped.slice(0, 20).map((name) => name.slice(0, LONGEST_NAME)) }) }];
}

/** The levels of the topic behind the prefix; undefined for one that does not begin with it. */
export function levelsBelow(topic: string | undefined, prefix: string): string[] | undefined {
    if (topic === undefined) return undefined;
    if (prefix === "") return topic.split("/");
    return topic.startsWith(`${prefix}/`) ? topic.slice(prefix.length + 1).split("/") : undefined;
}
