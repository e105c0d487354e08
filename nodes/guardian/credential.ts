import { createHash, sign, type KeyObject } from "node:crypto";
import { z } from "zod";
import { parseConfig } from "../common/config.js";
import { PKCS8_HEADER, privateKeyOf, rawPublicKey } from "../common/ed25519.js";
import { WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";

/** Who signs what for which policy: the file that Guardian gives out for its mrv-sender. */
export interface MrvConfig {
    /** The device, and the method and key that it signs with. */
    did: string;
    method: string;
    key: KeyObject;
    /** The participant whose device it is. */
    owner: string;
    policyId: string;
    policyTag: string;
    /** Schema of the policy: its type, the address of its JSON-LD context, and that context. */
    type: string;
    contexts: string[];
    context: Terms;
    /** What the schema may ask for beside the values. */
    accountId?: string | undefined;
    ref?: string | undefined;
}

/** A JSON-LD context as Guardian makes it of a schema. */
type Terms = Record<string, unknown>;

/** A W3C Verifiable Credential with its proof. */
export type Credential = Record<string, unknown> & { id: string; credentialSubject: Record<string, unknown>[]; proof: { jws: string } };

const CREDENTIALS = "https://www.w3.org/2018/credentials";
const SECURITY = "https://w3id.org/security#";
const XSD_TIME = "http://www.w3.org/2001/XMLSchema#dateTime";
const RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type";
/** Unencoded payload (RFC 7797), as Ed25519Signature2018 has it. */
const JWS_HEADER = Buffer.from(JSON.stringify({ alg: "EdDSA", b64: false, crit: ["b64"] })).toString("base64url");

const text = z.string().trim().min(1);
const mrvSchema = z.looseObject({
    did: text.regex(/^did:\S+$/, "must be a DID"),
    installer: text.regex(/^did:\S+$/, "must be the DID of the participant"),
    policyId: text,
    policyTag: text,
    type: text,
    schema: z.union([z.string(), z.looseObject({})]),
    context: z.looseObject({ "@context": z.union([text.transform((one) => [one]), z.array(text).min(1)]) }),
    didDocument: z.looseObject({ verificationMethod: z.array(z.looseObject({ id: text, type: text, privateKeyBase58: text.optional(), publicKeyBase58: text.optional() })).min(1) }),
    hederaAccountId: z.string().optional(),
    ref: z.string().optional(),
});

/** @throws WattError MRV_CONFIG saying what is wrong with the file; never what its key is */
export function parseMrvConfig(content: string): MrvConfig {
    const json = parseJson(content);
    let found: z.output<typeof mrvSchema>;
    try {
        found = parseConfig(mrvSchema, json);
    } catch (error) {
        throw wrong(`it is not the file that Guardian gives out for mrv-sender. ${(error as Error).message.replace(/^Check the settings: /, "")}`);
    }
    const { did, installer, policyId, policyTag, type, schema, context, didDocument, hederaAccountId, ref } = found;
    const method = didDocument.verificationMethod.find((known) => known.type === "Ed25519VerificationKey2018");
    if (method?.privateKeyBase58 === undefined) throw wrong("it has no Ed25519 key with a private part (privateKeyBase58).");
    const key = privateKey(method.privateKeyBase58);
    if (method.publicKeyBase58 !== undefined && method.publicKeyBase58 !== publicKeyOf(key)) throw wrong("its private key does not belong to its public key.");
    const terms: unknown = typeof schema === "string" ? parseJson(schema) : schema;
    const inner = isObject(terms) ? terms["@context"] : undefined;
    if (!isObject(inner) || !isObject(inner[type])) throw wrong(`its schema has no JSON-LD context for the type ${type}.`);
    return { did, method: method.id, key, owner: installer, policyId, policyTag, type, contexts: context["@context"], context: inner, accountId: hederaAccountId, ref };
}

/** The fields that the policy's schema names. */
export function fieldsOf({ context, type }: MrvConfig): string[] {
    const own = (context[type] as Terms)["@context"];
    return isObject(own) ? Object.keys(own) : [];
}

/**
 * A credential over flat texts, as Guardian's mrv-sender makes it: Ed25519Signature2018 over the RDF of the document
 * (W3C Verifiable Credentials 1.1; RDF Dataset Canonicalization). The same input gives the same bytes.
 * @throws WattError MRV_VALUE for what cannot be signed so that every verifier reads it alike
 */
export function signCredential(config: MrvConfig, { id, issuedMs, values }: { id: string; issuedMs: number; values: Record<string, string> }): Credential {
    const { type, contexts, accountId, ref, policyId } = config;
    const known = fieldsOf(config);
    const extra = Object.entries({ policyId, accountId, ref }).filter((entry): entry is [string, string] => entry[1] !== undefined && known.includes(entry[0]));
    const subject = { type, "@context": contexts, ...values, ...Object.fromEntries(extra) };
    const issued = new Date(issuedMs).toISOString();
    const unsigned = {
        id,
        type: ["VerifiableCredential"],
        issuer: config.did,
        issuanceDate: issued,
        "@context": [`${CREDENTIALS}/v1`],
        credentialSubject: [subject],
    };
    const proof = { type: "Ed25519Signature2018", created: issued.replace(/\.\d+Z$/, "Z"), verificationMethod: config.method, proofPurpose: "assertionMethod" };
    const signature = sign(null, signedBytes(unsigned, proof, config.context), config.key).toString("base64url");
    return { ...unsigned, proof: { ...proof, jws: `${JWS_HEADER}..${signature}` } };
}

/** What the signature is over: the header, then the hashes of proof options and document as canonical N-Quads. @throws WattError MRV_VALUE */
export function signedBytes(document: object, proof: object, context: unknown): Buffer {
    const { id, issuer, issuanceDate, credentialSubject } = document as Record<string, unknown>;
    const { created, verificationMethod } = proof as Record<string, unknown>;
    const subject = Array.isArray(credentialSubject) ? (credentialSubject as unknown[])[0] : undefined;
    if (!isObject(subject) || !isObject(context)) throw new WattError("MRV_VALUE", "The document is no credential of one subject.");
    const { type, "@context": _context, ...values } = subject;
    // One node without a name in each graph, so its canonical label is always the first.
    const about = quads([
        [iri(id), RDF_TYPE, iri(`${CREDENTIALS}#VerifiableCredential`)],
        [iri(id), `${CREDENTIALS}#credentialSubject`, "_:c14n0"],
        [iri(id), `${CREDENTIALS}#issuanceDate`, literal(issuanceDate, XSD_TIME)],
        [iri(id), `${CREDENTIALS}#issuer`, iri(issuer)],
        ["_:c14n0", RDF_TYPE, iri(typeIri(context, String(type)))],
        ...Object.entries(values).map(([name, value]): Triple => {
            const { property, datatype } = meaningOf(context, String(type), name);
            return ["_:c14n0", property, literal(value, datatype, name)];
        }),
    ]);
    const options = quads([
        ["_:c14n0", "http://purl.org/dc/terms/created", literal(created, XSD_TIME)],
        ["_:c14n0", RDF_TYPE, iri(`${SECURITY}Ed25519Signature2018`)],
        ["_:c14n0", `${SECURITY}proofPurpose`, iri(`${SECURITY}assertionMethod`)],
        ["_:c14n0", `${SECURITY}verificationMethod`, iri(verificationMethod)],
    ]);
    const hash = (part: string) => createHash("sha256").update(part).digest();
    return Buffer.concat([Buffer.from(`${JWS_HEADER}.`), hash(options), hash(about)]);
}

/**
 * Fields that the context gives one meaning. The signature is over meanings, so it does not say which value belongs to which of
 * these: exchanged values still verify.
 */
export function ambiguous({ context, type }: MrvConfig, names: string[]): string[] {
    const meanings = names.map((name) => meaningOf(context, type, name).property);
    return names.filter((_, i) => meanings.indexOf(meanings[i] as string) !== meanings.lastIndexOf(meanings[i] as string));
}

type Triple = [subject: string, property: string, object: string];

function quads(triples: Triple[]): string {
    const lines = triples.map(([subject, property, object]) => `${subject} <${property}> ${object} .\n`);
    return [...new Set(lines)].toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0)).join("");
}

