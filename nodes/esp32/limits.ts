import { WattError } from "../common/errors.js";

export interface Limits {
    /** Of one message, after decompression. */
    bodyBytes: number;
    samples: number;
    /** Messages a second and device, in the long run. */
    ratePerS: number;
    /** Messages at once, of a device that was silent. */
    burst: number;
    /** Devices known at a time where any may send. */
    devices: number;
}

/**
 * 500 samples are eight hours of one a minute, and may have 130 bytes each. 50 messages a second are one each period of the mains;
 * 500 at once are what waited through an outage. The check sums of 2000 devices take 16 MB.
 */
export const DEFAULT_LIMITS: Limits = { bodyBytes: 65_536, samples: 500, ratePerS: 50, burst: 500, devices: 2000 };

/** Levels of objects and of arrays, and keys of one object: more than any known device sends (OpenDTU's live data have 5 levels). */
export const SHAPE = { depth: 5, keys: 200 };

/**
 * Refuses JSON that is nested too deep or has too many keys in one object before it is parsed, in one pass over the text. Objects and
 * arrays count apart: `{"a":[{"b":1}]}` is 2 deep.
 * @throws WattError PAYLOAD_INVALID
 */
export function checkShape(text: Uint8Array, { depth, keys } = SHAPE): void {
    const members: number[] = [];
    let arrays = 0;
    let isText = false;
    for (let i = 0; i < text.length; i++) {
        const code = text[i];
        if (isText) {
            if (code === BACKSLASH) i++;
            else if (code === QUOTE) isText = false;
        } else if (code === QUOTE) isText = true;
        else if (code === COLON) {
            const last = members.length - 1;
            if (++members[last]! > keys) throw new WattError("PAYLOAD_INVALID", `An object of the message has more than ${keys} keys.`);
        } else if (code === OPEN_OBJECT) members.push(0);
        else if (code === OPEN_ARRAY) arrays++;
        else if (code === CLOSE_OBJECT) members.pop();
        else if (code === CLOSE_ARRAY) arrays--;
        if (members.length > depth || arrays > depth) throw new WattError("PAYLOAD_INVALID", `The message is nested deeper than ${depth} levels.`);
    }
}

const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];
const [OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY] = [0x7b, 0x7d, 0x5b, 0x5d];

/** Messages of one sender: a bucket that fills at a constant rate. */
class Bucket {
    constructor(
        public tokens: number,
        public at: number,
    ) {}
}

/** Token buckets by sender, of a bounded number of senders: the longest silent one is forgotten, as its bucket is full by then. */
export class Rates {
    private readonly buckets = new Map<string, Bucket>();

    constructor(private readonly limits: Pick<Limits, "ratePerS" | "burst" | "devices">) {}

    /** Takes one; else says after how many ms there is one. */
    take(sender: string, monotonicMs: number): number {
        const { ratePerS, burst, devices } = this.limits;
        let bucket = this.buckets.get(sender);
        if (bucket) this.buckets.delete(sender);
        else {
            bucket = new Bucket(burst, monotonicMs);
            const oldest = this.buckets.size >= devices ? this.buckets.keys().next().value : undefined;
            if (oldest !== undefined) this.buckets.delete(oldest);
        }
        this.buckets.set(sender, bucket);
        bucket.tokens = Math.min(burst, bucket.tokens + ((monotonicMs - bucket.at) * ratePerS) / 1000);
        bucket.at = monotonicMs;
        if (bucket.tokens < 1) return Math.ceil(((1 - bucket.tokens) * 1000) / ratePerS);
        bucket.tokens -= 1;
        return 0;
    }
}
