import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { setImmediate as nextTurn } from "node:timers/promises";
import fc from "fast-check";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { configNode, configure } from "../../dist/common/config.js";
import { Lifecycle } from "../../dist/common/lifecycle.js";
import type { MqttMessage } from "../../dist/mqtt/link.js";
import linkType, { type MqttLinkNode } from "../../dist/mqtt/wl-mqtt-link.js";
import { deploy, helper } from "../node-red.js";
import { TestBroker } from "./broker.js";

/** What the takers of all flows got, and their states. */
const bus = new EventEmitter();
let got: { id: string; text: string }[] = [];
const states = new Map<string, string>();
const stateTexts = new Map<string, string>();

/** A node that subscribes to a topic. */
function takerType(RED: NodeAPI): void {
    RED.nodes.registerType("test-taker", function (this: Node, def: NodeDef & { link: string; topic: string }) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const link = configNode<MqttLinkNode>(RED, def.link, "wl-mqtt-link");
            const onMessage = async ({ topic, payload }: MqttMessage) => {
                got.push({ id: this.id, text: `${topic} ${payload.toString()}` });
                bus.emit("change");
            };
            link.register(this, { topics: [def.topic], qos: 1, onMessage }, ({ name, text }) => {
                states.set(this.id, name);
                stateTexts.set(this.id, text);
                bus.emit("change");
            });
            lifecycle.onClose((removed) => link.deregister(this, removed));
        });
    });
}

const nodes = [linkType, takerType];

interface FlowNode {
    id: string;
    [property: string]: unknown;
}

async function until(holds: () => boolean): Promise<void> {
    while (!holds()) await once(bus, "change");
}

