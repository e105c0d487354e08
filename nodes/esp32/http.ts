import type { IncomingMessage, ServerResponse } from "node:http";
import { systemClock, type Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { decompress, readBody } from "./body.js";
import { type Ingest, RateLimited, type Receipt } from "./ingest.js";
import type { DeviceKeys, Sender, SignedRequest } from "./keys.js";
import { Rates } from "./limits.js";
import type { Handle } from "./mount.js";
import type { Decoder } from "./preset.js";

/** What devices find under the path of a node: its own format, and those with a path of their own. */
export interface HttpDoorOptions {
    ingest: Ingest;
    keys: DeviceKeys;
    /** Of POST requests to the path itself. */
    decoder: Decoder;
    /** Body of the answer to those, where devices look at it. */
    reply?: string;
    /** By what follows the path; they take GET too, and answer `ok`. */
    below: Record<string, Decoder>;
    /** A message must be here so soon, ms. */
    bodyMs?: number;
    clock?: Clock;
}

/** What each refusal is in HTTP (RFC 9110 §15). */
const STATUS: Record<string, number | undefined> = {
    PAYLOAD_INVALID: 400,
    BODY_CUT: 400,
    KEY_MISSING: 401,
    KEY_WRONG: 401,
    DEVICE_FORBIDDEN: 403,
    TOO_MANY_DEVICES: 403,
    BODY_SLOW: 408,
    REPLAYED: 409,
    DEVICE_TWICE: 409,
    BODY_TOO_LARGE: 413,
    ENCODING_UNKNOWN: 415,
    RATE_LIMITED: 429,
    INTERNAL: 500,
    STORE_UNSURE: 500,
    CLOCK_NOT_SET: 503,
    STORE_BUSY: 503,
    STORE_DOWN: 503,
};
/** After these nobody reads what the sender still sends. */
const ENDING = new Set([408, 413]);
/** s, for an answer that says to come again: the disk was tried five times by then. */
const RETRY_S = 10;
const BODY_MS = 10_000;
const NOTHING = Buffer.alloc(0);
/** Wrong or missing keys from one address: a second, and at once. */
const GUESS_RATES = { ratePerS: 1, burst: 20, devices: 1000 };

/** Devices over HTTP: answers every request, with 2xx only for what is on disk. */
export class HttpDoor {
    /** What follows the node's path, to be handled; "" is the path itself. */
    readonly paths: readonly string[];
    private readonly clock: Clock;
    private readonly guesses = new Rates(GUESS_RATES);

    constructor(private readonly options: HttpDoorOptions) {
        this.paths = ["", ...Object.keys(options.below)];
        this.clock = options.clock ?? systemClock;
    }

    readonly handle: Handle = (request: IncomingMessage, response: ServerResponse, below: string): void => {
        this.answer(request, below).then(
            (answer) => send(response, answer),
            () => send(response, { status: 500, body: { ok: false, error: "INTERNAL" } }),
        );
    };

    private async answer(request: IncomingMessage, below: string): Promise<Answer> {
        const decoder = this.options.below[below] ?? this.options.decoder;
        const method = request.method ?? "";
        const methods = below === "" ? ["POST"] : ["GET", "POST"];
        if (!methods.includes(method)) {
            return { status: 405, body: { ok: false, error: "METHOD", message: `Send it with ${methods.join(" or ")}.` }, headers: { allow: methods.join(", ") } };
        }
        try {
            const receipt = await this.receive(request, method, below, decoder);
            return { status: 200, body: below === "" ? (this.options.reply ?? { ok: true, ...receipt }) : "ok" };
        } catch (error) {
            const { code, message } = error as WattError;
            const status = STATUS[code] ?? 400;
            const afterS = error instanceof RateLimited ? Math.ceil(error.afterMs / 1000) : RETRY_S;
            return {
                status,
                body: { ok: false, error: code, message },
                headers: {
                    ...((status === 429 || status >= 500) && { "retry-after": String(afterS) }),
                    ...(status === 401 && { "www-authenticate": "Bearer" }),
                    ...(ENDING.has(status) && { connection: "close" }),
                },
            };
        }
    }

    private async receive(request: IncomingMessage, method: string, below: string, decoder: Decoder): Promise<Receipt> {
        const { ingest, bodyMs = BODY_MS } = this.options;
        const { bodyBytes } = ingest.limits;
        const at = this.clock.now();
        let name: string | undefined;
        let sender: Sender;
        let query: Record<string, string>;
        let body: Buffer;
        let sent: Buffer = NOTHING;
        try {
            const [path = "", search] = (request.url ?? "").split("?", 2);
            query = search === undefined ? {} : Object.fromEntries(new URLSearchParams(search));
            if (method === "POST") sent = await readBody(request, bodyBytes, bodyMs, this.clock);
            // emoncms marks a zlib body in the query.
            const encoding = request.headers["content-encoding"] ?? (query["cb"] === "1" ? "deflate" : "");
            name = nameIn(request, query);
            sender = this.sender(request, query, { method, path, body: sent });
            delete query["apikey"];
            body = encoding === "" ? sent : await decompress(sent, encoding, bodyBytes);
        } catch (error) {
            const wait = STATUS[(error as WattError).code] === 401 ? this.waitOf(request) : 0;
            if (wait === 0) throw ingest.refuse(error, { via: "http", at }, name ?? idIn(sent));
            // Counted only: who floods us with names must not push the devices' out of what is told and shown.
            ingest.refused++;
            throw new RateLimited("An address without a valid key", wait);
        }
        const about = { topic: below, query, contentType: request.headers["content-type"] ?? "", ...(sender.device !== undefined && { device: sender.device }) };
        return ingest.take(decoder, { via: "http", ...about, body, retained: false, at: this.clock.now() }, sender);
    }

    private sender(request: IncomingMessage, query: Record<string, string>, signed: Pick<SignedRequest, "method" | "path" | "body">): Sender {
        const { keys } = this.options;
        const device = headerOf(request, "x-wl-device");
        const mac = headerOf(request, "x-wl-signature");
        if (mac !== undefined) {
            const [boot, seq] = [wholeOf(request, "x-wl-boot"), wholeOf(request, "x-wl-seq")];
            if (Object.keys(query).length > 0) throw new WattError("PAYLOAD_INVALID", "A signed request has no query: put the data into the body.");
            if (device === undefined || boot === undefined || seq === undefined) {
                throw new WattError("PAYLOAD_INVALID", "A signed request has the headers X-WL-Device, X-WL-Boot, X-WL-Seq and X-WL-Signature.");
            }
            return keys.signed(device, mac, { ...signed, boot, seq });
        }
        const token = tokenIn(request.headers.authorization) ?? query["apikey"] ?? formKey(request, signed.body);
        return token === undefined ? keys.anonymous() : keys.bearer(token);
    }

    /** Who tries keys is slowed down: how long until the next, ms. */
    private waitOf(request: IncomingMessage): number {
        return this.guesses.take(request.socket.remoteAddress ?? "", this.clock.monotonic());
    }
}

interface Answer {
    status: number;
    body: object | string;
    headers?: Record<string, string>;
}

function send(response: ServerResponse, { status, body, headers }: Answer): void {
    if (response.destroyed || response.headersSent) return;
    const isText = typeof body === "string";
    const bytes = Buffer.from(isText ? body : JSON.stringify(body));
    response.writeHead(status, { "content-type": isText ? "text/plain" : "application/json", "content-length": bytes.length, "cache-control": "no-store", ...headers });
    response.end(bytes);
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
    const value = request.headers[name];
    return typeof value === "string" && value !== "" ? value : undefined;
}

function wholeOf(request: IncomingMessage, name: string): number | undefined {
    const text = headerOf(request, name);
    return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** A bearer token, or the password of Basic, which is all that some libraries can send. */
function tokenIn(authorization: string | undefined): string | undefined {
    const [, scheme = "", value = ""] = /^(Bearer|Basic) +(\S+) *$/i.exec(authorization ?? "") ?? [];
    if (scheme.toLowerCase() === "bearer") return value;
    if (scheme === "") return undefined;
    const pair = Buffer.from(value, "base64").toString();
    return pair.slice(pair.indexOf(":") + 1);
}

/** The key of a form, as emoncms takes it too. */
function formKey(request: IncomingMessage, body: Buffer): string | undefined {
    if (!/^application\/x-www-form-urlencoded\b/i.test(request.headers["content-type"] ?? "")) return undefined;
    return new URLSearchParams(body.toString()).get("apikey") ?? undefined;
}

/** Who a request without a valid key says that it is, to be shown to the installer; in its body, too. */
function nameIn(request: IncomingMessage, query: Record<string, string>): string | undefined {
    return headerOf(request, "x-wl-device") ?? query["node"];
}

function idIn(body: Buffer): string | undefined {
    const [, id] = /"(?:id|device|node)"\s*:\s*"([^"\\]{1,64})"/.exec(body.subarray(0, 1000).toString()) ?? [];
    return id;
}
