import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { WattError } from "../common/errors.js";

/** Who may send as whom. */
export interface DeviceKey {
    /** A device's name, or the beginning of several with `*` at the end. */
    device: string;
    /** Shared with the device: a bearer token, or the key of an HMAC. */
    secret: string;
}

/** What a message proves about its sender. */
export interface Sender {
    /** Such as a device's name, for what is refused before a device is known. */
    name: string;
    /** Where there is one only. */
    device?: string;
    maySend(device: string): boolean;
    /** Signed together with the message. */
    boot?: number;
    seq?: number;
}

/** What is signed of an HTTP request. */
export interface SignedRequest {
    /** Upper case. */
    method: string;
    /** As it stands in the request, without a query. */
    path: string;
    boot: number;
    seq: number;
    /** As it was sent, compressed or not. */
    body: Buffer;
}

/** Anybody, where the installer allows it: no device that has a key. */
const ANONYMOUS = "anonymous";

/** A new secret: 256 bits, in letters that every string of C takes. */
export function newSecret(random: (size: number) => Buffer = randomBytes): string {
    return random(32).toString("base64url");
}

/** The text under an HMAC: method|path|boot|seq|SHA-256 of the body in hex. */
function signedText({ method, path, boot, seq, body }: SignedRequest): string {
    return `${method}|${path}|${boot}|${seq}|${createHash("sha256").update(body).digest("hex")}`;
}

/** HMAC-SHA256 (RFC 2104) of a request in hex, keyed with the text of the secret. */
export function hmacOf(secret: string, request: SignedRequest): string {
    return createHmac("sha256", secret).update(signedText(request)).digest("hex");
}

/** The keys of a node's devices. No message of an error holds any of them. */
export class DeviceKeys {
    /** By the hash of their secret: how long a look-up takes tells nothing of what is in the table. */
    private readonly bySecret = new Map<string, DeviceKey>();
    private readonly exact = new Map<string, DeviceKey>();
    private readonly families: DeviceKey[] = [];

    /** @param allowsAnonymous Devices without a key may send too. */
    constructor(
        keys: readonly DeviceKey[],
        readonly allowsAnonymous = false,
    ) {
        for (const key of keys) {
            this.bySecret.set(hashOf(key.secret), key);
            if (key.device.endsWith("*")) this.families.push(key);
            else this.exact.set(key.device, key);
        }
    }

    /** The key that a device is bound to: the one of its name, else of the longest beginning. */
    of(device: string): DeviceKey | undefined {
        const exact = this.exact.get(device);
        if (exact) return exact;
        let best: DeviceKey | undefined;
        for (const key of this.families) {
            if (device.startsWith(key.device.slice(0, -1)) && key.device.length > (best?.device.length ?? 0)) best = key;
        }
        return best;
    }

    /** @throws WattError KEY_WRONG */
    bearer(token: string): Sender {
        const key = this.bySecret.get(hashOf(token));
        if (!key) throw new WattError("KEY_WRONG", "The key is not known: compare it with the one in the dialog of the node, or make a new one there.");
        return this.senderOf(key);
    }

    /**
     * @param mac Hex.
     * @throws WattError KEY_MISSING, KEY_WRONG
     */
    signed(device: string, mac: string, request: SignedRequest): Sender {
        const key = this.of(device);
        if (!key) throw this.unknown(device);
        const expected = Buffer.from(hmacOf(key.secret, request));
        const given = Buffer.from(mac.toLowerCase());
        if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
            throw new WattError("KEY_WRONG", "The signature is wrong: it is HMAC-SHA256 in hex of method|path|boot|seq|SHA-256 of the body in hex, keyed with the device's key.");
        }
        // Of a family's key each name is a device of its own.
        return { name: device, device, maySend: (other) => other === device || (key.device.endsWith("*") && this.of(other) === key), boot: request.boot, seq: request.seq };
    }

    /**
     * Somebody without a key.
     * @throws WattError KEY_MISSING where only devices with a key may send
     */
    anonymous(): Sender {
        if (!this.allowsAnonymous) throw new WattError("KEY_MISSING", "A key is needed: send it as Authorization: Bearer KEY, or sign the request. The dialog of the node makes one for each device.");
        return { name: ANONYMOUS, maySend: (device) => this.of(device) === undefined };
    }

    unknown(device: string): WattError {
        return new WattError("KEY_MISSING", `${device} has no key: add it in the dialog of the node.`);
    }

    private senderOf(key: DeviceKey): Sender {
        const { device } = key;
        return { name: device, ...(!device.endsWith("*") && { device }), maySend: (other) => this.of(other) === key };
    }
}

/** A broker lets only those write to a topic whom its users and ACL allow, and the device's name is in the topic. */
export const BROKER: Sender = { name: "broker", maySend: () => true };

function hashOf(secret: string): string {
    return createHash("sha256").update(secret).digest("base64");
}
