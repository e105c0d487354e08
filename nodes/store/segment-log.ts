import type { SpoolRecord } from "./delivery.js";
import { syncFolder, writeAll, type FileHandle, type Files } from "./files.js";
import { encodeHeader, HEADER_BYTES, parseRecord } from "./record.js";
import { Segment } from "./segment.js";

export interface SegmentLogOptions {
    folder: string;
    files: Files;
    /** A segment takes no more records beyond this. */
    segmentBytes: number;
    /** When a segment is begun or extended, ms UTC; 0 while the clock is not set. */
    stamp: () => number;
}

/** Records in append-only segments of one folder, for one owner who makes one call at a time. */
export class SegmentLog {
    /** In the order of their entries. */
    segments: Segment[] = [];
    private open: { segment: Segment; handle: FileHandle } | undefined;

    constructor(private readonly options: SegmentLogOptions) {}

    /** The segment that the next records go to. */
    get active(): Segment | undefined {
        return this.open?.segment;
    }

    get bytes(): number {
        return this.segments.reduce((sum, { bytes }) => sum + bytes, 0);
    }

    /** Learns what the folder holds. Returns the bytes that a crash left half written at the end; `mayCut` takes them off. */
    async scan(names: string[], mayCut: boolean): Promise<number> {
        const { folder, files } = this.options;
        const segments: Segment[] = [];
        for (const segment of names.flatMap((name) => Segment.fromName(folder, name) ?? []).toSorted((a, b) => a.first - b.first || a.created - b.created)) {
            const stat = await files.stat(segment.file);
            if (!stat.isFile()) continue;
            segment.bytes = stat.size;
            segments.push(segment);
        }
        for (const [i, segment] of segments.entries()) segment.next = segments[i + 1]?.first ?? segment.first;
        const last = segments.at(-1);
        const torn = last ? await this.scanLast(last, mayCut) : 0;
        this.segments = segments;
        return torn;
    }

    /** Writes records behind the last ones; they are durable when it resolves, and no more than perhaps there when it rejects. */
    async append(records: SpoolRecord[]): Promise<void> {
        const buffers = records.flatMap((record) => [encodeHeader(record), record.body]);
        const bytes = bytesOf(records);
        const [first, last] = [records[0]!, records.at(-1)!];
        const { segment, handle } = await this.segmentFor(first.seq, bytes);
        try {
            await writeAll(handle, buffers, segment.bytes);
            await handle.datasync();
        } catch (error) {
            await this.abandon();
            throw error;
        }
        segment.extend(first.seq, last.seq + last.count, bytes, this.options.stamp());
    }

    /** Closes the active segment; the next append begins a new one. */
    async retire(): Promise<void> {
        const { open } = this;
        this.open = undefined;
        await open?.handle.close();
    }

    /** Finds the end of the newest segment. */
    private async scanLast(segment: Segment, mayCut: boolean): Promise<number> {
        const { files } = this.options;
        const content = await files.readFile(segment.file);
        let end = 0;
        for (let at = 0; at < content.length; ) {
            const parsed = parseRecord(content, at, true);
            if (parsed.kind === "more") break;
            at = parsed.end;
            if (parsed.kind === "damaged") continue;
            end = at;
            const { seq, count } = parsed.kind === "record" ? parsed.record : parsed;
            segment.next = Math.max(segment.next, seq + count);
        }
        segment.bytes = end;
        if (end === content.length || !mayCut) return 0;
        const handle = await files.open(segment.file, "r+");
        try {
            await handle.truncate(end);
        } catch {
            // The tail is ignored all the same: reading stops at `bytes`.
        } finally {
            await handle.close();
        }
        return content.length - end;
    }

    private async segmentFor(first: number, bytes: number): Promise<{ segment: Segment; handle: FileHandle }> {
        const { folder, files, segmentBytes, stamp } = this.options;
        if (this.open && this.open.segment.bytes + bytes <= segmentBytes) return this.open;
        await this.retire();
        let segment = new Segment(folder, first, stamp());
        // The same entries may have begun a segment whose disk then failed.
        while (this.segments.some(({ file }) => file === segment.file)) segment = new Segment(folder, first, segment.created + 1);
        const handle = await files.open(segment.file, "w");
        this.open = { segment, handle };
        this.segments.push(segment);
        try {
            await syncFolder(files, folder);
        } catch (error) {
            await this.abandon();
            throw error;
        }
        return this.open;
    }

    /** After a failed write nothing is sure of the file's tail, so no more is added to it. */
    private async abandon(): Promise<void> {
        const { open } = this;
        this.open = undefined;
        if (!open) return;
        const { segment, handle } = open;
        await handle.truncate(segment.bytes).catch(() => undefined);
        await handle.close().catch(() => undefined);
        if (segment.bytes > 0) return;
        this.segments = this.segments.filter((other) => other !== segment);
        await this.options.files.unlink(segment.file).catch(() => undefined);
    }
}

/** What records take on disk. */
export function bytesOf(records: readonly SpoolRecord[]): number {
    return records.reduce((sum, { body }) => sum + HEADER_BYTES + body.length, 0);
}
