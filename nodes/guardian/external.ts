import type { Report } from "../carbon/report.js";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";
import { Turns } from "../common/turns.js";
import { mayHaveActed } from "./answer.js";
import type { GridDocument, GuardianClient } from "./client.js";
import { ambiguous, fieldsOf, signCredential, type Credential, type MrvConfig } from "./credential.js";
import { filingKey } from "./document.js";
import { NOTHING, resultOf, SIMULATED, TIMES, type FilerTimes, type FilingResult } from "./filer.js";
import type { Filings, Row } from "./filings.js";
import { ALIVE, isAmsId } from "./policy.js";
import { same, type Violation } from "./schema.js";
import { at } from "./twin.js";

export interface ExternalSettings {
    /** Who signs for which policy. */
    config: MrvConfig;
    /** Texts of the policy's fields, with parts of the report in braces: `{figures.egMWh}`. */
    fields: Record<string, string>;
    /** Tag of the external data block; empty leaves it to Guardian to find the blocks by the policy's tag. */
    blockTag: string;
    /** Tag of a grid that shows what arrived; without it nothing can be read back. */
    gridTag: string;
}

/** What a dry run shows; nothing is sent. */
export interface ExternalPreview {
    ok: boolean;
    kind: "external";
    key: string;
    project: string;
    violations: Violation[];
    /** What is true of the way itself, whatever is sent. */
    reason: string;
    /** The signed credential; absent where it must not be signed. */
    document?: Credential;
}

const SENT = "Sent. /external says yes to whatever it is given, so this proves nothing";
const UNSEEN = `${SENT}, and no grid is set to read it back: look in Guardian whether it is there. It is not sent again by itself.`;
const UNSEEN_IN_GRID = `${SENT}, and the grid does not show it: the policy dropped it, hides it, or is not done. It is not sent again by itself: look in Guardian, then send msg.retry.`;
/** Guardian's own mark of a stored document whose signature or schema it found wrong. */
const INVALID = 2;

/**
 * The compatibility mode for policies with an external data block. Its endpoint asks for no account, knows no duplicates, and answers
 * before anything is done; so a document is sent at most once by itself, and is filed only when a grid shows it.
 */
export class ExternalSender {
    private readonly clock: Clock;
    private readonly turns = new Turns();

    constructor(
        private readonly client: GuardianClient,
        private readonly filings: Filings,
        private readonly settings: ExternalSettings,
        private readonly times: FilerTimes = TIMES,
        clock?: Clock,
    ) {
        this.clock = clock ?? systemClock;
    }

    /** The signed credential, and what speaks against sending it. @throws GuardianError, HttpError */
    async preview(report: Report, signal?: AbortSignal): Promise<ExternalPreview> {
        const { key, violations, reason, document } = await this.prepare(report, signal);
        return { ok: violations.length === 0, kind: "external", key, project: report.project.id, violations, reason, ...(document && { document }) };
    }

    /**
     * Sends it once, or says what has become of it before.
     * @param again a person has seen that it is not at Guardian, and wants it sent once more
     * @throws WattError, GuardianError, HttpError before anything was sent
     */
    send(report: Report, signal?: AbortSignal, again = false): Promise<FilingResult> {
        return this.turns.take(() => this.take(report, signal, again));
    }

    /** From here on the row remembers it, or it is refused; what throws is kept for later. */
    private async take(report: Report, signal?: AbortSignal, again = false): Promise<FilingResult> {
        const id = JSON.stringify([this.url, "external", this.settings.config.policyId, report.key]);
        this.filings.keep(id, this.url, this.inbox, report);
        const result = await this.sendNow(report, signal, again);
        this.filings.forget(id);
        return result;
    }

    private async sendNow(report: Report, signal?: AbortSignal, again = false): Promise<FilingResult> {
        const { key, violations, document, row } = await this.prepare(report, signal);
        const known = this.filings.get(key);
        if (known && known.state !== "refused") return this.goOn(known, document, again, signal);
        if (violations.length > 0 || !row) return resultOf(row ?? empty(key, report), "REFUSED", violations.map(({ path, problem }) => `${path || "The report"} ${problem}`).join("; "));
        try {
            this.filings.begin(row);
        } catch (error) {
            if (errorCode(error) !== "GUARDIAN_CLAIMED") throw error;
            return resultOf(row, "REFUSED", errorText(error));
        }
        return this.advance(row, signal);
    }

