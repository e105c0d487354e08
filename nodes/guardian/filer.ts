import type { Report } from "../carbon/report.js";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { Turns } from "../common/turns.js";
import { mayHaveActed } from "./answer.js";
import type { GridDocument, GuardianClient } from "./client.js";
import { filingKey, keyOf, parseProject, projectDocument, reportDocument, type Document } from "./document.js";
import type { Filings, Kind, Row } from "./filings.js";
import { reconcile, tokensOf, type Mirror } from "./mint.js";
import { readPolicy, TAGS, type Policy } from "./policy.js";
import { compare, preflight, type Preflight, type Rounding } from "./twin.js";

/**
 * `FILED` read back now · `ALREADY` it was there before · `WAITING` written down here, nothing was sent yet · `UNKNOWN` sent, and not
 * seen at Guardian yet · `REFUSED` nothing was filed, and nothing will be · `JAMMED` Guardian does not go on: a person must.
 */
export type FilingState = "FILED" | "ALREADY" | "WAITING" | "UNKNOWN" | "REFUSED" | "JAMMED";

export interface FilingResult {
    state: FilingState;
    kind: Kind;
    key: string;
    project: string;
    /** What is to be known or done; empty when all is well. */
    reason: string;
    /** Guardian's own word for where it is: `Waiting for Verification`, `Verified`, `Minted`, `REJECTED`, … */
    stage: string;
    attempts: number;
    computed?: Row["computed"];
    /** Tokens that the policy will mint, and those seen. */
    mint?: number;
    minted?: number;
    stored?: Row["stored"];
    differences: Row["differences"];
    document?: Document;
}

/** What a dry run shows; nothing is filed. */
export interface Preview extends Preflight {
    kind: "project" | "report";
    key: string;
    project: string;
    document?: Document;
    policy: { id: string; name: string; status: string; fingerprint: string };
}

export interface FilerSettings {
    policyId: string;
    /** What a person agreed to; without it nothing is filed. */
    fingerprint: string;
    rounding: Rounding;
    /** Hedera's mirror node, to count what was minted. */
    mirror?: Mirror;
}

/** Waits, ms. */
export interface FilerTimes {
    /** A document that was sent is looked for this long. */
    readBackMs: number;
    /** First and longest wait between looks. */
    pollMs: [first: number, longest: number];
    /** An attempt whose outcome is unknown may still arrive for this long. */
    settleMs: number;
    /** Absence is believed when it is seen twice, this far apart. */
    confirmMs: number;
}

export const TIMES: FilerTimes = { readBackMs: 120_000, pollMs: [2000, 30_000], settleMs: 10 * 60_000, confirmMs: 60_000 };

/** Stages after which nothing more comes. */
const FINAL = new Set(["Minted", "REJECTED", "Revoked"]);

/** Stages by which registry or verifier say no. */
export const NO: ReadonlySet<string> = new Set(["REJECTED", "Revoked"]);

/** What a message asks to be filed. */
export type Filing = { kind: "project"; payload: unknown; simulated: boolean } | { kind: "report"; report: Report; evidence?: string; projectRef?: string };

/**
 * Files documents once. Guardian knows no duplicates, so each carries its key where it can be read back: written down here before
 * the first attempt, asked for before each, and successful only when it is read back.
 */
export class Filer {
    private readonly clock: Clock;
    private readonly turns = new Turns();

    constructor(
        private readonly client: GuardianClient,
        private readonly filings: Filings,
        private readonly settings: FilerSettings,
        private readonly times: FilerTimes = TIMES,
        clock?: Clock,
    ) {
        this.clock = clock ?? systemClock;
    }

    /** What would be filed, and what the policy would make of it. @throws WattError, GuardianError */
    async preview(filing: Filing, signal?: AbortSignal): Promise<Preview> {
        const policy = await readPolicy(this.client, this.settings.policyId, signal, this.settings.fingerprint || undefined);
        const { id, name, status, fingerprint } = policy;
        const subject = await this.identify(filing, signal);
        const row = prepare(subject, policy);
        return { kind: filing.kind, key: row.key, project: row.project, policy: { id, name, status, fingerprint }, document: row.document, ...this.check(row, policy, filing) };
    }

