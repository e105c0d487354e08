import path from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { isClockSet, stampOf, systemClock, within, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { Cursor, type DropReason } from "./cursor.js";
import type { SpoolRecord } from "./delivery.js";
import { diskReason, ensureFolder, fileName, isDiskFull, readText, removeFile, replaceFile, systemFiles, type Files } from "./files.js";
import { acquireLock, type Lock } from "./lock.js";
import { Ranges } from "./ranges.js";
import { MAX_BODY_BYTES } from "./record.js";
import { addRecord, lose, type Batch, type BatchLimits, type Segment } from "./segment.js";
import { bytesOf, SegmentLog } from "./segment-log.js";

const compress = promisify(gzip);

/** Where an appended entry is kept: `disk` survives a crash, `memory` does not: the disk takes no writes just now. */
export type Kept = "disk" | "memory";

export interface SpoolOptions {
    folder: string;
    /** An entry waits at most this long for its commit, ms; 1 s. */
    commitMs?: number;
    /** A commit starts at once when so many entries wait; 500. */
    commitEntries?: number;
    /** The oldest segment goes when all would take more; 512 MB. */
    maxBytes?: number;
    /** A segment goes when all of it is older; 30 days. */
    maxAgeMs?: number;
    /** Gives up nothing that is not delivered, however much or old it is: beyond `maxBytes` the disk counts as full. */
    keepAll?: boolean;
    /** Unit of deletion; 1 MB. */
    segmentBytes?: number;
    /** Most bytes (gzip) kept in memory while the disk takes no writes; 8 MB. */
    memoryBytes?: number;
    /** Wait between attempts to write again, ms; 5 s. */
    retryMs?: number;
    /** A cursor is written at most so often, ms; 30 s. After a crash so much is delivered twice. */
    cursorMs?: number;
    /** Opens once this has settled: who had the folder before. */
    after?: Promise<unknown> | undefined;
    files?: Files;
    clock?: Clock;
}

export interface SpoolStats {
    /** `memory`: the disk takes no writes and `reason` says why; `failed`: unusable until restart. */
    state: "opening" | "disk" | "memory" | "failed" | "closed";
    reason?: string;
    /** On disk. */
    bytes: number;
    segments: number;
    /** Encoded but not on disk. */
    memoryBytes: number;
    /** Cut from the end at start: an append that a crash interrupted, never acknowledged. */
    tornBytes: number;
    /** Entries taken since start. */
    appended: number;
}

/** Entries of one commit. */
class Group {
    readonly lines: string[] = [];
    readonly counts: number[] = [];
    entries = 0;
    chars = 0;
    resolve!: (kept: Kept) => void;
    reject!: (error: unknown) => void;
    readonly promise = new Promise<Kept>((resolve, reject) => {
        this.resolve = resolve;
        this.reject = reject;
    });

    constructor() {
        // Whoever does not look at the answer must not end the process.
        this.promise.catch(() => undefined);
    }
}

/** A record holds at most so much before gzip, so that a receiver with a limit can be sent less. */
const RECORD_ENTRIES = 5000;
const RECORD_CHARS = 1024 * 1024;
/** Appends wait for a disk that hangs until they hold so many characters. */
const WAITING_CHARS = 64 * 1024 * 1024;
const CLOSE_MS = 1500;
const READ_ATTEMPTS = 5;
/** Delivered segments are removed at most so often. */
const REMOVE_MS = 1000;

/** Durable entries in the order of their arrival, in append-only segments (one folder, one process); an Outbox reads them with a cursor of its own. */
export class Spool {
    /** Rejects with STORE_LOCKED when another process owns the folder. */
    readonly ready: Promise<void>;
    /** Resolves once the folder is given back after `close`, however long the disk takes. */
    readonly ended: Promise<void>;
    private settle!: () => void;
    readonly folder: string;
    readonly files: Files;
    private readonly clock: Clock;
    private readonly limits: Required<Omit<SpoolOptions, "folder" | "after" | "files" | "clock">>;
    private readonly listeners = new Set<() => void>();
    private readonly cursors = new Map<string, Cursor>();
    private readonly log: SegmentLog;
    /** Encoded, not on disk. */
    private tail: SpoolRecord[] = [];
    private tailBytes = 0;
    private group = new Group();
    /** Number of the next entry to be encoded. */
    private next = 0;
    /** Number after the last entry on disk. */
    private durable = 0;
    private lock: Lock | undefined;
    /** False when the folder could not be read at start: then nothing may be written over what it holds. */
    private scanned = false;
    private state: SpoolStats["state"] = "opening";
    private reason: string | undefined;
    private tornBytes = 0;
    private appended = 0;
    private working: Promise<void> | undefined;
    private readonly due = { commit: false, write: false, cursors: false };
    private readonly timers = new Map<keyof Spool["due"], () => void>();
    private cursorsAt = -Infinity;
    private closing: Promise<void> | undefined;

    constructor(options: SpoolOptions) {
        const { folder, after, files = systemFiles, clock = systemClock, ...limits } = options;
        this.folder = folder;
        this.files = files;
        this.clock = clock;
        const maxBytes = limits.maxBytes ?? 512 * 1024 * 1024;
        this.limits = {
            commitMs: limits.commitMs ?? 1000,
            commitEntries: limits.commitEntries ?? 500,
            maxBytes,
            maxAgeMs: limits.maxAgeMs ?? 30 * 86_400_000,
            keepAll: limits.keepAll ?? false,
            segmentBytes: Math.min(limits.segmentBytes ?? 1024 * 1024, maxBytes / 4),
            memoryBytes: limits.memoryBytes ?? 8 * 1024 * 1024,
            retryMs: limits.retryMs ?? 5000,
            cursorMs: limits.cursorMs ?? 30_000,
        };
        this.log = new SegmentLog({ folder, files, segmentBytes: this.limits.segmentBytes, stamp: () => stampOf(this.clock) });
        this.ended = new Promise((resolve) => {
            this.settle = resolve;
        });
        this.ready = this.open(after);
        this.ready.catch((error: unknown) => this.become("failed", errorText(error)));
    }

    /**
     * Keeps `count` entries, one a line, and resolves once they are where the answer says; entries of one second are written together.
     * @throws WattError SPOOL_ENTRY_INVALID, SPOOL_FULL when the disk hangs, SPOOL_CLOSED after close, STORE_LOCKED when another
     * process owns the folder.
     */
    append(lines: string, count: number): Promise<Kept> {
        if (!Number.isSafeInteger(count) || count < 1 || lines.length > MAX_BODY_BYTES / 4) {
            return Promise.reject(new WattError("SPOOL_ENTRY_INVALID", "An append takes at least one entry and at most 4 million characters."));
        }
        if (this.closing) return Promise.reject(new WattError("SPOOL_CLOSED", "The store is closed."));
        const { group } = this;
        if (group.chars + lines.length > WAITING_CHARS) {
            return Promise.reject(new WattError("SPOOL_FULL", "The disk does not answer and too much waits for it: check the disk."));
        }
        group.lines.push(lines.endsWith("\n") ? lines : `${lines}\n`);
        group.counts.push(count);
        group.entries += count;
        group.chars += lines.length;
        if (group.entries >= this.limits.commitEntries) this.kick("commit");
        else this.later("commit", this.limits.commitMs);
        return group.promise;
    }

    /** Commits what waits and writes the cursors; resolves when that is done, or has failed for now. */
    async flush(): Promise<void> {
        this.due.cursors = true;
        this.kick("commit");
        while (this.working) await this.working;
    }

    /** Number after the last entry that may be delivered. */
    get end(): number {
        return this.state === "memory" ? this.next : this.durable;
    }

    /** The cursor of that name; a new one begins at the oldest entry. */
    cursor(name: string): Cursor {
        let cursor = this.cursors.get(name);
        if (!cursor) {
            cursor = new Cursor(name, new Ranges([[0, this.log.segments[0]?.first ?? this.durable]]));
            this.cursors.set(name, cursor);
        }
        return cursor;
    }

    /** Marks entries as delivered. */
    acknowledge(cursor: Cursor, from: number, to: number): void {
        cursor.done.add(from, to);
        cursor.dirty = true;
        const oldest = this.log.segments[0];
        const passed = oldest && oldest !== this.log.active && !cursor.done.gap(oldest.first, oldest.next);
        if (passed && this.clock.monotonic() >= this.cursorsAt + REMOVE_MS) this.kick("cursors");
        else this.later("cursors", this.limits.cursorMs);
    }

    /** Removes a cursor for good; nothing is kept for it any more. */
    async forget(name: string): Promise<void> {
        this.cursors.delete(name);
        await removeFile(this.files, this.cursorFile(name));
    }

    /** Reads whole records from entry `from` on. An empty batch with `to` = `from` means that the ground has moved: look again. */
    async read(from: number, limits: BatchLimits): Promise<Batch> {
        const batch: Batch = { records: [], entries: 0, bytes: 0, to: from, damaged: 0, version: 0 };
        const until = Math.min(limits.until, this.end);
        while (batch.to < until) {
            const segment = this.log.segments.find(({ next }) => next > batch.to);
            if (!segment) {
                this.readTail(batch, { ...limits, until });
                break;
            }
            if (segment.first > batch.to) lose(batch, Math.min(segment.first, until), "damaged");
            else if (await this.readSegment(segment, batch, { ...limits, until })) break;
        }
        return batch;
    }

    /** Bytes on disk that hold the entries a cursor has not done, and the commit time of the oldest of them. */
    pending(cursor: Cursor): { entries: number; bytes: number; oldestMs: number | undefined } {
        const { end } = this;
        const gap = cursor.done.gap(0, end);
        if (!gap) return { entries: 0, bytes: 0, oldestMs: undefined };
        const entries = end - cursor.done.covered(0, end);
        let bytes = 0;
        let oldestMs = 0;
        for (const segment of this.log.segments) {
            const width = segment.next - segment.first;
            if (segment.next <= gap[0] || width === 0) continue;
            bytes += (segment.bytes * (width - cursor.done.covered(segment.first, segment.next))) / width;
            if (segment.first <= gap[0]) oldestMs = segment.timeOf(gap[0]);
        }
        return { entries, bytes: Math.round(bytes) + this.tailBytes, oldestMs: oldestMs || undefined };
    }

    stats(): SpoolStats {
        return {
            state: this.state,
            ...(this.reason !== undefined && { reason: this.reason }),
            bytes: this.log.bytes,
            segments: this.log.segments.length,
            memoryBytes: this.tailBytes,
            tornBytes: this.tornBytes,
            appended: this.appended,
        };
    }

    /** Calls `listener` after every commit and change of state; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /** Commits what waits, writes the cursors and gives the folder back; within 2 s, whatever the disk does. */
    close(): Promise<void> {
        return (this.closing ??= this.shut());
    }

    // --- opening

    private async open(after: Promise<unknown> | undefined): Promise<void> {
        await after;
        try {
            await this.own();
        } catch (error) {
            if (errorCode(error) === "STORE_LOCKED") throw error;
            this.become("memory", diskReason(error, this.folder));
        }
        try {
            await this.scan();
            this.scanned = true;
        } catch (error) {
            if (errorCode(error) === "ENOENT") this.scanned = true;
            else this.become("memory", diskReason(error, this.folder));
        }
        if (this.state === "opening") this.become("disk");
        this.later("write", this.state === "disk" ? 0 : this.limits.retryMs);
    }

    private async own(): Promise<void> {
        await ensureFolder(this.files, this.folder);
        this.lock ??= await acquireLock(path.join(this.folder, "lock"), this.files);
    }

    private async scan(): Promise<void> {
        const names = await this.files.readdir(this.folder);
        this.tornBytes = await this.log.scan(names, this.lock !== undefined);
        this.durable = this.log.segments.at(-1)?.next ?? 0;
        for (const name of names) await this.loadCursor(name);
        // A number that a cursor has passed is never given again, even if the entry itself was lost.
        for (const { done } of this.cursors.values()) this.durable = Math.max(this.durable, done.end);
        this.next = this.durable;
        for (const cursor of this.cursors.values()) cursor.drop(0, this.log.segments[0]?.first ?? this.durable, "bytes");
    }

    private async loadCursor(name: string): Promise<void> {
        if (!name.endsWith(".cursor")) return;
        const id = decodeURIComponent(name.slice(0, -".cursor".length));
        try {
            this.cursors.set(id, Cursor.parse(id, (await readText(this.files, path.join(this.folder, name))) ?? ""));
        } catch {
            // A lost place costs a second delivery of what is still here, nothing else.
            this.cursor(id);
        }
    }

    // --- writing

    private kick(what: keyof Spool["due"]): void {
        this.timers.get(what)?.();
        this.timers.delete(what);
        this.due[what] = true;
        this.start();
    }

    private start(): void {
        this.working ??= this.work().finally(() => {
            this.working = undefined;
            if (this.isDue()) this.start();
        });
    }

    private isDue(): boolean {
        return this.due.commit || this.due.write || this.due.cursors;
    }

    private later(what: keyof Spool["due"], ms: number): void {
        if (this.due[what] || this.timers.has(what) || this.closing) return;
        this.timers.set(
            what,
            this.clock.after(ms, () => this.kick(what)),
        );
    }

    /** The only place that changes files after the start, one step after the other. Never rejects. */
    private async work(): Promise<void> {
        await Promise.allSettled([this.ready]);
        const { due } = this;
        while (this.isDue()) {
            const { commit, write, cursors } = due;
            due.commit = due.write = due.cursors = false;
            const group = commit ? await this.encode() : undefined;
            if (this.state === "failed") {
                await this.ready.catch((error: unknown) => group?.reject(error));
                continue;
            }
            const isStored = (this.state !== "memory" || write) && (await this.store());
            this.trim();
            group?.resolve(isStored ? "disk" : "memory");
            if (cursors) await this.saveCursors();
            if (commit || write) for (const listener of this.listeners) listener();
        }
    }

    /** Turns the waiting group into records. */
    private async encode(): Promise<Group | undefined> {
        const { group } = this;
        if (group.entries === 0) return undefined;
        this.group = new Group();
        let [from, entries, chars] = [0, 0, 0];
        for (const [i, line] of group.lines.entries()) {
            entries += group.counts[i]!;
            chars += line.length;
            if (i + 1 < group.lines.length && entries < RECORD_ENTRIES && chars < RECORD_CHARS) continue;
            const body = await compress(group.lines.slice(from, i + 1).join(""), { level: 1 });
            this.tail.push({ seq: this.next, count: entries, body });
            this.tailBytes += body.length;
            this.next += entries;
            [from, entries, chars] = [i + 1, 0, 0];
        }
        this.appended += group.entries;
        return group;
    }

    /** Writes the tail; when the disk will not have it, the oldest segment goes, and then memory has to do: false. */
    private async store(): Promise<boolean> {
        for (let attempt = 0; ; attempt++) {
            try {
                if (!this.lock || !this.scanned) await this.join();
                await this.expire();
                await this.writeTail();
                this.become("disk");
                return true;
            } catch (error) {
                if (errorCode(error) === "STORE_LOCKED" || attempt >= 2 || !isDiskFull(error) || !(await this.makeRoom())) {
                    this.become("memory", errorCode(error) === "STORE_LOCKED" ? errorText(error) : diskReason(error, this.folder));
                    this.later("write", this.limits.retryMs);
                    return false;
                }
            }
        }
    }

    /** Takes a folder that could not be written, or not even read, at the start. */
    private async join(): Promise<void> {
        await this.own();
        if (this.scanned) return;
        const names = await this.files.readdir(this.folder);
        // Numbers have been given without knowing what the folder holds.
        if (names.some((name) => /\.(seg|cursor)$/.test(name))) throw new Error("it came back with older data: restart Node-RED to use it again");
        this.scanned = true;
    }

    private async writeTail(): Promise<void> {
        while (this.tail.length > 0) {
            let [records, bytes] = [0, 0];
            for (const record of this.tail) {
                if (records > 0 && bytes + record.body.length > this.limits.segmentBytes) break;
                bytes += bytesOf([record]);
                records++;
            }
            await this.keepWithin(bytes);
            const batch = this.tail.slice(0, records);
            await this.log.append(batch);
            const last = batch.at(-1)!;
            this.durable = last.seq + last.count;
            this.tail.splice(0, records);
            this.tailBytes -= batch.reduce((sum, { body }) => sum + body.length, 0);
        }
    }

    // --- bounds

    private async keepWithin(bytes: number): Promise<void> {
        const isOver = () => this.log.segments.length > 0 && this.log.bytes + bytes > this.limits.maxBytes;
        if (this.limits.keepAll && isOver()) {
            await this.removePassed();
            if (isOver()) throw new WattError("SPOOL_FULL", `${Math.round(this.limits.maxBytes / 2 ** 20)} MB wait for the flow: make it faster`);
            return;
        }
        while (isOver()) await this.dropOldest("bytes");
    }

    private async dropOldest(reason: DropReason): Promise<void> {
        const oldest = this.log.segments[0];
        if (!oldest) return;
        if (oldest === this.log.active) await this.log.retire();
        await removeFile(this.files, oldest.file);
        this.log.segments = this.log.segments.filter((segment) => segment !== oldest);
        for (const cursor of this.cursors.values()) cursor.drop(oldest.first, oldest.next, reason);
        this.later("cursors", 1000);
    }

    /** Frees space on a full disk: what everyone has, else the oldest. False when there is nothing to give. */
    private async makeRoom(): Promise<boolean> {
        try {
            if (await this.removePassed()) return true;
            if (this.log.segments.length === 0 || !this.lock || this.limits.keepAll) return false;
            await this.dropOldest("disk");
            return true;
        } catch {
            return false;
        }
    }

    /** Drops segments that are too old as a whole; without a trusted clock nothing is. */
    private async expire(): Promise<void> {
        const cutoff = this.clock.now() - this.limits.maxAgeMs;
        const isOld = () => {
            const { created } = this.log.segments[1] ?? { created: 0 };
            return isClockSet(created) && created < cutoff;
        };
        while (!this.limits.keepAll && isOld()) await this.dropOldest("age");
    }

    private trim(): void {
        while (this.tailBytes > this.limits.memoryBytes) {
            const { seq, count, body } = this.tail.shift()!;
            this.tailBytes -= body.length;
            for (const cursor of this.cursors.values()) cursor.drop(seq, seq + count, "memory");
        }
    }

    /** Segments that every destination has done with. */
    private passed(): Segment[] {
        const cursors = [...this.cursors.values()];
        if (cursors.length === 0 || !this.lock) return [];
        return this.log.segments.filter((segment) => segment !== this.log.active && cursors.every(({ done }) => !done.gap(segment.first, segment.next)));
    }

    private async removePassed(passed = this.passed()): Promise<boolean> {
        for (const segment of passed) {
            await removeFile(this.files, segment.file);
            this.log.segments = this.log.segments.filter((other) => other !== segment);
        }
        return passed.length > 0;
    }

    private async saveCursors(): Promise<void> {
        this.cursorsAt = this.clock.monotonic();
        if (!this.lock) return;
        // Taken before the save: what is delivered meanwhile stands in no cursor file yet, and would count as lost after a crash.
        const passed = this.passed();
        try {
            for (const cursor of this.cursors.values()) {
                if (!cursor.dirty) continue;
                await cursor.beforeSave();
                cursor.dirty = false;
                await replaceFile(this.files, this.cursorFile(cursor.name), cursor.serialize()).catch((error: unknown) => {
                    cursor.dirty = true;
                    throw error;
                });
            }
            await this.removePassed(passed);
        } catch {
            // The disk says so at the next commit; until then a crash delivers twice.
            this.later("cursors", this.limits.cursorMs);
        }
    }

    // --- reading

    private async readSegment(segment: Segment, batch: Batch, limits: BatchLimits): Promise<boolean> {
        try {
            const isFull = await segment.read(this.files, batch, limits);
            segment.failures = 0;
            return isFull;
        } catch (error) {
            if (!this.log.segments.includes(segment)) return true;
            if (errorCode(error) !== "ENOENT" && ++segment.failures < READ_ATTEMPTS) throw error;
            // Removed by another hand, or on a bad sector.
            if (segment === this.log.active) await this.log.retire();
            this.log.segments = this.log.segments.filter((other) => other !== segment);
            for (const cursor of this.cursors.values()) cursor.drop(segment.first, segment.next, "damaged");
            return true;
        }
    }

    private readTail(batch: Batch, limits: BatchLimits): void {
        for (const record of this.tail) {
            if (record.seq + record.count <= batch.to) continue;
            if (record.seq >= limits.until) break;
            if (batch.records.length > 0 && (batch.entries + record.count > limits.entries || batch.bytes + record.body.length > limits.bytes)) return;
            if (record.seq > batch.to) lose(batch, record.seq, "damaged");
            addRecord(batch, record);
        }
        // Neither on disk nor in memory.
        if (batch.to < limits.until) lose(batch, limits.until, "damaged");
    }

    // --- the rest

    private cursorFile(name: string): string {
        return path.join(this.folder, `${fileName(name)}.cursor`);
    }

    private become(state: SpoolStats["state"], reason?: string): void {
        if (this.state === "closed" || (state === this.state && reason === this.reason)) return;
        this.state = state;
        this.reason = reason;
        for (const listener of this.listeners) listener();
    }

    private async shut(): Promise<void> {
        for (const cancel of this.timers.values()) cancel();
        this.timers.clear();
        this.due.write = true;
        this.finish().then(this.settle, this.settle);
        await within(this.clock, CLOSE_MS, this.ended);
        this.become("closed");
    }

    private async finish(): Promise<void> {
        await this.flush();
        for (const cancel of this.timers.values()) cancel();
        this.timers.clear();
        await this.log.retire().catch(() => undefined);
        await this.lock?.release().catch(() => undefined);
    }
}
