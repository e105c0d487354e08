import { readdir } from "node:fs/promises";
import path from "node:path";
import { type Clock, systemClock } from "../common/clock.js";
import { errorCode, toError, WattError } from "../common/errors.js";
import { Breaks, nextTurn, Turns } from "../common/turns.js";
import { type Database, openDatabase, openOwned, type OwnedDatabase, type SqlBackend } from "../store/sqlite.js";
import { type Invoice, isDue } from "./deductions.js";
import { type Factor, factorFor } from "./factor.js";
import { type Adjustment, type Calendar, firstStart, type Interval, intervalFrom, type IntervalRules, isReportEnd, type MeterInterval, meterPart, sum } from "./interval.js";
import { type MeterRecord, recordAt, topologyChanges } from "./meters.js";
import { compareSamples } from "./capsule.js";
import { evidenceTerms, LOOK_AHEAD, samplesNeeded, settleInterval } from "./evidence.js";
import type { CapsuleTerms, RawSample } from "./recompute.js";
import { buildReport, type Carry, type Project, type Refusal, type Report, type ReportInput } from "./report.js";
import { EXCLUSIONS, type Excluded, mergeSamples, type MeterSample, type MeterState, type Origin, type Settled } from "./settlement.js";

export interface BookRules extends IntervalRules {
    project: Project;
    meters: readonly MeterRecord[];
    factors: readonly Factor[];
    acceptsUnsourced: boolean;
    allowSimulated: boolean;
    maxGapMs: number;
    /** An interval is sealed this long after its end, so that what comes a little late is in it. */
    graceMs: number;
    calendar: Calendar;
    minTonnes: number;
    version: string;
}

export interface BookOptions {
    folder: string;
    rules: BookRules;
    clock?: Clock;
    backend?: SqlBackend;
    /** Samples wait at most this long for their commit. */
    commitMs?: number;
}

/** What was recorded and not handed on yet, oldest first. Handed on again after a crash: the numbers and keys tell. */
export interface News {
    intervals: Interval[];
    adjustments: Adjustment[];
    reports: Report[];
}

/** Energy so far, whole Wh. */
export interface BookStats {
    /** End of the last sealed interval, ms UTC; absent before the first. */
    sealedTo?: number;
    /** Net of the intervals that no report holds yet, before corrections. */
    pendingWh: number;
    claimedWh: number;
    credits: number;
    reports: number;
    /** Late data that would raise a claim and wait for a person. */
    waiting: number;
}

const SCHEMA = `
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meter (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, used_to INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sample (at INTEGER, meter INTEGER, exported INTEGER, imported INTEGER, serial TEXT, origin INTEGER NOT NULL, vals TEXT, proof TEXT, since INTEGER NOT NULL, PRIMARY KEY (at, meter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS superseded (at INTEGER, meter INTEGER, exported INTEGER, imported INTEGER, serial TEXT, origin INTEGER NOT NULL, vals TEXT, proof TEXT, since INTEGER NOT NULL, PRIMARY KEY (at, meter, since)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rules (id INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS interval (number INTEGER PRIMARY KEY, starts INTEGER NOT NULL UNIQUE, ends INTEGER NOT NULL UNIQUE CHECK (ends > starts), net INTEGER NOT NULL, body TEXT NOT NULL, stage INTEGER NOT NULL, rules INTEGER NOT NULL, report INTEGER, sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS state (number INTEGER, meter INTEGER, body TEXT NOT NULL, PRIMARY KEY (number, meter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dirty (meter INTEGER PRIMARY KEY, number INTEGER NOT NULL, until INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS adjustment (number INTEGER PRIMARY KEY, interval INTEGER NOT NULL, meter TEXT NOT NULL, body TEXT NOT NULL, accepted TEXT, report INTEGER, sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS invoice (starts INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS report (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, starts INTEGER NOT NULL UNIQUE, claimed INTEGER NOT NULL, credits INTEGER NOT NULL, carry TEXT NOT NULL, body TEXT NOT NULL, terms TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0);
CREATE TRIGGER IF NOT EXISTS interval_disjoint BEFORE INSERT ON interval WHEN EXISTS (SELECT 1 FROM interval WHERE NEW.starts < ends AND starts < NEW.ends) BEGIN SELECT RAISE(ABORT, 'periods overlap'); END;
CREATE TRIGGER IF NOT EXISTS interval_sealed BEFORE UPDATE OF number, starts, ends, net, body, stage, rules ON interval BEGIN SELECT RAISE(ABORT, 'a sealed period never changes'); END;
CREATE TRIGGER IF NOT EXISTS interval_kept BEFORE DELETE ON interval BEGIN SELECT RAISE(ABORT, 'a sealed period never goes'); END;
CREATE TRIGGER IF NOT EXISTS report_sealed BEFORE UPDATE OF number, key, starts, claimed, credits, carry, body, terms ON report BEGIN SELECT RAISE(ABORT, 'a report never changes'); END;
`;
const SCHEMA_VERSION = "1";
/** One query reads the samples of so long a time. */
const READ_MS = 3_600_000;
const ORIGINS: readonly Origin[] = ["measured", "estimated", "doubtful", "simulated"];
interface SampleRow {
    at: number;
    meter: number;
    exported: number | null;
    imported: number | null;
    serial: string | null;
    origin: number;
    vals: string | null;
    proof: string | null;
    /** Stage at which it came. */
    since: number;
}

