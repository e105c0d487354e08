import assert from "node:assert/strict";
import { createHash, createPublicKey, generateKeyPairSync, verify, type KeyObject } from "node:crypto";
import { inspect } from "node:util";
import fc from "fast-check";
import { privateKeyOf } from "../../dist/common/ed25519.js";
import { ambiguous, base58, fieldsOf, hederaDid, parseMrvConfig, publicKeyOf, signCredential, signedBytes, type Credential, type MrvConfig } from "../../dist/guardian/credential.js";

type Json = Record<string, unknown>;
type Loader = (url: string) => Promise<{ documentUrl: string; document: unknown }>;

/** What current Guardian itself checks credentials with. */
const { verifyCredential } = require("@digitalbazaar/vc") as { verifyCredential: (options: object) => Promise<{ verified: boolean; error?: unknown }> };
const { Ed25519Signature2018 } = require("@digitalbazaar/ed25519-signature-2018") as { Ed25519Signature2018: { new (): object; CONTEXT_URL: string; CONTEXT: unknown } };
const { contexts } = require("@digitalbazaar/credentials-context") as { contexts: Map<string, unknown> };

const TYPE = "9896bd01-4db8-42b1-8e4f-cf1b49302129&1.0.0";
const FIELDS = ["field0", "field1", "field2", "accountId", "policyId"];
/** How Guardian's contexts of different ages describe a field, and name the type. */
const TERMS = [{ "@type": "https://www.schema.org/text" }, { "@id": "https://www.schema.org/text" }];
const TYPE_IDS = [`#${TYPE}`, `schema:9896bd01#${TYPE}`, `ipfs://bafkreihgglggebed#${TYPE}`];

function contextOf(term: object, typeId = `#${TYPE}`): Json {
    return {
        "@version": 1.1,
        "@vocab": "https://w3id.org/traceability/#undefinedTerm",
        id: "@id",
        type: "@type",
        [TYPE]: { "@id": typeId, "@context": Object.fromEntries(FIELDS.map((name) => [name, term])) },
    };
}

const seed = createHash("sha256").update("a device").digest();
const key = privateKeyOf(seed);
const did = hederaDid(key, "testnet", "0.0.29614911");

/** The file of a policy's download button. */
function mrvFile(change: Json = {}): Json {
    const publicKey = createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32);
    const method = { id: `${did}#did-root-key`, type: "Ed25519VerificationKey2018", controller: did, publicKeyBase58: base58(publicKey), privateKeyBase58: base58(Buffer.concat([seed, publicKey])) };
    return {
        url: "https://guardian.example/external",
        topic: "0.0.29614911",
        hederaAccountId: "0.0.5",
        hederaAccountKey: "302e-not-used",
        installer: "did:hedera:testnet:participant_0.0.1",
        did,
        type: TYPE,
        schema: { "@context": contextOf(TERMS[0]!) },
        context: { type: TYPE, "@context": ["ipfs://the-context"] },
        didDocument: { id: did, verificationMethod: [method] },
        policyId: "62a0",
        policyTag: "iREC",
        ref: did,
        ...change,
    };
}
const config = (change: Json = {}): MrvConfig => parseMrvConfig(JSON.stringify(mrvFile(change)));

async function upstreamSays(credential: unknown, { context, key: signer }: { context: Json; key: KeyObject }): Promise<boolean> {
    const method = { id: `${did}#did-root-key`, type: "Ed25519VerificationKey2018", controller: did, publicKeyBase58: publicKeyOf(signer) };
    const known: Record<string, unknown> = {
        "ipfs://the-context": { "@context": context },
        [did]: { "@context": "https://www.w3.org/ns/did/v1", id: did, verificationMethod: [method], assertionMethod: [method.id] },
        [method.id]: { "@context": Ed25519Signature2018.CONTEXT_URL, ...method },
        [Ed25519Signature2018.CONTEXT_URL]: Ed25519Signature2018.CONTEXT,
    };
    const documentLoader: Loader = async (url) => {
        const document = known[url] ?? contexts.get(url);
        if (document === undefined) throw new Error(`asks for ${url}`);
        return { documentUrl: url, document };
    };
    return (await verifyCredential({ credential, suite: [new Ed25519Signature2018()], documentLoader })).verified;
}

