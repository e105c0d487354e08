import { type Adjustment, type Interval, type MeterInterval, sum, total } from "./interval.js";
import { type MeterRecord, recordAt } from "./meters.js";
import { CLOCK_TOLERANCE_MS, type Exclusion, HOUR_MS, type MeterHour } from "./settlement.js";

/** Why a figure is lower than what the registers show; one a line. */
export type LineCode = Exclusion | "import" | "clock" | "factor" | "allocation" | "mpe" | "late" | "invoice" | "carry-in" | "factor-change" | "carry-out";

/** One correction, with the net export before and after it in whole Wh. */
export interface Line {
    code: LineCode;
    meter?: string;
    direction: "export" | "import" | "net";
    /** Effect on the net: what is taken off is negative. */
    wh: number;
    beforeWh: number;
    afterWh: number;
    /** What it is reckoned from, such as "0.5 % of 1,234 Wh in 12 h without calibration". */
    basis: string;
}

/** A bill or a sales record over whole intervals; the smaller export and the larger import count. */
export interface Invoice {
    from: number;
    to: number;
    exportWh?: number | undefined;
    importWh?: number | undefined;
    source: string;
}

/** Reckons lines one after the other, each on the net that the one before left. */
export class LineBook {
    readonly lines: Line[] = [];

    constructor(public netWh: number) {}

    add(line: Omit<Line, "beforeWh" | "afterWh">): void {
        const beforeWh = this.netWh;
        this.netWh += line.wh;
        this.lines.push({ ...line, wh: line.wh === 0 ? 0 : line.wh, beforeWh, afterWh: this.netWh });
    }
}

/** Energy that came from nothing in the boundary, so that no upper bound holds it. */
const FOREIGN = new Set<Exclusion>(["simulated", "uncommissioned", "unapproved"]);

/** A meter over all intervals of a report. */
export interface MeterSpan {
    meter: string;
    parts: { interval: Interval; part: MeterInterval }[];
}

export function spansOf(intervals: readonly Interval[], meters: readonly MeterRecord[]): MeterSpan[] {
    const spans = new Map<string, MeterSpan>(meters.map(({ meter }) => [meter, { meter, parts: [] }]));
    for (const interval of intervals) for (const part of interval.meters) spans.get(part.meter)?.parts.push({ interval, part });
    return [...spans.values()];
}

/** All that the export registers counted, and the part of it that a claim can never exceed; Wh, before import is taken off. */
export function grossExport(spans: readonly MeterSpan[]): { allWh: number; boundWh: number } {
    const parts = spans.flatMap((span) => span.parts.map(({ part }) => part));
    const excluded = total(parts.map(({ excludedExport }) => excludedExport));
    const claimableWh = sum(parts, ({ exportWh }) => exportWh);
    let allWh = claimableWh;
    let boundWh = claimableWh;
    for (const [reason, wh] of Object.entries(excluded) as [Exclusion, number][]) {
        allWh += wh;
        if (!FOREIGN.has(reason)) boundWh += wh;
    }
    return { allWh, boundWh };
}

/** Export that settlement excluded: a line for each meter and reason. */
export function exclusionLines(book: LineBook, spans: readonly MeterSpan[]): void {
    for (const { meter, parts } of spans) {
        const excluded = total(parts.map(({ part }) => part.excludedExport));
        for (const [reason, wh] of Object.entries(excluded) as [Exclusion, number][]) {
            if (wh === 0) continue;
            const hours = parts.flatMap(({ part }) => part.hours.filter((hour) => hour.excludedExport?.[reason] !== undefined));
            book.add({ code: reason, meter, direction: "export", wh: -wh, basis: `${WORDS[reason]}; ${countHours(hours)} h from ${iso(hours[0]!.at)} to ${iso(hours.at(-1)!.at)}` });
        }
    }
}