interface Meter {
    id: number;
    usedTo: number;
    isOpen: boolean;
    /** Time of the last sample; undefined until it is asked for. */
    lastAt?: number;
}

/**
 * The books of one project in one SQLite file: raw samples, the ledger of sealed intervals, adjustments, reports. The file itself
 * refuses periods that overlap and changes of what is sealed; every commit survives a power cut.
 */
export class Book {
    private readonly clock: Clock;
    private owned: OwnedDatabase | undefined;
    private readonly meters = new Map<string, Meter>();
    /** The inventory by meter. */
    private readonly records = new Map<string, MeterRecord[]>();
    private waiting: { sample: MeterSample; resolve: () => void; reject: (error: Error) => void }[] = [];
    private cancelCommit: (() => void) | undefined;
    private readonly checks = new Turns();
    private isClosing = false;
    /** While an interval is sealed or a report made nothing comes in between: samples wait for their commit. */
    private isHolding = false;
    /** Counts what is settled by the samples there are: sealed intervals and reports. */
    private stage = 0;
    /** What the last report in vain was made of. */
    private tried = "";
    /** Why the last report could not be made; empty when it could, or none was due. */
    refusals: readonly Refusal[] = [];

    private constructor(private readonly options: BookOptions) {
        this.clock = options.clock ?? systemClock;
        for (const record of options.rules.meters) this.records.set(record.meter, [...this.recordsOf(record.meter), record]);
    }

    /**
     * @throws WattError BOOK_DAMAGED when the file is or was damaged: a new one would claim the same periods again; BOOK_NEWER;
     * STORE_LOCKED when another node or process has it; or what the database throws.
     */
    static async open(options: BookOptions): Promise<Book> {
        const book = new Book(options);
        const { folder, rules, backend } = options;
        const file = path.join(folder, `carbon-${rules.project.id.replaceAll(/[^A-Za-z0-9_.-]/g, "_")}.db`);
        await refuseDamaged(file);
        const stamp = new Date(book.clock.now()).toISOString().replaceAll(/[:.]/g, "-");
        const owned = await openOwned(file, { synchronous: "FULL", stamp, ...(backend && { backend }) });
        try {
            if (owned.setAside !== undefined) throw damaged(owned.setAside);
            book.begin(owned);
            return book;
        } catch (error) {
            await owned.close();
            throw error;
        }
    }

    private begin(owned: OwnedDatabase): void {
        this.owned = owned;
        const { db } = owned;
        db.exec(SCHEMA);
        const [version] = db.all<{ value: string }>("SELECT value FROM meta WHERE key = 'version'");
        if (version === undefined) db.run("INSERT INTO meta VALUES ('version', ?)", SCHEMA_VERSION);
        else if (version.value !== SCHEMA_VERSION) throw new WattError("BOOK_NEWER", "The carbon book is of another version of this software: update it.");
        this.stage = this.count("interval") + this.count("report");
        for (const { id, name, used_to: usedTo, open } of db.all<{ id: number; name: string; used_to: number; open: number }>("SELECT * FROM meter")) {
            this.meters.set(name, { id, usedTo, isOpen: open === 1 });
        }
        for (const { meter } of this.options.rules.meters) {
            if (this.meters.has(meter)) continue;
            db.run("INSERT INTO meter (name) VALUES (?)", meter);
            const [row] = db.all<{ id: number }>("SELECT id FROM meter WHERE name = ?", meter);
            this.meters.set(meter, { id: row!.id, usedTo: 0, isOpen: false });
        }
    }

    private get db(): Database {
        if (!this.owned) throw new WattError("BOOK_CLOSED", "The carbon book is closed.");
        return this.owned.db;
    }

    // --- samples

    /** Resolves once the sample is on disk. @throws WattError METER_UNKNOWN, or what the database throws. */
    add(sample: MeterSample): Promise<void> {
        if (this.isClosing || !this.owned) return Promise.reject(new WattError("BOOK_CLOSED", "The carbon book is closed."));
        if (!this.records.has(sample.meter)) {
            return Promise.reject(new WattError("METER_UNKNOWN", `Meter ${sample.meter} is not in the inventory: add it, or do not send its readings here.`));
        }
        return new Promise((resolve, reject) => {
            this.waiting.push({ sample, resolve, reject });
            this.cancelCommit ??= this.clock.after(this.options.commitMs ?? 200, () => this.commit());
        });
    }

    private commit(): void {
        this.cancelCommit?.();
        this.cancelCommit = undefined;
        if (this.isHolding) return;
        const batch = this.waiting;
        this.waiting = [];
        if (batch.length === 0) return;
        try {
            this.db.transaction(() => {
                for (const { sample } of batch) this.insert(sample);
            });
            for (const { sample, resolve } of batch) {
                const meter = this.meters.get(sample.meter)!;
                if (meter.lastAt !== undefined) meter.lastAt = Math.max(meter.lastAt, sample.at);
                resolve();
            }
        } catch (error) {
            for (const { reject } of batch) reject(toError(error));
        }
    }

