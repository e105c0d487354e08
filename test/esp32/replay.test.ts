import assert from "node:assert/strict";
import fc from "fast-check";
import { ReplayWindow, WINDOW } from "../../dist/esp32/replay.js";

/** Remembers everything. */
class Model {
    boot = -1;
    readonly seen = new Map<number, number>();

    check(boot: number, seq: number, sum: number): string {
        if (boot < this.boot) return "old";
        if (boot > this.boot) return "fresh";
        if (seq <= Math.max(...this.seen.keys()) - WINDOW) return "old";
        const known = this.seen.get(seq);
        return known === undefined ? "fresh" : known === sum ? "duplicate" : "conflict";
    }

    mark(boot: number, seq: number, sum: number): void {
        if (boot > this.boot) this.seen.clear();
        this.boot = boot;
        this.seen.set(seq, sum);
    }
}

const message = fc.record({ boot: fc.integer({ min: 0, max: 3 }), seq: fc.oneof(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 3 * WINDOW }), fc.maxSafeNat()), sum: fc.integer({ min: 0, max: 1 }) });

describe("the window of a device's messages", () => {
    it("judges as one that remembers everything, whatever comes in whatever order", () => {
        fc.assert(
            fc.property(fc.array(message, { maxLength: 200 }), (messages) => {
                const [window, model] = [new ReplayWindow(), new Model()];
                for (const { boot, seq, sum } of messages) {
                    const expected = model.check(boot, seq, sum);
                    assert.equal(window.check(boot, seq, sum), expected);
                    if (expected !== "fresh") continue;
                    window.mark(boot, seq, sum);
                    model.mark(boot, seq, sum);
                }
            }),
            { numRuns: 500 },
        );
    });

    it("comes out the same however often it is written down on the way, and whichever part is read first", () => {
        fc.assert(
            fc.property(fc.array(message, { minLength: 1, maxLength: 60 }), fc.nat(59), fc.boolean(), (messages, at, isFirst) => {
                const [whole, before, again] = [new ReplayWindow(), new ReplayWindow(), new ReplayWindow()];
                for (const [i, { boot, seq }] of messages.entries()) {
                    whole.mark(boot, seq, 0);
                    if (i <= at) before.mark(boot, seq, 0);
                }
                // As after a crash: the state, and some of the messages again.
                if (isFirst) again.merge(before.state());
                for (const { boot, seq } of messages.slice(isFirst ? Math.floor(at / 2) : 0)) again.mark(boot, seq, 0);
                if (!isFirst) again.merge(before.state());
                assert.deepEqual(again.state(), whole.state());
            }),
            { numRuns: 500 },
        );
    });

    it("tells once when what is refused counts on", () => {
        const window = new ReplayWindow();
        window.mark(5, 10, 0);
        assert.deepEqual([1, 1, 2, 3, 4, 5].map((seq) => window.isTwin(2, seq)), [false, false, false, true, false, false]);
    });
});
