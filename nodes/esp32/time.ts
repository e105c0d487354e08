import { EARLIEST_TRUSTED_MS } from "../common/clock.js";
import type { DeviceSample } from "./preset.js";

/** How far ahead of ours a device's clock may run, ms. */
const AHEAD_MS = 5 * 60_000;
/** An age is taken from a device's own count no further back than this, ms: no buffer is larger, and what is counts wrong. */
const LONGEST_AGE_MS = 400 * 86_400_000;
/** `millis()` of an Arduino starts again after 49.7 days. */
const UP_MODULUS = 2 ** 32;

/**
 * How the time of a sample is known: by the device's own clock, by what it counted since its start, by the age it told, or only by when
 * it came.
 */
export type TimeSource = "device" | "uptime" | "age" | "arrival";

export interface SampleTime {
    /** ms UTC. */
    at: number;
    source: TimeSource;
}

/** What a sample says of when it was measured. */
export type Told = Pick<DeviceSample, "ts" | "up" | "ageMs" | "stale">;

/** True for a device's time that can be that of something that came at `at`, both ms UTC. */
export function isPossible(ts: number, at: number): boolean {
    return ts >= EARLIEST_TRUSTED_MS && ts <= at + AHEAD_MS;
}

/**
 * When a sample was measured; undefined where nobody knows: what may be old is never stamped with the time of its arrival.
 * @param sent ms since the device's start when it sent, of the same start as `sample.up`.
 * @param arrival When it came; `retained` by a broker says that nobody knows how old it is.
 * @param isOneOfMany The message has samples of that device of other times: all of them cannot be of the arrival's.
 */
export function sampleTime({ ts, up, ageMs, stale }: Told, sent: number | undefined, arrival: { at: number; retained: boolean }, isOneOfMany = false): SampleTime | undefined {
    const { at, retained } = arrival;
    if (ts !== undefined && isPossible(ts, at)) return { at: Math.round(ts), source: "device" };
    if (retained) return undefined;
    const since = up === undefined || sent === undefined ? undefined : elapsed(up, sent);
    if (isAge(since)) return { at: Math.round(at - since), source: "uptime" };
    if (isAge(ageMs)) return { at: Math.round(at - ageMs), source: "age" };
    const isTold = ts !== undefined || up !== undefined || ageMs !== undefined;
    const isTooOld = (since ?? 0) > LONGEST_AGE_MS || (ageMs ?? 0) > LONGEST_AGE_MS;
    return stale || isTooOld || (isTold && isOneOfMany) ? undefined : { at, source: "arrival" };
}

/** One for each time that samples tell: those that tell the same, or none, were measured together. */
export function instantOf({ ts, up, ageMs }: Told): string {
    return `${ts}/${up}/${ageMs}`;
}

function isAge(ms: number | undefined): ms is number {
    return ms !== undefined && ms >= 0 && ms <= LONGEST_AGE_MS;
}

/** Between two counts of one start, ms; negative where the later one is behind. */
function elapsed(up: number, sent: number): number {
    return (up > sent && up < UP_MODULUS && up - sent > UP_MODULUS / 2 ? sent + UP_MODULUS : sent) - up;
}
