import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createGunzip } from "node:zlib";
import { type ParsedLine, parseLine } from "./line-parser.js";

export interface Answer {
    status: number;
    body?: string | object;
    headers?: Record<string, string>;
}

/** One write as it arrived. */
export interface Write {
    path: string;
    query: Record<string, string>;
    headers: IncomingMessage["headers"];
    lines: string[];
}

type Dialect = 1 | 2 | 3;

const VERSIONS: Record<Dialect, string> = { 1: "1.8.10", 2: "v2.7.11", 3: "3.10.0" };

/**
 * An InfluxDB that keeps its documented HTTP contract for writes: path, parameters, authorization, what it does with a bad line.
 * - 1.x (1.8 HTTP API): stores the good lines beside bad ones and answers 400.
 * - 2.x (/api/v2/write): a malformed line refuses all with 400; a field type conflict stores the rest and answers 422.
 * - 3 Core (/api/v3/write_lp): stores the rest and names the refused lines; before 3.8.0 it reads only the first gzip member.
 */
export class InfluxStandIn {
    /** Stored points: series, field and time → value. */
    readonly stored = new Map<string, number | string | boolean>();
    readonly writes: Write[] = [];
    readonly types = new Map<string, string>();
    /** Lines that end up refused as malformed beside those the grammar refuses. */
    malformed = (_line: string): boolean => false;
    /** Answers instead of the contract, one after the other. */
    script: ((response: ServerResponse, write: Write) => void)[] = [];
    maxLines = Infinity;
    token = "s3cret-token";
    username = "writer";
    password = "s3cret-password";
    database = "plant";
    org = "watt";
    version: string;
    url = "";
    private readonly server = createServer((request, response) => {
        this.serve(request, response).catch((error: unknown) => {
            response.writeHead(500).end(String(error));
        });
    });

    constructor(readonly dialect: Dialect) {
        this.version = VERSIONS[dialect];
    }

    /** Starts it, again on the port it had. */
    async start(): Promise<this> {
        this.server.listen(this.url === "" ? 0 : Number(new URL(this.url).port), "127.0.0.1");
        await once(this.server, "listening");
        this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
        return this;
    }

    async stop(): Promise<void> {
        if (!this.server.listening) return;
        const closed = once(this.server, "close");
        this.server.close();
        this.server.closeAllConnections();
        await closed;
    }