    /** Sends what could not be sent, looks for what was: after a restart or an outage. What was sent is never sent again here. */
    resume(signal?: AbortSignal): Promise<FilingResult[]> {
        return this.turns.take(async () => {
            const results: FilingResult[] = [];
            let grid: Promise<GridDocument[]> | undefined;
            for (const row of this.rows()) {
                if (signal?.aborted) break;
                if (row.state === "refused" || (row.state !== "new" && this.settings.gridTag === "")) continue;
                const before = JSON.stringify(row);
                const result = row.state === "new" ? await this.advance(row, signal) : await this.lookFor(row, (grid ??= this.grid(signal)), false);
                if (JSON.stringify(this.filings.get(row.key)) !== before) results.push(result);
            }
            for (const { content } of this.filings.kept(this.url, this.inbox)) {
                if (signal?.aborted) break;
                // What still keeps it from being sent was told when it was asked for.
                const result = await this.take(content as Report, signal).catch(() => undefined);
                if (result) results.push(result);
            }
            return results;
        });
    }

    /** True while something is not settled that can be. */
    get isBusy(): boolean {
        return this.rows().some(({ state }) => state === "new" || (state === "sent" && this.settings.gridTag !== "")) || this.filings.kept(this.url, this.inbox).length > 0;
    }

    private get url(): string {
        return this.client.account.url;
    }

    /** Kept apart from what goes to a policy's forms. */
    private get inbox(): string {
        return `external ${this.settings.config.policyId}`;
    }

    private rows(): Row[] {
        return this.filings.all(this.url).filter(({ kind, policyId }) => kind === "external" && policyId === this.settings.config.policyId);
    }

    private async goOn(known: Row, document: Credential | undefined, again: boolean, signal?: AbortSignal): Promise<FilingResult> {
        if (document && !same(known.document["credentialSubject"], document.credentialSubject)) {
            return resultOf(known, "REFUSED", "This report was sent with other values already: a period is claimed once.");
        }
        if (known.state === "new") return this.advance(known, signal);
        const found = await this.lookFor(known, this.grid(signal), true);
        if (found.state !== "UNKNOWN" || !again) return found;
        this.filings.update(Object.assign(known, { state: "new", reason: "" }));
        return this.advance(known, signal);
    }

    /** Posts a row that was not sent. */
    private async advance(row: Row, signal?: AbortSignal): Promise<FilingResult> {
        const { config, blockTag } = this.settings;
        try {
            const before = findIn(await this.grid(signal), row);
            if (before) return this.readBack(row, before, true);
        } catch (error) {
            this.filings.update(Object.assign(row, { reason: `Not sent: the grid cannot be asked whether it is there already. ${errorText(error)}` }));
            return resultOf(row, "WAITING");
        }
        if (row.simulated && this.client.simulated !== true) return resultOf(row, "REFUSED", `The report ${SIMULATED}`);
        if (!this.filings.attempt(row, this.clock.now())) return resultOf(row, "UNKNOWN", "Another node is sending it.");
        const body = { owner: config.owner, policyTag: config.policyTag, document: row.document, ...(config.ref !== undefined && { ref: config.ref }) };
        try {
            await this.client.external(blockTag === "" ? undefined : { policyId: row.policyId, blockTag }, body, signal);
        } catch (error) {
            const isRefused = ["GUARDIAN_REFUSED", "GUARDIAN_NOT_FOUND"].includes(errorCode(error) ?? "");
            if (!mayHaveActed(error)) {
                this.filings.update(Object.assign(row, { state: isRefused ? "refused" : "new", reason: errorText(error) }));
                return resultOf(row, isRefused ? "REFUSED" : "WAITING");
            }
            this.filings.update(Object.assign(row, { reason: `${errorText(error)} Whether it arrived is not known.` }));
        }
        const deadline = this.clock.monotonic() + this.times.readBackMs;
        for (let wait = this.times.pollMs[0]; ; wait = Math.min(wait * 2, this.times.pollMs[1])) {
            const result = await this.lookFor(row, this.grid(signal), false);
            if (result.state === "FILED" || this.settings.gridTag === "" || this.clock.monotonic() >= deadline) return result;
            await this.clock.sleep(wait, signal);
        }
    }

