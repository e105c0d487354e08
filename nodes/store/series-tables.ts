import { localDay } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import type { PointValue } from "../common/reading.js";
import { Breaks } from "../common/turns.js";
import { isPointName } from "../common/units.js";
import { aggregate, combine, decodeRollups, decodeSamples, encodeRollups, encodeSamples, Names, type RawRow, type Rollup, type RollupRow } from "./series-codec.js";
import type { Database } from "./sqlite.js";

/** Width of a roll-up's bucket: a minute or an hour (UTC), or a local day of the site. */
export type Resolution = "minute" | "hour" | "day";

/** Finer to coarser. */
export const LEVELS = ["minute", "hour", "day"] as const;
export const TABLES = ["raw", ...LEVELS] as const;

export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
const WIDTH: Record<Resolution, number> = { minute: MINUTE, hour: HOUR, day: DAY };

/** Times stay below, so that a key fits SQLite's integers: 2039. */
export const LAST_MS = 2 ** 41;

export interface Device {
    /** Undefined until the database knows it. */
    id: number | undefined;
    readonly site: string;
    readonly device: string;
    readonly class: string;
    names: Names;
}

/** Samples by device and time. */
export type Samples = Map<Device, Map<number, Record<string, PointValue>>>;

/** Rows are keyed by time first, then device, in one integer: the other way round writes 40 times more to the card. */
const SCHEMA = `
CREATE TABLE IF NOT EXISTS device (id INTEGER PRIMARY KEY, site TEXT NOT NULL, device TEXT NOT NULL, class TEXT NOT NULL, UNIQUE (site, device));
CREATE TABLE IF NOT EXISTS point (device INTEGER NOT NULL, place INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (device, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS raw (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS minute (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS hour (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS day (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dirty (level INTEGER NOT NULL, k INTEGER NOT NULL, PRIMARY KEY (level, k)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
`;
const SCHEMA_VERSION = 1;
/** A key holds 16 bits of device. */
const MOST_DEVICES = 65_535;
const MOST_POINTS = 4096;
/** A minute is rolled up so long after its end, so that what comes a little late does not write it twice. */
const SETTLE_MS = 15_000;
/** Work on the event loop pauses after so long. */
const SLICE_MS = 8;
/** Free pages (4 KB) of the database that a full disk is answered with. */
const ROOM_PAGES = 256;
/** Rows that one statement deletes. */
const DELETE_ROWS = 64;
/** Rows and pages looked through for the newest values at start. */
const NEWEST_ROWS = 50;
const NEWEST_PAGES = 100;

/**
 * The tables of the series, and what waits for its commit beside them. A row of `raw` holds the samples of one device within one
 * minute and one commit. What changed is marked `dirty` until its roll-ups are computed anew, so late and repeated samples count once.
 */
export class SeriesTables {
    readonly devices = new Map<string, Device>();
    /** Absent while there is no database; then what waits is all there is. */
    private db: Database | undefined;
    private readonly byId = new Map<number, Device>();
    private dayCache = { start: 0, end: 0 };
    /** Samples not taken because there are too many devices or points, or their name is no point's. */
    refused = 0;

    /**
     * @param waiting Samples that no table holds yet; a query sees them as well.
     * @param zone IANA zone of the local day.
     */
    constructor(
        private readonly waiting: () => (Samples | undefined)[],
        private readonly zone: string,
    ) {}

    /** @throws WattError SERIES_NEWER for a database of a later version, and what the database throws. */
    attach(db: Database): void {
        const version = db.all<{ user_version: number }>("PRAGMA user_version")[0]?.user_version ?? 0;
        if (version > SCHEMA_VERSION) {
            throw new WattError("SERIES_NEWER", "The series was written by a later version: install that version again, or choose another folder.");
        }
        if (version < SCHEMA_VERSION) db.exec(`${SCHEMA}PRAGMA user_version = ${SCHEMA_VERSION}`);
        this.db = db;
        this.load(db);
        const zone = db.all<{ value: string }>("SELECT value FROM meta WHERE key = 'zone'")[0]?.value;
        if (zone !== this.zone) db.transaction(() => this.changeZone(db, zone));
    }

