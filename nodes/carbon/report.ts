import { createHash } from "node:crypto";
import { calibrationLines, clockLines, correctionLines, exclusionLines, grossExport, importLines, invoiceLines, type Invoice, isCalibrated, iso, lateLines, type Line, LineBook, spansOf, type MeterSpan } from "./deductions.js";
import { emissions, type Factor, factorFor, factorId, missingProvenance, underFactor, whFor, wholeTonnes } from "./factor.js";
import { type Adjustment, type Interval, samplingClass, sum, total } from "./interval.js";
import type { MeterRecord } from "./meters.js";
import type { Exclusion } from "./settlement.js";

/** CDM small-scale methodology AMS-I.D, the version this follows. */
export const METHODOLOGY = { id: "AMS-I.D", version: "18.0" } as const;

/** Small-scale limit of AMS-I.D, W. */
export const MOST_CAPACITY_W = 15e6;

export interface Project {
    id: string;
    name: string;
    /** Installed capacity, W. */
    capacityW: number;
}

/** Energy that a report left over for the next, and the factor it was reckoned with. */
export interface Carry {
    wh: number;
    factor: Factor;
    /** Key of the report that left it. */
    report: string;
    /** Simulated energy is in it. */
    simulated: boolean;
}

export interface ReportInput {
    project: Project;
    /** 1, 2, 3, … of the project. */
    number: number;
    /** Sealed and not yet reported, contiguous, oldest first. */
    intervals: readonly Interval[];
    /** Not yet applied. */
    adjustments: readonly Adjustment[];
    carry?: Carry | undefined;
    factors: readonly Factor[];
    /** A person answers for a factor without a source. */
    acceptsUnsourced: boolean;
    meters: readonly MeterRecord[];
    invoices: readonly Invoice[];
    /** Meters in service that no sample is known of since the end of the last interval. */
    silent: readonly string[];
    /** Least tonnes of a report. */
    minTonnes: number;
    /** Version of this software. */
    version: string;
}

/** Why no report can be made yet, or of this data at all. */
export interface Refusal {
    code: string;
    text: string;
}

/** One condition of AMS-I.D and how it stands. */
export interface Criterion {
    criterion: string;
    ok: boolean;
    detail: string;
}

export interface MeterFigures {
    meter: string;
    serial?: string;
    kind: MeterRecord["kind"];
    accuracyClass: string;
    exportWh: number;
    importWh: number;
    excludedExport: Partial<Record<Exclusion, number>>;
    excludedImport: Partial<Record<Exclusion, number>>;
    points: number;
    /** Share of the period covered by samples, 0..1. */
    coverage: number;
    sampling: ReturnType<typeof samplingClass>;
    capacityFactor: number;
    averages: Record<string, number>;
    calibrations: MeterRecord["calibrations"];
    /** Half-open stretches of hours that are not fully covered, ISO. */
    gaps: { from: string; to: string; excludedWh: number }[];
}

/** Everything that a monitoring report states; plain JSON, the same for the same input. */
export interface Report {
    /** A preview is recorded nowhere: it must not be filed. */
    format: "wattledger.ams-i-d.report/1" | "wattledger.ams-i-d.preview/1";
    /** SHA-256 over project, methodology, meters and period: one report a key, ever. */
    key: string;
    number: number;
    project: Project;
    methodology: typeof METHODOLOGY;
    /** Half-open, in UTC; ISO beside ms. */
    period: { from: string; to: string; fromMs: number; toMs: number; zone: "UTC"; intervals: [first: number, last: number] };
    /** True where energy that nobody measured is in it: such a report must never reach a registry. */
    simulated: boolean;
    /** It may be filed: nothing is refused. */
    ready: boolean;
    refusals: Refusal[];
    applicability: Criterion[];
    factor?: Factor & { id: string; sourced: boolean };
    figures: {
        /** All that the export registers counted. */
        grossExportWh: number;
        importWh: number;
        /** No claim can be above it: export without what is not ours, less import. */
        upperBoundWh: number;
        /** After all deductions, with what was carried in. */
        netWh: number;
        carriedInWh: number;
        /** Claimed: the least energy that makes whole tonnes. */
        claimedWh: number;
        carriedOutWh: number;
        /** Late data that would raise the net: not claimed until a person decides. */
        waitingWh: number;
        /** EG of the methodology, MWh. */
        egMWh: number;
        /** Baseline, project, leakage and reduced emissions, tCO2e. */
        baselineT: number;
        projectT: number;
        leakageT: number;
        reductionT: number;
        /** Whole tonnes, rounded down once. */
        credits: number;
        /** What a policy mints from `reductionT` by its rounding. */
        mint: { floor: number; nearest: number; ceiling: number };
        capacityFactor: number;
        /** Least of the meters. */
        coverage: number;
        points: number;
    };
    /** Net of the intervals before corrections, by calendar year of generation. */
    vintages: { year: number; netWh: number }[];
    lines: Line[];
    meters: MeterFigures[];
    /** Late data of sealed intervals, each applied, accepted or waiting. */
    adjustments: Adjustment[];
    /** Keys of earlier reports whose intervals the adjustments correct. */
    corrects: string[];
    invoices: Invoice[];
    software: string;
}

