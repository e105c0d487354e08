import assert from "node:assert/strict";
import wlSimPlant from "../../dist/simulate/wl-sim-plant.js";
import { helper } from "../node-red.js";
import { SITE } from "../modbus/reader-rig.js";
import { NodeRig, of, TYPES } from "./node-rig.js";

const [A, B, METER] = ["wattledger-sim1-inv-a", "wattledger-sim1-inv-b", "wattledger-sim1-grid"] as const;

/** The simulated plant shares no code with the reader but the encoder, and breaks as devices do. */
describe("wl-sunspec before a plant that breaks", () => {
    const rig = new NodeRig();
    beforeEach(async () => {
        await rig.server.server.stop();
        const plant = { id: "plant", z: "tab", type: "wl-sim-plant", x: 0, y: 0, site: "site", port: rig.server.server.port, wires: [["truth"]] };
        const site = { ...SITE, latitude: "52.52", longitude: "13.4", ratedPowerW: "15000" };
        const nodes = rig.flow({ units: "1, 2, 200" }).map((node) => (node.id === "site" ? site : node));
        await helper.load([...TYPES, wlSimPlant], [...nodes, plant, { id: "truth", z: "tab", type: "helper", x: 0, y: 0, wires: [] }]);
        await Promise.all([A, B, METER].map((name) => rig.next(of(name))));
    });
    const fault = (payload: object | string) => helper.getNode("plant").receive({ payload });

    it("reads what is true, within what the registers resolve", async () => {
        const [truth, b, meter] = await Promise.all([rig.next(undefined, "truth"), rig.next(of(B)), rig.next(of(METER))]);
        const a = await rig.next(of(A));
        const near = (read: number, real: unknown) => assert.ok(Math.abs(read - Number(real)) <= 0.05 * 15_000, `${read} is not near ${String(real)}`);
        near(Number(a.payload["ac_power_w"]) + Number(b.payload["ac_power_w"]), truth.payload["pv_power_w"]);
        near(Number(meter.payload["ac_power_w"]), truth.payload["grid_power_w"]);
        assert.equal(Math.sign(Number(meter.payload["ac_power_w"])), Math.sign(Number(truth.payload["grid_power_w"])));
    });

    it("follows registers that move", async () => {
        const before = await rig.next(of(A));
        fault({ fault: "length", unit: 1 });
        for (let i = 0; i < 5; i++) {
            const after = await rig.next(of(A));
            assert.equal(after.reading.quality, "good");
            assert.ok(Math.abs(Number(after.payload["ac_energy_export_wh"]) - Number(before.payload["ac_energy_export_wh"])) < 100);
        }
    });

    it("goes on counting when the counters start again", async () => {
        const before = Number((await rig.next(of(A))).payload["ac_energy_export_wh"]);
        fault("counters");
        const hit = await rig.next(({ reading }) => reading.device === A && reading.bad?.["ac_energy_export_wh"] !== undefined);
        assert.ok(["reset", "missing"].includes(hit.reading.bad!["ac_energy_export_wh"]!));
        const after = await rig.next(({ reading, payload }) => reading.device === A && reading.bad === undefined && payload["ac_energy_export_wh"] !== undefined);
        const total = Number(after.payload["ac_energy_export_wh"]);
        assert.ok(total >= before && total < before + 1000, `${before} -> ${total}`);
    });

    it("takes the night for what it is", async () => {
        fault({ fault: "night", unit: 2 });
        const night = await rig.next(({ reading }) => reading.device === B && reading.bad !== undefined);
        assert.deepEqual(night.payload, {});
        assert.equal(night.reading.bad?.["ac_power_w"], "missing");
        fault("clear");
        assert.equal((await rig.next(({ reading }) => reading.device === B && reading.bad === undefined)).reading.quality, "good");
    });

    it("reports a device that refuses once, and reads the others", async () => {
        const caught = rig.caught();
        fault({ fault: "exception", unit: 1, code: 4 });
        await rig.next(({ reading }) => reading.device === A && reading.quality === "bad");
        for (let i = 0; i < 3; i++) assert.equal((await rig.next(of(METER))).reading.quality, "good");
        assert.deepEqual(caught.map(({ error }) => error.code), ["MODBUS_EXCEPTION"]);
    });
});
