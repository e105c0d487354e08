import { createHash, sign, type KeyObject } from "node:crypto";
import { validate } from "../guardian/schema.js";
import { calculate } from "./guardian-calculation.js";
import { AMS_ID_SCHEMA, PROFILE_SCHEMA } from "./guardian-schema.js";
import { hashed } from "./noise.js";

export const OWNER = "OWNER";
export const PP = "Project Participant";
export const VVB = "VVB";
export type Role = typeof OWNER | typeof PP | typeof VVB | "NO_ROLE";

/** A stored document as grids show it. */
export interface SimDocument {
    id: string;
    hash: string;
    messageId: string;
    topicId: string;
    type: string;
    schema: string;
    owner: string;
    assignedTo?: string;
    option: { status?: string; comment?: string };
    hederaStatus: "ISSUE";
    relationships: string[];
    document: Record<string, unknown>;
}

export interface SimUser {
    username: string;
    did: string;
    role: Role;
    /** Index of each step block that the user is in. */
    steps: Record<string, number>;
    /** Choice of the grid's dropdown. */
    filterValue?: string;
}

/** What the engine says no with; the server gives it the status of its version. */
export class EngineError extends Error {
    constructor(
        readonly kind: "unavailable" | "invalid" | "notfound" | "forbidden",
        message: string,
    ) {
        super(message);
    }
}

interface Filter {
    types?: string[];
    statuses?: string[];
    own?: boolean;
    assigned?: boolean;
}

const PROFILE = "#8244680f-1cd2-406a-af15-374f76b86d00";
const VVB_PROFILE = "#291acfd0-6568-42f8-a064-240c9368cc1b";
const PROJECT = "#161f2947-f16c-4601-9c4c-3545f286a55c";
const REPORT = "#4259e321-7b95-4f10-9c10-29ac60bb6612";

/** Forms: who fills in which schema, and what the document becomes. */
const FORMS: Record<string, { role: Role; schema: string; step: string; at: number; form: string; type: string; status: string }> = {
    create_pp_profile: { role: PP, schema: PROFILE, step: "pp_step", at: 0, form: "pp", type: "pp", status: "Waiting for approval" },
    create_new_vvb: { role: VVB, schema: VVB_PROFILE, step: "new_VVB", at: 0, form: "vvb", type: "vvb", status: "Waiting for approval" },
    add_project_bnt: { role: PP, schema: PROJECT, step: "new_project", at: 0, form: "project_form", type: "project", status: "Waiting for Validation" },
    add_report_bnt: { role: PP, schema: REPORT, step: "new_report", at: 0, form: "report_form", type: "report", status: "Waiting for Verification" },
};

/** Grids: who sees which documents; a document shows that one filter takes. */
const GRIDS: Record<string, { role: Role; filters: Filter[] }> = {
    pp_grid_sr: { role: OWNER, filters: [{ types: ["pp"], statuses: ["Waiting for approval"] }, { types: ["approved_pp"] }, { types: ["rejected_pp"] }] },
    vvb_grid_sr: { role: OWNER, filters: [{ types: ["vvb"], statuses: ["Waiting for approval"] }, { types: ["approved_vvb"] }, { types: ["rejected_vvb"] }] },
    project_grid_sr: { role: OWNER, filters: [{ types: ["project"], statuses: ["Waiting for Validation"] }, { types: ["approved_project"] }, { types: ["rejected_project"] }] },
    report_grid_sr: { role: OWNER, filters: [{ types: ["approved_report"], statuses: ["Verified"] }, { types: ["approved_report_sr"] }, { types: ["rejected_report_sr"] }] },
    vp_grid: { role: OWNER, filters: [{ types: ["mint"] }] },
    pp_profile_grid: { role: PP, filters: [{ types: ["pp"], own: true }] },
    project_grid_pp_2: {
        role: PP,
        filters: [
            { statuses: ["Waiting for Validation"], own: true },
            { types: ["approved_project"], statuses: ["Validated"], own: true },
            { types: ["project"], statuses: ["Validated", "Revoked", "REJECTED"], own: true },
        ],
    },
    // What is minted, or rejected by the registry, are new records: it never shows here.
    report_grid_pp: { role: PP, filters: [{ types: ["report"], statuses: ["Verified", "Revoked", "Waiting for Verification", "REJECTED"], own: true }] },
    tokens_grid: { role: PP, filters: [{ types: ["mint"], own: true }] },
    vvb_grid: { role: VVB, filters: [{ types: ["vvb"], own: true }] },
    report_grid_vvb: {
        role: VVB,
        filters: [{ types: ["report"], statuses: ["Waiting for Verification"], assigned: true }, { types: ["approved_report", "rejected_report"], assigned: true }],
    },
};

