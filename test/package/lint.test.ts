import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { makeDir, removeDir, root } from "../node-red.js";

/** Each line would end the Node-RED process, or lose an error; the lint must not let it pass. */
const killers: [string, string][] = [
    [`node.on("input", async () => { await work(); });`, "no-misused-promises"],
    [`node.on("close", async () => { await work(); });`, "no-misused-promises"],
    [`setInterval(async () => { await work(); }, 1000);`, "no-misused-promises"],
    [`setTimeout(async () => { await work(); }, 1000);`, "no-misused-promises"],
    [`setImmediate(async () => { await work(); });`, "no-misused-promises"],
    [`socket.on("data", async () => { await work(); });`, "no-misused-promises"],
    [`socket.once("error", work);`, "no-misused-promises"],
    [`signal.addEventListener("abort", async () => { await work(); });`, "no-misused-promises"],
    [`if (work()) node.log("always");`, "no-misused-promises"],
    [`work();`, "no-floating-promises"],
    [`work().then(() => node.log("x"));`, "no-floating-promises"],
];

describe("the lint", () => {
    let dir: string;
    before(async () => {
        dir = await makeDir("wl-lint-");
        mkdirSync(path.join(dir, "nodes"));
        symlinkSync(path.join(root, "node_modules"), path.join(dir, "node_modules"));
        for (const file of ["tsconfig.json", ".oxlintrc.json"]) cpSync(path.join(root, file), path.join(dir, file));
    });
    after(() => removeDir(dir));

    it("flags every way to hand a promise to what does not take one", () => {
        const head = [
            `import type { Node } from "node-red";`,
            `import type { Socket } from "node:net";`,
            `async function work(): Promise<void> { await Promise.resolve(); }`,
            `export function canary(node: Node, socket: Socket, signal: AbortSignal): void {`,
        ];
        writeFileSync(path.join(dir, "nodes", "canary.ts"), [...head, ...killers.map(([code]) => code), "}", ""].join("\n"));
        const oxlint = path.join(root, "node_modules", "oxlint", "bin", "oxlint");
        const args = [oxlint, "--type-aware", "--deny-warnings", "--format", "json", "nodes"];
        const { stdout, status } = spawnSync(process.execPath, args, { cwd: dir, encoding: "utf8" });
        assert.equal(status, 1, stdout);
        const { diagnostics } = JSON.parse(stdout) as { diagnostics: { code: string; labels: { span: { line: number } }[] }[] };
        const flagged = diagnostics.flatMap(({ code, labels }) => labels.map(({ span }) => `${span.line} ${/\((.*)\)/.exec(code)?.[1]}`));
        const missed = killers.filter(([, rule], i) => !flagged.includes(`${head.length + 1 + i} ${rule}`));
        assert.deepEqual(missed, []);
    });
});
