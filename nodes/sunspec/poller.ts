import { Backoff } from "../common/backoff.js";
import { type Clock, systemClock } from "../common/clock.js";
import { errorText, WattError } from "../common/errors.js";
import type { ReadingMessage } from "../common/reading.js";
import type { UnitReader } from "./unit-reader.js";

export interface PollOptions {
    periodMs: number;
    /** Period of what changes slowly. */
    slowPeriodMs: number;
    /** How often a device that does not answer is told of, ms. */
    heartbeatMs: number;
    clock?: Clock;
    random?: () => number;
}

export interface PollListener {
    onReading(reading: ReadingMessage): void;
    /** Once an outage: the unit, or one of its models, cannot be read. */
    onFault(error: WattError): void;
    /** Once an outage: everything can be read again. */
    onRecovered(): void;
    /** After every poll. */
    onPolled?(): void;
}

/** `new` nothing was read yet · `ok` · `partly` some models cannot be read · `lost` no answer */
export type UnitState = "new" | "ok" | "partly" | "lost";

/** One missed answer is a mishap, two in a row are an outage. */
const FAILURES_TO_LOSE = 2;
/** Many nodes that start together begin within this time, not at once, ms. */
const MAX_SPREAD_MS = 2_000;
/** A walk asks a silent unit many times, so it is repeated less and less often, ms. */
const WALK_BACKOFF = { base: 2_000, cap: 300_000 };

/**
 * Polls one unit in its own rhythm. A poll that takes longer than the period makes the ticks it covers be skipped and counted,
 * never queued.
 */
export class UnitPoller {
    state: UnitState = "new";
    /** Ticks that were skipped because a poll, or the link, was still busy. */
    overruns = 0;
    /** The last poll took longer than the period. */
    late = false;
    private readonly clock: Clock;
    private readonly walkBackoff: Backoff;
    private failures = 0;
    private faulty = false;
    private slowDueAt = -Infinity;
    private walkAt = -Infinity;
    private toldLostAt = -Infinity;
    private polling: Promise<void> | undefined;

    constructor(
        readonly reader: UnitReader,
        private readonly options: PollOptions,
        private readonly listener: PollListener,
    ) {
        this.clock = options.clock ?? systemClock;
        this.walkBackoff = new Backoff({ ...WALK_BACKOFF, ...(options.random && { random: options.random }) });
    }

    /** Polls until aborted; resolves then. */
    async run(signal: AbortSignal): Promise<void> {
        const { periodMs, random = Math.random } = this.options;
        let next = this.clock.monotonic() + random() * Math.min(periodMs, MAX_SPREAD_MS);
        while (await this.until(next, signal)) {
            await this.poll(signal);
            const missed = Math.max(0, Math.floor((this.clock.monotonic() - next) / periodMs));
            this.late = missed > 0;
            this.overruns += missed;
            next += (missed + 1) * periodMs;
        }
    }

    /** Polls now, or waits for the poll that is under way; a unit that is left alone after failures is asked too. */
    async pollNow(signal: AbortSignal): Promise<void> {
        this.walkAt = -Infinity;
        // A walk goes out to such a unit, a read does not.
        if (this.failures > 0) this.reader.invalidate();
        await this.poll(signal);
    }

    /** To be called when the connection is new: what is known of the unit is not certain any more. */
    reconnected(): void {
        this.reader.invalidate();
        this.walkAt = -Infinity;
        this.walkBackoff.reset();
    }

    private async until(at: number, signal: AbortSignal): Promise<boolean> {
        const wait = at - this.clock.monotonic();
        if (wait > 0) await this.clock.sleep(wait, signal).catch(() => {});
        return !signal.aborted;
    }

    private poll(signal: AbortSignal): Promise<void> {
        this.polling ??= this.pollOnce(signal).finally(() => {
            this.polling = undefined;
        });
        return this.polling;
    }

    private async pollOnce(signal: AbortSignal): Promise<void> {
        if (this.clock.monotonic() >= this.walkAt) {
            try {
                await this.read(signal);
            } catch (error) {
                if (signal.aborted) return;
                this.failed(asWattError(error));
            }
        }
        if (this.state === "lost") this.tellLost();
        this.listener.onPolled?.();
    }

    private async read(signal: AbortSignal): Promise<void> {
        const started = this.clock.monotonic();
        const slow = started >= this.slowDueAt;
        const { readings, fault } = await this.reader.read(slow, signal);
        if (slow) this.slowDueAt = started + this.options.slowPeriodMs;
        this.failures = 0;
        this.toldLostAt = -Infinity;
        this.walkBackoff.reset();
        this.state = fault ? "partly" : "ok";
        for (const reading of readings) this.listener.onReading(reading);
        if (fault) this.report(fault);
        else if (this.faulty) {
            this.faulty = false;
            this.listener.onRecovered();
        }
    }

    private failed(error: WattError): void {
        const { code } = error;
        if (code === "MODBUS_OVERLOAD") this.overruns++;
        // Nothing was sent: no news of the unit.
        if (code === "MODBUS_OVERLOAD" || code === "MODBUS_BACKOFF") return;
        if (code === "SUNSPEC_NOT_FOUND") this.walkAt = this.clock.monotonic() + this.walkBackoff.next();
        if (++this.failures < FAILURES_TO_LOSE && this.state !== "new") return;
        this.state = "lost";
        this.report(error);
    }

    private report(error: WattError): void {
        // A lost connection is told of by the link, once for all its units.
        if (this.faulty || error.code === "MODBUS_CLOSED") return;
        this.faulty = true;
        this.listener.onFault(error);
    }

    private tellLost(): void {
        const now = this.clock.monotonic();
        if (now - this.toldLostAt < this.options.heartbeatMs) return;
        this.toldLostAt = now;
        for (const reading of this.reader.lost()) this.listener.onReading(reading);
    }
}

/** Anything thrown while reading, with a code for the Catch path. */
export function asWattError(error: unknown): WattError {
    return error instanceof WattError ? error : new WattError("SUNSPEC_FAILED", errorText(error), { cause: error });
}
