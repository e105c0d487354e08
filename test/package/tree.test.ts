import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { root } from "../node-red.js";

describe("the tracked files", () => {
    const files = execFileSync("git", ["ls-files", "-z"], { cwd: root, encoding: "utf8" }).split("\0").filter((file) => file !== "");

    /** Tracked files that a pattern matches, with what it found. */
    function search(pattern: RegExp, where = files): string[] {
        return where.flatMap((file) => {
            const found = pattern.exec(readFileSync(path.join(root, file), "latin1"));
            return found ? [`${file}: ${found[0]}`] : [];
        });
    }

    it("are the source alone: nothing built, nothing huge", () => {
        assert.ok(files.includes("package.json"));
        assert.deepEqual(files.filter((file) => /^(dist|test-dist|node_modules)\/|\.(tgz|log|map)$/.test(file)), []);
        assert.deepEqual(files.filter((file) => statSync(path.join(root, file)).size > 1024 * 1024), []);
    });

    it("hold no secret", () => {
        assert.deepEqual(search(/-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]|\bAKIA[0-9A-Z]{16}\b|\b(ghp|npm)_[A-Za-z0-9]{36}\b|\bxox[abp]-\d|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}/), []);
    });

    it("bring no default login", () => {
        const shipped = files.filter((file) => /^(flows|examples)\/|^README\.md$|compose/.test(file));
        assert.deepEqual(search(/\badmin[:/]admin\b|["']?(password|credentialSecret)["']?\s*[:=]\s*["'][^"'$\s{]/i, shipped), []);
    });

    it("hold no path of the machine they were written on", () => {
        const paths = [root, homedir()].filter((found) => found.length > 1).map((found) => `${found.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}/`);
        assert.deepEqual(search(new RegExp(paths.join("|"))), []);
    });

    it("leave nothing unfinished", () => {
        const shipped = files.filter((file) => /^(nodes|flows|examples|pointmaps)\/|^README\.md$/.test(file));
        assert.deepEqual(search(/\b(TODO|FIXME|XXX)\b|lorem ipsum/i, shipped), []);
    });
});
