import path from "node:path";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, toError, WattError } from "../common/errors.js";
import { createHttpClient, type HttpClient } from "../common/http.js";
import { STAND_IN_ACCOUNT } from "../common/simulated.js";
import { StateFile } from "../common/statefile.js";
import type { StatusKind } from "../common/status.js";
import { GuardianClient } from "./client.js";
import type { Report } from "../carbon/report.js";
import { ExternalSender, type ExternalPreview, type ExternalSettings } from "./external.js";
import { Filer, NO, type Filing, type FilingResult, type Preview } from "./filer.js";
import { shareFilings, type Filings, type Kind } from "./filings.js";
import { findPolicies, type Candidate } from "./policy.js";
import type { Account } from "./session.js";
import type { Rounding } from "./twin.js";

export interface DeskSettings {
    /** The stand-in needs no account and no agreement: nothing that it is told counts. */
    isStandIn: boolean;
    url: string;
    loginBy: Account["loginBy"];
    username: string;
    password: string;
    tenantId: string;
    policyId: string;
    fingerprint: string;
    rounding: Rounding;
    /** Empty for none. */
    mirrorUrl: string;
}

/** What is not settled is asked about at least this often, and what is filed this often; more often just after a filing, ms. */
const FIRST_MS = 1000;
const OPEN_MS = 60_000;
const FILED_MS = 5 * 60_000;

type Listener = (result: FilingResult) => void;

/** What a node files through: documents of one kind. */
export interface Counter<F> {
    /** What would be filed; nothing is. */
    preview(filing: F, signal: AbortSignal): Promise<Preview | ExternalPreview>;
    /** Files it once. @param again lets it be sent again, once a person has seen to it */
    file(filing: F, signal: AbortSignal, again?: boolean): Promise<FilingResult>;
    /** Hears what becomes of documents, until the returned function is called. Only then is anything sent again by itself. */
    follow(listener: Listener): () => void;
}

/** One account at one policy, for all nodes that file there. */
export class Desk {
    readonly client: GuardianClient;
    /** Hears what a person should know though nothing has failed. */
    onWarning: (text: string) => void = () => undefined;
    private readonly clock: Clock;
    private readonly http: HttpClient;
    private readonly listeners = new Map<Listener, Kind>();
    private readonly senders = new Map<Listener, (signal: AbortSignal) => Promise<ExternalSender>>();
    private readonly shared: { current?: ReturnType<typeof shareFilings> } = {};
    private filer: Promise<Filer> | undefined;
    private readonly waiting = new Set<Promise<unknown>>();
    private readonly ended = new AbortController();
    /** Aborted when something was filed: what becomes of it is asked soon. */
    private filed = new AbortController();

    /** @param folder of what must survive · @param id of the session's file */
    constructor(
        readonly settings: DeskSettings,
        private readonly folder: string,
        id: string,
        clock?: Clock,
    ) {
        this.clock = clock ?? systemClock;
        this.http = createHttpClient();
        this.client = new GuardianClient(accountOf(settings), { http: this.http, file: new StateFile(path.join(folder, `${id}.json`)), clock: this.clock });
    }

    /** What would be filed; nothing is. */
    preview(filing: Filing, signal: AbortSignal): Promise<Preview> {
        return this.track(signal, async (either) => (await this.open(either)).preview(filing, either));
    }

    /** Files it once. @param again lets a jammed one be sent again, once a person has seen to it */
    file(filing: Filing, signal: AbortSignal, again = false): Promise<FilingResult> {
        return this.track(signal, async (either) => {
            const filer = await this.open(either);
            const result = await filer.file(filing, either);
            if (!again || result.state !== "JAMMED") return result;
            filer.release(result.key);
            return filer.file(filing, either);
        }).finally(() => this.filed.abort());
    }

    /** Policies that the account could file to. */
    find(signal: AbortSignal): Promise<Candidate[]> {
        return this.track(signal, (either) => findPolicies(this.client, either));
    }