const WORDS: Record<Exclusion, string> = {
    gap: "counted across a time without samples",
    reset: "counted across a reset of the register",
    implausible: "more than the rated power makes",
    estimated: "estimated, not measured",
    doubtful: "marked doubtful by its source",
    simulated: "simulated",
    unapproved: "counted by a meter that the inventory does not name",
    uncommissioned: "outside the meter's commissioning interval",
    sparse: "in intervals with too few points or too little coverage",
};

export function importLines(book: LineBook, spans: readonly MeterSpan[]): void {
    for (const { meter, parts } of spans) {
        const wh = sum(parts, ({ part }) => part.importWh);
        if (wh !== 0) book.add({ code: "import", meter, direction: "import", wh: -wh, basis: "taken from the grid" });
    }
}

/**
 * A device's clock may be ahead by the tolerance: what is stamped so soon after the report's start may have been delivered before it, and
 * be in the report before.
 */
export function clockLines(book: LineBook, spans: readonly MeterSpan[]): void {
    for (const { meter, parts } of spans) {
        const [first] = parts;
        const hour = first?.part.hours.find(({ at }) => at <= first.interval.from && first.interval.from < at + HOUR_MS);
        if (!hour || hour.exportWh <= 0) continue;
        const wh = Math.ceil(hour.exportWh * Math.min(1, CLOCK_TOLERANCE_MS / hour.coveredMs));
        book.add({ code: "clock", meter, direction: "export", wh: -wh, basis: `${CLOCK_TOLERANCE_MS / 60_000} min of the first hour's ${hour.exportWh} Wh, by which a clock may be ahead` });
    }
}

/** Correction factors, each over the hours that it is valid in; a part of a Wh counts against the claim. */
export function correctionLines(book: LineBook, spans: readonly MeterSpan[], meters: readonly MeterRecord[]): void {
    if (meters.every(({ corrections }) => corrections.length === 0)) return;
    for (const { hours, record } of hoursByRecord(spans, meters)) {
        for (const { from, to, kind, export: out, import: into, source } of record.corrections) {
            const valid = hours.filter(({ at }) => from <= at && at < to);
            const exportWh = sum(valid, (hour) => hour.exportWh);
            const importWh = sum(valid, (hour) => hour.importWh);
            const code = kind === "allocation" ? "allocation" : "factor";
            if (out !== 1 && exportWh !== 0) book.add({ code, meter: record.meter, direction: "export", wh: floorWh(exportWh * (out - 1)), basis: `${out} of ${exportWh} Wh: ${source}` });
            if (into !== 1 && importWh !== 0) book.add({ code, meter: record.meter, direction: "import", wh: floorWh(importWh * (1 - into)), basis: `${into} of ${importWh} Wh: ${source}` });
        }
    }
}

/**
 * Where no calibration held, the maximum permissible error is taken off export and added to import, for each hour (CDM validation and
 * verification standard, delayed calibration); an error that a later test found and that is larger counts instead.
 * @returns meters without a permissible error to take.
 */
export function calibrationLines(book: LineBook, spans: readonly MeterSpan[], meters: readonly MeterRecord[]): string[] {
    const lacking = new Set<string>();
    for (const { hours, record } of hoursByRecord(spans, meters)) {
        const uncovered = hours.filter((hour) => !isCalibratedHour(record, hour.at) && (hour.exportWh !== 0 || hour.importWh !== 0));
        if (uncovered.length === 0) continue;
        if (record.mpeExport === undefined || record.mpeImport === undefined) {
            lacking.add(record.meter);
            continue;
        }
        for (const [direction, permissible] of [["export", record.mpeExport], ["import", record.mpeImport]] as const) {
            for (const [error, same] of groupBy(uncovered, ({ at }) => Math.max(permissible, errorFoundAfter(record, at)))) {
                const wh = sum(same, (hour) => (direction === "export" ? hour.exportWh : hour.importWh));
                if (wh !== 0) book.add({ code: "mpe", meter: record.meter, direction, wh: floorWh(-error * Math.abs(wh)), basis: `${error} of ${wh} Wh in ${countHours(same)} h without a valid calibration` });
            }
        }
    }
    return [...lacking];
}

