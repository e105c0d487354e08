import assert from "node:assert/strict";
import fc from "fast-check";
import { Backoff } from "../../dist/common/backoff.js";

describe("backoff", () => {
    it("doubles up to the cap, and starts again after a reset", () => {
        const backoff = new Backoff({ base: 1000, cap: 10_000, random: () => 1 });
        assert.deepEqual(
            Array.from({ length: 6 }, () => backoff.next()),
            [1000, 2000, 4000, 8000, 10_000, 10_000],
        );
        assert.equal(backoff.count, 6);
        backoff.reset();
        assert.equal(backoff.count, 0);
        assert.equal(backoff.next(), 1000);
    });

    it("is never a busy loop and never longer than the cap, for ever", () => {
        const options = { base: fc.integer({ min: 1, max: 10_000 }), cap: fc.integer({ min: 10_000, max: 3_600_000 }) };
        fc.assert(
            fc.property(fc.record(options), fc.double({ min: 0, max: 1, noNaN: true }), (limits, draw) => {
                const backoff = new Backoff({ ...limits, random: () => draw });
                for (let i = 0; i < 2000; i++) {
                    const wait = backoff.next();
                    assert.ok(wait >= limits.base / 2 && wait <= limits.cap, `${wait} ms after ${i} failures`);
                }
            }),
            { numRuns: 50 },
        );
    });

    it("spreads clients that failed together", () => {
        const waits = new Set(
            Array.from({ length: 100 }, () => {
                const backoff = new Backoff({ base: 1000, cap: 60_000 });
                backoff.next();
                return backoff.next();
            }),
        );
        assert.ok(waits.size > 30);
    });
});
