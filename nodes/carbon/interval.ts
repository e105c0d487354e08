import { type MeterRecord, recordAt } from "./meters.js";
import type { Exclusion, MeterEvent, MeterHour, MeterState, Settled } from "./settlement.js";

const DAY_MS = 86_400_000;

export interface IntervalRules {
    /** Length of a measurement interval, ms. */
    intervalMs: number;
    /** An interval with fewer measured samples of a meter claims nothing of it. */
    minPoints: number;
    /** An interval with less of its time covered by a meter's samples claims nothing of it; 0..1. */
    minCoverage: number;
}

/**
 * The half-open interval [from, to) in ms UTC that begins at `from`: up to the next multiple of the length, but never across the end of a
 * calendar year (vintages are split there) or a change of the meters.
 * @param changes Instants at which meters come or go.
 */
export function intervalFrom(from: number, intervalMs: number, changes: readonly number[]): { from: number; to: number } {
    const next = from - (from % intervalMs) + intervalMs;
    const newYear = Date.UTC(new Date(from).getUTCFullYear() + 1, 0, 1);
    const change = changes.find((at) => at > from) ?? Infinity;
    return { from, to: Math.min(next, newYear, change) };
}

/** Start of the first interval: the one that holds the first sample. */
export function firstStart(at: number, intervalMs: number): number {
    return at - (at % intervalMs);
}

/** One meter in one interval. */
export interface MeterInterval {
    meter: string;
    serial?: string;
    kind: MeterRecord["kind"];
    /** Claimable export and counted import, whole Wh. */
    exportWh: number;
    importWh: number;
    /** Export that is not claimed, by reason. */
    excludedExport: Partial<Record<Exclusion, number>>;
    /** Import that no meter of the boundary counted, by reason. */
    excludedImport: Partial<Record<Exclusion, number>>;
    points: number;
    /** Share of the interval within which samples followed close enough, 0..1. */
    coverage: number;
    /** Mean time between samples, s; absent without any. */
    samplingS?: number;
    /** Mean net power over the rated power, from all of the interval's energy. */
    capacityFactor: number;
    averages: Settled["averages"];
    hours: MeterHour[];
    events: MeterEvent[];
    /** State before the interval's first sample: with it and the raw samples anyone can settle the interval again. */
    opening?: MeterState;
    /** No sample after the end was known when it was sealed. */
    isOpen: boolean;
}

/** A sealed measurement interval; it never changes. */
export interface Interval {
    project: string;
    /** 1, 2, 3, … without holes. */
    number: number;
    /** Half-open [from, to), ms UTC. */
    from: number;
    to: number;
    sealedAt: number;
    meters: MeterInterval[];
    /** True where energy that nobody measured is counted. */
    simulated: boolean;
}

/** What a settled meter contributes; below the rules for points and coverage its export is excluded as `sparse`. */
function meterInterval(record: Pick<MeterRecord, "meter" | "serial" | "kind" | "ratedW">, settled: Settled, from: number, to: number, rules: IntervalRules, opening?: MeterState): MeterInterval {
    const ms = to - from;
    const points = sum(settled.hours, ({ points: n }) => n);
    const coveredMs = sum(settled.hours, ({ coveredMs: n }) => n);
    const coverage = Math.min(1, coveredMs / ms);
    const isSparse = points < rules.minPoints || coverage < rules.minCoverage;
    const hours = isSparse ? settled.hours.map(withoutExport) : settled.hours;
    const exportWh = sum(hours, (hour) => hour.exportWh);
    const importWh = sum(hours, (hour) => hour.importWh);
    const serial = record.serial ?? settled.closing?.serial;
    return {
        meter: record.meter,
        ...(serial !== undefined && { serial }),
        kind: record.kind,
        exportWh,
        importWh,
        excludedExport: total(hours.map(({ excludedExport }) => excludedExport)),
        excludedImport: total(hours.map(({ excludedImport }) => excludedImport)),
        points,
        coverage,
        ...(points > 0 && coveredMs > 0 && { samplingS: Math.round(coveredMs / points / 100) / 10 }),
        capacityFactor: (exportWh - importWh) / ((record.ratedW * ms) / 3_600_000),
        averages: settled.averages,
        hours,
        events: settled.events,
        ...(opening && { opening }),
        isOpen: settled.isOpen,
    };
}

