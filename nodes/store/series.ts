import { open } from "node:fs/promises";
import path from "node:path";
import { isClockSet, systemClock, within, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import type { PointValue, ReadingMessage } from "../common/reading.js";
import { Ballast } from "./ballast.js";
import { diskReason, removeFile, systemFiles, type Files } from "./files.js";
import type { RawRow, RollupRow } from "./series-codec.js";
import { DAY, floorTo, HOUR, LAST_MS, MINUTE, SeriesTables, TABLES, type Resolution, type Samples } from "./series-tables.js";
import { openOwned, type OwnedDatabase, type SqlBackend } from "./sqlite.js";

export type { RawRow, Rollup, RollupRow } from "./series-codec.js";
export type { Resolution } from "./series-tables.js";

/** What the series keeps of a reading; a ReadingMessage fits. */
export type Sample = Pick<ReadingMessage, "payload" | "timestamp"> & { reading: Pick<ReadingMessage["reading"], "site" | "device" | "class"> };

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

const MOST_TEXT = 1000;
const RETRY_MS = 30_000;
const TIDY_MS = 10 * MINUTE;
const CLOSE_MS = 1500;

/** In a site or device: would not come back from the database as it went in, or blurs `<site>/<device>`. */
const UNSOUND = /[\0/\uD800-\uDFFF]/u;

/** False for a site or device that the series does not take. */
export function isSeriesName(name: string): boolean {
    return !UNSOUND.test(name);
}

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
    private readonly ballast: Ballast;
    private readonly tables: SeriesTables;
    private readonly limits: { commitMs: number; bufferValues: number };
    private readonly newest = new Map<string, Latest>();
    /** Not yet committed. */
    private waiting: Samples = new Map();
    private waitingValues = 0;
    /** Being committed just now. */
    private leaving: Samples | undefined;
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

    constructor(private readonly options: SeriesOptions) {
        this.file = path.join(options.folder, "series.db");
        this.ended = new Promise((resolve) => {
            this.settle = resolve;
        });
        this.clock = options.clock ?? systemClock;
        this.files = options.files ?? systemFiles;
        this.ballast = new Ballast(options.folder, this.files);
        this.tables = new SeriesTables(() => [this.leaving, this.waiting], options.zone ?? "UTC");
        this.limits = { commitMs: options.commitMs ?? 10_000, bufferValues: options.bufferValues ?? 300_000 };
        this.retention = inMs(options.retention);
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
        // A copy at once is a third of the memory of one that grows point by point.
        const values = { ...payload };
        let count = 0;
        for (const point in values) {
            const value = values[point];
            if (typeof value === "number" ? Number.isFinite(value) : typeof value === "string") count++;
            else delete values[point];
            if (typeof value === "string" && value.length > MOST_TEXT) values[point] = value.slice(0, MOST_TEXT);
        }
        if (this.closing || this.state === "failed" || !this.isTimely(t) || !isSeriesName(site) || !isSeriesName(name)) {
            this.refused++;
            return false;
        }
        if (count === 0) return true;
        const device = this.tables.device(site, name, kind);
        this.remember({ site, device: name, class: kind, t, values });
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
        const device = this.tables.devices.get(`${query.site}/${query.device}`);
        if (!device) return [];
        const rows = await this.tables.samples(device, query.from, query.to, query.limit ?? 10_000);
        return select(rows, query.points);
    }

    /** Buckets that start in [from, to), oldest first, up to the newest sample. */
    async rollups(resolution: Resolution, query: SeriesQuery): Promise<RollupRow[]> {
        const device = this.tables.devices.get(`${query.site}/${query.device}`);
        if (!device) return [];
        const rows = await this.tables.buckets(resolution, device, query.from, query.to);
        return select(rows.slice(-(query.limit ?? 10_000)), query.points);
    }

    /** Newest values of every device, from memory. */
    latest(): Latest[] {
        return [...this.newest.values()].map((latest) => ({ ...latest, values: { ...latest.values } }));
    }

    /** Every device with its points, as far as anything of it is kept. */
    list(): { site: string; device: string; class: string; points: string[] }[] {
        return [...this.tables.devices.values()].map(({ site, device, class: kind, names }) => {
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
            refused: this.refused + this.tables.refused,
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

    /**
     * Resolves once all that was taken so far is on disk.
     * @throws WattError STORE_UNUSABLE while the disk takes nothing
     */
    async settled(): Promise<void> {
        await this.flush();
        const { state, reason = "The store is closed." } = this.stats();
        if (state !== "disk") throw new WattError("STORE_UNUSABLE", `Not everything is on disk. ${reason}`);
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
            this.tables.attach(this.owned.db);
            for await (const { device, rows } of this.tables.newest()) {
                for (const row of rows) this.remember({ site: device.site, device: device.device, class: device.class, ...row });
            }
            await this.ballast.lay();
            this.become("disk");
            this.later(this.tidy, MINUTE);
        } catch (error) {
            await this.disown();
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
            if (!(await this.ballast.isNeeded(error))) throw error;
            await this.ballast.release();
            return openOwned(this.file, options);
        }
    }

    private async disown(): Promise<void> {
        const { owned } = this;
        this.owned = undefined;
        this.tables.detach();
        await owned?.close().catch(() => undefined);
    }

    // --- committing

    private readonly commit = async (): Promise<void> => {
        await this.open();
        if (this.waiting.size === 0) return;
        if (!this.owned) {
            this.later(this.commit, RETRY_MS);
            return;
        }
        const samples = (this.leaving = this.waiting);
        const values = this.waitingValues;
        this.waiting = new Map();
        this.waitingValues = 0;
        try {
            await this.withRoom(() => this.tables.write(samples));
            this.leaving = undefined;
            this.lastCommitMs = this.clock.now();
            await syncLog(this.file);
            await this.withRoom(() => this.roll());
            this.become("disk");
        } catch (error) {
            if (this.leaving) this.takeBack(values);
            await this.recover(error);
        }
    };

    /** Does it again after a full disk was given room. */
    private async withRoom(work: () => Promise<void>): Promise<void> {
        try {
            await work();
        } catch (error) {
            if (!this.owned || !(await this.ballast.isNeeded(error))) throw error;
            this.tables.attach(this.owned.db);
            await this.ballast.release();
            this.dropped.disk += await this.tables.makeRoom();
            // What that freed.
            await this.ballast.lay();
            await work();
        }
    }

    private async roll(): Promise<void> {
        const now = this.clock.now();
        if (isClockSet(now)) await this.tables.roll(now, () => this.closing !== undefined);
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
        this.become("memory", (await this.ballast.isNeeded(error)) ? "the disk is full" : reasonOf(error, this.options.folder));
        this.later(this.commit, RETRY_MS);
        try {
            // Numbers given within a transaction that did not happen are void.
            if (this.owned && errorCode(error) !== "SQLITE_DAMAGED") this.tables.attach(this.owned.db);
            else throw error;
        } catch {
            // Opened again at the next attempt, and checked first: a closed mark would say that it is sound.
            await this.disown();
            await removeFile(this.files, `${this.file}.closed`).catch(() => undefined);
        }
    }

    private remember(sample: Latest): void {
        const key = `${sample.site}/${sample.device}`;
        const known = this.newest.get(key);
        if (!known) this.newest.set(key, { ...sample, values: { ...sample.values } });
        else if (sample.t >= known.t) Object.assign(known, { t: sample.t, class: sample.class, values: Object.assign(known.values, sample.values) });
    }

    // --- bounds

    private isTimely(t: number): boolean {
        if (!Number.isSafeInteger(t) || !isClockSet(t) || t >= LAST_MS) return false;
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
        this.later(this.tidy, TIDY_MS);
        const now = this.clock.now();
        if (!this.owned || !isClockSet(now)) return;
        try {
            await this.withRoom(() => this.roll());
            for (const table of TABLES) await this.tables.deleteBefore(table, table === "raw" ? this.rawCutoff(now) : now - this.retention[table]);
            await this.ballast.lay();
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
        this.flush()
            .then(() => this.disown())
            .then(this.settle, this.settle);
        await within(this.clock, CLOSE_MS, this.ended);
        this.become("closed");
    }
}

/** Each width in ms. A bucket is computed anew from the next finer one when data comes late, so that one must be there. */
function inMs({ raw = 7, minute = 60, hour = 730, day = 7300 }: Partial<Retention> = {}): Retention {
    const minutes = Math.max(minute, raw + 2);
    const hours = Math.max(hour, minutes);
    return { raw: raw * DAY, minute: minutes * DAY, hour: hours * DAY, day: Math.max(day, hours) * DAY };
}

interface Row<V> {
    t: number;
    values: Record<string, V>;
}

/** Rows with these points alone; those that have none of them go. */
function select<V>(rows: Row<V>[], points: string[] | undefined): Row<V>[] {
    if (!points) return rows;
    const wanted = new Set(points);
    return rows
        .map(({ t, values }) => ({ t, values: Object.fromEntries(Object.entries(values).filter(([name]) => wanted.has(name))) }))
        .filter(({ values }) => Object.keys(values).length > 0);
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