    /**
     * Files one document, or says what has become of it before. One at a time: the policy's form is one for the account. What throws
     * is kept, and taken up again by `resume`.
     * @throws WattError, GuardianError, HttpError
     */
    file(filing: Filing, signal?: AbortSignal): Promise<FilingResult> {
        return this.turns.take(async () => {
            if (this.settings.fingerprint === "") throw new WattError("GUARDIAN_UNPINNED", "The policy is not agreed to yet: choose it in the settings of the Guardian node.");
            const { url } = this.client.account;
            const id = JSON.stringify([url, this.settings.policyId, filing.kind, filing.kind === "report" ? filing.report.key : parseProject(filing.payload).id]);
            this.filings.keep(id, url, this.settings.policyId, filing);
            return this.take(id, filing, signal);
        });
    }

    /** Goes on with everything that is not settled: after a restart, an outage, an unknown outcome. */
    resume(signal?: AbortSignal, kinds?: ReadonlySet<Kind>): Promise<FilingResult[]> {
        return this.turns.take(async () => {
            const results: FilingResult[] = [];
            for (const row of this.rows()) {
                if (signal?.aborted) break;
                if (kinds && !kinds.has(row.kind)) continue;
                if (row.state === "filed" && FINAL.has(row.stage)) continue;
                const before = JSON.stringify(row);
                const result = row.state === "filed" ? await this.follow(row, signal) : row.state === "refused" ? undefined : await this.advance(row, signal);
                if (result && JSON.stringify(this.filings.get(row.key)) !== before) results.push(result);
            }
            for (const { id, content } of this.kept(kinds)) {
                if (signal?.aborted) break;
                // What still keeps it from being filed was told when it was asked for.
                const result = await this.take(id, content, signal).catch(() => undefined);
                if (result && (result.state !== "JAMMED" || result.attempts > 0)) results.push(result);
            }
            return results;
        });
    }

    /** True while something is not settled. */
    get isBusy(): boolean {
        return this.rows().some(({ state }) => state === "new" || state === "sent") || this.kept().length > 0;
    }

    private kept(kinds?: ReadonlySet<Kind>): { id: string; content: Filing }[] {
        const found = this.filings.kept(this.client.account.url, this.settings.policyId) as { id: string; content: Filing }[];
        return found.filter(({ content }) => kinds?.has(content.kind) ?? true);
    }

    /** From here on the row remembers it, or it is refused. */
    private async take(id: string, filing: Filing, signal?: AbortSignal): Promise<FilingResult> {
        const result = await this.fileNow(filing, signal);
        if (result.state !== "JAMMED" || this.filings.get(result.key)) this.filings.forget(id);
        return result;
    }

    /** Rows of this Guardian and policy. */
    rows(): Row[] {
        return this.filings.all(this.client.account.url).filter(({ kind, policyId }) => kind !== "external" && policyId === this.settings.policyId);
    }

    /** Lets a jammed document be sent again, once a person has made sure that Guardian will not go on with it. */
    release(key: string): void {
        const row = this.filings.get(key);
        if (row?.state === "jammed") this.filings.update({ ...row, state: "new", reason: "" });
    }

    private async fileNow(filing: Filing, signal?: AbortSignal): Promise<FilingResult> {
        const subject = await this.identify(filing, signal);
        const known = this.filings.get(subject.key);
        if (known && known.state !== "refused") return this.again(known, filing, signal);
        let policy: Policy;
        let row: Row;
        try {
            policy = await readPolicy(this.client, this.settings.policyId, signal, this.settings.fingerprint);
            row = prepare(subject, policy);
        } catch (error) {
            const state = SETTLED[errorCode(error) ?? ""];
            if (state === undefined) throw error;
            const project = filing.kind === "report" ? filing.report.project.id : parseProject(filing.payload).id;
            return { state, kind: filing.kind, key: subject.key, project, reason: errorText(error), stage: "", attempts: 0, differences: [] };
        }
        const { ok, violations } = this.check(row, policy, filing);
        if (!ok) return resultOf(row, "REFUSED", violations.map(({ path, problem }) => `${path || "The document"} ${problem}`).join("; "));
        try {
            this.filings.begin(row);
        } catch (error) {
            if (errorCode(error) !== "GUARDIAN_CLAIMED") throw error;
            return resultOf(row, "REFUSED", errorText(error));
        }
        return this.advance(row, signal, policy);
    }

    /** The key is known: nothing new is filed under it, whatever the message says. */
    private async again(known: Row, filing: Filing, signal?: AbortSignal): Promise<FilingResult> {
        const egMWh = filing.kind === "report" ? filing.report.figures.egMWh : parseProject(filing.payload).yearlyMWh;
        if (known.computed.egMWh !== egMWh) {
            return resultOf(known, "REFUSED", "There is a document with this key and other figures already: a period is claimed once. Late data go into the next report.");
        }
        if (known.state !== "filed") return this.advance(known, signal);
        return { ...(await this.follow(known, signal)), state: "ALREADY" };
    }

