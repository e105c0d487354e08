/** One durable record: a gzip member that holds `count` entries, one a line. */
export interface SpoolRecord {
    /** Number of the record's first entry; grows by one an entry, never reused. */
    seq: number;
    count: number;
    /** A complete gzip member; members of several records concatenated are one valid gzip stream (RFC 1952 §2.2). */
    body: Buffer;
}

/** An entry that the receiver says it will never take. */
export interface Rejected {
    /** The entry as it was spooled, one line. */
    entry: string;
    /** The receiver's words, without secrets. */
    reason: string;
}

/** What became of one delivery attempt. */
export type Outcome =
    /** Taken, but for the `rejected` entries, which go to quarantine. */
    | { kind: "delivered"; rejected?: Rejected[] }
    /** Not now: an outage, a timeout, 429, 5xx. Sent again in order after a backoff, or after `afterMs` where the receiver said so. */
    | { kind: "retry"; reason: string; afterMs?: number }
    /** Not before a person acts: wrong token, missing database. Nothing is dropped; asked again slowly. */
    | { kind: "pause"; reason: string }
    /** Too large: send fewer records; a single record too large is the receiver's to cut. */
    | { kind: "split"; reason: string };

/** Attempts to deliver records to one destination. It never rejects for what a receiver or network does: that is an Outcome. */
export type Deliver = (records: SpoolRecord[], signal: AbortSignal) => Promise<Outcome>;
