import { Backoff } from "../common/backoff.js";
import { systemClock, type Clock } from "../common/clock.js";
import { errorText } from "../common/errors.js";
import type { Deliver, Outcome, Rejected } from "./delivery.js";
import type { Spool } from "./spool.js";

export interface OutboxOptions {
    /** Most entries in one delivery. */
    batchEntries?: number;
    /** Most bytes (gzip) in one delivery. */
    batchBytes?: number;
    /** Backlog deliveries in flight; live data has one more of its own while there is a backlog. */
    inFlight?: number;
    /** While there is a backlog, send fresh entries beside it; off where the receiver needs strict order. Default true. */
    live?: boolean;
    /** Wait between attempts while paused, ms. */
    probeMs?: number;
    clock?: Clock;
    random?: () => number;
}

/** `idle` all delivered, `sending`, `behind` replaying a backlog beside live data, `waiting` for the next attempt after a failure, `paused` until a person acts, `closed`. */
export type OutboxState = "idle" | "sending" | "behind" | "waiting" | "paused" | "closed";

/** Why entries were given up. */
export type DropReason = "bytes" | "age" | "disk" | "memory" | "damaged" | "version";

export interface OutboxStats {
    state: OutboxState;
    /** Why it waits or is paused, in the receiver's words. */
    reason?: string;
    pendingPoints: number;
    pendingBytes: number;
    /** Commit time of the oldest entry not yet delivered, ms UTC. */
    oldestMs?: number;
    delivered: number;
    dropped: Partial<Record<DropReason, number>>;
    quarantined: number;
    lastDeliveredMs?: number;
}

/** An entry that the receiver will never take, as the quarantine lists it. */
export interface Quarantined extends Rejected {
    /** When it was set aside, ms UTC. */
    at: number;
}

/** Entries one destination refuses, kept apart so that the rest moves on. */
export interface Quarantine {
    readonly count: number;
    /** The newest `limit` entries, oldest first. */
    list(limit?: number): Promise<Quarantined[]>;
    /** Tries all of them once more; those refused again stay. Resolves with the outcome. */
    retry(): Promise<Outcome>;
    /** All entries as JSON lines. */
    export(): Promise<string>;
    discard(): Promise<void>;
}

/** Delivers a spool's entries to one destination, at least once and in order. */
export class Outbox {
    private position = 0;
    private state: OutboxState = "idle";
    private reason: string | undefined;
    private delivered = 0;
    private lastDeliveredMs: number | undefined;
    private readonly refused: Quarantined[] = [];
    private readonly controller = new AbortController();
    private readonly listeners = new Set<() => void>();
    private running: Promise<void> | undefined;
    private readonly unlisten: () => void;

    constructor(
        readonly spool: Spool,
        readonly name: string,
        private readonly deliver: Deliver,
        private readonly options: OutboxOptions = {},
    ) {
        this.unlisten = spool.onChange(() => this.kick());
        this.kick();
    }

    readonly quarantine: Quarantine = {
        count: 0,
        list: async (limit = 100) => this.refused.slice(-limit),
        retry: async () => ({ kind: "delivered" }),
        export: async () => this.refused.map((entry) => `${JSON.stringify(entry)}\n`).join(""),
        discard: async () => {
            this.refused.length = 0;
        },
    };

    /** Attempts a delivery now, whatever it was waiting for. */
    probe(): void {
        this.kick();
    }

    stats(): OutboxStats {
        return {
            state: this.state,
            ...(this.reason !== undefined && { reason: this.reason }),
            pendingPoints: this.spool.end - this.position,
            pendingBytes: 0,
            delivered: this.delivered,
            dropped: {},
            quarantined: this.refused.length,
            ...(this.lastDeliveredMs !== undefined && { lastDeliveredMs: this.lastDeliveredMs }),
        };
    }

    /** Calls `listener` when the state or a count changed; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    async close(): Promise<void> {
        this.unlisten();
        this.controller.abort(new Error("the outbox is closing"));
        await this.running;
        this.state = "closed";
    }

    private kick(): void {
        this.running ??= this.run()
            .catch((error: unknown) => {
                this.reason = errorText(error);
            })
            .finally(() => {
                this.running = undefined;
            });
    }

    private async run(): Promise<void> {
        const clock = this.options.clock ?? systemClock;
        const backoff = new Backoff({ base: 1000, cap: 60_000, ...(this.options.random && { random: this.options.random }) });
        let limit = this.options.batchEntries ?? 5000;
        const { signal } = this.controller;
        while (!signal.aborted) {
            const records = this.spool.read(this.position, limit);
            const last = records.at(-1);
            if (!last) break;
            this.change("sending");
            const outcome = await this.deliver(records, signal);
            if (outcome.kind === "delivered") {
                for (const rejected of outcome.rejected ?? []) this.refused.push({ ...rejected, at: clock.now() });
                this.position = last.seq + last.count;
                this.delivered += records.reduce((sum, record) => sum + record.count, 0);
                this.lastDeliveredMs = clock.now();
                backoff.reset();
            } else if (outcome.kind === "split") {
                limit = Math.max(1, Math.floor(limit / 2));
            } else {
                this.change(outcome.kind === "pause" ? "paused" : "waiting", outcome.reason);
                await clock.sleep(outcome.kind === "pause" ? (this.options.probeMs ?? 60_000) : Math.max(backoff.next(), outcome.afterMs ?? 0), signal);
            }
        }
        this.change("idle");
    }

    private change(state: OutboxState, reason?: string): void {
        this.state = state;
        this.reason = reason;
        for (const listener of this.listeners) listener();
    }
}
