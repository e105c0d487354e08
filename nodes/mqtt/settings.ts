import { readFile } from "node:fs/promises";
import { z } from "zod";
import { booleanField, choiceField, numberField, textField } from "../common/config.js";

/** The settings of a link; see `settingsSchema` for the units a person enters. */
export interface MqttSettings {
    /** `mqtt:`, `mqtts:`, `ws:` or `wss:` with host and port, without user and password. */
    url: string;
    /** MQTT 3.1.1 is 4 on the wire, as 5.0 is 5. */
    version: 4 | 5;
    /** The broker's session and what waits in it belong to this name. */
    clientId: string;
    /** Starts a new session at each connection: what was published in the meantime is lost. */
    clean: boolean;
    /** How long the broker keeps the session of a client that is away (5.0 only). */
    sessionExpiryS: number;
    keepAliveS: number;
    username?: string;
    password?: string;
    tls: TlsSettings;
    /** Most messages taken and not acknowledged yet. */
    inFlight: number;
    /** Largest message taken. */
    maxBytes: number;
}

/** Each of the three is PEM, or the path of a PEM file, read anew at each connection. */
export interface TlsSettings {
    ca?: string;
    cert?: string;
    key?: string;
    /** Name that the broker's certificate must be for; the host of the URL unless told. */
    serverName?: string;
    /** False accepts any certificate; the caller shows a warning. */
    verify: boolean;
}

/** MQTT 3.1.1 lets every broker take 23 letters and digits (§3.1.3.1). The dialog shows the same, by hand. */
function defaultClientId(nodeId: string): string {
    return `wl${nodeId.replaceAll(/[^0-9A-Za-z]/g, "")}`.slice(0, 23);
}

const URL_HELP = "must look like mqtt://192.168.1.10:1883 or mqtts://broker.example:8883, without user or password";

/** The settings of a wl-mqtt-link, from its node with credentials or its dialog. */
export const settingsSchema = () =>
    z
        .object({
            id: textField(),
            url: textField().transform(withScheme).refine(isPlainUrl, URL_HELP),
            version: choiceField(["5", "4"], "5"),
            clientId: textField("").pipe(z.string().max(256, "must not be longer than 256 characters")),
            clean: booleanField(false),
            sessionExpiryH: numberField({ min: 0, max: 8_760, default: 168 }),
            keepAliveS: numberField({ min: 5, max: 65_535, default: 60, integer: true }),
            inFlight: numberField({ min: 1, max: 65_535, default: 1_000, integer: true }),
            maxKb: numberField({ min: 1, max: 262_144, default: 256 }),
            serverName: textField(""),
            insecure: booleanField(false),
            ca: textField(""),
            cert: textField(""),
            key: textField(""),
            username: textField(""),
            password: textField(""),
        })
        .refine(({ cert, key }) => (cert === "") === (key === ""), { path: ["cert"], error: "and key belong together" })
        .refine(({ username, password }) => username !== "" || password === "", { path: ["username"], error: "must not be empty where there is a password" })
        .transform(({ id, version, clientId, sessionExpiryH, maxKb, serverName, insecure, ca, cert, key, username, password, ...same }): MqttSettings => {
            return {
                ...same,
                version: version === "5" ? 5 : 4,
                clientId: clientId || defaultClientId(id),
                sessionExpiryS: Math.round(sessionExpiryH * 3_600),
                maxBytes: Math.round(maxKb * 1_024),
                ...(username && { username }),
                ...(password && { password }),
                tls: { verify: !insecure, ...(ca && { ca }), ...(cert && { cert, key }), ...(serverName && { serverName }) },
            };
        });

function withScheme(url: string): string {
    return /^[a-z]+:\/\//i.test(url) ? url : `mqtt://${url}`;
}

/** A password in the URL would be stored in the flow, readable by all. */
function isPlainUrl(url: string): boolean {
    if (!/^(mqtts?|wss?):\/\//i.test(url) || !URL.canParse(url)) return false;
    const { username, password, search, hash, hostname } = new URL(url);
    return hostname !== "" && `${username}${password}${search}${hash}` === "";
}

/** `broker.example:8883`, for messages. */
export function brokerName(url: string): string {
    const { protocol, hostname, port } = new URL(url);
    return `${hostname}:${port || { "mqtt:": "1883", "mqtts:": "8883", "ws:": "80", "wss:": "443" }[protocol]}`;
}

/** True for an address that is reached by TLS. */
export function isTls(url: string): boolean {
    return /^(mqtts|wss):/i.test(url);
}

/** What Node's TLS takes. @throws the error of a file that cannot be read */
export async function readTls(url: string, tls: TlsSettings): Promise<{ ca?: string; cert?: string; key?: string; servername?: string; rejectUnauthorized?: boolean }> {
    if (!isTls(url)) return {};
    const [ca, cert, key] = await Promise.all([pem(tls.ca), pem(tls.cert), pem(tls.key)]);
    return {
        rejectUnauthorized: tls.verify,
        ...(ca && { ca }),
        ...(cert && { cert }),
        ...(key && { key }),
        ...(tls.serverName && { servername: tls.serverName }),
    };
}

async function pem(value: string | undefined): Promise<string | undefined> {
    if (value === undefined || !value.includes("-----BEGIN")) return value && readFile(value, "utf8");
    // An environment variable has its line ends written out.
    return value.replaceAll("\\n", "\n");
}
