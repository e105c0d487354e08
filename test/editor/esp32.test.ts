import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { envelope } from "../esp32/rig.js";
import { makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): FlowNode | null };
    editor: { edit(node: object): void };
    actions: { invoke(name: string, argument: unknown): void };
}
declare const RED: Editor;

const ID = "wlesp32000esp320";

describe("the dialog of wl-esp32", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];
    before(async () => {
        userDir = await makeUserDir();
        const flows = JSON.parse(await readFile(path.join(root, "examples", "esp32", "01 Take what an ESP32 sends.json"), "utf8")) as FlowNode[];
        nodeRed = await startNodeRed({ userDir, flows: flows.map((node) => (node.id === ID ? { ...node, anonymous: false } : node)) });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction((id) => RED.nodes.node(id), ID);
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    const post = (seq: number, headers: Record<string, string> = {}) => fetch(`${nodeRed.url}/wattledger/esp32`, { method: "POST", body: JSON.stringify({ ...envelope(seq), id: "esp<b>32" }), headers });

    async function open(): Promise<void> {
        await page.evaluate((id) => RED.editor.edit(RED.nodes.node(id)!), ID);
        await page.waitForSelector("#wl-esp32-devices td");
    }

    async function madeKey(): Promise<string> {
        await page.waitForSelector("#wl-esp32-once pre");
        return /WL_KEY "([\w-]{43})"/.exec((await page.textContent("#wl-esp32-once"))!)![1]!;
    }

    /** Closes the dialog first. */
    async function deploy(): Promise<void> {
        await page.click("#node-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
        const from = nodeRed.log().length;
        await page.click("#red-ui-header-button-deploy:not(.disabled)");
        await nodeRed.logged(/Started (modified )?(flows|nodes)/, from);
    }

    it("lists who is refused for want of a key, makes one, and shows it once", async () => {
        assert.equal((await post(1)).status, 401);
        await open();
        assert.match((await page.textContent("#wl-esp32-devices"))!, /esp<b>32.*has no key/);
        assert.equal(await page.textContent("#wl-esp32-url"), `${nodeRed.url}/wattledger/esp32`);
        await page.click("#wl-esp32-devices td button");
        const key = await madeKey();
        assert.equal(await page.textContent("#wl-esp32-result"), "Key of esp<b>32 made. It counts from the next deploy on, even if you cancel here.");
        await shoot(page, "esp32");
        await deploy();
        assert.equal((await post(2, { authorization: `Bearer ${key}` })).status, 200);
        await open();
        assert.doesNotMatch(await page.innerHTML(".red-ui-tray"), new RegExp(key));
        assert.doesNotMatch(await (await fetch(`${nodeRed.url}/flows`)).text(), new RegExp(key));
    });

    it("renews the key of the only device: Deploy is there to be pressed, and ends the old one", async () => {
        await page.click("#wl-esp32-devices button:has(.fa-key)");
        const key = await madeKey();
        await deploy();
        assert.equal((await post(3, { authorization: `Bearer ${key}` })).status, 200);
        await open();
    });

    it("lets a device begin anew, and takes a key away", async () => {
        await page.click("#wl-esp32-devices button:has(.fa-eraser)");
        await page.waitForFunction(() => document.querySelector("#wl-esp32-result")!.textContent.includes("may begin anew"));
        await page.click("#wl-esp32-devices button:has(.fa-trash)");
        await page.waitForFunction(() => !document.querySelector("#wl-esp32-devices .fa-trash"));
        await page.click("#node-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
        assert.deepEqual(await page.evaluate((id) => RED.nodes.node(id)!["devices"], ID), []);
    });

    it("takes no more room on a phone than Node-RED's own", async () => {
        const phone = await openEditor(browser, nodeRed.url, { width: 390, height: 844 });
        ({ page } = phone);
        await page.waitForFunction((id) => RED.nodes.node(id), ID);
        for (const side of ["sidebar", "palette"]) await page.evaluate((name) => RED.actions.invoke(`core:toggle-${name}`, false), side);
        await open();
        await page.selectOption("#node-input-preset", "tasmota");
        await page.click("#dialog-form details summary");
        await page.click("#wl-esp32-devices button:has(.fa-key)");
        await madeKey();
        await shoot(page, "esp32-phone");
        // Node-RED gives no dialog less than 500 pixels.
        const width = await page.$eval(".red-ui-tray-body", (body) => body.clientWidth);
        assert.ok(width <= 500, `${width} pixels wide`);
        assert.deepEqual(phone.faults, []);
        await page.context().close();
    });
});
