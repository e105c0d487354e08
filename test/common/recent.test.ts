import assert from "node:assert/strict";
import { Recent } from "../../dist/common/recent.js";

describe("what is remembered of the last ones", () => {
    it("is bounded, and is what was set or asked for last", () => {
        const recent = new Recent<number>(100);
        for (let i = 0; i < 1000; i++) {
            recent.set(`device${i}`, i);
            assert.equal(recent.get("device0"), 0);
            assert.ok(recent.size <= 100);
        }
        assert.deepEqual([recent.get("device899"), recent.get("device960")], [undefined, 960]);
    });

    it("is not kept by a look that is no use of it", () => {
        const recent = new Recent<number>(4);
        recent.set("a", 1);
        for (let i = 0; i < 4; i++) {
            recent.has("a");
            recent.set(`b${i}`, i);
        }
        assert.deepEqual([recent.has("a"), recent.has("b3")], [false, true]);
        recent.delete("b3");
        assert.equal(recent.get("b3"), undefined);
    });
});