    /** Where projects or reports are filed by the policy's forms. */
    counter(kind: "project" | "report"): Counter<Filing> {
        return {
            preview: (filing, signal) => this.preview(filing, signal),
            file: (filing, signal, again) => this.file(filing, signal, again),
            follow: (listener) => {
                this.listeners.set(listener, kind);
                return () => void this.listeners.delete(listener);
            },
        };
    }

    /** Where reports go to a policy's external data block. */
    external(settings: ExternalSettings): Counter<Report> {
        let opened: ExternalSender | undefined;
        const sender = async (): Promise<ExternalSender> => (opened ??= new ExternalSender(this.client, await this.filings(), settings, undefined, this.clock));
        return {
            preview: (report, signal) => this.track(signal, async (either) => (await sender()).preview(report, either)),
            file: (report, signal, again) => this.track(signal, async (either) => (await sender()).send(report, either, again)).finally(() => this.filed.abort()),
            follow: (listener) => {
                this.senders.set(listener, sender);
                return () => void this.senders.delete(listener);
            },
        };
    }

    /** Goes on with what is not settled, until aborted. */
    async run(signal: AbortSignal, onError: (error: Error) => void): Promise<void> {
        let told = "";
        for (let wait = FIRST_MS; ; ) {
            const isWoken = await this.clock.sleep(wait, AbortSignal.any([signal, this.filed.signal])).then(
                () => false,
                () => true,
            );
            if (signal.aborted) return;
            if (isWoken) this.filed = new AbortController();
            wait = isWoken ? FIRST_MS : wait * 2;
            if (isWoken || this.listeners.size + this.senders.size === 0) continue;
            try {
                wait = Math.min(wait, await this.track(signal, (either) => this.resume(either)));
                told = "";
            } catch (error) {
                if (!signal.aborted && errorText(error) !== told) onError(toError(error));
                told = errorText(error);
                wait = Math.min(wait, OPEN_MS);
            }
        }
    }

    /** Gives up what is under way; what is written down stays. */
    async close(): Promise<void> {
        this.ended.abort();
        this.client.close();
        await Promise.allSettled(this.waiting);
        await this.shared.current?.release();
    }

    private async resume(signal: AbortSignal): Promise<number> {
        let isBusy = false;
        for (const [listener, open] of this.senders) {
            const sender = await open(signal);
            for (const result of await sender.resume(signal)) listener(result);
            isBusy ||= sender.isBusy;
        }
        if (this.listeners.size > 0) {
            const filer = await this.open(signal);
            const results = await filer.resume(signal, new Set(this.listeners.values()));
            for (const result of results) for (const [listener, kind] of this.listeners) if (kind === result.kind) listener(result);
            isBusy ||= filer.isBusy;
        }
        return isBusy ? OPEN_MS : FILED_MS;
    }

    private open(signal: AbortSignal): Promise<Filer> {
        this.filer ??= this.openNow(signal).catch((error: unknown) => {
            // Asked again next time: the other end may come up.
            this.filer = undefined;
            throw error;
        });
        return this.filer;
    }

    private async openNow(signal: AbortSignal): Promise<Filer> {
        const { isStandIn, rounding, mirrorUrl } = this.settings;
        const { policyId, fingerprint } = isStandIn ? await this.standIn(signal) : this.settings;
        if (policyId === "") throw new WattError("GUARDIAN_UNPINNED", "No policy is chosen yet: press Find in the settings of the Guardian node.");
        const mirror = mirrorUrl === "" ? undefined : { url: mirrorUrl.replace(/\/$/, ""), http: this.http };
        return new Filer(this.client, await this.filings(), { policyId, fingerprint, rounding, ...(mirror && { mirror }) }, undefined, this.clock);
    }