    private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
        const { pathname, searchParams } = new URL(request.url!, "http://host");
        const headers = { "X-Influxdb-Version": this.version, "X-Influxdb-Build": this.dialect === 3 ? "Core" : "OSS" };
        const answer = ({ status, body = "", headers: more }: Answer): void => {
            response.writeHead(status, { ...headers, ...more }).end(typeof body === "string" ? body : JSON.stringify(body));
        };
        if (pathname === "/ping") {
            request.resume();
            if (this.dialect === 3) return answer(this.authorized(request) ? { status: 200, body: { version: this.version } } : { status: 401 });
            return answer({ status: 204 });
        }
        const write: Write = {
            path: pathname,
            query: Object.fromEntries(searchParams),
            headers: request.headers,
            lines: await this.linesOf(request),
        };
        this.writes.push(write);
        const scripted = this.script.shift();
        if (scripted) return scripted(response, write);
        answer(this.take(request, write));
    }

    private async linesOf(request: IncomingMessage): Promise<string[]> {
        const chunks: Buffer[] = [];
        const zipped = request.headers["content-encoding"] === "gzip";
        const firstMemberOnly = this.dialect === 3 && /^3\.[0-7]\./.test(this.version);
        for await (const chunk of request) chunks.push(chunk as Buffer);
        let body = Buffer.concat(chunks);
        if (zipped) {
            if (firstMemberOnly) {
                // A second member's header marks the end of the first; compressed text does not hold these ten bytes by chance.
                const next = body.indexOf(Buffer.from([0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0]), 10);
                if (next > 0) body = body.subarray(0, next);
            }
            const plain: Buffer[] = [];
            const gunzip = createGunzip();
            gunzip.end(body);
            for await (const chunk of gunzip) plain.push(chunk as Buffer);
            body = Buffer.concat(plain);
        }
        return body.toString().split("\n").filter(Boolean);
    }

    private authorized(request: IncomingMessage): boolean {
        const given = request.headers.authorization;
        const basic = `Basic ${Buffer.from(`${this.username}:${this.password}`).toString("base64")}`;
        if (this.dialect === 1) return given === basic;
        if (this.dialect === 2) return given === `Token ${this.token}`;
        return given === `Bearer ${this.token}` || given === `Token ${this.token}`;
    }

    private take(request: IncomingMessage, write: Write): Answer {
        const { dialect } = this;
        const error = (status: number, text: string, code = "invalid"): Answer => ({
            status,
            body: dialect === 2 ? { code, message: text } : { error: text },
        });
        const path = { 1: "/write", 2: "/api/v2/write", 3: "/api/v3/write_lp" }[dialect];
        const precision = dialect === 3 ? "millisecond" : "ms";
        if (request.method !== "POST" || write.path !== path) return error(404, "not found", "not found");
        if (!this.authorized(request)) return error(401, "unauthorized", "unauthorized");
        if (write.query["precision"] !== precision) return error(400, "invalid precision");
        const name = write.query[dialect === 2 ? "bucket" : "db"];
        if (dialect === 2 && write.query["org"] !== this.org) return error(404, "organization not found", "not found");
        if (dialect !== 3 && name !== this.database) return error(404, `database not found: "${name}"`, "not found");
        if (write.lines.length > this.maxLines) {
            return dialect === 3 ? error(500, "max request size (10485760 bytes) exceeded") : error(413, "Request Entity Too Large");
        }
        if (dialect === 3 && write.lines.length === 0) return error(400, "write buffer error: incoming write was empty");
        return this.store(write.lines, error);
    }

    private store(lines: string[], error: (status: number, text: string, code?: string) => Answer): Answer {
        const { dialect } = this;
        const malformed: { line: string; number: number; reason: string }[] = [];
        const points: { point: ParsedLine; line: string; number: number }[] = [];
        for (const [index, line] of lines.entries()) {
            try {
                if (this.malformed(line)) throw new Error("invalid field format");
                points.push({ point: parseLine(line), line, number: index + 1 });
            } catch (fault) {
                malformed.push({ line, number: index + 1, reason: (fault as Error).message.split("\n")[0]! });
            }
        }
        const unparsed = malformed.map(({ line, reason }) => `unable to parse '${line}': ${reason}`).join("\n");
        if (dialect === 2 && malformed.length > 0) return error(400, unparsed);
        const conflicts = points.filter(({ point }) => {
            if (this.conflict(point) !== undefined) return true;
            this.keep(point);
            return false;
        });
        if (dialect === 3) {
            const data = [
                ...malformed.map(({ line, number, reason }) => ({ original_line: line.slice(0, 20), line_number: number, error_message: reason })),
                ...conflicts.map(({ point, line, number }) => ({
                    original_line: line.slice(0, 20),
                    line_number: number,
                    error_message: `invalid column type for column '${this.conflict(point)}', expected iox::column_type::field::float, got iox::column_type::field::string`,
                })),
            ];
            return data.length > 0 ? { status: 400, body: { error: "partial write of line protocol occurred", data } } : { status: 204 };
        }
        if (conflicts.length > 0) {
            const { point } = conflicts[0]!;
            const field = this.conflict(point)!;
            const [is, was] = typeof point.fields[field] === "string" ? ["string", "float"] : ["float", "string"];
            const text = `partial write: field type conflict: input field "${field}" on measurement "${point.measurement}" is type ${is}, already exists as type ${was} dropped=${conflicts.length}`;
            return dialect === 2 ? error(422, `failure writing points to database: ${text}`, "unprocessable entity") : error(400, text);
        }
        return malformed.length > 0 ? error(400, points.length > 0 ? `partial write: ${unparsed} dropped=0` : unparsed) : { status: 204 };
    }

    private conflict(point: ParsedLine): string | undefined {
        return Object.keys(point.fields).find((field) => {
            const type = this.types.get(`${point.measurement}.${field}`);
            return type !== undefined && type !== typeof point.fields[field];
        });
    }

    private keep(point: ParsedLine): void {
        for (const [field, value] of Object.entries(point.fields)) {
            this.types.set(`${point.measurement}.${field}`, typeof value);
            this.stored.set(`${point.measurement},${JSON.stringify(point.tags)}.${field}@${point.timestamp}`, value);
        }
    }
}
