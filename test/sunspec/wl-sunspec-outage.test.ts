import assert from "node:assert/strict";
import { helper } from "../node-red.js";
import { faults } from "../modbus/fault-server.js";
import { INVERTER, named, put } from "./devices.js";
import { NodeRig, of, TYPES } from "./node-rig.js";

describe("wl-sunspec in trouble", () => {
    const rig = new NodeRig();

    it("tells of a silent unit once, on the Catch path and in the status, and goes on with the others", async () => {
        await rig.load({}, { timeoutMs: 60 });
        await rig.next(of("fronius-grid"));
        const caught = rig.caught();
        const registers = rig.server.units.get(2)!;
        rig.server.units.delete(2);
        await rig.server.server.nextRequest();
        // Asked by hand, so that nobody waits for the rhythm in which a silent unit is tried.
        const asking = setInterval(() => helper.getNode("reader").receive({ payload: "now" }), 100);
        const bad = await rig.next(({ reading }) => reading.quality === "bad");
        assert.deepEqual([bad.topic, bad.payload], ["home/fronius-grid", {}]);
        await rig.shows("yellow 2 of 3 devices");
        await rig.next(of("fronius-inv"));
        assert.equal(caught.length, 1);
        assert.match(caught[0]!.error.code ?? "", /^(MODBUS_TIMEOUT|SUNSPEC_NOT_FOUND)$/);
        assert.match(caught[0]!.error.message, /[Uu]nit 2/);
        rig.server.units.set(2, registers);
        const back = await rig.next(of("fronius-grid"));
        clearInterval(asking);
        assert.equal(back.reading.quality, "good");
        assert.equal(caught.length, 1);
    });

    it("returns after the connection was lost, having told of it once", async () => {
        await rig.load({ units: "1" });
        await rig.next();
        const caught = rig.caught();
        await rig.server.server.stop();
        await rig.shows("red no connection");
        put(rig.server, 1, [named("OTHER"), [103, INVERTER]]);
        await rig.server.server.listen();
        assert.equal((await rig.next(({ reading }) => reading.quality === "good")).topic, "home/fronius-other", "it was walked again");
        assert.equal(caught.length, 1);
    });

    it("shares the connection through every kind of deploy", async () => {
        const second = { id: "reader2", z: "tab2", type: "wl-sunspec", x: 0, y: 0, site: "site", link: "link", units: "3", period: 0.2, wires: [["out2"]] };
        const both = (period: number) => [
            ...rig.flow({ units: "1", period }),
            { id: "tab2", type: "tab" },
            second,
            { id: "out2", z: "tab2", type: "helper", x: 0, y: 0, wires: [] },
        ];
        const running = () => Promise.all([rig.next(of("fronius-inv")), rig.next(of("fronius-bat"), "out2")]);
        const { server } = rig.server;
        await helper.load(TYPES, both(0.2));
        await running();
        assert.equal(server.connections, 1);
        for (const type of ["nodes", "flows"] as const) {
            await helper.setFlows(both(type === "nodes" ? 0.25 : 0.3), type);
            await running();
            assert.equal(server.connections, 1, `${type}: the reader that did not change kept it`);
        }
        await helper.setFlows(both(0.35), "full");
        await running();
        assert.equal(server.live.size, 1);
        assert.deepEqual(server.violations, []);
    });

    it("closes in time while the device does not answer", async () => {
        await rig.load({}, { timeoutMs: 60_000 });
        await rig.next();
        rig.server.server.otherwise = faults.silent;
        await rig.server.server.nextRequest();
        const started = performance.now();
        await helper.unload();
        assert.ok(performance.now() - started < 2000);
        await rig.disconnected();
    });
});
