import path from "node:path";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import { Backoff } from "../common/backoff.js";
import { systemClock, within, type Clock } from "../common/clock.js";
import { errorText } from "../common/errors.js";
import type { Cursor, DropReason } from "./cursor.js";
import type { Deliver, Outcome, Rejected, SpoolRecord } from "./delivery.js";
import { fileName } from "./files.js";
import { Quarantine, type Quarantined } from "./quarantine.js";
import { Ranges, type Range } from "./ranges.js";
import type { Batch } from "./segment.js";
import type { Spool } from "./spool.js";

const compress = promisify(gzip);
const expand = promisify(gunzip);

export interface OutboxOptions {
    /** Most entries in one delivery; 5000. */
    batchEntries?: number;
    /** Most bytes (gzip) in one delivery; 1 MB. */
    batchBytes?: number;
    /** Backlog deliveries in flight; 1. Live data has one more of its own while there is a backlog. */
    inFlight?: number;
    /** While there is a backlog, send fresh entries beside it; off where the receiver needs strict order. Default true. */
    live?: boolean;
    /** First and longest wait after a failure, ms; 1 s and 60 s. */
    backoff?: { base: number; cap: number };
    /** Wait between attempts while paused, ms; 60 s. */
    probeMs?: number;
    /** Most bytes of refused entries kept; 4 MB. */
    quarantineBytes?: number;
    clock?: Clock;
    random?: () => number;
}

/** `opening` the spool is not read yet, `idle` all delivered, `sending`, `behind` replaying a backlog beside live data, `waiting` for the next attempt after a failure, `paused` until a person acts, `closed`. */
export type OutboxState = "opening" | "idle" | "sending" | "behind" | "waiting" | "paused" | "closed";

export interface OutboxStats {
    state: OutboxState;
    /** Why it waits or is paused, in the receiver's words. */
    reason?: string;
    /** Entries not yet delivered, and what they take (gzip). */
    pendingPoints: number;
    pendingBytes: number;
    /** Commit time of the oldest entry not yet delivered, ms UTC. */
    oldestMs?: number;
    /** Since start. */
    delivered: number;
    /** Ever, by reason; `quarantine` counts refused entries that were pushed out by newer ones. */
    dropped: Partial<Record<DropReason | "quarantine", number>>;
    quarantined: number;
    lastDeliveredMs?: number;
}

/** A cursor with more islands of delivered entries than this delivers in order until they have merged. */
const MOST_ISLANDS = 64;
const CLOSE_MS = 1000;

/** Delivers a spool's entries to one destination: durable first, at least once, in order within the backlog and within live data. */
export class Outbox {
    readonly quarantine: Quarantine;
    private readonly clock: Clock;
    private readonly inFlight: number;
    private readonly live: boolean;
    private readonly probeMs: number;
    private readonly backoff: Backoff;
    private readonly listeners = new Set<() => void>();
    private readonly controller = new AbortController();
    private readonly flights = new Set<Promise<void>>();
    private readonly claimed = new Ranges();
    private readonly unlisten: () => void;
    private readonly started: Promise<void>;
    private cursor: Cursor | undefined;
    private limits: { entries: number; bytes: number };
    /** Entries from here on are live, those before are backlog. */
    private liveFrom: number | undefined;
    private wait: { kind: "waiting" | "paused"; reason: string; cancel: () => void } | undefined;
    /** After a failure one attempt at a time, until one succeeds. */
    private isProbing = false;
    private delivered = 0;
    private lastDeliveredMs: number | undefined;
    private shown = "";
    private closing: Promise<void> | undefined;

    constructor(
        readonly spool: Spool,
        readonly name: string,
        private readonly deliver: Deliver,
        options: OutboxOptions = {},
    ) {
        this.clock = options.clock ?? systemClock;
        this.inFlight = options.inFlight ?? 1;
        this.live = options.live ?? true;
        this.probeMs = options.probeMs ?? 60_000;
        this.limits = { entries: options.batchEntries ?? 5000, bytes: options.batchBytes ?? 1024 * 1024 };
        this.backoff = new Backoff({ base: 1000, cap: 60_000, ...options.backoff, ...(options.random && { random: options.random }) });
        this.quarantine = new Quarantine(path.join(spool.folder, `${fileName(name)}.refused`), spool.files, options.quarantineBytes);
        this.unlisten = spool.onChange(() => this.pump());
        this.started = this.start();
    }

