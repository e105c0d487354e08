import path from "node:path";
import { z } from "zod";
import { type Clock, systemClock } from "../common/clock.js";
import { booleanField, choiceField, numberField, parseConfig, textField } from "../common/config.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { parseReading } from "../common/reading.js";
import type { StatusKind } from "../common/status.js";
import { Turns } from "../common/turns.js";
import type { Site } from "../common/wl-site.js";
import { Book, type BookRules, type News } from "./book.js";
import type { Evidence, EvidenceKeeper } from "./capsule-file.js";
import { iso } from "./deductions.js";
import { parseFactors } from "./factor.js";
import { type Adjustment, CALENDARS, type Interval, samplingClass, sum } from "./interval.js";
import { isSigned } from "./capsule.js";
import { instantField, parseInventory, recordAt } from "./meters.js";
import type { Report } from "./report.js";
import { type MeterSample, sampleOf } from "./settlement.js";

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
const DAY_MS = 24 * HOUR_MS;
/** A deploy's old node gives the book back within this. */
const LOCKED_RETRY_MS = 500;
const LOCKED_RETRIES = 20;

export const settingsSchema = z.object({
    intervalHours: numberField({ min: 1 / 60, max: 744, default: 24 }),
    minPoints: numberField({ min: 1, max: 100_000, default: 10, integer: true }),
    checkMinutes: numberField({ min: 0.01, max: 1440, default: 60 }),
    graceMinutes: numberField({ min: 0, max: 10_080, default: 60 }),
    minCoveragePct: numberField({ min: 0, max: 100, default: 50 }),
    maxGapMinutes: numberField({ min: 1, max: 1440, default: 60 }),
    calendar: choiceField(CALENDARS, "month"),
    minTonnes: numberField({ min: 1, max: 1e9, default: 1, integer: true }),
    meters: textField(),
    factors: textField("[]"),
    acceptsUnsourced: booleanField(false),
    allowSimulated: booleanField(false),
});

const invoiceSchema = z.object({
    from: instantField,
    to: instantField,
    exportWh: z.number().int().nonnegative().optional(),
    importWh: z.number().int().nonnegative().optional(),
    source: z.string().min(1, "must name the invoice"),
});

const commandSchema = z.union([
    z.enum(["preview", "check", "status"]),
    z.strictObject({ accept: z.array(z.number().int()).min(1), by: z.string().min(1) }),
    z.strictObject({ invoice: invoiceSchema }),
    z.strictObject({ verify: z.number().int().positive() }),
    z.strictObject({ report: z.number().int().positive() }),
    z.strictObject({ intervals: z.number().int().min(1).max(366) }),
], { error: 'takes "preview", "check", "status", {accept: [number], by: "who"}, {report: number}, {intervals: number}, {verify: number} or {invoice: {from, to, exportWh, importWh, source}}' });

/** The rules that a dialog's fields and a site make. @throws WattError CONFIG_INVALID and what meters and factors throw. */
export function rulesOf(def: object, site: Site, version: string): BookRules & { checkMs: number } {
    const config = parseConfig(settingsSchema, def);
    const intervalMs = Math.round(config.intervalHours * HOUR_MS);
    if (["month", "quarter"].includes(config.calendar) && DAY_MS % intervalMs !== 0) {
        throw new WattError("CONFIG_INVALID", `Check the settings: intervals of ${config.intervalHours} h do not end with a ${config.calendar}; choose a part of 24 h, or reports that end with any interval.`);
    }
    return {
        project: { id: site.siteId, name: site.name || site.siteId, capacityW: site.ratedPowerW },
        meters: parseInventory(parseList("meters", config.meters)),
        factors: parseFactors(parseList("factors", config.factors)),
        acceptsUnsourced: config.acceptsUnsourced,
        allowSimulated: config.allowSimulated,
        intervalMs,
        minPoints: config.minPoints,
        minCoverage: config.minCoveragePct / 100,
        maxGapMs: config.maxGapMinutes * MINUTE_MS,
        graceMs: config.graceMinutes * MINUTE_MS,
        calendar: config.calendar,
        minTonnes: config.minTonnes,
        version,
        checkMs: config.checkMinutes * MINUTE_MS,
    };
}

function parseList(name: string, text: string): unknown {
    try {
        return JSON.parse(text);
    } catch {
        throw new WattError("CONFIG_INVALID", `Check the settings: ${name} is no JSON.`);
    }
}

