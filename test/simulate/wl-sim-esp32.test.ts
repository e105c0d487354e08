import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import path from "node:path";
import fc from "fast-check";
import type { Node, NodeAPI, NodeStatus } from "node-red";
import { type ReadingMessage, parseReading } from "../../dist/common/reading.js";
import { StateFile } from "../../dist/common/statefile.js";
import wlSite from "../../dist/common/wl-site.js";
import wlMqttLink from "../../dist/mqtt/wl-mqtt-link.js";
import wlSimEsp32 from "../../dist/simulate/wl-sim-esp32.js";
import { IngestRig } from "../esp32/rig.js";
import { TestBroker } from "../mqtt/broker.js";
import { helper, makeDir, removeDir } from "../node-red.js";

const SITE = { id: "site", type: "wl-site", siteId: "home", zone: "Europe/Berlin", latitude: "33.6", longitude: "-7.6", ratedPowerW: "" };
const SECRET = "s".repeat(40);

describe("wl-sim-esp32", () => {
    let userDir: string;
    let rig: IngestRig;
    const statuses: NodeStatus[] = [];
    const watchers = new Set<() => void>();
    let events: EventEmitter;
    const record = ({ id, status }: { id: string; status: NodeStatus }) => {
        if (id !== "sim") return;
        statuses.push(status);
        for (const wake of watchers) wake();
    };
    const recorder = (RED: NodeAPI) => {
        events = RED.events;
        events.on("node-status", record);
    };

    before(async () => {
        userDir = await makeDir("wl-sim-esp32-");
        helper.settings({ userDir });
        await helper.startServer();
    });
    after(async () => {
        await helper.stopServer();
        helper.settings({});
        await removeDir(userDir);
    });
    beforeEach(async () => {
        rig = new IngestRig();
        rig.keys = [{ device: "sim-esp32-*", secret: SECRET }];
        await rig.open();
    });
    const unload = async () => {
        await helper.unload();
        events.off("node-status", record);
        statuses.length = 0;
        watchers.clear();
    };
    afterEach(async () => {
        await unload();
        await rig.close();
        new StateFile(path.join(userDir, "wattledger", "simulate", "sim.json")).remove();
    });

    const load = async (def: object, more: object[] = [], credentials: object = { sim: { secret: SECRET } }) => {
        const place = { z: "tab", x: 0, y: 0 };
        await helper.load(
            [recorder, wlSite, wlMqttLink, wlSimEsp32],
            [
                { id: "tab", type: "tab" },
                { id: "sim", type: "wl-sim-esp32", ...place, site: "site", url: rig.url, auth: "hmac", history: "1", interval: "60", speed: "1000000", wires: [["out"]], ...def },
                { id: "out", type: "helper", ...place },
                { id: "catch", type: "catch", ...place, wires: [["caught"]] },
                { id: "caught", type: "helper", ...place },
                SITE,
                ...more,
            ],
            credentials as never,
        );
        return helper.getNode("sim");
    };
    const shows = async (pattern: RegExp): Promise<NodeStatus> => {
        while (!pattern.test(statuses.at(-1)?.text ?? "")) await new Promise<void>((resolve) => watchers.add(resolve));
        return statuses.at(-1)!;
    };
    const next = async (id: string) => ((await once(helper.getNode<Node & EventEmitter>(id), "input")) as [object])[0];

    it("sends as real devices do, says what is true, takes faults and tells its public keys", async () => {
        const sim = await load({ sign: true });
        const truth = (await next("out")) as ReadingMessage;
        assert.equal(parseReading(truth, 0), truth);
        assert.equal(truth.topic, "home/SIM1-ESP32");
        assert.equal(truth.reading.simulated, true);
        const readings = await rig.read(180);
        assert.deepEqual(new Set(readings.map(({ reading }) => reading.device)), new Set(["sim-esp32-1", "sim-esp32-2", "sim-esp32-3"]));
        assert.ok(readings.every(({ reading }) => reading.simulated === true && reading.quality === "good" && typeof reading.signature === "string"));
        const told = next("out");
        sim.receive({ payload: "keys", mine: 1 });
        const { payload, topic, mine } = (await told) as { payload: Record<string, string>; topic: string; mine: number };
        assert.deepEqual([topic, mine, Object.keys(payload).length], ["home/keys", 1, 3]);
        assert.match(payload["sim-esp32-1"]!, /^[A-Za-z0-9+/]{43}=$/);
        sim.receive({ payload: { fault: "offline", device: 2 } });
        assert.equal((await shows(/offline/)).fill, "yellow");
        const caught = next("caught");
        sim.receive({ payload: "blue" });
        assert.equal(((await caught) as { error: { code: string } }).error.code, "SIM_FAULT");
    });

    it("publishes over a link, to a topic for each device", async () => {
        const broker = await TestBroker.start();
        const heard = new Map<string, object>();
        const all = new Promise<void>((resolve) => {
            broker.aedes.on("publish", ({ topic, payload }) => {
                if (!topic.startsWith("plants/")) return;
                heard.set(topic, JSON.parse(String(payload)) as object);
                if (heard.size === 2) resolve();
            });
        });
        try {
            const link = { id: "link", type: "wl-mqtt-link", url: broker.url, version: "4" };
            await load({ via: "mqtt", link: "link", topic: "plants", devices: "2" }, [link], {});
            await all;
            assert.deepEqual([...heard.keys()].toSorted(), ["plants/sim-esp32-1/data", "plants/sim-esp32-2/data"]);
            assert.ok([...heard.values()].every((body) => "sim" in body && body.sim === true));
        } finally {
            await unload();
            await broker.stop();
        }
    });

    it("begins with the fault of its dialog", async () => {
        await load({ fault: "offline" });
        assert.equal((await shows(/./)).text, "all: offline");
        assert.equal(rig.readings.length, 0);
    });

    it("says what is wrong with its settings", async () => {
        await load({ url: "ftp://x", topic: "a/#", devices: "0", prefix: "a/b", speed: "0", fault: "blue" });
        const { error } = (await next("caught")) as { error: { message: string; code: string } };
        assert.equal(error.code, "CONFIG_INVALID");
        for (const field of ["url", "topic", "devices", "prefix", "speed", "fault"]) assert.match(error.message, new RegExp(`${field} (must|takes)`));
        await unload();
        await load({}, [], {});
        assert.equal((await shows(/./)).text, "enter the key");
        await unload();
        await load({ via: "mqtt" });
        assert.equal((await shows(/./)).text, "choose an mqtt-link");
        await unload();
        await load({ site: "" });
        assert.equal((await shows(/./)).text, "choose a site");
    });

    it("survives any settings", async () => {
        const field = fc.oneof(fc.string(), fc.integer(), fc.constantFrom(null, true, "${NOT_SET}", [], [1], {}, { type: "num" }));
        await fc.assert(
            fc.asyncProperty(fc.record({ via: field, link: field, topic: field, auth: field, sign: field, devices: field, prefix: field, interval: field, batch: field, history: field, speed: field, seed: field, fault: field }), async (def) => {
                try {
                    await load({ ...def, url: "http://127.0.0.1:1/" });
                } finally {
                    await unload();
                }
            }),
            { numRuns: 25 },
        );
    });
});
