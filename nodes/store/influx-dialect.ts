import { retryAfterMs, type HttpResponse } from "../common/http.js";

export type Dialect = 1 | 2 | 3;

/** Where points go, and who is asking. */
export interface InfluxTarget {
    /** Base URL; a path in it is kept: a proxy may serve InfluxDB below one. */
    url: string;
    version: "auto" | "1" | "2" | "3";
    /** Database (1.x, 3) or bucket (2.x). */
    database: string;
    /** 2.x only. */
    org: string;
    /** 1.x only; empty means the database's default. */
    retentionPolicy: string;
    username?: string;
    password?: string;
    token?: string;
}

/** What answered: `version` as it names itself, empty when it does not. */
export interface InfluxServer {
    dialect: Dialect;
    version: string;
}

/** What an answer to a write says. */
export type Verdict =
    | { kind: "stored" }
    /** Some lines will never be taken. */
    | {
          kind: "refused";
          /** The whole text of the refusal. */
          text: string;
          /** Lines refused, where the server counts them; its shards count apart, so it may be fewer than all. */
          dropped?: number;
          /** The refused lines by number from 1, where the server gives them; all others are stored. */
          lines?: { line: number; reason: string }[];
          /** False when the text may as well mean the request and not the data. */
          certain: boolean;
      }
    /** `certain` when the server said that it was sent too much; not when its answer was more than we read. */
    | { kind: "split"; reason: string; certain: boolean }
    | { kind: "retry"; reason: string; afterMs?: number }
    | { kind: "pause"; reason: string; missing: boolean };

/** A receiver's Retry-After is followed up to one hour. */
const RETRY_AFTER_CAP_MS = 3_600_000;

