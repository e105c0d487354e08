import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { decodeModel, symbolsOf } from "../../dist/sunspec/decode.js";
import { officialModels, parseModel, type PointDef } from "../../dist/sunspec/model.js";

/** A case in test/fixtures/sunspec, in a file named after the defect it guards against. */
interface Golden {
    /** What goes wrong without the rule. */
    why: string;
    model: number;
    /** Hexadecimal words, ID and L first. */
    registers: string;
    /** All values; whole numbers beyond a double are text that ends in n. */
    values: object;
    bad: object;
    warnings: string[];
}

const folder = path.join(__dirname, "../../test/fixtures/sunspec");

describe("sunspec decoder", () => {
    for (const file of readdirSync(folder)) {
        it(path.basename(file, ".json").replaceAll("-", " "), () => {
            const golden = JSON.parse(readFileSync(path.join(folder, file), "utf8"), revive) as Golden;
            const bytes = Buffer.from(golden.registers.replaceAll(" ", ""), "hex");
            const { values, bad, warnings } = decodeModel(officialModels.get(golden.model)!, bytes);
            assert.deepEqual(values, golden.values, golden.why);
            assert.deepEqual(bad, golden.bad, golden.why);
            assert.deepEqual(warnings, golden.warnings, golden.why);
        });
    }

    it("prefers the scale factor of the own group to one of the same name above", () => {
        const shadowed = parseModel(
            "id: 65000\nname: shadowed\npoints:\n  X_SF: {type: sunssf}\ngroups:\n  part:\n    points:\n      X: {type: int16, sf: X_SF}\n      X_SF: {type: sunssf}\n",
            "shadowed",
        );
        const { values } = decodeModel(shadowed, Buffer.from("fde800030002007bffff", "hex"));
        assert.deepEqual(values, { ID: 65_000, L: 3, X_SF: 2, part: { X: 12.3, X_SF: -1 } });
    });

    it("refuses the registers of another model", () => {
        const bytes = Buffer.from("00650032", "hex");
        assert.throws(() => decodeModel(officialModels.get(103)!, bytes), { code: "SUNSPEC_DECODE", message: /Expected model 103 and found 101/ });
        assert.throws(() => decodeModel(officialModels.get(103)!, bytes.subarray(0, 3)), { code: "SUNSPEC_DECODE" });
    });

    it("decodes what is there of an answer that ends early", () => {
        const bytes = Buffer.from("00a0 0080 ffff 8000 0000".replaceAll(" ", ""), "hex");
        const { values, length } = decodeModel(officialModels.get(160)!, bytes);
        assert.equal(length, 128);
        assert.deepEqual(values, { ID: 160, L: 128, DCA_SF: -1, DCW_SF: 0 });
    });

    it("names enums and bits, and knows what has no name", () => {
        const point = (id: number, name: string): PointDef => officialModels.get(id)!.points.find((other) => other.name === name)!;
        assert.deepEqual(symbolsOf(point(103, "St"), 4), ["MPPT"]);
        assert.deepEqual(symbolsOf(point(103, "St"), 307), []);
        assert.deepEqual(symbolsOf(point(103, "Evt1"), 0b1000_0001), ["GROUND_FAULT", "OVER_TEMP"]);
        assert.deepEqual(symbolsOf(point(103, "Evt1"), 0x4000_0001), ["GROUND_FAULT"]);
        assert.deepEqual(symbolsOf(point(103, "Evt2"), 1), []);
    });
});

function revive(_key: string, value: unknown): unknown {
    return typeof value === "string" && /^-?\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value;
}
