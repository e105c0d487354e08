import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { deflateSync } from "node:zlib";
import type { Node, NodeAPI, NodeStatus } from "node-red";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlSite from "../../dist/common/wl-site.js";
import { hmacOf } from "../../dist/esp32/keys.js";
import wlEsp32 from "../../dist/esp32/wl-esp32.js";
import wlMqttLink from "../../dist/mqtt/wl-mqtt-link.js";
import wlStore from "../../dist/store/wl-store.js";
import { TestBroker } from "../mqtt/broker.js";
import { deploy, helper, makeDir, makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { envelope } from "./rig.js";

const KEYS = { esp: { keys: JSON.stringify({ esp1: "first-key", esp2: "second-key" }) } };

describe("wl-esp32", () => {
    let folder: string;
    let server: Server;
    let events: EventEmitter;
    const shown = new Map<string, NodeStatus>();
    const types = [
        (RED: NodeAPI): void => {
            server ??= createServer(RED.httpNode as never);
            server.removeAllListeners("request").on("request", RED.httpNode as never);
            events = RED.events;
        },
        wlSite,
        wlStore,
        wlMqttLink,
        wlEsp32,
    ];
    const record = ({ id, status }: { id: string; status: NodeStatus }) => shown.set(id, status);

    before(async () => {
        await helper.startServer();
    });
    after(async () => {
        await helper.stopServer();
    });
    beforeEach(async () => {
        folder = await makeDir("wl-esp32-");
    });
    afterEach(async () => {
        events.off("node-status", record);
        shown.clear();
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        await helper.unload();
        await removeDir(folder);
    });

    /** Returns the flow. */
    async function load(more: object = {}, credentials: Record<string, object> = KEYS, others: FlowNode[] = []): Promise<FlowNode[]> {
        const place = { z: "tab", x: 0, y: 0 };
        const flow: FlowNode[] = [
            { id: "tab", type: "tab" },
            { id: "site", type: "wl-site", siteId: "home" },
            { id: "store", type: "wl-store", folder },
            { id: "esp", type: "wl-esp32", ...place, site: "site", store: "store", devices: [{ device: "esp1" }, { device: "esp2" }], wires: [["read"], ["refused"]], ...more },
            { id: "read", type: "helper", ...place },
            { id: "refused", type: "helper", ...place },
            { id: "caught", type: "helper", ...place },
            { id: "catch", type: "catch", ...place, wires: [["caught"]] },
            ...others,
        ];
        // Node-RED removes those of a node that a deploy removes.
        await helper.load(types, flow, structuredClone(credentials));
        events.on("node-status", record);
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        return flow;
    }

    async function next<M>(id: string): Promise<M> {
        return ((await once(helper.getNode<Node & EventEmitter>(id), "input")) as [M])[0];
    }

    function post(body: object, headers: Record<string, string> = { authorization: "Bearer first-key" }, place = "/wattledger/esp32"): Promise<Response> {
        return fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}${place}`, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json", ...headers } });
    }

    it("sends a reading for what a device posts, and tells of what it refuses without a secret", async () => {
        await load();
        const read = next<ReadingMessage>("read");
        const answer = await post(envelope(1));
        assert.deepEqual([answer.status, ((await answer.json()) as { accepted: number }).accepted], [200, 1]);
        const { topic, reading } = await read;
        assert.deepEqual([topic, reading.device, reading.boot, reading.seq], ["home/esp1", "esp1", 3, 1]);
        const refused = next<{ topic: string; payload: { code: string; device: string } }>("refused");
        assert.equal((await post(envelope(2), { authorization: "Bearer secret-guess" })).status, 401);
        const { topic: about, payload } = await refused;
        assert.deepEqual([about, payload.code, payload.device], ["home/refused", "KEY_WRONG", "esp1"]);
        assert.doesNotMatch(JSON.stringify(payload), /secret-guess/);
    });

    it("takes emoncms' posts below the path, by its key in the query", async () => {
        await load();
        const read = next<ReadingMessage>("read");
        const { port } = server.address() as AddressInfo;
        const answer = await fetch(`http://127.0.0.1:${port}/wattledger/esp32/input/post?node=esp2&apikey=second-key&fulljson=${encodeURIComponent('{"solar_power":120}')}`);
        assert.deepEqual([answer.status, await answer.text()], [200, "ok"]);
        const { payload, reading } = await read;
        assert.deepEqual([payload, reading.device], [{ solar_power_w: 120 }, "esp2"]);
        assert.equal((await fetch(`http://127.0.0.1:${port}/wattledger/esp32/input/post?node=esp2&apikey=first-key&fulljson={"solar_power":120}`)).status, 403);
    });

    it("takes emoncms' bulk, compressed, with times from when it was sent, by its key in the header", async () => {
        await load();
        const read = next<ReadingMessage>("read");
        const { port } = server.address() as AddressInfo;
        const before = Math.floor(Date.now() / 1000) * 1000;
        const body = deflateSync("data=" + encodeURIComponent('[[100,"esp2",{"solar_power":120}]]') + "&sentat=160");
        const headers = { authorization: "Bearer second-key", "content-type": "application/x-www-form-urlencoded" };
        const answer = await fetch(`http://127.0.0.1:${port}/wattledger/esp32/input/bulk?cb=1`, { method: "POST", body, headers });
        assert.deepEqual([answer.status, await answer.text()], [200, "ok"]);
        const { payload, timestamp, reading } = await read;
        assert.deepEqual([payload, reading.time], [{ solar_power_w: 120 }, "device"]);
        assert.ok(timestamp >= before - 60_000 && timestamp <= Date.now() - 60_000);
    });

    it("gives its path back when it closes", async () => {
        await load({ path: "/plant/devices/" });
        assert.equal((await post(envelope(1), undefined, "/plant/devices")).status, 200);
        await helper.clearFlows();
        assert.equal((await post(envelope(2), undefined, "/plant/devices")).status, 404);
    });

    it("says that its path is taken", async () => {
        await load({}, KEYS, [{ id: "esp9", type: "wl-esp32", z: "tab", x: 0, y: 0, site: "site", store: "store", wires: [] }]);
        const { error } = await next<{ error: { message: string } }>("caught");
        assert.match(error.message, /takes \/wattledger\/esp32 already/);
    });

    it("acknowledges a message of a broker once it is on disk, and takes it again after an outage without keeping it twice", async () => {
        const broker = await TestBroker.start();
        try {
            await load({ link: "link", prefix: "plant" }, KEYS, [{ id: "link", type: "wl-mqtt-link", url: broker.url, version: "4" }]);
            const got: ReadingMessage[] = [];
            helper.getNode<Node & EventEmitter>("read").on("input", (msg) => got.push(msg as never));
            await once(broker.aedes, "subscribe");
            for (const seq of [1, 2, 2, 3]) await broker.publish("plant/esp1/data", JSON.stringify(envelope(seq)));
            await broker.publish("plant/esp2/data", JSON.stringify(envelope(9)));
            await broker.publish("plant/esp2/data", JSON.stringify({ ...envelope(10), id: "esp2" }));
            while (got.length < 4) await next("read");
            assert.deepEqual(got.map(({ reading }) => `${reading.device} ${reading.seq}`), ["esp1 1", "esp1 2", "esp1 3", "esp2 10"]);
        } finally {
            await helper.unload();
            await broker.stop();
        }
    });

    it("asks for the topics that a discovery announces", async () => {
        const broker = await TestBroker.start();
        try {
            await load({ link: "link", preset: "ha-discovery" }, KEYS, [{ id: "link", type: "wl-mqtt-link", url: broker.url, version: "4" }]);
            await once(broker.aedes, "subscribe");
            const config = { uniq_id: "m1p", stat_t: "some/where/power", unit_of_meas: "W", dev_cla: "power", name: "Power", dev: { ids: ["m1"] } };
            const asked = once(broker.aedes, "subscribe");
            await broker.publish("homeassistant/sensor/m1/power/config", JSON.stringify(config));
            await asked;
            const read = next<ReadingMessage>("read");
            await broker.publish("some/where/power", "42.5");
            assert.deepEqual((await read).payload, { power_w: 42.5 });
        } finally {
            await helper.unload();
            await broker.stop();
        }
    });

    it("leaves its link for good, whatever is announced meanwhile", async () => {
        const broker = await TestBroker.start();
        try {
            const other = { id: "esp9", type: "wl-esp32", z: "tab", x: 0, y: 0, site: "site", store: "store", path: "other", link: "link", preset: "ha-discovery", prefix: "other", wires: [] };
            const flow = await load({ link: "link", preset: "ha-discovery" }, KEYS, [{ id: "link", type: "wl-mqtt-link", url: broker.url, version: "4" }, other]);
            const config = (topic: string) => JSON.stringify({ uniq_id: topic, stat_t: topic, unit_of_meas: "W", name: "Power", dev: { ids: [topic] } });
            const asked: string[] = [];
            broker.aedes.on("subscribe", (topics) => asked.push(...topics.map(({ topic }) => topic)));
            await asks("other/sensor/+/config");
            // What the broker sent before it was asked to send no more arrives while the node closes.
            broker.aedes.once("unsubscribe", (_topics, client) => {
                client.publish({ cmd: "publish", topic: "homeassistant/sensor/m1/config", payload: config("late"), qos: 0, retain: false, dup: false }, () => undefined);
            });
            await deploy(flow.filter(({ id }) => id !== "esp"), "nodes");
            await broker.publish("other/sensor/m2/config", config("after"));
            await asks("after");
            assert.ok(!asked.includes("late"));

            async function asks(topic: string): Promise<void> {
                while (!asked.includes(topic)) await once(broker.aedes, "subscribe");
            }
        } finally {
            await helper.unload();
            await broker.stop();
        }
    });

    it("says that nothing can come in without HTTP and a link", async () => {
        await load({ http: false });
        const { error } = await next<{ error: { message: string } }>("caught");
        assert.equal(error.message, "choose an mqtt-link");
    });

    it("says which listed device has no key", async () => {
        await load({ devices: [{ device: "esp1" }, { device: "esp7" }] });
        const told = helper.log().args.map(([entry]) => String((entry as { msg: unknown }).msg));
        assert.ok(told.some((text) => /No key is stored for esp7/.test(text)));
        assert.equal((await post(envelope(1))).status, 200);
    });
});

