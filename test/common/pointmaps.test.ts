import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { devNull, tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { MAX_MAP_BYTES, PointMapError, PointMaps } from "../../dist/common/pointmaps.js";
import { modbusMapSchema } from "../../dist/modbus/map-schema.js";
import { parseModbusMap } from "../../dist/modbus/map.js";
import { parseUserMap } from "../../dist/sunspec/class-maps.js";

/** The error of something that must fail. */
function failure(task: () => unknown): PointMapError {
    try {
        task();
    } catch (error) {
        assert(error instanceof PointMapError, String(error));
        return error;
    }
    return assert.fail("it was accepted");
}

const HEAD = `schema: pointmap/1
id: my-meter
class: meter
vendor: Mine
models: [one]
source: {doc: my notes, verified: device, date: 2026-11-21}
protocol: modbus
defaults: {table: input}
`;
const MAP = `${HEAD}points:
  ac_power_w: {address: 0, type: int16, unit: W, sign: import_positive}
`;

describe("a point map's text", () => {
    const lineOf = (text: string) => failure(() => parseModbusMap(text, "my-meter.yaml"));

    it("is refused with file, line and the key that was meant", () => {
        const { code, message, faults } = lineOf(MAP.replace("type: int16", "typ: int16").replace("vendor:", "vender:"));
        assert.equal(code, "POINTMAP_INVALID");
        assert.deepEqual(
            faults.map(({ line }) => line),
            [1, 4, 10, 10],
            message,
        );
        assert.match(message, /my-meter\.yaml, line 4: unknown key "vender": did you mean "vendor"\?/);
        assert.match(message, /my-meter\.yaml, line 10: points\.ac_power_w: unknown key "typ": did you mean "type"\?/);
    });

    const YAML_FAULTS: [string, string, RegExp][] = [
        ["an alias", `${HEAD}x: &a [1]\ny: *a\n`, /line 10: the alias \*a is not taken/],
        ["a bomb of aliases", `a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n`, /line 2: the alias/],
        ["a key that is there twice", `${MAP}  ac_power_w: {address: 2, type: int16, sign: import_positive}\n`, /line 11: points\.ac_power_w: is there twice/],
        ["a tag", "a: !!js/function 1\n", /line 1: Unresolved tag/],
        ["a list as a key", "? [a]\n: 1\n", /line 1: a key must be/],
        ["brackets that do not end", `${HEAD}points: {ac_power_w: {address: 0\n`, /line \d+/],
        ["a tab as indentation", `${HEAD}points:\n\tac_power_w: 1\n`, /line 10/],
        ["two documents", `${MAP}---\na: 1\n`, /line \d+: .*document/],
        ["nothing", "", /line 1: a map begins with the key/],
        ["a list", "- 1\n- 2\n", /line 1: a map begins with.*a list with dashes/],
        ["a text", "hello", /line 1: .*the text "hello"/],
        ["deep brackets", `a: ${"[".repeat(50_000)}`, /line 1: nothing in a map is nested/],
        ["deep brackets that end", `a:\n  b: ${"[".repeat(5000)}${"]".repeat(5000)}`, /line 2: nothing in a map is nested/],
        ["many dashes", "- ".repeat(40_000), /line 1: nothing in a map is nested/],
        ["many colons", "a: ".repeat(40_000), /^my-meter\.yaml, line 1: nothing in a map is nested[^\n]*$/],
        ["deep indentation", Array.from({ length: 400 }, (_, i) => `${" ".repeat(i)}a:\n`).join(""), /nested/],
        ["protocol mqtt", MAP.replace("protocol: modbus", "protocol: mqtt"), /line 7: protocol mqtt is read by wl-mqtt-device: choose a map of protocol modbus for wl-modbus/],
        ["another protocol", MAP.replace("protocol: modbus", "protocol: modbuss"), /line 7: protocol: "modbuss" is not known: did you mean "modbus"\?/],
    ];
    for (const [what, text, message] of YAML_FAULTS) it(`with ${what} is refused`, () => assert.match(lineOf(text).message, message));

    it("may hold a long text on lines of its own", () => {
        const text = MAP.replace("source: {doc: my notes, ", `source:\n  doc: >\n${"    a line of the notes\n".repeat(15)}  `).replace("verified: device, date: 2026-11-21}", "verified: device\n  date: 2026-11-21");
        assert.equal(parseModbusMap(text, "my-meter.yaml").source.doc?.length, 299);
    });

    it("of 10 MB is refused at once", () => {
        const text = `${MAP}#${"x".repeat(10_000_000)}`;
        const { code, faults } = lineOf(text);
        assert.deepEqual([code, faults.length], ["POINTMAP_TOO_LARGE", 1]);
        assert.equal(parseModbusMap(`${MAP}#${"x".repeat(MAX_MAP_BYTES - MAP.length - 1)}`, "my-meter.yaml").points.length, 1);
    });

    it("with thousands of faults tells the first ones and how many more", () => {
        const text = HEAD + Array.from({ length: 3000 }, (_, i) => `x${i}: 1\n`).join("");
        const { faults, message } = lineOf(text);
        assert(faults.length <= 20 && message.length < 5000, message);
    });

    it("of any bytes ends in a map or in faults with lines, never in anything else", () => {
        const lines = readFileSync(new PointMaps().find("example-meter").file, "utf8").split("\n");
        const broken = fc
            .array(fc.tuple(fc.nat(lines.length - 1), fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("", "- ", "a: b", "  x: {", "points:", "]", "  - 5", "address: -1", "0x", "&a", "*a", "? ", "!!", "|"))), { maxLength: 4 })
            .map((changes) => {
                const copy = [...lines];
                for (const [at, text] of changes) copy[at] = text;
                return copy.join("\n");
            });
        const anything = fc.oneof(broken, fc.string({ unit: "binary", maxLength: 400 }), fc.uint8Array({ maxLength: 2000 }).map((bytes) => Buffer.from(bytes).toString("latin1")));
        fc.assert(
            fc.property(anything, (text) => {
                try {
                    parseModbusMap(text, "x.yaml");
                } catch (error) {
                    assert(error instanceof PointMapError, `${String(error)} for ${JSON.stringify(text)}`);
                    assert(error.faults.length > 0 && error.faults.every(({ line, message }) => line >= 1 && message !== ""), error.message);
                    assert.match(error.message, /^x\.yaml, line \d+: /);
                }
            }),
            { numRuns: 400 },
        );
    });
});

