import { createHash } from "node:crypto";
import { errorCode, WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";
import { canonicalJson } from "../store/canonical-json.js";
import type { GuardianClient, PolicySummary } from "./client.js";
import { schemaOfBlock } from "./schema.js";

/** Tags of the AMS-I.D policy that a participant works with; the policy's author set them, and they survive an import. */
export const TAGS = {
    project: "add_project_bnt",
    report: "add_report_bnt",
    projects: "project_grid_pp_2",
    reports: "report_grid_pp",
    filter: "report_by_project",
    tokens: "tokens_grid",
} as const;

const ROLE = "Project Participant";
/** Cells that make a form one of AMS-I.D. */
const CELLS = ["field0", "H33", "H81", "H112"];
/** Statuses in which a policy takes documents. */
export const ALIVE = new Set(["PUBLISH", "DRY-RUN", "DEMO"]);

export interface PolicyForm {
    schema: Record<string, unknown>;
}

/** A policy as this account sees it. */
export interface Policy {
    id: string;
    name: string;
    status: string;
    /** Documents of it are public and its tokens real. */
    isBinding: boolean;
    /** SHA-256 in hex over all that a filing depends on. */
    fingerprint: string;
    projectForm: PolicyForm;
    reportForm: PolicyForm;
}

/** A policy that might be the one, for a person to choose from. */
export interface Candidate {
    id: string;
    name: string;
    status: string;
    /** Absent where the account cannot use the policy yet: `problem` says why. */
    fingerprint?: string;
    problem?: string;
}

/** Policies of the account that have the forms, grids and role of AMS-I.D, whatever they are called. */
export async function findPolicies(client: GuardianClient, signal?: AbortSignal): Promise<Candidate[]> {
    const found: Candidate[] = [];
    for (const summary of await client.policies(signal)) {
        if (!ALIVE.has(String(summary.status)) || !(await isAmsId(client, summary.id, signal).catch(notOurs))) continue;
        const top = { id: summary.id, name: summary.name ?? summary.id, status: String(summary.status) };
        try {
            const { fingerprint } = await readPolicy(client, summary.id, signal);
            found.push({ ...top, fingerprint });
        } catch (error) {
            if (!["GUARDIAN_UNAVAILABLE", "GUARDIAN_POLICY", "GUARDIAN_NO_SCHEMA"].includes(errorCode(error) ?? "")) throw error;
            found.push({ ...top, problem: (error as Error).message });
        }
    }
    return found;
}

/** A policy of the list that the account may not look into is none for it, and keeps no other from being found. */
function notOurs(error: unknown): false {
    if (errorCode(error) === "GUARDIAN_FORBIDDEN" || errorCode(error) === "GUARDIAN_UNAVAILABLE") return false;
    throw error;
}

/** True for a policy with the forms and grids of AMS-I.D. */
export async function isAmsId(client: GuardianClient, policyId: string, signal?: AbortSignal): Promise<boolean> {
    for (const tag of Object.values(TAGS)) if (!(await client.hasTag(policyId, tag, signal))) return false;
    return true;
}

/**
 * Reads all that a filing depends on. `pinned` is the fingerprint that a person has agreed to.
 * @throws WattError GUARDIAN_POLICY where it is none of AMS-I.D, GUARDIAN_DRIFT where it has changed, and what the client throws
 */
export async function readPolicy(client: GuardianClient, policyId: string, signal?: AbortSignal, pinned?: string): Promise<Policy> {
    const summary = await client.policy(policyId, signal);
    const status = String(summary.status);
    if (!ALIVE.has(status)) throw new WattError("GUARDIAN_POLICY", `The policy takes no documents: its status is ${status}.`);
    // What was agreed to had them, and its version cannot lose them.
    if (pinned === undefined && !(await isAmsId(client, policyId, signal))) throw new WattError("GUARDIAN_POLICY", "The policy is not one of AMS-I.D: forms or grids are missing.");
    const roles = Array.isArray(summary["policyRoles"]) ? summary["policyRoles"].map(String) : undefined;
    if (roles && !roles.includes(ROLE)) throw new WattError("GUARDIAN_POLICY", `The policy has no role "${ROLE}".`);
    const [projectForm, reportForm] = [await readForm(client, policyId, TAGS.project, signal), await readForm(client, policyId, TAGS.report, signal)];
    const fingerprint = fingerprintOf(summary, projectForm, reportForm);
    if (pinned !== undefined && pinned !== fingerprint) {
        throw new WattError("GUARDIAN_DRIFT", `The policy is no longer the one that was agreed to (now ${fingerprint.slice(0, 12)}, then ${pinned.slice(0, 12)}): check what has changed and choose it again.`);
    }
    return { id: policyId, name: summary.name ?? policyId, status, isBinding: status === "PUBLISH" && client.simulated !== true, fingerprint, projectForm, reportForm };
}

async function readForm(client: GuardianClient, policyId: string, tag: string, signal?: AbortSignal): Promise<PolicyForm> {
    const schema = schemaOfBlock(await client.block(policyId, tag, signal));
    const { properties } = schema;
    const missing = CELLS.filter((cell) => !isObject(properties) || !(cell in properties));
    if (missing.length > 0) throw new WattError("GUARDIAN_POLICY", `The form ${tag} is not one of AMS-I.D: it has no ${missing.join(", ")}.`);
    return { schema };
}

/** Ids that each import gives anew, and texts that mean nothing, stay out; what validates, computes, mints or decides is in. */
function fingerprintOf(summary: PolicySummary, project: PolicyForm, report: PolicyForm): string {
    const { name, version, policyTag, policyRoles, tools, config } = summary;
    const content = { name, version, policyTag, policyRoles, tools, config, tags: TAGS, project: project.schema, report: report.schema };
    return createHash("sha256").update(canonicalJson(essential(content))).digest("hex");
}

const PASSING = new Set(["id", "_id", "uuid", "$id", "$comment", "description", "uiMetaData", "artifacts"]);

function essential(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(essential);
    if (!isObject(value)) return value;
    // In a schema `properties` holds names of cells, which may be any word.
    const entries = Object.entries(value).filter(([key, item]) => item !== undefined && !PASSING.has(key));
    return Object.fromEntries(
        entries.map(([key, item]) => [key, key === "properties" && isObject(item) ? Object.fromEntries(Object.entries(item).map(([cell, part]) => [cell, essential(part)])) : essential(item)]),
    );
}
