import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import type { SpoolRecord } from "../../dist/store/delivery.js";
import { Cursor } from "../../dist/store/cursor.js";
import type { Outbox } from "../../dist/store/outbox.js";
import type { Spool } from "../../dist/store/spool.js";

/** Folders that are removed after each test. */
const folders: string[] = [];

export async function makeFolder(): Promise<string> {
    const folder = await mkdtemp(path.join(tmpdir(), "wl-store-"));
    folders.push(folder);
    return folder;
}

export async function removeFolders(): Promise<void> {
    for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
}

/** The entries of records, in order. */
export function entriesOf(records: SpoolRecord[]): string[] {
    if (records.length === 0) return [];
    return gunzipSync(Buffer.concat(records.map(({ body }) => body)))
        .toString()
        .split("\n")
        .slice(0, -1);
}

/** Everything a spool holds, with what was lost on the way. */
export async function readAll(spool: Spool): Promise<{ entries: string[]; damaged: number; version: number }> {
    await spool.ready;
    const found = { entries: [] as string[], damaged: 0, version: 0 };
    for (let at = spool.cursor("reader").done.end; at < spool.end; ) {
        const batch = await spool.read(at, { until: spool.end, entries: 1000, bytes: 1e6 });
        found.entries.push(...entriesOf(batch.records));
        found.damaged += batch.damaged;
        found.version += batch.version;
        at = batch.to;
    }
    return found;
}

/** Resolves once `isTrue` holds, looked at whenever the outbox or its spool says that something changed. */
export function until(source: Outbox | Spool, isTrue: () => boolean): Promise<void> {
    return new Promise((resolve) => {
        const look = () => {
            if (!isTrue()) return;
            for (const stop of stops) stop();
            resolve();
        };
        const stops = [source.onChange(look), ...("spool" in source ? [source.spool.onChange(look)] : [])];
        look();
    });
}

export { Cursor };