describe("the page on writing maps", () => {
    const page = readFileSync(path.join(__dirname, "../../docs/pointmaps.md"), "utf8");

    it("has examples that are maps", () => {
        const [modbus = "", sunspec = ""] = [...page.matchAll(/```yaml\n(schema[^]*?)```/g)].map(([, text = ""]) => text);
        assert.equal(parseModbusMap(modbus, "my-meter.yaml").points.length, 3);
        assert.equal(parseUserMap(sunspec, "sunspec-limits.yaml").sources.length, 1);
    });

    it("explains every key", () => {
        const { shape } = modbusMapSchema();
        const keys = [shape.points.valueType, shape.defaults.unwrap(), modbusMapSchema()].flatMap((part) => Object.keys(part.shape));
        assert.deepEqual(keys.filter((key) => !new RegExp(`\\b${key}\\b`).test(page)), []);
    });
});

describe("point maps by id", () => {
    let folder: string;
    beforeEach(() => (folder = mkdtempSync(path.join(tmpdir(), "wl-maps-"))));
    afterEach(() => rmSync(folder, { recursive: true }));

    it("come with the package; nothing of the folder of the user need exist", () => {
        const list = new PointMaps(path.join(folder, "none")).list();
        assert(list.some(({ id, origin }) => id === "eastron-sdm630" && origin === "shipped"));
        assert(!list.some(({ id }) => id.startsWith("model_")));
    });

    it("tell what they are for without the rest being looked at", () => {
        const { class: cls, vendor, models, protocol } = new PointMaps().head("eastron-sdm72-v2");
        assert.deepEqual([cls, vendor, models.length, protocol], ["meter", "Eastron", 2, "modbus"]);
        for (const { id } of new PointMaps().list()) assert.equal(new PointMaps().head(id).id, id);
        writeFileSync(path.join(folder, "my-meter.yaml"), `${HEAD}points: nonsense\n`);
        assert.equal(new PointMaps(folder).head("my-meter").vendor, "Mine");
        writeFileSync(path.join(folder, "my-meter.yaml"), MAP.replace("vendor: Mine\n", ""));
        assert.match(failure(() => new PointMaps(folder).head("my-meter")).message, /vendor: must be a text/);
    });

    it("of the user are found, also in folders, and read again when they have changed", () => {
        const maps = new PointMaps(folder);
        mkdirSync(path.join(folder, "meters"));
        const file = path.join(folder, "meters/my-meter.yaml");
        assert.equal(failure(() => maps.find("my-meter")).code, "POINTMAP_NOT_FOUND");
        writeFileSync(file, MAP);
        const first = maps.load("my-meter", parseModbusMap);
        assert.equal(maps.load("my-meter", parseModbusMap), first);
        writeFileSync(file, MAP.replace("address: 0", "address: 7"));
        utimesSync(file, 1, 1);
        assert.equal(maps.load("my-meter", parseModbusMap).points[0]?.address, 7);
        rmSync(file);
        assert.equal(failure(() => maps.load("my-meter", parseModbusMap)).code, "POINTMAP_NOT_FOUND");
    });

    it("of the user take the place of the package's, and say so", () => {
        const maps = new PointMaps(folder);
        writeFileSync(path.join(folder, "eastron-sdm630.yaml"), MAP.replace("my-meter", "eastron-sdm630"));
        assert.equal(maps.load("eastron-sdm630", parseModbusMap).vendor, "Mine");
        assert.match(maps.find("eastron-sdm630").notice ?? "", /takes the place of the map eastron-sdm630/);
        assert.equal(maps.find("janitza-umg").notice, undefined);
    });

    it("under another name than their file's are refused with the name to take", () => {
        writeFileSync(path.join(folder, "other.yaml"), MAP);
        const { code, message, faults } = failure(() => new PointMaps(folder).load("other", parseModbusMap));
        assert.deepEqual([code, faults[0]?.line], ["POINTMAP_INVALID", 1]);
        assert.match(message, /rename the file to my-meter\.yaml/);
    });

    it("that are too large are not read", () => {
        writeFileSync(path.join(folder, "my-meter.yaml"), Buffer.alloc(10_000_000));
        assert.equal(failure(() => new PointMaps(folder).load("my-meter", parseModbusMap)).code, "POINTMAP_TOO_LARGE");
    });

    it("that do not exist are told with the nearest", () => {
        assert.match(failure(() => new PointMaps(folder).find("eastron-sdm360")).message, /did you mean "eastron-sdm630"\?.*Maps of your own belong in/);
    });

    it("that the disk does not give are told as such", () => {
        mkdirSync(path.join(folder, "my-meter.yaml"));
        const { code, message } = failure(() => new PointMaps(folder).load("my-meter", parseModbusMap));
        assert.equal(code, "POINTMAP_UNREADABLE");
        assert(message.includes(folder));
    });

    it("that are devices, which can be read without end, are not read", () => {
        symlinkSync(devNull, path.join(folder, "endless.yaml"));
        const { code, message } = failure(() => new PointMaps(folder).load("endless", parseModbusMap));
        assert.equal(code, "POINTMAP_UNREADABLE");
        assert.match(message, /it is no file\.$/);
    });
});
