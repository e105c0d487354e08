import { DateTime, IANAZone } from "luxon";
import { setTimeout as sleepFor } from "node:timers/promises";

/** Time as every part of WattLedger sees it; tests inject their own. */
export interface Clock {
    /** Wall time for stamps: ms since 1970 UTC. It may jump. */
    now(): number;
    /** Never jumps, for durations: ms since an arbitrary instant. */
    monotonic(): number;
    /** Resolves after `ms`, 24 days at most; rejects with an AbortError when aborted. A waiting sleep does not keep the process alive. */
    sleep(ms: number, signal?: AbortSignal): Promise<void>;
    /** Calls `task` once after `ms`, 24 days at most; the returned function cancels. The task must not be async: start promises through a Lifecycle. */
    after(ms: number, task: () => void): () => void;
}

/** A longer timer would fire at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** What Node's timers take; what is already due, without a warning. */
function timerMs(ms: number): number {
    return Math.min(Math.max(0, ms), LONGEST_TIMER_MS);
}

export const systemClock: Clock = {
    now: () => Date.now(),
    monotonic: () => performance.now(),
    sleep: async (ms, signal) => {
        await sleepFor(timerMs(ms), undefined, { ref: false, ...(signal && { signal }) });
    },
    after: (ms, task) => {
        const timer = setTimeout(task, timerMs(ms));
        return () => clearTimeout(timer);
    },
};

/** Before this (2024-01-01 UTC) a clock was never set: a Pi has no battery-backed clock and starts in 1970. */
export const EARLIEST_TRUSTED_MS = Date.UTC(2024, 0, 1);

/** False while the wall clock plainly has not been set yet. */
export function isClockSet(nowMs: number): boolean {
    return nowMs >= EARLIEST_TRUSTED_MS;
}

/** When something happens, in whole ms UTC; 0 while the clock is not set. */
export function stampOf(clock: Clock): number {
    const now = clock.now();
    return isClockSet(now) ? Math.floor(now) : 0;
}

/** Resolves once `work` has settled, however it did, or after `ms`. */
export async function within(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
    await new Promise<void>((resolve) => {
        const cancel = clock.after(ms, resolve);
        const settled = () => {
            cancel();
            resolve();
        };
        work.then(settled, settled);
    });
}

/** Half-open window [start, end) in ms UTC of the local calendar day that holds `ms`; 23 h and 25 h days included. */
export function localDay(ms: number, zone: string): { start: number; end: number } {
    const start = startOfDay(DateTime.fromMillis(ms, { zone }));
    return { start: start.toMillis(), end: startOfDay(start.plus({ days: 1 })).toMillis() };
}

/** Where a clock goes back at midnight, 00:00 comes twice: the day starts at the first. */
function startOfDay(time: DateTime): DateTime {
    const midnight = time.startOf("day");
    return midnight.getPossibleOffsets()[0] ?? midnight;
}

/** True for an IANA zone name that this runtime knows. */
export function isTimeZone(zone: string): boolean {
    return IANAZone.isValidZone(zone);
}
