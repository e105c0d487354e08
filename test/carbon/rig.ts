import type { BookRules } from "../../dist/carbon/book.js";
import { type Factor, parseFactors } from "../../dist/carbon/factor.js";
import { type Interval, meterPart } from "../../dist/carbon/interval.js";
import { type MeterRecord, parseInventory } from "../../dist/carbon/meters.js";
import { buildReport, type Report, type ReportInput } from "../../dist/carbon/report.js";
import { type MeterSample, orderSamples, settle, type SettleRules } from "../../dist/carbon/settlement.js";

export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
/** 2026-01-05, a Monday. */
export const START = Date.UTC(2026, 0, 5);

export const [FACTOR] = parseFactors({ om: 0.729, bm: 0.326, source: "a study", vintage: "2021", fileSha256: "ab".repeat(32) }) as [Factor];

/** A calibrated 1 MW meter at the interconnection. */
export function meterRecord(changes: object = {}): MeterRecord {
    const calibrations = [{ at: "2025-12-01", until: "2028-12-01", certificate: "C-1" }];
    return parseInventory([{ meter: "site/m1", ratedW: 1e6, from: "2025-12-01", mpeExport: 0.005, mpeImport: 0.005, calibrations, ...changes }])[0]!;
}

export function rulesFor(records: MeterRecord[], changes: Partial<SettleRules> = {}): SettleRules {
    return { records, maxGapMs: HOUR, allowSimulated: false, ...changes };
}

/** Samples every 5 minutes of a meter that delivers and takes constant power, W. */
export function steady(from: number, to: number, exportW: number, importW = 0, changes: Partial<MeterSample> = {}, since = from): MeterSample[] {
    const samples: MeterSample[] = [];
    for (let at = from; at <= to; at += 5 * MINUTE) {
        const hours = (at - since) / HOUR;
        samples.push({ meter: "site/m1", at, exportWh: Math.round(exportW * hours), importWh: Math.round(importW * hours), origin: "measured", ...changes });
    }
    return samples;
}

/** Sealed intervals of a day each, from the samples of all meters. */
export function seal(samples: MeterSample[], records: MeterRecord[], from: number, bounds: number[], changes: Partial<SettleRules> = {}): Interval[] {
    const names = [...new Set(records.map(({ meter }) => meter))];
    const intervals = bounds.map((to, i): Interval => ({ project: "p", number: i + 1, from: bounds[i - 1] ?? from, to, sealedAt: to + HOUR, meters: [], simulated: false }));
    for (const meter of names) {
        const own = orderSamples(samples.filter((sample) => sample.meter === meter));
        const its = records.filter((record) => record.meter === meter);
        let opening;
        for (const interval of intervals) {
            const settled = settle(rulesFor(its, changes), own, interval.from, interval.to, opening);
            const part = meterPart(its, settled, interval.from, interval.to, { intervalMs: DAY, minPoints: 10, minCoverage: 0.5 }, opening);
            if (part) interval.meters.push(part);
            opening = settled.closing;
        }
    }
    for (const interval of intervals) interval.simulated = interval.meters.some(({ hours }) => hours.some(({ simulated }) => simulated));
    return intervals;
}

export function days(from: number, count: number): number[] {
    return Array.from({ length: count }, (_, i) => from + (i + 1) * DAY);
}

export function report(intervals: Interval[], meters: MeterRecord[], changes: Partial<ReportInput> = {}): Report {
    return buildReport({
        project: { id: "p", name: "Plant", capacityW: 1e6 },
        number: 1,
        intervals,
        adjustments: [],
        factors: [FACTOR],
        acceptsUnsourced: false,
        meters,
        invoices: [],
        silent: [],
        minTonnes: 1,
        version: "0.0.0",
        ...changes,
    });
}

export function bookRules(changes: Partial<BookRules> = {}): BookRules {
    return {
        project: { id: "p", name: "Plant", capacityW: 1e6 },
        meters: [meterRecord()],
        factors: [FACTOR],
        acceptsUnsourced: false,
        allowSimulated: false,
        intervalMs: DAY,
        minPoints: 10,
        minCoverage: 0.5,
        maxGapMs: HOUR,
        graceMs: HOUR,
        calendar: "interval",
        minTonnes: 1,
        version: "0.0.0",
        ...changes,
    };
}