/** Buttons: who presses them, the status that the client must have set, and what is saved. */
interface Press {
    status: string;
    /** Type of the record that is made of the one shown. */
    becomes?: string;
}
const BUTTONS: Record<string, { role: Role; takes: string; presses: Record<string, Press> }> = {
    approve_pp_documents_btn: { role: OWNER, takes: "pp", presses: { Button_0: { status: "APPROVED", becomes: "approved_pp" }, Button_1: { status: "REJECTED", becomes: "rejected_pp" } } },
    approve_documents_btn: { role: OWNER, takes: "vvb", presses: { Button_0: { status: "APPROVED", becomes: "approved_vvb" }, Button_1: { status: "REJECTED", becomes: "rejected_vvb" } } },
    sr_validate_project_btn: { role: OWNER, takes: "project", presses: { Button_0: { status: "Validated", becomes: "approved_project" }, Button_1: { status: "REJECTED", becomes: "rejected_project" } } },
    approve_report_btn: { role: VVB, takes: "report", presses: { Button_0: { status: "Verified", becomes: "approved_report" }, Button_1: { status: "REJECTED", becomes: "rejected_report" } } },
    sr_approve_report_btn: { role: OWNER, takes: "approved_report", presses: { Button_0: { status: "Minted", becomes: "approved_report_sr" }, Button_1: { status: "Rejected", becomes: "rejected_report_sr" } } },
    sr_revoke_project_btn: { role: OWNER, takes: "approved_project", presses: { Button_0: { status: "Revoked" } } },
    revoke_report_pp_btn: { role: PP, takes: "report", presses: { Button_0: { status: "Revoked" } } },
};

/** Tags, types, roles, schemas and buttons of the policy's blocks that the stand-in has. */
export const BLOCKS: { tag: string; blockType: string; permissions: string[]; schema?: string; values?: Record<string, string> }[] = [
    { tag: "Choose_Roles", blockType: "policyRolesBlock", permissions: ["NO_ROLE"] },
    ...Object.entries(FORMS).map(([tag, { role, schema }]) => ({ tag, blockType: "requestVcDocumentBlock", permissions: [role], schema })),
    ...Object.entries(GRIDS).map(([tag, { role }]) => ({ tag, blockType: "interfaceDocumentsSourceBlock", permissions: [role] })),
    ...Object.entries(BUTTONS).map(([tag, { role, presses }]) => ({
        tag,
        blockType: "buttonBlock",
        permissions: [role],
        values: Object.fromEntries(Object.entries(presses).map(([button, { status }]) => [button, status])),
    })),
    { tag: "assign_vvb", blockType: "interfaceActionBlock", permissions: [PP] },
    { tag: "report_by_project", blockType: "filtersAddon", permissions: [PP] },
    { tag: "mintToken", blockType: "mintDocumentBlock", permissions: [OWNER] },
];

export type Rounding = "nearest" | "floor" | "ceiling";

/** All that a restart must not lose. */
export interface PolicyState {
    users: SimUser[];
    documents: SimDocument[];
    /** Numbers drawn so far: ids never repeat. */
    drawn: number;
    /** Tokens minted, by message id of their presentation. */
    minted: Record<string, number>;
    log: string[];
}

