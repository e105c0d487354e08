import assert from "node:assert/strict";
import { once } from "node:events";
import fc from "fast-check";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { configNode, configure } from "../../dist/common/config.js";
import { Lifecycle } from "../../dist/common/lifecycle.js";
import type { LinkState } from "../../dist/modbus/link.js";
import type { ModbusReader } from "../../dist/modbus/transport.js";
import linkType, { type ModbusLinkNode } from "../../dist/modbus/wl-modbus-link.js";
import { helper } from "../node-red.js";
import { faults, FaultServer } from "./fault-server.js";
import { holding } from "./rig.js";

/** A node that reads on every message and sends what it read. */
function readerType(RED: NodeAPI): void {
    RED.nodes.registerType("test-reader", function (this: Node, def: NodeDef & { link: string; unit: number }) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const link = configNode<ModbusLinkNode>(RED, def.link, "wl-modbus-link");
            const states: LinkState["name"][] = [];
            const reader: ModbusReader = link.register(this, (state) => states.push(state.name));
            Object.assign(this, { states });
            lifecycle.onInput(async (msg, send, signal) => {
                const payload = await reader.read({ ...holding(def.unit), signal });
                send({ ...msg, payload });
            });
            lifecycle.onClose(() => link.deregister(this));
        });
    });
}

const nodes = [linkType, readerType];

interface FlowNode {
    id: string;
    [property: string]: unknown;
}