describe("wl-mqtt-link", () => {
    let broker: TestBroker;
    beforeEach(async () => {
        broker = await TestBroker.start();
        got = [];
        states.clear();
    });
    afterEach(async () => {
        await helper.unload();
        await broker.stop();
    });

    const tab = (id: string) => ({ id, type: "tab", label: id });
    const link = (more: object = {}): FlowNode => ({ id: "link", type: "wl-mqtt-link", url: broker.url, version: "4", ...more });
    const taker = (id: string, z: string, topic: string) => ({ id, z, type: "test-taker", x: 0, y: 0, link: "link", topic, wires: [] });
    const plant = (): FlowNode[] => [tab("a"), tab("b"), link(), taker("ta", "a", "meters/#"), taker("tb", "b", "meters/+/power")];
    const bothUp = () => until(() => states.get("ta") === "up" && states.get("tb") === "up");
    const texts = (id: string) => got.filter((one) => one.id === id).map(({ text }) => text);

    function logged(pattern: RegExp): number {
        return helper.log().args.filter(([{ msg }]) => pattern.test(msg instanceof Error ? msg.message : String(msg))).length;
    }

    it("is one connection for its users, whose topics may overlap", async () => {
        await helper.load(nodes, plant());
        await bothUp();
        await broker.publish("meters/1/power", "5");
        await broker.publish("meters/1/voltage", "6");
        await until(() => texts("ta").length === 2);
        assert.deepEqual(texts("ta"), ["meters/1/power 5", "meters/1/voltage 6"]);
        assert.deepEqual(texts("tb"), ["meters/1/power 5"]);
        assert.equal(broker.connections, 1);
        assert.deepEqual(Object.keys(helper.getNode<MqttLinkNode>("link").users).toSorted(), ["ta", "tb"]);
    });

    it("does not connect without users", async () => {
        await helper.load(nodes, [tab("a"), link()]);
        assert.equal(broker.connections, 0);
    });

    it("has a client id that stays, and gets after a restart what came in the meantime", async () => {
        await helper.load(nodes, plant());
        await bothUp();
        const ids = Object.keys((broker.aedes as unknown as { clients: object }).clients);
        assert.deepEqual(ids, ["wllink"]);
        await helper.unload();
        await broker.publish("meters/2/power", "7");
        await broker.publish("meters/2/power", "8");
        await helper.load(nodes, plant());
        await until(() => texts("ta").length === 2 && texts("tb").length === 2);
        assert.deepEqual(texts("tb"), ["meters/2/power 7", "meters/2/power 8"]);
    });

    describe("survives deploys", () => {
        it("of a user: the connection stays, and no message is missed", async () => {
            const flow = plant();
            await helper.load(nodes, flow);
            await bothUp();
            let number = 0;
            const deployed = new AbortController();
            const publishing = (async () => {
                for (; !deployed.signal.aborted; await nextTurn()) await broker.publish("meters/1/power", String(number++));
            })();
            try {
                await until(() => texts("tb").length > 3);
                for (let round = 0; round < 3; round++) {
                    const before = helper.getNode("tb");
                    await deploy(flow.map((node) => (node.id === "tb" ? { ...node, topic: "meters/+/power", round } : node)), "nodes");
                    assert.notEqual(helper.getNode("tb"), before);
                }
            } finally {
                deployed.abort();
                await publishing;
            }
            const all = Array.from({ length: number }, (_, at) => `meters/1/power ${at}`);
            await until(() => texts("tb").length >= number && texts("ta").length >= number);
            assert.deepEqual(texts("tb"), all);
            assert.deepEqual(texts("ta"), all);
            assert.equal(broker.connections, 1);
        });

        it("of a user with other topics: the old ones are unsubscribed", async () => {
            const flow = plant().filter(({ id }) => id !== "ta");
            await helper.load(nodes, flow);
            await until(() => states.get("tb") === "up");
            const unsubscribed = once(broker.aedes, "unsubscribe") as Promise<[string[]]>;
            await deploy(flow.map((node) => (node.id === "tb" ? { ...node, topic: "other" } : node)), "nodes");
            assert.deepEqual((await unsubscribed)[0], ["meters/+/power"]);
            await broker.publish("meters/1/power", "1");
            await broker.publish("other", "2");
            await until(() => texts("tb").length > 0);
            assert.deepEqual(texts("tb"), ["other 2"]);
            assert.equal(broker.connections, 1);
        });

        it("of the link: it connects anew, with its session", async () => {
            const flow = plant();
            await helper.load(nodes, flow);
            await bothUp();
            states.clear();
            await deploy(flow.map((node) => (node.id === "link" ? { ...node, keepAliveS: "30" } : node)), "nodes");
            await bothUp();
            await broker.publish("meters/1/power", "1");
            await until(() => texts("tb").length === 1);
            assert.equal(broker.connections, 2);
        });

        it("that remove a user: it is unsubscribed; and the last one: the connection ends", async () => {
            const flow = plant();
            await helper.load(nodes, flow);
            await bothUp();
            const unsubscribed = once(broker.aedes, "unsubscribe") as Promise<[string[]]>;
            await deploy(flow.filter(({ id }) => id !== "ta"), "nodes");
            assert.deepEqual((await unsubscribed)[0], ["meters/#"]);
            await broker.publish("meters/1/power", "1");
            await until(() => texts("tb").length === 1);
            const gone = once(broker.aedes, "clientDisconnect");
            await deploy(flow.filter(({ id }) => id !== "ta" && id !== "tb"), "nodes");
            await gone;
            assert.equal(broker.connections, 1);
        });
    });

    it("says once that the broker is away and once that it is back", async () => {
        await helper.load(nodes, plant());
        await bothUp();
        await broker.drop(true);
        await until(() => states.get("ta") === "down");
        await broker.open();
        await bothUp();
        assert.equal(logged(/closed the connection|No connection to|was lost/), 1);
        assert.equal(logged(/is connected again/), 1);
    });

    it("keeps secrets out of the log and the status when the broker refuses them", async () => {
        await broker.stop();
        broker = await TestBroker.start({ authenticate: (_client, _user, _password, done) => done(Object.assign(new Error("no"), { returnCode: 4 }), null) });
        const flow = [tab("a"), link(), taker("ta", "a", "#")];
        await helper.load(nodes, flow, { link: { username: "meter", password: "canary-71" } });
        await until(() => states.get("ta") === "down");
        assert.equal(stateTexts.get("ta"), "wrong password");
        assert.equal(logged(/check them in the MQTT link/), 1);
        assert.equal(logged(/canary/), 0);
    });

    it("survives any settings", async () => {
        const text = fc.oneof(fc.string(), fc.constantFrom("", "abc", "99999", "${NOT_SET}"));
        const anything = fc.oneof(text, fc.double(), fc.boolean(), fc.constant(null), fc.array(fc.integer()), fc.constant({ a: {} }));
        const fields = ["version", "clientId", "clean", "sessionExpiryH", "keepAliveS", "inFlight", "maxKb", "ca", "cert", "serverName", "insecure"];
        const config = fc.record({ url: fc.oneof(anything.filter((url) => url !== "abc" && url !== "99999"), fc.constant(broker.url)), ...Object.fromEntries(fields.map((field) => [field, anything])) }, { requiredKeys: [] });
        const property = fc.asyncProperty(config, async (settings) => {
            try {
                await helper.load(nodes, [tab("a"), { ...settings, id: "link", type: "wl-mqtt-link" }, taker("ta", "a", "#")]);
                assert.equal(typeof helper.getNode<MqttLinkNode>("link").register, "function");
            } finally {
                await helper.unload();
            }
        });
        await fc.assert(property, { numRuns: 40 });
        await helper.load(nodes, []);
    });
});
