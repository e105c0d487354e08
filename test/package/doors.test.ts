import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { root } from "../node-red.js";
import { filesBelow, manifest, read } from "./source.js";

/** Rooms a room may import beside its own, `common` and `store`. */
const DOORS: Record<string, string[]> = {
    sunspec: ["modbus"],
    control: ["modbus", "sunspec"],
    esp32: ["mqtt"],
    guardian: ["carbon"],
    simulate: ["*"],
    cli: ["*"],
};

interface Import {
    file: string;
    room: string;
    specifier: string;
    isType: boolean;
    /** Loaded when it is needed, by a call inside a function. */
    isLazy: boolean;
}

function importsOf(file: string): Import[] {
    const text = read(file).replace(/\/\*.*?\*\/|^\s*\/\/[^\n]*/gms, "");
    const room = file.split("/")[1] ?? "";
    const statements = text.matchAll(/^(?:import|export)\s+(type\s)?(?:[^;"]*?\sfrom\s+)?"([^"]+)"/gms);
    const calls = text.matchAll(/^( *).*?\b(?:import|require|require\.resolve)\(\s*["'`]([^"'`]+)["'`]/gm);
    return [
        ...[...statements].map((match) => ({ file, room, isType: match[1] !== undefined, isLazy: false, specifier: match[2] ?? "" })),
        ...[...calls].map((match) => ({ file, room, isType: false, isLazy: match[1] !== "", specifier: match[2] ?? "" })),
    ];
}

/** The room behind a relative import, else undefined. */
function target({ file, specifier }: Import): string | undefined {
    return specifier.startsWith(".") ? path.posix.join(path.posix.dirname(file), specifier) : undefined;
}

function mayEnter(from: string, to: string): boolean {
    if (from === to || to === "common") return true;
    if (from === "common") return false;
    if (to === "store") return true;
    if (from === "store") return false;
    const doors = DOORS[from] ?? [];
    return doors.includes("*") || doors.includes(to);
}

describe("the doors between rooms", () => {
    const files = filesBelow("nodes", ".ts");
    const imports = files.flatMap(importsOf);

    it("are found by this test", () => {
        assert.ok(imports.length > files.length);
        assert.deepEqual(
            [mayEnter("common", "store"), mayEnter("store", "modbus"), mayEnter("modbus", "sunspec"), mayEnter("carbon", "amber")],
            [false, false, false, false],
        );
    });

    it("are the only ones used", () => {
        const wrong = imports.filter((found) => {
            const to = target(found);
            return to !== undefined && (!to.startsWith("nodes/") || !mayEnter(found.room, to.split("/")[1] ?? ""));
        });
        assert.deepEqual(wrong, []);
    });

    it("lead somewhere", () => {
        const missing = imports.filter((found) => {
            const to = target(found);
            return to !== undefined && !existsSync(path.join(root, to.replace(/\.js$/, ".ts"))) && !existsSync(path.join(root, to));
        });
        assert.deepEqual(missing, []);
    });

    it("let Node-RED's types into glue and the common room only, and no value of it anywhere", () => {
        const wrong = imports.filter(({ file, room, specifier, isType }) => {
            const isGlue = path.posix.basename(file).startsWith("wl-");
            return specifier === "node-red" && !(isType && (isGlue || room === "common"));
        });
        assert.deepEqual(wrong, []);
    });

    it("let in what package.json names, and Node.js's own modules that Node.js 20 has", () => {
        const wrong = imports.filter(({ specifier, isType, isLazy }) => {
            if (specifier.startsWith(".") || specifier.startsWith("node:")) return false;
            const name = specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
            const isOptional = isLazy && name in manifest.peerDependencies;
            return !(name in manifest.dependencies) && !isOptional && !(isType && name === "node-red");
        });
        assert.deepEqual(wrong, []);
        const newer = imports.filter(({ specifier, isType }) => !isType && specifier === "node:sqlite");
        assert.deepEqual(newer.filter(({ file }) => /^import [^;]*"node:sqlite"/m.test(read(file))), []);
    });
});