    private insert(sample: MeterSample): void {
        const meter = this.meters.get(sample.meter)!;
        const [known] = this.db.all<SampleRow>("SELECT * FROM sample WHERE at = ? AND meter = ?", sample.at, meter.id);
        const merged = known ? mergeSamples(toSample(known, sample.meter), sample) : sample;
        const { exportWh = null, importWh = null, serial = null, origin, values, boot, seq, signature } = merged;
        const vals = values ? JSON.stringify(values) : null;
        const code = ORIGINS.indexOf(origin);
        if (known && known.exported === exportWh && known.imported === importWh && known.serial === serial && known.origin === code) return;
        const proof = (boot ?? seq ?? signature) === undefined ? null : JSON.stringify({ boot, seq, signature });
        // What an interval was settled by stays known.
        if (known && known.since < this.stage) this.db.run("INSERT INTO superseded SELECT * FROM sample WHERE at = ? AND meter = ?", sample.at, meter.id);
        this.db.run("INSERT OR REPLACE INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", sample.at, meter.id, exportWh, importWh, serial, code, vals, proof, this.stage);
        const sealed = this.sealedTo();
        if (sealed !== undefined && (sample.at < Math.max(sealed, meter.usedTo + 1) || meter.isOpen)) this.markDirty(meter.id, sample.at);
    }

    /** The first interval that a late sample can change holds the sample before it; no settling again stops before its own. */
    private markDirty(meter: number, at: number): void {
        let [row] = this.db.all<{ number: number; starts: number }>("SELECT number, starts FROM interval WHERE starts <= ? ORDER BY starts DESC LIMIT 1", at);
        row ??= { number: 1, starts: 0 };
        const own = row.number;
        let until = at;
        while (row.number > 1 && this.db.all("SELECT 1 FROM sample WHERE meter = ? AND at >= ? AND at < ? LIMIT 1", meter, row.starts, until).length === 0) {
            until = row.starts;
            row = this.db.all<{ number: number; starts: number }>("SELECT number, starts FROM interval WHERE number = ?", row.number - 1)[0]!;
        }
        this.db.run("INSERT INTO dirty VALUES (?, ?, ?) ON CONFLICT (meter) DO UPDATE SET number = min(number, excluded.number), until = max(until, excluded.until)", meter, row.number, own);
    }

    /** Raw samples of a meter in [from, to), oldest first. */
    samples(meter: string, from: number, to: number): MeterSample[] {
        const id = this.meters.get(meter)?.id ?? -1;
        return this.db.all<SampleRow>("SELECT * FROM sample WHERE at >= ? AND at < ? AND meter = ? ORDER BY at", from, to, id).map((row) => toSample(row, meter));
    }

    // --- sealing

    /** Settles late data, seals what is due and makes reports; one run after the other. */
    check(): Promise<void> {
        return this.checks.take(() => this.run());
    }

    private async run(): Promise<void> {
        if (this.isClosing) return;
        this.commit();
        for (let isSealed = true; isSealed; ) {
            await nextTurn();
            if (this.isClosing) return;
            // What came in the meantime is settled before anything is sealed or reported.
            const [dirty] = this.db.all<{ meter: number; number: number; until: number }>("SELECT meter, number, until FROM dirty LIMIT 1");
            if (dirty) {
                this.resettle(dirty.meter, dirty.number, dirty.until);
                continue;
            }
            this.isHolding = true;
            try {
                isSealed = await this.sealNext();
                await nextTurn();
                await this.report();
            } finally {
                this.isHolding = false;
                this.commit();
            }
        }
    }

    /** @returns false when no interval is due. */
    private async sealNext(): Promise<boolean> {
        const { rules } = this.options;
        const last = this.lastInterval();
        const now = this.clock.now();
        const start = last?.ends ?? this.firstSample();
        if (start === undefined) return false;
        const { from, to } = intervalFrom(last ? start : firstStart(start, rules.intervalMs), rules.intervalMs, this.changes());
        if (now < to + rules.graceMs) return false;
        const number = (last?.number ?? 0) + 1;
        const breaks = new Breaks();
        const rows = new Map<number, SampleColumns>();
        for (const [first, end] of this.hours(from, to, number)) {
            this.read(rows, first, end);
            await breaks.take();
        }
        const openings = this.openings(number);
        const settled: { meter: Meter; result: Settled }[] = [];
        const parts: MeterInterval[] = [];
        for (const [name, records] of this.records) {
            const meter = this.meters.get(name)!;
            const opening = openings.get(meter.id);
            const result = this.settleMeter(name, rows.get(meter.id)?.samples(name) ?? [], from, to, opening);
            rows.delete(meter.id);
            const part = meterPart(records, result, from, to, rules, opening);
            if (part) parts.push(part);
            settled.push({ meter, result });
            await breaks.take();
            if (this.isClosing) return false;
        }
        const interval: Interval = { project: rules.project.id, number, from, to, sealedAt: now, meters: parts, simulated: parts.some(({ hours }) => hours.some((hour) => hour.simulated)) };
        const netWh = sum(parts, ({ exportWh, importWh }) => exportWh - importWh);
        const states = settled.flatMap(({ meter, result: { closing } }) => (closing ? [[meter.id, JSON.stringify(closing)]] : []));
        const body = JSON.stringify(interval);
        await nextTurn();
        const ends = settled.map(({ meter, result: { usedTo, isOpen } }) => [meter.id, usedTo, isOpen ? 1 : 0]);
        this.db.transaction(() => {
            this.db.run("INSERT INTO interval (number, starts, ends, net, body, stage, rules) VALUES (?, ?, ?, ?, ?, ?, ?)", number, from, to, netWh, body, this.stage, this.rulesId());
            // One statement for all meters: each costs more than what it does.
            this.db.run("INSERT OR REPLACE INTO state SELECT ?, value->>0, value->>1 FROM json_each(?)", number + 1, JSON.stringify(states));
            this.db.run("UPDATE meter SET used_to = value->>1, open = value->>2 FROM json_each(?) WHERE meter.id = value->>0", JSON.stringify(ends));
        });
        this.stage++;
        for (const { meter, result } of settled) Object.assign(meter, { usedTo: Math.max(result.usedTo, 0), isOpen: result.isOpen });
        return true;
    }

