import { createHash } from "node:crypto";
import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { instantField } from "./meters.js";

const factorValue = (what: string) => z.number({ error: `must be the ${what} in tCO2/MWh` }).min(0, "must not be negative").max(3, "is above any grid: tCO2/MWh, not g/kWh");
const weight = z.number({ error: "must be a weight from 0 to 1" }).min(0).max(1);

const factorSchema = z
    .strictObject({
        /** Operating and build margin, tCO2/MWh. */
        om: factorValue("operating margin"),
        bm: factorValue("build margin"),
        /** TOOL07: 0.75 and 0.25 for solar and wind, in all crediting periods. */
        wOm: weight.default(0.75),
        wBm: weight.default(0.25),
        /** Combined margin; where given it must be what the others make. */
        cm: factorValue("combined margin").optional(),
        kind: z.enum(["ex-ante", "ex-post"], { error: "must be ex-ante or ex-post" }).default("ex-ante"),
        /** Document, URL or DOI. */
        source: z.string().default(""),
        /** Year of the data. */
        vintage: z.string().default(""),
        /** Holds for energy of [validFrom, validTo). */
        validFrom: instantField.default(0),
        validTo: instantField.default(8.64e15),
        /** SHA-256 of the file that the factor was taken from, in hex. */
        fileSha256: z.string().regex(/^([0-9a-f]{64})?$/i, "must be 64 hex digits").default(""),
    })
    .refine(({ wOm, wBm }) => Math.abs(wOm + wBm - 1) < 1e-9, { error: "wOm and wBm must add up to 1", path: ["wOm"] });

/** A grid emission factor with where it comes from. */
export type Factor = z.output<typeof factorSchema>;

/** Checked factors of one grid, each with its time; there is none built in. */
export function parseFactors(json: unknown): Factor[] {
    const list = Array.isArray(json) ? (json as unknown[]) : [json];
    const { factors } = parseConfig(z.object({ factors: z.array(factorSchema) }), { factors: list });
    for (const [i, factor] of factors.entries()) {
        const computed = Number(combinedMargin(factor)) / SCALE;
        if (factor.cm !== undefined && Math.abs(factor.cm - computed) > 1e-9) {
            throw new WattError("FACTOR_INCONSISTENT", `The combined margin ${factor.cm} is not ${factor.wOm} x ${factor.om} + ${factor.wBm} x ${factor.bm} = ${computed}: correct the record.`);
        }
        const clash = factors.slice(i + 1).find((other) => factor.validFrom < other.validTo && other.validFrom < factor.validTo);
        if (clash) throw new WattError("FACTOR_OVERLAP", "Two emission factors are valid at the same time: end one where the next begins.");
    }
    return factors;
}

/** The factor valid over all of [from, to). */
export function factorFor(factors: readonly Factor[], from: number, to: number): Factor | undefined {
    return factors.find(({ validFrom, validTo }) => validFrom <= from && to <= validTo);
}

/** Factors are reckoned in whole 1e-9 tCO2/MWh. */
const SCALE = 1e9;
/** Wh times such a factor, in one tonne. */
const PER_TONNE = 10n ** 15n;

/** The combined margin in 1e-9 tCO2/MWh, cut off so that it is never too large. */
export function combinedMargin({ om, bm, wOm, wBm }: Pick<Factor, "om" | "bm" | "wOm" | "wBm">): bigint {
    const scaled = (value: number) => BigInt(Math.round(value * SCALE));
    return (scaled(om) * scaled(wOm) + scaled(bm) * scaled(wBm)) / BigInt(SCALE);
}

/** Whole tonnes that energy makes, down. */
export function wholeTonnes(wh: number, factor: Factor): number {
    const product = BigInt(wh) * combinedMargin(factor);
    return Number(product < 0n && product % PER_TONNE !== 0n ? product / PER_TONNE - 1n : product / PER_TONNE);
}

/** The least energy that makes `tonnes`, Wh. */
export function whFor(tonnes: number, factor: Factor): number {
    const margin = combinedMargin(factor);
    return Number((BigInt(tonnes) * PER_TONNE + margin - 1n) / margin);
}

/** The energy under `to` that makes no more than `wh` did under `from`, and is no more than it. */
export function underFactor(wh: number, from: Factor, to: Factor): number {
    const [a, b] = [combinedMargin(from), combinedMargin(to)];
    if (b === 0n) return wh;
    return Math.min(wh, Number((BigInt(wh) * a) / b));
}

/** tCO2 as a policy's spreadsheet computes it in floating point: MWh times (wOM OM + wBM BM). */
export function emissions(wh: number, { om, bm, wOm, wBm }: Factor): number {
    return (wh / 1e6) * (om * wOm + bm * wBm);
}

/** What a record lacks to be traced to its source; empty for a sourced one. */
export function missingProvenance({ source, vintage, fileSha256 }: Factor): string[] {
    return [source === "" && "source", vintage === "" && "vintage", fileSha256 === "" && "file hash"].filter((name) => name !== false);
}

/** SHA-256 over the record with its keys in order. */
export function factorId(factor: Factor): string {
    const entries = Object.entries(factor).filter(([, value]) => value !== undefined).toSorted(([a], [b]) => (a < b ? -1 : 1));
    return createHash("sha256").update(JSON.stringify(Object.fromEntries(entries))).digest("hex");
}

/**
 * What the origin of this software used for Morocco. No source for it is known; it is 11 % above the operating margin of the IFI default
 * grid factors of 2021 (0.729). A report refuses it unless a person confirms.
 */
export const UNSOURCED_MOROCCO: Factor = factorSchema.parse({ om: 0.81, bm: 0.81 });