export function basicAuth(username: string, password = ""): string {
    return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

/** Headers that identify us; `Token` is understood by 2.x and 3 alike and serves until the dialect is known. */
export function authorization(target: InfluxTarget, dialect?: Dialect): Record<string, string> {
    if (target.token) return { Authorization: `${dialect === 1 || dialect === 3 ? "Bearer" : "Token"} ${target.token}` };
    return target.username ? { Authorization: basicAuth(target.username, target.password) } : {};
}

export function endpoint(target: InfluxTarget, path: string): string {
    return `${target.url.replace(/\/+$/, "")}${path}`;
}

/** URL and query of a write: 1.x HTTP API /write, 2.x /api/v2/write, 3 Core /api/v3/write_lp. Times are in ms everywhere. */
export function writeRequest(target: InfluxTarget, dialect: Dialect): { url: string; query: Record<string, string> } {
    const { database, org, retentionPolicy: rp } = target;
    if (dialect === 1) return { url: endpoint(target, "/write"), query: { db: database, precision: "ms", ...(rp && { rp }) } };
    if (dialect === 2) return { url: endpoint(target, "/api/v2/write"), query: { org, bucket: database, precision: "ms" } };
    return { url: endpoint(target, "/api/v3/write_lp"), query: { db: database, precision: "millisecond", accept_partial: "true" } };
}

/**
 * The server behind an answer to GET /ping: 1.x and 2.x answer 204 and 3 answers 200, all with X-Influxdb-Version; InfluxDB Cloud
 * gives no version. Undefined when it is none of them.
 */
export function serverOf(response: HttpResponse, target: InfluxTarget): InfluxServer | undefined {
    const version = (response.headers["x-influxdb-version"] ?? "").replace(/^v/i, "");
    const major = /^([123])\./.exec(version)?.[1];
    if (major) return { dialect: Number(major) as Dialect, version };
    if (response.status !== 204) return undefined;
    return { dialect: target.token ? 2 : 1, version: "" };
}

/**
 * True where a body of several gzip members is read to its end. InfluxDB 3 before 3.8.0 took the first member and
 * acknowledged all (influxdb3_server http.rs: GzDecoder, MultiGzDecoder since 3.8.0).
 */
export function readsAllMembers({ dialect, version }: InfluxServer): boolean {
    if (dialect !== 3) return true;
    const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
    return major > 3 || (major === 3 && minor >= 8);
}

/** Words that all dialects use for data they will never take, and for nothing else. */
const DATA_FAULT =
    /partial write|unable to parse|field type conflict|dropped=\d|beyond retention|max-(series|values)-per|parsing failed|invalid column type|line protocol|max key length/i;

/** What an answer to a write means (HTTP APIs of 1.8, 2.7 and 3 Core). Reasons to pause begin with a few words for a status. */
export function readAnswer(response: HttpResponse, dialect: Dialect, target: InfluxTarget, nowMs: number): Verdict {
    const { status } = response;
    const { text, data } = errorOf(response.text);
    const pause = (reason: string, missing = false): Verdict => ({ kind: "pause", reason: text ? `${reason} InfluxDB says: ${text}` : reason, missing });
    const what = dialect === 2 ? "Bucket" : "Database";
    const where = `${what.toLowerCase()} "${target.database}"`;
    const who = target.token ? "token" : "login";
    // A captive portal or a proxy's page is a 200 too; a write is acknowledged with no content.
    if (status === 204 || status === 201 || (status === 200 && response.text.trim() === "")) return { kind: "stored" };
    // 3 Core before 3.9 answers 500 to a body beyond its limit (influxdb3_server http.rs, RequestSizeExceeded).
    if (status === 413 || (status === 500 && /max request size/i.test(text))) return { kind: "split", reason: `Too large (${status}).`, certain: true };
    if (status === 400 || status === 422) return refusal(text, data);
    if (status === 401) return pause(`${target.token ? "Token" : "Login"} refused (401): check ${target.token ? "the token" : "user and password"} in wl-influxdb.`);
    if (status === 403) return pause(`No write access (403): give the ${who} write access to ${where}.`);
    if (status === 404) {
        const org = dialect === 2 ? ` in organisation "${target.org}"` : "";
        return pause(`${what} not found (404): create ${where}${org}, or correct its name or the URL in wl-influxdb.`, true);
    }
    if (status === 500 && /retention policy not found/i.test(text)) {
        return pause(`No retention policy: create "${target.retentionPolicy}", or correct it in wl-influxdb.`);
    }
    if ([408, 409, 425, 429].includes(status) || status >= 500) {
        const afterMs = retryAfterMs(response.headers["retry-after"], nowMs, RETRY_AFTER_CAP_MS);
        return { kind: "retry", reason: `InfluxDB answers ${status}. ${text}`.trim(), ...(afterMs !== undefined && { afterMs }) };
    }
    if (status >= 300 && status < 400) return pause(`Redirected (${status}): enter the URL it leads to in wl-influxdb.`);
    return pause(`Not InfluxDB (${status}): check URL and version in wl-influxdb.`);
}

function refusal(text: string, data: unknown): Verdict {
    const lines = Array.isArray(data) ? data.flatMap(lineError) : [];
    const dropped = /dropped=(\d+)/.exec(text)?.[1];
    return {
        kind: "refused",
        text,
        certain: lines.length > 0 || DATA_FAULT.test(text),
        ...(dropped !== undefined && { dropped: Number(dropped) }),
        ...(lines.length > 0 && { lines }),
    };
}

function lineError(item: unknown): { line: number; reason: string }[] {
    const { line_number: line, error_message: reason } = (item ?? {}) as { line_number?: unknown; error_message?: unknown };
    return typeof line === "number" && line >= 1 ? [{ line, reason: String(reason) }] : [];
}

/** 1.x and 3 say `error`, 2.x says `message`; proxies say anything. */
function errorOf(body: string): { text: string; data?: unknown } {
    try {
        const { error, message, data } = JSON.parse(body) as { error?: unknown; message?: unknown; data?: unknown };
        const text = message ?? error;
        if (typeof text === "string") return { text, data };
    } catch {
        // Not JSON: the words themselves.
    }
    return { text: body.trim().startsWith("<") ? "" : body.trim() };
}

/**
 * The lines that a refusal most likely means, by its own words; undefined when they tell nothing. Only a hint where to look:
 * every line not refused by name is sent again.
 */
export function suspects(lines: string[], text: string, dropped = 0): Set<string> | undefined {
    const conflict = /input field "(.+)" on measurement "(.+)" is type (\w+), already/s.exec(text);
    if (conflict) {
        const [, field, measurement, type] = conflict as unknown as [string, string, string, string];
        const needle = `${field}=`;
        const isText = type === "string";
        return new Set(
            lines.filter((line) => {
                if (unescaped(/^(?:\\.|[^\\, ])+/.exec(line)?.[0] ?? "") !== measurement) return false;
                const at = Math.max(line.indexOf(`,${needle}`), line.indexOf(` ${needle}`));
                return at >= 0 && (line[at + 1 + needle.length] === '"') === isText;
            }),
        );
    }
    if (dropped > 0 && /beyond retention/.test(text)) {
        const time = (line: string): number => Number(line.slice(line.lastIndexOf(" ") + 1));
        return new Set(lines.toSorted((a, b) => time(a) - time(b)).slice(0, dropped));
    }
    return undefined;
}

/** Lines that the server quotes as unreadable, with its reason. */
export function unreadable(text: string): Map<string, string> {
    return new Map([...text.matchAll(/unable to parse '(.*)': (.*)$/gm)].map((match) => [match[1]!, `unable to parse: ${match[2]}`]));
}

function unescaped(name: string): string {
    return name.replace(/\\(.)/g, "$1");
}
