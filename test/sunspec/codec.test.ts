import assert from "node:assert/strict";
import fc from "fast-check";
import { WattError } from "../../dist/common/errors.js";
import { decodeModel, type ModelValues } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { type ModelDef, officialModels, parseModel } from "../../dist/sunspec/model.js";

/** A model of one point, with its scale factor as a point of its own. */
function single(type: string): ModelDef {
    const size = type === "string" ? ", size: 6" : "";
    const scaled = /^(u?int|acc)/.test(type) ? ", sf: X_SF" : "";
    return parseModel(`id: 65000\nname: single\npoints:\n  X: {type: ${type}${size}${scaled}}\n  X_SF: {type: sunssf}\n`, "single");
}

const INTEGERS = [16n, 32n, 64n].flatMap((bits) => [
    { type: `int${bits}`, min: 1n - (1n << (bits - 1n)), max: (1n << (bits - 1n)) - 1n },
    { type: `uint${bits}`, min: 0n, max: (1n << bits) - 2n },
    { type: `acc${bits}`, min: 1n, max: (1n << bits) - 1n },
]);

describe("sunspec codec", () => {
    for (const { type, min, max } of INTEGERS) {
        it(`gives back every ${type} at every scale factor`, () => {
            const model = single(type);
            const raws = fc.oneof(fc.bigInt({ min, max }), fc.constantFrom(min, max, 1n));
            fc.assert(
                fc.property(raws, fc.integer({ min: -10, max: 10 }), (raw, sf) => {
                    const bytes = encodeModel(model, { X_SF: sf });
                    const digits = (bytes.length - 6) * 2;
                    bytes.write(BigInt.asUintN(digits * 4, raw).toString(16).padStart(digits, "0"), 4, "hex");
                    const value = sf < 0 ? Number(`${raw}e${sf}`) : raw * 10n ** BigInt(sf);
                    const { values, bad } = decodeModel(model, bytes);
                    assert.deepEqual(bad, {});
                    assert.equal(values.X, Number.isSafeInteger(Number(value)) ? Number(value) : value);
                    // A double holds 15 decimal digits; beyond them several counts share one scaled value.
                    const exact = sf >= 0 || (raw < 10n ** 15n && raw > -(10n ** 15n));
                    if (exact) assert.deepEqual(encodeModel(model, values), bytes);
                }),
                { numRuns: 500 },
            );
        });
    }

    const others: Record<string, fc.Arbitrary<number | bigint | string>> = {
        enum16: fc.integer({ min: 0, max: 0xfffe }),
        enum32: fc.integer({ min: 0, max: 0xffff_fffe }),
        bitfield16: fc.integer({ min: 0, max: 0x7fff }),
        bitfield32: fc.integer({ min: 0, max: 0x7fff_ffff }),
        bitfield64: fc.bigInt({ min: 0n, max: (1n << 63n) - 1n }),
        float32: fc.float({ noNaN: true, noDefaultInfinity: true }),
        float64: fc.double({ noNaN: true, noDefaultInfinity: true }),
        raw16: fc.integer({ min: 0, max: 0xffff }),
        count: fc.integer({ min: 0, max: 0xfffe }),
        string: fc.string({ minLength: 1, maxLength: 12 }).filter((text) => text.trim() === text && !text.includes("\0") && text !== ""),
        ipaddr: fc.ipV4().filter((text) => text !== "0.0.0.0"),
        ipv6addr: fc
            .bigInt({ min: 1n, max: (1n << 128n) - 1n })
            .map((n) => new URL(`http://[${n.toString(16).padStart(32, "0").replaceAll(/(.{4})(?=.)/g, "$1:")}]`).hostname.slice(1, -1)),
        eui48: fc.bigInt({ min: 0n, max: (1n << 48n) - 2n }).map((n) => n.toString(16).padStart(12, "0").replaceAll(/(.{2})(?=.)/g, "$1:")),
    };
    for (const [type, arbitrary] of Object.entries(others)) {
        it(`gives back every ${type}`, () => {
            const model = single(type);
            fc.assert(
                fc.property(arbitrary, (value) => {
                    const expected = typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
                    assert.equal(decodeModel(model, encodeModel(model, { X: value })).values.X, expected);
                }),
                { numRuns: 500 },
            );
        });
    }

    it("refuses to encode addresses that are none", () => {
        for (const type of ["ipaddr", "ipv6addr", "eui48"]) {
            assert.throws(() => encodeModel(single(type), { X: "300.1.1.1" }), { code: "SUNSPEC_ENCODE", message: `X: "300.1.1.1" is no ${type}.` });
        }
    });

    it("marks every point of every model as not implemented when no value is given", () => {
        for (const id of officialModels.ids()) {
            const model = officialModels.get(id)!;
            const { values, bad } = decodeModel(model, encodeModel(model, {}));
            const points = Object.keys(values).filter((name) => typeof values[name] !== "object");
            const counts = new Set(model.groups.map((group) => group.count).filter((count) => count !== "L"));
            assert.deepEqual(points.filter((name) => !counts.has(name)), ["ID", "L"], `model ${id}`);
            assert.deepEqual(bad, {}, `model ${id}`);
        }
    });

    it("decodes any bytes as any model without an error of another kind", () => {
        const models = officialModels.ids().map((id) => officialModels.get(id)!);
        fc.assert(
            fc.property(fc.integer(), (seed) => {
                const random = xorshift(seed);
                for (let frame = 0; frame < 1000; frame++) {
                    const model = models[random() % models.length]!;
                    const bytes = Buffer.alloc(random() % 300);
                    for (let i = 0; i + 4 <= bytes.length; i += 4) bytes.writeUInt32BE(random(), i);
                    if (random() % 10 > 0 && bytes.length >= 4) {
                        bytes.writeUInt16BE(model.id, 0);
                        if (random() % 2 > 0) bytes.writeUInt16BE(random() % 300, 2);
                    }
                    try {
                        decodeModel(model, bytes);
                    } catch (error) {
                        assert.ok(error instanceof WattError && error.code === "SUNSPEC_DECODE", String(error));
                    }
                }
            }),
            { numRuns: 100 },
        );
    }).timeout(60_000);

    for (const [what, id, values, says] of [
        ["an unknown point", 103, { Watts: 1 }, /Watts is no point/],
        ["an unknown group", 160, { modul: [{}] }, /modul is no group/],
        ["a list for a group that is there once", 704, { PFWInj: [{}] }, /PFWInj is no group/],
        ["a value without its scale factor", 103, { A: 1 }, /^A: its scale factor is missing/],
        ["a value that does not fit", 103, { A: 700, A_SF: -2 }, /^A: 70000 is outside 0\.\.65534/],
        ["a scale factor out of range", 103, { A_SF: -11 }, /^A_SF: -11 is outside/],
        ["an unknown symbol", 103, { St: "DANCING" }, /^St: is no number or symbol/],
        ["NaN", 103, { A: NaN, A_SF: 0 }, /^A: is no number/],
        ["a text that is too long", 1, { Vr: "12345678901234567" }, /^Vr: takes 16 bytes, not 17/],
        ["a repeated group's point", 160, { DCW_SF: 0, module: [{}, { DCW: -1 }] }, /^module\[1\]\.DCW: -1 is outside/],
    ] as [string, number, ModelValues, RegExp][]) {
        it(`refuses to encode ${what}`, () => {
            assert.throws(() => encodeModel(officialModels.get(id)!, values), (error) => error instanceof WattError && error.code === "SUNSPEC_ENCODE" && says.test(error.message));
        });
    }
});

/** Small generator of 32-bit numbers (Marsaglia 2003), for frames by the hundred thousand. */
function xorshift(seed: number): () => number {
    let state = seed | 1;
    return () => {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        return state >>> 0;
    };
}
