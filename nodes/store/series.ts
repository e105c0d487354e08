import { open } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import path from "node:path";
import { isClockSet, localDay, systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import type { PointValue, ReadingMessage } from "../common/reading.js";
import { isPointName } from "../common/units.js";
import { diskReason, freeBytes, isDiskFull, removeFile, systemFiles, writeAll, type Files } from "./files.js";
import { aggregate, combine, decodeRollups, decodeSamples, encodeRollups, encodeSamples, Names, type RawRow, type Rollup, type RollupRow } from "./series-codec.js";
import { openOwned, type Database, type OwnedDatabase, type SqlBackend } from "./sqlite.js";

export type { RawRow, Rollup, RollupRow } from "./series-codec.js";

/** What the series keeps of a reading; a ReadingMessage fits. */
export type Sample = Pick<ReadingMessage, "payload" | "timestamp"> & { reading: Pick<ReadingMessage["reading"], "site" | "device" | "class"> };

/** Width of a roll-up's bucket: a minute or an hour (UTC), or a local day of the site. */
export type Resolution = "minute" | "hour" | "day";

export interface SeriesQuery {
    site: string;
    device: string;
    /** Only these points; all when absent. */
    points?: string[];
    /** ms UTC, inclusive. */
    from: number;
    /** ms UTC, exclusive. */
    to: number;
    /** Newest so many rows; 10,000 unless told. */
    limit?: number;
}

/** The newest value of every point of one device. */
export interface Latest {
    site: string;
    device: string;
    class: string;
    /** Time of the newest sample, ms UTC. */
    t: number;
    values: Record<string, PointValue>;
}

/** How long each width is kept, days. */
export interface Retention {
    raw: number;
    minute: number;
    hour: number;
    day: number;
}

export interface SeriesOptions {
    folder: string;
    /** Samples wait at most this long for their commit, ms; 10 s: each commit wears the SD card. */
    commitMs?: number;
    /** 7, 60, 730 and 7300 days unless told. */
    retention?: Partial<Retention>;
    /** IANA zone of the local day; UTC unless told. */
    zone?: string;
    /** Most values kept in memory while the disk takes no writes; 300,000. */
    bufferValues?: number;
    /** Opens once this has settled: who had the folder before. */
    after?: Promise<unknown> | undefined;
    clock?: Clock;
    files?: Files;
    /** For tests; the running Node decides. */
    backend?: SqlBackend;
}

export interface SeriesStats {
    /** `memory`: the disk takes no writes and `reason` says why; `failed`: another process owns the folder. */
    state: "opening" | "disk" | "memory" | "failed" | "closed";
    reason?: string;
    backend?: SqlBackend;
    /** Values that wait for a commit. */
    buffered: number;
    /** Since start: values that memory could not hold, and rows deleted early because the disk was full. */
    dropped: { memory: number; disk: number };
    /** Since start: samples not taken for their time or name. */
    refused: number;
    /** Where a damaged database was put. */
    setAside?: string;
    lastCommitMs?: number;
}

interface Device {
    /** Undefined until the database knows it. */
    id: number | undefined;
    site: string;
    device: string;
    class: string;
    names: Names;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const LEVELS = ["minute", "hour", "day"] as const;

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
const MOST_TEXT = 1000;
/** A minute is rolled up so long after its end, so that what comes a little late does not write it twice. */
const SETTLE_MS = 15_000;
/** In a site or device: would not come back from the database as it went in. */
const UNSOUND = /[\0/\uD800-\uDFFF]/u;
const RETRY_MS = 30_000;
const CLEAN_MS = 10 * MINUTE;
/** Work on the event loop pauses after so long. */
const SLICE_MS = 8;
/** Freed when the disk is full: SQLite cannot delete without room to write. */
const BALLAST_BYTES = 2 * 1024 * 1024;
/** Free pages (4 KB) of the database that a full disk is answered with. */
const ROOM_PAGES = 256;
/** A disk with less room is full. */
const FULL_BYTES = 256 * 1024;
const CLOSE_MS = 1500;

/** Local time series: samples as measured and their roll-ups, in one SQLite file. */
export class Series {
    /** Settles after the first attempt to open the file; never rejects. */
    readonly ready: Promise<void>;
    /** Resolves once the file is given back after `close`, however long the disk takes. */
    readonly ended: Promise<void>;
    private settle!: () => void;
    private readonly file: string;
    private readonly clock: Clock;
    private readonly files: Files;
    private readonly retention: Retention;
    private readonly zone: string;
    private readonly limits: { commitMs: number; bufferValues: number };
    private readonly devices = new Map<string, Device>();
    private readonly byId = new Map<number, Device>();
    private readonly newest = new Map<string, Latest>();
    /** Not yet committed: per device, per time. */
    private waiting = new Map<Device, Map<number, Record<string, PointValue>>>();
    private waitingValues = 0;
    /** Being committed just now. */
    private leaving: Series["waiting"] | undefined;
    private owned: OwnedDatabase | undefined;
    private state: SeriesStats["state"] = "opening";
    private reason: string | undefined;
    private setAside: string | undefined;
    private refused = 0;
    private readonly dropped = { memory: 0, disk: 0 };
    private lastCommitMs: number | undefined;
    private readonly listeners = new Set<() => void>();
    private queue: Promise<void> = Promise.resolve();
    private readonly timers = new Map<() => Promise<void>, () => void>();
    private closing: Promise<void> | undefined;
    private dayCache = { start: 0, end: 0 };

    constructor(private readonly options: SeriesOptions) {
        this.file = path.join(options.folder, "series.db");
        this.ended = new Promise((resolve) => {
            this.settle = resolve;
        });
        this.clock = options.clock ?? systemClock;
        this.files = options.files ?? systemFiles;
        this.zone = options.zone ?? "UTC";
        this.limits = { commitMs: options.commitMs ?? 10_000, bufferValues: options.bufferValues ?? 300_000 };
        const { raw = 7, minute = 60, hour = 730, day = 7300 } = options.retention ?? {};
        // A bucket is computed anew from the next finer one when data comes late, so that one must be there.
        const atLeast = { raw, minute: Math.max(minute, raw + 2), hour: Math.max(hour, minute, raw + 2), day: Math.max(day, hour) };
        this.retention = { raw: atLeast.raw * DAY, minute: atLeast.minute * DAY, hour: atLeast.hour * DAY, day: atLeast.day * DAY };
        this.ready = this.inTurn(async () => {
            await options.after;
            await this.open();
        });
    }

    /**
     * Takes a sample into the next commit. The same (site, device, point, time) again is one value.
     * False when it cannot be kept: its time is before 2024, more than a day ahead, or older than what is kept as raw data; or
     * site or device hold a slash.
     */
    append(sample: Sample): boolean {
        const { payload, timestamp: t } = sample;
        const { site, device: name, class: kind } = sample.reading;
        const values: Record<string, PointValue> = {};
        let count = 0;
        for (const point of Object.keys(payload)) {
            const value = payload[point]!;
            if (typeof value === "number" ? !Number.isFinite(value) : typeof value !== "string") continue;
            values[point] = typeof value === "string" && value.length > MOST_TEXT ? value.slice(0, MOST_TEXT) : value;
            count++;
        }
        if (this.closing || this.state === "failed" || !this.isTimely(t) || UNSOUND.test(site) || UNSOUND.test(name)) {
            this.refused++;
            return false;
        }
        if (count === 0) return true;
        const key = `${site}/${name}`;
        let device = this.devices.get(key);
        if (!device) {
            device = { id: undefined, site, device: name, class: kind, names: new Names() };
            this.devices.set(key, device);
        }
        this.remember(key, { site, device: name, class: kind, t, values });
        let times = this.waiting.get(device);
        if (!times) this.waiting.set(device, (times = new Map<number, Record<string, PointValue>>()));
        const before = times.get(t);
        times.set(t, before ? Object.assign(before, values) : values);
        this.waitingValues += count;
        if (this.waitingValues > this.limits.bufferValues) this.shed();
        this.later(this.commit, this.state === "memory" ? RETRY_MS : this.limits.commitMs);
        return true;
    }

    /** Samples in [from, to), oldest first; those that wait for a commit included. */
    async query(query: SeriesQuery): Promise<RawRow[]> {
        const device = this.devices.get(`${query.site}/${query.device}`);
        if (!device) return [];
        const rows = await this.samples(device, query.from, query.to, query.limit ?? 10_000);
        return select(rows, query.points);
    }

    /** Buckets that start in [from, to), oldest first, up to the newest sample. */
    async rollups(resolution: Resolution, query: SeriesQuery): Promise<RollupRow[]> {
        const device = this.devices.get(`${query.site}/${query.device}`);
        if (!device) return [];
        const rows = await this.buckets(resolution, device, query.from, query.to);
        return select(rows.slice(-(query.limit ?? 10_000)), query.points);
    }

    /** Newest values of every device, from memory. */
    latest(): Latest[] {
        return [...this.newest.values()].map((latest) => ({ ...latest, values: { ...latest.values } }));
    }

    /** Every device with its points, as far as anything of it is kept. */
    list(): { site: string; device: string; class: string; points: string[] }[] {
        return [...this.devices.values()].map(({ site, device, class: kind, names }) => {
            const points = new Set([...names.list, ...Object.keys(this.newest.get(`${site}/${device}`)?.values ?? {})]);
            return { site, device, class: kind, points: [...points].toSorted() };
        });
    }

    stats(): SeriesStats {
        return {
            state: this.state,
            ...(this.reason !== undefined && { reason: this.reason }),
            ...(this.owned && { backend: this.owned.db.backend }),
            buffered: this.waitingValues,
            dropped: { ...this.dropped },
            refused: this.refused,
            ...(this.setAside !== undefined && { setAside: this.setAside }),
            ...(this.lastCommitMs !== undefined && { lastCommitMs: this.lastCommitMs }),
        };
    }

    /** Calls `listener` when the state changed; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /** Commits what waits, as far as the disk takes it. */
    flush(): Promise<void> {
        return this.inTurn(this.commit);
    }

    /** Brings roll-ups and retention up to date; happens by itself. */
    clean(): Promise<void> {
        return this.inTurn(this.tidy);
    }

    /** Commits what waits and gives the file back; resolves within 2 s, `ended` when that is really done. */
    close(): Promise<void> {
        return (this.closing ??= this.shut());
    }

    // --- opening

    private async open(): Promise<void> {
        if (this.owned || this.state === "failed") return;
        try {
            this.owned = await this.own();
            this.setAside = this.owned.setAside ?? this.setAside;
            this.load(this.owned.db);
            await this.restoreLatest(this.owned.db);
            await this.layBallast();
            this.become("disk");
            this.later(this.tidy, MINUTE);
        } catch (error) {
            await this.owned?.close().catch(() => undefined);
            this.owned = undefined;
            if (errorCode(error) === "STORE_LOCKED" || errorCode(error) === "SERIES_NEWER") this.become("failed", errorText(error));
            else this.become("memory", reasonOf(error, this.options.folder));
        }
    }

    private async own(): Promise<OwnedDatabase> {
        const { backend } = this.options;
        const stamp = new Date(this.clock.now()).toISOString().replace(/[:.]/g, "-");
        const options = { files: this.files, stamp, synchronous: "NORMAL" as const, ...(backend && { backend }) };
        try {
            return await openOwned(this.file, options);
        } catch (error) {
            if (!(await this.isFull(error))) throw error;
            await removeFile(this.files, this.ballast);
            return openOwned(this.file, options);
        }
    }

    private load(db: Database): void {
        const version = db.all<{ user_version: number }>("PRAGMA user_version")[0]?.user_version ?? 0;
        if (version > SCHEMA_VERSION) {
            throw new WattError("SERIES_NEWER", "The series was written by a later version: install that version again, or choose another folder.");
        }
        if (version < SCHEMA_VERSION) db.exec(`${SCHEMA}PRAGMA user_version = ${SCHEMA_VERSION}`);
        this.byId.clear();
        for (const device of this.devices.values()) {
            device.id = undefined;
            device.names = new Names();
        }
        for (const { id, site, device: name, class: kind } of db.all<{ id: number; site: string; device: string; class: string }>("SELECT * FROM device")) {
            const device = this.devices.get(`${site}/${name}`) ?? { id, site, device: name, class: kind, names: new Names() };
            device.id = id;
            this.devices.set(`${site}/${name}`, device);
            this.byId.set(id, device);
        }
        for (const { device, name } of db.all<{ device: number; name: string }>("SELECT device, name FROM point ORDER BY device, place")) {
            this.byId.get(device)?.names.add(name);
        }
        const zone = db.all<{ value: string }>("SELECT value FROM meta WHERE key = 'zone'")[0]?.value;
        if (zone !== this.zone) this.changeZone(db, zone !== undefined);
    }

    /** Days of another zone begin elsewhere: as far as the hours reach back, they are computed anew. */
    private changeZone(db: Database, isKnown: boolean): void {
        db.transaction(() => {
            db.run("INSERT OR REPLACE INTO meta VALUES ('zone', ?)", this.zone);
            if (!isKnown) return;
            const [first] = db.all<{ t: number | null }>("SELECT min(k) >> 16 AS t FROM hour");
            db.run("DELETE FROM day WHERE k >= (? << 16)", this.dayOf(first?.t ?? 0).start);
            const days = new Set(db.all<{ t: number; d: number }>("SELECT k >> 16 AS t, k & 65535 AS d FROM hour").map(({ t, d }) => `${this.dayOf(t).start} ${d}`));
            for (const day of days) {
                const [start, device] = day.split(" ").map(Number) as [number, number];
                this.mark(db, "day", start, device);
            }
        });
    }

    /** Newest values again after a start: from the newest rows, as many as it takes within reason. */
    private async restoreLatest(db: Database): Promise<void> {
        const missing = new Set(this.byId.keys());
        const slice = new Slice();
        let [before, beforeDevice] = [2 ** 41, 0];
        for (let pages = 0; missing.size > 0 && pages < 100; pages++) {
            const rows = db.all<{ t: number; d: number; v: Uint8Array }>("SELECT k >> 16 AS t, k & 65535 AS d, v FROM raw WHERE k < ((? << 16) | ?) ORDER BY k DESC LIMIT 50", before, beforeDevice);
            for (const { t, d, v } of rows) {
                const device = this.byId.get(d);
                if (!device || !missing.delete(d)) continue;
                const { site, device: name, class: kind, names } = device;
                for (const row of decodeSamples(v, t, names)) this.remember(`${site}/${name}`, { site, device: name, class: kind, ...row });
            }
            const last = rows.at(-1);
            if (!last) return;
            [before, beforeDevice] = [last.t, last.d];
            await slice.breathe();
        }
    }

    // --- committing

    private readonly commit = async (): Promise<void> => {
        await this.open();
        const { owned } = this;
        if (!owned || this.waiting.size === 0) {
            if (this.waiting.size > 0) this.later(this.commit, RETRY_MS);
            return;
        }
        this.leaving = this.waiting;
        const values = this.waitingValues;
        this.waiting = new Map();
        this.waitingValues = 0;
        try {
            try {
                await this.write(owned.db, this.leaving);
            } catch (error) {
                if (!(await this.isFull(error))) throw error;
                this.load(owned.db);
                await this.makeRoom(owned.db);
                await this.write(owned.db, this.leaving);
            }
            this.leaving = undefined;
            this.lastCommitMs = this.clock.now();
            this.become("disk");
            await syncLog(this.file);
            if (!this.closing) await this.roll(owned.db);
        } catch (error) {
            if (this.leaving) this.takeBack(values);
            await this.recover(error);
        }
    };

    private async write(db: Database, samples: Series["waiting"]): Promise<void> {
        const slice = new Slice();
        const chunks: { device: Device; t0: number; rows: RawRow[]; blob: Buffer }[] = [];
        db.transaction(() => {
            for (const [device, times] of samples) this.register(db, device, times);
        });
        for (const [device, times] of samples) {
            if (device.id === undefined) continue;
            for (const rows of byMinute(times)) {
                const t0 = rows[0]!.t;
                chunks.push({ device, t0, rows, blob: encodeSamples(rows, t0, device.names) });
                await slice.breathe();
            }
        }
        db.transaction(() => {
            for (const chunk of chunks) this.insert(db, chunk);
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
            for (const name of Object.keys(values)) {
                if (device.names.placeOf(name) !== undefined) continue;
                if (!isPointName(name) || device.names.list.length >= MOST_POINTS) this.refused++;
                else db.run("INSERT INTO point VALUES (?, ?, ?)", device.id, device.names.add(name), name);
            }
        }
    }

    private insert(db: Database, { device, t0, rows, blob }: { device: Device; t0: number; rows: RawRow[]; blob: Buffer }): void {
        const id = device.id!;
        const [found] = db.all<{ v: Uint8Array }>("SELECT v FROM raw WHERE k = ((? << 16) | ?)", t0, id);
        const all = found ? encodeSamples(mergeRows([decodeSamples(found.v, t0, device.names), rows]), t0, device.names) : blob;
        db.run("INSERT OR REPLACE INTO raw VALUES ((? << 16) | ?, ?)", t0, id, all);
        this.mark(db, "minute", floorTo(t0, MINUTE), id);
    }

    private mark(db: Database, level: Resolution, start: number, id: number): void {
        db.run("INSERT OR IGNORE INTO dirty VALUES (?, (? << 16) | ?)", LEVELS.indexOf(level), start, id);
    }

    /** A commit that failed waits on, behind what has come since. */
    private takeBack(values: number): void {
        for (const [device, times] of this.leaving!) {
            const since = this.waiting.get(device);
            for (const [t, later] of since ?? []) times.set(t, Object.assign(times.get(t) ?? {}, later));
            this.waiting.set(device, times);
        }
        this.leaving = undefined;
        this.waitingValues += values;
        if (this.waitingValues > this.limits.bufferValues) this.shed();
    }

    private async recover(error: unknown): Promise<void> {
        const { owned } = this;
        this.become("memory", (await this.isFull(error)) ? "the disk is full" : reasonOf(error, this.options.folder));
        this.later(this.commit, RETRY_MS);
        try {
            // Numbers given within a transaction that did not happen are void.
            if (owned && errorCode(error) !== "SQLITE_DAMAGED") this.load(owned.db);
            else throw error;
        } catch {
            // Opened again at the next attempt, and checked first: a closed mark would say that it is sound.
            this.owned = undefined;
            await owned?.close().catch(() => undefined);
            await removeFile(this.files, `${this.file}.closed`).catch(() => undefined);
        }
    }

    /**
     * Gives up the ballast, and with the room it leaves shortens the log, then deletes the oldest rows of the finest width there is:
     * both take room before they give any. What that frees is ballast again.
     */
    private async makeRoom(db: Database): Promise<void> {
        await removeFile(this.files, this.ballast);
        const slice = new Slice();
        const checkpoint = () => {
            try {
                db.all("PRAGMA wal_checkpoint(TRUNCATE)");
            } catch {
                // What follows may help, or fails and is told.
            }
        };
        checkpoint();
        for (const table of ["raw", ...LEVELS] as const) {
            while ((db.all<{ freelist_count: number }>("PRAGMA freelist_count")[0]?.freelist_count ?? 0) < ROOM_PAGES) {
                const rows = deleteOldest(db, table, 2 ** 41, 64);
                this.dropped.disk += rows;
                if (rows === 0) break;
                await slice.breathe();
            }
        }
        checkpoint();
        await this.layBallast();
    }

    /** The WebAssembly build takes a full disk for one that fails. */
    private async isFull(error: unknown): Promise<boolean> {
        const code = errorCode(error);
        return isDiskFull(error) || code === "SQLITE_FULL" || (code === "SQLITE_IO" && ((await freeBytes(this.options.folder)) ?? Infinity) < FULL_BYTES);
    }

    private get ballast(): string {
        return path.join(this.options.folder, "ballast");
    }

    private async layBallast(): Promise<void> {
        try {
            const size = await this.files.stat(this.ballast).then((stat) => stat.size, () => 0);
            if (size >= BALLAST_BYTES || ((await freeBytes(this.options.folder)) ?? Infinity) < 2 * BALLAST_BYTES) return;
            const handle = await this.files.open(this.ballast, "w");
            try {
                // Noise, which no file system stores as less.
                await writeAll(handle, [randomBytes(BALLAST_BYTES)], 0);
            } finally {
                await handle.close();
            }
        } catch {
            await removeFile(this.files, this.ballast).catch(() => undefined);
        }
    }

    // --- roll-ups

    /** Computes buckets whose samples changed and whose time is over. */
    private async roll(db: Database): Promise<void> {
        const now = this.clock.now();
        if (!isClockSet(now)) return;
        const slice = new Slice();
        for (const level of LEVELS) {
            const end = this.startOf(level, now - SETTLE_MS);
            for (;;) {
                const marks = db.all<{ t: number; d: number }>(
                    "SELECT k >> 16 AS t, k & 65535 AS d FROM dirty WHERE level = ? AND k < (? << 16) ORDER BY k LIMIT 64",
                    LEVELS.indexOf(level),
                    end,
                );
                if (marks.length === 0 || this.closing) break;
                const done: { t: number; d: number; device: Device | undefined; values: Record<string, Rollup> }[] = [];
                for (const { t, d } of marks) {
                    const device = this.byId.get(d);
                    done.push({ t, d, device, values: device ? await this.compute(level, device, t) : {} });
                    await slice.breathe();
                }
                db.transaction(() => {
                    for (const { t, d, device, values } of done) {
                        db.run("DELETE FROM dirty WHERE level = ? AND k = ((? << 16) | ?)", LEVELS.indexOf(level), t, d);
                        if (!device || Object.keys(values).length === 0) continue;
                        db.run(`INSERT OR REPLACE INTO ${level} VALUES ((? << 16) | ?, ?)`, t, d, encodeRollups(values, device.names));
                        const next = LEVELS[LEVELS.indexOf(level) + 1];
                        if (next) this.mark(db, next, this.startOf(next, t), d);
                    }
                });
            }
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

    /** Buckets as stored; those whose samples have changed since, and the open one, are computed. */
    private async buckets(level: Resolution, device: Device, from: number, to: number): Promise<RollupRow[]> {
        if (to <= from) return [];
        const fresh = this.changed(level, device, from, to);
        const rows = new Map<number, RollupRow>();
        const slice = new Slice();
        const width = level === "minute" ? 6 * HOUR : 60 * DAY;
        const [first, last] = this.extent(level, from, to);
        for (let start = first; start < last && this.owned; start += width) {
            const sql = `SELECT k >> 16 AS t, v FROM ${level} WHERE k >= (? << 16) AND k < (? << 16) AND (k & 65535) = ?`;
            for (const { t, v } of this.owned.db.all<{ t: number; v: Uint8Array }>(sql, start, Math.min(last, start + width), device.id ?? -1)) {
                if (!fresh.has(t)) rows.set(t, { t, values: decodeRollups(v, device.names) });
            }
            await slice.breathe();
        }
        for (const t of fresh) {
            const values = await this.compute(level, device, t);
            if (Object.keys(values).length > 0) rows.set(t, { t, values });
        }
        return [...rows.values()].toSorted((a, b) => a.t - b.t);
    }

    /** Starts of the buckets in [from, to) that are not stored as they should be. */
    private changed(level: Resolution, device: Device, from: number, to: number): Set<number> {
        const starts = new Set<number>();
        const add = (t: number) => {
            const start = this.startOf(level, t);
            if (start >= from && start < to) starts.add(start);
        };
        for (const part of [this.leaving, this.waiting]) for (const t of part?.get(device)?.keys() ?? []) add(t);
        if (!this.owned || device.id === undefined) return starts;
        const sql = "SELECT k >> 16 AS t FROM dirty WHERE level <= ? AND (k & 65535) = ?";
        for (const { t } of this.owned.db.all<{ t: number }>(sql, LEVELS.indexOf(level), device.id)) add(t);
        return starts;
    }

    private startOf(level: Resolution, t: number): number {
        if (level === "day") return this.dayOf(t).start;
        return floorTo(t, level === "minute" ? MINUTE : HOUR);
    }

    private dayOf(t: number): { start: number; end: number } {
        if (t < this.dayCache.start || t >= this.dayCache.end) this.dayCache = localDay(t, this.zone);
        return this.dayCache;
    }

    // --- reading

    /** The newest `limit` samples in [from, to), oldest first. */
    private async samples(device: Device, from: number, to: number, limit: number): Promise<RawRow[]> {
        const parts: RawRow[][] = [];
        // Before the first pause: what is committed meanwhile must be found here or there.
        for (const part of [this.leaving, this.waiting]) {
            const times = part?.get(device);
            if (times) parts.push([...times].filter(([t]) => t >= from && t < to).map(([t, values]) => ({ t, values: { ...values } })));
        }
        const slice = new Slice();
        const sql = "SELECT k >> 16 AS t, v FROM raw WHERE k >= (? << 16) AND k < (? << 16) AND (k & 65535) = ?";
        let found = 0;
        const stored: RawRow[][] = [];
        // A chunk begins in the minute it ends in.
        const [first, last] = this.extent("raw", floorTo(from, MINUTE), to);
        for (let end = last; end > first && found < limit && this.owned; ) {
            const start = Math.max(first, floorTo(end - 1, 10 * MINUTE));
            const chunks = this.owned.db.all<{ t: number; v: Uint8Array }>(sql, start, end, device.id ?? -1);
            const rows = chunks.flatMap(({ t, v }) => decodeSamples(v, t, device.names)).filter(({ t }) => t >= from && t < to);
            stored.unshift(rows);
            found += rows.length;
            end = start;
            await slice.breathe();
        }
        return mergeRows([...stored, ...parts]).slice(-limit);
    }

    /** What of [from, to) a table can hold rows of. */
    private extent(table: string, from: number, to: number): [number, number] {
        const end = (which: string) => this.owned?.db.all<{ t: number | null }>(`SELECT ${which}(k) >> 16 AS t FROM ${table}`)[0]?.t ?? undefined;
        const [first, last] = [end("min"), end("max")];
        return first === undefined || last === undefined ? [0, 0] : [Math.max(from, first), Math.min(to, last + 1)];
    }

    private remember(key: string, sample: Latest): void {
        const known = this.newest.get(key);
        if (!known) this.newest.set(key, { ...sample, values: { ...sample.values } });
        else if (sample.t >= known.t) Object.assign(known, { t: sample.t, class: sample.class, values: Object.assign(known.values, sample.values) });
    }

    // --- bounds

    private isTimely(t: number): boolean {
        if (!Number.isSafeInteger(t) || !isClockSet(t) || t >= 2 ** 41) return false;
        const now = this.clock.now();
        return !isClockSet(now) || (t >= this.rawCutoff(now) && t <= now + DAY);
    }

    /** On the hour: a bucket is never computed from a part of its samples. */
    private rawCutoff(now: number): number {
        return floorTo(now - this.retention.raw, HOUR);
    }

    /** Memory is full: a tenth of what waits goes, the oldest of each device. */
    private shed(): void {
        for (const times of this.waiting.values()) {
            let left = Math.ceil(times.size / 10);
            for (const [t, values] of times) {
                if (left-- <= 0) break;
                const count = Object.keys(values).length;
                times.delete(t);
                this.waitingValues -= count;
                this.dropped.memory += count;
            }
        }
    }

    private readonly tidy = async (): Promise<void> => {
        this.later(this.tidy, CLEAN_MS);
        const { owned } = this;
        const now = this.clock.now();
        if (!owned || !isClockSet(now)) return;
        try {
            await this.roll(owned.db);
            const slice = new Slice();
            for (const table of ["raw", ...LEVELS] as const) {
                const cutoff = table === "raw" ? this.rawCutoff(now) : now - this.retention[table];
                while (deleteOldest(owned.db, table, cutoff, 64) > 0) await slice.breathe();
            }
            await this.layBallast();
        } catch (error) {
            await this.recover(error);
        }
    };

    // --- the rest

    private later(task: () => Promise<void>, ms: number): void {
        if (this.timers.has(task) || this.closing) return;
        this.timers.set(
            task,
            this.clock.after(ms, () => {
                this.timers.delete(task);
                void this.inTurn(task);
            }),
        );
    }

    /** One after the other; tasks see to their own errors. */
    private inTurn(task: () => Promise<void>): Promise<void> {
        this.queue = this.queue.then(task).catch((error: unknown) => this.become("memory", errorText(error)));
        return this.queue;
    }

    private become(state: SeriesStats["state"], reason?: string): void {
        if (this.state === "closed" || (state === this.state && reason === this.reason)) return;
        this.state = state;
        this.reason = reason;
        for (const listener of this.listeners) listener();
    }

    private async shut(): Promise<void> {
        for (const cancel of this.timers.values()) cancel();
        let cancel: (() => void) | undefined;
        const late = new Promise<void>((resolve) => {
            cancel = this.clock.after(CLOSE_MS, resolve);
        });
        const finish = this.flush().then(async () => {
            const { owned } = this;
            this.owned = undefined;
            await owned?.close();
        });
        finish.then(this.settle, this.settle);
        await Promise.race([this.ended, late]);
        cancel?.();
        this.become("closed");
    }
}

interface Row<V> {
    t: number;
    values: Record<string, V>;
}

/** Pauses long work so that the event loop turns. */
class Slice {
    private since = performance.now();

    async breathe(): Promise<void> {
        if (performance.now() - this.since < SLICE_MS) return;
        await new Promise(setImmediate);
        this.since = performance.now();
    }
}

function floorTo(t: number, width: number): number {
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

function select<V>(rows: Row<V>[], points: string[] | undefined): Row<V>[] {
    if (!points) return rows;
    const wanted = new Set(points);
    return rows
        .map(({ t, values }) => ({ t, values: Object.fromEntries(Object.entries(values).filter(([name]) => wanted.has(name))) }))
        .filter(({ values }) => Object.keys(values).length > 0);
}

/** Deletes at most `rows` rows older than `cutoff`; resolves with how many. */
function deleteOldest(db: Database, table: string, cutoff: number, rows: number): number {
    const found = db.all<{ t: number }>(`SELECT k >> 16 AS t FROM ${table} WHERE k < (? << 16) ORDER BY k LIMIT ?`, cutoff, rows);
    if (found.length > 0) db.run(`DELETE FROM ${table} WHERE k IN (SELECT k FROM ${table} WHERE k < (? << 16) ORDER BY k LIMIT ?)`, cutoff, rows);
    return found.length;
}

/** Makes a commit survive a power cut without a wait: SQLite itself would block the event loop for it. */
async function syncLog(file: string): Promise<void> {
    const handle = await open(`${file}-wal`, "r+").catch(() => undefined);
    try {
        await handle?.datasync();
    } finally {
        await handle?.close();
    }
}

function reasonOf(error: unknown, folder: string): string {
    return error instanceof WattError ? error.message : diskReason(error, folder);
}