    /** An interval ends where the meters or the emission factor change. */
    private changes(): number[] {
        const { meters, factors } = this.options.rules;
        return [...topologyChanges(meters), ...factors.flatMap(({ validFrom, validTo }) => [validFrom, validTo])].toSorted((a, b) => a - b);
    }

    private settleMeter(name: string, samples: readonly MeterSample[], from: number, to: number, opening: MeterState | undefined): Settled {
        const more = (count: number) => this.db.all<SampleRow>("SELECT * FROM sample WHERE meter = ? AND at >= ? ORDER BY at LIMIT ?", this.meters.get(name)!.id, to, count).map((row) => toSample(row, name));
        return settleInterval({ ...this.options.rules, meters: this.recordsOf(name) }, name, samples, more, from, to, opening);
    }

    /** The rules of now, kept once. */
    private rulesId(): number {
        const { meters, intervalMs, minPoints, minCoverage, maxGapMs, allowSimulated } = this.options.rules;
        const body = JSON.stringify({ meters, intervalMs, minPoints, minCoverage, maxGapMs, allowSimulated });
        this.db.run("INSERT OR IGNORE INTO rules (body) VALUES (?)", body);
        return this.db.all<{ id: number }>("SELECT id FROM rules WHERE body = ?", body)[0]!.id;
    }

    private keepState(number: number, meter: number, { closing, usedTo, isOpen }: Settled): void {
        if (closing) this.db.run("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", number, meter, JSON.stringify(closing));
        else this.db.run("DELETE FROM state WHERE number = ? AND meter = ?", number, meter);
        if (number === (this.lastInterval()?.number ?? 0) + 1) this.db.run("UPDATE meter SET used_to = ?, open = ? WHERE id = ?", usedTo, isOpen ? 1 : 0, meter);
    }

    /** Settles sealed intervals of a meter again; what differs from what is recorded becomes an adjustment. */
    private resettle(meterId: number, first: number, until: number): void {
        const { rules } = this.options;
        const name = [...this.meters].find(([, { id }]) => id === meterId)![0];
        const meter = this.meters.get(name)!;
        // Taken out of the inventory since: what was sealed of it stays.
        const last = this.records.has(name) ? this.lastInterval()!.number : 0;
        this.db.transaction(() => {
            for (let number = first; number <= last; number++) {
                const interval = this.interval(number)!;
                const { from, to } = interval;
                const opening = this.opening(number, meterId);
                const result = this.settleMeter(name, this.rowsOf(meterId, name, from, to, number), from, to, opening);
                const part = meterPart(this.recordsOf(name), result, from, to, rules, opening);
                if (part) this.adjust(interval, part);
                const kept = JSON.stringify(this.opening(number + 1, meterId));
                this.keepState(number + 1, meterId, result);
                // From here on nothing changes.
                if (number >= until && number < last && kept === JSON.stringify(result.closing)) break;
            }
            this.db.run("DELETE FROM dirty WHERE meter = ?", meterId);
        });
        const [row] = this.db.all<{ used_to: number; open: number }>("SELECT used_to, open FROM meter WHERE id = ?", meterId);
        Object.assign(meter, { usedTo: row!.used_to, isOpen: row!.open === 1 });
    }

    private adjust(interval: Interval, now: MeterInterval): void {
        const sealed = interval.meters.find(({ meter }) => meter === now.meter);
        const before = this.adjustmentsOf(interval.number, now.meter);
        const change = (of: (part: Pick<MeterInterval, "exportWh" | "importWh" | "excludedExport" | "excludedImport">) => number) => of(now) - (sealed ? of(sealed) : 0) - sum(before, of);
        const excluded = (key: "excludedExport" | "excludedImport"): Excluded =>
            Object.fromEntries(EXCLUSIONS.map((reason) => [reason, change((part) => part[key][reason] ?? 0)] as const).filter(([, wh]) => wh !== 0));
        const adjustment = { exportWh: change((part) => part.exportWh), importWh: change((part) => part.importWh), excludedExport: excluded("excludedExport"), excludedImport: excluded("excludedImport") };
        const { exportWh, importWh, excludedExport, excludedImport } = adjustment;
        if (exportWh === 0 && importWh === 0 && Object.keys(excludedExport).length === 0 && Object.keys(excludedImport).length === 0) return;
        const [count] = this.db.all<{ n: number }>("SELECT count(*) AS n FROM adjustment");
        const number = count!.n + 1;
        const [reported] = this.db.all<{ key: string }>("SELECT key FROM report JOIN interval ON interval.report = report.number WHERE interval.number = ?", interval.number);
        const body: Adjustment = {
            number,
            interval: interval.number,
            from: interval.from,
            to: interval.to,
            meter: now.meter,
            madeAt: this.clock.now(),
            ...adjustment,
            simulated: now.hours.some((hour) => hour.simulated),
            ...(reported && { report: reported.key }),
        };
        this.db.run("INSERT INTO adjustment (number, interval, meter, body) VALUES (?, ?, ?, ?)", number, interval.number, now.meter, JSON.stringify(body));
    }

