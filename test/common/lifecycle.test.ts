import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import type { Node, NodeAPI } from "node-red";
import { WattError } from "../../dist/common/errors.js";
import { type Handler, Lifecycle } from "../../dist/common/lifecycle.js";
import { helper } from "../node-red.js";

interface Probe extends Node {
    life: Lifecycle;
}

describe("lifecycle", () => {
    /** What a `probe` node does with a message; each test sets its own. */
    let handle: Handler<{ payload?: unknown }>;

    function probe(RED: NodeAPI): void {
        RED.nodes.registerType("probe", function (this: Probe, def) {
            RED.nodes.createNode(this, def);
            this.life = new Lifecycle(this, 100);
            this.life.onInput((msg: { payload?: unknown }, send, signal) => handle(msg, send, signal));
        });
    }

    const flow = [
        { id: "tab", type: "tab" },
        { id: "node", type: "probe", wires: [["out"]] },
        { id: "out", type: "helper" },
        { id: "watch", type: "catch", wires: [["caught"]] },
        { id: "caught", type: "helper" },
        { id: "watch-end", type: "complete", scope: ["node"], wires: [["completed"]] },
        { id: "completed", type: "helper" },
    ].map((node) => (node.type === "tab" ? node : { ...node, z: "tab", x: 0, y: 0 }));

    interface Caught {
        payload?: unknown;
        error?: { message: string; code?: string };
    }
    /** The next message that reaches a node. */
    const next = async (id: string): Promise<Caught> => (await once(helper.getNode<Node & EventEmitter>(id), "input"))[0] as Caught;
    const node = () => helper.getNode<Probe>("node");

    before(() => helper.startServer());
    after(() => helper.stopServer());
    beforeEach(() => helper.load(probe, flow));
    afterEach(() => helper.unload());

    it("passes the message on and fires Complete once the handler has settled", async () => {
        let settled = false;
        handle = async (msg, send) => {
            send({ payload: 1 });
            await new Promise((resolve) => setImmediate(resolve));
            settled = true;
            void msg;
        };
        const [out, completed] = [next("out"), next("completed").then(() => settled)];
        node().receive({ payload: 0 });
        assert.equal((await out).payload, 1);
        assert.equal(await completed, true);
    });

    for (const [name, fault] of [
        ["rejects", () => Promise.reject(new WattError("PROBE_BROKEN", "The probe broke: replace it."))],
        [
            "throws",
            () => {
                throw new WattError("PROBE_BROKEN", "The probe broke: replace it.");
            },
        ],
    ] as const) {
        it(`brings message and code to Catch when the handler ${name}`, async () => {
            handle = fault;
            const caught = next("caught");
            node().receive({ payload: "kept" });
            const { payload, error } = await caught;
            assert.equal(payload, "kept");
            assert.equal(error?.message, "The probe broke: replace it.");
            assert.equal(error?.code, "PROBE_BROKEN");
        });
    }

    for (const thrown of [undefined, null, "text", { message: "plain object" }, Object.create(null)]) {
        it(`takes ${thrown && typeof thrown === "object" && !("message" in thrown) ? "a bare object" : JSON.stringify(thrown)} thrown by a library`, async () => {
            // oxlint-disable-next-line typescript/prefer-promise-reject-errors
            handle = () => Promise.reject(thrown);
            const caught = next("caught");
            node().receive({});
            assert.equal(typeof (await caught).error?.message, "string");
        });
    }

    for (const fails of [true, false]) {
        it(`outlives a message that cannot be copied for ${fails ? "Catch" : "Complete"}`, async () => {
            handle = (msg) => {
                Object.defineProperty(msg, "broken", {
                    enumerable: true,
                    get: () => {
                        throw new Error("cannot be read");
                    },
                });
                if (fails) throw new Error("handler broke");
            };
            const caught = next("caught");
            node().receive({ payload: 0 });
            assert.match((await caught).error!.message, /cannot be read/);
        });
    }

    it("brings a failed background task to Catch", async () => {
        const caught = next("caught");
        node().life.run(() => Promise.reject(new WattError("PROBE_LOST", "gone")));
        assert.equal((await caught).error?.code, "PROBE_LOST");
    });

    it("aborts on close, waits for what runs and then closes in reverse order", async () => {
        const events: string[] = [];
        const { life } = node();
        life.onClose((removed) => void events.push(`first, removed ${removed}`));
        life.onClose(async () => {
            await new Promise((resolve) => setImmediate(resolve));
            events.push("second");
        });
        life.onClose(() => {
            throw new Error("a closer that fails stops nothing");
        });
        life.run(async (signal) => {
            await once(signal, "abort");
            events.push("aborted");
            await new Promise((resolve) => setTimeout(resolve, 10));
            events.push("task over");
        });
        await helper.setFlows([], "nodes");
        assert.deepEqual(events, ["aborted", "second", "first, removed true", "task over"]);
    });

    it("says nothing of a task that its own close ended", async () => {
        node().life.run(async (signal) => {
            await once(signal, "abort");
            throw new Error("aborted");
        });
        await helper.clearFlows();
        assert.ok(!helper.log().args.some(([event]) => String(event.msg).includes("aborted")));
    });

    for (const [name, hang] of [
        ["a closer", (life: Lifecycle) => life.onClose(() => new Promise<void>(() => {}))],
        ["a task", (life: Lifecycle) => life.run(() => new Promise<void>(() => {}))],
        [
            "an input",
            () => {
                handle = () => new Promise<void>(() => {});
                node().receive({});
            },
        ],
    ] as const) {
        it(`closes in time and says so when ${name} hangs`, async () => {
            hang(node().life);
            // Node-RED itself would wait 15 s, longer than this test may take.
            await helper.clearFlows();
            assert.ok(helper.log().args.some(([event]) => /Closing took too long/.test(String(event.msg))));
        });
    }

    it("carries as many waiting tasks as there are, without a warning", async () => {
        const warnings: Error[] = [];
        const listen = (warning: Error) => void warnings.push(warning);
        process.on("warning", listen);
        const { life } = node();
        for (let i = 0; i < 100; i++) life.run(async (signal) => void (await once(signal, "abort")));
        await helper.clearFlows();
        process.off("warning", listen);
        assert.deepEqual(warnings, []);
    });
});
