import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { parseReading, type ReadingMessage } from "../../dist/common/reading.js";
import { summarise, type UnitSummary } from "../../dist/modbus/polled-units.js";
import wlSimPlant from "../../dist/simulate/wl-sim-plant.js";
import { coreNode, helper, root } from "../node-red.js";
import { INVERTER, METER, named, put } from "./devices.js";
import type { FlowNode } from "../modbus/reader-rig.js";
import { NodeRig, of, TYPES } from "./node-rig.js";

describe("wl-sunspec", () => {
    const rig = new NodeRig();

    it("sends readings that every taker of readings understands", async () => {
        await rig.load();
        const [inverter, meter, battery] = await Promise.all([rig.next(of("fronius-inv")), rig.next(of("fronius-grid")), rig.next(of("fronius-bat"))]);
        assert.equal(inverter.topic, "home/fronius-inv");
        assert.equal(inverter.payload["ac_power_w"], 4210);
        assert.equal(inverter.payload["mppt2_dc_power_w"], 2380);
        assert.equal(meter.payload["ac_power_w"], 2000);
        assert.equal(battery.payload["soc_pct"], 63.5);
        for (const msg of [inverter, meter, battery]) assert.equal(parseReading(msg, 0).timestamp, msg.timestamp);
        const [before, after] = [await rig.next(of("fronius-inv")), await rig.next(of("fronius-inv"))];
        assert.equal(after.reading.seq, before.reading.seq + 1);
        await rig.shows("green 3 devices");
    });

    it("only ever reads, one request at a time", async () => {
        const { server } = rig.server;
        rig.refuseAbsent();
        await rig.load({ fullModels: true, units: "" });
        await rig.next(of("fronius-bat"));
        await rig.next(of("fronius-bat"));
        assert.deepEqual(server.violations, []);
        assert.ok(server.asked.every((asked) => asked.function === 3));
    });

    it("finds the usual units and their neighbours by itself", async () => {
        put(rig.server, 3, [named("THREE"), [203, METER]]);
        put(rig.server, 4, [named("FOUR"), [203, METER]]);
        put(rig.server, 247, [named("LAST"), [203, METER]]);
        rig.refuseAbsent();
        await rig.load({ units: "" });
        await Promise.all(["inv", "three", "four", "last"].map((serial) => rig.next(of(`fronius-${serial}`))));
    });

    it("polls when it is asked", async () => {
        await rig.load({ period: 3600 });
        await rig.next(of("fronius-bat"));
        const polled = rig.next(of("fronius-inv"));
        helper.getNode("reader").receive({ payload: "now" });
        await polled;
    });

    it("sends a message a point", async () => {
        await rig.load({ perPoint: true });
        const msg = await rig.next<{ topic: string; payload: unknown; timestamp: number }>(({ topic }) => topic === "home/fronius-grid/ac_power_w");
        assert.equal(msg.payload, 2000);
        assert.ok(msg.timestamp > 0);
    });

    it("sends only what changed", async () => {
        await rig.load({ byException: true, units: "2" });
        const first = await rig.next();
        let extra = 0;
        helper.getNode("out").on("input", () => extra++);
        await rig.server.server.nextRequest();
        await rig.server.server.nextRequest();
        assert.equal(extra, 0);
        put(rig.server, 2, [named("GRID"), [203, { ...METER, W: -1500 }]]);
        const second = await rig.next();
        assert.deepEqual([first.reading.seq, second.reading.seq, second.payload["ac_power_w"]], [1, 2, -1500]);
    });

    it("reads the chosen devices under the given names", async () => {
        await rig.load({ units: "", devices: [{ unit: 2, device: 0, name: "grid" }] });
        assert.equal((await rig.next()).topic, "home/grid");
        assert.equal((await rig.next()).topic, "home/grid");
        assert.ok(rig.server.server.asked.every(({ unit }) => unit === 2));
    });

    it("reads what a map in the user directory adds, and says where the map is wrong", async () => {
        const folder = path.join(rig.userDir, "wattledger", "pointmaps");
        mkdirSync(folder, { recursive: true });
        const map = (from: string) => `schema: pointmap/1
id: sunspec-mine
class: meter
vendor: Mine
models: [mine]
source: {doc: my notes, verified: device, date: 2026-11-21}
protocol: sunspec
sources:
  - {part: mine, models: [203], points: {grid_frequency_hz: ${from}}}
`;
        writeFileSync(path.join(folder, "sunspec-mine.yaml"), map("Hz"));
        await rig.load({ units: "2" });
        const { payload } = await rig.next();
        assert.deepEqual([typeof payload["grid_frequency_hz"], payload["grid_frequency_hz"]], ["number", payload["ac_frequency_hz"]]);
        await helper.unload();
        writeFileSync(path.join(folder, "sunspec-mine.yaml"), map("Hertz"));
        await rig.load({ units: "2" });
        const { error } = await rig.next<{ error: { message: string; code: string } }>(undefined, "caught");
        assert.equal(error.code, "POINTMAP_INVALID");
        assert.match(error.message, /sunspec-mine\.yaml, line 9: .*no model of this source has Hertz/);
    });

    it("says what is missing instead of failing", async () => {
        await rig.load({ link: "" });
        assert.equal(rig.statuses.at(-1), "red choose a modbus-link");
        await helper.unload();
        await rig.load({ site: "nowhere" });
        assert.equal(rig.statuses.at(-1), "red choose a site");
        await helper.unload();
        await rig.load({ units: "first" });
        assert.equal(rig.statuses.at(-1), "red check settings");
        const { error } = await rig.next<{ error: { message: string } }>(undefined, "caught");
        assert.match(error.message, /units takes unit ids/);
    });

    it("no settings, however wrong, stop Node-RED", async () => {
        // Node-RED itself fails on a property named toString.
        const object = fc.object({ maxDepth: 1, key: fc.stringMatching(/^[a-z]{1,8}$/) });
        const junk = fc.oneof(fc.string(), fc.integer(), fc.double(), fc.constant(null), fc.boolean(), fc.array(fc.string(), { maxLength: 2 }), object);
        const keys = ["units", "devices", "deviceClass", "period", "slowPeriod", "meterPositive", "fullModels", "deadband", "heartbeat", "site", "link"];
        await fc.assert(
            fc.asyncProperty(fc.dictionary(fc.constantFrom(...keys), junk, { maxKeys: 4 }), async (def) => {
                await helper.load(TYPES, JSON.parse(JSON.stringify(rig.flow(def, { port: 1 }))) as FlowNode[]);
                await helper.unload();
            }),
            { numRuns: 40 },
        );
    });

    it("goes on from the totals it had before a restart", async () => {
        const energy = async (WH: number) => {
            put(rig.server, 1, [named("INV"), [103, { ...INVERTER, WH }]]);
            await rig.load({ units: "1" });
            const { payload, reading } = await rig.next();
            await helper.unload();
            return [payload["ac_energy_export_wh"], reading.bad?.["ac_energy_export_wh"]];
        };
        assert.deepEqual(await energy(800_000), [800_000, undefined]);
        assert.deepEqual(await energy(5), [800_005, "reset"]);
        assert.deepEqual(await energy(15), [800_015, undefined]);
        assert.deepEqual(readdirSync(path.join(rig.userDir, "wattledger", "sunspec")), ["reader.json"]);
    });

    it("the example reads the simulated plant", async () => {
        const file = path.join(root, "examples", "sunspec", "01 Read a SunSpec inverter.json");
        const nodes = JSON.parse(readFileSync(file, "utf8")) as FlowNode[];
        await rig.server.server.stop();
        for (const node of nodes) if (node["port"] === "1502") node["port"] = String(rig.server.server.port);
        const types = ["20-inject", "21-debug", "90-comment"].map((name) => coreNode(`common/${name}`));
        await helper.load([...TYPES, wlSimPlant, ...types], nodes);
        const devices = new Set<string>();
        const debug = helper.getNode("wlsunspec000show");
        while (devices.size < 6) {
            const [msg] = (await once(debug, "input")) as [ReadingMessage];
            assert.equal(msg.reading.simulated, true);
            if (msg.reading.quality === "good") devices.add(`${msg.reading.class} ${msg.topic}`);
        }
        assert.deepEqual([...devices].toSorted(), [
            "battery home/wattledger-sim1-bat",
            "inverter home/wattledger-sim1-inv-a",
            "inverter home/wattledger-sim1-inv-b",
            "meter home/wattledger-sim1-grid",
            "tracker home/wattledger-sim1-trk",
            "weather home/wattledger-sim1-met",
        ]);
    });
});

