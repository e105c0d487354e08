import { createHash, createPrivateKey, generateKeyPairSync, sign, verify, type KeyObject } from "node:crypto";
import { publicKeyFrom, rawPublicKey } from "../common/ed25519.js";
import { WattError } from "../common/errors.js";
import { HASH_BYTES, leafHash, verifyInclusion } from "./merkle.js";

/** Signature type of Ed25519 (C2SP signed-note). */
const ED25519 = 1;
const MAX_NOTE_CHARS = 1_000_000;
const PROOF_HEADER = "c2sp.org/tlog-proof@v1";

/** State of a log at one size. */
export interface Checkpoint {
    /** Name of the log. */
    origin: string;
    size: number;
    root: Buffer;
}

/** Proof of one entry that stands alone: place, audit path and the signed checkpoint (C2SP tlog-proof). */
export interface EntryProof {
    index: number;
    path: Buffer[];
    /** The signed checkpoint as it was published. */
    checkpoint: string;
}

/** A new Ed25519 private key as PEM (PKCS #8). */
export function createSigningKey(): string {
    return generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

/** Signs what a log says under its name (C2SP signed-note, Ed25519). */
export class Signer {
    private readonly key: KeyObject;
    /** For verifiers: `<name>+<key id>+<key>` (C2SP). */
    readonly verifierKey: string;
    private readonly id: Buffer;

    /** @throws WattError LEDGER_NAME, LEDGER_KEY */
    constructor(
        readonly name: string,
        pem: string,
    ) {
        if (!isKeyName(name)) throw new WattError("LEDGER_NAME", `"${name.slice(0, 80)}" cannot name a log: leave out spaces and plus signs.`);
        try {
            this.key = createPrivateKey(pem);
        } catch (error) {
            throw new WattError("LEDGER_KEY", "The signing key is not a private key in PEM form.", { cause: error });
        }
        if (this.key.asymmetricKeyType !== "ed25519") throw new WattError("LEDGER_KEY", "The signing key is not an Ed25519 key.");
        const key = rawPublicKey(this.key);
        this.id = keyId(name, key);
        this.verifierKey = `${name}+${this.id.toString("hex")}+${Buffer.concat([Buffer.from([ED25519]), key]).toString("base64")}`;
    }

    /** The note of a text that ends in a line feed. */
    sign(text: string): string {
        const signature = Buffer.concat([this.id, sign(null, Buffer.from(text), this.key)]);
        return `${text}\n— ${this.name} ${signature.toString("base64")}\n`;
    }

    /** The signed checkpoint of this log (C2SP tlog-checkpoint). */
    checkpoint(size: number, root: Buffer): string {
        return this.sign(`${this.name}\n${size}\n${root.toString("base64")}\n`);
    }
}

/** The key of a log's verifiers, parsed. */
export interface VerifierKey {
    name: string;
    id: Buffer;
    key: KeyObject;
}

/** @throws WattError VERIFIER_KEY_INVALID */
export function parseVerifierKey(text: string): VerifierKey {
    const [, name, id, encoded] = /^([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+=*)$/.exec(text.trim()) ?? [];
    const raw = encoded === undefined ? undefined : parseBase64(encoded);
    if (name === undefined || id === undefined || raw?.length !== 33 || raw[0] !== ED25519) {
        throw new WattError("VERIFIER_KEY_INVALID", "The verifier key must read <name>+<8 hex digits>+<base64 of an Ed25519 key>.");
    }
    const key = raw.subarray(1);
    if (keyId(name, key).toString("hex") !== id) throw new WattError("VERIFIER_KEY_INVALID", "The verifier key's id does not fit its name and key: a character is wrong.");
    return { name, id: Buffer.from(id, "hex"), key: publicKeyFrom(key) };
}

/**
 * The text of a note that this key signed; signatures by others are ignored.
 * @throws WattError SIGNATURE_INVALID
 */
export function openNote(note: string, verifier: VerifierKey): string {
    const end = note.lastIndexOf("\n\n");
    // oxlint-disable-next-line no-control-regex -- the format forbids them
    if (note.length > MAX_NOTE_CHARS || end < 0 || !note.endsWith("\n") || /[\0-\x09\x0b-\x1f]/.test(note)) throw unsigned("the note is malformed");
    const text = note.slice(0, end + 1);
    let isSigned = false;
    for (const line of note.slice(end + 2, -1).split("\n")) {
        const [, name, encoded] = /^— ([^+\s]+) (\S+)$/.exec(line) ?? [];
        const raw = encoded === undefined ? undefined : parseBase64(encoded);
        if (raw === undefined || raw.length < 5) throw unsigned("a signature line is malformed");
        if (name !== verifier.name || !raw.subarray(0, 4).equals(verifier.id)) continue;
        if (isSigned || !verify(null, Buffer.from(text), verifier.key, raw.subarray(4))) throw unsigned(`the signature of ${name} does not fit`);
        isSigned = true;
    }
    if (!isSigned) throw unsigned(`${verifier.name} has not signed it with this key`);
    return text;
}

/**
 * Reads a checkpoint signed by the log of that key.
 * @throws WattError SIGNATURE_INVALID
 */
export function openCheckpoint(note: string, verifier: VerifierKey): Checkpoint {
    const [origin, digits = "", encoded = "", ...extensions] = openNote(note, verifier).slice(0, -1).split("\n");
    const size = /^(0|[1-9]\d*)$/.test(digits) ? Number(digits) : Number.NaN;
    const root = parseBase64(encoded);
    if (origin !== verifier.name || !Number.isSafeInteger(size) || root?.length !== HASH_BYTES || extensions.includes("")) {
        throw unsigned("it is no checkpoint of this log");
    }
    return { origin, size, root };
}

/** The proof as a `.tlog-proof` file. */
export function formatProof({ index, path, checkpoint }: EntryProof): string {
    return [PROOF_HEADER, `index ${index}`, ...path.map((hash) => hash.toString("base64")), "", checkpoint].join("\n");
}

/** @throws WattError PROOF_INVALID */
export function parseProof(text: string): EntryProof {
    const end = text.indexOf("\n\n");
    const [header, ...lines] = text.slice(0, Math.max(end, 0)).split("\n");
    if (lines[0]?.startsWith("extra ")) lines.shift();
    const [, digits] = /^index (0|[1-9]\d*)$/.exec(lines.shift() ?? "") ?? [];
    const index = Number(digits);
    const path = lines.map(parseBase64);
    if (header !== PROOF_HEADER || !Number.isSafeInteger(index) || !path.every((hash) => hash?.length === HASH_BYTES)) {
        throw new WattError("PROOF_INVALID", "The proof is not a C2SP tlog-proof file.");
    }
    return { index, path: path as Buffer[], checkpoint: text.slice(end + 2) };
}

/**
 * The checkpoint under which a proof shows that the log of this key holds the entry.
 * @throws WattError PROOF_INVALID, SIGNATURE_INVALID
 */
export function verifyEntry(entry: Uint8Array | string, proof: string, verifier: VerifierKey): Checkpoint & { index: number } {
    const { index, path, checkpoint } = parseProof(proof);
    const head = openCheckpoint(checkpoint, verifier);
    if (!verifyInclusion(index, head.size, leafHash(entry), path, head.root)) {
        throw new WattError("PROOF_INVALID", `The proof does not show that entry ${index} of ${head.origin} is this one.`);
    }
    return { ...head, index };
}

/** Keys of devices, parsed. */
const parsed = new Map<string, KeyObject>();

/** True where `signature` over `text` was made with the Ed25519 key; public key (32 bytes) and signature in base64. */
export function isSignedBy(publicKey: string, text: string, signature: string): boolean {
    const raw = parseBase64(signature);
    let key = parsed.get(publicKey);
    if (!key) {
        const bytes = parseBase64(publicKey);
        if (bytes?.length !== 32) return false;
        key = publicKeyFrom(bytes);
        if (parsed.size >= 1000) parsed.clear();
        parsed.set(publicKey, key);
    }
    return raw?.length === 64 && verify(null, Buffer.from(text), key, raw);
}

/** The bytes of standard base64 in its one spelling; undefined for any other text. */
export function parseBase64(text: string): Buffer | undefined {
    const bytes = Buffer.from(text, "base64");
    return bytes.toString("base64") === text ? bytes : undefined;
}

/** True for a name that a signature line can hold. */
export function isKeyName(name: string): boolean {
    return /^[^+\s\p{Cc}]+$/u.test(name);
}

function keyId(name: string, key: Buffer): Buffer {
    return createHash("sha256").update(`${name}\n`).update(Buffer.from([ED25519])).update(key).digest().subarray(0, 4);
}

function unsigned(why: string): WattError {
    return new WattError("SIGNATURE_INVALID", `The signature cannot be relied on: ${why}.`);
}
