import assert from "node:assert/strict";
import fc from "fast-check";
import { canonicalJson, parseCanonicalJson } from "../../dist/store/canonical-json.js";

/** IEEE 754 bits and text: RFC 8785, appendix B. */
const NUMBERS: [string, string][] = [
    ["0000000000000000", "0"], ["8000000000000000", "0"], ["0000000000000001", "5e-324"], ["8000000000000001", "-5e-324"],
    ["7fefffffffffffff", "1.7976931348623157e+308"], ["ffefffffffffffff", "-1.7976931348623157e+308"],
    ["4340000000000000", "9007199254740992"], ["c340000000000000", "-9007199254740992"], ["4430000000000000", "295147905179352830000"],
    ["44b52d02c7e14af5", "9.999999999999997e+22"], ["44b52d02c7e14af6", "1e+23"], ["44b52d02c7e14af7", "1.0000000000000001e+23"],
    ["444b1ae4d6e2ef4e", "999999999999999700000"], ["444b1ae4d6e2ef4f", "999999999999999900000"], ["444b1ae4d6e2ef50", "1e+21"],
    ["3eb0c6f7a0b5ed8c", "9.999999999999997e-7"], ["3eb0c6f7a0b5ed8d", "0.000001"], ["41b3de4355555553", "333333333.3333332"],
    ["41b3de4355555554", "333333333.33333325"], ["41b3de4355555555", "333333333.3333333"], ["41b3de4355555556", "333333333.3333334"],
    ["41b3de4355555557", "333333333.33333343"], ["becbf647612f3696", "-0.0000033333333333333333"], ["43143ff3c1cb0959", "1424953923781206.2"],
];

describe("store/canonical-json", () => {
    for (const [bits, text] of NUMBERS) {
        it(`writes the number ${bits} as ${text}`, () => {
            assert.equal(canonicalJson(Buffer.from(bits, "hex").readDoubleBE()), text);
        });
    }

    it("sorts keys by UTF-16 code units and escapes as RFC 8785 §3.2.3 and §3.2.2 show", () => {
        const keys = { "\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7 };
        assert.equal(canonicalJson(keys), '{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\ud83d\ude00":5,"\ufb33":3}');
        const value = { numbers: [333333333.3333333, 1e30, 4.5, 2e-3, 1e-27], string: '\u20ac$\u000f\nA\'B"\\\\"/', literals: [null, true, false] };
        const text = '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}';
        assert.equal(canonicalJson(value), text);
        assert.deepEqual(parseCanonicalJson(text), value);
    });

    it("refuses what JSON cannot say", () => {
        const cycle: Record<string, unknown> = {};
        cycle["self"] = cycle;
        for (const value of [Number.NaN, Infinity, undefined, { a: undefined }, [undefined], () => 1, 1n, "\ud800", { "\udc00": 1 }, new Date(0), new Map(), cycle, Symbol("x")]) {
            assert.throws(() => canonicalJson(value), { code: "JSON_NOT_CANONICAL" });
        }
    });

    it("refuses to read any other text than the canonical one", () => {
        for (const text of ["", "{", '{"a":1,"a":1}', '{"b":1,"a":2}', "1.0", "-0", "1E2", " 1", "1\n", '"\\u0041"', '"\\/"', "9007199254740993", "[1, 2]", '"\\ud800"']) {
            assert.throws(() => parseCanonicalJson(text), { code: "JSON_NOT_CANONICAL" }, text);
        }
    });

    it("gives one text for equal values and back, whatever the order of their keys", () => {
        fc.assert(
            fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
                const json = JSON.parse(JSON.stringify(value)) as unknown;
                const text = canonicalJson(json);
                assert.equal(canonicalJson(turned(json)), text);
                assert.deepEqual(parseCanonicalJson(text), json);
            }),
        );
    });
});

/** The same value with the keys of its objects inserted in reverse. */
function turned(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(turned);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).toReversed().map(([key, item]) => [key, turned(item)]));
}
