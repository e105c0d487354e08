import assert from "node:assert/strict";
import fc from "fast-check";
import { Ranges } from "../../dist/store/ranges.js";

describe("store/ranges", () => {
    it("agree with a plain set of numbers, as few ranges as can be", () => {
        const span = fc.tuple(fc.nat(30), fc.nat(30));
        fc.assert(
            fc.property(fc.array(fc.tuple(fc.boolean(), span), { maxLength: 20 }), span, (steps, [from, to]) => {
                const ranges = new Ranges();
                const plain = new Set<number>();
                for (const [isAdded, [a, b]] of steps) {
                    if (isAdded) ranges.add(a, b);
                    else ranges.remove(a, b);
                    for (let i = a; i < b; i++) {
                        if (isAdded) plain.add(i);
                        else plain.delete(i);
                    }
                }
                const all = Array.from({ length: 31 }, (_, i) => i);
                const inside = all.filter((i) => i >= from && i < to);
                assert.equal(ranges.covered(from, to), inside.filter((i) => plain.has(i)).length);
                assert.equal(ranges.end, Math.max(0, ...all.filter((i) => plain.has(i)).map((i) => i + 1)));
                assert.equal(ranges.size, all.filter((i) => plain.has(i) && !plain.has(i - 1)).length);
                const first = inside.find((i) => !plain.has(i));
                const after = inside.find((i) => first !== undefined && i > first && plain.has(i)) ?? to;
                assert.deepEqual(ranges.gap(from, to), first === undefined ? undefined : [first, after]);
            }),
            { numRuns: 500 },
        );
    });
});