export function isCalibrated({ calibrations }: Pick<MeterRecord, "calibrations">, at: number): boolean {
    return calibrations.some((calibration) => calibration.at <= at && at < calibration.until);
}

/** An hour that a calibration ends within is not covered. */
function isCalibratedHour(record: MeterRecord, at: number): boolean {
    return isCalibrated(record, at) && isCalibrated(record, at + HOUR_MS - 1);
}

function errorFoundAfter({ calibrations }: MeterRecord, at: number): number {
    return calibrations.filter((calibration) => calibration.at > at).toSorted((a, b) => a.at - b.at)[0]?.foundError ?? 0;
}

/** True for late data that a report takes in; what would raise the net waits for a person. */
export function isDue({ exportWh, importWh, accepted }: Adjustment): boolean {
    return exportWh - importWh <= 0 || accepted !== undefined;
}

/** @returns the Wh of late data that wait. */
export function lateLines(book: LineBook, adjustments: readonly Adjustment[]): number {
    let waitingWh = 0;
    for (const adjustment of adjustments) {
        const { meter, from, exportWh, importWh, number, accepted } = adjustment;
        const wh = exportWh - importWh;
        if (!isDue(adjustment)) waitingWh += wh;
        else if (wh !== 0) book.add({ code: "late", meter, direction: "net", wh, basis: `adjustment ${number} of the interval from ${iso(from)}${accepted === undefined ? "" : `, accepted by ${accepted}`}` });
    }
    return waitingWh;
}

/** The smaller export and the larger import of meter and invoice, over each invoice's time. */
export function invoiceLines(book: LineBook, intervals: readonly Interval[], invoices: readonly Invoice[]): void {
    for (const { from, to, exportWh, importWh, source } of invoices) {
        const parts = intervals.filter((interval) => from <= interval.from && interval.to <= to).flatMap(({ meters }) => meters);
        const meteredOut = sum(parts, (part) => part.exportWh);
        const meteredIn = sum(parts, (part) => part.importWh);
        if (exportWh !== undefined && exportWh < meteredOut) book.add({ code: "invoice", direction: "export", wh: exportWh - meteredOut, basis: `invoice ${exportWh} Wh, meter ${meteredOut} Wh: ${source}` });
        if (importWh !== undefined && importWh > meteredIn) book.add({ code: "invoice", direction: "import", wh: meteredIn - importWh, basis: `invoice ${importWh} Wh, meter ${meteredIn} Wh: ${source}` });
    }
}

/** The hours of each meter, by the inventory's entry in service. */
function hoursByRecord(spans: readonly MeterSpan[], meters: readonly MeterRecord[]): { record: MeterRecord; hours: MeterHour[] }[] {
    const recordsOf = groupBy(meters, ({ meter }) => meter);
    return spans.flatMap(({ meter, parts }) => {
        const records = recordsOf.get(meter) ?? [];
        const hours = new Map<MeterRecord | undefined, MeterHour[]>(records.map((record) => [record, []]));
        // An interval ends where an entry does, so that its start tells the entry of its hours.
        for (const { interval, part } of parts) {
            for (const hour of part.hours) hours.get(recordAt(records, Math.max(interval.from, hour.at)))?.push(hour);
        }
        return records.map((record) => ({ record, hours: hours.get(record)! }));
    });
}

function groupBy<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
    const groups = new Map<K, T[]>();
    for (const item of items) {
        const name = key(item);
        const group = groups.get(name);
        if (group) group.push(item);
        else groups.set(name, [item]);
    }
    return groups;
}

/** Intervals shorter than an hour share theirs. */
function countHours(hours: readonly MeterHour[]): number {
    return new Set(hours.map(({ at }) => at)).size;
}

/** Whole Wh towards the smaller claim; 1e-6 is the error of a floating-point product, not energy. */
function floorWh(wh: number): number {
    return Math.floor(wh + 1e-6);
}

export function iso(at: number): string {
    return new Date(at).toISOString().replace(/\.000Z$/, "Z");
}
