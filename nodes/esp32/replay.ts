/**
 * Messages that may come late, or again. More than the 64 of IPsec (RFC 4303 §3.4.3): after a crash a broker repeats all that it had in
 * flight, of one device if need be, and an MQTT link lets it have 1000.
 */
export const WINDOW = 1024;
/** Refused messages of an old start that still count on: another device under the same name. */
const TWIN_AFTER = 3;

/**
 * What a message is to those before it. `fresh` was never there · `duplicate` was there, the same · `conflict` its number was there with
 * another content · `old` its start is over, or it is too far behind to tell.
 */
export type Verdict = "fresh" | "duplicate" | "conflict" | "old";

/** A device's messages so far, to be kept with the data. */
export interface DeviceState {
    device: string;
    boot: number;
    /** Highest number of that start. */
    top: number;
    /** Which of the 1024 numbers up to `top` were there: hex, the lowest bit is `top`. */
    seen: string;
    simulated?: boolean;
}

/**
 * The messages of one device by (boot, seq). Only what is durable is marked: what a crash may still take must be taken again when the
 * device repeats it.
 */
export class ReplayWindow {
    private boot = -1;
    private top = -1;
    private seen = 0n;
    /** Check sums by number modulo WINDOW, NaN where not known: the same number with another content is another device. */
    private sums: Float64Array | undefined;
    /** Refused messages of another start, the last one's number, and how many in a row counted on. */
    private other = { boot: -1, seq: -1, count: 0 };

    state(): Pick<DeviceState, "boot" | "top" | "seen"> {
        return { boot: this.boot, top: this.top, seen: this.seen.toString(16) };
    }

    /** Takes over what was noted elsewhere. */
    merge({ boot, top, seen }: Pick<DeviceState, "boot" | "top" | "seen">): void {
        if (boot < this.boot) return;
        const bits = BigInt(`0x${seen}`);
        const ahead = top - this.top;
        this.sums?.fill(NaN);
        if (boot > this.boot) this.seen = bits;
        else if (ahead >= 0) this.seen = bits | (ahead < WINDOW ? BigInt.asUintN(WINDOW, this.seen << BigInt(ahead)) : 0n);
        else if (-ahead < WINDOW) this.seen |= BigInt.asUintN(WINDOW, bits << BigInt(-ahead));
        this.top = boot > this.boot ? top : Math.max(top, this.top);
        this.boot = boot;
    }

    /** The newest start, -1 before the first message. */
    get lastBoot(): number {
        return this.boot;
    }

    check(boot: number, seq: number, sum: number): Verdict {
        if (boot !== this.boot) return boot > this.boot ? "fresh" : "old";
        const back = this.top - seq;
        if (back < 0) return "fresh";
        if (back >= WINDOW) return "old";
        if (((this.seen >> BigInt(back)) & 1n) === 0n) return "fresh";
        const known = this.sums?.[seq % WINDOW] ?? NaN;
        return Number.isNaN(known) || known === sum ? "duplicate" : "conflict";
    }

    /** Takes note of a message that is durable now; of what is behind the window nothing needs to be noted. */
    mark(boot: number, seq: number, sum: number): void {
        if (boot < this.boot) return;
        if (boot > this.boot) {
            this.boot = boot;
            this.top = seq;
            this.seen = 1n;
        } else if (seq > this.top) {
            const ahead = seq - this.top;
            this.seen = ahead >= WINDOW ? 1n : BigInt.asUintN(WINDOW, (this.seen << BigInt(ahead)) | 1n);
            this.top = seq;
        } else if (this.top - seq < WINDOW) {
            this.seen |= 1n << BigInt(this.top - seq);
        } else return;
        this.sums ??= new Float64Array(WINDOW).fill(NaN);
        this.sums[seq % WINDOW] = sum;
    }

    /** True once when what is refused as old still counts on: two devices with one name, or a device that forgot its starts. */
    isTwin(boot: number, seq: number): boolean {
        const countsOn = boot === this.other.boot && seq > this.other.seq;
        this.other = { boot, seq, count: countsOn ? this.other.count + 1 : 1 };
        return this.other.count === TWIN_AFTER;
    }
}