    /** What has become of a row that was sent. */
    private async lookFor(row: Row, grid: Promise<GridDocument[]>, wasAsked: boolean): Promise<FilingResult> {
        let reason = this.settings.gridTag === "" ? UNSEEN : UNSEEN_IN_GRID;
        try {
            const found = findIn(await grid, row);
            if (found) return this.readBack(row, found, wasAsked && row.state === "filed");
        } catch (error) {
            reason = `${SENT}; the grid could not be asked: ${errorText(error)}`;
        }
        if (row.state === "filed") return resultOf(row, wasAsked ? "ALREADY" : "FILED");
        if (row.reason === "") this.filings.update(Object.assign(row, { reason }));
        return resultOf(row, "UNKNOWN", row.reason === "" ? reason : row.reason);
    }

    private async grid(signal?: AbortSignal): Promise<GridDocument[]> {
        const { gridTag, config } = this.settings;
        return gridTag === "" ? [] : this.client.grid(config.policyId, gridTag, signal);
    }

    private readBack(row: Row, found: GridDocument, wasThere: boolean): FilingResult {
        const stored = found.document ?? {};
        // What an earlier installation sent bears the time of its signature.
        const differences = ["issuer", "credentialSubject", ...(row.attempts > 0 ? ["issuanceDate", "proof"] : [])]
            .filter((path) => !same(row.document[path], stored[path]))
            .map((path) => ({ path, sent: row.document[path], stored: stored[path] }));
        const reason = found["signature"] === INVALID ? "Guardian keeps it as one with a wrong signature or form: the policy will not count it. Check that the MRV configuration and the fields are those of the policy." : "";
        this.filings.update(
            Object.assign(row, {
                state: "filed",
                stored: { subject: String(stored["id"]), hash: found.hash ?? "", messageId: found.messageId ?? "" },
                differences,
                stage: found.option?.status ?? "",
                reason: differences.length > 0 ? `Guardian has something else than was sent: ${differences.map(({ path }) => path).join(", ")}.` : reason,
            }),
        );
        return resultOf(row, wasThere ? "ALREADY" : "FILED");
    }

    private async prepare(report: Report, signal?: AbortSignal): Promise<{ key: string; violations: Violation[]; reason: string; document?: Credential; row?: Row }> {
        const { config, blockTag, gridTag } = this.settings;
        const { policyId, policyTag } = config;
        const key = filingKey("external", policyId, report.key);
        const summary = await this.client.policy(policyId, signal);
        const violations: Violation[] = [];
        const say = (problem: string, path = "") => void violations.push({ path, problem });
        if (!ALIVE.has(String(summary.status))) say(`takes no documents: its status is ${String(summary.status)}`, "The policy");
        if (summary.policyTag !== policyTag) say(`is not the one that the MRV configuration is of: its tag is ${String(summary.policyTag)}`, "The policy");
        if (await isAmsId(this.client, policyId, signal)) say("takes reports by its form, and drops what comes to /external without a word: use guardian-report", "The policy");
        else if (blockTag !== "") await this.checkBlock(policyId, blockTag, say, signal);
        if (!report.ready) say(`is not ready: ${report.refusals.map(({ text }) => text).join(" ")}`);
        if (report.simulated && this.client.simulated !== true) say(SIMULATED);
        const values = this.valuesOf(report, say);
        const unclear = values ? ambiguous(config, Object.keys(values)) : [];
        const reason = [
            gridTag === "" && "Whether it arrives cannot be proved: no grid is set to read it back.",
            unclear.length > 0 && `The policy's schema gives ${unclear.join(", ")} one meaning: the signature does not say which value is whose.`,
        ].filter((part) => part !== false);
        const top = { key, violations, reason: reason.join(" ") };
        // Simulated data never get the signature of a real device.
        if (!values || (report.simulated && this.client.simulated !== true)) return top;
        const known = this.filings.get(key)?.document["issuanceDate"];
        const issuedMs = typeof known === "string" ? Date.parse(known) : this.clock.now();
        const document = signCredential(config, { id: `urn:uuid:${uuidOf(key)}`, issuedMs, values });
        const row: Row = { ...empty(key, report), url: this.url, policyId, isBinding: summary.status === "PUBLISH" && this.client.simulated !== true, document, ref: config.ref ?? null };
        return { ...top, document, row };
    }

