import { Backoff } from "../common/backoff.js";
import { type Clock, systemClock } from "../common/clock.js";
import { errorText, WattError } from "../common/errors.js";
import type { ReadingMessage } from "../common/reading.js";

/** What of a unit is read together, in a rhythm of its own. */
export interface PollGroup {
    name: string;
    periodMs: number;
}

export interface PollSample {
    readings: ReadingMessage[];
    /** What could not be read although the unit answers. */
    fault: WattError | undefined;
}

/** A unit as its poller sees it. */
export interface PolledUnit {
    /**
     * Reads these groups once.
     * @throws WattError when the unit does not answer, or is not what it should be.
     */
    poll(groups: ReadonlySet<string>, signal: AbortSignal): Promise<PollSample>;
    /** What is told of each device while its unit does not answer: every point that it had is gone. */
    lost(): ReadingMessage[];
    /** What is known of the unit is not certain any more: it is identified before the next read. */
    invalidate(): void;
}

export interface PollOptions {
    /** At least one. */
    groups: readonly PollGroup[];
    /** The code of the error that says that the unit is not what it should be: that is looked at less and less often. */
    unidentified: string;
    /** The code of an error that is told of in the middle of an outage too. */
    news?: string;
    /** How often a device that does not answer is told of, ms. */
    heartbeatMs: number;
    clock?: Clock;
    random?: () => number;
}

export interface PollListener {
    onReading(reading: ReadingMessage): void;
    /** Once an outage: the unit, or a part of it, cannot be read. */
    onFault(error: WattError): void;
    /** Once an outage: everything can be read again. */
    onRecovered(): void;
    /** After every poll. */
    onPolled?(): void;
}

/** `new` nothing was read yet · `ok` · `partly` some of it cannot be read · `lost` no answer */
export type UnitState = "new" | "ok" | "partly" | "lost";

/** One missed answer is a mishap, two in a row are an outage. */
const FAILURES_TO_LOSE = 2;
/** Many nodes that start together begin within this time, not at once, ms. */
const MAX_SPREAD_MS = 2_000;
/** To identify a unit can take many requests, so it is repeated less and less often, ms. */
const IDENTIFY_BACKOFF = { base: 2_000, cap: 300_000 };

/**
 * Polls one unit: the groups of the shortest period at every tick of it, and of the slower ones at most one a tick, the one that
 * waits longest. A poll that takes longer than the period makes the ticks it covers be skipped and counted, never queued.
 */
export class UnitPoller<U extends PolledUnit = PolledUnit> {
    state: UnitState = "new";
    /** Polls that were skipped because an earlier one, or the link, was still busy. */
    overruns = 0;
    /** The last poll took longer than the period. */
    late = false;
    private readonly clock: Clock;
    private readonly identifyBackoff: Backoff;
    private readonly periodMs: number;
    private readonly fast: readonly PollGroup[];
    private readonly slow: readonly (PollGroup & { dueAt: number })[];
    private failures = 0;
    /** The code that was told of. */
    private told: string | undefined;
    private identifyAt = -Infinity;
    private toldLostAt = -Infinity;
    private polling: Promise<void> | undefined;

    constructor(
        readonly unit: U,
        private readonly options: PollOptions,
        private readonly listener: PollListener,
    ) {
        const { groups, clock = systemClock, random } = options;
        this.clock = clock;
        this.identifyBackoff = new Backoff({ ...IDENTIFY_BACKOFF, ...(random && { random }) });
        this.periodMs = Math.min(...groups.map(({ periodMs }) => periodMs));
        this.fast = groups.filter(({ periodMs }) => periodMs === this.periodMs);
        this.slow = groups.filter(({ periodMs }) => periodMs > this.periodMs).map((group) => ({ ...group, dueAt: -Infinity }));
    }

    /** Polls until aborted; resolves then. */
    async run(signal: AbortSignal): Promise<void> {
        const { periodMs } = this;
        const { random = Math.random } = this.options;
        let next = this.clock.monotonic() + random() * Math.min(periodMs, MAX_SPREAD_MS);
        while (await this.until(next, signal)) {
            await this.poll(next, signal);
            const missed = Math.max(0, Math.floor((this.clock.monotonic() - next) / periodMs));
            this.late = missed > 0;
            this.overruns += missed;
            next += (missed + 1) * periodMs;
        }
    }

