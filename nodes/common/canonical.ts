import type { BadReason, PointValue } from "./reading.js";
import type { UnitKey } from "./units.js";

/** What a device's energy counter shows, before `common/energy.ts` turns it into a total that never goes back. */
export interface Counter {
    wh: number;
    /** Where the counter starts again, in Wh; absent for a float. */
    modulusWh?: number;
}

/** A device's points in our names, units and signs. */
export interface Canonical {
    values: Record<string, PointValue>;
    bad: Record<string, BadReason>;
    counters: Record<string, Counter>;
}

export function emptyCanonical(): Canonical {
    return { values: {}, bad: {}, counters: {} };
}

/** What is physically possible; anything else is a misread. */
export const LIMITS: Partial<Record<UnitKey, readonly [min: number, max: number]>> = {
    w: [-1e9, 1e9],
    var: [-1e9, 1e9],
    va: [-1e9, 1e9],
    v: [-5000, 5000],
    a: [-1e5, 1e5],
    hz: [0, 100],
    wh: [0, Number.MAX_SAFE_INTEGER],
    c: [-80, 250],
    w_m2: [-50, 2500],
    m_s: [0, 120],
    mm: [0, 10_000],
    pa: [30_000, 120_000],
    deg: [-360, 360],
    pct: [0, 110],
    ratio: [-1.005, 1.005],
};

/** True for a point that is an energy counter, as against an amount of energy such as a capacity. */
export function isCounter(point: string): boolean {
    return /(^|_)energy(_(import|export|charge|discharge))?(_\d+)?_wh$/.test(point);
}
