import { isPointName } from "./units.js";
import { WattError } from "./errors.js";

/** A measured number, or a short string for a state. A failed value is absent, never 0. */
export type PointValue = number | string;
export type Quality = "good" | "uncertain" | "bad";
const QUALITIES: readonly Quality[] = ["good", "uncertain", "bad"];

/**
 * Why a point is absent or doubtful. `comm` no answer, `sf` scale factor missing or out of range, `range` outside what is
 * physically possible, `missing` not implemented by the device, `stale` value stopped changing, `estimated` not measured,
 * `reset` counter started again, `overflow` too large for an exact number, `decode` the bytes make no sense.
 */
export type BadReason = "comm" | "sf" | "range" | "missing" | "stale" | "estimated" | "reset" | "overflow" | "decode";

/** What is known of a sample beside its values. */
export interface ReadingMeta {
    site: string;
    device: string;
    /** inverter, meter, battery, weather, tracker, mppt, … */
    class: string;
    /** Counts the samples of one device within one run; a gap shows a lost message. */
    seq: number;
    quality: Quality;
    /** Points that are absent or doubtful, each with its reason. */
    bad?: Record<string, BadReason>;
    /** True where no device measured this: simulated data never reaches a claim. */
    simulated?: boolean;
    /** Start of the device within which `seq` counts, where it says so. */
    boot?: number;
    /** How a device that sends by itself told the time: its clock, its count since its start, the age it gave; `arrival` where not at all. */
    time?: "device" | "uptime" | "age" | "arrival";
    /** The device's own Ed25519 signature, base64, kept as evidence (docs/evidence.md says of what). */
    signature?: string;
}

/** The one message between nodes (design §4). Unknown properties survive. */
export interface ReadingMessage {
    /** `<site>/<device>` */
    topic: string;
    payload: Record<string, PointValue>;
    /** Sample time, ms since 1970 UTC. */
    timestamp: number;
    reading: ReadingMeta;
    [key: string]: unknown;
}

/** Builds a message; values that are not finite are left out and marked `decode`. */
export function createReading(
    meta: ReadingMeta,
    timestamp: number,
    values: Record<string, PointValue | undefined>,
): ReadingMessage {
    const payload = { ...values };
    const bad: Record<string, BadReason> = { ...meta.bad };
    for (const point in payload) {
        const value = payload[point];
        const isFinite = typeof value !== "number" || Number.isFinite(value);
        if (!isFinite) bad[point] ??= "decode";
        if (!isFinite || value === undefined) delete payload[point];
    }
    const { bad: _given, ...rest } = meta;
    const reading: ReadingMeta = Object.keys(bad).length > 0 ? { ...rest, bad } : rest;
    return { topic: `${meta.site}/${meta.device}`, payload: payload as ReadingMessage["payload"], timestamp, reading };
}

/**
 * Checks a message from any node, for nodes that take readings.
 * Accepts what our own nodes send, and for flows of others: an object payload with `topic` "<site>/<device>" and no
 * `reading`; then site and device come from the topic, the time from `timestamp` or `now`, the class is `generic`.
 * @throws WattError READING_INVALID naming the property at fault and what it should be.
 */
export function parseReading(msg: unknown, now: number): ReadingMessage {
    const m = msg as Partial<ReadingMessage> | null;
    if (m === null || typeof m !== "object") throw invalid("the message is not an object");
    const { payload } = m;
    if (payload === null || typeof payload !== "object" || Array.isArray(payload) || Buffer.isBuffer(payload)) {
        throw invalid("msg.payload must be an object of points, such as {ac_power_w: 4210.5}");
    }
    for (const point in payload) checkPoint(point, payload[point]);
    const given = m.reading ?? metaFromTopic(m.topic);
    // A copy where something is missing: a flow may share one object between messages, or freeze it.
    const seq = given.seq ?? 0;
    const quality = given.quality ?? "good";
    const meta = given.seq === seq && given.quality === quality ? given : { ...given, seq, quality };
    for (const key of ["site", "device", "class"] as const) {
        if (typeof meta[key] !== "string" || meta[key] === "") throw invalid(`msg.reading.${key} must be a non-empty text`);
    }
    if (!QUALITIES.includes(meta.quality)) throw invalid(`msg.reading.quality must be one of ${QUALITIES.join(", ")}`);
    if (meta.bad && !isReasons(meta.bad)) throw invalid('msg.reading.bad must name a reason for each point, such as {ac_power_w: "comm"}');
    const timestamp = m.timestamp ?? now;
    if (!Number.isSafeInteger(timestamp)) throw invalid("msg.timestamp must be whole milliseconds since 1970 UTC");
    const topic = typeof m.topic === "string" && m.topic !== "" ? m.topic : `${meta.site}/${meta.device}`;
    return Object.assign(m, { timestamp, reading: meta, topic }) as ReadingMessage;
}

function isReasons(bad: unknown): boolean {
    return typeof bad === "object" && Object.values(bad as object).every((reason) => typeof reason === "string");
}

function checkPoint(point: string, value: unknown): void {
    if (!isPointName(point)) throw invalid(`point name "${point.slice(0, 50)}" must be snake_case and end in its unit, such as ac_power_w`);
    const fits = typeof value === "number" ? Number.isFinite(value) : typeof value === "string";
    if (!fits) throw invalid(`point ${point} must be a finite number or a text; leave out what was not measured`);
}

function metaFromTopic(topic: unknown): ReadingMeta {
    const [site, device, ...more] = typeof topic === "string" ? topic.split("/") : [];
    if (!site || !device || more.length > 0) throw invalid('msg.topic must be "<site>/<device>" when msg.reading is missing');
    return { site, device, class: "generic", seq: 0, quality: "good" };
}

function invalid(what: string): WattError {
    return new WattError("READING_INVALID", `Not a reading: ${what}.`);
}