/** Characters that no IRI holds. */
function iri(value: unknown): string {
    if (typeof value !== "string" || !/^[A-Za-z][A-Za-z0-9+.-]*:[^\s<>"{}|\\^`]+$/.test(value)) throw new WattError("MRV_VALUE", `"${String(value)}" is no address that can be signed.`);
    return `<${value}>`;
}

/** Control characters are written differently by the two generations of the algorithm, so none is signed. */
function literal(value: unknown, datatype: string | undefined, name = "A date"): string {
    if (typeof value !== "string" || /[\p{Cc}\p{Cs}]/u.test(value)) throw new WattError("MRV_VALUE", `${name} must be a text without control characters.`);
    return `"${value.replace(/[\\"]/g, "\\$&")}"${datatype === undefined ? "" : `^^<${datatype}>`}`;
}

/** What a field means by the context of its schema, in the forms that Guardian writes; anything else is refused, not guessed. */
function meaningOf(context: Terms, type: string, name: string): { property: string; datatype?: string } {
    const own = (context[type] as Terms | undefined)?.["@context"];
    const term = isObject(own) ? own[name] : undefined;
    if (!/^[A-Za-z_]\w*$/.test(name) || ["id", "type", "proof"].includes(name)) throw new WattError("MRV_VALUE", `${name} is no name of a field that can be signed.`);
    if (term !== undefined && (!isObject(term) || Object.keys(term).some((key) => key !== "@id" && key !== "@type"))) {
        throw new WattError("MRV_VALUE", `${name} is not a plain text in the policy's schema, so it cannot be signed here.`);
    }
    if (term === undefined && name in context) throw new WattError("MRV_VALUE", `${name} is not a field of the policy's schema.`);
    const { "@id": id = name, "@type": datatype } = term ?? {};
    if (typeof id !== "string" || (datatype !== undefined && (typeof datatype !== "string" || !/^https?:\/\/[^\s<>"]+$/.test(datatype)))) {
        throw new WattError("MRV_VALUE", `${name} is not a plain text in the policy's schema, so it cannot be signed here.`);
    }
    return { property: expand(context, id), ...(datatype !== undefined && { datatype }) };
}

function typeIri(context: Terms, type: string): string {
    const id = (context[type] as Terms | undefined)?.["@id"];
    if (typeof id !== "string") throw new WattError("MRV_VALUE", `The policy's schema does not know the type ${type}.`);
    return expand(context, id);
}

/** An address as it is, else appended to the context's vocabulary (JSON-LD 1.1 §5.2, as far as Guardian's contexts go). */
function expand(context: Terms, id: string): string {
    const vocabulary = context["@vocab"];
    const prefix = /^([^:/#]+):/.exec(id)?.[1];
    if (prefix !== undefined) {
        if (prefix in context) throw new WattError("MRV_VALUE", `The policy's schema abbreviates ${id}, which is not understood here.`);
        return id;
    }
    if (typeof vocabulary !== "string" || !/^https?:\/\/\S+$/.test(vocabulary)) throw new WattError("MRV_VALUE", `The policy's schema gives ${id} no meaning.`);
    return vocabulary + id;
}

/** A DID of Hedera: the hash of the public key, and the topic of its document. */
export function hederaDid(key: KeyObject, network: string, topic: string): string {
    return `did:hedera:${network}:${base58(createHash("sha256").update(rawPublicKey(key)).digest())}_${topic}`;
}

export function publicKeyOf(key: KeyObject): string {
    return base58(rawPublicKey(key));
}

/** An Ed25519 key of its 32 bytes; Guardian appends the public half, and older versions begin with the header of the format. */
function privateKey(encoded: string): KeyObject {
    const bytes = fromBase58(encoded);
    const hasHeader = bytes.subarray(0, PKCS8_HEADER.length).equals(PKCS8_HEADER);
    const seed = (hasHeader ? bytes.subarray(PKCS8_HEADER.length) : bytes).subarray(0, 32);
    if (seed.length !== 32) throw wrong("its private key is not one of Ed25519.");
    return privateKeyOf(seed);
}

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

export function base58(bytes: Buffer): string {
    let number = BigInt(`0x0${bytes.toString("hex")}`);
    let digits = "";
    for (; number > 0n; number /= 58n) digits = (BASE58[Number(number % 58n)] as string) + digits;
    return "1".repeat(bytes.findIndex((byte) => byte !== 0) < 0 ? bytes.length : bytes.findIndex((byte) => byte !== 0)) + digits;
}

function fromBase58(encoded: string): Buffer {
    let number = 0n;
    for (const digit of encoded) {
        const value = BASE58.indexOf(digit);
        if (value < 0) throw wrong("its private key is not in base58.");
        number = number * 58n + BigInt(value);
    }
    const hex = number === 0n ? "" : number.toString(16);
    const zeros = /^1*/.exec(encoded)?.[0].length ?? 0;
    return Buffer.concat([Buffer.alloc(zeros), Buffer.from(hex.length % 2 === 1 ? `0${hex}` : hex, "hex")]);
}

function parseJson(content: string): unknown {
    try {
        return JSON.parse(content);
    } catch {
        throw wrong("it is not JSON.");
    }
}

function wrong(what: string): WattError {
    return new WattError("MRV_CONFIG", `The MRV configuration cannot be used: ${what} Download it from the policy in Guardian.`);
}
