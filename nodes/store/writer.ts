import { systemClock, type Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { parseReading, type ReadingMessage } from "../common/reading.js";
import type { StatusKind } from "../common/status.js";
import { ClockGuard } from "./clock-guard.js";
import { LineEncoder } from "./line-protocol.js";
import type { Outbox, OutboxStats } from "./outbox.js";
import { isSeriesName } from "./series.js";
import type { Store } from "./store.js";

/** What `msg.outbox` can ask of a writer. */
export const OUTBOX_COMMANDS = ["stats", "quarantine", "retry", "export", "discard"] as const;
export type OutboxCommand = (typeof OUTBOX_COMMANDS)[number];

/** The ways a person distinguishes; `stats` tells more. */
export type WriterState = "ok" | "behind" | "down" | "paused";

export interface WriterOptions {
    store: Store;
    /** None: readings are kept in the local series only. */
    outbox?: Outbox;
    /** The certificate of InfluxDB is not checked: the status never looks as if all were well. */
    isUnsafe?: boolean;
    clock?: Clock;
}

/** Keeps readings: in the local series always, and on the way to InfluxDB where there is an outbox. */
export class Writer {
    /** Readings kept so far. */
    kept = 0;
    private readonly encoder = new LineEncoder();
    private readonly clock: Clock;
    private readonly guard: ClockGuard;
    /** Points given up before this writer started; undefined until the outbox knows. */
    private lostBefore: number | undefined;

    constructor(private readonly options: WriterOptions) {
        this.clock = options.clock ?? systemClock;
        this.guard = new ClockGuard(this.clock);
    }

    /**
     * Resolves with the reading once it is kept: with an outbox on disk, else in the series' next commit. What is wrong with the
     * message itself is thrown at once: thousands of messages may be under way, so each carries as few promises as possible.
     * @throws WattError READING_INVALID, TIME_UNTRUSTED, CLOCK_NOT_SET, READING_TOO_OLD, STORE_UNUSABLE, and what the spool throws
     */
    write(msg: unknown, signal: AbortSignal): Promise<ReadingMessage> {
        const reading = parseReading(msg, this.clock.now());
        const time = this.guard.trusted(reading.timestamp, signal);
        if (typeof time === "number") return this.keep(reading, time);
        return time.then((moved) => this.keep(reading, moved));
    }

    private keep(reading: ReadingMessage, timestamp: number): Promise<ReadingMessage> {
        const { store, outbox } = this.options;
        reading.timestamp = timestamp;
        // First: what a receiver would refuse for its form is not kept anywhere.
        const line = outbox && this.encoder.encode(reading);
        if (!store.series.append(reading)) this.checkRefused(reading);
        const kept: Promise<unknown> = outbox && line !== undefined ? outbox.spool.append(line, 1) : Promise.resolve();
        return kept.then(() => {
            this.kept += 1;
            return reading;
        });
    }

    /** Throws why the series did not take a reading, unless InfluxDB can have it without the series. */
    private checkRefused({ reading: { site, device } }: ReadingMessage): void {
        const { store, outbox } = this.options;
        if (!isSeriesName(site) || !isSeriesName(device)) {
            throw new WattError("READING_INVALID", "Not a reading: site and device must be whole characters without a slash or NUL.");
        }
        if (outbox) return;
        const { state, reason = "The store is closed." } = store.series.stats();
        if (state === "failed" || state === "closed") throw new WattError("STORE_UNUSABLE", `The reading is not kept. ${reason}`);
        throw new WattError("READING_TOO_OLD", "The reading is older than what the store keeps: raise its retention, or choose an InfluxDB.");
    }

    /** What `msg.outbox` asked for, as the payload of the answer. @throws WattError OUTBOX_COMMAND */
    async command(command: unknown): Promise<unknown> {
        const { outbox } = this.options;
        if (!outbox) throw new WattError("OUTBOX_COMMAND", "No InfluxDB is chosen, so there is no outbox to ask.");
        switch (command as OutboxCommand) {
            case "stats":
                return outbox.stats();
            case "quarantine":
                return outbox.quarantine.list();
            case "retry":
                return outbox.retryQuarantined();
            case "export":
                return outbox.quarantine.export();
            case "discard":
                await outbox.quarantine.discard();
                return outbox.stats();
            default:
                throw new WattError("OUTBOX_COMMAND", `msg.outbox must be one of ${OUTBOX_COMMANDS.join(", ")}.`);
        }
    }

    get state(): WriterState {
        const { state } = this.options.outbox?.stats() ?? { state: "idle" };
        if (state === "paused" || state === "behind") return state;
        return state === "waiting" ? "down" : "ok";
    }

    /** Points given up since the start, by what the outbox says of itself: an older loss is history, not a state. */
    lost(stats: OutboxStats): number {
        if (stats.state === "opening") return 0;
        const dropped = droppedCount(stats);
        return dropped - (this.lostBefore ??= dropped);
    }

    /** In at most 20 characters, what needs a person first. */
    status(): { kind: StatusKind; text: string } {
        const kept = `${short(this.kept)} kept`;
        if (this.guard.held > 0) return { kind: "warn", text: `clock unset, ${short(this.guard.held)} held` };
        const { store, outbox } = this.options;
        const disk = [store.series.stats().state, outbox?.spool.stats().state];
        if (disk.includes("failed")) return { kind: "error", text: "store unusable" };
        if (disk.includes("memory")) return { kind: "error", text: "disk fails: in RAM" };
        const stats = outbox?.stats();
        if (!stats) return { kind: "ok", text: kept };
        const waiting = `${short(stats.pendingPoints)} waiting`;
        if (stats.state === "paused") return { kind: "error", text: (stats.reason ?? "paused").split(/ \(|:/)[0]!.slice(0, 20).toLowerCase() };
        if (stats.state === "waiting") return { kind: "warn", text: `down, ${waiting}` };
        if (stats.state === "behind") return { kind: "busy", text: `replay, ${waiting}` };
        const lost = this.lost(stats);
        if (lost > 0) return { kind: "error", text: `${kept}, ${short(lost)} lost` };
        if (stats.quarantined > 0) return { kind: "warn", text: `${short(stats.quarantined)} refused` };
        if (this.options.isUnsafe) return { kind: "warn", text: "TLS not checked" };
        return { kind: "ok", text: `${kept}, ${waiting}` };
    }
}

/** Points given up, for whatever reason. */
function droppedCount(stats: OutboxStats): number {
    return Object.values(stats.dropped).reduce((sum, count) => sum + count, 0);
}

/** For the first points lost in an outage. */
export function pointsLost({ dropped }: OutboxStats): WattError {
    const counts = Object.entries(dropped).map(([reason, count]) => `${count} ${reason}`);
    return new WattError("POINTS_LOST", `Points were given up before InfluxDB took them (so far: ${counts.join(", ")}). Bring InfluxDB back, or give the store more room.`);
}

/** 999, 1.2k, 12k, 3.4M: at most four characters. */
function short(count: number): string {
    for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
        if (count >= size) return `${count < 10 * size ? Math.floor((count / size) * 10) / 10 : Math.floor(count / size)}${unit}`;
    }
    return String(count);
}