    detach(): void {
        this.db = undefined;
    }

    private load(db: Database): void {
        this.byId.clear();
        for (const device of this.devices.values()) {
            device.id = undefined;
            device.names = new Names();
        }
        for (const { id, site, device: name, class: kind } of db.all<{ id: number; site: string; device: string; class: string }>("SELECT * FROM device")) {
            const device = this.device(site, name, kind);
            device.id = id;
            this.byId.set(id, device);
        }
        for (const { device, name } of db.all<{ device: number; name: string }>("SELECT device, name FROM point ORDER BY device, place")) {
            this.byId.get(device)?.names.add(name);
        }
    }

    /** The device of that name, made when it is new. */
    device(site: string, name: string, kind: string): Device {
        const key = `${site}/${name}`;
        let device = this.devices.get(key);
        if (!device) this.devices.set(key, (device = { id: undefined, site, device: name, class: kind, names: new Names() }));
        return device;
    }

    /** Days of another zone begin elsewhere: as far as the hours reach back, they are computed anew. */
    private changeZone(db: Database, before: string | undefined): void {
        db.run("INSERT OR REPLACE INTO meta VALUES ('zone', ?)", this.zone);
        const hours = db.all<{ t: number; d: number }>("SELECT k >> 16 AS t, k & 65535 AS d FROM hour ORDER BY k");
        if (before === undefined || hours.length === 0) return;
        db.run("DELETE FROM day WHERE k >= (? << 16)", localDay(hours[0]!.t, before).start);
        for (const { t, d } of hours) for (const start of this.startsOver("day", t, HOUR)) this.mark(db, "day", start, d);
    }

    // --- writing

    /** Adds samples, all or none. @throws what the database throws; then attach again, as numbers were given that do not hold. */
    async write(samples: Samples): Promise<void> {
        const db = this.db!;
        const breaks = new Breaks(SLICE_MS);
        const chunks: { device: Device; rows: RawRow[]; blob: Buffer }[] = [];
        db.transaction(() => {
            for (const [device, times] of samples) this.register(db, device, times);
        });
        for (const [device, times] of samples) {
            if (device.id === undefined) continue;
            for (const rows of byMinute(times)) {
                chunks.push({ device, rows, blob: encodeSamples(rows, rows[0]!.t, device.names) });
                await breaks.take();
            }
        }
        db.transaction(() => {
            for (const { device, rows, blob } of chunks) this.insert(db, device, rows, blob);
        });
    }

    /** Gives a device and its points their numbers. */
    private register(db: Database, device: Device, times: Map<number, Record<string, PointValue>>): void {
        if (device.id === undefined) {
            const id = (db.all<{ id: number | null }>("SELECT max(id) AS id FROM device")[0]?.id ?? 0) + 1;
            if (id > MOST_DEVICES) {
                this.refused += times.size;
                return;
            }
            db.run("INSERT INTO device VALUES (?, ?, ?, ?)", id, device.site, device.device, device.class);
            device.id = id;
            this.byId.set(id, device);
        }
        for (const values of times.values()) {
            for (const name in values) {
                if (device.names.placeOf(name) !== undefined) continue;
                if (!isPointName(name) || device.names.list.length >= MOST_POINTS) this.refused++;
                else db.run("INSERT INTO point VALUES (?, ?, ?)", device.id, device.names.add(name), name);
            }
        }
    }

    private insert(db: Database, device: Device, rows: RawRow[], blob: Buffer): void {
        const id = device.id!;
        const t0 = rows[0]!.t;
        const [found] = db.all<{ v: Uint8Array }>("SELECT v FROM raw WHERE k = ((? << 16) | ?)", t0, id);
        const all = found ? encodeSamples(mergeRows([decodeSamples(found.v, t0, device.names), rows]), t0, device.names) : blob;
        db.run("INSERT OR REPLACE INTO raw VALUES ((? << 16) | ?, ?)", t0, id, all);
        this.mark(db, "minute", floorTo(t0, MINUTE), id);
    }

