import { createHash } from "node:crypto";
import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import type { Report } from "../carbon/report.js";
import { isObject } from "../common/json.js";
import { validate } from "./schema.js";
import { at, CASES, RENEWABLE, WIND_AND_SOLAR } from "./twin.js";

/** A document to be filed: cells of the methodology's workbook. */
export type Document = Record<string, unknown>;

const dateField = z.string({ error: "must be a date such as 2026-01-31" }).regex(/^\d{4}-\d\d-\d\d$/, "must be a date such as 2026-01-31");
const words = (fallback: string) => z.string().trim().min(1, "must not be empty").default(fallback);
const NONE = "None";

const projectSchema = z.strictObject({
    /** Stands for the project for good: it makes the filing's key. */
    id: z.string({ error: "must be the project's id" }).regex(/^[A-Za-z0-9_.-]{1,64}$/, "takes letters, digits, dot, dash and underscore only"),
    summary: z.string({ error: "must describe the project" }).trim().min(1, "must describe the project"),
    organisation: z.string({ error: "must name the project participant" }).trim().min(1, "must name the project participant"),
    /** Public for good, like all of it: a role's mailbox, not a person's. */
    contact: words("Project office"),
    position: words("Project participant"),
    address: words("Not published"),
    phone: words("Not published"),
    email: z.string({ error: "must be a mail address that may be public" }).trim().min(3),
    country: z.string({ error: "must name the country" }).trim().min(1),
    latitude: z.number({ error: "must be degrees north" }).min(-90).max(90),
    longitude: z.number({ error: "must be degrees east" }).min(-180).max(180),
    technology: z.enum(["solar", "wind", "other"]).default("solar"),
    activity: z.enum(["greenfield", "addition"]).default("greenfield"),
    startDate: dateField,
    creditingPeriod: z.strictObject({ from: dateField, to: dateField, first: z.boolean().default(true) }),
    monitoringPlan: words("Net electricity supplied to the grid, measured continuously at the interconnection and settled by the hour in UTC; gaps are not claimed."),
    /** Expected net export of a year, MWh. */
    yearlyMWh: z.number({ error: "must be the expected net export of a year in MWh" }).positive("must be above 0"),
    factor: z.object({
        om: z.number({ error: "must be the operating margin in tCO2/MWh" }).min(0).max(3),
        bm: z.number({ error: "must be the build margin in tCO2/MWh" }).min(0).max(3),
        source: z.string().trim().min(1, "must say where the factor is from"),
        vintage: z.string().regex(/^\d{4}/, "must begin with the year of the data"),
    }),
    /** Cells of Project Details to set as they are, such as `{"field8": "…"}`. */
    details: z.record(z.string().regex(/^field\d{1,2}$/, "takes field0 to field29"), z.unknown()).default({}),
});

/** What a project is filed from. */
export type ProjectFacts = z.output<typeof projectSchema>;

/** @throws WattError CONFIG_INVALID naming each field at fault */
export function parseProject(payload: unknown): ProjectFacts {
    return parseConfig(projectSchema, payload);
}

/** What is known of a project before the rest is; the id may be any. @throws WattError CONFIG_INVALID naming each field at fault */
export function checkPartOfProject(part: unknown): void {
    parseConfig(projectSchema.partial().extend({ id: z.unknown().optional() }), part);
}

const figure = z.number({ error: "must be a number" });
/** What of a report a filing rests on; the rest goes on as it is. */
const reportSchema = z.looseObject({
    format: z.literal("wattledger.ams-i-d.report/1", { error: "must be wattledger.ams-i-d.report/1, as wl-ams-id makes it" }),
    key: z.string().regex(/^[0-9a-f]{64}$/, "must be 64 hex digits"),
    project: z.looseObject({ id: z.string().min(1) }),
    period: z.looseObject({ from: z.iso.datetime(), to: z.iso.datetime(), fromMs: z.int().min(0), toMs: z.int().max(8.64e15) }).refine(({ fromMs, toMs }) => fromMs < toMs, "must end after it begins"),
    simulated: z.boolean(),
    ready: z.boolean(),
    refusals: z.array(z.looseObject({ text: z.string() })),
    factor: z.looseObject({ om: figure, bm: figure, wOm: figure, wBm: figure, source: z.string(), vintage: z.string() }).optional(),
    figures: z.looseObject({ egMWh: figure, reductionT: figure, leakageT: figure, credits: z.int() }),
    meters: z.array(z.looseObject({ meter: z.string().min(1) })).min(1, "must name the meters"),
});

