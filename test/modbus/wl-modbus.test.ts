import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseReading, type ReadingMessage } from "../../dist/common/reading.js";
import wlSimPlant from "../../dist/simulate/wl-sim-plant.js";
import { coreNode, helper, root } from "../node-red.js";
import { MapRig, TYPES } from "./map-rig.js";
import type { FlowNode } from "./reader-rig.js";
import { METER_MAP, meterWords } from "./meter.js";

describe("wl-modbus", () => {
    const rig = new MapRig();

    it("sends readings in our names, units and signs, with labels", async () => {
        await rig.load({ periods: { fast: "1", slow: "2" } });
        const msg = await rig.next();
        assert.equal(msg.topic, "home/test-meter-u1");
        assert.deepEqual(msg.payload, {
            ac_voltage_l1_v: 231.2, ac_frequency_hz: 49.98, ac_power_w: -2500, ac_current_l1_a: 10.8, state: "running", alarms: "overvoltage,phase_loss",
            ac_energy_import_wh: 7000, cabinet_temperature_c: 41.5,
        });
        const { timestamp } = msg;
        assert.deepEqual(msg.reading, { site: "home", device: "test-meter-u1", class: "meter", seq: 1, quality: "good" });
        assert.ok(Math.abs(timestamp - Date.now()) < 5000);
        assert.equal(parseReading(msg, 0).timestamp, timestamp);
        await rig.shows("green 1 device");
        assert.deepEqual(rig.server.violations, []);
    });

    it("reads what changes slowly seldom, and all else at every poll", async () => {
        await rig.load({ periods: { slow: "3600" } });
        assert.equal((await rig.next()).payload["ac_energy_import_wh"], 7000);
        const second = await rig.next();
        assert.deepEqual(Object.keys(second.payload), ["ac_voltage_l1_v", "ac_frequency_hz", "ac_power_w", "ac_current_l1_a", "state", "alarms"]);
        assert.equal(second.reading.quality, "good");
        assert.deepEqual(second.reading.bad, undefined);
    });

    it("reads in as few requests as the map allows", async () => {
        await rig.load({ periods: { fast: "3600", slow: "3600" } });
        await rig.next();
        assert.deepEqual(rig.server.asked.map(({ address, quantity }) => [address, quantity]), [[30, 1], [0, 21]]);
    });

    it("polls when it is asked", async () => {
        await rig.load({ periods: { fast: "3600", slow: "3600" } });
        await rig.next();
        rig.units.get(1)!.set(3, 2600);
        const polled = rig.next();
        helper.getNode("reader").receive({ payload: "now" });
        assert.equal((await polled).payload["ac_power_w"], -2600);
    });

    it("names several units by their ids, and one as it is told", async () => {
        rig.units.set(2, meterWords());
        await rig.load({ units: "1-2", deviceName: "grid", periods: { fast: "1", slow: "2" } });
        await Promise.all(["home/grid-u1", "home/grid-u2"].map((topic) => rig.next((msg) => msg.topic === topic)));
        await rig.shows("green 2 devices");
        await helper.unload();
        await rig.load({ deviceName: "grid" });
        assert.equal((await rig.next()).topic, "home/grid");
    });

    it("sends a message a point", async () => {
        await rig.load({ perPoint: true });
        const msg = await rig.next<{ topic: string; payload: unknown }>(({ topic }) => topic === "home/test-meter-u1/state");
        assert.equal(msg.payload, "running");
    });

    it("sends only what changed", async () => {
        await rig.load({ byException: true, deadband: "1" });
        await rig.next();
        rig.units.get(1)!.set(3, 2510);
        let extra = 0;
        helper.getNode("out").on("input", () => extra++);
        for (let i = 0; i < 3; i++) await rig.server.nextRequest();
        assert.equal(extra, 0);
        rig.units.get(1)!.set(3, 3000);
        assert.equal((await rig.next()).payload["ac_power_w"], -3000);
    });

    it("takes what the map says of a point for a change", async () => {
        await rig.load({ byException: true, deadband: "1", mapText: METER_MAP.replace("scale: 0.01, valid", "scale: 0.01, deadband: {abs: 0.05}, valid") });
        await rig.next();
        // Less than 1 % of 50 Hz.
        rig.units.get(1)!.set(1, 5010);
        assert.equal((await rig.next()).payload["ac_frequency_hz"], 50.1);
    });

    it("adds every value with its registers", async () => {
        await rig.load({ rawValues: true });
        const { modbus } = (await rig.next()) as unknown as { modbus: { point: string }[] };
        assert.equal(modbus.length, 8);
        assert.deepEqual(modbus[2], { point: "ac_power_w", value: -2500, unit: "W", table: "holding", address: 2, raw: "0000 09c4" });
        assert.deepEqual(modbus[6], { point: "ac_energy_import_wh", value: 7000, unit: "Wh", table: "holding", address: 10, raw: "0000 0007" });
    });

    it("goes on from the totals it had before a restart", async () => {
        const energy = async (kWh: number) => {
            rig.units.get(1)!.set(11, kWh);
            await rig.load();
            const { payload, reading } = await rig.next();
            await helper.unload();
            return [payload["ac_energy_import_wh"], reading.bad?.["ac_energy_import_wh"]];
        };
        assert.deepEqual(await energy(800), [800_000, undefined]);
        assert.deepEqual(await energy(5), [805_000, "reset"]);
        assert.deepEqual(await energy(15), [815_000, undefined]);
    });

    it("reads by a map of the user's folder", async () => {
        const folder = path.join(rig.userDir, "wattledger", "pointmaps");
        mkdirSync(folder, { recursive: true });
        writeFileSync(path.join(folder, "test-meter.yaml"), METER_MAP);
        await rig.load({ map: "test-meter", mapText: "" });
        assert.equal((await rig.next()).payload["ac_power_w"], -2500);
    });

    it("the example reads the simulated plant, in either framing, and says that it is simulated", async () => {
        const file = path.join(root, "examples", "modbus", "01 Read a meter by a map.json");
        const port = String(rig.server.port);
        await rig.server.stop();
        const types = ["20-inject", "21-debug", "90-comment"].map((name) => coreNode(`common/${name}`));
        for (const framing of [{}, { transport: "rtutcp", rtuPort: port }]) {
            const nodes = JSON.parse(readFileSync(file, "utf8")) as FlowNode[];
            for (const node of nodes) {
                if (node["port"] === "1503") node["port"] = port;
                if (node["type"] === "wl-modbus-link") Object.assign(node, framing);
                if (node["type"] === "wl-sim-plant" && "rtuPort" in framing) Object.assign(node, framing, { port: "0" });
            }
            await helper.load([...TYPES, wlSimPlant, ...types], nodes);
            const [msg] = (await once(helper.getNode("wlmodbus0000show"), "input")) as [ReadingMessage];
            assert.deepEqual([msg.topic, msg.reading.class, msg.reading.simulated], ["home/grid", "meter", true]);
            assert.equal(typeof msg.payload["ac_power_w"], "number");
            assert.equal(typeof msg.payload["ac_energy_import_wh"], "number");
            await helper.unload();
        }
    });

    it("says what is missing instead of failing", async () => {
        const cases: [object, string][] = [
            [{ link: "" }, "red choose a modbus-link"],
            [{ site: "nowhere" }, "red choose a site"],
            [{ map: "" }, "red choose a device map"],
            [{ mapText: " " }, "red paste a device map"],
        ];
        for (const [def, status] of cases) {
            await rig.load(def);
            assert.equal(rig.statuses.at(-1), status);
            await helper.unload();
        }
        await rig.load({ units: "first" });
        assert.equal(rig.statuses.at(-1), "red check settings");
        assert.match((await rig.next<{ error: { message: string } }>(undefined, "caught")).error.message, /units takes unit ids/);
        await helper.unload();
        await rig.load({ mapText: METER_MAP.replace("type: int32", "type: int33") });
        assert.equal(rig.statuses.at(-1), "red check settings");
        assert.match((await rig.next<{ error: { message: string } }>(undefined, "caught")).error.message, /^pasted map, line 24: points\.ac_power_w\.type: "int33" is no type: did you mean "int32"\?$/);
        await helper.unload();
        await rig.load({ map: "eastron-sdm631" });
        assert.match((await rig.next<{ error: { message: string } }>(undefined, "caught")).error.message, /did you mean "eastron-sdm630"\? Maps/);
    });
});
