import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import vm from "node:vm";
import { root } from "../node-red.js";

export const manifest = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as {
    name: string;
    engines: { node: string };
    dependencies: Record<string, string>;
    peerDependencies: Record<string, string>;
    "node-red": { nodes: Record<string, string>; plugins: Record<string, string> };
};

/** A node type as its files tell it. */
export interface NodeSource {
    type: string;
    /** Path of its files without the extension, below the repository's root: `nodes/common/wl-site`. */
    base: string;
    /** What the dialog registers; functions included. */
    definition: Record<string, unknown> & { category?: string; defaults?: Record<string, { value?: unknown; type?: string }> };
    html: string;
}

export function read(file: string): string {
    return readFileSync(path.join(root, file), "utf8");
}

/** Files below a folder of the repository, with `/`, as paths from the root. */
export function filesBelow(folder: string, extension: string): string[] {
    return readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(extension))
        .map((file) => `${folder}/${file.replaceAll(path.sep, "/")}`)
        .toSorted();
}

/** Every type that package.json registers. */
export const types = Object.keys(manifest["node-red"].nodes);

/** `nodes/common/wl-site` for `wl-site`. */
export function baseOf(type: string): string {
    return `nodes/${manifest["node-red"].nodes[type]?.replace(/^dist\//, "").replace(/\.js$/, "")}`;
}

/** Runs the dialog's script against an editor that only listens. */
export function loadSource(type: string): NodeSource {
    const base = baseOf(type);
    const html = read(`${base}.html`);
    const script = /<script type="text\/javascript">(.*?)<\/script>/s.exec(html)?.[1] ?? "";
    let definition: NodeSource["definition"] = {};
    const validators = new Proxy({}, { get: () => () => () => true });
    const RED = {
        validators,
        nodes: {
            registerType: (name: string, registered: NodeSource["definition"]) => {
                if (name === type) definition = registered;
            },
        },
    };
    vm.runInNewContext(script, { RED });
    return { type, base, definition, html };
}

export type FlowNode = Record<string, unknown> & { id: string; type: string };

/** Every shipped example: its path and its nodes. */
export function loadExamples(): { file: string; nodes: FlowNode[] }[] {
    return filesBelow("examples", ".json").map((file) => ({ file, nodes: JSON.parse(read(file)) as FlowNode[] }));
}