/**
 * The report of all intervals that wait, with every correction as a line of its own. Never throws for what the data hold: `refusals`
 * says why it is not ready. PURE: same input, same report.
 */
export function buildReport(input: ReportInput): Report {
    const { project, intervals, adjustments, meters, invoices, carry } = input;
    const spans = spansOf(intervals, meters);
    const from = intervals[0]?.from ?? 0;
    const to = intervals.at(-1)?.to ?? 0;
    const factor = factorFor(input.factors, from, to);
    const gross = grossExport(spans);
    const importWh = sum(spans, ({ parts }) => sum(parts, ({ part }) => part.importWh));

    const book = new LineBook(gross.allWh);
    exclusionLines(book, spans);
    importLines(book, spans);
    clockLines(book, spans);
    correctionLines(book, spans, meters);
    const lacking = calibrationLines(book, spans, meters);
    const waitingWh = lateLines(book, adjustments);
    invoiceLines(book, intervals, invoices);
    if (carry && carry.wh !== 0) {
        book.add({ code: "carry-in", direction: "net", wh: carry.wh, basis: `left over by report ${carry.report}` });
        const lost = factor ? carry.wh - underFactor(carry.wh, carry.factor, factor) : 0;
        if (lost > 0) book.add({ code: "factor-change", direction: "net", wh: -lost, basis: "it was generated under a lower emission factor" });
    }
    const netWh = book.netWh;
    const credits = factor && netWh > 0 ? wholeTonnes(netWh, factor) : 0;
    const claimedWh = factor && credits > 0 ? claimFor(credits, netWh, factor) : 0;
    if (credits > 0) book.add({ code: "carry-out", direction: "net", wh: claimedWh - netWh, basis: "less than a tonne: carried to the next report" });

    const figuresOf = spans.map((span) => meterFigures(span, meters, from, to));
    const applicability = applicabilityOf(project, meters, from, to);
    const reductionT = factor ? emissions(claimedWh, factor) : 0;
    const refusals = refusalsOf(input, { spans, factor, lacking, netWh, credits, applicability, from, to });
    return {
        format: "wattledger.ams-i-d.report/1",
        key: reportKey(project.id, spans.map(({ meter }) => meter), from, to),
        number: input.number,
        project,
        methodology: METHODOLOGY,
        period: { from: iso(from), to: iso(to), fromMs: from, toMs: to, zone: "UTC", intervals: [intervals[0]?.number ?? 0, intervals.at(-1)?.number ?? 0] },
        simulated: intervals.some(({ simulated }) => simulated) || adjustments.some(({ simulated }) => simulated) || (carry?.simulated ?? false),
        ready: refusals.length === 0,
        refusals,
        applicability,
        ...(factor && { factor: { ...factor, id: factorId(factor), sourced: missingProvenance(factor).length === 0 } }),
        figures: {
            grossExportWh: gross.allWh,
            importWh,
            upperBoundWh: gross.boundWh - importWh,
            netWh,
            carriedInWh: carry?.wh ?? 0,
            claimedWh,
            carriedOutWh: netWh - claimedWh,
            waitingWh,
            egMWh: claimedWh / 1e6,
            baselineT: reductionT,
            projectT: 0,
            leakageT: 0,
            reductionT,
            credits,
            mint: { floor: Math.floor(reductionT), nearest: Math.round(reductionT), ceiling: Math.ceil(reductionT) },
            capacityFactor: to > from ? (sum(figuresOf, ({ exportWh }) => exportWh) - importWh) / ((project.capacityW * (to - from)) / 3_600_000) : 0,
            coverage: figuresOf.length > 0 ? Math.min(...figuresOf.map(({ coverage }) => coverage)) : 0,
            points: sum(figuresOf, ({ points }) => points),
        },
        vintages: vintagesOf(intervals),
        lines: book.lines,
        meters: figuresOf,
        adjustments: [...adjustments],
        corrects: [...new Set(adjustments.flatMap(({ report }) => report ?? []))],
        invoices: [...invoices],
        software: `@wattledger/node-red-energy ${input.version}`,
    };
}

