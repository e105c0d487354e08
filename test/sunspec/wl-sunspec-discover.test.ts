import assert from "node:assert/strict";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { NodeAPI } from "node-red";
import type { Survey } from "../../dist/sunspec/survey.js";
import { helper } from "../node-red.js";
import { INVERTER, METER, named, put } from "./devices.js";
import { type FlowNode, SITE } from "../modbus/reader-rig.js";
import { NodeRig, of, TYPES } from "./node-rig.js";
import { MARKER, model } from "./sunspec-server.js";

describe("the Discover button of wl-sunspec", () => {
    const rig = new NodeRig();
    let web: Server;
    let permissions: string[] = [];
    /** The helper serves no admin routes by itself. */
    const admin = (RED: NodeAPI) => {
        const { auth } = RED;
        RED.auth = {
            ...auth,
            needsPermission: (permission) => {
                permissions.push(permission);
                return auth.needsPermission(permission);
            },
        };
        web = createServer(RED.httpAdmin as RequestListener).listen(0, "127.0.0.1");
    };
    const start = (nodes: FlowNode[] = [SITE]) => helper.load([admin, ...TYPES], nodes);
    afterEach(() => {
        permissions = [];
        web.closeAllConnections();
        web.close();
    });

    async function press(body: object): Promise<{ status: number; body: Survey & { message?: string; code?: string } }> {
        const { port } = web.address() as AddressInfo;
        const response = await fetch(`http://127.0.0.1:${port}/wattledger/sunspec/discover`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify(body),
        });
        return { status: response.status, body: (await response.json()) as Survey };
    }
    const link = (more: object = {}) => ({ host: "127.0.0.1", port: String(rig.server.server.port), ...more });

    it("shows units, devices and live values through a link that is not deployed, and closes it", async () => {
        await start();
        put(rig.server, 1, [named("7E1", "SolarEdge"), [103, INVERTER], named("606", "SolarEdge"), [203, METER]]);
        const { status, body } = await press({ link: link({ timeoutMs: "60" }), units: "1, 5" });
        assert.equal(status, 200);
        assert.deepEqual(
            body.rows.map(({ unit, device, name, classes, serial, models }) => [unit, device, name, classes, serial, models]),
            [
                [1, 0, "solaredge-7e1", ["inverter"], "7E1", [1, 103]],
                [1, 1, "solaredge-606", ["meter"], "606", [1, 203]],
            ],
        );
        assert.equal(body.rows[1]!.values["ac_power_w"], -2000);
        assert.equal(body.rows[0]!.values["ac_energy_export_wh"], 812_345);
        assert.deepEqual(body.missed.map(({ unit }) => unit), [5]);
        await rig.disconnected();
    });

    it("tells what is odd about a device", async () => {
        await start();
        rig.server.put(1, 40_000, MARKER, model(1, named("ODD")[1]), model(203, METER));
        rig.refuseAbsent();
        const { body } = await press({ link: link(), units: "1" });
        assert.deepEqual(body.warnings, ["Unit 1: The chain of models has no end model; the device refuses to read on."]);
    });

    it("is for those who may edit", async () => {
        await start();
        assert.ok(permissions.includes("wl-sunspec.write"));
    });

    it("uses the connection of a link in use, and disturbs no poll", async () => {
        await start(rig.flow());
        await rig.next();
        const { body } = await press({ link: link(), units: "1-3", meterPositive: "export" });
        assert.equal(body.rows.find(({ unit }) => unit === 2)?.values["ac_power_w"], -2000);
        assert.equal(rig.server.server.connections, 1);
        assert.equal((await rig.next(of("fronius-grid"))).reading.quality, "good");
    });

    it("lists a device that answers to every unit once", async () => {
        await start();
        const only = rig.server.units.get(1)!;
        for (let unit = 0; unit < 256; unit++) rig.server.units.set(unit, only);
        const { body } = await press({ link: link() });
        assert.deepEqual(body.rows.map(({ unit }) => unit), [1]);
    });

    it("takes environment variables as a deploy would", async () => {
        process.env["WL_TEST_HOST"] = "127.0.0.1";
        await start();
        const { body } = await press({ link: link({ host: "${WL_TEST_HOST}" }), units: "2" });
        delete process.env["WL_TEST_HOST"];
        assert.equal(body.rows.length, 1);
    });

    it("answers with a sentence when it cannot", async () => {
        await start();
        const says = async (body: object, pattern: RegExp) => {
            const answer = await press(body);
            assert.equal(answer.status, 400);
            assert.match(answer.body.message ?? "", pattern);
        };
        await says({}, /host must not be empty/);
        await says({ link: link(), units: "x" }, /units takes unit ids/);
        await rig.server.server.stop();
        await says({ link: link(), units: "1" }, /127\.0\.0\.1/);
    });
});
