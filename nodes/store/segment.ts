import path from "node:path";
import type { SpoolRecord } from "./delivery.js";
import type { FileHandle, Files } from "./files.js";
import { parseRecord } from "./record.js";

/** A place in a segment where a record begins. */
interface Mark {
    seq: number;
    offset: number;
    /** Commit time, ms UTC; 0 where unknown. */
    at: number;
}

/** Room between marks: a reader finds its place without a walk from the start, and 1 MB needs few. */
const MARK_BYTES = 4096;
const WINDOW_BYTES = 64 * 1024;

/** Entries read for one delivery. */
export interface Batch {
    records: SpoolRecord[];
    entries: number;
    bytes: number;
    /** Everything before this number was read or is lost. */
    to: number;
    /** Entries on damaged ground. */
    damaged: number;
    /** Entries in records of a version this program does not know. */
    version: number;
}

export interface BatchLimits {
    /** Read no record that begins here or later. */
    until: number;
    entries: number;
    bytes: number;
}

/** One append-only file of records. Its entries end where the next segment begins, whatever else its tail may hold. */
export class Segment {
    readonly file: string;
    /** Number after its last entry. */
    next: number;
    /** Length of what is durable. */
    bytes = 0;
    /** Reads that failed in a row. */
    failures = 0;
    private readonly marks: Mark[] = [];

    constructor(
        folder: string,
        readonly first: number,
        /** When it was begun, ms UTC; 0 when the clock was not set. */
        readonly created: number,
    ) {
        this.file = path.join(folder, `${String(first).padStart(16, "0")}-${created}.seg`);
        this.next = first;
    }

    /** The segment a file name stands for. */
    static fromName(folder: string, name: string): Segment | undefined {
        const [, first, created] = /^(\d{16})-(\d+)\.seg$/.exec(name) ?? [];
        return first === undefined ? undefined : new Segment(folder, Number(first), Number(created));
    }

    /** Takes note of a commit that added records from `seq` to `next`. */
    extend(seq: number, next: number, bytes: number, at: number): void {
        this.mark(seq, this.bytes, at);
        this.bytes += bytes;
        this.next = next;
    }

    /** Commit time of an entry, ms UTC, as far as known; 0 where not. */
    timeOf(seq: number): number {
        return this.before(seq)?.at ?? this.created;
    }

    /** Adds records from `batch.to` on. True when the batch is full, false when the segment is at its end. */
    async read(files: Files, batch: Batch, limits: BatchLimits): Promise<boolean> {
        const until = Math.min(limits.until, this.next);
        const start = this.before(batch.to);
        let offset = start?.offset ?? 0;
        let window = Math.max(WINDOW_BYTES, Math.min(limits.bytes - batch.bytes, this.bytes));
        const handle = await files.open(this.file, "r");
        try {
            while (offset < this.bytes) {
                const chunk = await readAt(handle, offset, Math.min(window, this.bytes - offset));
                const used = this.take(chunk, offset, batch, { ...limits, until });
                if (used.full) return true;
                offset += used.bytes;
                // A record or a damaged stretch longer than the window.
                if (used.bytes === 0) window *= 4;
            }
        } finally {
            await handle.close();
        }
        if (batch.to < until) lose(batch, until, "damaged");
        return batch.to >= limits.until;
    }

    private take(chunk: Buffer, offset: number, batch: Batch, limits: BatchLimits): { full: boolean; bytes: number } {
        let at = 0;
        const final = offset + chunk.length >= this.bytes;
        while (at < chunk.length) {
            const parsed = parseRecord(chunk, at, final);
            if (parsed.kind === "more") break;
            if (parsed.kind !== "damaged") {
                const { seq, count } = parsed.kind === "record" ? parsed.record : parsed;
                if (seq >= limits.until) {
                    if (batch.to < limits.until) lose(batch, limits.until, "damaged");
                    return { full: true, bytes: at };
                }
                if (seq + count > batch.to) {
                    const isFull = batch.records.length > 0 && (batch.entries + count > limits.entries || batch.bytes + parsed.end - at > limits.bytes);
                    if (isFull) return { full: true, bytes: at };
                    if (seq > batch.to) lose(batch, seq, "damaged");
                    this.mark(seq, offset + at, 0);
                    if (parsed.kind === "record") addRecord(batch, parsed.record);
                    else lose(batch, seq + count, "version");
                }
            }
            at = parsed.end;
        }
        return { full: false, bytes: at };
    }

    private mark(seq: number, offset: number, at: number): void {
        const last = this.marks.at(-1);
        if (!last || (seq > last.seq && offset >= last.offset + MARK_BYTES)) this.marks.push({ seq, offset, at: at || this.created });
    }

    private before(seq: number): Mark | undefined {
        let [low, high] = [0, this.marks.length];
        while (low < high) {
            const middle = (low + high) >> 1;
            if (this.marks[middle]!.seq <= seq) low = middle + 1;
            else high = middle;
        }
        return this.marks[low - 1];
    }
}

/** Adds a record that begins at or before `batch.to`. */
export function addRecord(batch: Batch, record: SpoolRecord): void {
    batch.records.push(record);
    batch.entries += record.count;
    batch.bytes += record.body.length;
    batch.to = record.seq + record.count;
}

/** Steps over entries that cannot be read. */
export function lose(batch: Batch, to: number, why: "damaged" | "version"): void {
    batch[why] += to - batch.to;
    batch.to = to;
}

async function readAt(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafeSlow(length);
    let got = 0;
    while (got < length) {
        const { bytesRead } = await handle.read(buffer, got, length - got, offset + got);
        // Shorter than we wrote it: what is missing reads as damage.
        if (bytesRead === 0) return buffer.fill(0, got);
        got += bytesRead;
    }
    return buffer;
}
