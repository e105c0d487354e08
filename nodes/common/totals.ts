import type { Sample } from "./sample.js";
import type { EnergyBook } from "./energy.js";
import type { BadReason, Quality } from "./reading.js";

/** Reasons that make a whole sample doubtful; a point that is missing or estimated leaves the others as good as they are. */
const DOUBTFUL = new Set<BadReason>(["comm", "sf", "range", "stale", "reset", "overflow", "decode"]);

export function qualityOf({ values, bad }: Pick<Sample, "values" | "bad">): Quality {
    const doubtful = Object.values(bad).some((reason) => DOUBTFUL.has(reason));
    const empty = Object.keys(values).length === 0;
    return empty && doubtful ? "bad" : empty || doubtful ? "uncertain" : "good";
}

/** The power that a class's energy is estimated from where there is no counter, and the points of its two directions. */
const BATTERY = { power: "dc_power_w", positive: "dc_energy_discharge_wh", negative: "dc_energy_charge_wh" };
const INTEGRATED: Record<string, typeof BATTERY | undefined> = { battery: BATTERY, bms: BATTERY };

export interface CountedDevice {
    name: string;
    class: string;
    serial: string | undefined;
    ratedW: number | undefined;
    /** True for a point that the device has, also while it cannot be read. */
    has: (point: string) => boolean;
}

/**
 * Turns what a device's counters show into totals that never go back, and integrates power where it has no counter.
 * @param at Monotonic ms.
 * @param maxGapMs Power further apart than this is not integrated.
 */
export function countEnergy({ values, bad, counters }: Sample, { name, class: cls, serial, ratedW, has }: CountedDevice, energy: EnergyBook, at: number, maxGapMs: number): void {
    for (const point in counters) {
        const { wh, modulusWh } = counters[point]!;
        const { totalWh, event } = energy.counter(`${name}/${point}`).add({ wh, modulusWh, at, serial, ratedW });
        if (totalWh !== undefined) values[point] = totalWh;
        if (event === "refused") bad[point] = "range";
        else if (event === "reset" || event === "swap") bad[point] = "reset";
    }
    const rule = INTEGRATED[cls];
    if (!rule || has(rule.positive) || has(rule.negative)) return;
    const w = values[rule.power];
    if (typeof w !== "number") return;
    const integral = energy.integral(`${name}/${rule.power}`);
    integral.add({ w, at }, maxGapMs);
    values[rule.positive] = toMilli(integral.state.positiveWh);
    values[rule.negative] = toMilli(integral.state.negativeWh);
    bad[rule.positive] = bad[rule.negative] = "estimated";
}

function toMilli(wh: number): number {
    return Math.round(wh * 1000) / 1000;
}
