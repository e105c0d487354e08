import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { WattError } from "../../dist/common/errors.js";
import { type GroupDef, type ModelDef, ModelLibrary, officialModels, parseModel, type PointDef } from "../../dist/sunspec/model.js";

const groupsOf = (group: GroupDef): GroupDef[] => [group, ...group.groups.flatMap(groupsOf)];

describe("sunspec models", () => {
    let models: ModelDef[];
    before(() => {
        models = officialModels.ids().map((id) => officialModels.get(id)!);
    });

    it("holds all 112 models with every group and point", () => {
        const groups = models.flatMap(groupsOf);
        const points = groups.flatMap((group) => group.points);
        assert.equal(models.length, 112);
        assert.equal(groups.length, 201);
        assert.equal(points.length, 3802);
        assert.equal(groups.filter((group) => group.sync).length, 4);
        assert.equal(groups.filter((group) => group.count !== undefined).length, 73);
        assert.equal(points.filter((point) => point.mandatory).length, 1490);
        assert.equal(points.filter((point) => point.writable).length, 1586);
        assert.equal(points.filter((point) => point.symbols).length, 322);
        assert.equal(points.reduce((n, point) => n + Object.keys(point.symbols ?? {}).length, 0), 1784);
        assert.equal(points.filter((point) => typeof point.sf === "string").length, 1495);
        assert.equal(points.filter((point) => typeof point.sf === "number").length, 10);
    });

    it("marks no current, voltage or temperature as irradiance", () => {
        const units = Object.fromEntries(officialModels.get(306)!.points.map((point) => [point.name, point.unit]));
        assert.deepEqual(units, { ID: undefined, L: undefined, GHI: "W/m²", A: "A", V: "V", Tmp: "°C" });
    });

    it("reads a map when it is first asked for, once", () => {
        const reads: string[] = [];
        const library = new ModelLibrary("maps", {
            list: () => ["model_7.yaml", "model_8.yaml", "README.md"],
            read: (file) => {
                reads.push(path.basename(file));
                return "id: 7\nname: seven\n";
            },
        });
        assert.deepEqual(reads, []);
        assert.equal(library.get(7), library.get(7));
        assert.deepEqual(reads, ["model_7.yaml"]);
        assert.equal(library.get(999), undefined);
        assert.throws(() => library.get(8), { code: "SUNSPEC_MAP", message: /model_8\.yaml holds model 7/ });
    });

    it("says when the maps are not there", () => {
        const library = new ModelLibrary(path.join(__dirname, "nowhere"));
        assert.throws(() => library.get(1), { code: "SUNSPEC_MAP", message: /^Cannot read .*nowhere, install the package again: ENOENT/ });
    });

    for (const [what, text, says] of [
        ["broken YAML", "id: [1", /flow/i],
        ["a missing id", "name: x\n", /id/],
        ["an unknown key", "id: 1\nname: x\npoints:\n  A: {type: int16, factor: 2}\n", /factor/],
        ["an unknown type", "id: 1\nname: x\npoints:\n  A: {type: int24}\n", /A/],
        ["a point twice", "id: 1\nname: x\npoints:\n  A: {type: int16}\n  A: {type: int16}\n", /unique/],
        ["a string without size", "id: 1\nname: x\npoints:\n  A: {type: string}\n", /A: a string states its size/],
        ["a size that contradicts the type", "id: 1\nname: x\npoints:\n  A: {type: int16, size: 2}\n", /A: a string states its size/],
        ["a scale factor that is nowhere", "id: 1\nname: x\npoints:\n  A: {type: int16, sf: B_SF}\n", /x\.A: scale factor B_SF/],
        ["a scale factor out of range", "id: 1\nname: x\npoints:\n  A: {type: int16, sf: 11}\n", /sf/],
        ["a scale factor on a float", "id: 1\nname: x\npoints:\n  A: {type: float32, sf: 1}\n", /x\.A: a float32 takes no scale factor/],
        ["a unit of its own", "id: 1\nname: x\npoints:\n  A: {type: int16, unit: Amps}\n", /x\.A: unit "Amps"/],
        ["a symbol beyond its width", "id: 1\nname: x\npoints:\n  A: {type: bitfield16, symbols: {B: 16}}\n", /x\.A: a symbol is beyond 15/],
        ["two symbols of one value", "id: 1\nname: x\npoints:\n  A: {type: enum16, symbols: {B: 1, C: 1}}\n", /x\.A: two symbols/],
        ["a count that is nowhere", "id: 1\nname: x\ngroups:\n  G: {count: N, points: {A: {type: int16}}}\n", /x\.G: count "N"/],
        ["a group behind a repeating one", "id: 1\nname: x\ngroups:\n  G: {count: L}\n  H: {}\n", /x\.G: a repeating group must be the last/],
    ] as const) {
        it(`refuses ${what}`, () => {
            assert.throws(
                () => parseModel(text, "model_1.yaml"),
                (error) => error instanceof WattError && error.code === "SUNSPEC_MAP" && /model_1\.yaml/.test(error.message) && says.test(error.message),
            );
        });
    }

    const official = officialFolder();
    if (official !== undefined) {
        it("equals the official definitions point by point", () => {
            for (const model of models) {
                const definition = JSON.parse(readFileSync(path.join(official, `model_${model.id}.json`), "utf8")) as { id: number; group: OfficialGroup };
                assert.equal(model.id, definition.id);
                assert.equal(model.length, definition.group.points.find((point) => point.name === "L")!.value);
                compareGroup(model, definition.group, model.id);
            }
        });
    }
});

