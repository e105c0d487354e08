import type { JsonObject } from "../store/canonical-json.js";

/**
 * How a sample came to be. Only `measured` may count towards a claim; `uncertain` was measured in doubt, `estimated` was computed by
 * the device or filled in, `simulated` was invented.
 */
export const SAMPLE_QUALITIES = ["measured", "uncertain", "estimated", "simulated"] as const;
export type SampleQuality = (typeof SAMPLE_QUALITIES)[number];

/** One raw sample of an energy meter, as it arrived. */
export interface RawSample {
    meter: string;
    /** Sample time, ms UTC. */
    time: number;
    /** Counter of energy given to the grid, whole Wh as shown; absent where it was not read. */
    export_wh?: number;
    /** Counter of energy taken from the grid, whole Wh as shown. */
    import_wh?: number;
    quality: SampleQuality;
    /** Start of the device within which `seq` counts. */
    boot?: number;
    seq?: number;
    /** When it arrived here, ms UTC; absent where the source keeps no such time. */
    received?: number;
    /** The device's Ed25519 signature of `statement(sample)`, base64. */
    signature?: string;
}

/** Half-open, ms UTC. */
export interface Period {
    from: number;
    to: number;
}

/** All that the engine needs to know beside the samples. It is written into the capsule, so plain JSON and nothing personal. */
export interface CapsuleTerms {
    /** The project the report is filed for. */
    project: string;
    period: Period;
    /** The program that made the report. */
    code: { name: string; version: string };
    /** By meter id: what the engine knows of it (installed, removed, class, modulus, ...); `public_key`, a device's Ed25519 key of 32 bytes in base64, makes a signature compulsory. */
    meters: Record<string, JsonObject>;
    /** Calibrations with meter, date, certificate, errors found. */
    calibrations: JsonObject[];
    /** The emission factor with its source. */
    factor: JsonObject;
    /** Rules and settings of the aggregation. */
    settings: JsonObject;
}

/** A stretch of a meter for which nothing is claimed. */
export interface Gap extends Period {
    meter: string;
    reason: string;
}

/** What the engine makes of terms and samples. Integers where exactness matters; no time of day, no random value, nothing of the machine. */
export interface CapsuleOutcome {
    gaps: Gap[];
    report: JsonObject;
}

/** One run of the engine. */
export interface Recomputation {
    /** Takes the next sample: by meter (UTF-16 order), then by time, no sample twice. */
    add(sample: RawSample): void;
    finish(): CapsuleOutcome;
}

/**
 * The engine as evidence sees it: pure and deterministic, so that whoever has the raw samples gets the same report. The terms may come
 * from a file of a stranger.
 * @throws WattError with what is wrong with the terms
 */
export type Recompute = (terms: CapsuleTerms) => Recomputation;