/** A report out of a message. @throws WattError CONFIG_INVALID naming what is not as it should be */
export function parseReport(payload: unknown): Report {
    return parseConfig(reportSchema, payload) as unknown as Report;
}

/** SHA-256 in hex that stands for one document of one policy; the same input, the same key. */
export function filingKey(kind: "project" | "report" | "external", policyId: string, ...parts: string[]): string {
    return createHash("sha256").update(JSON.stringify([kind, policyId, ...parts])).digest("hex");
}

/** The mark of a filing in Further Information, the one free text of the form that everyone can read back. */
export function mark(key: string, more: Record<string, string> = {}): string {
    return ["WattLedger", `key=${key}`, ...Object.entries(more).map(([name, value]) => `${name}=${value}`)].join("; ");
}

/** The key that a stored document carries, else undefined. */
export function keyOf(subject: unknown): string | undefined {
    const text = at(subject, "field0.field27");
    return typeof text === "string" ? /\bkey=([0-9a-f]{64})\b/.exec(text)?.[1] : undefined;
}

/** A project without hydro power, fuel or biomass: all that AMS-I.D asks of photovoltaics and wind. */
export function projectDocument(facts: ProjectFacts, key: string): Document {
    const { factor, creditingPeriod, technology, activity } = facts;
    const isAddition = activity === "addition";
    const period = [{ field0: creditingPeriod.from, field1: creditingPeriod.to }];
    return {
        field0: {
            field0: facts.summary,
            field1: "1. Energy industries (renewable/non-renewable sources)",
            field2: ["Renewable energy"],
            field3: [isAddition ? "Capacity addition" : "Greenfield power plant"],
            field4: "Small-scale",
            field5: [String(facts.latitude)],
            field6: [String(facts.longitude)],
            field7: [{ type: "Point", coordinates: [facts.longitude, facts.latitude] }],
            field8: "Supplies electricity from renewable sources to the grid, at most 15 MW",
            field9: facts.organisation,
            field10: facts.contact,
            field11: facts.position,
            field12: facts.address,
            field13: [facts.country],
            field14: facts.phone,
            field15: facts.email,
            field16: [facts.organisation],
            field28: NONE,
            field17: NONE,
            field18: NONE,
            field19: NONE,
            field20: "CDM AMS-I.D, version 18.0",
            field21: facts.startDate,
            field22: period,
            field23: period,
            field24: facts.monitoringPlan,
            field25: "The project holds the permits that it needs",
            field29: ["AMS-I.D, applicability"],
            field26: ["SDG 7", "SDG 13"],
            ...facts.details,
            field27: mark(key, { project: facts.id }),
        },
        H33: {
            H35: [...CASES.keys()][isAddition ? 1 : 0],
            [isAddition ? "H43" : "H40"]: facts.yearlyMWh,
            tool_07: {
                field0: factor.source,
                field1: "Hourly",
                field2: { field1: "If hourly fuel consumption data is available", field0: factor.om },
                field4: {
                    field2: Number(factor.vintage.slice(0, 4)),
                    field3: 1,
                    field4: [{ field0: `Build margin: ${factor.source}`, field1: `${factor.vintage.slice(0, 4)}-01-01`, field2: 1, field3: factor.bm }],
                },
                field5: { field0: "Yes", field1: creditingPeriod.first ? "Yes" : "No", field2: technology === "other" ? "All Other Projects" : WIND_AND_SOLAR },
            },
        },
        H81: {
            H82: RENEWABLE,
            H83: "No",
            H84: "No",
            H109: "No",
            ...Object.fromEntries(["H96", "H97", "H98", "H99", "H104", "H105", "H106", "H107"].map((cell) => [cell, 0])),
            // Of no meaning without a reservoir; the policy's calculation does not go through without it.
            power_density: { G4: 0, G5: 0, G6: 0, G7: 0, G9: 0, G10: 0 },
        },
        H112: 0,
    };
}

/** Cells that the policy computes, by dotted path; a name ends at any depth of a list. */
const COMPUTED = [
    "H113",
    ...["H34", "H36", "H37", "tool_07.field4.field0", "tool_07.field5.field3", "tool_07.field5.field4"].map((cell) => `H33.${cell}`),
    ...["H85", "H86", "H87", "H88", "H89", "H91", "H92", "H93", "H95", "H101", "H102", "H103", "H110", "tool_03.field1"].map((cell) => `H81.${cell}`),
    ...["power_density_integrated.G3", "power_density_integrated.G6", "power_density.G3", "power_density.G8"].map((cell) => `H81.${cell}`),
];
/** Contact person, position, phone, mail: published for good with every report, so they stay out where the form lets them. */
const PERSONAL = ["field10", "field11", "field14", "field15"];