export interface AggregatorListener {
    onInterval(interval: Interval): void;
    onReport(report: Report, evidence: Evidence): void;
    onAdjustment(adjustment: Adjustment): void;
    onStatus(kind: StatusKind, text: string): void;
    onWarning(error: WattError): void;
}

/** Takes readings into a project's book, seals what is due at each check and hands on what was recorded. */
export class Aggregator {
    private book: Book | undefined;
    private readonly opened: Promise<Book>;
    private resolveOpened!: (book: Book) => void;
    private rejectOpened!: (error: unknown) => void;
    private readonly foreign = new Set<string>();
    private readonly unsigned = new Set<string>();
    private refused = "";
    private readonly handing = new Turns();

    constructor(
        private readonly folder: string,
        private readonly rules: ReturnType<typeof rulesOf>,
        private readonly listener: AggregatorListener,
        private readonly proofs: EvidenceKeeper,
        private readonly clock: Clock = systemClock,
    ) {
        this.opened = new Promise((resolve, reject) => {
            this.resolveOpened = resolve;
            this.rejectOpened = reject;
        });
        // Whoever waits hears of it; nobody may.
        this.opened.catch(() => undefined);
    }

    /** Opens the book and checks until aborted. */
    async run(signal: AbortSignal): Promise<void> {
        try {
            this.book = await this.open(signal);
        } catch (error) {
            this.rejectOpened(error);
            this.listener.onStatus("error", errorCode(error) === "STORE_LOCKED" ? "book in use" : "no book");
            throw error;
        }
        this.resolveOpened(this.book);
        for (;;) {
            await this.check();
            await this.clock.sleep(this.rules.checkMs, signal);
        }
    }

    private async open(signal: AbortSignal): Promise<Book> {
        for (let tries = 1; ; tries++) {
            try {
                return await Book.open({ folder: path.join(this.folder, "carbon"), rules: this.rules, clock: this.clock });
            } catch (error) {
                if (errorCode(error) !== "STORE_LOCKED" || tries === LOCKED_RETRIES) throw error;
                await this.clock.sleep(LOCKED_RETRY_MS, signal);
            }
        }
    }

    /**
     * Resolves once the reading's registers are on disk. Readings without a counter, of bad quality or of a device that is no meter of
     * the boundary are passed over. @throws WattError READING_INVALID, SAMPLE_REFUSED
     */
    async take(msg: unknown): Promise<void> {
        const now = this.clock.now();
        const reading = parseReading(msg, now);
        const { site, device } = reading.reading;
        const meter = `${site}/${device}`;
        if (!this.rules.meters.some((record) => record.meter === meter)) {
            if (this.foreign.has(meter) || this.foreign.size >= 100) return;
            this.foreign.add(meter);
            this.listener.onWarning(new WattError("METER_UNKNOWN", `${meter} is not in the inventory of meters: its readings are passed over.`));
            return;
        }
        const sample = sampleOf(reading, now);
        if (typeof sample !== "string") await (await this.opened).add(this.witnessed(sample));
        else if (sample === "clock not set" || sample === "stamped in the future") {
            throw new WattError("SAMPLE_REFUSED", `A reading of ${meter} is stamped ${iso(reading.timestamp)}, which cannot be: set the clock of the device.`);
        }
    }

    /** A sample of a device with a key counts only with its signature. */
    private witnessed(sample: MeterSample): MeterSample {
        const key = recordAt(this.rules.meters.filter(({ meter }) => meter === sample.meter), sample.at)?.key;
        if (key === undefined || sample.origin !== "measured" || isSigned(sample, key)) return sample;
        const { boot: _boot, seq: _seq, signature: _signature, ...unsigned } = sample;
        if (!this.unsigned.has(sample.meter)) {
            this.unsigned.add(sample.meter);
            this.listener.onWarning(new WattError("SIGNATURE_INVALID", `A reading of ${sample.meter} does not bear its device's signature: such readings are kept as doubtful, and nothing is claimed by them.`));
        }
        return { ...unsigned, origin: "doubtful" };
    }