    /** Polls now, or waits for the poll that is under way; a unit that is left alone after failures is asked too. */
    async pollNow(signal: AbortSignal): Promise<void> {
        this.identifyAt = -Infinity;
        // What identifies goes out to such a unit, a read does not.
        if (this.failures > 0) this.unit.invalidate();
        await this.poll(this.clock.monotonic(), signal);
    }

    /** To be called when the connection is new: what is known of the unit is not certain any more. */
    reconnected(): void {
        this.unit.invalidate();
        this.identifyAt = -Infinity;
        this.identifyBackoff.reset();
    }

    private async until(at: number, signal: AbortSignal): Promise<boolean> {
        const wait = at - this.clock.monotonic();
        if (wait > 0) await this.clock.sleep(wait, signal).catch(() => {});
        return !signal.aborted;
    }

    /** @param at The tick, on the monotonic clock. */
    private poll(at: number, signal: AbortSignal): Promise<void> {
        this.polling ??= this.pollOnce(at, signal).finally(() => {
            this.polling = undefined;
        });
        return this.polling;
    }

    private async pollOnce(at: number, signal: AbortSignal): Promise<void> {
        if (this.clock.monotonic() >= this.identifyAt) {
            try {
                await this.read(at, signal);
            } catch (error) {
                if (signal.aborted) return;
                this.failed(asWattError(error, "POLL_FAILED"));
            }
        }
        if (this.state === "lost") this.tellLost();
        this.listener.onPolled?.();
    }

    private async read(at: number, signal: AbortSignal): Promise<void> {
        const due = this.slow.filter(({ dueAt }) => dueAt <= at).toSorted((a, b) => a.dueAt - b.dueAt);
        const turn = due[0];
        const groups = new Set([...this.fast, ...(turn ? [turn] : [])].map(({ name }) => name));
        const { readings, fault } = await this.unit.poll(groups, signal);
        // What was given up for the close is missing, and nobody's fault.
        if (signal.aborted) return;
        for (const group of due) this.skip(group, at);
        if (turn) turn.dueAt = at + turn.periodMs;
        this.failures = 0;
        this.toldLostAt = -Infinity;
        this.identifyBackoff.reset();
        this.state = fault ? "partly" : "ok";
        for (const reading of readings) this.listener.onReading(reading);
        if (fault) this.report(fault);
        else if (this.told !== undefined) {
            this.told = undefined;
            this.listener.onRecovered();
        }
    }

    /** A slow group that waits for its turn longer than its period misses a poll, unless it waits for the unit. */
    private skip(group: PollGroup & { dueAt: number }, at: number): void {
        if (group.dueAt === -Infinity || this.failures > 0) group.dueAt = at;
        const missed = Math.floor((at - group.dueAt) / group.periodMs);
        this.overruns += missed;
        group.dueAt += missed * group.periodMs;
    }

    private failed(error: WattError): void {
        const { code } = error;
        if (code === "MODBUS_OVERLOAD") this.overruns++;
        // Nothing was sent: no news of the unit.
        if (code === "MODBUS_OVERLOAD" || code === "MODBUS_BACKOFF") return;
        if (code === this.options.unidentified) this.identifyAt = this.clock.monotonic() + this.identifyBackoff.next();
        if (++this.failures < FAILURES_TO_LOSE && this.state !== "new") return;
        this.state = "lost";
        this.report(error);
    }

    private report(error: WattError): void {
        // A lost connection is told of by the link, once for all its units.
        if (error.code === "MODBUS_CLOSED" || error.code === this.told) return;
        if (this.told !== undefined && error.code !== this.options.news) return;
        this.told = error.code;
        this.listener.onFault(error);
    }

    private tellLost(): void {
        const now = this.clock.monotonic();
        if (now - this.toldLostAt < this.options.heartbeatMs) return;
        this.toldLostAt = now;
        for (const reading of this.unit.lost()) this.listener.onReading(reading);
    }
}

/** Anything thrown while reading, with a code for the Catch path. */
export function asWattError(error: unknown, code: string): WattError {
    return error instanceof WattError ? error : new WattError(code, errorText(error), { cause: error });
}
