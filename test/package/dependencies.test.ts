import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { nodeRedPath, root } from "../node-red.js";
import { manifest, read } from "./source.js";

/** npm's own reading of version ranges, as Node-RED brings it. */
const semver = require(require.resolve("semver", { paths: [nodeRedPath] })) as {
    satisfies(version: string, range: string): boolean;
};

interface Package {
    name: string;
    version: string;
    dir: string;
    engines?: { node?: string };
    scripts?: Record<string, string>;
    gypfile?: boolean;
    dependencies?: Record<string, string>;
    optionalDependencies?: Record<string, string>;
}

/** What `npm install` of this package brings along, found as Node.js finds it. */
function productionTree(): Package[] {
    const seen = new Map<string, Package>();
    const visit = (dir: string, names: string[]) => {
        for (const name of names) {
            const found = locate(dir, name);
            assert.ok(found, `${name} is not installed`);
            if (seen.has(found)) continue;
            const json = JSON.parse(readFileSync(path.join(found, "package.json"), "utf8")) as Package;
            seen.set(found, { ...json, dir: found });
            visit(found, Object.keys({ ...json.dependencies, ...json.optionalDependencies }));
        }
    };
    visit(root, Object.keys(manifest.dependencies));
    return [...seen.values()];
}

function locate(from: string, name: string): string | undefined {
    for (let dir = from; ; dir = path.dirname(dir)) {
        const candidate = path.join(dir, "node_modules", name);
        if (existsSync(path.join(candidate, "package.json"))) return candidate;
        if (dir === path.dirname(dir)) return undefined;
    }
}

describe("what an installation brings along", () => {
    const tree = productionTree();

    it("is a real tree", () => {
        for (const name of Object.keys(manifest.dependencies)) assert.ok(tree.some((found) => found.name === name), name);
        assert.ok(tree.length > Object.keys(manifest.dependencies).length);
    });

    for (const { name, version, dir, engines, scripts = {}, gypfile, dependencies = {} } of tree) {
        it(`${name} ${version}: nothing compiled, no install script, no URL, any Node.js from 20.19`, () => {
            const compiled = readdirSync(dir, { recursive: true, encoding: "utf8" }).filter(
                (file) => !file.includes("node_modules") && /\.(node|gyp|so|dylib|dll|exe)$/.test(file),
            );
            assert.deepEqual(compiled, []);
            assert.notEqual(gypfile, true);
            for (const hook of ["preinstall", "install", "postinstall"]) assert.equal(scripts[hook], undefined, hook);
            for (const [dependency, spec] of Object.entries(dependencies)) assertFromRegistry(dependency, spec);
            assert.ok(semver.satisfies("20.19.0", engines?.node ?? "*"), `asks for Node.js ${engines?.node}`);
        });
    }

    it("comes from the registry by version ranges only", () => {
        for (const [dependency, spec] of Object.entries(manifest.dependencies)) assertFromRegistry(dependency, spec);
        assert.ok(semver.satisfies("20.19.0", manifest.engines.node));
    });

    it("is locked without naming a host, so that any mirror serves it", () => {
        assert.doesNotMatch(read("package-lock.json"), /"resolved": "(?!file:)|https?:\/\/[^"]*\.tgz|git\+/);
    });
});

function assertFromRegistry(dependency: string, spec: string): void {
    assert.doesNotMatch(spec, /[:/]/, `${dependency} comes from ${spec}`);
}