    /** One step of a row that is not filed: looks for it, and sends it where it is certain that it is not there. */
    private async advance(row: Row, signal?: AbortSignal, policy?: Policy): Promise<FilingResult> {
        try {
            const found = await this.look(row, signal);
            if (found.length > 0) return await this.readBack(row, found, signal, row.attempts === 0);
            if (row.state === "jammed") return resultOf(row, "JAMMED");
            if (row.state === "sent" && !this.isSettled(row)) return resultOf(row, "UNKNOWN");
            // It shows the form too: no chain of this account is under way.
            const agreed = policy ?? (await readPolicy(this.client, this.settings.policyId, signal, this.settings.fingerprint));
            if (row.simulated && this.client.simulated !== true) throw new WattError("GUARDIAN_SIMULATED", `The document ${SIMULATED}`);
            if (row.state === "sent") this.filings.update(Object.assign(row, { state: "new", reason: "" }));
            return await this.send(row, agreed, signal);
        } catch (error) {
            return this.failed(row, error);
        }
    }

    /** True when an attempt had its time, and two looks far apart did not find what it was for. */
    private isSettled(row: Row): boolean {
        const now = this.clock.now();
        if (now - row.lastAttemptMs < this.times.settleMs) return false;
        if (row.absentMs === 0) this.filings.update(Object.assign(row, { absentMs: now, reason: "Not found at Guardian; looked for once more before it is sent again." }));
        return now - row.absentMs >= this.times.confirmMs;
    }

    private async send(row: Row, policy: Policy, signal?: AbortSignal): Promise<FilingResult> {
        const form = row.kind === "project" ? policy.projectForm : policy.reportForm;
        const { ok, violations } = preflight(row.document, form.schema, this.settings.rounding);
        if (!ok) return this.refuse(row, `The policy's form has changed: ${violations.map(({ path, problem }) => `${path} ${problem}`).join("; ")}`);
        if (!this.filings.attempt(row, this.clock.now())) return resultOf(row, "UNKNOWN", "Another node is filing it.");
        let isTaken = false;
        try {
            await this.client.act(policy.id, formTag(row), { document: row.document, ref: row.ref }, signal);
            isTaken = true;
        } catch (error) {
            if (!mayHaveActed(error)) {
                this.filings.update(Object.assign(row, { state: "new", reason: errorText(error) }));
                throw error;
            }
            this.filings.update(Object.assign(row, { reason: `Sent, and the answer is lost: ${errorText(error)}` }));
        }
        return this.await(row, isTaken, signal);
    }

    /** Looks until it is there; what Guardian took and does not show is stuck where the form is gone, else unknown. */
    private async await(row: Row, isTaken: boolean, signal?: AbortSignal): Promise<FilingResult> {
        const deadline = this.clock.monotonic() + this.times.readBackMs;
        const waits = this.times.pollMs;
        for (let wait = waits[0]; ; wait = Math.min(wait * 2, waits[1])) {
            const found = await this.look(row, signal).catch((error: unknown) => {
                if (signal?.aborted) throw error;
                return [];
            });
            if (found.length > 0) return this.readBack(row, found, signal, false);
            if (this.clock.monotonic() >= deadline) break;
            await this.clock.sleep(wait, signal);
        }
        if (isTaken && (await this.isFormGone(row, signal))) {
            const reason = "Guardian took the document and does not go on with it: its calculation has failed and the form is stuck for this account. The registry must restart the policy's step; then send the document again with msg.retry.";
            this.filings.update(Object.assign(row, { state: "jammed", reason }));
            return resultOf(row, "JAMMED");
        }
        if (row.reason === "") this.filings.update(Object.assign(row, { reason: "Sent, and not seen at Guardian yet." }));
        return resultOf(row, "UNKNOWN");
    }

    private async isFormGone(row: Row, signal?: AbortSignal): Promise<boolean> {
        try {
            await this.client.block(this.settings.policyId, formTag(row), signal);
            return false;
        } catch (error) {
            return errorCode(error) === "GUARDIAN_UNAVAILABLE";
        }
    }

