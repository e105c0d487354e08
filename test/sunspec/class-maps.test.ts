import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { emptySample } from "../../dist/common/sample.js";
import { PointMapError, PointMaps } from "../../dist/common/pointmaps.js";
import { loadSources, parseSunSpecMap, parseUserMap } from "../../dist/sunspec/class-maps.js";
import { decodeModel } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { officialModels } from "../../dist/sunspec/model.js";
import { bindModels, classesOf } from "../../dist/sunspec/points.js";
import { INVERTER } from "./devices.js";

const FACTS = { meterPositive: "auto", batteryPositive: "discharge", manufacturer: "", ratedW: undefined } as const;

function mapOf(sources: string, { id = "sunspec-mine", cls = "inverter" } = {}): string {
    return `schema: pointmap/1
id: ${id}
class: ${cls}
vendor: Mine
models: [mine]
source: {doc: my notes, verified: device, date: 2026-11-21}
protocol: sunspec
sources:
${sources}`;
}

describe("sunspec point maps", () => {
    let folder: string;
    beforeEach(() => (folder = mkdtempSync(path.join(tmpdir(), "wl-sunspec-maps-"))));
    afterEach(() => rmSync(folder, { recursive: true }));

    /** What an inverter with model 103 gives by these maps. */
    function inverter() {
        const into = emptySample();
        for (const { def, extract } of bindModels("inverter", [{ id: 103 }], (id) => officialModels.get(id), FACTS, loadSources(new PointMaps(folder)))) {
            extract(decodeModel(def, encodeModel(def, INVERTER)), into);
        }
        return into.values;
    }
    const put = (id: string, text: string) => writeFileSync(path.join(folder, `${id}.yaml`), text);

    it("of the package name only what the models have", () => {
        const shipped = new PointMaps().list().filter(({ id }) => id.startsWith("sunspec-"));
        assert.equal(shipped.length, 6);
        for (const { id } of shipped) new PointMaps().load(id, parseUserMap);
    });

    it("of a user add points, and are preferred", () => {
        put("sunspec-mine", mapOf("  - {part: mine, models: [103], points: {dc_bus_voltage_v: DCV, cabinet_temperature_c: TmpCab}}\n  - {part: ac, models: [103], points: {ac_frequency_hz: Hz}}\n"));
        const values = inverter();
        assert.deepEqual([values["dc_bus_voltage_v"], values["cabinet_temperature_c"], values["ac_frequency_hz"], values["ac_power_w"]], [INVERTER["DCV"] === undefined ? undefined : values["dc_voltage_v"], 41.5, 49.98, 4210]);
    });

    it("of a user take the place of the package's", () => {
        put("sunspec-inverter", mapOf("  - {part: ac, models: [103], points: {ac_power_w: W}}\n", { id: "sunspec-inverter" }));
        assert.deepEqual(inverter(), { ac_power_w: 4210 });
    });

    it("of a user make a device what no map of the package knows", () => {
        put("sunspec-extra", mapOf("  - {part: own, models: [64001], points: {state: Cmd_Status}}\n", { id: "sunspec-extra", cls: "weather" }).replace("Cmd_Status", officialModels.get(64001)!.points.at(2)!.name));
        assert.deepEqual(classesOf([{ id: 64001 }], loadSources(new PointMaps(folder))), ["weather"]);
    });

    it("of other protocols in the folder of the user are left alone", () => {
        put("my-meter", "this is: [no map");
        assert.equal(inverter()["ac_power_w"], 4210);
    });

    const FAULTS: [string, string, RegExp][] = [
        ["an unknown key", "  - {part: a, model: [103], points: {ac_power_w: W}}\n", /line 9: sources\.0: unknown key "model": did you mean "models"\?/],
        ["no models", "  - {part: a, points: {ac_power_w: W}}\n", /line 9: sources\.0\.models: must be a list of model ids/],
        ["an unknown model", "  - {part: a, models: [999], points: {ac_power_w: W}}\n", /line 9: sources\.0\.models: there is no definition of model 999/],
        ["an unknown group", "  - {part: a, models: [160], group: modul, points: {'mppt{i}_dc_power_w': DCW}}\n", /group: model 160 has no group "modul": did you mean "module"\?/],
        ["an unknown point", "  - {part: a, models: [103], points: {ac_power_w: Wat}}\n", /points\.ac_power_w: no model of this source has Wat/],
        ["another quantity", "  - {part: a, models: [103], points: {ac_power_w: Hz}}\n", /points\.ac_power_w: Hz is in Hz, which does not fit the name's ending _w: rename the point/],
        ["a name that is not ours", "  - {part: a, models: [103], points: {Power: W}}\n", /points\.Power: a point's name is snake_case/],
        ["entries without numbers", "  - {part: a, models: [160], group: module, points: {dc_power_w: DCW}}\n", /number it with \{i\} or \{n\}/],
        ["numbers without entries", "  - {part: a, models: [103], points: {'ac{i}_power_w': W}}\n", /add group/],
        ["a direction of nothing", "  - {part: a, models: [203], directed: [ac_powr_w], points: {ac_power_w: W}}\n", /there is no point "ac_powr_w": did you mean "ac_power_w"\?/],
        ["a condition of nothing", "  - {part: a, models: [160], group: module, only: {point: IDStr}, points: {'mppt{i}_dc_power_w': DCW}}\n", /only: needs is: \[values\] or starts/],
    ];
    for (const [what, sources, message] of FAULTS) {
        it(`with ${what} are refused with the line and what to do`, () => {
            put("sunspec-mine", mapOf(sources));
            assert.throws(
                () => loadSources(new PointMaps(folder)),
                (error) => error instanceof PointMapError && error.code === "POINTMAP_INVALID" && message.test(error.message) && error.message.includes("sunspec-mine.yaml, line 9"),
            );
        });
    }

    it("are for wl-sunspec, and others not for it", () => {
        assert.throws(() => parseSunSpecMap(mapOf("  []\n").replace("protocol: sunspec", "protocol: modbus"), "x.yaml"), /protocol modbus is read by wl-modbus: choose a map of protocol sunspec for wl-sunspec/);
        assert.throws(() => parseSunSpecMap(mapOf("  - {part: a, models: [103], points: {ac_power_w: W}}\n", { cls: "gateway" }), "x.yaml"), /line 3: class: sunspec devices are one of inverter, meter/);
    });
});