export interface PolicyOptions {
    seed: number;
    policyId: string;
    guardianVersion?: string;
    rounding: Rounding;
    key: KeyObject;
    now: () => number;
    state?: PolicyState;
}

/** Faults of the engine itself, as against those of the wire. */
export interface EngineFaults {
    /** The calculation throws: the step stays where it is. */
    jam?: boolean;
    /** The server's figures differ from what they should be. */
    miscalculate?: boolean;
    /** Stored documents are not what was sent. */
    alter?: boolean;
    /** Tokens minted twice, as by retries that both came through. */
    overMint?: boolean;
}

export const TOKEN_ID = "0.0.4839211";

/** The AMS-I.D policy at work: forms, steps, grids, buttons, mint; acts at once, while the server decides when. */
export class PolicyEngine {
    readonly state: PolicyState;
    faults: EngineFaults = {};

    constructor(private readonly options: PolicyOptions) {
        this.state = options.state ?? { users: [], documents: [], drawn: 0, minted: {}, log: [] };
    }

    user(username: string, role: Role = "NO_ROLE"): SimUser {
        let user = this.state.users.find((known) => known.username === username);
        if (!user) {
            user = { username, did: `did:hedera:testnet:${this.hex(44)}_0.0.4839`, role, steps: {} };
            this.state.users.push(user);
        }
        return user;
    }

    isKnown(tag: string): boolean {
        return BLOCKS.some((block) => block.tag === tag);
    }

    /** True when the block is there for that user now. */
    isAvailable(user: SimUser, tag: string): boolean {
        if (!BLOCKS.find((block) => block.tag === tag)?.permissions.includes(user.role)) return false;
        const form = FORMS[tag];
        if (form && (user.steps[form.step] ?? 0) !== form.at) return false;
        const isBehindProfile = user.role === PP ? tag !== "create_pp_profile" : user.role === VVB && tag !== "create_new_vvb";
        return !isBehindProfile || user.steps[user.role === PP ? "pp_step" : "new_VVB"] === 2;
    }

    /** What a GET of the block answers. @throws EngineError */
    show(user: SimUser, tag: string): object {
        this.demand(user, tag);
        const block = BLOCKS.find((found) => found.tag === tag);
        const top = { id: this.blockId(tag), blockType: block?.blockType, isActive: true, uiMetaData: {}, data: null };
        if (FORMS[tag]) return { ...top, schema: this.schemaOf(tag), presetSchema: null, presetFields: [], hideFields: [] };
        if (GRIDS[tag]) return { ...top, data: this.documentsOf(user, tag), blocks: [], commonAddons: [] };
        if (tag === "report_by_project") {
            const data = this.visible(user, { types: ["approved_project"], statuses: ["Validated"], own: true }).map((project) => ({ name: subject(project)["field0"], value: subject(project)["id"] }));
            return { ...top, type: "dropdown", data, optionName: "document.credentialSubject.0.field0", optionValue: "document.credentialSubject.0.id", filterValue: user.filterValue ?? null };
        }
        if (tag === "assign_vvb") {
            const options = this.state.documents.filter(({ type }) => type === "approved_vvb").map((vvb) => ({ name: subject(vvb)["field0"], value: subject(vvb)["id"] }));
            return { ...top, type: "dropdown", name: "document.credentialSubject.0.field0", value: "document.credentialSubject.0.id", field: "assignedTo", options };
        }
        return { ...top, roles: [PP, VVB] };
    }

    /** The block as the tree of the root shows it to that user: null where it is not available. */
    tree(user: SimUser): object {
        const children = BLOCKS.map(({ tag, blockType }) => (this.isAvailable(user, tag) ? { id: this.blockId(tag), tag, blockType, isActive: true, uiMetaData: {} } : null));
        return { id: this.blockId("root"), blockType: "interfaceContainerBlock", isActive: true, uiMetaData: {}, blocks: children };
    }

