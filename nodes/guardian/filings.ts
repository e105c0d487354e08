import path from "node:path";
import { systemClock, type Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { openOwned, type Database, type OwnedDatabase, type SqlBackend } from "../store/sqlite.js";
import type { Document } from "./document.js";
import type { Computed, Difference } from "./twin.js";

/** `external` goes to /external, in the compatibility mode. */
export type Kind = "project" | "report" | "external";

/**
 * `new` nothing of it is at Guardian · `sent` an attempt was made, and what became of it is not known · `jammed` Guardian took it
 * and got stuck with it, so it is never sent again by itself · `filed` it was read back · `refused` Guardian said no.
 */
export type RowState = "new" | "sent" | "jammed" | "filed" | "refused";

/** One document that is to be at Guardian once. */
export interface Row {
    key: string;
    kind: Kind;
    /** Base of the API and policy. */
    url: string;
    policyId: string;
    /** It counts: a published policy of a real Guardian. */
    isBinding: boolean;
    /** Name of the project. */
    project: string;
    /** The report's own key, its meters and period; absent for a project. */
    report?: { key: string; meters: string[]; fromMs: number; toMs: number; credits: number };
    simulated: boolean;
    document: Document;
    ref: string | null;
    computed: Computed;
    mint: number;
    state: RowState;
    attempts: number;
    lastAttemptMs: number;
    /** When Guardian was first seen without it since, ms; 0 for never. */
    absentMs: number;
    /** What Guardian knows it by; once filed. */
    stored?: { subject: string; hash: string; messageId: string };
    differences: Difference[];
    /** Where registry and verifier are with it: Guardian's own word. */
    stage: string;
    /** Tokens seen minted for it. */
    minted?: number;
    /** What a person must know, until it is settled. */
    reason: string;
}

const SCHEMA = `
CREATE TABLE IF NOT EXISTS filings (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL, binding INTEGER NOT NULL, content TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    meter TEXT NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (meter, from_ms, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox (id TEXT PRIMARY KEY, url TEXT NOT NULL, policy TEXT NOT NULL, content TEXT NOT NULL) WITHOUT ROWID;`;

/** Every document filed or to be filed, each under a key that is there once. Each change is on the disk before it returns. */
export class Filings {
    private constructor(private readonly owned: OwnedDatabase) {
        owned.db.exec(SCHEMA);
    }

    /** @throws WattError STORE_LOCKED, SQLITE_READONLY and other SQLite errors */
    static async open(folder: string, clock: Clock = systemClock, backend?: SqlBackend): Promise<Filings> {
        // FULL: a power cut after a document was sent must not make it new again.
        const owned = await openOwned(path.join(folder, "filings.sqlite"), { stamp: String(clock.now()), synchronous: "FULL", ...(backend && { backend }) });
        return new Filings(owned);
    }

    /** Where a damaged file was put: what it held is asked of Guardian again. */
    get setAside(): string | undefined {
        return this.owned.setAside;
    }

    get(key: string): Row | undefined {
        const [found] = this.db.all<{ content: string }>("SELECT content FROM filings WHERE key = ?", key);
        return found && (JSON.parse(found.content) as Row);
    }

    all(url: string): Row[] {
        return this.db
            .all<{ content: string }>("SELECT content FROM filings")
            .map(({ content }) => JSON.parse(content) as Row)
            .filter((row) => row.url === url);
    }

    /** Keeps what was asked for until it is settled: Guardian may be away, or the project not validated yet. */
    keep(id: string, url: string, policyId: string, content: object): void {
        this.db.run("INSERT OR REPLACE INTO inbox VALUES (?, ?, ?, ?)", id, url, policyId, JSON.stringify(content));
    }

    /** What was kept for a policy, oldest name first. */
    kept(url: string, policyId: string): { id: string; content: unknown }[] {
        const found = this.db.all<{ id: string; content: string }>("SELECT id, content FROM inbox WHERE url = ? AND policy = ? ORDER BY id", url, policyId);
        return found.map(({ id, content }) => ({ id, content: JSON.parse(content) as unknown }));
    }

    forget(id: string): void {
        this.db.run("DELETE FROM inbox WHERE id = ?", id);
    }

    /**
     * Writes a new row down. The row that is there already, if any, is given back instead, unchanged.
     * @throws WattError GUARDIAN_CLAIMED when a binding report claims time of a meter that another one claims
     */
    begin(row: Row): Row | undefined {
        let known: Row | undefined;
        this.db.transaction(() => {
            known = this.get(row.key);
            if (known && known.state !== "refused") return;
            known = undefined;
            this.release(row.key);
            if (row.isBinding && row.report) this.claim(row.key, row.report);
            this.write(row);
        });
        return known;
    }

    /**
     * Marks an attempt before it is made. False when the row is no longer as `row` has it, and then nothing may be sent.
     */
    attempt(row: Row, nowMs: number): boolean {
        let isOurs = false;
        this.db.transaction(() => {
            const now = this.get(row.key);
            isOurs = now?.state === "new" && now.attempts === row.attempts;
            if (isOurs) this.write(Object.assign(row, { state: "sent", attempts: row.attempts + 1, lastAttemptMs: nowMs, absentMs: 0 }));
        });
        return isOurs;
    }

    /** Replaces a row by what has been learned; a document that Guardian refused claims nothing. */
    update(row: Row): void {
        this.db.transaction(() => {
            if (row.state === "refused") this.release(row.key);
            this.write(row);
        });
    }

    close(): Promise<void> {
        return this.owned.close();
    }

    private get db(): Database {
        return this.owned.db;
    }

    private write(row: Row): void {
        this.db.run("INSERT OR REPLACE INTO filings VALUES (?, ?, ?, ?, ?)", row.key, row.state, row.attempts, row.isBinding ? 1 : 0, JSON.stringify(row));
    }

    private release(key: string): void {
        this.db.run("DELETE FROM claims WHERE key = ?", key);
    }

    private claim(key: string, { meters, fromMs, toMs }: NonNullable<Row["report"]>): void {
        for (const meter of meters) {
            const [other] = this.db.all<{ key: string }>("SELECT key FROM claims WHERE meter = ? AND from_ms < ? AND to_ms > ? AND key <> ?", meter, toMs, fromMs, key);
            if (other) throw new WattError("GUARDIAN_CLAIMED", `Meter ${meter} has a report for part of this time already (${other.key.slice(0, 12)}): nothing is claimed twice, in any policy.`);
            this.db.run("INSERT INTO claims VALUES (?, ?, ?, ?)", meter, fromMs, toMs, key);
        }
    }
}

/** Open files by folder: all nodes of a Node-RED share one. */
const shared = new Map<string, { filings: Promise<Filings>; users: number }>();
/** Files that are being closed. */
const leaving = new Map<string, Promise<unknown>>();

/** The filings of a folder, one for all who ask in this process. Give them back with `release`, also when they could not be opened. */
export function shareFilings(folder: string): { filings: Promise<Filings>; release: () => Promise<void> } {
    const key = path.resolve(folder);
    const entry = shared.get(key) ?? { filings: Promise.resolve(leaving.get(key)).then(() => Filings.open(key)), users: 0 };
    shared.set(key, entry);
    entry.users++;
    // Whoever awaits it hears why.
    entry.filings.catch(() => undefined);
    return {
        filings: entry.filings,
        release: async () => {
            if (--entry.users > 0) return;
            shared.delete(key);
            const closed = entry.filings.then((filings) => filings.close()).catch(() => undefined);
            leaving.set(key, closed);
            await closed;
            if (leaving.get(key) === closed) leaving.delete(key);
        },
    };
}
