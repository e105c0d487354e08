import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import type * as influx from "influx";
import { errorText, WattError } from "../common/errors.js";
import type { HttpOptions } from "../common/http.js";
import { authorization, type InfluxTarget } from "./influx-dialect.js";

/** One row of an answer: `time` in ms UTC, the tags it is grouped by, the columns. */
export type InfluxRow = Record<string, string | number | boolean | null>;

/** Values for `$name` in a query; they travel beside it, so nothing in them is read as InfluxQL. */
export type InfluxParams = Record<string, string | number>;

export interface InfluxQlOptions {
    target: InfluxTarget;
    tls?: HttpOptions;
    /** Every call ends within this many ms, whatever the server does. */
    timeoutMs?: number;
}

interface RawAnswer {
    results?: { error?: string; series?: { name: string; tags?: Record<string, string>; columns: string[]; values: InfluxRow[string][][] }[] }[];
}

/** node-influx locks a host out after a failure; a query asked by a person should be tried every time. */
const NO_BACKOFF: NonNullable<influx.IPoolOptions["backoff"]> = { getDelay: () => 0, next: () => NO_BACKOFF, reset: () => NO_BACKOFF };

/**
 * InfluxQL through node-influx, for queries and administration. Points never take this way: node-influx waits for ever when a
 * connection breaks inside an answer, so each call here is raced against a deadline.
 */
export class InfluxQl {
    private readonly agent: HttpAgent | HttpsAgent;
    private readonly timeoutMs: number;

    constructor(private readonly options: InfluxQlOptions) {
        const { ca, rejectUnauthorized = true } = options.tls ?? {};
        const secure = options.target.url.startsWith("https:");
        this.agent = secure ? new HttpsAgent({ rejectUnauthorized, minVersion: "TLSv1.2", ...(ca && { ca }) }) : new HttpAgent();
        this.timeoutMs = options.timeoutMs ?? 30_000;
    }

    /**
     * Runs one SELECT or SHOW.
     * @throws WattError INFLUX_READ_ONLY, INFLUX_REFUSED, INFLUX_QUERY (the server's words), INFLUX_TIMEOUT, INFLUX_UNREACHABLE
     */
    async query(text: string, params: InfluxParams = {}, signal?: AbortSignal): Promise<InfluxRow[]> {
        if (!isReadOnly(text)) throw new WattError("INFLUX_READ_ONLY", "Only one SELECT or SHOW at a time; it must not write INTO.");
        const answer = await this.within(signal, (client, deadline) => client.queryRaw(text, { precision: "ms", placeholders: params, signal: deadline }));
        return rowsOf(answer as RawAnswer);
    }

    /** Creates the target's database where it is missing (1.x). */
    async createDatabase(signal?: AbortSignal): Promise<void> {
        await this.within(signal, (client) => client.createDatabase(this.options.target.database));
    }

    close(): void {
        this.agent.destroy();
    }

    private async within<T>(signal: AbortSignal | undefined, call: (client: influx.InfluxDB, deadline: AbortSignal) => Promise<T>): Promise<T> {
        const timeout = AbortSignal.timeout(this.timeoutMs);
        const deadline = signal ? AbortSignal.any([signal, timeout]) : timeout;
        const given = new Promise<never>((_, reject) => {
            deadline.addEventListener("abort", () => reject(new Error("deadline")), { once: true });
        });
        try {
            return await Promise.race([call(this.client(), deadline), given]);
        } catch (error) {
            throw this.understandable(error, deadline.aborted);
        }
    }

    /** A client for one call: its pool keeps no state that we want. */
    private client(): influx.InfluxDB {
        const { target } = this.options;
        const url = new URL(target.url);
        const protocol = url.protocol === "https:" ? "https" : "http";
        const headers = authorization(target, target.version === "1" ? 1 : 2);
        // Loaded by the first query: it would be a third of what the package adds to Node-RED's start.
        const { InfluxDB } = require("influx") as typeof influx;
        return new InfluxDB({
            hosts: [
                {
                    host: url.hostname,
                    port: Number(url.port) || (protocol === "https" ? 443 : 80),
                    path: url.pathname.replace(/\/+$/, ""),
                    protocol,
                    options: { headers, agent: this.agent },
                },
            ],
            // Without a user node-influx would introduce itself as root:root.
            username: null as unknown as string,
            database: target.database,
            pool: { maxRetries: 0, requestTimeout: this.timeoutMs, backoff: NO_BACKOFF },
        });
    }

    /** node-influx's errors hold the request with its headers; only words go on, without secrets. */
    private understandable(error: unknown, late: boolean): WattError {
        const { target } = this.options;
        const { host } = new URL(target.url);
        if (error instanceof WattError) return error;
        if (late) return new WattError("INFLUX_TIMEOUT", `${host} did not answer the query within ${this.timeoutMs} ms: ask for less, or check the server.`);
        const status = (error as { res?: { statusCode?: number } }).res?.statusCode;
        let words = errorText(error);
        for (const secret of [target.token, target.password]) if (secret) words = words.replaceAll(secret, "***");
        words = words.slice(0, 300);
        if (status === 401 || status === 403) return new WattError("INFLUX_REFUSED", `${host} refuses the query (${status}): check ${target.token ? "the token" : "user and password"} in wl-influxdb.`);
        if (status !== undefined || words.startsWith("Error from InfluxDB")) return new WattError("INFLUX_QUERY", `The query failed: ${words}`);
        return new WattError("INFLUX_UNREACHABLE", `${host} cannot be asked: ${words || "the connection broke"}.`);
    }
}

/** One statement that reads: SELECT without INTO, or SHOW. What is quoted or commented does not count. */
export function isReadOnly(text: string): boolean {
    const bare = text.replace(/'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|--[^\n]*|\/\*[\s\S]*?\*\//g, (found) => (/^['"]/.test(found) ? "''" : " "));
    return /^\s*(select|show)\b/i.test(bare) && !/;\s*\S/.test(bare) && !/\binto\b/i.test(bare);
}

function rowsOf(answer: RawAnswer): InfluxRow[] {
    const rows: InfluxRow[] = [];
    for (const { error, series = [] } of answer.results ?? []) {
        if (error) throw new WattError("INFLUX_QUERY", `The query failed: ${error}`);
        for (const { tags, columns, values } of series) {
            for (const value of values) rows.push({ ...tags, ...Object.fromEntries(columns.map((column, i) => [column, value[i] ?? null])) });
        }
    }
    return rows;
}