    schemaOf(tag: string): object {
        return { $id: FORMS[tag]?.schema, ...(tag.endsWith("_bnt") ? AMS_ID_SCHEMA : PROFILE_SCHEMA) };
    }

    blockId(tag: string): string {
        return uuid(createHash("sha256").update(`${this.options.policyId} ${tag}`).digest("hex"));
    }

    tagOf(blockId: string): string | undefined {
        return BLOCKS.find(({ tag }) => this.blockId(tag) === blockId)?.tag;
    }

    /**
     * Does what a POST asks for. The answer goes out before `later` runs, as in Guardian.
     * @throws EngineError, and nothing has changed
     */
    act(user: SimUser, tag: string, body: Record<string, unknown>): { answer: unknown; later?: () => void } {
        this.demand(user, tag);
        if (FORMS[tag]) return this.fillIn(user, tag, body);
        if (BUTTONS[tag]) return this.press(user, tag, body);
        if (tag === "Choose_Roles") {
            if (body["role"] !== PP && body["role"] !== VVB) throw new EngineError("invalid", "Invalid role");
            user.role = body["role"];
            return { answer: true };
        }
        if (tag === "assign_vvb") {
            const document = this.stored(body["id"], "report");
            document.assignedTo = String(body["assignedTo"]);
            return { answer: document };
        }
        if (tag === "report_by_project") {
            const { filterValue } = body;
            if (typeof filterValue === "string") user.filterValue = filterValue;
            else delete user.filterValue;
            return { answer: null };
        }
        throw new EngineError("unavailable", "Block Unavailable");
    }

    private fillIn(user: SimUser, tag: string, { document: sent, ref }: Record<string, unknown>): { answer: unknown; later: () => void } {
        const form = FORMS[tag] as (typeof FORMS)[string];
        const isProfile = form.form === form.type;
        const related = this.reference(ref);
        const id = isProfile ? user.did : `urn:uuid:${this.uuid()}`;
        const { policyId, guardianVersion } = this.options;
        const filed = structuredClone(sent ?? {}) as Record<string, unknown>;
        const credential: Record<string, unknown> = {
            ...filed,
            policyId,
            ...(guardianVersion && { guardianVersion }),
            ...(related && { ref: subject(related)["id"] }),
            "@context": [`schema:${form.schema.slice(1)}`],
            id,
            type: form.schema.slice(1),
        };
        const violations = validate(this.schemaOf(tag), credential);
        if (violations.length > 0) {
            throw new EngineError("invalid", JSON.stringify(violations.map(({ path, problem }) => ({ instancePath: `/${path.replaceAll(".", "/")}`, keyword: "schema", message: problem }))));
        }
        const record = this.store(form.form, form.schema, user.did, isProfile ? { status: form.status } : {}, this.credential(form.schema, credential), related ? [related.messageId] : []);
        user.steps[form.step] = 1;
        return {
            answer: structuredClone(record),
            later: () => {
                if (isProfile) return;
                const calculated = structuredClone(credential);
                try {
                    if (this.faults.jam) throw new Error("Cannot read properties of undefined");
                    calculate(calculated);
                } catch (error) {
                    // The engine only logs it, and the step stays in the middle: the form is gone for this user.
                    this.state.log.push(`${tag}: ${(error as Error).message}`);
                    return;
                }
                if (this.faults.miscalculate) {
                    const result = calculated["H113"] as { H114: number };
                    result.H114 += 0.001;
                }
                if (this.faults.alter) calculated["H112"] = 1;
                this.store(form.type, form.schema, user.did, { status: form.status }, this.credential(form.schema, calculated), record.relationships);
                user.steps[form.step] = 0;
            },
        };
    }

