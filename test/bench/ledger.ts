import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import v8 from "node:v8";
import vm from "node:vm";
import { setImmediate } from "node:timers/promises";
import { parseVerifierKey, verifyEntry } from "../../dist/store/checkpoint.js";
import { auditLedger, Ledger } from "../../dist/store/ledger.js";
import { leafHash, verifyInclusion } from "../../dist/store/merkle.js";
import type { Row } from "./row.js";

v8.setFlagsFromString("--expose-gc");
const collect = vm.runInNewContext("gc") as () => void;
const ENTRIES = 1_000_000;
const BURST = 5000;

/** A ledger with a million entries of 120 bytes on a real disk. */
export async function run(quick: boolean): Promise<Row[]> {
    const folder = mkdtempSync(path.join(tmpdir(), "wl-bench-"));
    const count = quick ? 20_000 : ENTRIES;
    const name = `a ledger of ${count.toLocaleString("en-US")} entries`;
    const entry = (i: number) => `{"at":${1_780_000_000_000 + i},"meter":"plant/meter1","exportWh":${i * 17},"importWh":3,"origin":"measured","pad":"0123456789"}`;
    try {
        const bare = await hashRate(entry);
        const ledger = new Ledger({ folder, origin: "bench" });
        await ledger.ready;
        const before = await heap();
        let most = 0;
        const start = performance.now();
        for (let i = 0; i < count; i += BURST) {
            await Promise.all(Array.from({ length: Math.min(BURST, count - i) }, (_, j) => ledger.append(entry(i + j))));
            if (i % 100_000 === 0) most = Math.max(most, (await heap()) - before);
        }
        const rate = (count / (performance.now() - start)) * 1000;
        most = Math.max(most, (await heap()) - before);
        const key = parseVerifierKey(await ledger.verifierKey());
        const proofMs = await prove(ledger, count, entry);
        if (verifyEntry(entry(7), await ledger.proof(7), key).index !== 7) throw new Error("a proof does not verify");
        await ledger.close();
        const again = new Ledger({ folder, origin: "bench" });
        const opened = performance.now();
        await again.ready;
        const openMs = performance.now() - opened;
        await again.close();
        const audited = performance.now();
        await auditLedger(folder, key);
        const auditS = (performance.now() - audited) / 1000;
        return [
            { name: `${name}: durable appends`, value: rate, unit: "/s", target: ">= 20,000", pass: rate >= 20_000 },
            { name: `${name}: appends beside the bare hashing of their two hashes`, value: rate / bare, unit: "x", target: "-", pass: true },
            { name: `${name}: memory above the empty one`, value: most / 1e6, unit: "MB", target: "<= 20", pass: most <= 20e6 },
            { name: `${name}: an inclusion proof, made and checked`, value: proofMs, unit: "ms", target: "<= 5", pass: proofMs <= 5 },
            { name: `${name}: open again`, value: openMs, unit: "ms", target: "<= 500", pass: openMs <= 500 },
            { name: `${name}: recomputed whole from its files`, value: auditS, unit: "s", target: "<= 60", pass: auditS <= 60 },
        ];
    } finally {
        rmSync(folder, { recursive: true, force: true });
    }
}

/** Leaf and node hash of each entry and nothing else, per second. */
async function hashRate(entry: (i: number) => string): Promise<number> {
    const rounds = 100_000;
    const start = performance.now();
    for (let i = 0; i < rounds; i++) createHash("sha256").update(leafHash(entry(i))).digest();
    await setImmediate();
    return (rounds / (performance.now() - start)) * 1000;
}

async function prove(ledger: Ledger, count: number, entry: (i: number) => string): Promise<number> {
    const rounds = 200;
    const { size, root } = await ledger.head();
    const start = performance.now();
    for (let i = 0; i < rounds; i++) {
        const index = (i * 7919) % count;
        if (!verifyInclusion(index, size, leafHash(entry(index)), await ledger.inclusion(index), root)) throw new Error("a proof does not verify");
    }
    return (performance.now() - start) / rounds;
}

async function heap(): Promise<number> {
    await setImmediate();
    collect();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
}
