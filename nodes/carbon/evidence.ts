import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import type { Json, JsonObject } from "../store/canonical-json.js";
import type { Invoice } from "./deductions.js";
import { parseFactors } from "./factor.js";
import { type Adjustment, type Interval, type IntervalRules, type MeterInterval, meterPart, sum } from "./interval.js";
import { type MeterRecord, parseInventory } from "./meters.js";
import type { CapsuleOutcome, CapsuleTerms, Gap, RawSample, Recompute } from "./recompute.js";
import { buildReport, type Carry, type Report, type ReportInput } from "./report.js";
import { type MeterSample, type MeterState, settle, type Settled } from "./settlement.js";

/** Samples looked at beyond an interval's end for one that closes it. */
export const LOOK_AHEAD = 16;

/** What an interval is sealed by. */
export interface SealRules extends IntervalRules {
    meters: readonly MeterRecord[];
    maxGapMs: number;
    allowSimulated: boolean;
}

/**
 * Settles one meter over an interval with the samples within it and up to the longest gap after it; where none of them closes it, with
 * what came next, however late.
 */
export function settleInterval(rules: SealRules, meter: string, samples: readonly MeterSample[], more: (count: number) => MeterSample[], from: number, to: number, opening: MeterState | undefined): Settled {
    const settleRules = { records: rules.meters.filter((record) => record.meter === meter), maxGapMs: rules.maxGapMs, allowSimulated: rules.allowSimulated };
    const result = settle(settleRules, samples, from, to, opening);
    if (!result.isOpen) return result;
    const next = more(LOOK_AHEAD);
    return next.length === 0 ? result : settle(settleRules, [...samples.filter(({ at }) => at < to), ...next], from, to, opening);
}

/** One sealed interval of a report: bounds, the stage and the rules it was sealed by. */
interface SealedBounds {
    number: number;
    from: number;
    to: number;
    sealedAt: number;
    stage: number;
    /** Place in the list of rules. */
    rules: number;
}

/**
 * Everything that `recomputeReport` needs beside the samples.
 * @param stage How many intervals were sealed and reports made before this one.
 * @param statesNow States of the meters before the first interval, with late data.
 */
export function evidenceTerms(input: ReportInput, stage: number, statesNow: Record<string, MeterState | undefined>, sealedBy: (interval: number) => { stage: number; rules: string }): CapsuleTerms {
    const { project, number, intervals, adjustments, carry, factors, acceptsUnsourced, meters, invoices, silent, minTonnes, version } = input;
    const bodies = [...new Set(intervals.map((interval) => sealedBy(interval.number).rules))];
    const bounds = intervals.map(({ number: n, from, to, sealedAt }): SealedBounds => {
        const by = sealedBy(n);
        return { number: n, from, to, sealedAt, stage: by.stage, rules: bodies.indexOf(by.rules) };
    });
    const states = Object.fromEntries(intervals[0]!.meters.flatMap(({ meter, opening }) => (opening ? [[meter, opening]] : [])));
    const terms = {
        project: project.id,
        period: { from: intervals[0]!.from, to: intervals.at(-1)!.to },
        code: { name: "@wattledger/node-red-energy", version },
        meters,
        keys: keysOf(meters),
        factor: { factors },
        settings: { project, number, acceptsUnsourced, minTonnes, rules: bodies.map((body) => JSON.parse(body) as Json) },
        opening: { stage, intervals: bounds, states, statesNow, adjustments, invoices, silent, carry: carry ?? null },
    };
    return JSON.parse(JSON.stringify(terms)) as CapsuleTerms;
}

/** Which samples a report was made of, beside those that close its last interval: time [from, to) and stages. */
export function samplesNeeded(terms: CapsuleTerms): { from: number; to: number; stage: number; sealed: number } {
    const { opening, rules } = parseTerms(terms);
    const [first, last] = [opening.intervals[0]!, opening.intervals.at(-1)!];
    return { from: first.number === 1 ? 0 : first.from, to: last.to + rules[last.rules]!.maxGapMs, stage: opening.stage, sealed: last.stage };
}