/**
 * The monitoring report as a document: what the registry validated of the project, with the report's energy, factor and period.
 * @throws WattError GUARDIAN_PROJECT where the project is none of this kind, GUARDIAN_FACTOR where its fixed factor is another
 */
export function reportDocument(report: Report, project: unknown, schema: unknown, key: string, evidence?: string): Document {
    const document = withoutServers(project) as Document;
    for (const name of ["policyId", "ref", "guardianVersion"]) delete document[name];
    for (const path of COMPUTED) removeAt(document, path);
    const [details, baseline, tool] = [document["field0"], document["H33"], at(document, "H33.tool_07")];
    const cell = CASES.get(String(at(document, "H33.H35")));
    if (!isObject(details) || !isObject(baseline) || !isObject(tool) || cell === undefined || !report.factor) {
        throw new WattError("GUARDIAN_PROJECT", "The approved project is not one that a report can be made for: it must be a new or enlarged plant with a grid emission factor.");
    }
    const { om, bm, wOm, wBm, kind, source, vintage } = report.factor;
    const validated = at(project, "H33.tool_07.field5.field3");
    if (kind === "ex-ante" && typeof validated === "number" && Math.abs(validated - (om * wOm + bm * wBm)) > 1e-9) {
        throw new WattError("GUARDIAN_FACTOR", `The report's emission factor is ${om * wOm + bm * wBm}, the validated project's ${validated}: an ex-ante factor is fixed for the crediting period. Use the project's, or mark the record ex-post where the methodology lets you.`);
    }
    const year = /^\d{4}/.exec(vintage)?.[0] ?? String(new Date(report.period.fromMs).getUTCFullYear());
    Object.assign(baseline, { [cell]: report.figures.egMWh });
    if (at(tool, "field2.field0") !== om) tool["field2"] = { ...(tool["field2"] as object | undefined), field1: "If hourly fuel consumption data is available", field0: om };
    if (!sameMargin(tool, bm)) {
        tool["field4"] = { field2: Number(year), field3: 1, field4: [{ field0: `Build margin: ${source || "see evidence"}`, field1: `${year}-01-01`, field2: 1, field3: bm }] };
    }
    const { from, to, fromMs, toMs } = report.period;
    Object.assign(details, {
        // Half-open in time, so the last day is that of the last instant: no day is in two periods.
        field23: [{ field0: day(fromMs), field1: day(toMs - 1) }],
        field27: mark(key, { report: report.key, period: `${from}/${to}`, ...(evidence !== undefined && { evidence }) }),
    });
    document["H112"] = report.figures.leakageT;
    for (const name of PERSONAL) {
        const kept = details[name];
        delete details[name];
        const isWanted = validate(schema, document, { serverSets: true }).some(({ path }) => path === `field0.${name}`);
        if (isWanted && kept !== undefined) details[name] = kept;
    }
    return document;
}

/** True where the project's own sample of plants makes that build margin. */
function sameMargin(tool: Record<string, unknown>, bm: number): boolean {
    const units = at(tool, "field4.field4");
    if (!Array.isArray(units)) return false;
    const [energy, emission] = units.reduce<[number, number]>(
        ([mwh, t], unit) => [mwh + Number(at(unit, "field2")), t + Number(at(unit, "field2")) * Number(at(unit, "field3"))],
        [0, 0],
    );
    return emission / energy === bm;
}

/** Without what Guardian adds to linked data; a GeoJSON shape keeps its type. */
function withoutServers(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(withoutServers);
    if (!isObject(value)) return value;
    const isShape = "coordinates" in value || "geometry" in value || "features" in value;
    const own = Object.entries(value).filter(([key]) => key !== "@context" && (isShape || (key !== "type" && key !== "id")));
    return Object.fromEntries(own.map(([key, item]) => [key, withoutServers(item)]));
}

function removeAt(document: Document, path: string): void {
    const cut = path.lastIndexOf(".");
    const holder = cut < 0 ? document : at(document, path.slice(0, cut));
    if (isObject(holder)) delete holder[path.slice(cut + 1)];
}

function day(ms: number): string {
    return new Date(ms).toISOString().slice(0, 10);
}
