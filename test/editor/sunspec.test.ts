import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): (FlowNode & { devices?: object[]; deviceClass?: string }) | null };
    editor: { edit(node: object): void };
}
declare const RED: Editor;

describe("the dialog of wl-sunspec", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];
    before(async () => {
        userDir = await makeUserDir();
        const flows = JSON.parse(await readFile(path.join(root, "examples", "sunspec", "01 Read a SunSpec inverter.json"), "utf8")) as FlowNode[];
        nodeRed = await startNodeRed({ userDir, flows });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction(() => RED.nodes.node("wlsunspec000node"));
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    const open = async () => {
        await page.evaluate(() => RED.editor.edit(RED.nodes.node("wlsunspec000node")!));
        await page.waitForSelector("#wl-sunspec-discover");
    };
    const save = async () => {
        await page.click("#node-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
    };
    const devices = () => page.evaluate(() => RED.nodes.node("wlsunspec000node")!.devices);

    it("shows what is behind the link, and keeps the rows that were ticked", async () => {
        await open();
        await page.click("#wl-sunspec-discover");
        await page.waitForSelector("#wl-sunspec-found tr:nth-child(7)");
        assert.equal(await page.textContent("#wl-sunspec-result"), "6 found.");
        const rows = await page.$$eval("#wl-sunspec-found tr", (lines) => lines.map((line) => [...line.children].map((cell) => cell.textContent)));
        assert.deepEqual(rows[1]!.slice(1, 7), ["1", "", "inverter", "WattLedger Simulated inverter A 1.0", "SIM1-INV-A", "1, 103, 120, 121, 123, 160"]);
        assert.match(rows[1]![7]!, /^ac_power_w [\d.]+, /);
        await shoot(page, "wl-sunspec-discovered");
        await page.fill("#wl-sunspec-found tr:nth-child(2) input[type=text]", "roof");
        await page.check("#wl-sunspec-found tr:nth-child(7) input[type=checkbox]");
        await save();
        assert.deepEqual(await devices(), [
            { unit: 1, device: 0, name: "roof" },
            { unit: 200, device: 0, name: "" },
        ]);
    });

    it("shows saved rows again and lets go of those that are unticked", async () => {
        await open();
        await page.uncheck("#wl-sunspec-found tr:nth-child(3) input[type=checkbox]");
        assert.equal(await page.inputValue("#wl-sunspec-found tr:nth-child(2) input[type=text]"), "roof");
        await save();
        assert.deepEqual(await devices(), [{ unit: 1, device: 0, name: "roof" }]);
    });

    it("keeps an environment variable in a list of choices", async () => {
        await page.evaluate(() => (RED.nodes.node("wlsunspec000node")!.deviceClass = "${CLASS}"));
        await open();
        assert.equal(await page.inputValue("#node-input-deviceClass"), "${CLASS}");
        await save();
        assert.equal(await page.evaluate(() => RED.nodes.node("wlsunspec000node")!.deviceClass), "${CLASS}");
    });

    it("says in words why nothing is found", async () => {
        await open();
        await page.fill("#node-input-units", "77");
        await page.click("#wl-sunspec-discover");
        await page.waitForSelector("#wl-sunspec-result.wl-error");
        assert.match((await page.textContent("#wl-sunspec-result")) ?? "", /^0 found\. No SunSpec at unit 77: it does not answer; check the unit id/);
        await page.fill("#node-input-units", "1;2");
        await page.click("#wl-sunspec-discover");
        await page.waitForFunction(() => /takes unit ids/.test(document.querySelector("#wl-sunspec-result")?.textContent ?? ""));
        await page.click("#node-dialog-cancel");
    });
});
