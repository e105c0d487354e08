import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";

/** An instant as a date with zone, such as 2026-01-31T00:00:00Z, or ms since 1970 UTC. A bare date is midnight UTC. */
export const instantField = z.union([z.number().int(), z.string()], { error: "must be a date such as 2026-01-31 or 2026-01-31T00:00:00Z" }).transform((value, context) => {
    if (typeof value === "number") return value;
    const at = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2}))?$/.test(value.trim()) ? Date.parse(value.trim()) : NaN;
    if (Number.isFinite(at)) return at;
    context.addIssue({ code: "custom", message: "must be a date such as 2026-01-31 or 2026-01-31T00:00:00Z; a time needs its zone" });
    return z.NEVER;
});

/** The whole of time, where an entry has no bound. */
const ALWAYS = { from: 0, to: 8.64e15 };

const ratio = z.number({ error: "must be a number" }).min(0, "must be from 0 to 1").max(1, "must be from 0 to 1");

const calibrationSchema = z.strictObject({
    at: instantField,
    /** Until when it holds; the national rule or 3 years. */
    until: instantField,
    certificate: z.string().default(""),
    /** The error found, as a ratio; a later test that shows a larger error than the permissible one counts instead. */
    foundError: ratio.optional(),
});

const correctionSchema = z
    .strictObject({
        from: instantField.default(ALWAYS.from),
        to: instantField.default(ALWAYS.to),
        /** `factor` of an instrument, or `allocation` of a shared meter to this project. */
        kind: z.enum(["factor", "allocation"], { error: "must be factor or allocation" }).default("factor"),
        export: z.number().min(0).max(2),
        import: z.number().min(0).max(2),
        /** Where it is written down: document and page. */
        source: z.string().min(1, "must say where the factor is written down"),
    })
    .refine(({ kind, export: out, import: into }) => out <= 1 && (kind === "allocation" || into >= 1), { error: "must not raise the claim: export up to 1, import from 1" });

const recordSchema = z.strictObject({
    meter: z.string().regex(/^[^/]+\/[^/]+$/, 'must be "<site>/<device>"'),
    /** Blank: the first one seen. */
    serial: z.coerce
        .string()
        .transform((text) => text.trim() || undefined)
        .optional(),
    /** Where it measures: at the interconnection with the grid, or at a generator behind it. */
    kind: z.enum(["grid", "generator"], { error: "must be grid or generator" }).default("grid"),
    /** Highest power that can flow, W. */
    ratedW: z.number({ error: "must be the highest power that can flow, in W" }).positive("must be above 0").max(1e10),
    /** In service [from, to). */
    from: instantField.default(ALWAYS.from),
    to: instantField.default(ALWAYS.to),
    /** Where the register starts again at 0, Wh. */
    modulusWh: z.number().int().positive().max(Number.MAX_SAFE_INTEGER).optional(),
    accuracyClass: z.string().default(""),
    /** The device's Ed25519 public key, 32 bytes in base64: what it measured counts only with its signature. */
    key: z.string().regex(/^[A-Za-z0-9+/]{43}=$/, "must be an Ed25519 public key: 32 bytes in base64").optional(),
    /** Maximum permissible error of each direction, as a ratio: 0.005 for class 0.5. Taken off where no calibration holds. */
    mpeExport: ratio.optional(),
    mpeImport: ratio.optional(),
    calibrations: z.array(calibrationSchema).default([]),
    corrections: z.array(correctionSchema).default([]),
});

/** One entry of the meter inventory; a swap or move begins a new one. */
export type MeterRecord = z.output<typeof recordSchema>;
export type Calibration = z.output<typeof calibrationSchema>;
export type Correction = z.output<typeof correctionSchema>;

/**
 * The meters of a project's boundary, all of them.
 * @throws WattError CONFIG_INVALID; METERS_OVERLAP when two entries of one meter are in service at the same time.
 */
export function parseInventory(json: unknown): MeterRecord[] {
    const { meters } = parseConfig(z.object({ meters: z.array(recordSchema, { error: "must be a list of meters" }).min(1, "must name at least one meter") }), { meters: json });
    for (const [i, a] of meters.entries()) {
        const clash = meters.slice(i + 1).find((b) => a.meter === b.meter && a.from < b.to && b.from < a.to);
        if (clash) throw new WattError("METERS_OVERLAP", `Two entries of meter ${a.meter} are in service at the same time: end the first where the second begins.`);
        if (a.to <= a.from) throw new WattError("METERS_OVERLAP", `Meter ${a.meter} ends before it begins.`);
    }
    return meters;
}

/** The entry in service at an instant. */
export function recordAt(records: readonly MeterRecord[], at: number): MeterRecord | undefined {
    for (const record of records) if (record.from <= at && at < record.to) return record;
    return undefined;
}

/** The instants at which the boundary changes: a period ends there. */
export function topologyChanges(records: readonly MeterRecord[]): number[] {
    const bounds = records.flatMap(({ from, to }) => [from, to]).filter((at) => at !== ALWAYS.from && at !== ALWAYS.to);
    return [...new Set(bounds)].toSorted((a, b) => a - b);
}
