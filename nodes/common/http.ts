import type { AxiosInstance, AxiosStatic } from "axios";
import { DateTime } from "luxon";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { errorCode, errorText, WattError } from "./errors.js";

/** Longest answer taken unless told. */
const MAX_BYTES = 1024 * 1024;

export interface HttpRequest {
    method?: "GET" | "POST" | "PUT" | "DELETE";
    url: string;
    headers?: Record<string, string>;
    query?: Record<string, string | number>;
    body?: Buffer | string | object;
    /** The whole exchange, headers and body, must end within this many ms. */
    timeoutMs: number;
    /** Longest answer taken, bytes; 1 MiB unless told. */
    maxBytes?: number;
    signal?: AbortSignal;
}

export interface HttpResponse {
    status: number;
    headers: Record<string, string>;
    text: string;
}

/**
 * No usable answer: `HTTP_URL` nothing was sent · `HTTP_UNREACHABLE` · `HTTP_TLS` · `HTTP_TIMEOUT` · `HTTP_ABORTED` ·
 * `HTTP_TOO_LARGE` · `HTTP_FAILED`. From `HTTP_TIMEOUT` on, whether the server acted is unknown.
 */
export class HttpError extends WattError {
    override readonly name = "HttpError";
}

/** The port every client of a remote service takes, so that tests and stand-ins can answer instead. */
export interface HttpClient {
    /** Resolves with any status, redirects included: what a status means is the caller's to say. @throws HttpError */
    request(request: HttpRequest): Promise<HttpResponse>;
    close(): void;
}

export interface HttpOptions {
    /** False accepts any certificate; the caller shows a warning. */
    rejectUnauthorized?: boolean;
    /** PEM of a private authority. */
    ca?: string;
    maxSockets?: number;
}

/** One keep-alive client; TLS 1.2 at least, redirects never followed: they would carry secrets to another host. */
export function createHttpClient(options: HttpOptions = {}): HttpClient {
    const { maxSockets = 4, rejectUnauthorized = true, ca } = options;
    const httpAgent = new HttpAgent({ keepAlive: true, maxSockets });
    const httpsAgent = new HttpsAgent({ keepAlive: true, maxSockets, rejectUnauthorized, minVersion: "TLSv1.2", ...(ca && { ca }) });
    // Loaded when first needed: it would be a quarter of what the package adds to Node-RED's start.
    const axios = require("axios") as AxiosStatic;
    const client = axios.create({
        adapter: "http",
        httpAgent,
        httpsAgent,
        maxRedirects: 0,
        proxy: false,
        responseType: "text",
        transitional: { forcedJSONParsing: false },
        validateStatus: () => true,
    });
    return {
        request: (request) => send(client, request),
        close: () => {
            httpAgent.destroy();
            httpsAgent.destroy();
        },
    };
}

async function send(client: AxiosInstance, request: HttpRequest): Promise<HttpResponse> {
    if (!/^https?:\/\//i.test(request.url) || !URL.canParse(request.url)) {
        throw new HttpError("HTTP_URL", "The address is no URL: it must look like http://192.168.1.10:8086.");
    }
    const deadline = AbortSignal.timeout(request.timeoutMs);
    try {
        const response = await client.request<string>({
            method: request.method ?? "GET",
            url: request.url,
            headers: request.headers ?? {},
            params: request.query,
            data: request.body,
            maxContentLength: request.maxBytes ?? MAX_BYTES,
            maxBodyLength: Infinity,
            signal: request.signal ? AbortSignal.any([request.signal, deadline]) : deadline,
        });
        const headers = Object.fromEntries(Object.entries(response.headers).map(([key, value]) => [key.toLowerCase(), String(value)]));
        return { status: response.status, headers, text: response.data };
    } catch (error) {
        throw classify(error, request, deadline);
    }
}

const UNREACHABLE = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"]);

/** axios errors carry the request with its secrets, so only the code and the host go on. */
function classify(error: unknown, request: HttpRequest, deadline: AbortSignal): HttpError {
    const { host } = new URL(request.url);
    const code = errorCode(error) ?? "unknown";
    if (request.signal?.aborted) {
        if ((request.signal.reason as Error | undefined)?.name === "TimeoutError") return new HttpError("HTTP_TIMEOUT", `${host} did not answer in time.`);
        return new HttpError("HTTP_ABORTED", `The request to ${host} was given up.`);
    }
    if (deadline.aborted) return new HttpError("HTTP_TIMEOUT", `${host} did not answer within ${request.timeoutMs} ms: check that it runs and is not overloaded.`);
    if (UNREACHABLE.has(code)) return new HttpError("HTTP_UNREACHABLE", `${host} cannot be reached (${code}): check address, port and network.`);
    if (/CERT|TLS|SSL|EPROTO|UNABLE_TO_VERIFY/.test(code)) {
        return new HttpError("HTTP_TLS", `${host} gave no safe connection (${code}): check that it serves https, and add the authority of its certificate.`);
    }
    if (/maxContentLength/.test(errorText(error))) {
        return new HttpError("HTTP_TOO_LARGE", `${host} answered with more than ${request.maxBytes ?? MAX_BYTES} bytes.`);
    }
    return new HttpError("HTTP_FAILED", `The connection to ${host} broke (${code}).`);
}

/**
 * Retry-After as ms from now: seconds or an HTTP date (RFC 9110 §10.2.3), never negative, at most `capMs`.
 * Undefined when absent or unreadable.
 */
export function retryAfterMs(value: string | undefined, nowMs: number, capMs: number): number | undefined {
    if (value === undefined) return undefined;
    const wait = /^\s*\d+\s*$/.test(value) ? Number(value) * 1000 : DateTime.fromHTTP(value.trim()).toMillis() - nowMs;
    return Number.isNaN(wait) ? undefined : Math.min(capMs, Math.max(0, wait));
}
