import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { InfluxStandIn } from "../store/influx-stand-in.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): FlowNode | null };
    editor: { edit(node: object): void; editConfig(name: string, type: string, id: string): void };
}
declare const RED: Editor;

describe("the dialogs of wl-influxdb and wl-write", () => {
    const influx = new InfluxStandIn(1);
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];

    before(async () => {
        await influx.start();
        userDir = await makeUserDir();
        const place = { z: "tab", x: 100, y: 100 };
        const inject = (id: string, payload: string, onceDelay: number) => {
            const props = [{ p: "payload" }, { p: "topic", vt: "str" }];
            return { id, type: "inject", ...place, topic: "home/<b>inv1", payload, payloadType: "json", props, once: true, onceDelay, wires: [["write"]] };
        };
        nodeRed = await startNodeRed({
            userDir,
            flows: [
                { id: "tab", type: "tab", label: "t" },
                { id: "store", type: "wl-store", folder: "data" },
                { id: "influx", type: "wl-influxdb", url: influx.url, version: "auto", database: influx.database },
                { id: "write", type: "wl-write", ...place, store: "store", influxdb: "influx", wires: [[], []] },
                inject("number", '{"ac_power_w":1}', 0.1),
                inject("text", '{"ac_power_w":"off"}', 0.2),
            ],
            credentials: { influx: { username: influx.username, password: influx.password } },
        });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction(() => RED.nodes.node("write"));
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
        await influx.stop();
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    it("tests the connection with the stored password, and says what is wrong", async () => {
        await page.evaluate(() => RED.editor.editConfig("", "wl-influxdb", "influx"));
        await page.waitForSelector("#wl-influxdb-test");
        await page.click("#wl-influxdb-test");
        await page.waitForFunction(() => document.querySelector("#wl-influxdb-result")!.textContent === "InfluxDB 1.8.10 takes points.");
        await page.fill("#node-config-input-database", "nowhere");
        await page.click("#wl-influxdb-test");
        await page.waitForFunction(() => document.querySelector("#wl-influxdb-result.wl-error")?.textContent?.startsWith("Database not found (404): create database"));
        await shoot(page, "wl-influxdb-tested");
    });

    it("shows what a version needs", async () => {
        const shown = () => page.$$eval(".form-row:has([id^=node-config-input-])", (rows) => rows.filter((row) => (row as HTMLElement).offsetParent !== null).map((row) => row.querySelector("[id]")!.id.replace("node-config-input-", "")));
        const common = ["url", "version", "database"];
        for (const [version, fields] of [["1", ["retentionPolicy", "createDatabase", "username", "password"]], ["2", ["org", "token"]], ["3", ["token"]]] as const) {
            await page.selectOption("#node-config-input-version", version);
            assert.deepEqual((await shown()).toSorted(), [...common, ...fields, "name"].toSorted());
        }
        await page.fill("#node-config-input-url", "https://influx");
        assert.deepEqual((await shown()).filter((field) => ["ca", "insecure"].includes(field)), ["ca", "insecure"]);
        await page.click("#node-config-dialog-cancel");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
    });

    it("lists refused points as text, exports, retries and discards them", async () => {
        await page.evaluate(() => RED.editor.edit(RED.nodes.node("write")!));
        await page.waitForSelector("#wl-write-show");
        const rows = () => page.$$eval("#wl-write-refused tr", (lines) => lines.map((line) => [...line.children].map((cell) => cell.textContent)));
        while ((await rows()).length === 0) {
            await page.click("#wl-write-show");
            await page.waitForFunction(() => document.querySelector("#wl-write-refused tr") || document.querySelector("#wl-write-note")!.textContent !== "");
        }
        const [heading, row] = await rows();
        assert.deepEqual(heading, ["When", "Reason", "Point"]);
        assert.match(row![1]!, /field type conflict/);
        assert.match(row![2]!, /device=<b>inv1,.*ac_power_w="off"/);
        await shoot(page, "wl-write-refused");

        const download = page.waitForEvent("download");
        await page.click("#wl-write-export");
        const file = await (await download).path();
        assert.equal((JSON.parse((await readFile(file, "utf8")).trim()) as { entry: string }).entry, row![2]);

        influx.types.clear();
        await page.click("#wl-write-retry");
        await page.waitForFunction(() => document.querySelector("#wl-write-note")!.textContent === "InfluxDB refused no points.");
        assert.ok([...influx.stored.values()].includes("off"));
        page.on("dialog", (dialog) => void dialog.accept());
        await page.click("#wl-write-discard");
        await page.waitForFunction(() => document.querySelector("#wl-write-note")!.textContent === "InfluxDB refused no points.");
    });
});
