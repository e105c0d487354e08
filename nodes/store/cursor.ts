import { Ranges, type Range } from "./ranges.js";

/** Why entries were given up: spool too large, too old, disk full, memory full while the disk failed, damaged on disk, unknown record version. */
export type DropReason = "bytes" | "age" | "disk" | "memory" | "damaged" | "version";

/** How far one destination is, and what it lost. */
export class Cursor {
    /** Differs from what is on disk. */
    dirty = false;
    /** Makes durable what must be so before the place moves on; rejects when that fails, and then the place on disk stays. */
    beforeSave: () => Promise<void> = () => Promise.resolve();

    constructor(
        readonly name: string,
        /** Entries delivered or given up. */
        readonly done: Ranges,
        readonly dropped: Partial<Record<DropReason, number>> = {},
    ) {}

    /** @throws on anything but what `serialize` wrote. */
    static parse(name: string, text: string): Cursor {
        const { done, dropped } = JSON.parse(text) as { done: Range[]; dropped: Cursor["dropped"] };
        const isValid = done.every((pair) => pair.length === 2 && pair.every((seq) => Number.isSafeInteger(seq) && seq >= 0));
        if (!isValid) throw new TypeError("not a cursor");
        const ranges = new Ranges();
        for (const [from, to] of done) ranges.add(from, to);
        return new Cursor(name, ranges, { ...dropped });
    }

    serialize(): string {
        return JSON.stringify({ done: this.done, dropped: this.dropped });
    }

    /** Gives up those of [from, to) that are not done. */
    drop(from: number, to: number, reason: DropReason): void {
        this.lose(reason, to - from - this.done.covered(from, to));
        this.done.add(from, to);
        this.dirty = true;
    }

    /** Counts entries as lost. */
    lose(reason: DropReason, entries: number): void {
        if (entries > 0) this.dropped[reason] = (this.dropped[reason] ?? 0) + entries;
    }
}