describe("wl-modbus-link", () => {
    let server: FaultServer;
    beforeEach(async () => {
        server = await FaultServer.start();
    });
    afterEach(async () => {
        await helper.unload();
        await server.stop();
    });

    const tab = (id: string) => ({ id, type: "tab", label: id });
    const link = (id: string, more: object = {}): FlowNode => ({ id, type: "wl-modbus-link", host: "127.0.0.1", port: String(server.port), ...more });
    const reader = (id: string, z: string, linkId: string, unit = 1) => ({ id, z, type: "test-reader", x: 0, y: 0, link: linkId, unit, wires: [[`${id}-out`]] });
    const out = (id: string, z: string) => ({ id: `${id}-out`, z, type: "helper", x: 0, y: 0, wires: [] });

    /** Two flows with a reader each. */
    const plant = (links: FlowNode[], ofB: string): FlowNode[] => [
        tab("a"),
        tab("b"),
        ...links,
        reader("ra", "a", "l1"),
        out("ra", "a"),
        reader("rb", "b", ofB, 2),
        out("rb", "b"),
    ];

    async function reads(id: string): Promise<Buffer> {
        const received = once(helper.getNode(`${id}-out`), "input") as Promise<[{ payload: Buffer }]>;
        helper.getNode(id).receive({ payload: "" });
        return (await received)[0].payload;
    }

    function logged(pattern: RegExp): number {
        return helper.log().args.filter(([{ msg }]) => pattern.test(msg instanceof Error ? msg.message : String(msg))).length;
    }

    it("is shared by its users, in whatever flow", async () => {
        await helper.load(nodes, plant([link("l1")], "l1"));
        assert.notDeepEqual(await reads("ra"), await reads("rb"));
        assert.equal(server.connections, 1);
        assert.deepEqual(Object.keys(helper.getNode<ModbusLinkNode>("l1").users).toSorted(), ["ra", "rb"]);
    });

    it("shares one connection with another node for the same host and port", async () => {
        await helper.load(nodes, plant([link("l1"), link("l2", { timeoutMs: "300" })], "l2"));
        await Promise.all([reads("ra"), reads("rb")]);
        assert.equal(server.connections, 1);
        assert.deepEqual(server.violations, []);
    });

    it("does not connect without users, and closes when the last one goes", async () => {
        await helper.load(nodes, plant([link("l1")], "l1"));
        await reads("ra");
        const gone = once(server, "disconnection");
        await helper.setFlows([tab("a"), link("l1")], "full");
        await gone;
        assert.equal(server.connections, 1);
        assert.equal(server.live.size, 0);
    });

    describe("survives deploys", () => {
        it("full: everything starts anew", async () => {
            const flow = plant([link("l1")], "l1");
            await helper.load(nodes, flow);
            await reads("ra");
            await helper.setFlows(structuredClone(flow), "full");
            await Promise.all([reads("ra"), reads("rb")]);
            assert.equal(server.connections, 2);
        });

        it("modified nodes: a changed user joins again, the other one goes on over the same connection", async () => {
            const flow = plant([link("l1")], "l1");
            await helper.load(nodes, flow);
            await reads("ra");
            const changed = flow.map((node) => (node.id === "rb" ? { ...node, unit: 3 } : node));
            const before = helper.getNode("ra");
            await helper.setFlows(changed, "nodes");
            assert.equal(helper.getNode("ra"), before);
            await Promise.all([reads("ra"), reads("rb")]);
            assert.equal(server.asked.at(-1)?.unit, 3);
            assert.equal(server.connections, 1);
        });

        it("modified nodes: its only user changes", async () => {
            const flow = [tab("a"), link("l1"), reader("ra", "a", "l1"), out("ra", "a")];
            await helper.load(nodes, flow);
            await reads("ra");
            for (const unit of [3, 4, 5]) {
                await helper.setFlows([tab("a"), link("l1"), reader("ra", "a", "l1", unit), out("ra", "a")], "nodes");
                await reads("ra");
                assert.equal(server.asked.at(-1)?.unit, unit);
            }
            assert.deepEqual(server.violations, []);
        });

        it("modified flows: one flow changes, the other goes on over the same connection", async () => {
            const flow = plant([link("l1")], "l1");
            await helper.load(nodes, flow);
            await reads("ra");
            const changed = flow.map((node) => (node.id === "rb" ? { ...node, unit: 3 } : node));
            await helper.setFlows(changed, "flows");
            await Promise.all([reads("ra"), reads("rb")]);
            assert.equal(server.connections, 1);
        });

        it("a user that is disabled does not take the connection from the others", async () => {
            const flow = plant([link("l1")], "l1");
            await helper.load(nodes, flow);
            await reads("rb");
            await helper.setFlows(flow.map((node) => (node.id === "rb" ? { ...node, d: true } : node)), "nodes");
            await reads("ra");
            assert.equal(server.connections, 1);
            assert.deepEqual(Object.keys(helper.getNode<ModbusLinkNode>("l1").users), ["ra"]);
        });

        for (const type of ["nodes", "flows", "full"] as const) {
            it(`${type}: the link itself changes, and its users follow`, async () => {
                const other = await FaultServer.start();
                try {
                    await helper.load(nodes, plant([link("l1")], "l1"));
                    await reads("ra");
                    await helper.setFlows(plant([link("l1", { port: String(other.port) })], "l1"), type);
                    await Promise.all([reads("ra"), reads("rb")]);
                    assert.deepEqual([server.connections, other.connections], [1, 1]);
                } finally {
                    await helper.clearFlows();
                    await other.stop();
                }
            });
        }

        it("ends with the link, even when a user forgets to leave", async () => {
            await helper.load(nodes, [tab("a"), link("l1"), out("ra", "a")]);
            const connected = once(server, "connection");
            helper.getNode<ModbusLinkNode>("l1").register(helper.getNode("ra-out"));
            await connected;
            const gone = once(server, "disconnection");
            await helper.clearFlows();
            await gone;
        });

        it("ends at once while a device keeps silent, with the socket closed", async () => {
            server.otherwise = faults.silent;
            await helper.load(nodes, plant([link("l1", { timeoutMs: "60000" })], "l1"));
            helper.getNode("ra").receive({ payload: "" });
            await server.nextRequest();
            const gone = once(server, "disconnection");
            await helper.clearFlows();
            await gone;
            assert.equal(logged(/Closing took too long/), 0);
        });
    });

    it("reports a loss and a return once, to Catch nodes of its users and to the log", async () => {
        const flow = [
            ...plant([link("l1")], "l1"),
            { id: "c", z: "a", type: "catch", x: 0, y: 0, scope: null, uncaught: false, wires: [["caught"]] },
            { id: "caught", z: "a", type: "helper", x: 0, y: 0, wires: [] },
        ];
        await helper.load(nodes, flow);
        await reads("ra");
        const caught: { error: { code: string; message: string; source: { id: string } } }[] = [];
        helper.getNode("caught").on("input", (msg) => caught.push(msg as never));
        await server.stop();
        const states = helper.getNode<Node & { states: string[] }>("ra").states;
        assert.deepEqual(states, ["connecting", "up"]);
        const status = once(helper.getNode("l1"), "call:status");
        helper.getNode("ra").receive({ payload: "" });
        helper.getNode("ra").receive({ payload: "" });
        await status;
        await server.listen();
        await once(server, "connection");
        await reads("ra");
        assert.deepEqual(caught.filter(({ error }) => error.source.id === "l1").map(({ error }) => error.code), ["MODBUS_CLOSED"]);
        assert.match(caught[0]?.error.message ?? "", /127\.0\.0\.1:\d+/);
        assert.equal(logged(/answers again/), 1);
        assert.equal(states.at(-1), "up");
    });

    it("survives any settings", async () => {
        const text = fc.oneof(fc.string(), fc.constantFrom("", "abc", "99999", "${NOT_SET}"));
        const anything = fc.oneof(text, fc.double(), fc.boolean(), fc.constant(null), fc.array(fc.integer()), fc.constant({ a: {} }));
        const fields = ["host", "port", "timeoutMs", "gapMs", "connectPauseMs", "maxRegisters", "idleCloseS", "checkUnit", "transport", "path", "baud", "parity", "stopBits"];
        const config = fc.record(Object.fromEntries(fields.map((field) => [field, anything])), { requiredKeys: [] });
        const property = fc.asyncProperty(fc.array(config, { minLength: 1, maxLength: 50 }), async (configs) => {
            const links = configs.map((settings, i) => ({ ...settings, id: `l${i}`, type: "wl-modbus-link" }));
            try {
                await helper.load(nodes, links);
                for (const { id } of links) assert.equal(typeof helper.getNode<ModbusLinkNode>(id).register, "function");
            } finally {
                await helper.unload();
            }
        });
        await fc.assert(property, { numRuns: 40 });
        await helper.load(nodes, []);
    });

    it("tells its users when its settings are unusable", async () => {
        await helper.load(nodes, [tab("a"), link("l1", { host: "", port: "abc" }), reader("ra", "a", "l1"), out("ra", "a")]);
        assert.throws(() => helper.getNode<ModbusLinkNode>("l1").register(helper.getNode("ra")), { code: "CONFIG_MISSING" });
        await once(helper.getNode("l1"), "call:error");
        assert.equal(logged(/Check the settings: host must not be empty; port must be a whole number from 1 to 65535/), 1);
    });
});
