import { contains, type Span } from "./plan.js";
import { ModbusError, type ModbusErrorCode } from "./transport.js";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** A refused range is tried again after this long, then after twice as long each time, up to a day: a device may be busy starting. */
const FIRST_RECHECK_MS = HOUR_MS / 4;

/** How a read failed. What is remembered is no Error: its stack would hold on to the call that it is from, and so to all before. */
export interface Refusal {
    readonly code: ModbusErrorCode;
    readonly message: string;
    readonly exception: number | undefined;
}

export function refusalOf({ code, message, exception }: ModbusError): Refusal {
    return { code, message, exception };
}

export function errorOf({ code, message, exception }: Refusal): ModbusError {
    return new ModbusError(code, message, exception === undefined ? {} : { exception });
}

/** What a device refused to read; of size 0 it is the address that no read may reach across. */
export interface Hole extends Readonly<Span> {
    /** The read that was refused: the hole itself, or the shortest one across it. */
    readonly asked: Span;
    readonly refusal: Refusal;
    /** When to try again, on the monotonic clock. */
    retryAt: number;
    waitMs: number;
}

/** The ranges that a unit refuses. */
export class Holes {
    /** Counts every change. */
    version = 0;
    private readonly known = new Map<string, Hole>();

    get any(): boolean {
        return this.known.size > 0;
    }

    get all(): Hole[] {
        return [...this.known.values()];
    }

    /** Undefined where exactly this range was not refused: a longer one may be readable, a device that cuts no value is free to say so. */
    at(place: Span): Hole | undefined {
        return this.known.size === 0 ? undefined : this.known.get(keyOf(place));
    }

    add({ table, address, size }: Span, asked: Span, refusal: Refusal, now: number): void {
        // Cuts on the way to it have served.
        for (const hole of this.all) if (size > 0 && hole.size === 0 && contains(hole.asked, { table, address, size })) this.known.delete(keyOf(hole));
        this.known.set(keyOf({ table, address, size }), { table, address, size, asked, refusal, retryAt: now + FIRST_RECHECK_MS, waitMs: FIRST_RECHECK_MS });
        this.version++;
    }

    remove(hole: Hole): void {
        this.known.delete(keyOf(hole));
        this.version++;
    }

    /** The hole that is longest due to be tried again. */
    due(now: number): Hole | undefined {
        if (this.known.size === 0) return undefined;
        const due = this.all.filter(({ retryAt }) => retryAt <= now);
        return due.toSorted((a, b) => a.retryAt - b.retryAt)[0];
    }

    /** Refused again, or not answered: asks less and less often. */
    postpone(hole: Hole, now: number): void {
        hole.waitMs = Math.min(DAY_MS, hole.waitMs * 2);
        hole.retryAt = now + hole.waitMs;
    }

    clear(): void {
        this.known.clear();
        this.version++;
    }

    /** Only what was refused: what is never answered costs more to try. */
    doubt(now: number): void {
        for (const hole of this.all) if (hole.refusal.exception !== undefined) Object.assign(hole, { retryAt: now, waitMs: FIRST_RECHECK_MS });
    }
}

/** A span as the key of a map. */
export function keyOf({ table, address, size }: Span): string {
    return `${table} ${address}+${size}`;
}

/** A read that was too long: refused, or not answered, while shorter ones were. */
export interface SizeFault {
    size: number;
    isRefused: boolean;
}

/**
 * The longest read that a unit takes, in registers or bits. Halved when a long read fails while short ones work; after that one
 * longer read now and then finds out how much more it takes.
 */
export class SizeLimit {
    /** Counts every change of `max`. */
    version = 0;
    /** Longest read to plan with. */
    max = Infinity;
    /** Longest that was answered. */
    private proven = 0;
    private tooLong = Infinity;
    private trialAt = Infinity;
    private trialSize = Infinity;
    private pauseMs = 0;
    private isRefused = false;

    /** The shortest read known to be too long; undefined while none is. */
    get fault(): SizeFault | undefined {
        return this.tooLong === Infinity ? undefined : { size: this.tooLong, isRefused: this.isRefused };
    }

    answered(quantity: number): void {
        this.proven = Math.max(this.proven, quantity);
    }

    /** Whether the length can be the reason why a read failed and a shorter one did not, and whether that is known. */
    blames(quantity: number): "no" | "new" | "known" {
        if (quantity >= this.tooLong) return "known";
        return quantity > this.proven ? "new" : "no";
    }

    /** A read of this length was not answered, a shorter one was. */
    unanswered(quantity: number, now: number): void {
        this.limit(quantity, HOUR_MS);
        this.isRefused = false;
        // It may have been a coincidence: tried once more as soon as all else works.
        this.trialSize = quantity;
        this.trialAt = now;
    }

    /** The device said itself that this is too long: asking for less costs little. */
    refused(quantity: number, now: number): void {
        this.limit(quantity, 0);
        this.isRefused = true;
        this.schedule(now, 0);
    }

    /** The length to plan a trial with, if it is time for one. */
    trial(now: number): number | undefined {
        return this.trialAt <= now ? this.trialSize : undefined;
    }

    /** @param quantity What was tried, or undefined where nothing would become longer. */
    tried(quantity: number | undefined, isAnswered: boolean, now: number): void {
        if (quantity === undefined) {
            this.rest(now);
        } else if (!isAnswered) {
            this.tooLong = Math.min(this.tooLong, quantity);
            this.schedule(now, this.pauseMs);
        } else {
            this.proven = quantity;
            if (quantity >= this.tooLong) {
                this.clear();
                return;
            }
            this.setMax(quantity);
            this.schedule(now, 0);
        }
    }

    private clear(): void {
        this.setMax(Infinity);
        this.tooLong = this.trialAt = this.trialSize = Infinity;
    }

    private limit(quantity: number, pauseMs: number): void {
        this.setMax(Math.max(1, Math.floor(quantity / 2), this.proven));
        this.tooLong = quantity;
        this.pauseMs = pauseMs;
    }

    /** Half way between what works and what does not. */
    private schedule(now: number, waitMs: number): void {
        const middle = Math.floor((this.max + this.tooLong) / 2);
        if (middle <= this.max) {
            this.rest(now);
            return;
        }
        this.trialSize = middle;
        this.trialAt = now + waitMs;
    }

    /** Known well enough; tomorrow it may be another device or gateway. */
    private rest(now: number): void {
        this.trialSize = Infinity;
        this.trialAt = now + DAY_MS;
    }

    private setMax(max: number): void {
        this.max = max;
        this.version++;
    }
}
