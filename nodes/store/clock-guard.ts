import { isClockSet, type Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";

/** How far ahead of our clock a device's time may run before it is taken for wrong, ms. */
const MAX_AHEAD_MS = 86_400_000;
/** How often an unset clock is looked at, ms. */
const LOOK_MS = 1000;

/**
 * Keeps times that nobody can trust out of the store. A computer without a battery-backed clock starts in 1970 and learns the
 * time later: what was stamped before is held in memory and moved by as much as the clock jumped when it was set.
 */
export class ClockGuard {
    /** Wall minus monotonic time while the clock was not set. */
    private unsetOffset: number | undefined;
    private readonly startedAt: number;
    private readonly waiting = new Set<() => void>();
    private cancel: (() => void) | undefined;

    constructor(
        private readonly clock: Clock,
        private readonly maxHeld = 10_000,
    ) {
        this.startedAt = clock.monotonic();
        this.look();
    }

    /** Readings that wait for the clock. */
    get held(): number {
        return this.waiting.size;
    }

    /**
     * The time to store, ms UTC: `timestamp` itself where it can be trusted; a promise while the clock is not set.
     * @throws WattError TIME_UNTRUSTED, and CLOCK_NOT_SET when too many wait already or the wait ends with the signal.
     */
    trusted(timestamp: number, signal: AbortSignal): number | Promise<number> {
        // A device that knows the time does not need ours.
        if (this.look()) return isClockSet(timestamp) ? this.notAhead(timestamp) : this.moved(timestamp);
        return isClockSet(timestamp) ? timestamp : this.hold(timestamp, signal);
    }

    private look(): boolean {
        const now = this.clock.now();
        const set = isClockSet(now);
        if (!set) this.unsetOffset = now - this.clock.monotonic();
        return set;
    }

    private notAhead(timestamp: number): number {
        if (timestamp <= this.clock.now() + MAX_AHEAD_MS) return timestamp;
        throw untrusted(timestamp, "lies more than a day ahead");
    }

    /** Only a time from our own clock, while this process ran, can be moved. */
    private moved(timestamp: number): number {
        const now = this.clock.now();
        const elapsed = this.clock.monotonic();
        if (this.unsetOffset !== undefined) {
            const time = Math.round(timestamp - this.unsetOffset + (now - elapsed));
            if (time <= now + LOOK_MS && time >= now - (elapsed - this.startedAt) - LOOK_MS) return time;
        }
        throw untrusted(timestamp, "was stamped by a clock that was not set");
    }

    private hold(timestamp: number, signal: AbortSignal): Promise<number> {
        if (this.waiting.size >= this.maxHeld) throw notSet(`${this.maxHeld} readings already wait for it`);
        return new Promise((resolve, reject) => {
            const end = (): void => {
                this.waiting.delete(end);
                signal.removeEventListener("abort", end);
                if (signal.aborted) reject(notSet("the node closed before it was"));
                else resolve(new Promise((settle) => settle(this.moved(timestamp))));
                this.watch();
            };
            this.waiting.add(end);
            signal.addEventListener("abort", end);
            this.watch();
        });
    }

    /** One timer as long as something waits. */
    private watch(): void {
        if (this.waiting.size === 0) {
            this.cancel?.();
            this.cancel = undefined;
        } else {
            this.cancel ??= this.clock.after(LOOK_MS, () => {
                this.cancel = undefined;
                if (this.look()) for (const release of this.waiting) release();
                this.watch();
            });
        }
    }
}

function untrusted(timestamp: number, why: string): WattError {
    const date = new Date(timestamp);
    const time = Number.isNaN(date.getTime()) ? String(timestamp) : date.toISOString();
    return new WattError("TIME_UNTRUSTED", `The time of the reading, ${time}, ${why}: set the device's clock, or delete msg.timestamp to use the time of arrival.`);
}

function notSet(why: string): WattError {
    return new WattError("CLOCK_NOT_SET", `The reading was not kept: this computer's clock is not set, and ${why}. Check its network time (NTP).`);
}