    /** Attempts a delivery now, whatever it was waiting for. */
    probe(): void {
        this.wait?.cancel();
        this.wait = undefined;
        this.pump();
    }

    stats(): OutboxStats {
        const pending = this.cursor ? this.spool.pending(this.cursor) : { entries: 0, bytes: 0, oldestMs: undefined };
        const reason = this.wait?.reason ?? (this.cursor ? undefined : this.spool.stats().reason);
        const { dropped } = this.quarantine;
        return {
            state: this.state(),
            ...(reason !== undefined && { reason }),
            pendingPoints: pending.entries,
            pendingBytes: pending.bytes,
            ...(pending.oldestMs !== undefined && { oldestMs: pending.oldestMs }),
            delivered: this.delivered,
            dropped: { ...this.cursor?.dropped, ...(dropped > 0 && { quarantine: dropped }) },
            quarantined: this.quarantine.count,
            ...(this.lastDeliveredMs !== undefined && { lastDeliveredMs: this.lastDeliveredMs }),
        };
    }

    /** Calls `listener` when the state changed or a delivery ended; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /**
     * Sends everything in quarantine once more; what is refused again, or cannot be sent now, stays.
     * Resolves with what became of the last attempt.
     */
    async retryQuarantined(): Promise<Outcome> {
        let outcome: Outcome = { kind: "delivered" };
        await this.quarantine.retry(async (entries) => {
            const kept: Quarantined[] = [];
            for (let i = 0; i < entries.length; i += this.limits.entries) {
                const part = entries.slice(i, i + this.limits.entries);
                if (outcome.kind === "delivered") outcome = await this.attempt([await pack(part)]);
                if (outcome.kind === "delivered") kept.push(...this.stamped(outcome.rejected ?? []));
                else kept.push(...part);
            }
            return kept;
        });
        this.notify();
        return outcome;
    }

    /** Gives up what is in flight and stops; within 1 s. */
    close(): Promise<void> {
        return (this.closing ??= this.shut());
    }

    private async shut(): Promise<void> {
        this.unlisten();
        this.wait?.cancel();
        this.controller.abort(new Error("the outbox is closing"));
        await within(this.clock, CLOSE_MS, Promise.allSettled([this.started, ...this.flights]));
        this.notify();
    }

    private async start(): Promise<void> {
        try {
            await this.spool.ready;
        } catch {
            // The spool says why; nothing can be delivered from it.
            return;
        }
        await this.quarantine.load().catch(() => undefined);
        this.cursor = this.spool.cursor(this.name);
        this.cursor.beforeSave = () => this.quarantine.flush();
        this.pump();
    }

    private state(): OutboxState {
        if (this.controller.signal.aborted) return "closed";
        if (this.wait) return this.wait.kind;
        if (!this.cursor) return this.spool.stats().state === "failed" ? "paused" : "opening";
        if (this.liveFrom !== undefined) return "behind";
        return this.flights.size > 0 ? "sending" : "idle";
    }

    /** Starts as many deliveries as may run now. */
    private pump(): void {
        while (this.cursor && !this.wait && !this.controller.signal.aborted && !(this.isProbing && this.flights.size > 0)) {
            const range = this.pick(this.cursor);
            if (!range) break;
            this.claimed.add(...range);
            const flight = this.fly(this.cursor, range).finally(() => {
                this.flights.delete(flight);
                this.notify();
                this.pump();
            });
            this.flights.add(flight);
        }
        this.notify();
    }

    /** The entries to deliver next: fresh ones first, so that a backlog never holds them up. */
    private pick(cursor: Cursor): Range | undefined {
        const { end } = this.spool;
        const behind = 2 * this.limits.entries;
        if (this.liveFrom !== undefined && !cursor.done.gap(0, this.liveFrom)) this.liveFrom = undefined;
        if (this.live && !this.isProbing && cursor.done.size < MOST_ISLANDS) {
            const from = this.liveFrom ?? 0;
            // Live data that has itself fallen behind is backlog.
            if (end - from - cursor.done.covered(from, end) > behind) this.liveFrom = end;
        }
        if (this.liveFrom === undefined) return this.flights.size < this.inFlight ? this.free(cursor, 0, end) : undefined;
        const fresh = this.claimed.covered(this.liveFrom, end) === 0 ? this.free(cursor, this.liveFrom, end) : undefined;
        if (fresh) return fresh;
        const replaying = this.flights.size - (this.claimed.covered(this.liveFrom, end) > 0 ? 1 : 0);
        return replaying < this.inFlight ? this.free(cursor, 0, this.liveFrom) : undefined;
    }

