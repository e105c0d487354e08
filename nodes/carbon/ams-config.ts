import { z } from "zod";
import { WattError } from "../common/errors.js";

/** What an ams_config.json says. */
export interface AmsConfig {
    /** Fields of wl-ams-id's dialog. */
    fields: { intervalHours?: number; minPoints?: number; checkMinutes?: number; meters?: string; factors?: string };
    /** Time between a device's samples, s. */
    sampleS?: number;
    /** The Guardian connection, secrets included: keep it in memory. */
    guardian: { url?: string; username?: string; password?: string; tenantId?: string; policyId?: string };
    /** The project as wl-guardian-project takes it; no such file had it before. */
    project?: unknown;
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
    const { meters, factors, project, ...rest } = Object(json) as Record<string, unknown>;
    const found = new Map<string, unknown>();
    collect(rest, found);
    const config: AmsConfig = { fields: {}, guardian: {}, elsewhere: [], notes: [], ...(project !== undefined && { project }) };
    for (const [name, list] of Object.entries({ meters, factors })) if (list !== undefined) config.fields[name as "meters"] = JSON.stringify(list, null, 2);
    for (const [key, value] of found) {
        if (isKey(NUMBERS, key)) {
            const number = z.coerce.number().positive().safeParse(value);
            if (!number.success) throw new WattError("AMS_CONFIG_INVALID", `${key} must be a number above 0.`);
            if (key === "data_interval_seconds") config.sampleS = number.data;
            else config.fields[NUMBERS[key]] = number.data;
        }
        const isTaken = !isKey(GUARDIAN, key) || typeof value === "string";
        if (isKey(GUARDIAN, key) && typeof value === "string") config.guardian[GUARDIAN[key]] = value;
        if (!isTaken) config.notes.push(`${key} was left out: it must be a text, in quotes.`);
        else if (isKey(ELSEWHERE, key)) config.elsewhere.push(`${key} ${ELSEWHERE[key]}.`);
        else if (isKey(NOWHERE, key)) config.notes.push(`${key} ${NOWHERE[key]}.`);
        else if (/emission_factor|grid_factor/i.test(key)) config.notes.push(`${key} was left out: an emission factor needs its source.`);
        else if (!isKey(NUMBERS, key)) config.notes.push(`${key} is not known here.`);
    }
    if (found.size === 0 && Object.keys(config.fields).length === 0) throw new WattError("AMS_CONFIG_INVALID", "This holds no settings: choose the file ams_config.json.");
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

/** Plain values by key, however deep. */
function collect(json: unknown, into: Map<string, unknown>): void {
    if (typeof json !== "object" || json === null) return;
    for (const [key, value] of Object.entries(json)) {
        if (typeof value === "object") collect(value, into);
        else into.set(key, value);
    }
}
