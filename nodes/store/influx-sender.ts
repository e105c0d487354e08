import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText } from "../common/errors.js";
import type { HttpClient } from "../common/http.js";
import type { Deliver, Outcome, Rejected, SpoolRecord } from "./delivery.js";
import {
    authorization,
    basicAuth,
    endpoint,
    readAnswer,
    readsAllMembers,
    serverOf,
    suspects,
    unreadable,
    writeRequest,
    type Dialect,
    type InfluxServer,
    type InfluxTarget,
    type Verdict,
} from "./influx-dialect.js";

const unzip = promisify(gunzip);
const zip = promisify(gzip);

export interface SenderOptions {
    http: HttpClient;
    target: InfluxTarget;
    /** One exchange must end within this many ms. */
    timeoutMs?: number;
    clock?: Clock;
    /** Creates the database when the server says it is missing. */
    createDatabase?: (signal: AbortSignal) => Promise<void>;
}

/** A refusal quotes the lines it means, so the answer may be as large as the batch. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
const MAX_REASON_CHARS = 300;
/** Requests spent on an unknown refusal before it is taken to mean the request and not a line: enough to halve any batch to one line. */
const PATIENCE = 40;

/** Ends the search for refused lines early: the outcome concerns the whole delivery. */
class Interrupted extends Error {
    constructor(readonly outcome: Outcome) {
        super(outcome.kind);
    }
}

/** What a search for refused lines has learnt so far. */
interface Search {
    server: InfluxServer;
    signal: AbortSignal;
    stored: number;
    requests: number;
}

/**
 * Delivers spooled line protocol to InfluxDB 1.x, 2.x or 3. Stored gzip members go out as they are; only when a server refuses
 * lines are they opened, and every line ends stored or refused by itself. Sending a line twice stores it once: same series and time.
 */
export class InfluxSender {
    private server: InfluxServer | undefined;
    private readonly secrets: string[];
    private readonly clock: Clock;
    private readonly timeoutMs: number;

    constructor(private readonly options: SenderOptions) {
        const { token, password, username } = options.target;
        const basic = username && password ? basicAuth(username, password).slice("Basic ".length) : undefined;
        this.secrets = [token, password, basic].filter((secret) => secret !== undefined && secret !== "") as string[];
        this.clock = options.clock ?? systemClock;
        this.timeoutMs = options.timeoutMs ?? 30_000;
    }

    readonly deliver: Deliver = async (records, signal) => {
        const outcome = await this.attempt(records, signal).catch((error: unknown) => (error instanceof Interrupted ? error.outcome : failure(error)));
        // Whoever mends it may put another server in its place.
        if (outcome.kind === "pause") this.server = undefined;
        return this.presentable(outcome);
    };

    /** Asks the server who it is and whether a write would be let in, writing nothing; for the dialog's Test button. */
    async check(signal: AbortSignal): Promise<Outcome & { server?: InfluxServer }> {
        try {
            this.server = undefined;
            const server = await this.identify(signal);
            const verdict = await this.post(server, Buffer.alloc(0), signal);
            const outcome: Outcome = this.canCreate(verdict, server) ? { kind: "delivered" } : checked(verdict);
            return { ...this.presentable(outcome), server };
        } catch (error) {
            return this.presentable(error instanceof Interrupted ? error.outcome : failure(error));
        }
    }

    private async attempt(records: SpoolRecord[], signal: AbortSignal): Promise<Outcome> {
        const server = await this.identify(signal);
        const members = Buffer.concat(records.map((record) => record.body));
        const single = records.length === 1 || readsAllMembers(server);
        const body = single ? members : await zip(await unzip(members), { level: 1 });
        let verdict = await this.post(server, body, signal);
        if (this.canCreate(verdict, server)) {
            await this.options.createDatabase!(signal);
            verdict = await this.post(server, body, signal);
        }
        if (verdict.kind === "stored") return { kind: "delivered" };
        if (verdict.kind === "pause") return { kind: "pause", reason: verdict.reason };
        if (verdict.kind === "retry" || (verdict.kind === "split" && verdict.certain && records.length > 1)) return verdict;
        const lines = (await unzip(members)).toString().split("\n").filter(Boolean);
        const search: Search = { server, signal, stored: 0, requests: 0 };
        const rejected = await this.settle(lines, verdict, search);
        if (verdict.kind === "refused" && !verdict.certain && search.stored === 0) throw misunderstood(verdict.text);
        return rejected.length > 0 ? { kind: "delivered", rejected } : { kind: "delivered" };
    }

    private canCreate(verdict: Verdict, { dialect }: InfluxServer): boolean {
        return verdict.kind === "pause" && verdict.missing && dialect === 1 && this.options.createDatabase !== undefined;
    }

    private async identify(signal: AbortSignal): Promise<InfluxServer> {
        const { target, http } = this.options;
        if (this.server) return this.server;
        if (target.version !== "auto") return (this.server = { dialect: Number(target.version) as Dialect, version: "" });
        const headers = authorization(target);
        const response = await http.request({ url: endpoint(target, "/ping"), headers, timeoutMs: this.timeoutMs, signal });
        const server = serverOf(response, target);
        if (server) return (this.server = server);
        const verdict = readAnswer(response, 1, target, this.clock.now());
        if (verdict.kind === "retry") throw new Interrupted(verdict);
        const tellsMore = response.status === 401 || response.status === 403 || (response.status >= 300 && response.status < 400);
        if (tellsMore) throw new Interrupted(verdict as Outcome);
        throw notInflux(String(response.status));
    }