describe("the status of wl-sunspec", () => {
    const unit = (state: UnitSummary["state"], names: string[] = ["d"], overruns = 0): UnitSummary => ({
        state, late: overruns > 0, overruns, unit: { devices: names.map((name) => ({ name })) },
    });

    it("says in a few words how it is", () => {
        const cases: [UnitSummary[], Record<string, boolean>, string][] = [
            [[unit("new", []), unit("new", [])], {}, "busy searching"],
            [[unit("ok")], {}, "ok 1 device"],
            [[unit("ok", ["a", "b"]), unit("new", [])], {}, "busy 2 of 3 devices"],
            [[unit("lost", []), unit("lost", ["a", "b", "c"])], {}, "error no answer"],
            [[unit("lost", []), unit("new", [])], {}, "warn 0 of 2 devices"],
            [[unit("ok", ["a", "b"]), unit("lost", [])], { a: true }, "warn 2 of 3 devices"],
            [[unit("ok", ["a", "b"]), unit("partly", ["c", "d", "e"])], {}, "warn 2 of 5 devices"],
            [[unit("ok", ["a"], 17), unit("ok", ["b"])], { a: true }, "warn skipped polls: 17"],
            [[unit("ok", ["a", "b"])], { a: true, gone: false }, "idle 2 devices, night"],
            [[unit("ok", ["a", "b"])], { a: true, b: false }, "ok 2 devices"],
        ];
        for (const [units, resting, expected] of cases) {
            const { kind, text } = summarise(units, new Map(Object.entries(resting)), "searching");
            assert.equal(`${kind} ${text}`, expected);
            assert.ok(text.length <= 20, text);
        }
    });
});
