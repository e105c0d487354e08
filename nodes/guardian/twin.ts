import type { Report } from "../carbon/report.js";
import { isObject } from "../common/json.js";
import { same, validate, type Violation } from "./schema.js";

/** How the policy makes whole tokens of tonnes; Guardian's default is `nearest`. */
export const ROUNDINGS = ["nearest", "floor", "ceiling"] as const;
export type Rounding = (typeof ROUNDINGS)[number];

/** What the policy will compute of a document; tCO2e, MWh, tCO2/MWh. */
export interface Computed {
    egMWh: number;
    factor: number;
    baselineT: number;
    projectT: number;
    leakageT: number;
    reductionT: number;
}

export interface Preflight {
    /** It may be filed. */
    ok: boolean;
    violations: Violation[];
    /** Absent where the document cannot be computed. */
    computed?: Computed;
    /** Tokens that the policy will mint. */
    mint?: number;
}

/** Largest difference between our figures and the server's, relative beyond 1. */
const TOLERANCE = 1e-9;

/** Baseline cases that need no other data than the meter's, with the cell that takes its MWh. */
export const CASES = new Map([
    ["Greenfield power plants.", "H40"],
    ["Capacity addition in wind, solar, wave or tidal power plants.", "H43"],
]);
export const RENEWABLE = "Renewable energy project activities.";
export const WIND_AND_SOLAR = "Wind and Solar Power Generation";

/**
 * Checks a document as the policy will: schema, then every figure that its calculation reads. What the policy would turn into 0, or
 * stumble over and leave the account's step stuck for good, is refused here, before anything is sent.
 */
export function preflight(document: unknown, schema: unknown, rounding: Rounding, report?: Report): Preflight {
    const violations = validate(schema, document, { serverSets: true });
    const { computed, problems } = compute(document);
    violations.push(...problems);
    if (!computed) return { ok: false, violations };
    const mint = mintOf(computed.reductionT, rounding);
    if (report) violations.push(...againstReport(report, computed, mint, rounding));
    return { ok: violations.length === 0, violations, computed, mint };
}

/** What the policy mints for a reduction: its rule is H113.H114, its token has no decimals. */
export function mintOf(reductionT: number, rounding: Rounding): number {
    const round = { nearest: Math.round, floor: Math.floor, ceiling: Math.ceil }[rounding];
    return Math.max(0, round(reductionT)) || 0;
}

/** The document must say what the report does, and mint no more than the report's whole tonnes. */
function againstReport({ figures, factor, ready, refusals }: Report, computed: Computed, mint: number, rounding: Rounding): Violation[] {
    const found: Violation[] = [];
    if (!ready) found.push({ path: "", problem: `is made of a report that is not ready: ${refusals.map(({ text }) => text).join(" ")}` });
    if (!isClose(computed.egMWh, figures.egMWh)) found.push({ path: "H33", problem: `claims ${computed.egMWh} MWh, the report ${figures.egMWh}` });
    if (factor && !isClose(computed.factor, factor.om * factor.wOm + factor.bm * factor.wBm)) {
        found.push({ path: "H33.tool_07", problem: `makes an emission factor of ${computed.factor}, the report has ${factor.om} x ${factor.wOm} + ${factor.bm} x ${factor.wBm}: the policy sets the weights by project type and crediting period` });
    }
    if (!isClose(computed.reductionT, figures.reductionT)) found.push({ path: "H113", problem: `makes ${computed.reductionT} t, the report ${figures.reductionT}` });
    if (mint > figures.credits) found.push({ path: "", problem: `would mint ${mint} by rounding ${rounding}, the report has ${figures.credits} whole tonnes` });
    return found;
}

