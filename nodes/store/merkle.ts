import { hash } from "node:crypto";

/*
 * The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1): SHA-256, a prefix that tells leaves from nodes, split at the largest power of
 * two below the size. Hashes are 32 bytes.
 */
export const HASH_BYTES = 32;
/** Root of the tree without leaves. */
export const EMPTY_ROOT = hash("sha256", "", "buffer");
const LEAF = Buffer.from([0]);
const NODE = Buffer.from([1]);

/** Hash of an entry. */
export function leafHash(entry: Uint8Array | string): Buffer {
    return hash("sha256", Buffer.concat([LEAF, typeof entry === "string" ? Buffer.from(entry) : entry]), "buffer");
}

/** Hash of two subtrees. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Buffer {
    return hash("sha256", Buffer.concat([NODE, left, right]), "buffer");
}

/** The node over leaves [index * 2^level, (index + 1) * 2^level). */
export interface NodeId {
    level: number;
    index: number;
}

/** The complete subtrees, left to right, that make up leaves [from, to); `from` is 0 or a multiple of each of their widths. */
export function subtrees(from: number, to: number): NodeId[] {
    const nodes: NodeId[] = [];
    for (let at = from; at < to; ) {
        let level = 0;
        // Numbers beyond 2^32: no bit operations.
        while (at % 2 ** (level + 1) === 0 && at + 2 ** (level + 1) <= to) level++;
        nodes.push({ level, index: at / 2 ** level });
        at += 2 ** level;
    }
    return nodes;
}

/** Joins the hashes of `subtrees`, right to left. */
export function joinSubtrees(hashes: Buffer[]): Buffer {
    return hashes.length === 0 ? EMPTY_ROOT : hashes.reduceRight((right, left) => nodeHash(left, right));
}

/** A growing tree that remembers its complete subtrees only: O(log n) memory. */
export class Frontier {
    private readonly hashes: Buffer[] = [];

    /** Goes on from a tree of `size` leaves whose complete subtrees have these hashes. */
    constructor(
        private leaves = 0,
        hashes: Buffer[] = [],
    ) {
        this.hashes.push(...hashes);
    }

    get size(): number {
        return this.leaves;
    }

    /** Adds a leaf and returns the hashes it completes: its own, then those of the subtrees that end with it, upwards. */
    add(leaf: Buffer): Buffer[] {
        const made = [leaf];
        for (let width = this.leaves; width % 2 === 1; width = (width - 1) / 2) made.push(nodeHash(this.hashes.pop()!, made.at(-1)!));
        this.hashes.push(made.at(-1)!);
        this.leaves++;
        return made;
    }

    root(): Buffer {
        return joinSubtrees(this.hashes);
    }

    copy(): Frontier {
        return new Frontier(this.leaves, this.hashes);
    }
}

/** What a proof is made of: each element joins the hashes of some complete subtrees. */
type ProofPlan = NodeId[][];

/** Plan of the audit path of RFC 6962 §2.1.1 for a leaf of the tree of `size`, leaf to root. */
export function planInclusion(index: number, size: number): ProofPlan {
    const plan: ProofPlan = [];
    for (let [from, to] = [0, size]; to - from > 1; ) {
        const middle = from + splitOf(to - from);
        if (index < middle) {
            plan.push(subtrees(middle, to));
            to = middle;
        } else {
            plan.push(subtrees(from, middle));
            from = middle;
        }
    }
    return plan.toReversed();
}

/** Plan of the consistency proof of RFC 6962 §2.1.2 between the trees of two sizes, 0 < from <= to. */
export function planConsistency(from: number, to: number): ProofPlan {
    const plan: ProofPlan = [];
    let [start, end] = [0, to];
    while (from < end) {
        const middle = start + splitOf(end - start);
        if (from <= middle) {
            plan.push(subtrees(middle, end));
            end = middle;
        } else {
            plan.push(subtrees(start, middle));
            start = middle;
        }
    }
    // The verifier has the old root already where the old tree is a complete subtree from the left.
    if (start > 0) plan.push(subtrees(start, end));
    return plan.toReversed();
}

/** The largest power of two below `size`, size > 1. */
function splitOf(size: number): number {
    let width = 1;
    while (width * 2 < size) width *= 2;
    return width;
}

/** True when `proof` shows that the leaf at `index` is in the tree of `size` with that root (RFC 9162 §2.1.3.2). */
export function verifyInclusion(index: number, size: number, leaf: Buffer, proof: readonly Buffer[], root: Buffer): boolean {
    if (!isIndex(index) || !isIndex(size) || index >= size || !areHashes([leaf, root, ...proof])) return false;
    let [at, last, node] = [index, size - 1, leaf];
    for (const sibling of proof) {
        if (last === 0) return false;
        if (at % 2 === 1 || at === last) {
            node = nodeHash(sibling, node);
            while (at % 2 === 0 && at !== 0) [at, last] = [at / 2, half(last)];
        } else {
            node = nodeHash(node, sibling);
        }
        [at, last] = [half(at), half(last)];
    }
    return last === 0 && node.equals(root);
}

/** True when `proof` shows that the tree of size `to` begins with all of the tree of size `from` (RFC 9162 §2.1.4.2). */
export function verifyConsistency(from: number, to: number, fromRoot: Buffer, toRoot: Buffer, proof: readonly Buffer[]): boolean {
    if (!isIndex(from) || !isIndex(to) || from > to || !areHashes([fromRoot, toRoot, ...proof])) return false;
    if (from === to) return proof.length === 0 && fromRoot.equals(toRoot);
    if (from === 0) return proof.length === 0 && fromRoot.equals(EMPTY_ROOT);
    let [at, last] = [from - 1, to - 1];
    while (at % 2 === 1) [at, last] = [half(at), half(last)];
    const [first, ...rest] = at === 0 ? [fromRoot, ...proof] : proof;
    if (!first) return false;
    let [old, young] = [first, first];
    for (const sibling of rest) {
        if (last === 0) return false;
        if (at % 2 === 1 || at === last) {
            [old, young] = [nodeHash(sibling, old), nodeHash(sibling, young)];
            while (at % 2 === 0 && at !== 0) [at, last] = [at / 2, half(last)];
        } else {
            young = nodeHash(young, sibling);
        }
        [at, last] = [half(at), half(last)];
    }
    return last === 0 && old.equals(fromRoot) && young.equals(toRoot);
}

function half(value: number): number {
    return Math.floor(value / 2);
}

function isIndex(value: number): boolean {
    return Number.isSafeInteger(value) && value >= 0;
}

function areHashes(hashes: readonly Buffer[]): boolean {
    return hashes.every(({ length }) => length === HASH_BYTES);
}
