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

/**
 * When a sample was measured; undefined where nobody knows: what may be old is never stamped with the time of its arrival.
 * @param sent ms since the device's start when it sent, of the same start as `sample.up`.
 * @param arrival When it came; `retained` by a broker says that nobody knows how old it is.
 */
export function sampleTime({ ts, up, ageMs, stale }: Pick<DeviceSample, "ts" | "up" | "ageMs" | "stale">, sent: number | undefined, arrival: { at: number; retained: boolean }): SampleTime | undefined {
    const { at, retained } = arrival;
    if (ts !== undefined && ts >= EARLIEST_TRUSTED_MS && ts <= at + AHEAD_MS) return { at: Math.round(ts), source: "device" };
    if (retained) return undefined;
    const since = up === undefined || sent === undefined ? undefined : elapsed(up, sent);
    if (since !== undefined) return { at: Math.round(at - since), source: "uptime" };
    if (ageMs !== undefined && ageMs >= 0 && ageMs <= LONGEST_AGE_MS) return { at: Math.round(at - ageMs), source: "age" };
    return stale ? undefined : { at, source: "arrival" };
}

/** Between two counts of one start, ms; undefined where the later one is behind. */
function elapsed(up: number, sent: number): number | undefined {
    const wrapped = up > sent && up < UP_MODULUS && up - sent > UP_MODULUS / 2 ? sent + UP_MODULUS : sent;
    const ms = wrapped - up;
    return ms >= 0 && ms <= LONGEST_AGE_MS ? ms : undefined;
}
