import { Backoff } from "../common/backoff.js";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode } from "../common/errors.js";
import type { HttpClient, HttpResponse } from "../common/http.js";
import { SIMULATED_HEADER } from "../common/simulated.js";
import { Turns } from "../common/turns.js";
import { GuardianError, mayHaveActed, readAnswer, unavailable } from "./answer.js";
import { Session, type Account, type SessionFile, type SessionState } from "./session.js";

export interface ClientOptions {
    http: HttpClient;
    file?: SessionFile;
    clock?: Clock;
    random?: () => number;
    /** The whole exchange; Guardian's own proxies wait 60 s, ms. */
    timeoutMs?: number;
}

/** A policy of the list; more is in it than is named here. */
export interface PolicySummary {
    id: string;
    name?: string;
    status?: string;
    version?: string;
    policyTag?: string;
    topicId?: string;
    userRole?: string;
    userRoles?: string[];
    tools?: unknown;
    [key: string]: unknown;
}

/** Attempts of a read; what acts is sent once. */
const READS = 4;
const MAX_PAGES = 50;
const PAGE = 100;
/** Grids hold whole documents. */
const MAX_BYTES = 32 * 1024 * 1024;

/** One account of one Guardian. Requests go one at a time, in order. */
export class GuardianClient {
    readonly session: Session;
    /** True while every answer declared itself that of the stand-in; undefined before the first. */
    simulated: boolean | undefined;
    private readonly clock: Clock;
    private readonly life = new AbortController();
    private readonly turns = new Turns();

    constructor(
        readonly account: Account,
        private readonly options: ClientOptions,
    ) {
        this.clock = options.clock ?? systemClock;
        this.session = new Session(account, { ...options, onAnswer: this.notice, signal: this.life.signal });
    }

    get sessionState(): SessionState {
        return this.session.state;
    }

    /** Gives up what is under way. */
    close(): void {
        this.life.abort();
        this.options.http.close();
    }

    /** All policies that the account sees, page by page. */
    async policies(signal?: AbortSignal): Promise<PolicySummary[]> {
        const found: PolicySummary[] = [];
        for (let pageIndex = 0; pageIndex < MAX_PAGES; pageIndex++) {
            const { body, headers } = await this.read("/policies", signal, { pageIndex, pageSize: PAGE });
            const page = listOf<PolicySummary>(body);
            found.push(...page);
            if (page.length === 0 || found.length >= Number(headers["x-total-count"] ?? 0)) break;
        }
        return found;
    }

    /** A policy; its `config` is there for its owner only. @throws GuardianError GUARDIAN_NOT_FOUND */
    async policy(id: string, signal?: AbortSignal): Promise<PolicySummary> {
        return objectOf((await this.read(`/policies/${encodeURIComponent(id)}`, signal)).body) as PolicySummary;
    }

    /** True when the policy has a block of that tag, available or not. */
    async hasTag(policyId: string, tag: string, signal?: AbortSignal): Promise<boolean> {
        try {
            const { body } = await this.read(`/policies/${encodeURIComponent(policyId)}/tag/${encodeURIComponent(tag)}`, signal);
            return typeof (body as { id?: unknown } | null)?.id === "string";
        } catch (error) {
            if (errorCode(error) === "GUARDIAN_NOT_FOUND") return false;
            throw error;
        }
    }

    /** What the block shows this user now. @throws GuardianError GUARDIAN_UNAVAILABLE where the step is another */
    async block(policyId: string, tag: string, signal?: AbortSignal): Promise<Record<string, unknown>> {
        return objectOf((await this.read(blockPath(policyId, tag), signal)).body, unavailable);
    }

    /** The documents of a grid. @throws GuardianError GUARDIAN_UNAVAILABLE, GUARDIAN_GARBAGE */
    async grid(policyId: string, tag: string, signal?: AbortSignal): Promise<GridDocument[]> {
        const { data } = await this.block(policyId, tag, signal);
        return listOf<GridDocument>(data);
    }

    /**
     * Acts on a block, once: it is never repeated but after a 401, which comes before anything is done.
     * @throws GuardianError, HttpError; `mayHaveActed` says whether Guardian may have carried it out
     */
    async act(policyId: string, tag: string, body: object, signal?: AbortSignal): Promise<unknown> {
        const { body: answer } = await this.send("POST", blockPath(policyId, tag), { body, signal });
        // Up to 2.25 a block that is not available answers 200 with null.
        if (answer === null) throw unavailable();
        return answer;
    }