    /** Answers a command. @throws WattError COMMAND_INVALID, ADJUSTMENT_UNKNOWN */
    async command(command: unknown): Promise<unknown> {
        const parsed = commandSchema.safeParse(command);
        if (!parsed.success) throw new WattError("COMMAND_INVALID", `msg.command ${parsed.error.issues[0]!.message}.`);
        const book = await this.opened;
        const { data } = parsed;
        if (data === "preview") return (await book.preview()) ?? null;
        if (typeof data === "object" && "verify" in data) {
            if (!book.reportOf(data.verify)) throw new WattError("REPORT_UNKNOWN", `There is no report ${data.verify}.`);
            return this.proofs.verify(this.rules.project.id, data.verify);
        }
        if (typeof data === "object" && "intervals" in data) return (await book.newest(data.intervals)).map(summaryOf);
        if (typeof data === "object" && "report" in data) return book.reportOf(data.report) ?? null;
        if (typeof data === "object" && "accept" in data) book.accept(data.accept, data.by);
        if (typeof data === "object" && "invoice" in data) book.addInvoice(data.invoice);
        if (data !== "status") await this.check();
        return book.stats();
    }

    private async check(): Promise<void> {
        const book = await this.opened;
        this.listener.onStatus("busy", "settling");
        try {
            await book.check();
        } catch (error) {
            this.listener.onStatus("error", "failed");
            if (errorCode(error) === "BOOK_CLOSED") return;
            throw error;
        }
        // One at a time: nothing is handed on twice.
        if (await this.handing.take(() => this.hand(book))) this.show(book);
    }

    /** Hands on what was recorded; a report with its evidence or, until that is kept, not at all: false. */
    private async hand(book: Book): Promise<boolean> {
        try {
            for (let news = book.news(); !isEmpty(news); news = book.news()) {
                const { intervals, adjustments, reports } = news;
                for (const interval of intervals) this.listener.onInterval(interval);
                for (const adjustment of adjustments) this.listener.onAdjustment(adjustment);
                book.sent({ intervals, adjustments, reports: [] });
                for (const report of reports) {
                    for (const closed of book.closedBefore(report.number)) await this.proofs.keep(closed, book.evidence(closed.number));
                    const evidence = await this.proofs.keep(report, book.evidence(report.number));
                    this.listener.onReport(report, evidence);
                    book.sent({ intervals: [], adjustments: [], reports: [report] });
                }
            }
            return true;
        } catch (error) {
            if (!["BOOK_CLOSED", "LEDGER_CLOSED"].includes(errorCode(error) ?? "")) {
                this.listener.onWarning(new WattError("EVIDENCE_NOT_KEPT", `A report waits, since its evidence cannot be kept: ${errorText(error)}`, { cause: error }));
                this.listener.onStatus("error", "no evidence");
            }
            return false;
        }
    }

    private show(book: Book): void {
        const { pendingWh, credits, waiting } = book.stats();
        const refusal = book.refusals.find(({ code }) => code !== "BELOW_MINIMUM");
        if (refusal && refusal.code !== this.refused) this.listener.onWarning(new WattError(refusal.code, `No report: ${refusal.text}`));
        this.refused = refusal?.code ?? "";
        if (refusal) this.listener.onStatus("warn", refusal.code.toLowerCase().replaceAll("_", " "));
        else if (waiting > 0) this.listener.onStatus("warn", `${waiting} late to accept`);
        else this.listener.onStatus("ok", `${megawattHours(pendingWh)} MWh, ${credits} t`);
    }

    async close(): Promise<void> {
        this.rejectOpened(new WattError("BOOK_CLOSED", "The carbon book is closed."));
        await this.book?.close();
    }
}

function isEmpty({ intervals, adjustments, reports }: News): boolean {
    return intervals.length + adjustments.length + reports.length === 0;
}

function megawattHours(wh: number): string {
    return (wh / 1e6).toFixed(Math.abs(wh) < 1e8 ? 2 : 0);
}

/** An interval as charts and tables take it. */
export function summaryOf({ number, from, to, meters, simulated }: Interval): object {
    const exportWh = sum(meters, (meter) => meter.exportWh);
    const importWh = sum(meters, (meter) => meter.importWh);
    const excludedWh = sum(meters, ({ excludedExport }) => sum(Object.values(excludedExport), (wh) => wh));
    const coverage = meters.length > 0 ? Math.min(...meters.map((meter) => meter.coverage)) : 0;
    return {
        number,
        from: iso(from),
        to: iso(to),
        netWh: exportWh - importWh,
        exportWh,
        importWh,
        excludedWh,
        coverage,
        points: sum(meters, ({ points }) => points),
        simulated,
        meters: meters.map(({ hours: _hours, events: _events, opening: _opening, ...figures }) => ({ ...figures, sampling: samplingClass(figures.samplingS) })),
    };
}
