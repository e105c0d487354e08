import { gzip } from "node:zlib";
import { promisify } from "node:util";
import type { SpoolRecord } from "./delivery.js";
import { WattError } from "../common/errors.js";

const compress = promisify(gzip);

/** Where an appended entry is kept: `disk` survives a crash, `memory` does not: the disk takes no writes just now. */
export type Kept = "disk" | "memory";

export interface SpoolOptions {
    folder: string;
    /** An entry waits at most this long for its commit, ms. */
    commitMs?: number;
    /** A commit starts at once when so many entries wait. */
    commitEntries?: number;
}

/** Durable entries in the order of their arrival; every Outbox reads them with a cursor of its own. */
export class Spool {
    private readonly records: SpoolRecord[] = [];
    private next = 0;
    private readonly listeners = new Set<() => void>();

    constructor(readonly options: SpoolOptions) {}

    /**
     * Keeps `count` entries, one a line, and resolves once they are where the answer says.
     * @throws WattError SPOOL_CLOSED after close, STORE_LOCKED when another process owns the folder.
     */
    async append(lines: string, count: number): Promise<Kept> {
        if (count < 1) throw new WattError("SPOOL_ENTRY_INVALID", "An append needs at least one entry.");
        const body = await compress(lines.endsWith("\n") ? lines : `${lines}\n`, { level: 1 });
        this.records.push({ seq: this.next, count, body });
        this.next += count;
        for (const listener of this.listeners) listener();
        return "memory";
    }

    /** Commits what waits; resolves when it is kept. */
    async flush(): Promise<void> {}

    /** @internal For Outbox. */
    read(from: number, maxEntries: number): SpoolRecord[] {
        const found: SpoolRecord[] = [];
        let entries = 0;
        for (const record of this.records) {
            if (record.seq < from) continue;
            if (found.length > 0 && entries + record.count > maxEntries) break;
            found.push(record);
            entries += record.count;
        }
        return found;
    }

    /** @internal Number of the next entry. */
    get end(): number {
        return this.next;
    }

    /** Calls `listener` after every commit and change of health; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    async close(): Promise<void> {}
}