    // --- reports

    /** The report of what waits, whether it is ready or not; absent before the first interval. It records nothing. */
    preview(): Promise<Report | undefined> {
        return this.checks.take(async () => {
            this.commit();
            const pending = await this.intervals(this.db.all<{ number: number }>("SELECT number FROM interval WHERE report IS NULL ORDER BY number"));
            return pending.length > 0 ? { ...buildReport(this.inputOf(pending)), format: "wattledger.ams-i-d.preview/1" } : undefined;
        });
    }

    /** Records reports while there is one that is ready, or that a change of the factor ends. */
    private async report(): Promise<void> {
        const { rules } = this.options;
        for (;;) {
            const ends = this.db.all<{ number: number; starts: number; ends: number }>("SELECT number, starts, ends FROM interval WHERE report IS NULL ORDER BY number");
            const [first] = ends;
            if (!first) return;
            const factor = factorFor(rules.factors, first.starts, first.ends);
            const change = ends.findIndex(({ starts, ends: to }) => factorFor(rules.factors, starts, to) !== factor);
            const within = change === -1 ? ends : ends.slice(0, change);
            const isEnded = change !== -1 && factor !== undefined;
            const until = isEnded ? within.length - 1 : within.findLastIndex(({ ends: to }) => isReportEnd(to, rules.calendar));
            const newYear = within.findIndex(({ ends: to }, i) => i < until && isReportEnd(to, "year"));
            for (const end of newYear === -1 ? [until] : [newYear, until]) {
                if (end === -1) return;
                const isLast = end === until;
                const { number, ends: to } = within[end]!;
                const seen = `${isEnded} ${first.number} ${number} ${this.count("adjustment")} ${this.count("invoice")} ${this.count("adjustment WHERE accepted IS NOT NULL")} ${this.silent(to).join(" ")}`;
                if (isLast && seen === this.tried) return;
                const input = this.inputOf(await this.intervals(within.slice(0, end + 1)));
                const report = buildReport(input);
                await nextTurn();
                const isClosing = isEnded && isLast && report.refusals.every(({ code }) => code === "BELOW_MINIMUM" || code === "NET_NEGATIVE");
                if (report.ready || isClosing) {
                    this.record(report, input, factor!);
                    this.refusals = [];
                    break;
                }
                if (isLast) {
                    this.tried = seen;
                    this.refusals = report.refusals;
                    return;
                }
            }
        }
    }

    private inputOf(intervals: Interval[]): ReportInput {
        const { rules } = this.options;
        const to = intervals.at(-1)!.to;
        const number = this.count("report") + 1;
        const [last] = this.db.all<{ carry: string }>("SELECT carry FROM report ORDER BY number DESC LIMIT 1");
        const { project, meters, factors, acceptsUnsourced, minTonnes, version } = rules;
        const from = intervals[0]!.from;
        const invoices = this.db.all<{ body: string }>("SELECT body FROM invoice WHERE starts < ? ORDER BY starts", to).map(({ body }) => JSON.parse(body) as Invoice).filter((invoice) => invoice.to > from);
        return { project, number, intervals, adjustments: this.unapplied(to), carry: last ? (JSON.parse(last.carry) as Carry) : undefined, factors, acceptsUnsourced, meters, invoices, silent: this.silent(to), minTonnes, version };
    }

    /** Meters in service that no sample is known of since an instant. */
    private silent(since: number): string[] {
        const names = [...this.records.keys()].filter((name) => recordAt(this.recordsOf(name), since));
        return names.filter((name) => this.lastAt(this.meters.get(name)!) < since);
    }

    private lastAt(meter: Meter): number {
        return (meter.lastAt ??= this.db.all<{ at: number }>("SELECT at FROM sample WHERE meter = ? ORDER BY at DESC LIMIT 1", meter.id)[0]?.at ?? 0);
    }

    private record(report: Report, input: ReportInput, factor: Factor): void {
        const { period, figures, number, key } = report;
        const isFiled = report.ready;
        const claimedWh = isFiled ? figures.claimedWh : 0;
        const terms = this.termsOf(input);
        const carry: Carry = { wh: isFiled ? figures.carriedOutWh : figures.netWh, factor, report: key, simulated: report.simulated };
        this.db.transaction(() => {
            this.db.run("INSERT INTO report (number, key, starts, claimed, credits, carry, body, terms, sent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", number, key, period.fromMs, claimedWh, isFiled ? figures.credits : 0, JSON.stringify(carry), JSON.stringify(report), JSON.stringify(terms), isFiled ? 0 : 1);
            this.db.run("UPDATE interval SET report = ? WHERE number BETWEEN ? AND ?", number, ...period.intervals);
            for (const adjustment of report.adjustments.filter(isDue)) this.db.run("UPDATE adjustment SET report = ? WHERE number = ?", number, adjustment.number);
        });
        this.stage++;
    }

    private termsOf(input: ReportInput): CapsuleTerms {
        const rows = this.db.all<{ number: number; stage: number; rules: number }>("SELECT number, stage, rules FROM interval WHERE report IS NULL ORDER BY number");
        const kept = this.db.all<{ id: number; body: string }>("SELECT id, body FROM rules ORDER BY id");
        const used = new Map(rows.map(({ number, stage, rules }) => [number, { stage, rules: kept.find(({ id }) => id === rules)!.body }]));
        const openings = this.openings(rows[0]!.number);
        const states = Object.fromEntries([...this.meters].map(([name, { id }]) => [name, openings.get(id)] as const));
        return evidenceTerms(input, this.stage, states, (number) => used.get(number)!);
    }

