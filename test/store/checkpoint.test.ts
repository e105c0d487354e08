import assert from "node:assert/strict";
import fc from "fast-check";
import { createSigningKey, formatProof, openCheckpoint, openNote, parseProof, parseVerifierKey, Signer, verifyEntry } from "../../dist/store/checkpoint.js";
import { leafHash, nodeHash } from "../../dist/store/merkle.js";

/** The example of the C2SP signed-note specification. */
const EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const EXAMPLE = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

const signer = new Signer("home/ledger", createSigningKey());
const verifier = parseVerifierKey(signer.verifierKey);
const entries = ["a", "b"];
const root = nodeHash(leafHash("a"), leafHash("b"));
const checkpoint = signer.checkpoint(2, root);
const proof = formatProof({ index: 1, path: [leafHash("a")], checkpoint });

describe("store/checkpoint", () => {
    it("opens the note of the specification", () => {
        assert.equal(openNote(EXAMPLE, parseVerifierKey(EXAMPLE_KEY)), "This is an example message.\n");
        assert.throws(() => openNote(EXAMPLE, verifier), { code: "SIGNATURE_INVALID" });
    });

    it("signs checkpoints in the form of the specification", () => {
        const [name, size, hash, blank, line] = checkpoint.split("\n");
        assert.deepEqual([name, size, hash, blank], ["home/ledger", "2", root.toString("base64"), ""]);
        assert.match(line!, /^— home\/ledger [A-Za-z0-9+/]{90}[A-Za-z0-9+/=]{2}$/);
        assert.deepEqual(openCheckpoint(checkpoint, verifier), { origin: "home/ledger", size: 2, root });
    });

    it("ignores signatures of others and takes each of its own", () => {
        const line = EXAMPLE.split("\n").at(-2)!;
        assert.deepEqual(openCheckpoint(`${checkpoint}${line}\n`, verifier).size, 2);
        assert.throws(() => openCheckpoint(`${checkpoint}— home/ledger nonsens\n`, verifier), { code: "SIGNATURE_INVALID" });
    });

    it("refuses notes that are no checkpoint of the log, though signed", () => {
        const hash = root.toString("base64");
        for (const text of ["\n", "home/ledger\n2\n", `other\n2\n${hash}\n`, `home/ledger\n02\n${hash}\n`, `home/ledger\n-1\n${hash}\n`, `home/ledger\n2\n${hash.slice(4)}\n`, `home/ledger\n9007199254740993\n${hash}\n`, `home/ledger\n2\n${hash}\n\nmore\n`]) {
            assert.throws(() => openCheckpoint(signer.sign(text), verifier), { code: "SIGNATURE_INVALID" }, JSON.stringify(text));
        }
    });

    it("shows that an entry is in the log, in the form of C2SP tlog-proof", () => {
        assert.equal(proof, `c2sp.org/tlog-proof@v1\nindex 1\n${leafHash("a").toString("base64")}\n\n${checkpoint}`);
        assert.deepEqual(verifyEntry(entries[1]!, proof, verifier), { origin: "home/ledger", size: 2, root, index: 1 });
        assert.equal(parseProof(proof.replace("\n", "\nextra YWJj\n")).index, 1);
        assert.throws(() => verifyEntry("c", proof, verifier), { code: "PROOF_INVALID" });
        for (const text of ["", "c2sp.org/tlog-proof@v1\n", proof.replace("index 1", "index 01"), proof.replace("index 1", "index x"), proof.replace("index", "indes"), proof.replace("@v1", "@v2")]) {
            assert.throws(() => verifyEntry("b", text, verifier), { code: "PROOF_INVALID" }, text);
        }
    });

    it("sees any flipped bit of a proof", () => {
        const bytes = Buffer.from(proof);
        fc.assert(
            fc.property(fc.nat(bytes.length * 8 - 1), (bit) => {
                const other = Buffer.from(bytes);
                other[bit >> 3]! ^= 1 << (bit & 7);
                assert.throws(() => verifyEntry("b", other.toString(), verifier), /./);
            }),
            { numRuns: 1000 },
        );
    });

    it("refuses keys and names that are none, and says so", () => {
        for (const key of ["", "a+b+c", EXAMPLE_KEY.replace("foo", "bar"), EXAMPLE_KEY.replace("Aeky", "Beky"), EXAMPLE_KEY.slice(0, -1), EXAMPLE_KEY.replace("530d", "530e")]) {
            assert.throws(() => parseVerifierKey(key), { code: "VERIFIER_KEY_INVALID" }, key);
        }
        for (const name of ["", "a b", "a+b", "a\nb"]) assert.throws(() => new Signer(name, createSigningKey()), { code: "LEDGER_NAME" });
        assert.throws(() => new Signer("a", "garbage"), { code: "LEDGER_KEY" });
    });
});
