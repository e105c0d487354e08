import { createHash, type KeyObject, sign } from "node:crypto";
import type { Server } from "node:http";
import { statementOf } from "../carbon/capsule.js";
import { hmacOf } from "../esp32/keys.js";
import { type Clock, systemClock } from "../common/clock.js";
import { privateKeyOf, rawPublicKey } from "../common/ed25519.js";
import type { HttpClient } from "../common/http.js";
import { retryAfterMs } from "../common/http.js";
import { errorCode } from "../common/errors.js";
import type { MeterSample } from "./esp32-meter.js";

/** One message as a device sends it. */
export interface Envelope {
    device: string;
    boot: number;
    seq: number;
    body: Buffer;
}

/** What became of a message: it is kept, it never will be, or it is to be sent again. */
export type Delivery = { kind: "kept" | "refused" | "again"; reason?: string; afterMs?: number };

export interface Transport {
    send(envelope: Envelope, options: { isForged?: boolean; signal: AbortSignal }): Promise<Delivery>;
}

export interface EnvelopeInput {
    site: string;
    device: string;
    boot: number;
    seq: number;
    /** ms UTC of the device's start, and of now. */
    started: number;
    now: number;
    samples: readonly MeterSample[];
    /** Signs each sample as evidence. */
    key?: KeyObject | undefined;
    /** Added to the device's clock, ms; undefined for a device without one. */
    clockOffset: number | undefined;
}

/** The native envelope; that nothing of it was measured stands in it, and under each signature. */
export function buildEnvelope({ site, device, boot, seq, started, now, samples, key, clockOffset }: EnvelopeInput): Envelope {
    const list = samples.map(({ at, values }) => {
        const ts = clockOffset === undefined ? undefined : at + clockOffset;
        const { ac_energy_export_wh: exportWh, ac_energy_import_wh: importWh } = values;
        const statement = ts !== undefined && key && statementOf({ meter: `${site}/${device}`, at: ts, exportWh, importWh, origin: "simulated", boot, seq });
        return { up: at - started, ...(ts !== undefined && { ts }), ...values, ...(statement && key && { sig: sign(null, Buffer.from(statement), key).toString("base64") }) };
    });
    const body = { v: 1, id: device, boot, seq, up: now - started, ...(clockOffset !== undefined && { ts: now + clockOffset }), class: "meter", sim: true, s: list };
    return { device, boot, seq, body: Buffer.from(JSON.stringify(body)) };
}

/** The signing key of a device; the same secret gives the same keys. */
export function deviceKey(secret: string, device: string): KeyObject {
    return privateKeyOf(createHash("sha256").update(`${secret}|${device}`).digest());
}

/** The public key in base64, as a meter's entry in the inventory has it. */
export function publicKey(key: KeyObject): string {
    return rawPublicKey(key).toString("base64");
}

/** Where the wl-esp32 of this Node-RED listens, unless its path was changed; undefined while Node-RED does not listen yet. */
export function ownUrl({ server, settings }: { server?: Server; settings: { httpNodeRoot?: unknown } }): string | undefined {
    const address = server?.address();
    if (!server || !address || typeof address !== "object") return undefined;
    const root = typeof settings.httpNodeRoot === "string" ? settings.httpNodeRoot.replace(/\/+$/, "") : "";
    return `${"setSecureContext" in server ? "https" : "http"}://127.0.0.1:${address.port}${root}/wattledger/esp32`;
}

export type HttpAuth = "none" | "bearer" | "hmac";

/** Statuses that repeating does not change; a key (401, 403) and a path (404) are put right by a person meanwhile. */
const FINAL = new Set([400, 405, 409, 413, 415, 422]);

/**
 * Over HTTP, with the key of a device or of all.
 * @param urlNow Where to; undefined while that is not known.
 */
export function httpTransport(client: HttpClient, urlNow: () => string | undefined, auth: HttpAuth, secret: string, clock: Clock = systemClock): Transport {
    return {
        send: async ({ device, boot, seq, body }, { isForged = false, signal }) => {
            const url = urlNow();
            if (url === undefined) return { kind: "again", reason: "unreachable" };
            const path = new URL(url).pathname;
            const used = isForged ? `${secret}?` : secret;
            const mac = auth === "hmac" && hmacOf(used, { method: "POST", path, boot, seq, body });
            const headers = {
                "Content-Type": "application/json",
                ...((auth === "bearer" || (isForged && auth === "none")) && { Authorization: `Bearer ${used}` }),
                ...(mac && { "X-WL-Device": device, "X-WL-Boot": String(boot), "X-WL-Seq": String(seq), "X-WL-Signature": mac }),
            };
            try {
                const { status, headers: answer } = await client.request({ method: "POST", url, headers, body, timeoutMs: 10_000, signal });
                if (status >= 200 && status < 300) return { kind: "kept" };
                const afterMs = retryAfterMs(answer["retry-after"], clock.now(), 3_600_000);
                return { kind: FINAL.has(status) ? "refused" : "again", reason: `HTTP ${status}`, ...(afterMs !== undefined && { afterMs }) };
            } catch (error) {
                return { kind: "again", reason: errorCode(error) === "HTTP_TIMEOUT" ? "no answer" : "unreachable" };
            }
        },
    };
}

/** Over MQTT: the broker takes what the device's user may write, and is asked for its acknowledgement. */
export function mqttTransport(publish: (topic: string, body: Buffer) => Promise<void>, prefix: string): Transport {
    return {
        send: async ({ device, body }) => {
            try {
                await publish(`${prefix}/${device}/data`, body);
                return { kind: "kept" };
            } catch (error) {
                return { kind: "again", reason: errorCode(error) === "MQTT_CLOSED" ? "not connected" : "not published" };
            }
        },
    };
}
