import assert from "node:assert/strict";
import { once } from "node:events";
import type { EventEmitter } from "node:events";
import type { Node, NodeAPI, NodeDef, NodeStatus } from "node-red";
import { configNode, configure } from "../../dist/common/config.js";
import { errorCode } from "../../dist/common/errors.js";
import wlSite from "../../dist/common/wl-site.js";
import { helper } from "../node-red.js";

describe("a node whose settings cannot be used", () => {
    const statuses: NodeStatus[] = [];
    const record = ({ id, status }: { id: string; status: NodeStatus }) => {
        if (id === "faulty") statuses.push(status);
    };
    let events: EventEmitter;

    function needsSite(RED: NodeAPI): void {
        events = RED.events;
        events.on("node-status", record);
        RED.nodes.registerType("needs-site", function (this: Node, def: NodeDef & { site?: unknown }) {
            RED.nodes.createNode(this, def);
            configure(this, () => {
                if (def.site === "bug") throw new TypeError("x is not a function");
                configNode(RED, def.site, "wl-site");
            });
        });
    }

    before(() => helper.startServer());
    after(() => helper.stopServer());
    afterEach(async () => {
        await helper.unload();
        events.off("node-status", record);
        statuses.length = 0;
    });

    async function load(site: unknown): Promise<{ message: string; code?: string }> {
        const place = { z: "tab", x: 0, y: 0 };
        const fillers = Array.from({ length: 100 }, (_, i) => ({ id: `filler-${i}`, type: "helper", ...place }));
        const flow = [
            { id: "tab", type: "tab" },
            { id: "faulty", type: "needs-site", ...place, site },
            { id: "site", type: "wl-site", siteId: "home" },
            ...fillers,
            { id: "catch", type: "catch", ...place, wires: [["caught"]] },
            { id: "caught", type: "helper", ...place },
        ];
        await helper.load([wlSite, needsSite], flow);
        const caught = helper.getNode<Node & EventEmitter>("caught");
        const [first] = (await once(caught, "input")) as [{ error: { message: string; code?: string } }];
        caught.on("input", () => assert.fail("one error is enough"));
        return first.error;
    }

    for (const [name, site] of [
        ["none chosen", ""],
        ["one that is gone", "gone"],
        ["one of another type", "filler-1"],
        ["garbage", { id: 1 }],
    ]) {
        it(`asks for the config node: ${JSON.stringify(name)}`, async () => {
            const error = await load(site);
            assert.equal(errorCode(error), "CONFIG_MISSING");
            assert.deepEqual(statuses, [{ fill: "red", shape: "ring", text: "choose a site" }]);
        });
    }

    it("stays up when our own code is at fault", async () => {
        assert.equal((await load("bug")).message, "TypeError: x is not a function");
        assert.deepEqual(statuses, [{ fill: "red", shape: "ring", text: "check settings" }]);
    });

    it("says nothing when all is well", async () => {
        await helper.load([wlSite, needsSite], [
            { id: "faulty", type: "needs-site", site: "site" },
            { id: "site", type: "wl-site", siteId: "home" },
        ]);
        assert.deepEqual(statuses, []);
    });
});
