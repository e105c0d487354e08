import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { root } from "../node-red.js";

/**
 * Requires every node type's file and lets it register, as Node-RED does when it starts, and prints what else that has loaded and
 * how many types there were.
 */
const LOAD = `
const path = require("node:path");
const files = Object.values(require("./package.json")["node-red"].nodes).map((file) => path.resolve(file));
const types = [];
const RED = {
    nodes: { registerType: (type) => types.push(type) },
    httpAdmin: { post: () => {} },
    auth: { needsPermission: () => {} },
    settings: { userDir: path.resolve("no-such-folder") },
};
for (const file of files) require(file).default(RED);
const loaded = Object.keys(require.cache).filter((file) => !files.includes(file) && !file.endsWith("package.json"));
console.log(JSON.stringify({ loaded, types: types.length, files: files.length }));
`;

/** The route of a dialog's button, and what it tells errors by. */
const NEEDED = ["dist/common/admin.js", "dist/common/errors.js"];

describe("the start of Node-RED", () => {
    it("loads the files of the node types and nothing behind them but what registers a route", async () => {
        const { stdout } = await promisify(execFile)(process.execPath, ["-e", LOAD], { cwd: root });
        const { loaded, types, files } = JSON.parse(stdout) as { loaded: string[]; types: number; files: number };
        assert.ok(files > 0 && types === files);
        assert.deepEqual(loaded.map((file) => path.relative(root, file)).toSorted(), NEEDED);
    });
});
