export interface BackoffOptions {
    /** First delay in ms. */
    base: number;
    /** Longest delay in ms. */
    cap: number;
    random?: () => number;
}

/** Exponential backoff with full jitter: a random wait up to base·2ⁿ, so that many clients do not come back together. */
export class Backoff {
    private failures = 0;

    constructor(private readonly options: BackoffOptions) {}

    /** The wait in ms before the next attempt; at least half the base, so that a lucky draw is no busy loop. */
    next(): number {
        const { base, cap, random = Math.random } = this.options;
        const ceiling = Math.min(cap, base * 2 ** Math.min(this.failures++, 30));
        return Math.max(base / 2, random() * ceiling);
    }

    reset(): void {
        this.failures = 0;
    }

    /** Failures since the last reset. */
    get count(): number {
        return this.failures;
    }
}
