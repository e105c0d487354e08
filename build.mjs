// Builds dist/: one CommonJS file a source file, each node's .html with its .md appended as help, locales, icons.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const root = import.meta.dirname;
const dist = path.join(root, "dist");
for (const dir of [dist, path.join(root, "test-dist")]) rmSync(dir, { recursive: true, force: true });

const tsc = createRequire(import.meta.url).resolve("typescript/package.json").replace("package.json", "bin/tsc");
const compiled = spawnSync(process.execPath, [tsc, "-p", root], { stdio: "inherit" });
if (compiled.status !== 0) process.exit(compiled.status ?? 1);

for (const file of readdirSync(dist, { recursive: true })) {
    if (/^wl-.*\.js$/.test(path.basename(file))) loadLate(path.join(dist, file));
}
for (const file of readdirSync(path.join(root, "nodes"), { recursive: true })) {
    const from = path.join(root, "nodes", file);
    const to = path.join(dist, file);
    if (file.endsWith(".html")) {
        const type = path.basename(file, ".html");
        const help = from.replace(/\.html$/, ".md");
        mkdirSync(path.dirname(to), { recursive: true });
        writeFileSync(to, readFileSync(from, "utf8") + (existsSync(help) ? helpScript(type, readFileSync(help, "utf8")) : ""));
    } else if (/[\\/]locales[\\/].*\.json$/.test(file)) {
        cpSync(from, to);
    }
}
cpSync(path.join(root, "icons"), path.join(dist, "icons"), { recursive: true });
for (const name of readdirSync(path.join(root, "flows"))) {
    if (existsSync(path.join(root, "flows", name, "flow.json"))) buildFlow(path.join(root, "flows", name), path.join(dist, "flows"));
}

/** Node-RED loads every node type when it starts, used or not: what a type's file imports is loaded at its first use. */
function loadLate(file) {
    const names = [];
    const text = readFileSync(file, "utf8").replaceAll(/^const (\w+) = (require\("(?!node:).*"\));$/gm, (_, name, load) => {
        names.push(name);
        return `const ${name} = () => ${load};`;
    });
    writeFileSync(file, names.reduce((done, name) => done.replaceAll(new RegExp(`\\b${name}\\.`, "g"), `(${name}()).`), text));
}

/** One importable file a flow: where a node names a file beside flow.json, its function, page part or style goes in. */
function buildFlow(folder, to) {
    const nodes = JSON.parse(readFileSync(path.join(folder, "flow.json"), "utf8"));
    for (const node of nodes) {
        const key = { function: "func", "ui-template": "format" }[node.type];
        if (key) node[key] = readFileSync(path.join(folder, node[key]), "utf8");
    }
    mkdirSync(to, { recursive: true });
    writeFileSync(path.join(to, `${path.basename(folder)}.json`), JSON.stringify(nodes, null, 4));
}

/** The first `# title` line serves readers on the web; the editor shows the node's name itself. */
function helpScript(type, markdown) {
    return `\n<script type="text/markdown" data-help-name="${type}">\n${markdown.replace(/^# .*\n+/, "")}</script>\n`;
}