    private mark(db: Database, level: Resolution, start: number, id: number): void {
        db.run("INSERT OR IGNORE INTO dirty VALUES (?, (? << 16) | ?)", LEVELS.indexOf(level), start, id);
    }

    /** Computes the buckets whose samples changed and whose time is over at `now`, until told to stop. */
    async roll(now: number, isStopped: () => boolean): Promise<void> {
        for (const level of LEVELS) {
            const end = this.startOf(level, now - SETTLE_MS);
            while (!isStopped() && this.db && (await this.rollSome(this.db, level, end)));
        }
    }

    private async rollSome(db: Database, level: Resolution, end: number): Promise<boolean> {
        const breaks = new Breaks(SLICE_MS);
        const sql = "SELECT k >> 16 AS t, k & 65535 AS d FROM dirty WHERE level = ? AND k < (? << 16) ORDER BY k LIMIT 64";
        const marks = db.all<{ t: number; d: number }>(sql, LEVELS.indexOf(level), end);
        const done: { t: number; d: number; device: Device | undefined; values: Record<string, Rollup> }[] = [];
        for (const { t, d } of marks) {
            const device = this.byId.get(d);
            done.push({ t, d, device, values: device ? await this.compute(level, device, t) : {} });
            await breaks.take();
        }
        const next = LEVELS[LEVELS.indexOf(level) + 1];
        db.transaction(() => {
            for (const { t, d, device, values } of done) {
                db.run("DELETE FROM dirty WHERE level = ? AND k = ((? << 16) | ?)", LEVELS.indexOf(level), t, d);
                if (!device || Object.keys(values).length === 0) continue;
                db.run(`INSERT OR REPLACE INTO ${level} VALUES ((? << 16) | ?, ?)`, t, d, encodeRollups(values, device.names));
                if (next) for (const start of this.startsOver(next, t, WIDTH[level])) this.mark(db, next, start, d);
            }
        });
        return marks.length > 0;
    }

    /** Deletes the rows of a table that begin before `cutoff`. */
    async deleteBefore(table: (typeof TABLES)[number], cutoff: number): Promise<void> {
        const breaks = new Breaks(SLICE_MS);
        while (this.db && deleteOldest(this.db, table, cutoff) > 0) await breaks.take();
    }

    /**
     * Shortens the log, then deletes the oldest rows of the finest width there is, until the database has free pages: what a full
     * disk needs. Resolves with the rows deleted. Both take some room before they give any.
     */
    async makeRoom(): Promise<number> {
        const db = this.db!;
        const breaks = new Breaks(SLICE_MS);
        const checkpoint = () => {
            try {
                db.all("PRAGMA wal_checkpoint(TRUNCATE)");
            } catch {
                // What follows may help, or fails and is told.
            }
        };
        const freePages = () => db.all<{ freelist_count: number }>("PRAGMA freelist_count")[0]!.freelist_count;
        checkpoint();
        let deleted = 0;
        for (const table of TABLES) {
            for (let rows = 1; rows > 0 && freePages() < ROOM_PAGES; deleted += rows) {
                rows = deleteOldest(db, table, LAST_MS);
                await breaks.take();
            }
        }
        checkpoint();
        return deleted;
    }

    // --- reading

    /** The newest `limit` samples in [from, to), oldest first. */
    async samples(device: Device, from: number, to: number, limit: number): Promise<RawRow[]> {
        // Before the first pause: what is committed meanwhile must be found here or there.
        const parts = this.waiting().map((part) => [...(part?.get(device) ?? [])].filter(([t]) => t >= from && t < to).map(([t, values]) => ({ t, values: { ...values } })));
        const breaks = new Breaks(SLICE_MS);
        const sql = "SELECT k >> 16 AS t, v FROM raw WHERE k >= (? << 16) AND k < (? << 16) AND (k & 65535) = ?";
        const stored: RawRow[][] = [];
        let found = 0;
        // A row begins in the minute it ends in.
        const [first, last] = this.extent("raw", floorTo(from, MINUTE), to);
        for (let end = last; end > first && found < limit && this.db; ) {
            const start = Math.max(first, floorTo(end - 1, 10 * MINUTE));
            const chunks = this.db.all<{ t: number; v: Uint8Array }>(sql, start, end, device.id ?? -1);
            const rows = chunks.flatMap(({ t, v }) => decodeSamples(v, t, device.names)).filter(({ t }) => t >= from && t < to);
            stored.unshift(rows);
            found += rows.length;
            end = start;
            await breaks.take();
        }
        return mergeRows([...stored, ...parts]).slice(-limit);
    }

