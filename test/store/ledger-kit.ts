import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import path from "node:path";
import { openCheckpoint, parseVerifierKey } from "../../dist/store/checkpoint.js";
import { Ledger, type LedgerOptions } from "../../dist/store/ledger.js";
import { Frontier, leafHash, verifyConsistency, verifyInclusion } from "../../dist/store/merkle.js";
import { ManualClock } from "../common/manual-clock.js";
import { FaultyFiles, type Fault } from "./faulty-files.js";
import { makeFolder, removeFolders } from "./kit.js";

export const ORIGIN = "example.org/plant";
const opened: Ledger[] = [];

/** Closes what tests left open, and removes their folders. */
export async function closeLedgers(): Promise<void> {
    await Promise.allSettled(opened.splice(0).map((ledger) => ledger.close()));
    await removeFolders();
}

/** A ledger that commits every append at once. */
export function openLedger(folder: string, options: Partial<LedgerOptions> = {}): Ledger {
    const ledger = new Ledger({ folder, origin: ORIGIN, commitEntries: 1, clock: new ManualClock(), ...options });
    opened.push(ledger);
    return ledger;
}

export const name = (i: number) => `entry ${i}`;

export async function fill(ledger: Ledger, from: number, to: number): Promise<void> {
    for (let i = from; i < to; i++) assert.equal(await ledger.append(name(i)), i);
}

export function rootOf(entries: readonly string[]): Buffer {
    const tree = new Frontier();
    for (const entry of entries) tree.add(leafHash(entry));
    return tree.root();
}

/** All that a ledger holds, each entry shown to be in the tree. */
export async function readEntries(ledger: Ledger): Promise<string[]> {
    const { size, root } = await ledger.head();
    const entries: string[] = [];
    for (let index = 0; index < size; index++) {
        const entry = await ledger.entry(index);
        assert.ok(verifyInclusion(index, size, leafHash(entry), await ledger.inclusion(index), root));
        entries.push(entry.toString());
    }
    assert.ok(root.equals(rootOf(entries)));
    return entries;
}

export async function keyOf(folder: string): Promise<string> {
    const ledger = openLedger(folder);
    const key = await ledger.verifierKey();
    await ledger.close();
    return key;
}

/**
 * A short life of a ledger with a fault from the given step on (once, or for ever before a power cut), then a healthy restart.
 * False when the life is over before the step.
 */
export async function survives(step: number, fault: Fault, powerCut?: number): Promise<boolean> {
    const own = await makeFolder();
    const files = new FaultyFiles();
    let steps = 0;
    let isHit = false;
    files.fault = (operation) => {
        if (operation === "handle.close" || steps++ < step || (powerCut === undefined && isHit)) return undefined;
        isHit = true;
        return fault === "short" && operation !== "handle.writev" ? "EIO" : fault;
    };
    const kept: (string | undefined)[] = [];
    const signed: { size: number; root: Buffer }[] = [];
    let key: string | undefined;
    const ledger = openLedger(own, { files, segmentBytes: 120 });
    for (let i = 0; i < 4; i++) {
        const index = await ledger.append(name(i)).catch((error: unknown) => {
            assert.match((error as { code: string }).code, /^LEDGER_(UNWRITTEN|UNREADABLE)$/);
        });
        if (index !== undefined) {
            assert.equal(kept[index], undefined);
            kept[index] = name(i);
        }
        key ??= await ledger.verifierKey().catch(() => undefined);
        const note = i % 2 === 1 ? await ledger.checkpoint().catch(() => undefined) : undefined;
        if (note !== undefined) signed.push(openCheckpoint(note, parseVerifierKey(key ?? (await ledger.verifierKey()))));
        await ledger.proof(0).catch(() => undefined);
    }
    if (powerCut !== undefined) files.kill();
    await ledger.close();
    await rm(path.join(own, "lock"), { force: true });
    if (powerCut !== undefined) await files.powerCut(powerCut);

    const again = openLedger(own);
    const entries = await readEntries(again);
    for (const [index, entry] of kept.entries()) if (entry !== undefined) assert.equal(entries[index], entry, `step ${step}: ${index}`);
    if (powerCut === undefined) assert.ok(kept.filter(Boolean).length >= 3, `step ${step}: one fault, ${kept.length} kept`);
    const { size, root } = await again.head();
    for (const old of signed) assert.ok(verifyConsistency(old.size, size, old.root, root, await again.consistency(old.size, size)), `step ${step}: signed ${old.size} of ${size}`);
    if (key !== undefined) assert.equal(await again.verifierKey(), key);
    assert.equal(await again.append("more"), size);
    await again.close();
    await rm(own, { recursive: true, force: true });
    return isHit;
}
