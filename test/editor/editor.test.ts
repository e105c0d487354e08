import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import { type FlowNode, loadExamples, loadSource, manifest, types } from "../package/source.js";
import { launchBrowser, openEditor, screenshots, shoot } from "./browser.js";

/** What the editor's own scripts offer, as far as the tests use it. */
interface Editor {
    nodes: {
        getType(type: string): object | null;
        node(id: string): FlowNode | null;
        filterNodes(filter: object): (FlowNode & { valid: boolean; status?: { fill?: string } })[];
        import(nodes: object[]): void;
    };
    workspaces: { show(id: string): void };
    editor: { edit(node: object): void; editConfig(name: string, type: string, id: string): void };
    actions: { invoke(action: string): void };
}
declare const RED: Editor;

describe("the editor", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let broker: ChildProcess;
    let browser: Browser;
    let page: Page;
    let faults: string[];

    before(async () => {
        userDir = await makeUserDir();
        // What the examples expect: Node-RED on its own port, and a broker on this machine.
        nodeRed = await startNodeRed({ userDir, settings: { uiPort: 1880 } });
        broker = spawn("mosquitto", ["-p", "1883"], { stdio: "ignore" });
        browser = await launchBrowser();
    });
    after(async () => {
        await browser.close();
        broker.kill();
        await Promise.all([once(broker, "exit"), nodeRed.stop()]);
        await removeDir(userDir);
    });

    beforeEach(async () => {
        await deploy([]);
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction((all) => all.every((type) => RED.nodes.getType(type)), types);
        await page.waitForSelector("#red-ui-header-button-deploy.disabled");
    });
    afterEach(() => page.context().close());

    /** Sets the flows behind the editor's back. */
    async function deploy(flows: object[]): Promise<void> {
        const response = await fetch(`${nodeRed.url}/flows`, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(flows),
        });
        assert.equal(response.status, 204);
    }

    async function deployed(): Promise<FlowNode[]> {
        const response = await fetch(`${nodeRed.url}/flows`);
        return (await response.json()) as FlowNode[];
    }

    /** Presses Deploy, and Confirm where nodes still lack settings. */
    async function pressDeploy(): Promise<void> {
        const saved = page.waitForResponse((response) => response.url().endsWith("/flows") && response.request().method() === "POST");
        await page.click("#red-ui-header-button-deploy");
        const confirm = page.locator(".red-ui-notification button.primary");
        const asked = await Promise.race([saved.then(() => false), confirm.first().waitFor().then(() => true)]);
        if (asked) await confirm.first().click();
        assert.equal((await saved).status(), 200);
    }

    /** The open dialog, once its slide-in has ended. */
    async function dialog(): Promise<void> {
        await page.waitForSelector(".red-ui-tray-body form, .red-ui-tray-body .form-row");
        await page.waitForFunction(() => {
            const tray = document.querySelector(".red-ui-tray:last-of-type");
            return tray !== null && tray.getBoundingClientRect().right <= window.innerWidth + 1;
        });
        await page.waitForTimeout(300);
    }

    /** Labels that show their key, because the catalog was not found. */
    function untranslated(): Promise<string[]> {
        return page.$$eval(".red-ui-tray-body [data-i18n]", (elements) =>
            elements.flatMap((element) => {
                const keys = (element.getAttribute("data-i18n") ?? "").split(";").map((key) => key.replace(/^\[.*\]/, ""));
                const shown = [element.textContent?.trim(), ...["placeholder", "title", "aria-label"].map((attribute) => element.getAttribute(attribute))];
                return keys.filter((key) => shown.includes(key) || shown.every((text) => !text));
            }),
        );
    }

    for (const type of types) {
        it(`edits a ${type}: palette, dialog, change, save, deploy`, async () => {
            const { definition } = loadSource(type);
            const isConfig = definition.category === "config";
            let id = "1234567890abcdef";
            if (isConfig) {
                const values = Object.entries(definition.defaults ?? {}).map(([key, { value }]) => [key, value]);
                await page.evaluate((node) => RED.nodes.import([node]), { ...Object.fromEntries(values), id, type });
                await page.evaluate(({ id: node, type: of }) => RED.editor.editConfig("", of, node), { id, type });
            } else {
                const entry = page.locator(`.red-ui-palette-node[data-palette-type="${type}"]`);
                await entry.scrollIntoViewIfNeeded();
                // The editor lets labels break at dashes, by blanks around them.
                assert.equal((await entry.textContent())?.replace(/\s/g, ""), type.replace(/^wl-/, ""));
                const from = (await entry.boundingBox())!;
                await page.mouse.move(from.x + 20, from.y + 10);
                await page.mouse.down();
                await page.mouse.move(500, 300, { steps: 5 });
                await page.mouse.move(520, 310);
                await page.mouse.up();
                await page.waitForFunction((of) => RED.nodes.filterNodes({ type: of }).length === 1, type);
                id = await page.evaluate((of) => RED.nodes.filterNodes({ type: of })[0]!.id, type);
                await page.locator(`[id="${id}"]`).dblclick();
            }
            await dialog();
            assert.deepEqual(await untranslated(), []);
            await shoot(page, type);
            const field = page.locator(`#node-${isConfig ? "config-" : ""}input-name`);
            await field.fill("Changed by hand");
            await page.click(isConfig ? "#node-config-dialog-ok" : "#node-dialog-ok");
            await page.waitForSelector(".red-ui-tray", { state: "detached" });
            assert.equal(await page.evaluate((node) => RED.nodes.node(node)?.["name"], id), "Changed by hand");
            await pressDeploy();
            const saved = (await deployed()).find((node) => node.id === id);
            assert.equal(saved?.["name"], "Changed by hand");
            const known = ["id", "type", "x", "y", "z", "wires", ...Object.keys(definition.defaults ?? {})];
            assert.deepEqual(Object.keys(saved ?? {}).filter((key) => !known.includes(key)), []);
            assert.deepEqual(faults, []);
        });
    }

    for (const { file, nodes } of loadExamples()) {
        it(`imports ${file} and deploys it as it is`, async () => {
            const before = nodeRed.log().length;
            await page.evaluate(() => RED.actions.invoke("core:show-examples-import-dialog"));
            const [, ...folders] = file.replace(/\.json$/, "").split("/");
            for (const label of [manifest.name, ...folders]) {
                await page.locator("#red-ui-clipboard-dialog-import-tab-examples .red-ui-treeList-label", { hasText: label }).last().click();
            }
            await page.click("#red-ui-clipboard-dialog-ok");
            await page.waitForSelector("#red-ui-clipboard-dialog-import-tab-examples", { state: "hidden" });
            // The editor hangs the imported nodes on the mouse until a click drops them.
            await page.mouse.move(700, 400);
            await page.mouse.click(700, 400);
            const invalid = await page.evaluate(() => RED.nodes.filterNodes({}).filter((node) => !node.valid).map((node) => node.type));
            assert.deepEqual(invalid, []);
            await pressDeploy();
            // The runtime answers before it has started them.
            await nodeRed.logged(/\] Started /, before);
            // It works, not just deploys: a status turns green. An example that waits for a click gets one.
            const click = nodes.find((node) => node.type === "inject" && !node["once"] && !node["repeat"]);
            const sources = nodes.filter((node) => ["wl-sim-plant", "wl-sunspec"].includes(node.type) || (node.type === "inject" && (node["once"] || node["repeat"])));
            if (click && sources.length === 0) await fetch(`${nodeRed.url}/inject/${click.id}`, { method: "POST" });
            await page.waitForFunction(() => {
                const fills = RED.nodes.filterNodes({}).flatMap((node) => (node.type.startsWith("wl-") && node.status?.fill) || []);
                return fills.includes("green") && !fills.includes("red");
            });
            await page.evaluate((tab) => RED.workspaces.show(tab), nodes.find((node) => node.type === "tab")?.id ?? "");
            await page.addStyleTag({ content: "#red-ui-notifications { display: none }" });
            await page.waitForSelector("#red-ui-header-shade", { state: "hidden" });
            await page.screenshot({ path: path.join(screenshots, `example-${folders.join("-").replaceAll(" ", "-")}.png`) });
            const shipped = nodes.filter((node) => !["tab", "global-config"].includes(node.type)).map((node) => node.type).toSorted();
            const present = (await deployed()).filter((node) => !["tab", "global-config"].includes(node.type)).map((node) => node.type).toSorted();
            assert.deepEqual(present, shipped);
            const log = nodeRed.log().slice(before);
            assert.doesNotMatch(log, /\[(error|warn)\]/);
            assert.deepEqual(faults, []);
        });
    }
});