    /** Buckets that start in [from, to), as stored; those whose samples have changed since, and the open one, are computed. */
    async buckets(level: Resolution, device: Device, from: number, to: number): Promise<RollupRow[]> {
        if (to <= from) return [];
        // Before the first pause, as above.
        const changed = this.changed(level, device, from, to);
        const rows = new Map<number, RollupRow>();
        const breaks = new Breaks(SLICE_MS);
        const sql = `SELECT k >> 16 AS t, v FROM ${level} WHERE k >= (? << 16) AND k < (? << 16) AND (k & 65535) = ?`;
        const width = level === "minute" ? 6 * HOUR : 60 * DAY;
        const [first, last] = this.extent(level, from, to);
        for (let start = first; start < last && this.db; start += width) {
            for (const { t, v } of this.db.all<{ t: number; v: Uint8Array }>(sql, start, Math.min(last, start + width), device.id ?? -1)) {
                rows.set(t, { t, values: decodeRollups(v, device.names) });
            }
            await breaks.take();
        }
        for (const t of changed) {
            const values = await this.compute(level, device, t);
            if (Object.keys(values).length > 0) rows.set(t, { t, values });
        }
        return [...rows.values()].toSorted((a, b) => a.t - b.t);
    }

    /**
     * The newest rows of every device, older ones first, as far as they are found within reason. A point that is rare, or of a
     * device that is silent, is known by its last roll-up.
     */
    async *newest(): AsyncGenerator<{ device: Device; rows: RawRow[] }> {
        const fresh = new Map<Device, RawRow[]>();
        for await (const { device, t, v } of this.newestOf("raw")) fresh.set(device, decodeSamples(v, t, device.names));
        for (const table of ["day", "hour"] as const) {
            for await (const { device, t, v } of this.newestOf(table)) {
                const values = Object.fromEntries(Object.entries(decodeRollups(v, device.names)).map(([name, { last }]) => [name, last]));
                const [sample] = fresh.has(device) ? [] : await this.samples(device, t, t + (table === "day" ? DAY : HOUR), 1);
                yield { device, rows: [{ t: sample?.t ?? t, values }] };
            }
        }
        for (const [device, rows] of fresh) yield { device, rows };
    }

    /** The newest row of each device in a table. */
    private async *newestOf(table: string): AsyncGenerator<{ device: Device; t: number; v: Uint8Array }> {
        const missing = new Set(this.byId.keys());
        const breaks = new Breaks(SLICE_MS);
        const sql = `SELECT k >> 16 AS t, k & 65535 AS d, v FROM ${table} WHERE k < ((? << 16) | ?) ORDER BY k DESC LIMIT ?`;
        let before = { t: LAST_MS, d: 0 };
        for (let pages = 0; this.db && missing.size > 0 && pages < NEWEST_PAGES; pages++) {
            const rows = this.db.all<{ t: number; d: number; v: Uint8Array }>(sql, before.t, before.d, NEWEST_ROWS);
            for (const { t, d, v } of rows) {
                const device = this.byId.get(d);
                if (device && missing.delete(d)) yield { device, t, v };
            }
            const last = rows.at(-1);
            if (!last) return;
            before = last;
            await breaks.take();
        }
    }

