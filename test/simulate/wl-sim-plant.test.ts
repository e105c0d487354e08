import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import { existsSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import path from "node:path";
import fc from "fast-check";
import type { Node, NodeAPI, NodeStatus } from "node-red";
import { type ReadingMessage, parseReading } from "../../dist/common/reading.js";
import wlSite from "../../dist/common/wl-site.js";
import wlSimPlant from "../../dist/simulate/wl-sim-plant.js";
import { helper, makeDir, removeDir, root } from "../node-red.js";

const SITE = { id: "site", type: "wl-site", siteId: "demo", zone: "Europe/Berlin", latitude: "52.52", longitude: "13.4", ratedPowerW: "" };

describe("wl-sim-plant", () => {
    let userDir: string;
    const statuses: NodeStatus[] = [];
    const watchers = new Set<() => void>();
    const record = ({ id, status }: { id: string; status: NodeStatus }) => {
        if (id !== "plant") return;
        statuses.push(status);
        for (const wake of watchers) wake();
    };
    let events: EventEmitter;
    const recorder = (RED: NodeAPI) => {
        events = RED.events;
        events.on("node-status", record);
    };

    before(async () => {
        userDir = await makeDir("wl-sim-plant-");
        helper.settings({ userDir });
        await helper.startServer();
    });
    after(async () => {
        await helper.stopServer();
        helper.settings({});
        await removeDir(userDir);
    });
    const unload = async () => {
        await helper.unload();
        events.off("node-status", record);
        statuses.length = 0;
        watchers.clear();
    };
    afterEach(unload);

    const load = async (def: object, site: object = SITE) => {
        const place = { z: "tab", x: 0, y: 0 };
        await helper.load([recorder, wlSite, wlSimPlant], [
            { id: "tab", type: "tab" },
            { id: "plant", type: "wl-sim-plant", ...place, site: "site", port: 0, wires: [["out"]], ...def },
            { id: "out", type: "helper", ...place },
            { id: "catch", type: "catch", ...place, wires: [["caught"]] },
            { id: "caught", type: "helper", ...place },
            site,
        ]);
        return helper.getNode("plant");
    };

    /** The node's status once it is such. */
    const shows = async (pattern: RegExp): Promise<NodeStatus> => {
        while (!pattern.test(statuses.at(-1)?.text ?? "")) await new Promise<void>((resolve) => watchers.add(resolve));
        return statuses.at(-1)!;
    };

    const next = async (id: string) => ((await once(helper.getNode<Node & EventEmitter>(id), "input")) as [object])[0];

    it("serves a plant, says what is true of it, and takes faults", async () => {
        const plant = await load({ seed: "7" });
        const { fill, text } = await shows(/^:\d+/);
        assert.equal(fill, "green");
        const socket = connect(Number(/\d+/.exec(text!)![0]), "127.0.0.1");
        const ask = async () => {
            socket.write(Buffer.from("00010000000601039c400002", "hex"));
            return ((await once(socket, "data")) as [Buffer])[0].subarray(7).toString("hex");
        };
        assert.equal(await ask(), "030453756e53");
        const message = (await next("out")) as ReadingMessage;
        assert.equal(parseReading(message, 0), message);
        assert.equal(message.topic, "demo/SIM7-PLANT");
        assert.equal(message.reading.simulated, true);
        assert.ok(Math.abs(message.timestamp - Date.now()) < 5000);
        plant.receive({ payload: { fault: "exception", unit: 1, code: 6 } });
        await shows(/^unit 1: exception$/);
        assert.equal(await ask(), "8306");
        const caught = next("caught");
        plant.receive({ payload: "blue" });
        assert.equal(((await caught) as { error: { code: string } }).error.code, "SIM_FAULT");
        socket.destroy();
    });

    it("frees its port on a deploy and keeps its state", async () => {
        const probe = createServer().listen(0, "127.0.0.1");
        await once(probe, "listening");
        const { port } = probe.address() as AddressInfo;
        await new Promise((resolve) => probe.close(resolve));
        for (let i = 0; i < 3; i++) {
            await load({ port });
            await shows(new RegExp(`^:${port}, clients 0$`));
            const client = connect(port, "127.0.0.1");
            await once(client, "connect");
            const gone = once(client, "close");
            await unload();
            await gone;
        }
        assert.ok(existsSync(path.join(userDir, "wattledger", "simulate", "plant.json")));
    });

    it("begins with the fault of its dialog", async () => {
        await load({ fault: "drop" });
        assert.equal((await shows(/./)).text, "all units: drop");
    });

    it("says what is wrong with its settings", async () => {
        await load({ port: "70000", rtuPort: "1.5", speed: "fast", fault: "blue" });
        const { error } = (await next("caught")) as { error: { message: string; code: string } };
        assert.deepEqual(await shows(/./), { fill: "red", shape: "ring", text: "check settings" });
        assert.equal(error.code, "CONFIG_INVALID");
        for (const field of ["port", "rtuPort", "speed", "fault"]) assert.match(error.message, new RegExp(`${field} must be`));
        await unload();
        await load({ site: "" });
        assert.equal((await shows(/./)).text, "choose a site");
        await unload();
        await load({}, { ...SITE, latitude: "95" });
        assert.equal((await shows(/./)).text, "check site");
    });

    it("survives any settings", async () => {
        const field = fc.oneof(fc.string(), fc.integer(), fc.constantFrom(null, true, "${NOT_SET}", [], [1], {}, { type: "num" }));
        await fc.assert(
            fc.asyncProperty(fc.record({ rtuPort: field, speed: field, seed: field, timeOfDay: field, fault: field, host: field }), async (def) => {
                try {
                    await load({ ...def, port: "-1" });
                } finally {
                    await unload();
                }
            }),
            { numRuns: 25 },
        );
    });

    it("runs as the example is", async () => {
        const flow = require(path.join(root, "examples/simulate/01 Simulated plant.json")) as Record<string, unknown>[];
        const plant = flow.find(({ type }) => type === "wl-sim-plant")!;
        const known = flow.filter(({ type }) => ["tab", "wl-sim-plant", "wl-site"].includes(type as string));
        const rest = flow.filter((node) => !known.includes(node)).map(({ type }) => type);
        assert.deepEqual(new Set(rest), new Set(["comment", "debug", "inject"]));
        const wired = known.map((node) => (node === plant ? { ...node, port: 0, wires: [["out"]] } : node));
        await helper.load([recorder, wlSite, wlSimPlant], [...wired, { id: "out", type: "helper", z: plant["z"], x: 0, y: 0 }]);
        const { payload } = (await next("out")) as ReadingMessage;
        assert.ok((payload["pv_power_w"] as number) > 0);
    });
});
