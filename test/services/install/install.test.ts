import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { makeDir, type NodeRed, removeDir, root, startNodeRed } from "../../node-red.js";
import { filesBelow, manifest, types } from "../../package/source.js";

/** npm's settings of the run around us would leak into the installations; where to get packages stays. */
const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^npm_(?!config_(registry|cache|userconfig|cafile)$)/i.test(key)));

async function run(cwd: string, command: string, ...args: string[]): Promise<string> {
    return (await runAll(cwd, command, ...args)).stdout;
}

function runAll(cwd: string, command: string, ...args: string[]): Promise<{ stdout: string; stderr: string }> {
    return promisify(execFile)(command, args, { cwd, env, maxBuffer: 64 * 1024 * 1024 });
}

describe("installation", function () {
    this.timeout(300_000);
    const { name } = manifest;
    let dir: string;
    /** A git repository of the work tree as it is, and the package packed from it. */
    let source: string;
    let tarball: string;
    let packed: string[];
    let nodeRed: NodeRed | undefined;

    before(async () => {
        dir = await makeDir("wl-install-");
        source = path.join(dir, "source");
        const files = (await run(root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")).split("\0").filter((file) => file !== "");
        for (const file of files) cpSync(path.join(root, file), path.join(source, file));
        await run(source, "git", "init", "-q");
        await run(source, "git", "add", "--all");
        await run(source, "git", "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "-qm", "As it is");
        symlinkSync(path.join(root, "node_modules"), path.join(source, "node_modules"));
        const [pack] = JSON.parse(await run(source, "npm", "pack", "--json", "--silent", "--pack-destination", dir)) as [
            { filename: string; files: { path: string }[] },
        ];
        tarball = path.join(dir, pack.filename);
        packed = pack.files.map((file) => file.path);
    });
    after(() => removeDir(dir));
    afterEach(async () => {
        await nodeRed?.stop();
        nodeRed = undefined;
    });

    async function userDir(label: string): Promise<string> {
        const made = path.join(dir, label);
        mkdirSync(made);
        await run(made, "npm", "init", "--yes");
        return made;
    }

    async function assertLoads(from: string): Promise<void> {
        nodeRed = await startNodeRed({ userDir: from });
        const response = await fetch(`${nodeRed.url}/nodes`, { headers: { Accept: "application/json" } });
        const sets = (await response.json()) as { module: string; version: string; types: string[]; enabled: boolean; err?: unknown }[];
        const ours = sets.filter((set) => set.module === name);
        assert.deepEqual(ours.filter((set) => set.err !== undefined || !set.enabled), []);
        assert.deepEqual(ours.flatMap((set) => set.types).toSorted(), types.toSorted());
        const warnings = nodeRed.log().split("\n").filter((line) => /\[(warn|error)\]|Warning/.test(line) && !/Projects disabled|unencrypted credentials/.test(line));
        assert.deepEqual(warnings, []);
        for (const file of ["dist/icons/wl-site.svg", "dist/editor.html", "examples", "flows", "pointmaps"]) {
            assert.ok(existsSync(path.join(from, "node_modules", name, file)), file);
        }
    }

    it("packs what is needed and nothing else", () => {
        const expected = /^(dist|examples|flows|pointmaps)\/|^docs\/[\w-]+\.md$|^(package\.json|README\.md|LICENSE|NOTICE|CHANGELOG\.md|SECURITY\.md)$/;
        assert.deepEqual(packed.filter((file) => !expected.test(file)), []);
        for (const file of ["README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "SECURITY.md"]) assert.ok(packed.includes(file), file);
        assert.deepEqual(packed.filter((file) => /\.test\.|\.map$|test-dist|\.log$|(?<!\.d)\.ts$/.test(file)), []);
        for (const type of types) assert.ok(packed.some((file) => file.endsWith(`/${type}.html`)), type);
    });

    it("packs no path of a machine", () => {
        const paths = [root, dir, homedir()].filter((found) => found.length > 1);
        for (const file of packed.filter((found) => !found.endsWith(".svg"))) {
            const text = readFileSync(path.join(source, file), "utf8");
            for (const found of paths) assert.ok(!text.includes(`${found}/`), `${file} names ${found}`);
        }
    });

    it("from the packed file, as the palette manager does it", async () => {
        const to = await userDir("tarball");
        const args = ["install", "--no-audit", "--no-fund", "--save", "--save-prefix=~", "--omit=dev", "--engine-strict", tarball];
        const { stderr } = await runAll(to, "npm", ...args);
        // npm lists the `prepare` of a package that comes from a file, but does not run it.
        assert.doesNotMatch(stderr, /\((pre|post)?install:|deprecated|EBADENGINE/);
        await run(to, "npm", "ls", "--all", "--omit=dev");
        assert.deepEqual(filesBelow(path.relative(root, path.join(to, "node_modules")), ".node"), []);
        await assertLoads(to);
    });

    it("from a folder", async () => {
        const to = await userDir("folder");
        await run(to, "npm", "install", "--no-audit", "--no-fund", source);
        await assertLoads(to);
    });

    it("by npm link", async () => {
        const to = await userDir("link");
        env["NPM_CONFIG_PREFIX"] = path.join(dir, "prefix");
        mkdirSync(path.join(dir, "prefix", "lib"), { recursive: true });
        try {
            await run(source, "npm", "link");
            await run(to, "npm", "link", name);
        } finally {
            delete env["NPM_CONFIG_PREFIX"];
        }
        await assertLoads(to);
    });

    it("from a git URL", async () => {
        const to = await userDir("git");
        await run(to, "npm", "install", "--no-audit", "--no-fund", "--omit=dev", `git+file://${source}`);
        await assertLoads(to);
    });
});
