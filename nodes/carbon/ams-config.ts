import { numberField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";
import { settingsSchema } from "./aggregator.js";
import { parseFactors } from "./factor.js";
import { parseInventory } from "./meters.js";

/** What an ams_config.json says. */
export interface AmsConfig {
    /** Fields of wl-ams-id's dialog. */
    fields: { intervalHours?: number; minPoints?: number; checkMinutes?: number; meters?: string; factors?: string };
    /** Time between a device's samples, s. */
    sampleS?: number;
    /** The Guardian connection, secrets included: keep it in memory. */
    guardian: { url?: string; username?: string; password?: string; tenantId?: string; policyId?: string };
    /** The project as wl-guardian-project takes it; no such file had it before. */
    project?: Record<string, unknown>;
    /** What it holds for other nodes, as sentences without secrets. */
    elsewhere: string[];
    /** What is taken nowhere, and why, as sentences without secrets. */
    notes: string[];
}

/** Where each setting of the file goes; its sections differ between versions, the keys do not. */
const NUMBERS = { interval_hours: "intervalHours", min_data_points: "minPoints", check_interval_minutes: "checkMinutes", data_interval_seconds: "sampleS" } as const;
const GUARDIAN = { base_url: "url", username: "username", password: "password", tenant_id: "tenantId", policy_id: "policyId" } as const;
const ELSEWHERE = {
    base_url: "belongs in the Guardian connection",
    username: "belongs in the Guardian connection",
    password: "belongs in the Guardian connection",
    tenant_id: "belongs in the Guardian connection",
    policy_id: "belongs in the Guardian connection, which checks that the policy is yours",
    data_interval_seconds: "is set where the device is",
} as const;
const NOWHERE = {
    policy_tag: "is not needed: the Guardian connection finds the policy by its forms",
    project_schema_id: "is not needed: it is read from the policy",
    monitoring_report_schema_id: "is not needed: it is read from the policy",
    mrv_sender_url: "is not used: AMS-I.D takes no data from outside",
} as const;

/** What each number may be, as the nodes take it; `data_interval_seconds` as wl-sim-esp32 does. */
const { intervalHours, minPoints, checkMinutes } = settingsSchema.shape;
const RANGES = { intervalHours, minPoints, checkMinutes, sampleS: numberField({ min: 1, max: 3600, default: 300 }) };
/** No such file comes near it. */
const MAX_DEPTH = 100;

/**
 * Reads an ams_config.json; it may hold `meters`, `factors` and `project` too, in the form of our nodes.
 * @throws WattError AMS_CONFIG_INVALID
 */
export function readAmsConfig(text: unknown): AmsConfig {
    let json: unknown;
    try {
        json = JSON.parse(String(text));
    } catch {
        throw new WattError("AMS_CONFIG_INVALID", "This is no JSON: choose the file ams_config.json.");
    }
    if (!isObject(json)) throw new WattError("AMS_CONFIG_INVALID", "This is no object in braces: choose the file ams_config.json.");
    if (isDeeper(json, MAX_DEPTH)) throw new WattError("AMS_CONFIG_INVALID", `This is nested deeper than ${MAX_DEPTH} levels: choose the file ams_config.json.`);
    const { meters, factors, project, ...rest } = json;
    const config: AmsConfig = { fields: {}, guardian: {}, elsewhere: [], notes: [] };
    if (project !== undefined) {
        if (!isObject(project)) throw new WattError("AMS_CONFIG_INVALID", "project must be an object, as wl-guardian-project takes it.");
        config.project = project;
    }
    for (const [name, parse, list] of [["meters", parseInventory, meters], ["factors", parseFactors, factors]] as const) {
        if (list === undefined) continue;
        parse(list);
        config.fields[name] = JSON.stringify(list, null, 2);
    }
    const found = new Map<string, unknown>();
    collect(rest, found);
    for (const [key, value] of found) {
        if (isKey(NUMBERS, key)) {
            const number = numberOf(key, value);
            if (key === "data_interval_seconds") config.sampleS = number;
            else config.fields[NUMBERS[key]] = number;
        }
        const isTaken = !isKey(GUARDIAN, key) || typeof value === "string";
        if (isKey(GUARDIAN, key) && typeof value === "string") config.guardian[GUARDIAN[key]] = value;
        if (!isTaken) config.notes.push(`${key} was left out: it must be a text, in quotes.`);
        else if (isKey(ELSEWHERE, key)) config.elsewhere.push(`${key} ${ELSEWHERE[key]}.`);
        else if (isKey(NOWHERE, key)) config.notes.push(`${key} ${NOWHERE[key]}.`);
        else if (/emission_factor|grid_factor/i.test(key)) config.notes.push(`${key} was left out: an emission factor needs its source.`);
        else if (!isKey(NUMBERS, key)) config.notes.push(`${key} is not known here.`);
    }
    if (found.size === 0 && !config.project && Object.keys(config.fields).length === 0) throw new WattError("AMS_CONFIG_INVALID", "This holds no settings: choose the file ams_config.json.");
    return config;
}

/** The part of it that a dialog may see: no secret. @throws WattError AMS_CONFIG_INVALID */
export function importAmsConfig(text: unknown): Pick<AmsConfig, "fields" | "notes"> {
    const { fields, elsewhere, notes } = readAmsConfig(text);
    return { fields, notes: [...elsewhere.map((note) => note.replace(/^password .*/, "password was not read: enter it in the Guardian connection.")), ...notes] };
}

function isKey<T extends object>(names: T, key: string): key is Extract<keyof T, string> {
    return Object.hasOwn(names, key);
}

/** A number or its text; what a dialog would take for blank is neither. */
function numberOf(key: keyof typeof NUMBERS, value: unknown): number {
    const result = RANGES[NUMBERS[key]].safeParse(typeof value === "string" ? Number(value) : (value ?? NaN));
    if (result.success) return result.data;
    throw new WattError("AMS_CONFIG_INVALID", `${key} ${result.error.issues[0]!.message}.`);
}

function isDeeper(json: unknown, levels: number): boolean {
    if (typeof json !== "object" || json === null) return false;
    return levels === 0 || Object.values(json).some((value) => isDeeper(value, levels - 1));
}

/** Values by key, whatever section they are in; a setting that should be one value stays whole. */
function collect(json: object, into: Map<string, unknown>): void {
    for (const [key, value] of Object.entries(json)) {
        if (isObject(value) && ![NUMBERS, GUARDIAN, NOWHERE].some((names) => isKey(names, key))) collect(value, into);
        else into.set(key, value);
    }
}
