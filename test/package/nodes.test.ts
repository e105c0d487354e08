import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { nodeRedPath, root } from "../node-red.js";
import { baseOf, filesBelow, loadExamples, loadSource, manifest, type NodeSource, read, types } from "./source.js";

/** Categories of the palette with the colour of their nodes. */
const COLORS: Record<string, string> = {
    "WattLedger plant": "#C7E3C1",
    "WattLedger data": "#BFD9EA",
    "WattLedger carbon": "#E3D7BF",
    "WattLedger grid": "#E6CFE3",
    "WattLedger simulate": "#DDDDDD",
};
const MAX_GLUE_LINES = 130;

const examples = loadExamples();

for (const type of types) {
    describe(`the files of ${type}`, () => {
        const base = baseOf(type);

        it("are all there", () => {
            const catalog = `${path.posix.dirname(base)}/locales/en-US/${type}.json`;
            for (const file of [`${base}.ts`, `${base}.html`, `${base}.md`, catalog, `dist/${base.slice("nodes/".length)}.js`]) {
                assert.ok(existsSync(path.join(root, file)), `${file} is missing`);
            }
        });

        it("keep the glue short", () => {
            const lines = read(`${base}.ts`).split("\n").length;
            assert.ok(lines <= MAX_GLUE_LINES, `${lines} lines: move logic into plain files beside it`);
        });

        describe("dialog", () => {
            let definition: NodeSource["definition"];
            let html: string;
            let isConfig: boolean;
            before(() => {
                ({ definition, html } = loadSource(type));
                isConfig = definition.category === "config";
            });

            it("registers the type by an inline literal, and loads no script first", () => {
                assert.match(html, new RegExp(`RED\\.nodes\\.registerType\\("${type}", \\{`));
                assert.match(html, new RegExp(`<script type="text/html" data-template-name="${type}">`));
                assert.doesNotMatch(html, /<script[^>]* src=/);
            });

            it("has the look of its category", () => {
                if (isConfig) return;
                assert.equal(definition["color"], COLORS[definition.category ?? ""], definition.category);
                assert.equal(definition["paletteLabel"], type.replace(/^wl-/, ""));
                const icon = String(definition["icon"]);
                assert.match(icon, /^wl-.*\.svg$/);
                assert.ok(existsSync(path.join(root, "icons", icon)), `icons/${icon} is missing`);
            });

            it("names no colour of its own, so that it is readable in the dark too", () => {
                const styled = html.replace(/\bcolor: "#[0-9A-Fa-f]{6}",/, "");
                const own = /(?:color|background|fill|stroke|border)[\w-]*["']?\s*:\s*["']?[^;"'}]*?(?:#[0-9a-f]{3,8}|rgba?\(|\b(?:white|black|gr[ae]y|red|green|blue)\b)/i;
                assert.equal(own.exec(styled.replace(/var\([^)]*\)/g, ""))?.[0], undefined);
            });

            it("has a field for each property", () => {
                const prefix = isConfig ? "node-config-input-" : "node-input-";
                const missing = Object.keys(definition.defaults ?? {}).filter((key) => !html.includes(`id="${prefix}${key}"`) && !html.includes(`this.${key} = `));
                assert.deepEqual(missing, []);
            });

            it("has only labels that the catalog knows, and the catalog only what is used", () => {
                const known = flatten(JSON.parse(read(`${path.posix.dirname(base)}/locales/en-US/${type}.json`)) as object);
                const marked = [...html.matchAll(/data-i18n="([^"]+)"/g)].flatMap(([, value]) => (value ?? "").split(";").map((key) => key.replace(/^\[.*\]/, "")));
                assert.deepEqual(marked.filter((key) => !known.includes(key)), [], "not in the catalog");
                const sources = html + read(`${base}.ts`);
                const isUsed = (key: string) =>
                    new RegExp(`["'\`]${key.replaceAll(".", "\\.")}["'\`]`).test(sources) || sources.includes(`\`${key.slice(0, key.lastIndexOf(".") + 1)}\${`);
                assert.deepEqual(known.filter((key) => !marked.includes(key) && !isUsed(key)), [], "never used");
            });

            it("is explained: intro, what goes in, what comes out, details", () => {
                const help = read(`${base}.md`);
                const [title, , ...rest] = help.split("\n");
                assert.equal(title, `# ${type}`);
                const intro = rest.slice(0, rest.indexOf(""));
                assert.ok(intro.length >= 1 && intro.length <= 3, `the intro has ${intro.length} lines`);
                const expected = [
                    ...(Number(definition["inputs"] ?? 0) > 0 ? ["Inputs"] : []),
                    ...(Number(definition["outputs"] ?? 0) > 0 ? ["Outputs"] : []),
                    "Details",
                ];
                const sections = [...help.matchAll(/^### (.*)$/gm)].map(([, name]) => name);
                assert.deepEqual(sections.filter((name) => name !== "References"), expected);
            });
        });

        it("include an example", () => {
            assert.ok(
                examples.some(({ nodes }) => nodes.some((node) => node.type === type)),
                `no file in examples/ holds a ${type}`,
            );
        });
    });
}

describe("the rooms", () => {
    it("hold no dialog, help, catalog or icon of a type that is not registered", () => {
        const bases = types.map(baseOf);
        const orphans = [".html", ".md"].flatMap((extension) =>
            filesBelow("nodes", extension).filter((file) => !bases.includes(file.slice(0, -extension.length)) && file !== "nodes/editor.html"),
        );
        const catalogs = filesBelow("nodes", ".json").filter((file) => file.includes("/locales/") && !types.includes(path.posix.basename(file, ".json")));
        const used = types.map((type) => loadSource(type).definition["icon"]);
        const icons = filesBelow("icons", ".svg").filter((file) => !used.includes(path.posix.basename(file)) && !types.includes(path.posix.basename(file, ".svg")));
        assert.deepEqual([...orphans, ...catalogs, ...icons], []);
    });

    it("draw icons that Node-RED can show: SVG of 40 by 60", () => {
        for (const icon of filesBelow("icons", ".svg")) {
            assert.match(read(icon), /<svg[^>]* (viewBox="0 0 40 60"|width="40" height="60")/, icon);
            assert.doesNotMatch(read(icon), /<script|<image|href=/i, icon);
        }
    });
});

describe("the examples", () => {
    const coreTypes = coreNodeTypes();

    it("are there", () => assert.ok(examples.length > 0));

    for (const { file, nodes } of examples) {
        describe(file, () => {
            it("holds core nodes and ours only, and a comment that explains it", () => {
                assert.ok(Array.isArray(nodes));
                const foreign = nodes.map((node) => node.type).filter((type) => !types.includes(type) && !coreTypes.has(type));
                assert.deepEqual(foreign, []);
                assert.ok(nodes.some((node) => node.type === "comment"));
            });

            it("refers to nothing outside itself", () => {
                const ids = nodes.map((node) => node.id);
                assert.equal(new Set(ids).size, ids.length, "an id twice");
                for (const node of nodes) {
                    const wired = (Array.isArray(node["wires"]) ? (node["wires"] as string[][]) : []).flat();
                    const configs = types.includes(node.type) ? configReferences(node) : [];
                    const place = typeof node["z"] === "string" && node["z"] !== "" ? [node["z"]] : [];
                    for (const id of [...wired, ...configs, ...place]) assert.ok(ids.includes(id), `${node.type} ${node.id} refers to ${id}`);
                }
            });

            it("sets only properties that the nodes have", () => {
                const common = ["id", "type", "z", "x", "y", "wires", "d", "g", "l", "info", "inputLabels", "outputLabels", "icon"];
                for (const node of nodes.filter((found) => types.includes(found.type))) {
                    const { defaults = {} } = loadSource(node.type).definition;
                    assert.deepEqual(Object.keys(node).filter((key) => !(key in defaults) && !common.includes(key)), [], node.type);
                }
            });

            it("carries no credentials and no path of a machine", () => {
                assert.ok(nodes.every((node) => !("credentials" in node)));
                assert.doesNotMatch(read(file), /"(password|token|secret|apiKey|credentialSecret)"\s*:\s*"[^"$]|\/home\/|\/root\/|\/tmp\/|[A-Z]:\\\\/i);
            });
        });
    }

    function configReferences(node: Record<string, unknown>): string[] {
        const { defaults = {} } = loadSource(String(node["type"])).definition;
        return Object.entries(defaults)
            .filter(([key, { type }]) => type !== undefined && typeof node[key] === "string" && node[key] !== "")
            .map(([key]) => String(node[key]));
    }
});

describe("the package", () => {
    it("brings the shared editor code as a plugin, loaded before the nodes", () => {
        for (const file of Object.values(manifest["node-red"].plugins)) {
            assert.ok(existsSync(path.join(root, file.replace(/\.js$/, ".html"))), file);
        }
    });
});

/** Dotted keys of a catalog. */
function flatten(catalog: object, prefix = ""): string[] {
    return Object.entries(catalog).flatMap(([key, value]) =>
        typeof value === "object" && value !== null ? flatten(value as object, `${prefix}${key}.`) : [`${prefix}${key}`],
    );
}

/** Types of Node-RED's own nodes, from their dialogs. */
function coreNodeTypes(): Set<string> {
    const core = path.join(path.dirname(require.resolve("@node-red/nodes/package.json", { paths: [nodeRedPath] })), "core");
    const found = new Set(["tab", "group", "global-config"]);
    for (const file of readdirSync(core, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".html"))) {
        for (const [, type] of readFileSync(path.join(core, file), "utf8").matchAll(/registerType\(\s*['"]([^'"]+)['"]/g)) if (type) found.add(type);
    }
    return found;
}
