import { errorCode, errorText, WattError } from "../common/errors.js";

/**
 * `MQTT_CLOSED` no connection, or it was lost · `MQTT_TLS` the certificates do not fit · `MQTT_REFUSED` the broker does not take this
 * client · `MQTT_TAKEN_OVER` another client has the same id · `MQTT_NOT_STORED` a user could not keep a message ·
 * `MQTT_SUBSCRIBE` the broker refused a topic · `MQTT_PUBLISH` the broker refused a message · `MQTT_TOO_LARGE`.
 */
export class MqttError extends WattError {
    override readonly name = "MqttError";

    constructor(
        code: string,
        message: string,
        /** For a node's status. */
        readonly text: string = "no connection",
        options?: { cause?: unknown },
    ) {
        super(code, message, options);
    }

    /** Trying again soon changes nothing, or does harm. */
    get needsPerson(): boolean {
        return this.code === "MQTT_REFUSED" || this.code === "MQTT_TAKEN_OVER" || this.code === "MQTT_TLS";
    }
}

interface Reason {
    text: string;
    message: string;
    code?: string;
}

const PASSWORD: Reason = { text: "wrong password", message: "The broker refused user and password: check them in the MQTT link." };
const NOT_AUTHORISED: Reason = { text: "not authorised", message: "The broker does not let this client in: check user, password, client certificate and the broker's access list." };
const CLIENT_ID: Reason = { text: "client id refused", message: "The broker refused the client id: choose another in the MQTT link." };
const VERSION: Reason = { text: "protocol refused", message: "The broker does not speak this version of MQTT: choose the other one in the MQTT link." };
const BUSY: Reason = { code: "MQTT_CLOSED", text: "broker is busy", message: "The broker takes no connections just now." };

/** CONNACK return codes of MQTT 3.1.1 (§3.2.2.3) and reason codes of 5.0 (§3.2.2.2, §3.14.2.1) that say what to do. */
const REASONS: Record<number, Reason> = {
    1: VERSION,
    2: CLIENT_ID,
    3: BUSY,
    4: PASSWORD,
    5: NOT_AUTHORISED,
    0x84: VERSION,
    0x85: CLIENT_ID,
    0x86: PASSWORD,
    0x87: NOT_AUTHORISED,
    0x88: BUSY,
    0x89: BUSY,
    0x8a: { text: "banned", message: "The broker has banned this client: ask who runs it." },
    0x8b: { ...BUSY, message: "The broker is shutting down." },
    0x8c: { text: "not authorised", message: "The broker wants a way to log in that is not supported: use user and password, or a client certificate." },
    0x8e: {
        code: "MQTT_TAKEN_OVER",
        text: "client id in use",
        message: "Another client connected with the same client id and took the session over: give each Node-RED a client id of its own in the MQTT link.",
    },
    0x95: { text: "packet too large", message: "The broker does not take packets of this size: send smaller messages, or raise its limit.", code: "MQTT_TOO_LARGE" },
    0x97: { ...BUSY, message: "The broker's quota for this client is used up." },
    0x9c: { text: "broker has moved", message: "The broker names another server to use: change the address in the MQTT link." },
    0x9d: { text: "broker has moved", message: "The broker has moved to another server: change the address in the MQTT link." },
};

/** A reason code of a CONNACK or DISCONNECT as what to do about it. */
export function refusal(reason: number, cause?: unknown): MqttError {
    const known = REASONS[reason];
    if (known) return new MqttError(known.code ?? "MQTT_REFUSED", known.message, known.text, { cause });
    return new MqttError("MQTT_CLOSED", `The broker ended the connection (reason ${reason}: ${errorText(cause) || "unknown"}).`, undefined, { cause });
}

/** SUBACK codes (3.1.1 §3.9.3, 5.0 §3.9.3). */
const SUBSCRIBE_REASONS: Record<number, string> = {
    0x87: "not authorised",
    0x8f: "not a valid topic",
    0x97: "quota used up",
    0x9e: "shared subscriptions are not supported",
    0xa2: "wildcards are not supported",
};

/** @param filter As it was sent, `$share/group/` included. */
export function subscribeRefusal(filter: string, reason: number): MqttError {
    const why = SUBSCRIBE_REASONS[reason];
    return new MqttError("MQTT_SUBSCRIBE", `The broker refused the topic ${filter}${why ? `: ${why}` : ""}. Check the broker's access list.`, "topic refused");
}

const UNTRUSTED = /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|CERT_(UNTRUSTED|SIGNATURE_FAILURE))$/;

/** Whatever ended a connection, or kept it from being made, as what to do about it. */
export function connectionError(cause: unknown, broker: string): MqttError {
    if (cause instanceof MqttError) return cause;
    const reason = (cause as { code?: unknown } | undefined)?.code;
    if (typeof reason === "number") return refusal(reason, cause);
    const code = errorCode(cause) ?? "";
    const why = cause === undefined ? "" : errorText(cause);
    const tls = (message: string) => new MqttError("MQTT_TLS", message, "check certificate", { cause });
    if (UNTRUSTED.test(code)) return tls(`The certificate of ${broker} is not trusted: enter the certificate of its authority (CA) in the MQTT link.`);
    if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return tls(`The certificate of ${broker} is for another name: enter that name as server name in the MQTT link.`);
    if (code === "CERT_HAS_EXPIRED") return tls(`The certificate of ${broker} has expired, or the clock of this computer is wrong.`);
    if (code === "CERT_NOT_YET_VALID") return tls(`The certificate of ${broker} is not valid yet: is the clock of this computer right?`);
    if (/^ERR_SSL_\w*ALERT/.test(code)) return tls(`${broker} refused the client certificate (${why}): check certificate and key in the MQTT link.`);
    if (code === "EPROTO" || code.startsWith("ERR_SSL_")) return tls(`${broker} does not speak TLS on this port, or no version in common: 8883 is usual for mqtts://, 1883 for mqtt://. (${why})`);
    if (/^ERR_OSSL|^ENOENT|^EACCES/.test(code)) return tls(`The certificates of the MQTT link cannot be read: ${why}`);
    if (/before secure TLS/.test(why)) return new MqttError("MQTT_CLOSED", `${broker} ended the connection before TLS began: does this port speak TLS?`, undefined, { cause });
    if (/connack timeout/i.test(why)) return new MqttError("MQTT_CLOSED", `${broker} takes connections but does not answer: is it an MQTT broker, and is mqtts:// needed?`, undefined, { cause });
    if (/keepalive timeout/i.test(why)) return new MqttError("MQTT_CLOSED", `${broker} does not answer any more.`, undefined, { cause });
    return new MqttError("MQTT_CLOSED", `No connection to ${broker}${why ? `: ${why}` : ""}.`, undefined, { cause });
}
