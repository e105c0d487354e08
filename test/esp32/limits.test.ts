import assert from "node:assert/strict";
import fc from "fast-check";
import { checkShape, Rates } from "../../dist/esp32/limits.js";

/** Levels of objects and of arrays, and the most keys in one object. */
function shapeOf(value: unknown): { objects: number; arrays: number; keys: number } {
    if (typeof value !== "object" || value === null) return { objects: 0, arrays: 0, keys: 0 };
    const inner = Object.values(value).map(shapeOf);
    const most = (key: "objects" | "arrays" | "keys") => Math.max(0, ...inner.map((shape) => shape[key]));
    const isArray = Array.isArray(value);
    return { objects: most("objects") + (isArray ? 0 : 1), arrays: most("arrays") + (isArray ? 1 : 0), keys: Math.max(most("keys"), isArray ? 0 : Object.keys(value).length) };
}

describe("the shape of a message", () => {
    it("is measured without parsing as parsing would find it, texts with brackets and quotes included", () => {
        const limits = { depth: 2, keys: 3 };
        const text = fc.oneof(fc.string(), fc.constantFrom('{"', "\\\"", "}}}", "[:,", "a:b"));
        const values = fc.letrec((tie) => ({
            value: fc.oneof({ maxDepth: 4 }, text, fc.double({ noNaN: true, noDefaultInfinity: true }), fc.array(tie("value"), { maxLength: 3 }), fc.dictionary(text, tie("value"), { maxKeys: 5 })),
        })).value;
        fc.assert(
            fc.property(values, fc.boolean(), (value, isSpaced) => {
                const { objects, arrays, keys } = shapeOf(value);
                const body = Buffer.from(JSON.stringify(value, null, isSpaced ? 2 : 0));
                const isWithin = objects <= limits.depth && arrays <= limits.depth && keys <= limits.keys;
                if (isWithin) checkShape(body, limits);
                else assert.throws(() => checkShape(body, limits), { code: "PAYLOAD_INVALID" });
            }),
            { numRuns: 1000 },
        );
    });

    it("is measured of any bytes without a fault", () => {
        fc.assert(
            fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
                try {
                    checkShape(bytes);
                } catch (error) {
                    assert.equal((error as { code: string }).code, "PAYLOAD_INVALID");
                }
            }),
            { numRuns: 1000 },
        );
    });
});

describe("the rate of a sender", () => {
    it("lets through the burst and the rate, and no more, whatever the times between", () => {
        fc.assert(
            fc.property(fc.array(fc.integer({ min: 0, max: 500 }), { maxLength: 200 }), (gaps) => {
                const rates = new Rates({ ratePerS: 10, burst: 5, devices: 10 });
                let [now, passed] = [0, 0];
                for (const gap of gaps) {
                    now += gap;
                    const wait = rates.take("a", now);
                    if (wait === 0) passed++;
                    else assert.ok(wait <= 100);
                    assert.ok(passed <= 5 + now / 100 + 1e-9);
                }
            }),
        );
    });

    it("says when there is room again", () => {
        const rates = new Rates({ ratePerS: 10, burst: 1, devices: 10 });
        assert.equal(rates.take("a", 0), 0);
        const wait = rates.take("a", 30);
        assert.equal(wait, 70);
        assert.equal(rates.take("a", 100), 0);
    });

    it("remembers a limited number of senders", () => {
        const rates = new Rates({ ratePerS: 0.001, burst: 1, devices: 3 });
        for (const name of ["a", "b", "c"]) assert.equal(rates.take(name, 0), 0);
        assert.ok(rates.take("a", 0) > 0);
        assert.equal(rates.take("d", 0), 0);
        // "b" was silent longest.
        assert.ok(rates.take("a", 0) > 0);
        assert.equal(rates.take("b", 0), 0);
    });
});
