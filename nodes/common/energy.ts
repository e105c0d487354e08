import { z } from "zod";
import { type Clock, EARLIEST_TRUSTED_MS, systemClock } from "./clock.js";

const HOUR_MS = 3_600_000;

/** Above any plant: bounds a counter's step where no rated power is known, so that a misread word is still caught. */
const ANY_PLANT_W = 1e9;

/** What a counter shows can be this late: some devices renew it once an hour only. */
const COUNTER_LAG_MS = HOUR_MS;

/** A counter that stays a little below its old value this long was corrected, it is not a rounding. */
const DIP_PATIENCE_MS = 24 * HOUR_MS;

/** A return to the old value within this time shows that a reset was a misread. */
const UNDO_MS = HOUR_MS;

/** After this many samples that follow from each other, a value far off the old one is the counter's new one. */
const SAMPLES_TO_BELIEVE = 3;

export interface CounterSample {
    /** What the device's counter shows, in Wh. */
    wh: number;
    /** Where it starts again at 0, in Wh: 2¹⁶, 2³² or 2⁶⁴ times its scale; absent for a float. */
    modulusWh?: number | undefined;
    /** Monotonic ms. */
    at: number;
    /** Identity of the device that counts. */
    serial?: string | undefined;
    /** Highest power that can flow, in W. */
    ratedW?: number | undefined;
}

/**
 * `rollover` the counter passed its end · `reset` it started again or was corrected · `swap` another device counts now ·
 * `refused` the value cannot follow from the last one.
 */
export type CounterEvent = "rollover" | "reset" | "swap" | "refused";

/** What must survive a restart; plain JSON. */
export interface CounterState {
    totalWh: number;
    lastWh: number;
    serial: string;
    /** Wall time of the last good sample, ms UTC. */
    wall: number;
}

interface Fix {
    wh: number;
    at: number;
    totalWh: number;
}

/** All that a counter knows; plain JSON. Holds where `at` is sample time, which a later run shares. */
export interface CounterSnapshot {
    good?: Fix;
    serial: string;
    beforeReset?: Fix;
    dipSince?: number;
    doubtful?: { wh: number; at: number; count: number };
}

/**
 * Turns a device's energy counter into one that never goes back. It starts at what the device shows, so that both agree
 * until the device's own counter breaks.
 *
 * A decrease of less than 10 % is ignored, a larger one is a reset to 0 (the rule of Home Assistant's statistics), unless
 * the counter's end was near. A step of more than the rated power can make is refused, and begins a new count when later
 * samples confirm it. Only a reset that turns out to have been a misread takes back what it added.
 */
export class EnergyCounter {
    private good: Fix | undefined;
    private serial = "";
    /** The fix before a reset: where a misread returns to. */
    private beforeReset: Fix | undefined;
    private dipSince: number | undefined;
    private doubtful: { wh: number; at: number; count: number } | undefined;

    /** @returns the total in Wh, undefined while the sample is refused; `event` where something other than growth happened. */
    add(sample: CounterSample): { totalWh: number | undefined; event?: CounterEvent } {
        const { wh, serial = "" } = sample;
        if (!Number.isFinite(wh) || wh < 0) return { totalWh: undefined, event: "refused" };
        const { good } = this;
        if (!good) {
            this.serial = serial;
            return this.accept(sample, wh);
        }
        if (serial !== "" && this.serial !== "" && serial !== this.serial) {
            this.serial = serial;
            this.beforeReset = undefined;
            return this.accept(sample, good.totalWh, "swap");
        }
        this.serial ||= serial;
        return wh < good.wh ? this.decrease(sample, good) : this.increase(sample, good);
    }

    private increase(sample: CounterSample, good: Fix) {
        const { wh, at } = sample;
        const before = this.beforeReset;
        if (before && at - before.at < UNDO_MS && wh >= before.wh && wh - before.wh <= mostWh(sample, before.at)) {
            this.beforeReset = undefined;
            return this.accept(sample, before.totalWh + wh - before.wh);
        }
        if (wh - good.wh <= mostWh(sample, good.at)) return this.accept(sample, good.totalWh + wh - good.wh);
        return this.doubt(sample, good);
    }

    private doubt(sample: CounterSample, good: Fix) {
        const { wh, at } = sample;
        const last = this.doubtful;
        const follows = last !== undefined && wh >= last.wh && wh - last.wh <= mostWh(sample, last.at);
        this.doubtful = { wh, at, count: follows ? last.count + 1 : 1 };
        if (this.doubtful.count < SAMPLES_TO_BELIEVE) return { totalWh: undefined, event: "refused" as const };
        return this.accept(sample, good.totalWh, "reset");
    }