    private async post(server: InfluxServer, body: Buffer, signal: AbortSignal): Promise<Verdict> {
        const { target, http } = this.options;
        const { url, query } = writeRequest(target, server.dialect);
        const sent = http.request({
            method: "POST",
            url,
            query,
            headers: {
                ...authorization(target, server.dialect),
                "Content-Type": "text/plain; charset=utf-8",
                ...(body.length > 0 && { "Content-Encoding": "gzip" }),
            },
            body,
            timeoutMs: this.timeoutMs,
            maxBytes: MAX_ANSWER_BYTES,
            signal,
        });
        const response = await sent.catch((error: unknown) => {
            if (errorCode(error) === "HTTP_TOO_LARGE") return errorText(error);
            throw error;
        });
        // A refusal that quotes more lines than we read is shorter for fewer lines; whatever else has no end is no InfluxDB's.
        if (typeof response === "string") return { kind: "split", reason: response, certain: false };
        return readAnswer(response, server.dialect, target, this.clock.now());
    }

    /**
     * Finds the lines that a refusal means. The others are sent again even where the server says it stored them: 2.x stored none
     * when a line was malformed, and 1.x answers for the first shard that refused while others are still writing.
     */
    private async settle(lines: string[], verdict: Verdict, search: Search): Promise<Rejected[]> {
        if (verdict.kind === "stored") {
            search.stored += lines.length;
            return [];
        }
        if (verdict.kind === "retry" || verdict.kind === "pause") throw new Interrupted({ ...verdict });
        if (verdict.kind === "split") {
            if (lines.length === 1 && !verdict.certain) throw notInflux(verdict.reason);
            if (lines.length === 1) return [{ entry: lines[0]!, reason: "larger than the server takes" }];
            return this.sendParts(halves(lines), search);
        }
        if (verdict.lines) {
            search.stored += lines.length - verdict.lines.length;
            return verdict.lines.flatMap(({ line, reason }) => (lines[line - 1] === undefined ? [] : [{ entry: lines[line - 1]!, reason }]));
        }
        if (!verdict.certain && search.stored === 0 && search.requests > PATIENCE) throw misunderstood(verdict.text);
        if (lines.length === 1 || verdict.dropped === lines.length) return lines.map((entry) => ({ entry, reason: verdict.text }));
        const named = unreadable(verdict.text);
        const rejected = lines.flatMap((entry) => (named.has(entry) ? [{ entry, reason: named.get(entry)! }] : []));
        if (rejected.length > 0) {
            return [...rejected, ...(await this.sendParts([lines.filter((line) => !named.has(line))], search))];
        }
        const meant = suspects(lines, verdict.text, verdict.dropped);
        const apart = meant && meant.size > 0 && meant.size < lines.length;
        return this.sendParts(apart ? [lines.filter((line) => !meant.has(line)), [...meant]] : halves(lines), search);
    }

    private async sendParts(parts: string[][], search: Search): Promise<Rejected[]> {
        const rejected: Rejected[] = [];
        for (const part of parts) {
            if (part.length === 0) continue;
            search.requests += 1;
            const verdict = await this.post(search.server, await zip(part.join("\n"), { level: 1 }), search.signal);
            rejected.push(...(await this.settle(part, verdict, search)));
        }
        return rejected;
    }

    /** Short enough for a log, and whatever a server echoes, no secret. */
    private presentable(outcome: Outcome): Outcome {
        const clean = (text: string): string =>
            this.secrets.reduce((rest, secret) => rest.replaceAll(secret, "***"), text).slice(0, MAX_REASON_CHARS);
        if (outcome.kind !== "delivered") return { ...outcome, reason: clean(outcome.reason) };
        if (!outcome.rejected) return outcome;
        return { kind: "delivered", rejected: outcome.rejected.map(({ entry, reason }) => ({ entry, reason: clean(reason) })) };
    }
}

/** An empty write gets as far as the points: a server that misses them has let us in. 3 Core answers so, 1.x and 2.x take it. */
function checked(verdict: Verdict): Outcome {
    if (verdict.kind === "stored" || /was empty/.test("text" in verdict ? verdict.text : verdict.reason)) return { kind: "delivered" };
    return verdict.kind === "refused" ? { kind: "pause", reason: `Write refused: ${verdict.text}` } : verdict;
}

/** What answers at the URL is something else, so that nothing it says concerns the points. */
function notInflux(why: string): Interrupted {
    return new Interrupted({ kind: "pause", reason: `Not InfluxDB (${why}): check the URL, or choose the version in wl-influxdb.` });
}

function misunderstood(text: string): Interrupted {
    return new Interrupted({ kind: "pause", reason: `Points refused: ${text || "InfluxDB gives no reason."}` });
}

function halves(lines: string[]): string[][] {
    const middle = Math.ceil(lines.length / 2);
    return [lines.slice(0, middle), lines.slice(middle)];
}

/** No usable answer: whether it was stored is unknown, and sending again is harmless. */
function failure(error: unknown): Outcome {
    const reason = errorText(error);
    switch (errorCode(error)) {
        case "HTTP_TLS":
            return { kind: "pause", reason: `Certificate refused: ${reason}` };
        case "HTTP_URL":
            return { kind: "pause", reason: `Not a URL: ${reason}` };
        // The database is missing and we may not create it.
        case "INFLUX_REFUSED":
        case "INFLUX_QUERY":
            return { kind: "pause", reason: `No database: ${reason}` };
        case "HTTP_TOO_LARGE":
            return notInflux(reason).outcome;
        default:
            return { kind: "retry", reason };
    }
}