    /** The first stretch of [from, to) that is neither done nor in flight. */
    private free(cursor: Cursor, from: number, to: number): Range | undefined {
        for (;;) {
            const gap = cursor.done.gap(from, to);
            if (!gap) return undefined;
            const open = this.claimed.gap(...gap);
            if (open) return open;
            from = gap[1];
        }
    }

    /** One delivery, from reading to its outcome. Never rejects. */
    private async fly(cursor: Cursor, [from, until]: Range): Promise<void> {
        let to = until;
        try {
            const batch = await this.spool.read(from, { ...this.limits, until });
            this.claimed.remove(batch.to, until);
            to = batch.to;
            // Others may take what this one left.
            this.pump();
            await this.send(cursor, from, batch);
        } catch (error) {
            this.fail("waiting", errorText(error), this.backoff.next());
        } finally {
            this.claimed.remove(from, to);
        }
    }

    private async send(cursor: Cursor, from: number, batch: Batch): Promise<void> {
        const outcome: Outcome = batch.records.length > 0 ? await this.attempt(batch.records) : { kind: "delivered" };
        if (outcome.kind === "delivered") {
            await this.settle(cursor, from, batch, outcome.rejected);
        } else if (outcome.kind === "retry") {
            this.fail("waiting", outcome.reason, Math.max(this.backoff.next(), outcome.afterMs ?? 0));
        } else if (outcome.kind === "pause") {
            this.fail("paused", outcome.reason, this.probeMs);
        } else if (batch.records.length > 1) {
            this.limits = { ...this.limits, entries: Math.max(1, batch.entries >> 1) };
        } else {
            const entries = await unpack(batch.records[0]!);
            await this.settle(cursor, from, batch, entries.map((entry) => ({ entry, reason: outcome.reason })));
        }
    }

    private async attempt(records: SpoolRecord[]): Promise<Outcome> {
        try {
            return await this.deliver(records, this.controller.signal);
        } catch (error) {
            return { kind: "retry", reason: errorText(error) };
        }
    }

    private async settle(cursor: Cursor, from: number, batch: Batch, rejected: Rejected[] = []): Promise<void> {
        if (rejected.length > 0) await this.quarantine.add(this.stamped(rejected));
        cursor.lose("damaged", batch.damaged);
        cursor.lose("version", batch.version);
        this.spool.acknowledge(cursor, from, batch.to);
        if (batch.records.length === 0) return;
        this.delivered += batch.entries - rejected.length;
        this.lastDeliveredMs = this.clock.now();
        this.backoff.reset();
        this.isProbing = false;
        this.notify(true);
    }

    private stamped(rejected: Rejected[]): Quarantined[] {
        const at = this.clock.now();
        return rejected.map(({ entry, reason }) => ({ at, entry, reason }));
    }

    private fail(kind: "waiting" | "paused", reason: string, ms: number): void {
        if (this.controller.signal.aborted) return;
        this.isProbing = true;
        this.wait?.cancel();
        this.wait = { kind, reason, cancel: this.clock.after(ms, () => this.probe()) };
    }

    private notify(isNews = false): void {
        const now = `${this.state()}:${this.wait?.reason ?? ""}`;
        if (now === this.shown && !isNews) return;
        this.shown = now;
        for (const listener of this.listeners) listener();
    }
}

async function pack(entries: Quarantined[]): Promise<SpoolRecord> {
    const body = await compress(entries.map(({ entry }) => `${entry}\n`).join(""), { level: 1 });
    return { seq: 0, count: entries.length, body };
}

async function unpack(record: SpoolRecord): Promise<string[]> {
    const text = await expand(record.body);
    return text.toString().split("\n").filter((line) => line !== "");
}
