import { z } from "zod";
import { WattError } from "../common/errors.js";

/** Fields of the dialog that an ams_config.json fills. */
export interface ImportedConfig {
    fields: { intervalHours?: number; minPoints?: number; checkMinutes?: number };
    /** What it holds for other nodes, and what was left out, as sentences. */
    notes: string[];
}

/** Where each setting of the origin's file goes; its sections differ between versions, the keys do not. */
const FIELDS = { interval_hours: "intervalHours", min_data_points: "minPoints", check_interval_minutes: "checkMinutes" } as const;
const ELSEWHERE: Record<string, string> = {
    base_url: "belongs in the Guardian connection",
    username: "belongs in the Guardian connection",
    tenant_id: "belongs in the Guardian connection",
    policy_id: "belongs in the Guardian connection, which checks that the policy is yours",
    policy_tag: "belongs in the Guardian connection, which finds it by itself",
    project_schema_id: "is read from the policy",
    monitoring_report_schema_id: "is read from the policy",
    data_interval_seconds: "is set where the device is",
    mrv_sender_url: "is not used: AMS-I.D takes no data from outside",
};
const SECRET = /password|secret|token|key$/i;

/**
 * Reads an ams_config.json of the origin. Secrets are neither kept nor shown.
 * @throws WattError AMS_CONFIG_INVALID
 */
export function importAmsConfig(text: unknown): ImportedConfig {
    let json: unknown;
    try {
        json = JSON.parse(String(text));
    } catch {
        throw new WattError("AMS_CONFIG_INVALID", "This is no JSON: choose the file ams_config.json.");
    }
    const found = new Map<string, unknown>();
    collect(json, found);
    const fields: ImportedConfig["fields"] = {};
    const notes: string[] = [];
    for (const [key, value] of found) {
        const field = Object.hasOwn(FIELDS, key) ? FIELDS[key as keyof typeof FIELDS] : undefined;
        if (field) {
            const number = z.coerce.number().positive().safeParse(value);
            if (!number.success) throw new WattError("AMS_CONFIG_INVALID", `${key} must be a number above 0.`);
            fields[field] = number.data;
        } else if (SECRET.test(key)) notes.push(`${key} was not read: enter it in the Guardian connection.`);
        else if (Object.hasOwn(ELSEWHERE, key)) notes.push(`${key} ${ELSEWHERE[key]}.`);
        else if (/emission_factor|grid_factor/i.test(key)) notes.push(`${key} was left out: an emission factor needs its source.`);
    }
    if (found.size === 0) throw new WattError("AMS_CONFIG_INVALID", "This holds no settings: choose the file ams_config.json.");
    return { fields, notes };
}

/** Plain values by key, however deep. */
function collect(json: unknown, into: Map<string, unknown>): void {
    if (typeof json !== "object" || json === null) return;
    for (const [key, value] of Object.entries(json)) {
        if (typeof value === "object") collect(value, into);
        else into.set(key, value);
    }
}