    /** Documents of that key that Guardian shows. */
    private async look(row: Row, signal?: AbortSignal): Promise<GridDocument[]> {
        if (row.kind === "report") await this.clearFilter(row, signal);
        const grid = await this.client.grid(this.settings.policyId, row.kind === "project" ? TAGS.projects : TAGS.reports, signal);
        return grid.filter((found) => found.type === row.kind && keyOf(subjectOf(found)) === row.key);
    }

    /** The grid's dropdown is kept for the user: set to another project, it would hide what is there. */
    private async clearFilter(row: Row, signal?: AbortSignal): Promise<void> {
        const chosen = async () => (await this.client.block(this.settings.policyId, TAGS.filter, signal))["filterValue"] ?? null;
        const before = await chosen();
        if (before === null || before === row.ref) return;
        await this.client.act(this.settings.policyId, TAGS.filter, { filterValue: row.ref }, signal).catch((error: unknown) => {
            if (errorCode(error) !== "GUARDIAN_UNAVAILABLE") throw error;
        });
        if ((await chosen()) !== row.ref) throw new WattError("GUARDIAN_FILTER", "The list of reports is filtered by another project, so it cannot be seen what is filed: clear the choice in Guardian.");
    }

    private async readBack(row: Row, found: GridDocument[], signal: AbortSignal | undefined, wasThere: boolean): Promise<FilingResult> {
        const [first, ...more] = found as [GridDocument, ...GridDocument[]];
        const subject = subjectOf(first);
        const differences = compare(row.document, row.computed, subject);
        const reasons = [
            more.length > 0 && `Guardian has ${found.length} documents of this key: have the others rejected.`,
            differences.length > 0 && `Guardian has other figures than were sent: ${differences.map(({ path }) => path).join(", ")}. Have it rejected, and find out why.`,
        ].filter((text) => text !== false);
        const stored = { subject: String(subject["id"]), hash: first.hash ?? "", messageId: first.messageId ?? "" };
        this.filings.update(Object.assign(row, { state: "filed", stored, differences, stage: first.option?.status ?? "", reason: reasons.join(" ") }));
        return this.follow(row, signal).then((result) => ({ ...result, state: wasThere ? "ALREADY" : "FILED" }));
    }

    /** Where registry and verifier are with it, and whether what was minted is what should be. */
    private async follow(row: Row, signal?: AbortSignal): Promise<FilingResult> {
        try {
            const found = await this.look(row, signal);
            const stage = found[0]?.option?.status;
            if (stage !== undefined) row.stage = stage;
            if (NO.has(row.stage)) row.reason = `${row.kind === "project" ? "The registry" : "The verifier"} said no (${row.stage})${found[0]?.option?.comment ? `: ${found[0].option.comment}` : ""}. It is not filed again by itself: ask there what must change.`;
            const tokens = row.kind === "report" ? await tokensOf(this.client, this.settings.policyId, row.key, signal) : [];
            if (tokens.length > 0) {
                // Neither grid ever says so of the report itself.
                row.stage = "Minted";
                row.minted = tokens.reduce((sum, { amount }) => sum + amount, 0);
                row.reason = [row.reason, ...(await reconcile(tokens, row, this.settings.mirror, signal))].filter((text, i, all) => text !== "" && all.indexOf(text) === i).join(" ");
            }
            this.filings.update(row);
            return resultOf(row, "FILED");
        } catch (error) {
            // It is filed whether or not it can be seen now.
            return resultOf(row, "FILED", row.reason || `Filed; where it is now could not be asked: ${errorText(error)}`);
        }
    }

    private check(row: Row, policy: Policy, filing: Filing): Preflight {
        const form = filing.kind === "project" ? policy.projectForm : policy.reportForm;
        const checked = preflight(row.document, form.schema, this.settings.rounding, filing.kind === "report" ? filing.report : undefined);
        if (checked.computed) Object.assign(row, { computed: checked.computed, mint: checked.mint });
        if (row.simulated && this.client.simulated !== true) checked.violations.push({ path: "", problem: SIMULATED });
        return { ...checked, ok: checked.violations.length === 0 };
    }

    /** What decides whether a document was filed before; it does not need the form, which may be stuck. */
    private async identify(filing: Filing, signal?: AbortSignal): Promise<Identity> {
        const { policyId } = this.settings;
        const url = this.client.account.url;
        if (filing.kind === "project") return { url, filing, key: filingKey("project", policyId, parseProject(filing.payload).id) };
        const project = subjectOf(await this.approvedProject(filing.report.project.id, filing.projectRef, signal));
        return { url, filing, project, key: filingKey("report", policyId, String(project["id"]), filing.report.key) };
    }