/**
 * The same by the meter's inventory; outside its time in service only what was counted and is excluded.
 * @param records The entries of that meter, at least one.
 * @returns undefined where it was not in service and counted nothing.
 */
export function meterPart(records: readonly MeterRecord[], settled: Settled, from: number, to: number, rules: IntervalRules, opening?: MeterState): MeterInterval | undefined {
    const record = recordAt(records, from);
    if (!record && settled.hours.length === 0) return undefined;
    return meterInterval(record ?? records.find((entry) => entry.from > from) ?? records.at(-1)!, settled, from, to, rules, opening);
}

function withoutExport(hour: MeterHour): MeterHour {
    if (hour.exportWh === 0) return hour;
    return { ...hour, exportWh: 0, excludedExport: { ...hour.excludedExport, sparse: (hour.excludedExport?.sparse ?? 0) + hour.exportWh } };
}

/** Sums of Wh by reason. */
export function total(parts: readonly (Partial<Record<Exclusion, number>> | undefined)[]): Partial<Record<Exclusion, number>> {
    const sums: Partial<Record<Exclusion, number>> = {};
    for (const part of parts) {
        for (const reason in part) sums[reason as Exclusion] = (sums[reason as Exclusion] ?? 0) + part[reason as Exclusion]!;
    }
    return sums;
}

export function sum<T>(items: readonly T[], value: (item: T) => number): number {
    let all = 0;
    for (const item of items) all += value(item);
    return all;
}

/** A word for how closely a figure was sampled; the methodology asks for hourly measurement at least. */
export function samplingClass(samplingS: number | undefined): "none" | "minute" | "5 minutes" | "15 minutes" | "hour" | "coarser than an hour" {
    if (samplingS === undefined) return "none";
    if (samplingS <= 60) return "minute";
    if (samplingS <= 300) return "5 minutes";
    if (samplingS <= 900) return "15 minutes";
    return samplingS <= 3600 ? "hour" : "coarser than an hour";
}

/** Late data of a sealed interval: what settling it again would give, less what was sealed and adjusted before. */
export interface Adjustment {
    number: number;
    /** Number of the sealed interval, which stays as it is. */
    interval: number;
    from: number;
    to: number;
    meter: string;
    madeAt: number;
    /** Change of claimable export and of counted import, Wh. */
    exportWh: number;
    importWh: number;
    excludedExport: Partial<Record<Exclusion, number>>;
    excludedImport: Partial<Record<Exclusion, number>>;
    /** Simulated energy is in it. */
    simulated: boolean;
    /** Key of the report that the interval was in before the data came. */
    report?: string;
    /** Who answers for a change that raises the net. */
    accepted?: string;
}

/** The last instant of the calendar month, quarter or year that holds `at`; of the day where reports may end any day. UTC. */
export function isReportEnd(to: number, calendar: Calendar): boolean {
    const date = new Date(to);
    if (to % DAY_MS === 0 && date.getUTCMonth() === 0 && date.getUTCDate() === 1) return true;
    if (calendar === "interval") return true;
    const months = { month: 1, quarter: 3, year: 12 }[calendar];
    return to % DAY_MS === 0 && date.getUTCDate() === 1 && date.getUTCMonth() % months === 0;
}

/** When a report may end: with any interval, or with a calendar month, quarter or year in UTC. */
export const CALENDARS = ["interval", "month", "quarter", "year"] as const;
export type Calendar = (typeof CALENDARS)[number];