    /** The origin of many a lost report: a tag that is there, and is a form. */
    private async checkBlock(policyId: string, tag: string, say: (problem: string, path: string) => void, signal?: AbortSignal): Promise<void> {
        if (!(await this.client.hasTag(policyId, tag, signal))) return say("is not in the policy", `The block ${tag}`);
        const { blockType } = await this.client.block(policyId, tag, signal).catch((error: unknown) => {
            // An external data block shows nothing to anyone.
            if (["GUARDIAN_UNAVAILABLE", "GUARDIAN_BUSY", "GUARDIAN_GARBAGE"].includes(errorCode(error) ?? "")) return { blockType: undefined };
            throw error;
        });
        if (typeof blockType === "string" && blockType !== "externalDataBlock") say(`is a ${blockType}, which never hears what comes to /external`, `The block ${tag}`);
    }

    private valuesOf(report: Report, say: (problem: string, path: string) => void): Record<string, string> | undefined {
        const { config, fields } = this.settings;
        const values: Record<string, string> = {};
        let isWhole = true;
        for (const [name, template] of Object.entries(fields)) {
            values[name] = template.replace(/\{([\w.]+)\}/g, (whole, path: string) => {
                const value = at(report, path);
                if (typeof value === "string" || typeof value === "boolean" || (typeof value === "number" && Number.isFinite(value))) return String(value);
                isWhole = false;
                say(`asks for ${whole}, which the report does not have`, name);
                return "";
            });
        }
        for (const name of fieldsOf(config)) {
            if (name in values || ["policyId", "accountId", "ref", "id", "guardianVersion"].includes(name)) continue;
            say("is a field of the policy's schema and has no value", name);
        }
        try {
            ambiguous(config, Object.keys(values));
            return isWhole ? values : undefined;
        } catch (error) {
            say(errorText(error), "The document:");
            return undefined;
        }
    }
}

function findIn(grid: GridDocument[], row: Row): GridDocument | undefined {
    return grid.find(({ document }) => document?.["id"] === row.document["id"]);
}

function empty(key: string, report: Report): Row {
    const { period, meters, figures, project, simulated } = report;
    const claim = { key: report.key, meters: meters.map(({ meter }) => meter), fromMs: period.fromMs, toMs: period.toMs, credits: figures.credits };
    const top = { kind: "external", url: "", policyId: "", isBinding: false, document: {}, ref: null, computed: NOTHING, mint: 0 } as const;
    return { ...top, key, project: project.id, report: claim, simulated, state: "new", attempts: 0, lastAttemptMs: 0, absentMs: 0, differences: [], stage: "", reason: "" };
}

/** Of custom make (RFC 9562 §5.8): the same document has the same id, by which it is found again. */
function uuidOf(key: string): string {
    return `${key.slice(0, 8)}-${key.slice(8, 12)}-8${key.slice(13, 16)}-a${key.slice(17, 20)}-${key.slice(20, 32)}`;
}

/** @throws WattError CONFIG_INVALID */
export function parseFields(text: string): Record<string, string> {
    let fields: unknown;
    try {
        fields = JSON.parse(text);
    } catch {
        fields = undefined;
    }
    if (isObject(fields) && Object.keys(fields).length > 0 && Object.values(fields).every((value) => typeof value === "string")) return fields as Record<string, string>;
    throw new WattError("CONFIG_INVALID", 'Check the settings: fields must be a JSON object of texts, such as {"field0": "{period.to}", "field1": "{figures.egMWh}"}.');
}