    /** What is written down of all filings. */
    private async filings(): Promise<Filings> {
        const isFirst = this.shared.current === undefined;
        const shared = (this.shared.current ??= shareFilings(this.folder));
        const filings = await shared.filings.catch(async (error: unknown) => {
            // Of those who wait for it together, one gives it back.
            if (this.shared.current === shared) {
                delete this.shared.current;
                await shared.release();
            }
            throw error;
        });
        if (isFirst && filings.setAside !== undefined) this.onWarning(`The list of what was filed was damaged and is set aside as ${path.basename(filings.setAside)}: Guardian is asked before anything is filed, but claims of earlier periods are no longer known here.`);
        return filings;
    }

    private async standIn(signal: AbortSignal): Promise<{ policyId: string; fingerprint: string }> {
        const [found] = await findPolicies(this.client, signal);
        if (this.client.simulated !== true) throw new WattError("GUARDIAN_NOT_SIMULATED", "The address is that of a real Guardian, not of the stand-in: choose Guardian as server, with its account.");
        if (found?.fingerprint === undefined) throw new WattError("GUARDIAN_POLICY", found?.problem ?? "The stand-in has no policy.");
        return { policyId: found.id, fingerprint: found.fingerprint };
    }

    private track<T>(signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
        const task = work(AbortSignal.any([signal, this.ended.signal]));
        const settled = task.catch(() => undefined).finally(() => this.waiting.delete(settled));
        this.waiting.add(settled);
        return task;
    }
}

/** The account that the settings name. */
export function accountOf({ isStandIn, url, loginBy, username, password, tenantId }: DeskSettings): Account {
    const base = url.replace(/\/+$/, "");
    if (isStandIn) return { url: base, loginBy: "username", ...STAND_IN_ACCOUNT };
    return { url: base, loginBy, username, password, ...(tenantId !== "" && { tenantId }) };
}

/** Colour and words for what became of a filing. */
export function statusOf({ state, stage, reason, differences }: FilingResult): [StatusKind, string] {
    if (state === "FILED" || state === "ALREADY") {
        if (differences.length > 0) return ["error", "filed, but differs"];
        if (NO.has(stage)) return ["error", stage.toLowerCase()];
        return [reason === "" ? "ok" : "warn", (stage || "filed").toLowerCase().replace("waiting for ", "awaits ")];
    }
    if (state === "REFUSED" || state === "JAMMED") return ["error", state.toLowerCase()];
    return ["warn", state === "UNKNOWN" ? "sent, not seen yet" : "waiting to send"];
}

/** The same for a dry run. */
export function previewStatus(preview: Preview | ExternalPreview): [StatusKind, string] {
    if (!preview.ok) return ["error", "dry run: refused"];
    return ["idle", preview.kind === "external" ? "dry run: signed" : `dry run: ${preview.mint} t`];
}

/** What failed before there was a result. */
export function errorStatus(error: unknown): [StatusKind, string] {
    const words: Record<string, string> = {
        CONFIG_INVALID: "message not valid",
        GUARDIAN_LOGIN: "login refused",
        GUARDIAN_MFA: "second factor asked",
        GUARDIAN_TERMS: "accept the terms",
        GUARDIAN_PASSWORD: "change the password",
        GUARDIAN_DRIFT: "policy has changed",
        GUARDIAN_UNPINNED: "choose a policy",
        GUARDIAN_FORBIDDEN: "not permitted",
        GUARDIAN_GARBAGE: "is no Guardian",
        GUARDIAN_NOT_FOUND: "not at Guardian",
        GUARDIAN_POLICY: "not AMS-I.D",
        GUARDIAN_FILTER: "clear the filter",
        GUARDIAN_NOT_SIMULATED: "a real Guardian",
        GUARDIAN_PROJECT: "no valid project",
        GUARDIAN_UNAVAILABLE: "step not offered",
    };
    const code = errorCode(error) ?? "";
    if (code === "GUARDIAN_BUSY" || code.startsWith("HTTP_")) return ["warn", "no answer yet"];
    return ["error", words[code] ?? "failed"];
}