    private press(user: SimUser, tag: string, { document: shown, tag: button }: Record<string, unknown>): { answer: unknown; later: () => void } {
        const { takes, presses } = BUTTONS[tag] as (typeof BUTTONS)[string];
        const press = presses[String(button)];
        if (!press) throw new EngineError("invalid", "Invalid button");
        const { id, option } = (shown ?? {}) as Partial<SimDocument>;
        const document = this.stored(id, takes);
        // The client sets the status, and the engine stores what it is given.
        const status = press.becomes ? (option?.status ?? "") : press.status;
        return {
            answer: { id: document.id },
            later: () => {
                document.option = { ...document.option, ...option, status };
                if (press.becomes && status === press.status) this.promote(document, press.becomes, user);
            },
        };
    }

    private promote(document: SimDocument, type: string, actor: SimUser): void {
        const credential = document.document as { credentialSubject: Record<string, unknown>[] };
        const made = this.store(type, document.schema, document.owner, { ...document.option }, this.credential(document.schema, credential.credentialSubject[0] ?? {}), [document.messageId]);
        if (document.assignedTo !== undefined) made.assignedTo = document.assignedTo;
        const owner = this.state.users.find(({ did }) => did === document.owner);
        if (owner && type === "approved_pp") owner.steps["pp_step"] = 2;
        if (owner && type === "approved_vvb") owner.steps["new_VVB"] = 2;
        if (owner && (type === "rejected_pp" || type === "rejected_vvb")) owner.steps[type === "rejected_pp" ? "pp_step" : "new_VVB"] = 0;
        if (type === "approved_report_sr") this.mint(made, actor);
    }

    /** Rule H113.H114 for a token without decimals. */
    private mint(report: SimDocument, actor: SimUser): void {
        const { H113 } = subject(report) as { H113?: { H114?: number } };
        const round = { nearest: Math.round, floor: Math.floor, ceiling: Math.ceil }[this.options.rounding];
        const amount = round(H113?.H114 ?? 0) || 0;
        const context = "ipfs://bafybeie7ye3d35gxgky4qto4e6bdeajgdnt3a6ob2mu65ohn7pu2d5vexy";
        const token = { date: new Date(this.options.now()).toISOString(), tokenId: TOKEN_ID, amount: String(amount), "@context": [context], type: "MintToken" };
        const presentation = {
            id: `urn:uuid:${this.uuid()}`,
            type: ["VerifiablePresentation"],
            "@context": ["https://www.w3.org/2018/credentials/v1"],
            verifiableCredential: [report.document, this.credential(context, token)],
        };
        const made = this.store("mint", "", report.owner, { status: "Minted" }, { ...presentation, proof: this.proof(presentation, actor.did) }, [report.messageId]);
        const times = this.faults.overMint ? 2 : 1;
        this.state.minted[made.messageId] = Math.max(0, amount) * times;
        // A retry that was not needed leaves a second presentation of the same report behind, too.
        if (this.faults.overMint) this.state.log.push(`mint: ${amount * times} instead of ${amount}`);
    }

    /** Does what registry and verifier would: lets profiles pass, validates projects, assigns, verifies and mints reports. */
    approveAll(): void {
        const sr = this.user("sr", OWNER);
        const vvb = this.user("vvb", VVB);
        const decide = (actor: SimUser, type: string, open: string, status: string, becomes: string) => {
            for (const document of this.state.documents.filter((found) => found.type === type && found.option.status === open)) {
                document.option = { ...document.option, status };
                this.promote(document, becomes, actor);
            }
        };
        decide(sr, "pp", "Waiting for approval", "APPROVED", "approved_pp");
        decide(sr, "vvb", "Waiting for approval", "APPROVED", "approved_vvb");
        decide(sr, "project", "Waiting for Validation", "Validated", "approved_project");
        for (const report of this.state.documents) if (report.type === "report") report.assignedTo ??= vvb.did;
        decide(vvb, "report", "Waiting for Verification", "Verified", "approved_report");
        decide(sr, "approved_report", "Verified", "Minted", "approved_report_sr");
    }