/** A checkout of github.com/sunspec/models/json named by SUNSPEC_MODELS, or a reference folder beside the repository. */
function officialFolder(): string | undefined {
    const parent = path.join(__dirname, "../../..");
    const beside = readdirSync(parent).map((name) => path.join(parent, name, "reference/data/sunspec-models/json"));
    return [process.env.SUNSPEC_MODELS, ...beside].find((folder) => folder !== undefined && existsSync(folder));
}

interface OfficialPoint {
    name: string;
    type: string;
    size: number;
    value?: number;
    sf?: number | string;
    units?: string;
    access?: string;
    mandatory?: string;
    static?: string;
    symbols?: { name: string; value: number }[];
}

interface OfficialGroup {
    name: string;
    type: string;
    count?: number | string;
    points: OfficialPoint[];
    groups?: OfficialGroup[];
}

function compareGroup(ours: GroupDef, theirs: OfficialGroup, id: number): void {
    assert.equal(ours.name, theirs.name);
    assert.equal(ours.sync, theirs.type === "sync");
    assert.equal(ours.count, theirs.count === 0 ? "L" : theirs.count);
    assert.deepEqual(ours.points.map((point) => facts(point)), theirs.points.map((point) => officialFacts(point)), `model ${id}`);
    for (const [index, point] of theirs.points.entries()) {
        const unit = ours.points[index]!.unit;
        if (!WRONG_UNITS.has(`${id}.${point.name}`)) assert.equal(plainUnit(unit), plainUnit(point.units), `model ${id} ${point.name}`);
    }
    assert.equal(ours.groups.length, theirs.groups?.length ?? 0);
    for (const [index, child] of (theirs.groups ?? []).entries()) compareGroup(ours.groups[index]!, child, id);
}

function facts({ name, type, size, sf, writable, mandatory, static: fixed, symbols }: PointDef) {
    return { name, type, size, sf, writable, mandatory, static: fixed, symbols };
}

function officialFacts({ name, type, size, sf, access, mandatory, static: fixed, symbols }: OfficialPoint) {
    return {
        name,
        type,
        size,
        sf,
        writable: access === "RW",
        mandatory: mandatory === "M",
        static: fixed === "S",
        symbols: symbols && Object.fromEntries(symbols.map((symbol) => [symbol.name, symbol.value])),
    };
}

const WRONG_UNITS = new Set(["306.A", "306.V", "306.Tmp", "122.WAval"]);

/** Spellings that differ from ours in more than case, blanks and signs. */
const SPELLINGS: Record<string, string> = {
    pct: "%",
    c: "°c",
    degrees: "°",
    deg: "°",
    ohms: "ω",
    ko: "kω",
    vm: "v/m",
    meters: "m",
    mps: "m/s",
    "w/m2": "w/m²",
    bps: "bit/s",
    mbps: "mbit/s",
    sec: "s",
    secs: "s",
    msecs: "ms",
    tms: "s",
    tmh: "h",
    tmd: "d",
    "cos()": "ratio",
    pf: "ratio",
    wmaxpct: "%wmax",
    vnompct: "%vnom",
    deptref: "%deptref",
    varpct: "%deptref",
    "%ref_value/min": "%deptref/min",
    sf: "",
    text: "",
    hhmmss: "",
    "hhmmss.sssz": "",
    yyyymmdd: "",
};

function plainUnit(unit = ""): string {
    const plain = unit.toLowerCase().replaceAll(/[ ^]/g, "").replace("/sec", "/s");
    return SPELLINGS[plain] ?? plain;
}