describe("wl-esp32 in a whole Node-RED", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let flows: FlowNode[];
    before(async function () {
        this.timeout(30_000);
        userDir = await makeUserDir();
        flows = JSON.parse(await readFile(path.join(root, "examples", "esp32", "01 Take what an ESP32 sends.json"), "utf8")) as FlowNode[];
        nodeRed = await startNodeRed({ userDir, flows });
        // The example names Node-RED's usual port.
        await redeploy("full", (node) => (node.type === "http request" ? { ...node, url: `${nodeRed.url}/wattledger/esp32` } : node));
    });
    after(async () => {
        await nodeRed.stop();
        await removeDir(userDir);
    });

    async function call<A>(route: string, body: object, headers: Record<string, string> = {}): Promise<A> {
        const response = await fetch(`${nodeRed.url}${route}`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
        assert.ok(response.ok, `${route} ${response.status}`);
        return (response.status === 204 ? {} : await response.json()) as A;
    }

    async function redeploy(type: string, change: (node: FlowNode) => FlowNode): Promise<void> {
        flows = flows.map(change);
        const from = nodeRed.log().length;
        await call("/flows", flows, { "node-red-deployment-type": type });
        await nodeRed.logged(/Started (modified )?(flows|nodes)/, from);
    }

    const id = "wlesp32000esp320";

    it("runs the example as it is imported: a simulated device, kept and marked", async () => {
        for (;;) {
            const { devices } = await call<{ devices: { device: string; kept: number }[] }>("/wattledger/ingest/devices", { id });
            if (devices.some(({ device, kept }) => device === "esp32-demo" && kept > 0)) return;
            await new Promise((resolve) => setImmediate(resolve));
        }
    });

    it("makes a key that counts from the deploy on, for raw bytes that Node-RED's own parsers never saw", async () => {
        const { secret } = await call<{ secret: string }>("/wattledger/ingest/key", { id, device: "esp1" });
        assert.match(secret, /^[\w-]{43}$/);
        await redeploy("nodes", (node) => (node.id === id ? { ...node, anonymous: false, devices: [{ device: "esp1" }] } : node));
        const body = Buffer.from(`  ${JSON.stringify(envelope(1))}\n`);
        const place = "/wattledger/esp32";
        const mac = hmacOf(secret, { method: "POST", path: place, boot: 3, seq: 1, body });
        const headers = { "content-type": "application/json", "x-wl-device": "esp1", "x-wl-boot": "3", "x-wl-seq": "1", "x-wl-signature": mac };
        assert.equal((await fetch(nodeRed.url + place, { method: "POST", headers, body })).status, 200);
        assert.equal((await fetch(nodeRed.url + place, { method: "POST", headers: { authorization: `Bearer ${secret}` }, body: JSON.stringify(envelope(2)) })).status, 200);
        assert.equal((await fetch(nodeRed.url + place, { method: "POST", body: JSON.stringify(envelope(3)) })).status, 401);
        assert.doesNotMatch(nodeRed.log(), new RegExp(secret));
        // The editor's own route is not in the way, and neither are we in its.
        assert.equal((await fetch(`${nodeRed.url}/flows`)).status, 200);
    });
});
