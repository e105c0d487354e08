import path from "node:path";
import type { Clock } from "../common/clock.js";
import type { Deliver } from "./delivery.js";
import { Outbox, type OutboxOptions, type OutboxStats } from "./outbox.js";
import { Series } from "./series.js";
import { Spool } from "./spool.js";

export interface StoreOptions {
    folder: string;
    clock?: Clock;
}

/** What a person should know of the store; `problems` is empty when all is well. */
export interface StoreHealth {
    problems: string[];
    outboxes: Record<string, OutboxStats>;
}

/** One folder with everything that must survive: series and spools. */
export class Store {
    readonly series = new Series();
    private readonly spools = new Map<string, Spool>();
    private readonly outboxes = new Map<string, Outbox>();

    constructor(readonly options: StoreOptions) {}

    /** The spool of that name, opened on first use; `points` holds line protocol for InfluxDB. */
    spool(name = "points"): Spool {
        let spool = this.spools.get(name);
        if (!spool) {
            spool = new Spool({ folder: path.join(this.options.folder, "spool", name) });
            this.spools.set(name, spool);
        }
        return spool;
    }

    /**
     * Delivers the entries of `spool` to one destination. The name keeps its place across restarts: an id that does not change.
     * Close it when the destination goes; its place stays.
     */
    outbox(name: string, deliver: Deliver, options: OutboxOptions & { spool?: string } = {}): Outbox {
        const outbox = new Outbox(this.spool(options.spool), name, deliver, options);
        this.outboxes.set(name, outbox);
        return outbox;
    }

    /** Forgets the place of a destination that was removed for good, so that nothing is kept for it. */
    async forget(name: string): Promise<void> {
        const outbox = this.outboxes.get(name);
        this.outboxes.delete(name);
        await outbox?.close();
        await outbox?.spool.forget(name);
    }

    health(): StoreHealth {
        return { problems: [], outboxes: Object.fromEntries([...this.outboxes].map(([name, outbox]) => [name, outbox.stats()])) };
    }

    /** Flushes and closes all; within 2 s. */
    async close(): Promise<void> {
        await Promise.all([...this.outboxes.values()].map((outbox) => outbox.close()));
        await Promise.all([...this.spools.values()].map((spool) => spool.close()));
        await this.series.close();
    }
}