/** TOOL07 and the policy's formulas for the cases that need no other data than the meter's. */
function compute(document: unknown): { computed?: Computed; problems: Violation[] } {
    const problems: Violation[] = [];
    const read = (path: string): number => {
        const value = at(document, path);
        if (typeof value === "number" && Number.isFinite(value)) return value;
        problems.push({ path, problem: value === undefined ? "is missing, and the policy would take it for 0" : "is no number, and the policy would take it for 0" });
        return NaN;
    };
    const demand = (path: string, ...allowed: string[]): void => {
        if (!allowed.includes(String(at(document, path)))) problems.push({ path, problem: `must be one of ${allowed.map((text) => `"${text}"`).join(", ")}: nothing else is checked here, and what is not checked is not filed` });
    };
    demand("H33.H35", ...CASES.keys());
    demand("H81.H82", RENEWABLE);
    demand("H81.H109", "Yes", "No");
    demand("H33.tool_07.field1", "Hourly");
    demand("H33.tool_07.field5.field0", "Yes");
    demand("H33.tool_07.field5.field1", "Yes", "No");
    demand("H33.tool_07.field5.field2", WIND_AND_SOLAR, "All Other Projects");
    // The calculation reads one of these for any project and stops in the middle where it is not there.
    const isIntegrated = at(document, "H81.H109") === "Yes";
    for (const cell of isIntegrated ? ["G4", "G5", "G7", "G8"] : ["G4", "G5", "G6", "G7", "G9", "G10"]) read(`H81.${isIntegrated ? "power_density_integrated" : "power_density"}.${cell}`);

    const egMWh = read(`H33.${CASES.get(String(at(document, "H33.H35"))) ?? "H40"}`);
    const leakageT = read("H112");
    const operating = read("H33.tool_07.field2.field0");
    const build = buildMargin(document, problems, read);
    const isFirst = at(document, "H33.tool_07.field5.field1") === "Yes";
    const weight = at(document, "H33.tool_07.field5.field2") === WIND_AND_SOLAR ? 0.75 : isFirst ? 0.5 : 0.25;
    const factor = operating * weight + build * (1 - weight);
    if (egMWh < 0) problems.push({ path: "H33", problem: "claims less than nothing" });
    if (factor < 0) problems.push({ path: "H33.tool_07", problem: "makes an emission factor below 0" });
    if (leakageT < 0) problems.push({ path: "H112", problem: "is below 0, which would raise the claim" });
    const baselineT = egMWh * factor;
    const projectT = 0;
    const reductionT = baselineT - projectT - leakageT;
    if (![egMWh, factor, reductionT].every(Number.isFinite)) return { problems };
    return { computed: { egMWh, factor, baselineT, projectT, leakageT, reductionT }, problems };
}

/** Weighted by generation over the sample of plants. */
function buildMargin(document: unknown, problems: Violation[], read: (path: string) => number): number {
    const path = "H33.tool_07.field4.field4";
    const units = at(document, path);
    if (!Array.isArray(units) || units.length === 0) {
        problems.push({ path, problem: "must hold at least one power unit" });
        return NaN;
    }
    let energy = 0;
    let emission = 0;
    units.forEach((_, i) => {
        const generated = read(`${path}.${i}.field2`);
        energy += generated;
        emission += generated * read(`${path}.${i}.field3`);
    });
    if (energy <= 0) problems.push({ path, problem: "must hold units that generate" });
    return emission / energy;
}

export interface Difference {
    path: string;
    sent: unknown;
    stored: unknown;
}

/** Where what Guardian stored is not what was sent, or not what we computed. */
export function compare(sent: Record<string, unknown>, computed: Computed, stored: unknown): Difference[] {
    const differences: Difference[] = [];
    const figures: [string, number][] = [
        ["H33.H34", computed.baselineT],
        ["H33.H36", computed.egMWh],
        ["H33.H37", computed.factor],
        ["H81.H85", computed.projectT],
        ["H113.H114", computed.reductionT],
        ["H113.H115", computed.baselineT],
        ["H113.H116", computed.projectT],
        ["H113.H117", computed.leakageT],
    ];
    for (const [path, ours] of figures) {
        const theirs = at(stored, path);
        if (typeof theirs !== "number" || !isClose(ours, theirs)) differences.push({ path, sent: ours, stored: theirs });
    }
    compareInputs(sent, stored, "", differences);
    return differences;
}

/** Guardian may add, but not change or leave out. */
function compareInputs(sent: unknown, stored: unknown, path: string, differences: Difference[]): void {
    if (isObject(sent) && isObject(stored)) {
        for (const [key, value] of Object.entries(sent)) compareInputs(value, stored[key], path === "" ? key : `${path}.${key}`, differences);
    } else if (Array.isArray(sent) && Array.isArray(stored) && sent.length === stored.length) {
        sent.forEach((value, i) => compareInputs(value, stored[i], `${path}.${i}`, differences));
    } else if (!same(sent, stored)) differences.push({ path, sent, stored });
}

function isClose(a: number, b: number): boolean {
    return Math.abs(a - b) <= TOLERANCE * Math.max(1, Math.abs(a), Math.abs(b));
}

/** The value at a dotted path. */
export function at(value: unknown, path: string): unknown {
    let found = value;
    for (const key of path.split(".")) found = isObject(found) || Array.isArray(found) ? (found as Record<string, unknown>)[key] : undefined;
    return found;
}