    private documentsOf(user: SimUser, tag: string): SimDocument[] {
        const seen = (GRIDS[tag]?.filters ?? []).flatMap((filter) => this.visible(user, filter));
        const chosen = tag === "report_grid_pp" && user.filterValue !== undefined ? seen.filter((found) => subject(found)["ref"] === user.filterValue) : seen;
        return structuredClone([...new Set(chosen)]);
    }

    private visible(user: SimUser, { types, statuses, own, assigned }: Filter): SimDocument[] {
        return this.state.documents.filter(
            (found) =>
                (!types || types.includes(found.type)) &&
                (!statuses || statuses.includes(found.option.status ?? "")) &&
                (!own || found.owner === user.did) &&
                (!assigned || found.assignedTo === user.did),
        );
    }

    private demand(user: SimUser, tag: string): void {
        if (!this.isKnown(tag)) throw new EngineError("notfound", "The policy does not exist, or is not published, or tag was not registered in policy");
        if (!this.isAvailable(user, tag)) throw new EngineError("unavailable", "Block Unavailable");
    }

    private stored(id: unknown, type: string): SimDocument {
        const found = this.state.documents.find((document) => document.id === id && document.type === type);
        if (!found) throw new EngineError("invalid", "Invalid document");
        return found;
    }

    /** Subject id, stored document or its id; null files without one, as upstream allows. */
    private reference(ref: unknown): SimDocument | undefined {
        if (ref === null || ref === undefined) return undefined;
        const { id = ref } = ref as { id?: unknown };
        const found = this.state.documents.find((document) => document.id === id || subject(document)["id"] === id);
        if (!found) throw new EngineError("invalid", "Invalid relationships");
        return found;
    }

    private store(type: string, schema: string, owner: string, option: SimDocument["option"], document: Record<string, unknown>, relationships: string[]): SimDocument {
        const seconds = Math.floor(this.options.now() / 1000);
        const record: SimDocument = {
            id: this.hex(24),
            hash: createHash("sha256").update(JSON.stringify(document)).digest("base64"),
            messageId: `${seconds}.${String(this.state.drawn).padStart(9, "0")}`,
            topicId: "0.0.4839202",
            type,
            schema,
            owner,
            option,
            hederaStatus: "ISSUE",
            relationships,
            document: structuredClone(document),
        };
        this.state.documents.push(record);
        return record;
    }

    private credential(schema: string, credentialSubject: Record<string, unknown>): Record<string, unknown> {
        const credential = {
            id: `urn:uuid:${this.uuid()}`,
            type: ["VerifiableCredential"],
            issuer: "did:hedera:testnet:stand-in_0.0.4839",
            issuanceDate: new Date(this.options.now()).toISOString(),
            "@context": ["https://www.w3.org/2018/credentials/v1", `schema:${schema.slice(1)}`],
            credentialSubject: [credentialSubject],
        };
        return { ...credential, proof: this.proof(credential, credential.issuer) };
    }

    private proof(content: object, issuer: string): object {
        return {
            type: "Ed25519Signature2018",
            created: new Date(this.options.now()).toISOString(),
            verificationMethod: `${issuer}#did-root-key`,
            proofPurpose: "assertionMethod",
            jws: sign(null, Buffer.from(JSON.stringify(content)), this.options.key).toString("base64url"),
        };
    }

    private hex(length: number): string {
        return Array.from({ length }, () => Math.floor(hashed(this.options.seed, 77, this.state.drawn++) * 16).toString(16)).join("");
    }

    private uuid(): string {
        return uuid(this.hex(32));
    }
}

function uuid(hex: string): string {
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function subject(document: SimDocument): Record<string, unknown> {
    const { credentialSubject } = document.document as { credentialSubject?: Record<string, unknown>[] };
    return credentialSubject?.[0] ?? {};
}