    /**
     * Terms and raw samples of a recorded report, as `capsuleLines` takes them. The samples are read as they are asked for; undefined stands
     * for a pause in which more are read.
     * @throws WattError REPORT_UNKNOWN
     */
    evidence(number: number): { terms: CapsuleTerms; samples: Iterable<RawSample | undefined> } {
        const [row] = this.db.all<{ terms: string }>("SELECT terms FROM report WHERE number = ?", number);
        if (!row) throw new WattError("REPORT_UNKNOWN", `There is no report ${number}.`);
        const terms = JSON.parse(row.terms) as CapsuleTerms;
        return { terms, samples: this.rawSamples(terms) };
    }

    /** The book is in the order of time, a capsule in that of meters: each reading of it takes as many meters as memory may hold. */
    private *rawSamples(terms: CapsuleTerms): Generator<RawSample | undefined> {
        const { from, to, stage, sealed } = samplesNeeded(terms);
        const [edge] = this.db.all<{ first: number | null; last: number | null }>("SELECT (SELECT at FROM sample WHERE at >= ? ORDER BY at LIMIT 1) AS first, (SELECT at FROM sample ORDER BY at DESC LIMIT 1) AS last", from);
        const { first, last } = edge!;
        if (first === null || last === null) return;
        const [hour] = this.db.all<{ n: number }>("SELECT count(*) AS n FROM sample WHERE at >= ? AND at < ?", first, first + READ_MS);
        const chunkMs = Math.min(CHUNK_MS, Math.ceil((READ_MS * ROWS_A_QUERY) / hour!.n));
        const names = [...this.meters.keys()].toSorted();
        const perMeter = (hour!.n / names.length) * ((to - first) / READ_MS);
        const size = Math.max(1, Math.floor(ROWS_IN_MEMORY / perMeter));
        for (let i = 0; i < names.length; i += size) {
            const group = new Map(names.slice(i, i + size).map((name) => [this.meters.get(name)!.id, new RawRows(terms.period.to, to, sealed)]));
            const ids = JSON.stringify([...group.keys()]);
            for (let start = first; start <= last; start += chunkMs) {
                if (start >= to && [...group.values()].every(({ isFull }) => isFull)) break;
                for (const table of ["sample", "superseded"]) {
                    const sql = `SELECT * FROM ${table} WHERE at >= ? AND at < ? AND since <= ? AND meter IN (SELECT value FROM json_each(?)) ORDER BY at`;
                    for (const row of this.db.all<SampleRow>(sql, start, start + chunkMs, stage, ids)) group.get(row.meter)!.add(row, table === "sample");
                }
                yield undefined;
            }
            for (const name of names.slice(i, i + size)) {
                const rows = group.get(this.meters.get(name)!.id)!.needed();
                yield* rows.map((row): RawSample => ({ ...toSample(row, name), since: row.since })).toSorted(compareSamples);
            }
        }
    }

    /** A person answers for late data that raise a claim. @throws WattError ADJUSTMENT_UNKNOWN */
    accept(numbers: readonly number[], who: string): void {
        const waiting = new Set(this.unapplied(Infinity).filter((adjustment) => !isDue(adjustment)).map(({ number }) => number));
        const unknown = numbers.find((number) => !waiting.has(number));
        if (unknown !== undefined) throw new WattError("ADJUSTMENT_UNKNOWN", `Adjustment ${unknown} does not wait for anyone: only late data that raise a claim do.`);
        this.db.transaction(() => {
            for (const number of numbers) this.db.run("UPDATE adjustment SET accepted = ? WHERE number = ?", who, number);
        });
    }

    /** Keeps an invoice; one that begins at the same time takes its place until a report has used it. */
    addInvoice(invoice: Invoice): void {
        this.db.run("INSERT OR REPLACE INTO invoice VALUES (?, ?)", invoice.from, JSON.stringify(invoice));
    }

    // --- what is recorded

    interval(number: number): Interval | undefined {
        const [row] = this.db.all<{ body: string }>("SELECT body FROM interval WHERE number = ?", number);
        return row && (JSON.parse(row.body) as Interval);
    }

    /** The newest sealed intervals, oldest first. */
    newest(count: number): Promise<Interval[]> {
        return this.intervals(this.db.all<{ number: number }>("SELECT number FROM interval ORDER BY number DESC LIMIT ?", count).toReversed());
    }

    /** The report as it was recorded. */
    reportOf(number: number): Report | undefined {
        const [row] = this.db.all<{ body: string }>("SELECT body FROM report WHERE number = ?", number);
        return row && (JSON.parse(row.body) as Report);
    }

    /** Periods that were closed without filing right before a report, oldest first: it holds what they left over. */
    closedBefore(number: number): Report[] {
        const report = this.reportOf(number - 1);
        return report && !report.ready ? [...this.closedBefore(number - 1), report] : [];
    }

    news(): News {
        const bodies = (table: string) => this.db.all<{ body: string }>(`SELECT body FROM ${table} WHERE sent = 0 ORDER BY number LIMIT 100`).map(({ body }) => JSON.parse(body) as unknown);
        return { intervals: bodies("interval") as Interval[], adjustments: bodies("adjustment") as Adjustment[], reports: bodies("report") as Report[] };
    }