/** The least energy for whole tonnes, and a Wh more where a policy's floating point would fall just short of them. */
function claimFor(credits: number, netWh: number, factor: Factor): number {
    const wh = whFor(credits, factor);
    return Math.floor(emissions(wh, factor)) < credits && wh < netWh ? wh + 1 : wh;
}

/** SHA-256 in hex that stands for one period of one project and its meters. */
export function reportKey(project: string, meters: readonly string[], from: number, to: number): string {
    const named = JSON.stringify([project, METHODOLOGY.id, METHODOLOGY.version, meters.toSorted(), from, to]);
    return createHash("sha256").update(named).digest("hex");
}

function meterFigures({ meter, parts }: MeterSpan, meters: readonly MeterRecord[], from: number, to: number): MeterFigures {
    const record = meters.findLast((entry) => entry.meter === meter && entry.from < to && from < entry.to) ?? meters.find((entry) => entry.meter === meter)!;
    const all = parts.map(({ part }) => part);
    const exportWh = sum(all, (part) => part.exportWh);
    const importWh = sum(all, (part) => part.importWh);
    const points = sum(all, (part) => part.points);
    const coveredMs = sum(parts, ({ interval, part }) => part.coverage * (interval.to - interval.from));
    const serial = all.findLast((part) => part.serial !== undefined)?.serial;
    const ms = Math.max(1, to - from);
    return {
        meter,
        ...(serial !== undefined && { serial }),
        kind: record.kind,
        accuracyClass: record.accuracyClass,
        exportWh,
        importWh,
        excludedExport: total(all.map((part) => part.excludedExport)),
        excludedImport: total(all.map((part) => part.excludedImport)),
        points,
        coverage: coveredMs / ms,
        sampling: samplingClass(points > 0 ? coveredMs / points / 1000 : undefined),
        capacityFactor: (exportWh - importWh) / ((record.ratedW * ms) / 3_600_000),
        averages: averagesOf(all),
        calibrations: record.calibrations,
        gaps: gapsOf(parts),
    };
}

function averagesOf(parts: readonly { averages: Record<string, { mean: number; n: number }> }[]): Record<string, number> {
    const sums: Record<string, { sum: number; n: number }> = {};
    for (const { averages } of parts) {
        for (const [point, { mean, n }] of Object.entries(averages)) {
            const all = (sums[point] ??= { sum: 0, n: 0 });
            all.sum += mean * n;
            all.n += n;
        }
    }
    return Object.fromEntries(Object.entries(sums).map(([point, all]) => [point, all.sum / all.n]));
}

/** Stretches of hours that samples do not cover wholly, with what was counted there and not claimed. */
function gapsOf(parts: MeterSpan["parts"]): MeterFigures["gaps"] {
    const gaps: { fromMs: number; toMs: number; excludedWh: number }[] = [];
    for (const { interval, part } of parts) {
        const hours = new Map(part.hours.map((hour) => [hour.at, hour]));
        let from = interval.from;
        while (from < interval.to) {
            const start = from - (from % 3_600_000);
            const to = Math.min(start + 3_600_000, interval.to);
            const hour = hours.get(start);
            if ((hour?.coveredMs ?? 0) < to - from) {
                const excludedWh = sum(Object.values(hour?.excludedExport ?? {}), (wh) => wh);
                const last = gaps.at(-1);
                if (last?.toMs === from) {
                    last.toMs = to;
                    last.excludedWh += excludedWh;
                } else gaps.push({ fromMs: from, toMs: to, excludedWh });
            }
            from = to;
        }
    }
    return gaps.map(({ fromMs, toMs, excludedWh }) => ({ from: iso(fromMs), to: iso(toMs), excludedWh }));
}

function vintagesOf(intervals: readonly Interval[]): Report["vintages"] {
    const years = new Map<number, number>();
    for (const { from, meters } of intervals) {
        const year = new Date(from).getUTCFullYear();
        years.set(year, (years.get(year) ?? 0) + sum(meters, ({ exportWh, importWh }) => exportWh - importWh));
    }
    return [...years].map(([year, netWh]) => ({ year, netWh }));
}

