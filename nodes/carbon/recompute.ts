import type { JsonObject } from "../store/canonical-json.js";
import type { MeterSample } from "./settlement.js";

/** A sample of a meter as a capsule keeps it. */
export interface RawSample extends MeterSample {
    /** How many intervals were sealed and reports made when it arrived: those were made without it. */
    since: number;
}

/** All that the engine needs to know beside the samples. It is written into the capsule, so plain JSON and nothing personal. */
export interface CapsuleTerms {
    /** The project the report is filed for. */
    project: string;
    /** Half-open, ms UTC. */
    period: { from: number; to: number };
    /** The program that made the report. */
    code: { name: string; version: string };
    /** The meter inventory with calibrations and corrections. */
    meters: JsonObject[];
    /** What the engine knew beside the samples: bounds of the sealed intervals, states of the meters before the first, what was carried over, late data, invoices. */
    opening: JsonObject;
    /** Ed25519 public keys of devices, 32 bytes in base64: every measured sample of such a meter within [from, to) must bear its signature. */
    keys: { meter: string; key: string; from: number; to: number }[];
    /** The emission factor with its source. */
    factor: JsonObject;
    /** Rules and settings of the aggregation. */
    settings: JsonObject;
}

/** A stretch [from, to) of a meter, ms UTC, for which nothing is claimed. */
export interface Gap {
    meter: string;
    from: number;
    to: number;
    reason: string;
}

/** What the engine makes of terms and samples. No time of day, no random value, nothing of the machine. */
export interface CapsuleOutcome {
    gaps: Gap[];
    report: JsonObject;
}

/** One run of the engine. */
export interface Recomputation {
    /** Takes the next sample: by meter (UTF-16 order), then by time; samples of one instant differ. */
    add(sample: RawSample): void;
    finish(): CapsuleOutcome;
}

/**
 * The engine as evidence sees it: pure and deterministic, so that whoever has the raw samples gets the same report. The terms may come
 * from a file of a stranger.
 * @throws WattError with what is wrong with the terms
 */
export type Recompute = (terms: CapsuleTerms) => Recomputation;