const whole = z.number().int();
const boundsSchema = z.object({ number: whole.positive(), from: whole, to: whole, sealedAt: z.number(), stage: whole, rules: whole });
const termsSchema = z.object({
    settings: z.object({
        project: z.object({ id: z.string(), name: z.string(), capacityW: z.number() }),
        number: whole.positive(),
        acceptsUnsourced: z.boolean(),
        minTonnes: z.number(),
        rules: z.array(z.object({ meters: z.unknown(), intervalMs: z.number().positive(), minPoints: z.number(), minCoverage: z.number(), maxGapMs: z.number().positive(), allowSimulated: z.boolean() })).min(1),
    }),
    opening: z.object({
        stage: whole,
        intervals: z.array(boundsSchema).min(1),
        states: z.record(z.string(), z.json()),
        statesNow: z.record(z.string(), z.json()),
        adjustments: z.array(z.json()),
        invoices: z.array(z.json()),
        silent: z.array(z.string()),
        carry: z.json(),
    }),
    factor: z.object({ factors: z.unknown() }),
});

function parseTerms(terms: CapsuleTerms) {
    const { settings, opening, factor } = parseConfig(termsSchema, terms);
    const rules = settings.rules.map((entry): SealRules => ({ ...entry, meters: parseInventory(entry.meters) }));
    const { intervals } = opening;
    for (const [i, interval] of intervals.entries()) {
        const before = intervals[i - 1];
        const follows = !before || (interval.number === before.number + 1 && interval.from === before.to && interval.stage > before.stage);
        if (!follows || interval.to <= interval.from || !rules[interval.rules] || interval.stage > opening.stage) throw new WattError("CAPSULE_TERMS", `Interval ${interval.number} does not follow the one before it.`);
    }
    const meters = parseInventory(terms.meters);
    const { from, to } = { from: intervals[0]!.from, to: intervals.at(-1)!.to };
    const stated = [terms.project, terms.period.from, terms.period.to, ...terms.keys.flatMap((entry) => [entry.meter, entry.key, entry.from, entry.to])];
    const meant = [settings.project.id, from, to, ...keysOf(meters).flatMap((entry) => [entry.meter, entry.key, entry.from, entry.to])];
    if (stated.length !== meant.length || stated.some((value, i) => value !== meant[i])) throw new WattError("CAPSULE_TERMS", "Project, period or keys are not those of the report and its meters.");
    if (to - from > LONGEST_MS) throw new WattError("CAPSULE_TERMS", "A report over more than 30 years is none.");
    return { settings, opening, rules, factors: parseFactors(factor.factors), meters };
}

/** Longer than any crediting period; it bounds the work that a file of a stranger asks for. */
const LONGEST_MS = 30 * 366 * 86_400_000;

function keysOf(meters: readonly MeterRecord[]): CapsuleTerms["keys"] {
    return meters.flatMap(({ meter, key, from, to }) => (key === undefined ? [] : [{ meter, key, from, to }]));
}

/**
 * Makes a monitoring report again from the raw samples: settles every interval with the samples that were known when it was sealed, then
 * with all, so that late data must add up to the adjustments that the report states. PURE.
 * @throws WattError CAPSULE_TERMS, LATE_DATA_DIFFERS; CONFIG_INVALID and others for terms that cannot be used
 */
export const recomputeReport: Recompute = (terms) => {
    const { settings, opening, rules, factors, meters } = parseTerms(terms);
    const sealed = opening.intervals.map((interval) => ({ ...interval, by: rules[interval.rules]!, parts: new Map<string, MeterInterval>() }));
    const adjustments = opening.adjustments as unknown as Adjustment[];
    let samples: RawSample[] = [];
    const finishMeter = () => {
        const [first] = samples;
        if (!first) return;
        const history = new History(first.meter, samples, stateOf(opening.states, first.meter));
        for (const [i, interval] of sealed.entries()) {
            const part = history.settle(sealed, i, interval.stage);
            if (part) interval.parts.set(first.meter, part);
        }
        const late = new History(first.meter, samples, stateOf(opening.statesNow, first.meter));
        for (const [i, { number, parts }] of sealed.entries()) {
            const own = adjustments.filter((adjustment) => adjustment.interval === number && adjustment.meter === first.meter);
            checkLate(number, parts.get(first.meter), late.settle(sealed, i, opening.stage), own);
        }
        samples = [];
    };
    return {
        add: (sample) => {
            if (sample.meter !== samples[0]?.meter) finishMeter();
            samples.push(sample);
        },
        finish: () => {
            finishMeter();
            for (const [i, { by, parts, stage }] of sealed.entries()) {
                for (const { meter } of by.meters) {
                    if (parts.has(meter)) continue;
                    const part = new History(meter, [], stateOf(opening.states, meter)).settle(sealed, i, stage);
                    if (part) parts.set(meter, part);
                }
            }
            const intervals = sealed.map(({ number, from, to, sealedAt, by, parts }): Interval => {
                const inOrder = [...new Set(by.meters.map(({ meter }) => meter))].flatMap((meter) => parts.get(meter) ?? []);
                return { project: settings.project.id, number, from, to, sealedAt, meters: inOrder, simulated: inOrder.some(({ hours }) => hours.some((hour) => hour.simulated)) };
            });
            const report = buildReport({
                ...settings,
                intervals,
                adjustments,
                carry: (opening.carry ?? undefined) as unknown as Carry | undefined,
                factors,
                meters,
                invoices: opening.invoices as unknown as Invoice[],
                silent: opening.silent,
                version: terms.code.version,
            });
            return outcomeOf(report);
        },
    };
};

