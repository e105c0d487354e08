import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import fc from "fast-check";
import { openCheckpoint, parseVerifierKey, verifyEntry } from "../../dist/store/checkpoint.js";
import { auditLedger } from "../../dist/store/ledger.js";
import { shareStore } from "../../dist/store/store.js";
import { EMPTY_ROOT, leafHash, verifyConsistency, verifyInclusion } from "../../dist/store/merkle.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeFolder } from "./kit.js";
import { closeLedgers, fill, keyOf, name, openLedger, ORIGIN, readEntries, rootOf, survives } from "./ledger-kit.js";

/** A folder with entries 0 to `count` in a closed ledger. */
async function filled(folder: string, count: number): Promise<void> {
    const ledger = openLedger(folder);
    await fill(ledger, 0, count);
    await ledger.close();
}

describe("store/ledger", () => {
    let folder: string;
    beforeEach(async () => {
        folder = await makeFolder();
    });
    afterEach(async () => {
        await closeLedgers();
    });

    describe("keeping", () => {
        it("gives entries back by index with the root of RFC 6962, also after a restart", async () => {
            const first = openLedger(folder);
            assert.deepEqual(await first.head(), { size: 0, root: EMPTY_ROOT });
            await fill(first, 0, 20);
            await first.close();
            const second = openLedger(folder);
            await fill(second, 20, 30);
            assert.deepEqual(await readEntries(second), Array.from({ length: 30 }, (_, i) => name(i)));
            assert.deepEqual([second.stats().state, second.stats().rebuilt, second.stats().tornBytes], ["ready", 0, 0]);
        });

        it("writes what arrives within the commit time together, in order", async () => {
            const clock = new ManualClock();
            const ledger = openLedger(folder, { clock, commitEntries: 500 });
            await ledger.ready;
            const kept = Promise.all(["a", "b", "c"].map((entry) => ledger.append(entry)));
            assert.equal(ledger.stats().size, 0);
            clock.advance(1000);
            assert.deepEqual(await kept, [0, 1, 2]);
            const [segment] = (await readdir(folder)).filter((file) => file.endsWith(".seg"));
            assert.equal((await readFile(path.join(folder, segment!))).indexOf("WLsp", 1), -1, "one record");
        });

        it("takes bytes of every kind and length up to 65,535, and keeps each in its own segment if need be", async () => {
            const ledger = openLedger(folder, { segmentBytes: 1 });
            const entries = [Buffer.alloc(0), Buffer.from([0, 255, 10]), Buffer.alloc(65_535, 7)];
            for (const entry of entries) await ledger.append(entry);
            await assert.rejects(ledger.append(Buffer.alloc(65_536)), { code: "LEDGER_ENTRY_INVALID" });
            for (const [i, entry] of entries.entries()) assert.deepEqual(await ledger.entry(i), entry);
            assert.equal((await readdir(folder)).filter((file) => file.endsWith(".seg")).length, 3);
        });

        it("commits and signs what waits on close, and takes nothing after", async () => {
            const ledger = openLedger(folder, { commitEntries: 500 });
            const kept = ledger.append("last words");
            await ledger.close();
            assert.equal(await kept, 0);
            await assert.rejects(ledger.append("x"), { code: "LEDGER_CLOSED" });
            await assert.rejects(ledger.head(), { code: "LEDGER_CLOSED" });
            assert.equal(ledger.stats().state, "closed");
            assert.match(await readFile(path.join(folder, "checkpoint"), "utf8"), /^example\.org\/plant\n1\n/);
        });

        it("refuses a folder in use, and indexes and sizes it does not have", async () => {
            const ledger = openLedger(folder);
            await fill(ledger, 0, 3);
            await assert.rejects(openLedger(folder).ready, { code: "STORE_LOCKED" });
            for (const index of [-1, 3, 0.5, Number.NaN]) {
                await assert.rejects(ledger.entry(index), { code: "LEDGER_RANGE" });
                await assert.rejects(ledger.inclusion(index), { code: "LEDGER_RANGE" });
                await assert.rejects(ledger.proof(index), { code: "LEDGER_RANGE" });
            }
            await assert.rejects(ledger.inclusion(2, 2), { code: "LEDGER_RANGE" });
            await assert.rejects(ledger.consistency(2, 1), { code: "LEDGER_RANGE" });
            await assert.rejects(ledger.consistency(1, 4), { code: "LEDGER_RANGE" });
        });
    });

    describe("proving", () => {
        it("proves each entry in each size, and that each size begins with each older one", async () => {
            const ledger = openLedger(folder);
            const count = 17;
            await fill(ledger, 0, count);
            const roots = Array.from({ length: count + 1 }, (_, size) => rootOf(Array.from({ length: size }, (_unused, i) => name(i))));
            for (let size = 0; size <= count; size++) {
                for (let i = 0; i < size; i++) assert.ok(verifyInclusion(i, size, leafHash(name(i)), await ledger.inclusion(i, size), roots[size]!));
                for (let from = 0; from <= size; from++) assert.ok(verifyConsistency(from, size, roots[from]!, roots[size]!, await ledger.consistency(from, size)));
            }
        });

        it("signs checkpoints and proofs that verify with the key alone, and signs a size once", async () => {
            const ledger = openLedger(folder);
            await fill(ledger, 0, 5);
            const key = parseVerifierKey(await ledger.verifierKey());
            const note = await ledger.checkpoint();
            assert.deepEqual(openCheckpoint(note, key), { origin: ORIGIN, ...(await ledger.head()) });
            assert.equal(await ledger.checkpoint(), note);
            const proof = await ledger.proof(3);
            assert.equal(verifyEntry(name(3), proof, key).index, 3);
            assert.throws(() => verifyEntry(name(2), proof, key), { code: "PROOF_INVALID" });
        });

        it("signs by itself, at most once a minute", async () => {
            const clock = new ManualClock();
            const ledger = openLedger(folder, { clock });
            const signed = async () => {
                await ledger.head();
                return Number((await readFile(path.join(folder, "checkpoint"), "utf8")).split("\n")[1]);
            };
            await fill(ledger, 0, 1);
            assert.equal(await signed(), 1);
            await fill(ledger, 1, 4);
            assert.equal(await signed(), 1);
            clock.advance(60_000);
            assert.equal(await signed(), 4);
        });

        it("keeps one key for ever, readable by nobody else", async () => {
            const first = openLedger(folder);
            const key = await first.verifierKey();
            assert.ok(key.startsWith(`${ORIGIN}+`));
            await fill(first, 0, 1);
            await first.close();
            if (process.platform !== "win32") assert.equal((await stat(path.join(folder, "key.pem"))).mode & 0o777, 0o600);
            assert.equal(await openLedger(folder).verifierKey(), key);
        });
    });

    describe("damage", () => {
        it("of the key, the checkpoint or the name is told, and nothing is signed with another", async () => {
            await filled(folder, 3);
            const at = (file: string) => path.join(folder, file);
            const other = openLedger(folder, { origin: "example.org/other" });
            await assert.rejects(other.ready, { code: "LEDGER_DAMAGED" });
            await other.close();
            const note = await readFile(at("checkpoint"), "utf8");
            await writeFile(at("checkpoint"), note.replace("\n3\n", "\n2\n"));
            const broken = openLedger(folder);
            await assert.rejects(broken.append("x"), { code: "LEDGER_DAMAGED" });
            assert.deepEqual([broken.stats().state, /not signed/.test(broken.stats().reason ?? "")], ["failed", true]);
            await broken.close();
            await writeFile(at("checkpoint"), note);
            await rm(at("key.pem"));
            await assert.rejects(openLedger(folder).ready, { code: "LEDGER_KEY" });
            await assert.rejects(stat(at("key.pem")), { code: "ENOENT" });
        });

        it("of the hashes is mended from the entries, wherever a bit has flipped", async () => {
            const count = 11;
            await filled(folder, count);
            const file = path.join(folder, "hashes");
            const intact = await readFile(file);
            for (let at = 0; at < intact.length; at += 101) {
                const bytes = Buffer.from(intact);
                bytes[at]! ^= 1 << at % 8;
                await writeFile(file, bytes);
                const ledger = openLedger(folder);
                assert.equal((await readEntries(ledger)).length, count);
                for (let from = 1; from < count; from++) await ledger.consistency(from);
                assert.equal(ledger.stats().rebuilt, 1, `byte ${at}`);
                await ledger.close();
                assert.deepEqual(await readFile(file), intact);
            }
            await rm(file);
            assert.equal((await readEntries(openLedger(folder))).length, count);
        });

        it("of an entry is told by the entry and by an audit, wherever a byte has changed; never is another entry given", async () => {
            const count = 6;
            await filled(folder, count);
            const key = parseVerifierKey(await keyOf(folder));
            const [name_] = (await readdir(folder)).filter((file) => file.endsWith(".seg"));
            const file = path.join(folder, name_!);
            const intact = await readFile(file);
            assert.equal((await auditLedger(folder, key)).size, count);
            for (let at = 0; at < intact.length; at++) {
                const bytes = Buffer.from(intact);
                bytes[at]! ^= 1 << at % 8;
                await writeFile(file, bytes);
                await assert.rejects(auditLedger(folder, key), { code: "LEDGER_DAMAGED" }, `byte ${at}`);
                if (at % 13 > 0) continue;
                const ledger = openLedger(folder);
                let unread = 0;
                for (let i = 0; i < count; i++) {
                    const entry = await ledger.entry(i).catch((error: unknown) => {
                        assert.equal((error as { code: string }).code, "LEDGER_DAMAGED");
                        unread++;
                    });
                    if (entry) assert.equal(entry.toString(), name(i));
                }
                assert.ok(unread > 0, `byte ${at}`);
                await ledger.close();
            }
        });

        it("entries that were signed and are cut away are missed", async () => {
            await filled(folder, 4);
            const [segment] = (await readdir(folder)).filter((file) => file.endsWith(".seg"));
            await truncate(path.join(folder, segment!), (await stat(path.join(folder, segment!))).size - 1);
            await assert.rejects(openLedger(folder).ready, { code: "LEDGER_DAMAGED", message: /has signed 4 entries, and 3 are here/ });
        });
    });

    describe("crashes", () => {
        it("at any byte of the last append lose nothing that was acknowledged", async () => {
            const first = openLedger(folder);
            await fill(first, 0, 2);
            const copy = await makeFolder();
            await fill(first, 2, 4);
            await first.head();
            await cp(folder, copy, { recursive: true, filter: (file) => !file.endsWith("lock") });
            const [segment] = (await readdir(copy)).filter((file) => file.endsWith(".seg"));
            const bytes = await readFile(path.join(copy, segment!));
            for (let length = bytes.length; length > bytes.length - 40; length -= 3) {
                await writeFile(path.join(copy, segment!), bytes.subarray(0, length));
                const ledger = openLedger(copy);
                const size = length === bytes.length ? 4 : 3;
                assert.deepEqual(await readEntries(ledger), Array.from({ length: size }, (_, i) => name(i)));
                assert.equal(await ledger.append("more"), size);
                await ledger.close();
                await rm(copy, { recursive: true });
                await cp(folder, copy, { recursive: true, filter: (file) => !file.endsWith("lock") });
            }
        });

        // Every step of every fault: test/services/store/ledger.test.ts.
        it("and faults at any step: what was acknowledged stays, what was signed stays true, and it goes on when the disk does", async () => {
            for (let step = 0; await survives(step, "EIO"); step += 9);
            for (let step = 4; await survives(step, "short"); step += 19);
            for (let step = 2; await survives(step, "EIO", 0); step += 19);
        });

        it("kill -9 at random instants loses nothing that was acknowledged", async () => {
            const script = `
                const { Ledger } = require(${JSON.stringify(require.resolve("../../dist/store/ledger.js"))});
                const ledger = new Ledger({ folder: ${JSON.stringify(folder)}, origin: "${ORIGIN}", commitMs: 1, checkpointMs: 3 });
                const next = (i) => ledger.append("entry " + i).then((index) => { process.stdout.write(index + "\\n"); next(i + 3); });
                ledger.head().then(({ size }) => [0, 1, 2].map((i) => next(size + i)));
            `;
            let acknowledged = -1;
            for (let round = 0; round < 4; round++) {
                const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
                let told = "";
                let lines = 0;
                await new Promise<void>((resolve) => {
                    child.stdout.on("data", (chunk: Buffer) => {
                        told += chunk.toString();
                        lines += chunk.toString().split("\n").length - 1;
                        if (lines > 10 + 7 * round) resolve();
                    });
                });
                child.kill("SIGKILL");
                await once(child, "close");
                acknowledged = Math.max(acknowledged, ...told.split("\n").slice(0, -1).map(Number));
                const ledger = openLedger(folder);
                const { size } = await ledger.head();
                assert.ok(size > acknowledged, `${size} of ${acknowledged}`);
                assert.equal((await readEntries(ledger)).length, size);
                assert.equal(ledger.stats().rebuilt, 0);
                await ledger.close();
                await auditLedger(folder, parseVerifierKey(await keyOf(folder)));
            }
        });
    });

    it("is part of a store: one for each name, closed with it, its problems told", async () => {
        const { store, release } = shareStore({ folder });
        const ledger = store.ledger(ORIGIN);
        assert.equal(store.ledger(ORIGIN), ledger);
        assert.notEqual(store.ledger("example.org/other"), ledger);
        const kept = ledger.append("a");
        await release();
        await store.ended();
        assert.equal(await kept, 0);
        const again = shareStore({ folder });
        assert.equal((await again.store.ledger(ORIGIN).entry(0)).toString(), "a");
        assert.deepEqual(again.store.health().problems, []);
        await again.release();
        await again.store.ended();
        await rm(path.join(folder, "ledger", encodeURIComponent(ORIGIN).replaceAll(".", "%2E"), "key.pem"));
        const third = shareStore({ folder });
        await assert.rejects(third.store.ledger(ORIGIN).append("b"), { code: "LEDGER_KEY" });
        assert.match(third.store.health().problems.join(), /The ledger's key is gone/);
        await third.release();
        await third.store.ended();
    });

    it("whatever is appended and whenever it restarts, all sizes it signed follow from each other", async () => {
        const command = fc.oneof(fc.record({ append: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 9 }) }), fc.constantFrom("restart" as const, "sign" as const));
        await fc.assert(
            fc.asyncProperty(fc.array(command, { maxLength: 20 }), async (commands) => {
                const own = await makeFolder();
                let ledger = openLedger(own, { segmentBytes: 200, commitEntries: 3 });
                const key = parseVerifierKey(await ledger.verifierKey());
                const model: Uint8Array[] = [];
                const signed: { size: number; root: Buffer }[] = [];
                for (const step of commands) {
                    if (step === "restart") {
                        await ledger.close();
                        ledger = openLedger(own, { segmentBytes: 200, commitEntries: 3 });
                    } else if (step === "sign") {
                        signed.push(openCheckpoint(await ledger.checkpoint(), key));
                    } else {
                        const kept = step.append.map((entry) => ledger.append(entry));
                        await ledger.checkpoint();
                        assert.deepEqual(await Promise.all(kept), step.append.map((_, i) => model.length + i));
                        model.push(...step.append);
                    }
                }
                const head = await ledger.head();
                assert.equal(head.size, model.length);
                for (const [i, entry] of model.entries()) assert.deepEqual(await ledger.entry(i), Buffer.from(entry));
                for (const { size, root } of signed) assert.ok(verifyConsistency(size, head.size, root, head.root, await ledger.consistency(size)));
                await ledger.close();
            }),
            { numRuns: 25 },
        );
    });
});