    /** Marks news as handed on. */
    sent({ intervals, adjustments, reports }: News): void {
        this.db.transaction(() => {
            for (const { number } of intervals) this.db.run("UPDATE interval SET sent = 1 WHERE number = ?", number);
            for (const { number } of adjustments) this.db.run("UPDATE adjustment SET sent = 1 WHERE number = ?", number);
            for (const { number } of reports) this.db.run("UPDATE report SET sent = 1 WHERE number = ?", number);
        });
    }

    stats(): BookStats {
        const sealedTo = this.sealedTo();
        const [pending] = this.db.all<{ wh: number }>("SELECT coalesce(sum(net), 0) AS wh FROM interval WHERE report IS NULL");
        const [done] = this.db.all<{ wh: number; n: number; credits: number }>("SELECT coalesce(sum(claimed), 0) AS wh, count(*) AS n, coalesce(sum(credits), 0) AS credits FROM report");
        const [last] = this.db.all<{ carry: string }>("SELECT carry FROM report ORDER BY number DESC LIMIT 1");
        return {
            ...(sealedTo !== undefined && { sealedTo }),
            pendingWh: pending!.wh + (last ? (JSON.parse(last.carry) as Carry).wh : 0),
            claimedWh: done!.wh,
            credits: done!.credits,
            reports: done!.n,
            waiting: this.unapplied(Infinity).filter((adjustment) => !isDue(adjustment)).length,
        };
    }

    async close(): Promise<void> {
        this.isClosing = true;
        await this.checks.take(async () => undefined);
        this.commit();
        const { owned } = this;
        this.owned = undefined;
        await owned?.close();
    }

    // --- rows

    private count(table: string): number {
        return this.db.all<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)[0]!.n;
    }

    private firstSample(): number | undefined {
        return this.db.all<{ at: number }>("SELECT at FROM sample ORDER BY at LIMIT 1")[0]?.at;
    }

    private lastInterval(): { number: number; ends: number } | undefined {
        return this.db.all<{ number: number; ends: number }>("SELECT number, ends FROM interval ORDER BY number DESC LIMIT 1")[0];
    }

    private sealedTo(): number | undefined {
        return this.lastInterval()?.ends;
    }

    /** Those of a large plant are megabytes each. */
    private async intervals(numbers: readonly { number: number }[]): Promise<Interval[]> {
        const breaks = new Breaks();
        const found: Interval[] = [];
        for (const { number } of numbers) {
            found.push(this.interval(number)!);
            await breaks.take();
        }
        return found;
    }

    private unapplied(to: number): Adjustment[] {
        const rows = this.db.all<{ body: string; accepted: string | null }>("SELECT body, accepted FROM adjustment WHERE report IS NULL ORDER BY number");
        return rows.map(({ body, accepted }) => ({ ...(JSON.parse(body) as Adjustment), ...(accepted !== null && { accepted }) })).filter((adjustment) => adjustment.to <= to);
    }

    private adjustmentsOf(interval: number, meter: string): Adjustment[] {
        return this.db.all<{ body: string }>("SELECT body FROM adjustment WHERE interval = ? AND meter = ?", interval, meter).map(({ body }) => JSON.parse(body) as Adjustment);
    }

    private opening(number: number, meter: number): MeterState | undefined {
        const [row] = this.db.all<{ body: string }>("SELECT body FROM state WHERE number = ? AND meter = ?", number, meter);
        return row && (JSON.parse(row.body) as MeterState);
    }

    private openings(number: number): Map<number, MeterState> {
        return new Map(this.db.all<{ meter: number; body: string }>("SELECT meter, body FROM state WHERE number = ?", number).map(({ meter, body }) => [meter, JSON.parse(body) as MeterState]));
    }

    private recordsOf(name: string): MeterRecord[] {
        return this.records.get(name) ?? [];
    }

    /** Samples of one meter of an interval and shortly after it. */
    private rowsOf(meter: number, name: string, from: number, to: number, number: number): MeterSample[] {
        const rows = new Map<number, SampleColumns>();
        for (const [first, end] of this.hours(from, to, number)) this.read(rows, first, end, meter);
        return rows.get(meter)?.samples(name) ?? [];
    }

    /** The times that an interval is settled by, in parts that a query takes; the first interval takes in what is older. */
    private *hours(from: number, to: number, number: number): Generator<[first: number, end: number]> {
        const until = to + this.options.rules.maxGapMs;
        for (let start = number === 1 ? 0 : from, end: number; start < until; start = end) {
            end = start < from ? from : Math.min(start + READ_MS, until);
            yield [start, end];
        }
    }

    private read(into: Map<number, SampleColumns>, from: number, to: number, only?: number): void {
        const sql = `SELECT json_group_array(json_array(meter, at, origin, exported, imported, serial, json(vals))) AS body FROM sample WHERE at >= ? AND at < ?${only === undefined ? "" : " AND meter = ?"}`;
        const [row] = this.db.all<{ body: string }>(sql, from, to, ...(only === undefined ? [] : [only]));
        for (const tuple of JSON.parse(row!.body) as SampleTuple[]) {
            let columns = into.get(tuple[0]);
            if (!columns) into.set(tuple[0], (columns = new SampleColumns()));
            columns.add(tuple);
        }
    }
}