/** A report as a capsule states it. */
export function outcomeOf(report: Report): CapsuleOutcome {
    const gaps = report.meters.flatMap(({ meter, gaps: own }) => own.map((gap): Gap => ({ meter, from: Date.parse(gap.from), to: Date.parse(gap.to), reason: `not fully covered by samples, ${gap.excludedWh} Wh not claimed` })));
    return { gaps, report: JSON.parse(JSON.stringify(report)) as JsonObject };
}

function stateOf(states: Record<string, unknown>, meter: string): MeterState | undefined {
    return states[meter] as MeterState | undefined;
}

type SealedInterval = Pick<SealedBounds, "number" | "from" | "to"> & { by: SealRules };

/** The samples of one meter and what each stage made of them. */
class History {
    /** States before each interval, as of the stage they were last settled at. */
    private openings: (MeterState | undefined)[];
    /** The samples as they came, and how many of them are known. */
    private readonly arrivals: readonly RawSample[];
    private arrived = 0;

    constructor(
        private readonly meter: string,
        private readonly samples: readonly RawSample[],
        opening: MeterState | undefined,
    ) {
        this.openings = [opening];
        this.arrivals = samples.toSorted((a, b) => a.since - b.since);
    }

    /** The meter in interval `i` with what was known at `stage`; stages must not go back. Undefined where it was not in service. */
    settle(intervals: readonly SealedInterval[], i: number, stage: number): MeterInterval | undefined {
        const { from, to, by } = intervals[i]!;
        for (let next = this.arrivals[this.arrived]; next && next.since <= stage; next = this.arrivals[++this.arrived]) {
            if (next.at < from) this.openings.length = 1;
        }
        for (let j = this.openings.length; j <= i; j++) this.openings[j] = this.settled(intervals, j - 1, stage)?.closing;
        const opening = this.openings[i];
        const result = this.settled(intervals, i, stage);
        if (!result) return undefined;
        this.openings.length = i + 1;
        this.openings.push(result.closing);
        return meterPart(by.meters.filter(({ meter }) => meter === this.meter), result, from, to, by, opening);
    }

    private settled(intervals: readonly SealedInterval[], i: number, stage: number): Settled | undefined {
        const { from, to, by, number } = intervals[i]!;
        if (!by.meters.some(({ meter }) => meter === this.meter)) return undefined;
        const known = this.known(number === 1 ? 0 : from, to + by.maxGapMs, stage);
        return settleInterval(by, this.meter, known, (count) => this.known(to, Infinity, stage, count), from, to, this.openings[i]);
    }

    /** What was known of [from, to) at a stage, one sample an instant. */
    private known(from: number, to: number, stage: number, most = Infinity): MeterSample[] {
        const found: RawSample[] = [];
        for (let i = this.firstAt(from); i < this.samples.length; i++) {
            const sample = this.samples[i]!;
            if (sample.at >= to) break;
            if (sample.since > stage) continue;
            const last = found.at(-1);
            if (last?.at === sample.at) {
                if (sample.since > last.since) found[found.length - 1] = sample;
            } else if (found.length >= most) break;
            else found.push(sample);
        }
        return found;
    }

    private firstAt(from: number): number {
        let [low, high] = [0, this.samples.length];
        while (low < high) {
            const middle = (low + high) >> 1;
            if (this.samples[middle]!.at < from) low = middle + 1;
            else high = middle;
        }
        return low;
    }
}

/** What all samples give less what was sealed must be what the report's adjustments of that interval say together. */
function checkLate(interval: number, sealed: MeterInterval | undefined, now: MeterInterval | undefined, adjustments: readonly Adjustment[]): void {
    if (!now) return;
    for (const key of ["exportWh", "importWh"] as const) {
        const [late, stated] = [now[key] - (sealed?.[key] ?? 0), sum(adjustments, (adjustment) => adjustment[key])];
        if (late !== stated) throw new WattError("LATE_DATA_DIFFERS", `Late data change ${key} of ${now.meter} in interval ${interval} by ${late} Wh, and the adjustments say ${stated} Wh.`);
    }
}