    /** One bucket from the next finer level. */
    private async compute(level: Resolution, device: Device, start: number): Promise<Record<string, Rollup>> {
        if (level === "minute") return aggregate(await this.samples(device, start, start + MINUTE, Infinity));
        if (level === "hour") return combine((await this.buckets("minute", device, start, start + HOUR)).map(({ values }) => values));
        // A zone may be off by half an hour: then the edges of its day are minutes.
        const { end } = this.dayOf(start);
        const [firstHour, lastHour] = [Math.ceil(start / HOUR) * HOUR, floorTo(end, HOUR)];
        const parts = [
            ...(await this.buckets("minute", device, start, firstHour)),
            ...(await this.buckets("hour", device, firstHour, lastHour)),
            ...(await this.buckets("minute", device, lastHour, end)),
        ];
        return combine(parts.map(({ values }) => values));
    }

    /** Starts of the buckets in [from, to) that are not stored as they should be. */
    private changed(level: Resolution, device: Device, from: number, to: number): Set<number> {
        const starts = new Set<number>();
        const add = (t: number, width: number) => {
            for (const start of this.startsOver(level, t, width)) if (start >= from && start < to) starts.add(start);
        };
        for (const part of this.waiting()) for (const t of part?.get(device)?.keys() ?? []) add(t, 1);
        const sql = "SELECT level, k >> 16 AS t FROM dirty WHERE level <= ? AND (k & 65535) = ?";
        const marks = this.db?.all<{ level: number; t: number }>(sql, LEVELS.indexOf(level), device.id ?? -1) ?? [];
        for (const mark of marks) add(mark.t, WIDTH[LEVELS[mark.level]!]);
        return starts;
    }

    /** What of [from, to) a table can hold rows of. */
    private extent(table: string, from: number, to: number): [number, number] {
        const end = (which: string) => this.db?.all<{ t: number | null }>(`SELECT ${which}(k) >> 16 AS t FROM ${table}`)[0]?.t ?? undefined;
        const [first, last] = [end("min"), end("max")];
        return first === undefined || last === undefined ? [0, 0] : [Math.max(from, first), Math.min(to, last + 1)];
    }

    /** Starts of the buckets that [t, t + width) lies in: two where a zone is off by half an hour, as its days end within an hour. */
    private startsOver(level: Resolution, t: number, width: number): Set<number> {
        return new Set([this.startOf(level, t), this.startOf(level, t + width - 1)]);
    }

    private startOf(level: Resolution, t: number): number {
        if (level === "day") return this.dayOf(t).start;
        return floorTo(t, level === "minute" ? MINUTE : HOUR);
    }

    private dayOf(t: number): { start: number; end: number } {
        if (t < this.dayCache.start || t >= this.dayCache.end) this.dayCache = localDay(t, this.zone);
        return this.dayCache;
    }
}

export function floorTo(t: number, width: number): number {
    return Math.floor(t / width) * width;
}

/** Samples in the order of time, cut where a minute ends. */
function byMinute(times: Map<number, Record<string, PointValue>>): RawRow[][] {
    const rows = [...times].map(([t, values]) => ({ t, values })).toSorted((a, b) => a.t - b.t);
    const minutes: RawRow[][] = [];
    for (const row of rows) {
        const last = minutes.at(-1);
        if (last && floorTo(last[0]!.t, MINUTE) === floorTo(row.t, MINUTE)) last.push(row);
        else minutes.push([row]);
    }
    return minutes;
}

/** One row a time, in the order of time; of the same point and time the later part holds. */
function mergeRows(parts: RawRow[][]): RawRow[] {
    const rows = new Map<number, RawRow>();
    for (const { t, values } of parts.flat()) {
        const known = rows.get(t);
        if (known) Object.assign(known.values, values);
        else rows.set(t, { t, values });
    }
    return [...rows.values()].toSorted((a, b) => a.t - b.t);
}

/** Deletes some of the oldest rows that begin before `cutoff`; how many. */
function deleteOldest(db: Database, table: string, cutoff: number): number {
    const some = `SELECT k FROM ${table} WHERE k < (? << 16) ORDER BY k LIMIT ${DELETE_ROWS}`;
    const rows = db.all<{ n: number }>(`SELECT count(*) AS n FROM (${some})`, cutoff)[0]!.n;
    if (rows > 0) db.run(`DELETE FROM ${table} WHERE k IN (${some})`, cutoff);
    return rows;
}