const ID = "urn:uuid:123e4567-e89b-42d3-a456-426614174000";
const VALUES = { field0: "2026-01-31", field1: "160.5", field2: "2026-01-01/2026-02-01" };
const ISSUED = Date.UTC(2026, 1, 1, 12, 30, 15, 250);

describe("a credential as mrv-sender makes it", function () {
    this.timeout(20_000);

    for (const term of TERMS) {
        for (const typeId of TYPE_IDS) {
            it(`is verified by the library that current Guardian uses, with fields ${JSON.stringify(term)} of ${typeId}`, async () => {
                const context = contextOf(term, typeId);
                const made = config({ schema: { "@context": context } });
                const credential = signCredential(made, { id: ID, issuedMs: ISSUED, values: VALUES });
                assert.equal(await upstreamSays(credential, { context, key }), true);
                for (const change of [
                    { issuanceDate: "2026-02-01T12:30:15.251Z" },
                    { issuer: "did:hedera:testnet:another_0.0.1" },
                    { id: ID.replace("1", "2") },
                    { credentialSubject: [{ ...credential.credentialSubject[0], field1: "161.5" }] },
                    { credentialSubject: [{ ...credential.credentialSubject[0], field9: "1" }] },
                    { proof: { ...credential.proof, created: "2026-02-01T12:30:16Z" } },
                ]) {
                    assert.equal(await upstreamSays({ ...credential, ...change }, { context, key }), false, JSON.stringify(change));
                }
                assert.equal(await upstreamSays(credential, { context, key: generateKeyPairSync("ed25519").privateKey }), false);
            });
        }
    }

    it("is verified so whatever the texts are", async () => {
        const text = fc.oneof(fc.string({ unit: "grapheme", maxLength: 30 }), fc.constantFrom('"', "\\", '\\"', "a\u00a0b", "😀", "ü", "<x>", "{}", "", "\u2028"));
        const [term = {}] = TERMS;
        const context = contextOf(term);
        const made = config();
        await fc.assert(
            fc.asyncProperty(fc.record({ field0: text, field1: text, field2: text }), async (values) => {
                let credential: Credential;
                try {
                    credential = signCredential(made, { id: ID, issuedMs: ISSUED, values });
                } catch (error) {
                    assert.equal((error as { code?: string }).code, "MRV_VALUE");
                    assert.match(Object.values(values).join(""), /[\p{Cc}\p{Cs}]/u);
                    return;
                }
                assert.equal(await upstreamSays(credential, { context, key }), true, JSON.stringify(values));
            }),
            { numRuns: 60 },
        );
    });

    it("has the form of mrv-sender's, and the same bytes each time", () => {
        const made = config();
        const credential = signCredential(made, { id: ID, issuedMs: ISSUED, values: VALUES });
        assert.deepEqual(credential, signCredential(made, { id: ID, issuedMs: ISSUED, values: VALUES }));
        const { proof, ...rest } = credential;
        assert.deepEqual(rest, {
            id: ID,
            type: ["VerifiableCredential"],
            issuer: did,
            issuanceDate: "2026-02-01T12:30:15.250Z",
            "@context": ["https://www.w3.org/2018/credentials/v1"],
            credentialSubject: [{ type: TYPE, "@context": ["ipfs://the-context"], ...VALUES, policyId: "62a0", accountId: "0.0.5" }],
        });
        const { jws, ...options } = proof;
        assert.deepEqual(options, { type: "Ed25519Signature2018", created: "2026-02-01T12:30:15Z", verificationMethod: `${did}#did-root-key`, proofPurpose: "assertionMethod" });
        const [head = "", payload, signature = ""] = jws.split(".");
        assert.deepEqual([Buffer.from(head, "base64url").toString(), payload], ['{"alg":"EdDSA","b64":false,"crit":["b64"]}', ""]);
        assert.ok(verify(null, signedBytes(rest, options, made.context), createPublicKey(key), Buffer.from(signature, "base64url")));
    });

    it("says which fields the signature cannot tell apart, and is right about it", async () => {
        const swap = (credential: Credential): Credential => ({ ...credential, credentialSubject: [{ ...credential.credentialSubject[0], field1: VALUES.field2, field2: VALUES.field1 }] });
        for (const [term, names] of [[TERMS[0], []], [TERMS[1], ["field0", "field1", "field2"]]] as const) {
            const context = contextOf(term!);
            const made = config({ schema: JSON.stringify({ "@context": context }) });
            assert.deepEqual(ambiguous(made, Object.keys(VALUES)), names);
            const swapped = swap(signCredential(made, { id: ID, issuedMs: ISSUED, values: VALUES }));
            assert.equal(await upstreamSays(swapped, { context, key }), names.length > 0, "values of fields of one meaning may be exchanged");
        }
    });

    it("is not made of what verifiers read differently, or what the schema does not say", () => {
        const sign = (made: MrvConfig, values: Record<string, string>) => () => signCredential(made, { id: ID, issuedMs: ISSUED, values });
        for (const value of ["a\nb", "a\tb", "\u0000", "\u007f", "\ud800"]) assert.throws(sign(config(), { field0: value }), { code: "MRV_VALUE" });
        for (const name of ["id", "type", "proof", "@id", "a b", "schema:x", "", TYPE]) assert.throws(sign(config(), { [name]: "1" }), { code: "MRV_VALUE" }, name);
        for (const term of [{ "@id": "x:y", "@container": "@list" }, { "@id": "type:text" }, { "@type": "@id" }, "https://x.org", { "@type": "xsd:date" }]) {
            assert.throws(sign(config({ schema: { "@context": contextOf(term as object) } }), { field0: "1" }), { code: "MRV_VALUE" }, JSON.stringify(term));
        }
        const { "@vocab": _none, ...without } = contextOf(TERMS[0]!);
        assert.throws(sign(config({ schema: { "@context": without } }), VALUES), { code: "MRV_VALUE" });
    });
});

