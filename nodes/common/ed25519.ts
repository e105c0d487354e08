import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";

/** PKCS #8 up to the 32 bytes of an Ed25519 key (RFC 8410 §7). */
export const PKCS8_HEADER = Buffer.from("302e020100300506032b657004220420", "hex");
/** The same for a public key in SPKI (RFC 8410 §4). */
const SPKI_HEADER = Buffer.from("302a300506032b6570032100", "hex");

/** The private key of 32 bytes. */
export function privateKeyOf(seed: Buffer): KeyObject {
    return createPrivateKey({ key: Buffer.concat([PKCS8_HEADER, seed]), format: "der", type: "pkcs8" });
}

/** The 32 bytes of the public key (RFC 8032), of either half. */
export function rawPublicKey(key: KeyObject): Buffer {
    return createPublicKey(key).export({ format: "der", type: "spki" }).subarray(SPKI_HEADER.length);
}

/** The public key of its 32 bytes. */
export function publicKeyFrom(raw: Buffer): KeyObject {
    return createPublicKey({ key: Buffer.concat([SPKI_HEADER, raw]), format: "der", type: "spki" });
}
