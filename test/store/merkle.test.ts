import assert from "node:assert/strict";
import fc from "fast-check";
import { EMPTY_ROOT, Frontier, joinSubtrees, leafHash, nodeHash, planConsistency, planInclusion, verifyConsistency, verifyInclusion } from "../../dist/store/merkle.js";

/** Leaves and roots of sizes 0 to 8 that certificate transparency's implementations are tested by. */
const LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/** MTH of RFC 6962 §2.1, word by word. */
function rootOf(leaves: Buffer[]): Buffer {
    if (leaves.length === 0) return EMPTY_ROOT;
    if (leaves.length === 1) return leaves[0]!;
    let split = 1;
    while (split * 2 < leaves.length) split *= 2;
    return nodeHash(rootOf(leaves.slice(0, split)), rootOf(leaves.slice(split)));
}

const leavesOf = (count: number) => Array.from({ length: count }, (_, i) => leafHash(`leaf ${i}`));
const hashes = (leaves: Buffer[], plan: ReturnType<typeof planInclusion>) =>
    plan.map((nodes) => joinSubtrees(nodes.map(({ level, index }) => rootOf(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level)))));

describe("store/merkle", () => {
    it("has the roots that others compute", () => {
        const frontier = new Frontier();
        for (const [size, root] of ROOTS.entries()) {
            assert.equal(frontier.root().toString("hex"), root);
            if (size < LEAVES.length) frontier.add(leafHash(Buffer.from(LEAVES[size]!, "hex")));
        }
        assert.equal(nodeHash(Buffer.from("N123"), Buffer.from("N456")).toString("hex"), "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb");
    });

    it("proves every leaf and every older size, and nothing else", () => {
        for (let size = 1; size <= 20; size++) {
            const leaves = leavesOf(size);
            const root = rootOf(leaves);
            for (let index = 0; index < size; index++) {
                const proof = hashes(leaves, planInclusion(index, size));
                assert.ok(verifyInclusion(index, size, leaves[index]!, proof, root));
                for (let other = 0; other <= size; other++) assert.equal(verifyInclusion(other, size, leaves[index]!, proof, root), other === index);
                assert.ok(!verifyInclusion(index, size, leaves[index]!, [...proof, root], root));
                assert.ok(!verifyInclusion(index, size, leaves[index]!, proof.slice(1), root) || proof.length === 0);
            }
            for (let from = 1; from <= size; from++) {
                const old = rootOf(leaves.slice(0, from));
                const proof = hashes(leaves, planConsistency(from, size));
                assert.ok(verifyConsistency(from, size, old, root, proof), `${from} of ${size}`);
                for (let other = 0; other <= size; other++) assert.equal(verifyConsistency(other, size, old, root, proof), other === from, `${other} for ${from} of ${size}`);
            }
        }
    });

    it("sees any flipped bit", () => {
        const size = fc.integer({ min: 1, max: 300 });
        fc.assert(
            fc.property(size, fc.nat(), fc.nat(), fc.nat(), (count, a, b, bit) => {
                const leaves = leavesOf(count);
                const root = rootOf(leaves);
                const [index, from] = [a % count, 1 + (b % count)];
                const inclusion = [leaves[index]!, ...hashes(leaves, planInclusion(index, count)), root];
                const holds = (all: Buffer[]) => verifyInclusion(index, count, all[0]!, all.slice(1, -1), all.at(-1)!);
                assert.ok(holds(inclusion));
                assert.ok(!holds(flip(inclusion, bit)));
                const consistency = [rootOf(leaves.slice(0, from)), ...hashes(leaves, planConsistency(from, count)), root];
                const follows = (all: Buffer[]) => verifyConsistency(from, count, all[0]!, all.at(-1)!, all.slice(1, -1));
                assert.ok(follows(consistency));
                assert.ok(!follows(flip(consistency, bit)));
            }),
            { numRuns: 100 },
        );
    });

    it("refuses sizes, indexes and hashes that are none", () => {
        const leaf = leafHash("x");
        for (const [index, size] of [[0, 0], [1, 1], [-1, 1], [0.5, 1], [2 ** 53, 2 ** 53 + 2], [Number.NaN, 1]] as const) {
            assert.ok(!verifyInclusion(index, size, leaf, [], leaf));
            assert.ok(!verifyConsistency(size + 1, size, leaf, leaf, []));
        }
        assert.ok(!verifyInclusion(0, 1, Buffer.from("short"), [], Buffer.from("short")));
        assert.ok(verifyConsistency(0, 1, EMPTY_ROOT, leaf, []));
        assert.ok(!verifyConsistency(0, 1, leaf, leaf, []));
    });
});

/** The same hashes with one bit of them all turned. */
function flip(all: Buffer[], bit: number): Buffer[] {
    const bytes = Buffer.concat(all);
    const at = bit % (bytes.length * 8);
    bytes[at >> 3]! ^= 1 << (at & 7);
    return all.map((_, i) => bytes.subarray(i * 32, (i + 1) * 32));
}