    private decrease(sample: CounterSample, good: Fix) {
        const { wh, at, modulusWh } = sample;
        if (modulusWh !== undefined) {
            const wrapped = wh + modulusWh - good.wh;
            if (wrapped >= 0 && wrapped <= Math.min(modulusWh / 10, mostWh(sample, good.at))) {
                return this.accept(sample, good.totalWh + wrapped, "rollover");
            }
        }
        if (wh >= 0.9 * good.wh) {
            this.doubtful = undefined;
            this.dipSince ??= at;
            if (at - this.dipSince < DIP_PATIENCE_MS) return { totalWh: good.totalWh };
            return this.accept(sample, good.totalWh, "reset");
        }
        if (wh > mostWh(sample, good.at)) return this.doubt(sample, good);
        this.beforeReset = { ...good, at };
        return this.accept(sample, good.totalWh + wh, "reset");
    }

    private accept(sample: CounterSample, totalWh: number, event?: CounterEvent) {
        // Kept and changed: a new one at every sample would fill the old part of the heap with what the next one replaces.
        const good = (this.good ??= { wh: 0, at: 0, totalWh: 0 });
        good.wh = sample.wh;
        good.at = sample.at;
        good.totalWh = totalWh;
        this.dipSince = undefined;
        this.doubtful = undefined;
        return event ? { totalWh, event } : { totalWh };
    }

    /** @param wallOf Wall time in ms UTC of a monotonic instant. */
    state(wallOf: (at: number) => number): CounterState | undefined {
        const { good, serial } = this;
        if (!good) return undefined;
        const wall = wallOf(good.at);
        return { totalWh: good.totalWh, lastWh: good.wh, serial, wall: Number.isFinite(wall) ? Math.round(wall) : 0 };
    }

    /** Everything, so that samples of a later time, or of the same time again, give the same totals. */
    snapshot(): CounterSnapshot {
        const { good, serial, beforeReset, dipSince, doubtful } = this;
        return {
            ...(good && { good: { ...good } }),
            serial,
            ...(beforeReset && { beforeReset: { ...beforeReset } }),
            ...(dipSince !== undefined && { dipSince }),
            ...(doubtful && { doubtful: { ...doubtful } }),
        };
    }

    static fromSnapshot({ good, serial, beforeReset, dipSince, doubtful }: CounterSnapshot): EnergyCounter {
        const counter = new EnergyCounter();
        counter.good = good && { ...good };
        counter.serial = serial;
        counter.beforeReset = beforeReset && { ...beforeReset };
        counter.dipSince = dipSince;
        counter.doubtful = doubtful && { ...doubtful };
        return counter;
    }

    /** Goes on from a stored state; `wall` and `at` are the same instant, now. */
    static restore(state: CounterState, wall: number, at: number): EnergyCounter {
        const counter = new EnergyCounter();
        // A clock that was not set then or is not now says nothing about the time between: any step is possible.
        const known = Math.min(wall, state.wall) >= EARLIEST_TRUSTED_MS && wall >= state.wall;
        counter.good = { wh: state.lastWh, totalWh: state.totalWh, at: known ? at - (wall - state.wall) : -Infinity };
        counter.serial = state.serial;
        return counter;
    }
}

/** The most that can have been counted since `since`, with a fifth to spare for overload and clock error. */
function mostWh(sample: CounterSample, since: number): number {
    return (1.2 * (sample.ratedW || ANY_PLANT_W) * (sample.at - since + COUNTER_LAG_MS)) / HOUR_MS;
}

export interface PowerSample {
    /** Power in W. */
    w: number;
    /** ms, of any one clock. */
    at: number;
}

/** How power is taken to run between two samples: as at the first, as at the second, or in a straight line. */
export type Rule = "left" | "right" | "trapezoid";

/**
 * Energy in Wh from `start` to `end` (ms) of sorted power samples, undefined unless samples no further apart than
 * `maxGapMs` cover all of it: a gap is not bridged. Without `maxGapMs` the median step, and half of it to spare, decides.
 */
export function energyIn(
    samples: readonly PowerSample[],
    start: number,
    end: number,
    { rule = "trapezoid", maxGapMs = inferGapMs(samples) }: { rule?: Rule; maxGapMs?: number } = {},
): number | undefined {
    let sum = 0;
    let covered = 0;
    for (const [i, b] of samples.entries()) {
        const a = samples[i - 1];
        if (!a || b.at - a.at > maxGapMs) continue;
        const from = Math.max(a.at, start);
        const to = Math.min(b.at, end);
        if (to <= from) continue;
        sum += (meanW(a, b, from, to, rule) * (to - from)) / HOUR_MS;
        covered += to - from;
    }
    return covered === end - start ? sum : undefined;
}