/** What a book was kept by last, as fields of the dialog; for a program that has only the file, which nobody else has open. */
export function keptBy(file: string): { lastAt: number; project?: Project; fields: Record<string, unknown> } {
    const db = openDatabase(file);
    const last = <T>(sql: string) => db.all<{ body: string }>(sql).map(({ body }) => JSON.parse(body) as T)[0];
    try {
        const rules = last<Pick<BookRules, "meters" | "intervalMs" | "minPoints" | "minCoverage" | "maxGapMs" | "allowSimulated">>("SELECT body FROM rules ORDER BY id DESC LIMIT 1");
        const terms = last<{ settings: { project: Project; acceptsUnsourced: boolean; minTonnes: number }; factor: { factors: Factor[] } }>("SELECT terms AS body FROM report ORDER BY number DESC LIMIT 1");
        const fields = {
            ...(rules && { meters: JSON.stringify(rules.meters), intervalHours: rules.intervalMs / 3_600_000, minPoints: rules.minPoints, minCoveragePct: rules.minCoverage * 100, maxGapMinutes: rules.maxGapMs / 60_000, allowSimulated: rules.allowSimulated }),
            ...(terms && { factors: JSON.stringify(terms.factor.factors), acceptsUnsourced: terms.settings.acceptsUnsourced, minTonnes: terms.settings.minTonnes }),
        };
        const [sample] = db.all<{ at: number }>("SELECT at FROM sample ORDER BY at DESC LIMIT 1");
        return { lastAt: sample?.at ?? 0, fields, ...(terms && { project: terms.settings.project }) };
    } finally {
        db.close();
    }
}

type SampleTuple = [meter: number, at: number, origin: number, exported: number | null, imported: number | null, serial: string | null, values: Record<string, number> | null];

/** Samples of one meter as columns: an object each would keep a million alive at once for the day of a large plant. */
class SampleColumns {
    private readonly numbers: number[] = [];
    private readonly extras = new Map<number, { serial?: string; values?: Record<string, number> }>();

    add([_meter, at, origin, exported, imported, serial, values]: SampleTuple): void {
        if (serial !== null || values !== null) this.extras.set(at, { ...(serial !== null && { serial }), ...(values !== null && { values }) });
        this.numbers.push(at, origin, exported ?? -1, imported ?? -1);
    }

    samples(meter: string): MeterSample[] {
        const { numbers, extras } = this;
        const samples: MeterSample[] = [];
        let isOrdered = true;
        for (let i = 0; i < numbers.length; i += 4) {
            const at = numbers[i]!;
            const sample: MeterSample = { meter, at, origin: ORIGINS[numbers[i + 1]!]! };
            if (numbers[i + 2]! >= 0) sample.exportWh = numbers[i + 2]!;
            if (numbers[i + 3]! >= 0) sample.importWh = numbers[i + 3]!;
            if (extras.size > 0) Object.assign(sample, extras.get(at));
            isOrdered &&= i === 0 || at > numbers[i - 4]!;
            samples.push(sample);
        }
        // SQLite does not promise the order of what an aggregate is made of.
        return isOrdered ? samples : samples.toSorted((a, b) => a.at - b.at);
    }
}

function toSample({ at, exported, imported, serial, origin, vals, proof }: SampleRow, meter: string): MeterSample {
    const sample: MeterSample = { meter, at, origin: ORIGINS[origin]! };
    if (proof !== null) Object.assign(sample, JSON.parse(proof));
    if (exported !== null) sample.exportWh = exported;
    if (imported !== null) sample.importWh = imported;
    if (serial !== null) sample.serial = serial;
    if (vals !== null) sample.values = JSON.parse(vals) as Record<string, number>;
    return sample;
}

/** For a capsule a query reads at most so long a time, and about so many rows of all meters. */
const CHUNK_MS = 6 * 3_600_000;
const ROWS_A_QUERY = 5000;
/** So many rows are held at once, about. */
const ROWS_IN_MEMORY = 100_000;

/** What a capsule needs of one meter: all up to an instant, and of what came later the samples that closed its last interval. */
class RawRows {
    private readonly rows: SampleRow[] = [];
    /** Samples known at the sealing since the end of the period: how many, and the time of the last one needed. */
    private count = 0;
    private lastAt = 0;

    constructor(
        private readonly periodEnd: number,
        private readonly to: number,
        private readonly sealed: number,
    ) {}

    get isFull(): boolean {
        return this.count >= LOOK_AHEAD;
    }

    add(row: SampleRow, isCurrent: boolean): void {
        this.rows.push(row);
        if (!isCurrent || row.since > this.sealed || (this.isFull && row.at > this.lastAt)) return;
        this.lastAt = Math.max(this.lastAt, row.at);
        if (row.at >= this.periodEnd) this.count++;
    }

    needed(): SampleRow[] {
        const until = Math.max(this.to, this.lastAt + 1);
        return this.rows.filter(({ at }) => at < until);
    }
}

async function refuseDamaged(file: string): Promise<void> {
    const name = path.basename(file);
    const found = await readdir(path.dirname(file)).catch((error: unknown) => {
        if (errorCode(error) === "ENOENT") return [];
        throw toError(error);
    });
    const aside = found.find((other) => other.startsWith(`${name}.damaged-`));
    if (aside !== undefined) throw damaged(path.join(path.dirname(file), aside));
}

function damaged(file: string): WattError {
    return new WattError("BOOK_DAMAGED", `The carbon book was damaged and is set aside as ${path.basename(file)}. A new one would claim the same periods again: put back a copy from a backup under its old name and remove the damaged one.`);
}
