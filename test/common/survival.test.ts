import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { makeDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";

/** A node that does, in a whole Node-RED, what would end the process or hold up a deploy without the lifecycle. */
const hazard = `
const { Lifecycle } = require(${JSON.stringify(path.join(root, "dist/common/lifecycle.js"))});
const { WattError } = require(${JSON.stringify(path.join(root, "dist/common/errors.js"))});
module.exports = (RED) => {
    RED.nodes.registerType("hazard", function (def) {
        RED.nodes.createNode(this, def);
        const life = new Lifecycle(this);
        life.onInput(async () => { throw new WattError("HAZARD_INPUT", "input broke"); });
        life.run(async () => {
            await new Promise((resolve) => setImmediate(resolve));
            throw new WattError("HAZARD_TASK", "task broke");
        });
        life.run(() => new Promise(() => {}));
    });
};
`;

describe("a whole Node-RED", function () {
    this.timeout(30_000);
    let userDir: string;
    let nodeRed: NodeRed;

    before(async () => {
        userDir = await makeDir("wl-hazard-");
        const module = path.join(userDir, "node_modules", "wl-hazard");
        await mkdir(module, { recursive: true });
        await writeFile(path.join(module, "package.json"), JSON.stringify({ name: "wl-hazard", version: "1.0.0", "node-red": { nodes: { hazard: "hazard.js" } } }));
        await writeFile(path.join(module, "hazard.js"), hazard);
        await writeFile(path.join(module, "hazard.html"), `<script type="text/html" data-template-name="hazard"></script>`);
    });
    after(async () => {
        await nodeRed.stop();
        await removeDir(userDir);
    });

    it("outlives rejections, brings them to Catch with their code, and deploys although something hangs", async () => {
        const place = { z: "tab", x: 0, y: 0 };
        nodeRed = await startNodeRed({
            userDir,
            flows: [
                { id: "tab", type: "tab" },
                { id: "inject", type: "inject", ...place, once: true, onceDelay: 0, props: [], wires: [["node"]] },
                { id: "node", type: "hazard", ...place, wires: [] },
                { id: "catch", type: "catch", ...place, wires: [["show"]] },
                { id: "show", type: "function", ...place, func: "node.warn(`caught ${msg.error.code}`);", outputs: 0, wires: [] },
            ],
        });
        await nodeRed.logged(/caught HAZARD_TASK/);
        await nodeRed.logged(/caught HAZARD_INPUT/);
        // Node-RED itself gives a close 15 s, and then says that it timed out.
        const response = await fetch(`${nodeRed.url}/flows`, { method: "POST", headers: { "Content-Type": "application/json" }, body: "[]" });
        assert.equal(response.status, 204);
        await nodeRed.logged(/Stopped flows/);
        assert.match(nodeRed.log(), /Closing took too long/);
        assert.doesNotMatch(nodeRed.log(), /Close timed out|Unhandled|uncaught/i);
        assert.equal(await nodeRed.stop(), 0);
    });
});