function meanW(a: PowerSample, b: PowerSample, from: number, to: number, rule: Rule): number {
    if (rule !== "trapezoid") return rule === "left" ? a.w : b.w;
    return a.w + ((b.w - a.w) * ((from + to) / 2 - a.at)) / (b.at - a.at);
}

function inferGapMs(samples: readonly PowerSample[]): number {
    const steps = samples.slice(1).map((sample, i) => sample.at - samples[i]!.at).toSorted((x, y) => x - y);
    return 1.5 * (steps[Math.floor(steps.length / 2)] ?? 0);
}

/** What must survive a restart; plain JSON. */
export interface IntegratorState {
    positiveWh: number;
    negativeWh: number;
}

/** Energy from power where a device has no counter: an estimate, one total for each direction, both growing only. */
export class EnergyIntegrator {
    private last: PowerSample | undefined;
    /** Time in ms that was too long between samples to be bridged. */
    missingMs = 0;

    constructor(readonly state: IntegratorState = { positiveWh: 0, negativeWh: 0 }) {}

    /** Adds the energy since the last sample as a straight line; nothing when that was more than `maxGapMs` ago. */
    add(sample: PowerSample, maxGapMs: number): void {
        const a = this.last;
        this.last = sample;
        if (!a || sample.at <= a.at) return;
        const ms = sample.at - a.at;
        if (ms > maxGapMs) {
            this.missingMs += ms;
            return;
        }
        const zero = a.w * sample.w < 0 ? a.w / (a.w - sample.w) : 1;
        this.count((a.w / 2) * zero * ms + (zero === 1 ? (sample.w / 2) * ms : 0));
        if (zero < 1) this.count((sample.w / 2) * (1 - zero) * ms);
    }

    private count(wMs: number): void {
        if (wMs > 0) this.state.positiveWh += wMs / HOUR_MS;
        else this.state.negativeWh -= wMs / HOUR_MS;
    }
}

/** State of all counters and integrals of a node, by key; plain JSON. */
export interface EnergyState {
    counters: Record<string, CounterState>;
    integrals: Record<string, IntegratorState>;
}

const counterSchema = z.object({ totalWh: z.number(), lastWh: z.number(), serial: z.string(), wall: z.number() });
const stateSchema = z.object({
    counters: z.record(z.string(), counterSchema),
    integrals: z.record(z.string(), z.object({ positiveWh: z.number(), negativeWh: z.number() })),
});

/** The counters and integrals of a node, made when they are first asked for. */
export class EnergyBook {
    private readonly counters = new Map<string, EnergyCounter>();
    private readonly integrals = new Map<string, EnergyIntegrator>();

    constructor(private readonly clock: Pick<Clock, "now" | "monotonic"> = systemClock) {}

    counter(key: string): EnergyCounter {
        return getOrAdd(this.counters, key, () => new EnergyCounter());
    }

    integral(key: string): EnergyIntegrator {
        return getOrAdd(this.integrals, key, () => new EnergyIntegrator());
    }

    state(): EnergyState {
        const offset = this.clock.now() - this.clock.monotonic();
        const counters = [...this.counters].map(([key, counter]) => [key, counter.state((at) => at + offset)] as const);
        return {
            counters: Object.fromEntries(counters.filter(([, state]) => state !== undefined)) as EnergyState["counters"],
            integrals: Object.fromEntries([...this.integrals].map(([key, { state }]) => [key, { ...state }])),
        };
    }

    /** Goes on from a stored state. @returns false when it is none; then everything starts anew. */
    restore(state: unknown): boolean {
        const parsed = stateSchema.safeParse(state);
        if (!parsed.success) return false;
        for (const [key, counter] of Object.entries(parsed.data.counters)) {
            this.counters.set(key, EnergyCounter.restore(counter, this.clock.now(), this.clock.monotonic()));
        }
        for (const [key, integral] of Object.entries(parsed.data.integrals)) this.integrals.set(key, new EnergyIntegrator(integral));
        return true;
    }
}

function getOrAdd<T>(map: Map<string, T>, key: string, make: () => T): T {
    let found = map.get(key);
    if (found === undefined) map.set(key, (found = make()));
    return found;
}