function applicabilityOf({ capacityW }: Project, meters: readonly MeterRecord[], from: number, to: number): Criterion[] {
    const behind = [...new Set(meters.filter(({ kind }) => kind !== "grid").map(({ meter }) => meter))];
    const within = meters.filter((record) => record.from < to && from < record.to);
    const uncalibrated = within.filter((record) => !isCalibrated(record, Math.max(from, record.from)) || !isCalibrated(record, Math.min(to, record.to) - 1));
    const undated = within.filter((record) => record.from === 0);
    return [
        { criterion: "Net export to the grid only", ok: behind.length === 0, detail: behind.length === 0 ? "All meters are at the interconnection with the grid." : `${behind.join(", ")}: behind the interconnection, so own use would be claimed.` },
        { criterion: "Installed capacity of at most 15 MW", ok: capacityW > 0 && capacityW <= MOST_CAPACITY_W, detail: capacityW > 0 ? `${capacityW / 1e6} MW` : "The site's rated power is not set." },
        { criterion: "Commissioning of the meters", ok: undated.length === 0, detail: undated.length === 0 ? "Each meter's interval in service is stated." : `${undated.map(({ meter }) => meter).join(", ")}: no date of commissioning.` },
        {
            criterion: "Calibration of the meters",
            ok: within.every(({ mpeExport, mpeImport }) => mpeExport !== undefined && mpeImport !== undefined) || uncalibrated.length === 0,
            detail: uncalibrated.length === 0 ? "Each meter is calibrated over the period." : `${uncalibrated.map(({ meter }) => meter).join(", ")}: not calibrated over all of the period; the maximum permissible error is taken off.`,
        },
    ];
}

interface Found {
    spans: readonly MeterSpan[];
    factor: Factor | undefined;
    lacking: readonly string[];
    netWh: number;
    credits: number;
    applicability: readonly Criterion[];
    from: number;
    to: number;
}

function refusalsOf({ intervals, acceptsUnsourced, invoices, minTonnes, silent, meters }: ReportInput, found: Found): Refusal[] {
    const { spans, factor, lacking, netWh, credits, applicability, from, to } = found;
    const refusals: Refusal[] = [];
    const refuse = (code: string, text: string) => refusals.push({ code, text });
    if (intervals.length === 0) refuse("NOTHING_SEALED", "No interval is sealed yet.");
    const torn = intervals.find((interval, i) => i > 0 && interval.from !== intervals[i - 1]!.to);
    if (torn) refuse("PERIODS_TORN", `The interval from ${iso(torn.from)} does not begin where the one before ends.`);
    for (const { criterion, ok, detail } of applicability) if (!ok) refuse("NOT_APPLICABLE", `${criterion}: ${detail}`);
    const inService = new Set(meters.filter((record) => record.from < to && from < record.to).map(({ meter }) => meter));
    const missing = spans.filter(({ meter, parts }) => inService.has(meter) && parts.every(({ part }) => part.hours.length === 0)).map(({ meter }) => meter);
    if (missing.length > 0) refuse("METER_MISSING", `No data of ${missing.join(", ")}: every meter of the boundary must be reported.`);
    else if (silent.length > 0) refuse("METER_SILENT", `No sample of ${silent.join(", ")} since the end of the period, so that its import is not known: bring its data.`);
    for (const meter of lacking) refuse("MPE_MISSING", `Meter ${meter} was not calibrated all the time and has no maximum permissible error: state both in the inventory.`);
    if (!factor) refuse("FACTOR_MISSING", "No emission factor is valid over the whole period: add its record.");
    else {
        const lacks = missingProvenance(factor);
        if (lacks.length > 0 && !acceptsUnsourced) refuse("FACTOR_UNSOURCED", `The emission factor has no ${lacks.join(", no ")}: complete its record, or confirm that you answer for it.`);
    }
    const bounds = new Set(intervals.flatMap((interval) => [interval.from, interval.to]));
    for (const [i, invoice] of invoices.entries()) {
        if (!bounds.has(invoice.from) || !bounds.has(invoice.to)) refuse("INVOICE_CALENDAR", `The invoice from ${iso(invoice.from)} to ${iso(invoice.to)} does not begin and end with intervals of the report (UTC, ${iso(from)} to ${iso(to)}).`);
        if (invoices.slice(i + 1).some((other) => other.from < invoice.to && invoice.from < other.to)) refuse("INVOICE_OVERLAP", `Two invoices share time from ${iso(invoice.from)}: give one for each billing cycle.`);
    }
    if (netWh < 0) refuse("NET_NEGATIVE", "More energy was taken from the grid than delivered.");
    else if (factor && credits < minTonnes) refuse("BELOW_MINIMUM", `${credits} t so far; a report takes at least ${minTonnes} t.`);
    return refusals;
}
