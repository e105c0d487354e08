import path from "node:path";
import type { Clock } from "../common/clock.js";
import type { Deliver } from "./delivery.js";
import { fileName } from "./files.js";
import { Ledger, type LedgerStats } from "./ledger.js";
import { Outbox, type OutboxOptions, type OutboxStats } from "./outbox.js";
import { Series, type Retention, type SeriesStats } from "./series.js";
import { Spool, type SpoolStats } from "./spool.js";

export interface StoreOptions {
    folder: string;
    /** Samples of the series wait at most this long for their commit, ms. */
    commitMs?: number;
    /** Days each resolution is kept. */
    retention?: Partial<Retention>;
    /** IANA zone of the local day. */
    zone?: string;
    /** Bounds of what waits for each kind of destination: bytes and age. */
    spool?: { maxBytes?: number; maxAgeMs?: number };
    /** Opens once this has settled: who had the folder before. */
    after?: Promise<unknown> | undefined;
    clock?: Clock;
}

export interface StoreHealth {
    /** What a person should know, each as a sentence without its stop; empty when all is well. */
    problems: string[];
    series: SeriesStats;
    spools: Record<string, SpoolStats>;
    outboxes: Record<string, OutboxStats>;
    ledgers: Record<string, LedgerStats>;
}

/** One folder with everything that must survive: series, spools with their outboxes, and ledgers. */
export class Store {
    readonly series: Series;
    private readonly spools = new Map<string, Spool>();
    private readonly outboxes = new Map<string, Outbox>();
    private readonly ledgers = new Map<string, Ledger>();
    private readonly listeners = new Set<() => void>();
    private closing: Promise<void> | undefined;

    constructor(readonly options: StoreOptions) {
        const { spool: _spool, ...series } = options;
        this.series = new Series(series);
        this.series.onChange(this.notify);
    }

    /** The spool of that name, opened on first use; `points` holds line protocol for InfluxDB. */
    spool(name = "points"): Spool {
        let spool = this.spools.get(name);
        if (!spool) {
            const { folder, spool: bounds, after, clock } = this.options;
            spool = new Spool({ folder: path.join(folder, "spool", name), ...bounds, after, ...(clock && { clock }) });
            spool.onChange(this.notify);
            this.spools.set(name, spool);
        }
        return spool;
    }

    /**
     * Delivers the entries of `spool` to one destination. The name keeps its place across restarts: an id that does not change.
     * Close it when the destination goes; its place stays.
     */
    outbox(name: string, deliver: Deliver, options: OutboxOptions & { spool?: string } = {}): Outbox {
        const { clock } = this.options;
        const outbox = new Outbox(this.spool(options.spool), name, deliver, { ...(clock && { clock }), ...options });
        outbox.onChange(this.notify);
        this.outboxes.set(name, outbox);
        return outbox;
    }

    /** The ledger that signs as `origin`, such as `example.org/plant1`, opened on first use. */
    ledger(origin: string): Ledger {
        let ledger = this.ledgers.get(origin);
        if (!ledger) {
            const { folder, after, clock } = this.options;
            ledger = new Ledger({ folder: path.join(folder, "ledger", fileName(origin)), origin, after, ...(clock && { clock }) });
            ledger.onChange(this.notify);
            this.ledgers.set(origin, ledger);
        }
        return ledger;
    }

    /** Forgets the place of a destination that was removed for good, so that nothing is kept for it. */
    async forget(name: string): Promise<void> {
        const outbox = this.outboxes.get(name);
        this.outboxes.delete(name);
        await outbox?.close();
        await outbox?.spool.forget(name);
    }

    health(): StoreHealth {
        const series = this.series.stats();
        const spools = mapValues(this.spools, (spool) => spool.stats());
        const outboxes = mapValues(this.outboxes, (outbox) => outbox.stats());
        const ledgers = mapValues(this.ledgers, (ledger) => ledger.stats());
        const problems: string[] = [];
        if (series.state === "memory" || series.state === "failed") problems.push(`Readings are not kept: ${plain(series.reason)}`);
        if (series.setAside !== undefined) problems.push(`The series was damaged and is set aside as ${path.basename(series.setAside)}`);
        for (const [name, { state, reason, tornBytes }] of Object.entries(spools)) {
            if (tornBytes > 0) problems.push(`The last ${tornBytes} bytes of what waits for delivery (${name}) are unreadable and cut off`);
            if (state === "memory") problems.push(`What waits for delivery (${name}) is in memory only: ${plain(reason)}`);
            if (state === "failed") problems.push(`Nothing can be delivered (${name}): ${plain(reason)}`);
        }
        for (const { reason } of Object.values(ledgers)) if (reason !== undefined) problems.push(plain(reason));
        return { problems, series, spools, outboxes, ledgers };
    }

    /** Calls `listener` when the health may have changed; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /** Flushes and closes all; resolves within 2 s, `ended` when that is really done. */
    close(): Promise<void> {
        return (this.closing ??= this.shut());
    }

    /** Resolves once the folder is given back after `close`, however long the disk takes. */
    async ended(): Promise<void> {
        await this.closing;
        await Promise.all([this.series, ...this.spools.values(), ...this.ledgers.values()].map(({ ended }) => ended));
    }

    private async shut(): Promise<void> {
        const series = this.series.close();
        await Promise.all([...this.outboxes.values()].map((outbox) => outbox.close()));
        await Promise.all([series, ...[...this.spools.values(), ...this.ledgers.values()].map((part) => part.close())]);
    }

    private readonly notify = (): void => {
        for (const listener of this.listeners) listener();
    };
}

/** Stores in use, by folder. */
const shared = new Map<string, { store: Store; users: number }>();
/** Folders that a slow disk has not given back yet. */
const leaving = new Map<string, Promise<void>>();

/** The store of a folder, one for all who ask in this process; the first one's options hold. Give it back with `release`. */
export function shareStore(options: StoreOptions): { store: Store; release: () => Promise<void> } {
    const folder = path.resolve(options.folder);
    const entry = shared.get(folder) ?? { store: new Store({ ...options, folder, after: leaving.get(folder) }), users: 0 };
    shared.set(folder, entry);
    entry.users++;
    let isReleased = false;
    return {
        store: entry.store,
        release: async () => {
            if (isReleased) return;
            isReleased = true;
            if (--entry.users > 0) return;
            shared.delete(folder);
            const closed = entry.store.close();
            const ended = entry.store.ended().finally(() => {
                if (leaving.get(folder) === ended) leaving.delete(folder);
            });
            leaving.set(folder, ended);
            await closed;
        },
    };
}

/** A reason without its stop, as part of a sentence. */
function plain(reason = ""): string {
    return reason.replace(/\.$/, "");
}

function mapValues<T, R>(map: Map<string, T>, change: (value: T) => R): Record<string, R> {
    return Object.fromEntries([...map].map(([key, value]) => [key, change(value)]));
}
