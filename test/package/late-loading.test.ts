import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { root } from "../node-red.js";

/** Requires every node type's file as Node-RED does when it starts, and prints what else that has loaded. */
const LOAD = `
const { "node-red": { nodes } } = require("./package.json");
for (const file of Object.values(nodes)) require(require("node:path").resolve(file));
const own = Object.values(nodes).map((file) => require.resolve(require("node:path").resolve(file)));
console.log(JSON.stringify(Object.keys(require.cache).filter((file) => !own.includes(file) && !file.endsWith("package.json"))));
`;

describe("the start of Node-RED", () => {
    it("loads the files of the node types and nothing that they import", async () => {
        const { stdout } = await promisify(execFile)(process.execPath, ["-e", LOAD], { cwd: root });
        const loaded = (JSON.parse(stdout) as string[]).map((file) => path.relative(root, file));
        assert.deepEqual(loaded, []);
    });
});
