import type { BadReason, PointValue } from "./reading.js";

/** What a device's energy counter shows, before `common/energy.ts` turns it into a total that never goes back. */
export interface Counter {
    wh: number;
    /** Where the counter starts again, in Wh; absent for a float. */
    modulusWh?: number;
}

/** What was read of a device at one time, in our names, units and signs; a reading once its counters are totals. */
export interface Sample {
    values: Record<string, PointValue>;
    bad: Record<string, BadReason>;
    counters: Record<string, Counter>;
}

export function emptySample(): Sample {
    return { values: {}, bad: {}, counters: {} };
}
