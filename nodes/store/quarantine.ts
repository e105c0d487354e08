import path from "node:path";
import { Turns } from "../common/turns.js";
import type { Rejected } from "./delivery.js";
import { readText, removeFile, replaceFile, syncFolder, writeAll, type Files } from "./files.js";

/** An entry that the receiver will never take. */
export interface Quarantined extends Rejected {
    /** When it was set aside, ms UTC. */
    at: number;
}

/** Entries kept in memory while the disk takes no writes. */
const UNSAVED_ENTRIES = 1000;

/** What one destination refused, as JSON lines in two files of half the bound each; the older one goes when the newer is full. */
export class Quarantine {
    /** Entries held. */
    count = 0;
    /** Entries lost because the quarantine was full. */
    dropped = 0;
    private unsaved: Quarantined[] = [];
    /** Length of the newer file; undefined before the first look. */
    private bytes: number | undefined;
    private readonly turns = new Turns();

    constructor(
        private readonly file: string,
        private readonly files: Files,
        private readonly maxBytes = 4 * 1024 * 1024,
    ) {}

    /** Counts what is there from before. */
    async load(): Promise<void> {
        await this.list();
    }

    /** Sets entries aside; what the disk does not take stays in memory. */
    add(entries: Quarantined[]): Promise<void> {
        return this.turns.take(async () => {
            this.unsaved.push(...entries);
            this.count += entries.length;
            try {
                await this.save();
            } catch {
                const surplus = this.unsaved.splice(0, Math.max(0, this.unsaved.length - UNSAVED_ENTRIES)).length;
                this.count -= surplus;
                this.dropped += surplus;
            }
        });
    }

    /** Writes what the disk did not take before. */
    flush(): Promise<void> {
        return this.turns.take(async () => {
            if (this.unsaved.length > 0) await this.save();
        });
    }

    /** The newest `limit` entries, oldest first. */
    list(limit = Infinity): Promise<Quarantined[]> {
        return this.turns.take(async () => (await this.all()).slice(-limit));
    }

    /** All entries as JSON lines. */
    async export(): Promise<string> {
        return toLines(await this.list());
    }

    discard(): Promise<void> {
        return this.turns.take(() => this.replace([]));
    }

    /** Hands all entries to `attempt` and keeps those it gives back. */
    retry(attempt: (entries: Quarantined[]) => Promise<Quarantined[]>): Promise<void> {
        return this.turns.take(async () => this.replace(await attempt(await this.all())));
    }

    private async all(): Promise<Quarantined[]> {
        const entries: Quarantined[] = [];
        for (const file of [this.old, this.file]) {
            const text = (await readText(this.files, file)) ?? "";
            if (file === this.file) this.bytes = Buffer.byteLength(text);
            for (const line of text.split("\n")) {
                try {
                    const entry = JSON.parse(line) as Quarantined | null;
                    if (typeof entry?.entry === "string") entries.push(entry);
                } catch {
                    // Blank, cut short by a crash, or damaged.
                }
            }
        }
        entries.push(...this.unsaved);
        this.count = entries.length;
        return entries;
    }

    private async save(): Promise<void> {
        if (this.bytes === undefined) await this.all();
        // A line of its own, even after one that a crash cut short.
        const text = Buffer.from(`\n${toLines(this.unsaved)}`);
        if (this.bytes! > 0 && this.bytes! + text.length > this.maxBytes / 2) {
            const old = (await readText(this.files, this.old)) ?? "";
            await this.files.rename(this.file, this.old);
            this.bytes = 0;
            const lost = old.split("\n").filter((line) => line !== "").length;
            this.dropped += lost;
            this.count -= lost;
        }
        const handle = await this.files.open(this.file, this.bytes === 0 ? "w" : "r+");
        try {
            await writeAll(handle, [text], this.bytes!);
            await handle.datasync();
        } finally {
            await handle.close();
        }
        if (this.bytes === 0) await syncFolder(this.files, path.dirname(this.file));
        this.bytes! += text.length;
        this.unsaved = [];
    }

    private async replace(entries: Quarantined[]): Promise<void> {
        await replaceFile(this.files, this.file, toLines(entries));
        await removeFile(this.files, this.old);
        this.unsaved = [];
        await this.all();
    }

    private get old(): string {
        return `${this.file}.old`;
    }
}

function toLines(entries: Quarantined[]): string {
    return entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
}