describe("the file of a policy for mrv-sender", () => {
    it("is read in all forms that Guardian has written", () => {
        const publicKey = createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32);
        const der = key.export({ format: "der", type: "pkcs8" });
        for (const secret of [seed, Buffer.concat([seed, publicKey]), der, Buffer.concat([der, publicKey])]) {
            const file = mrvFile();
            const method = (file["didDocument"] as { verificationMethod: Json[] }).verificationMethod[0]!;
            method["privateKeyBase58"] = base58(secret);
            assert.equal(publicKeyOf(parseMrvConfig(JSON.stringify(file)).key), publicKeyOf(key));
        }
        assert.deepEqual(fieldsOf(config()), FIELDS);
        assert.deepEqual(config({ context: { type: TYPE, "@context": "ipfs://one" } }).contexts, ["ipfs://one"]);
        assert.equal(config().owner, "did:hedera:testnet:participant_0.0.1");
    });

    it("or refused in words that hold no key", () => {
        const secret = (mrvFile()["didDocument"] as { verificationMethod: Json[] }).verificationMethod[0]!["privateKeyBase58"] as string;
        const method = (change: Json) => ({ didDocument: { verificationMethod: [{ ...(mrvFile()["didDocument"] as { verificationMethod: Json[] }).verificationMethod[0], ...change }] } });
        const wrong: Json[] = [
            { did: "device" },
            { installer: undefined },
            { policyTag: 5 },
            { type: "another" },
            { schema: "{" },
            { schema: {} },
            { context: {} },
            { didDocument: { verificationMethod: [] } },
            method({ privateKeyBase58: undefined }),
            method({ privateKeyBase58: `${secret}0` }),
            method({ privateKeyBase58: "abc" }),
            method({ publicKeyBase58: "abc" }),
            method({ type: "Bls12381G2Key2020" }),
        ];
        for (const change of wrong) {
            assert.throws(
                () => config(change),
                (error: Error) => (error as { code?: unknown }).code === "MRV_CONFIG" && !inspect(error, { depth: 9 }).includes(secret.slice(0, 20)),
                JSON.stringify(change),
            );
        }
        assert.throws(() => config({ did: "device" }), { message: "The MRV configuration cannot be used: it is not the file that Guardian gives out for mrv-sender. did must be a DID. Download it from the policy in Guardian." });
        for (const text of ["", "null", "[]", "{", '"x"']) assert.throws(() => parseMrvConfig(text), { code: "MRV_CONFIG" });
    });

    it("writes bytes in base58 as others do", () => {
        assert.equal(base58(Buffer.from("Hello World!")), "2NEpo7TZRRrLZSi2U");
        assert.equal(base58(Buffer.from("0000287fb4cd", "hex")), "11233QC4");
        assert.equal(base58(Buffer.alloc(0)), "");
    });
});
