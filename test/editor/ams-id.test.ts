import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor } from "./browser.js";

interface Editor {
    nodes: { node(id: string): FlowNode | null };
    editor: { edit(node: object): void };
}
declare const RED: Editor;

describe("the dialog of wl-ams-id", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];
    before(async () => {
        userDir = await makeUserDir();
        const flows = JSON.parse(await readFile(path.join(root, "examples", "carbon", "01 Report by AMS-I.D.json"), "utf8")) as FlowNode[];
        nodeRed = await startNodeRed({ userDir, flows });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction(() => RED.nodes.node("wlamsid0000amsi0"));
        await page.evaluate(() => RED.editor.edit(RED.nodes.node("wlamsid0000amsi0")!));
        await page.waitForSelector("#wl-ams-id-import");
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    it("adds meters, factors and the unsourced preset to what is there", async () => {
        await page.click("#wl-ams-id-meter");
        await page.click("#wl-ams-id-morocco");
        const meters = JSON.parse(await page.inputValue("#node-input-meters")) as { meter: string }[];
        const factors = JSON.parse(await page.inputValue("#node-input-factors")) as object[];
        assert.deepEqual(meters.map(({ meter }) => meter), ["plant/meter1", "site/meter1"]);
        assert.deepEqual(factors, [{ om: 0.729, bm: 0.326 }, { om: 0.81, bm: 0.81 }]);
    });

    it("imports an ams_config.json of the origin, says what goes elsewhere, and shows no secret", async () => {
        const config = { guardian: { username: "u", password: "hush-hush" }, aggregation: { interval_hours: 12, min_data_points: 20, check_interval_minutes: 30 } };
        await page.setInputFiles("#wl-ams-id-file", { name: "ams_config.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(config)) });
        await page.waitForFunction(() => document.querySelector("#wl-ams-id-note")!.textContent !== "");
        const note = (await page.textContent("#wl-ams-id-note"))!;
        assert.match(note, /password was not read/);
        assert.doesNotMatch(note, /hush/);
        assert.deepEqual(await Promise.all(["intervalHours", "minPoints", "checkMinutes"].map((name) => page.inputValue(`#node-input-${name}`))), ["12", "20", "30"]);
        await page.click("#node-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
        assert.equal(await page.evaluate(() => RED.nodes.node("wlamsid0000amsi0")!["intervalHours"]), "12");
    });

    it("says what is no such file", async () => {
        await page.evaluate(() => RED.editor.edit(RED.nodes.node("wlamsid0000amsi0")!));
        await page.waitForSelector("#wl-ams-id-import");
        await page.setInputFiles("#wl-ams-id-file", { name: "x.json", mimeType: "application/json", buffer: Buffer.from("no json") });
        await page.waitForSelector("#wl-ams-id-note.wl-error");
        assert.match((await page.textContent("#wl-ams-id-note"))!, /no JSON/);
    });
});