    /** Hands a document to /external, once. Whatever it answers says nothing of the document. @throws GuardianError, HttpError */
    async external(block: { policyId: string; blockTag: string } | undefined, body: object, signal?: AbortSignal): Promise<void> {
        const path = block ? `/external/${encodeURIComponent(block.policyId)}/${encodeURIComponent(block.blockTag)}` : "/external";
        await this.send("POST", path, { body, signal });
    }

    /** Asks again after an outage, with backoff. */
    private async read(path: string, signal?: AbortSignal, query?: Record<string, string | number>): Promise<{ body: unknown; headers: Record<string, string> }> {
        const backoff = new Backoff({ base: 500, cap: 10_000, ...(this.options.random && { random: this.options.random }) });
        for (let attempt = 1; ; attempt++) {
            try {
                return await this.send("GET", path, { signal, ...(query && { query }) });
            } catch (error) {
                const { afterMs = 0 } = error as { afterMs?: number };
                if (attempt === READS || signal?.aborted || this.life.signal.aborted || afterMs > 30_000 || !isPassing(error)) throw error;
                await this.clock.sleep(Math.max(afterMs, backoff.next()), signal);
            }
        }
    }

    /** Waits its turn. */
    private send(method: "GET" | "POST", path: string, parts: Parts): Promise<{ body: unknown; headers: Record<string, string> }> {
        return this.turns.take(() => this.exchange(method, path, parts));
    }

    private async exchange(method: "GET" | "POST", path: string, { signal, ...parts }: Parts): Promise<{ body: unknown; headers: Record<string, string> }> {
        for (let isFirst = true; ; isFirst = false) {
            const token = await this.token();
            if (signal?.aborted || this.life.signal.aborted) throw new GuardianError("GUARDIAN_BUSY", "The request was given up before it was sent.");
            const response = await this.options.http.request({
                method,
                url: this.account.url + path,
                headers: { Authorization: `Bearer ${token}`, ...(method === "POST" && { "Content-Type": "application/json" }) },
                timeoutMs: this.options.timeoutMs ?? 60_000,
                maxBytes: MAX_BYTES,
                ...parts,
                signal: signal ? AbortSignal.any([signal, this.life.signal]) : this.life.signal,
            });
            this.notice(response);
            if (response.status === 401) this.session.reject(token);
            if (response.status === 401 && isFirst) continue;
            return { body: readAnswer(response, this.clock.now()), headers: response.headers };
        }
    }

    /** What fails before the request is sent has done nothing, whatever it was. */
    private async token(): Promise<string> {
        try {
            return await this.session.token();
        } catch (cause) {
            if (!mayHaveActed(cause)) throw cause;
            const { code = "GUARDIAN_BUSY", message } = cause as { code?: string; message: string };
            throw new GuardianError(code, message, { cause });
        }
    }

    private readonly notice = (response: HttpResponse): void => {
        this.simulated = this.simulated !== false && response.headers[SIMULATED_HEADER] !== undefined;
    };
}

interface Parts {
    body?: object;
    query?: Record<string, string | number>;
    signal?: AbortSignal | undefined;
}

/** A document as grids show it. */
export interface GridDocument {
    id?: string;
    hash?: string;
    messageId?: string;
    type?: string;
    owner?: string;
    option?: { status?: string; comment?: string };
    document?: Record<string, unknown>;
    [key: string]: unknown;
}

function blockPath(policyId: string, tag: string): string {
    return `/policies/${encodeURIComponent(policyId)}/tag/${encodeURIComponent(tag)}/blocks`;
}

function isPassing(error: unknown): boolean {
    const code = errorCode(error);
    return code === "GUARDIAN_BUSY" || code === "HTTP_TIMEOUT" || code === "HTTP_FAILED" || code === "HTTP_UNREACHABLE";
}

function objectOf(body: unknown, absent?: () => GuardianError): Record<string, unknown> {
    if (body === null && absent) throw absent();
    if (typeof body !== "object" || body === null || Array.isArray(body)) throw garbage();
    return body as Record<string, unknown>;
}

function listOf<T>(body: unknown): T[] {
    if (!Array.isArray(body) || body.some((item) => typeof item !== "object" || item === null)) throw garbage();
    return body as T[];
}

function garbage(): GuardianError {
    return new GuardianError("GUARDIAN_GARBAGE", "Guardian's answer has not the form it should: check the address and the version of Guardian.");
}