    /** The validated project of that id, or the one that `ref` names: a report without one is a report of nothing. */
    private async approvedProject(id: string, ref: string | undefined, signal?: AbortSignal): Promise<GridDocument> {
        const grid = await this.client.grid(this.settings.policyId, TAGS.projects, signal);
        const key = filingKey("project", this.settings.policyId, id);
        const approved = grid.filter(({ type, option }) => type === "approved_project" && option?.status === "Validated");
        const found = approved.filter((project) => (ref === undefined || ref === "" ? keyOf(subjectOf(project)) === key : subjectOf(project)["id"] === ref || project.id === ref));
        if (found.length === 1) return found[0] as GridDocument;
        if (found.length > 1) throw new WattError("GUARDIAN_PROJECT", `Guardian has ${found.length} validated projects for "${id}": name the one by its subject id.`);
        throw new WattError("GUARDIAN_PROJECT", `Guardian has no validated project "${id}": file the project first, and wait for the registry to validate it.`);
    }

    private failed(row: Row, error: unknown): FilingResult {
        const code = errorCode(error);
        if (code === "GUARDIAN_REFUSED" && row.state === "new") return this.refuse(row, errorText(error));
        if (code === "GUARDIAN_SIMULATED") return resultOf(row, "REFUSED", errorText(error));
        const state = code === "GUARDIAN_UNAVAILABLE" || row.state === "jammed" ? "JAMMED" : row.state === "new" ? "WAITING" : "UNKNOWN";
        if (row.reason !== errorText(error) && row.state === "new") this.filings.update(Object.assign(row, { reason: errorText(error) }));
        return resultOf(row, state, errorText(error));
    }

    private refuse(row: Row, reason: string): FilingResult {
        this.filings.update(Object.assign(row, { state: "refused", reason }));
        return resultOf(row, "REFUSED");
    }
}

/** Errors before there is a row that are results themselves. */
const SETTLED: Partial<Record<string, FilingState>> = { GUARDIAN_UNAVAILABLE: "JAMMED", GUARDIAN_FACTOR: "REFUSED" };
export const NOTHING: Row["computed"] = { egMWh: 0, factor: 0, baselineT: 0, projectT: 0, leakageT: 0, reductionT: 0 };
export const SIMULATED = "holds simulated data: it goes to the stand-in only, never to a Guardian.";

interface Identity {
    url: string;
    key: string;
    filing: Filing;
    /** Credential subject of the validated project; for reports. */
    project?: Record<string, unknown>;
}

function prepare({ url, key, filing, project = {} }: Identity, { id, isBinding, reportForm }: Policy): Row {
    const top = { key, url, policyId: id, isBinding, state: "new", attempts: 0, lastAttemptMs: 0, absentMs: 0, differences: [], stage: "", reason: "", mint: 0, computed: NOTHING } satisfies Partial<Row>;
    if (filing.kind === "project") {
        const facts = parseProject(filing.payload);
        return { ...top, kind: "project", project: facts.id, simulated: filing.simulated, document: projectDocument(facts, key), ref: null };
    }
    const { report, evidence } = filing;
    return {
        ...top,
        kind: "report",
        project: report.project.id,
        report: { key: report.key, meters: report.meters.map(({ meter }) => meter), fromMs: report.period.fromMs, toMs: report.period.toMs, credits: report.figures.credits },
        simulated: report.simulated,
        document: reportDocument(report, project, reportForm.schema, key, evidence),
        ref: String(project["id"]),
    };
}

function formTag({ kind }: Row): string {
    return kind === "project" ? TAGS.project : TAGS.report;
}

/** A row as nodes send it on. */
export function resultOf(row: Row, state: FilingState, reason = row.reason): FilingResult {
    const { kind, key, project, stage, attempts, computed, mint, minted, stored, differences, document } = row;
    return { state, kind, key, project, reason, stage, attempts, computed, mint, ...(minted !== undefined && { minted }), ...(stored && { stored }), differences, document };
}

/** The first credential subject of a stored document. */
function subjectOf({ document }: GridDocument): Record<string, unknown> {
    const { credentialSubject } = (document ?? {}) as { credentialSubject?: unknown };
    const first: unknown = Array.isArray(credentialSubject) ? credentialSubject[0] : credentialSubject;
    return (first ?? {}) as Record<string, unknown>;
}

