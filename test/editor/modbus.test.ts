import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import { METER_MAP } from "../modbus/meter.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): FlowNode | null };
    editor: { edit(node: object): void };
    actions: { invoke(action: string, state?: boolean): void };
}
declare const RED: Editor;

const NODE = "wlmodbus0000node";
/** Reads the same meter, and asks for a register that it does not have. */
const TAUGHT = "wlmodbus000taught";
const REFUSED_MAP = `schema: pointmap/1
id: meter-with-more
class: meter
vendor: Eastron
models: [SDM630]
source: {doc: test/editor, verified: document, date: 2026-11-21}
protocol: modbus
defaults: {table: input, gaps: allow}
points:
  ac_power_w: {address: 52, type: float32, unit: W, sign: import_positive}
  ac_frequency_hz: {address: 70, type: float32, unit: Hz, deadband: {abs: 0.05}}
  cabinet_temperature_c: {address: 90, type: float32, unit: °C}
`;

describe("the dialog of wl-modbus", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];
    before(async () => {
        userDir = await makeUserDir();
        const flows = JSON.parse(await readFile(path.join(root, "examples", "modbus", "01 Read a meter by a map.json"), "utf8")) as FlowNode[];
        const example = flows.find(({ id }) => id === NODE)!;
        nodeRed = await startNodeRed({ userDir, flows: [...flows, { ...example, id: TAUGHT, map: "paste", mapText: REFUSED_MAP, wires: [[]] }] });
        browser = await launchBrowser();
        page = await newPage();
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    async function newPage(viewport?: { width: number; height: number }): Promise<Page> {
        const opened = await openEditor(browser, nodeRed.url, viewport);
        ({ faults } = opened);
        await opened.page.waitForFunction((id) => RED.nodes.node(id), NODE);
        return opened.page;
    }
    const open = async (on = page, node = NODE) => {
        await on.evaluate((id) => RED.editor.edit(RED.nodes.node(id)!), node);
        await on.waitForSelector("#node-input-map optgroup", { state: "attached" });
        await known("", on);
    };
    /** What is said of the map moves what stands behind it, and a click may miss it. */
    const known = (vendor: string, on = page) =>
        on.waitForFunction((name) => {
            const about = document.querySelector("#wl-modbus-about")?.textContent ?? "";
            return about !== "" && about.startsWith(name);
        }, vendor);
    const close = async (button: "ok" | "cancel") => {
        await page.click(`#node-dialog-${button}`);
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
    };
    const text = async (selector: string) => ((await page.textContent(selector)) ?? "").trim();
    const saved = (property: string) => page.evaluate(([id, key]) => RED.nodes.node(id!)![key!], [NODE, property]);
    const picture = (name: string, on = page) => shoot(on, `wl-modbus-${name}`);

    it("offers maps by class, and says what a map is", async () => {
        await open();
        const groups = await page.$$eval("#node-input-map optgroup", (all) => all.map((group) => [group.getAttribute("label"), group.children.length] as const));
        assert.ok(groups.some(([label, count]) => label === "Meters" && count >= 1), JSON.stringify(groups));
        assert.equal(await page.inputValue("#node-input-map"), "eastron-sdm630");
        await known("Eastron");
        assert.match(await text("#wl-modbus-about"), /^Eastron · SDM630-Modbus V2.* · \d+ points · from public projects$/);
        assert.equal(await page.getAttribute("#node-input-units", "placeholder"), "1");
        await close("cancel");
    });

    it("shows the requests, and how they change with the periods", async () => {
        await open();
        await page.waitForSelector("#wl-modbus-plan[open] table, #wl-modbus-plan:not([style*='none'])");
        assert.match(await text("#wl-modbus-plan summary"), /^How it is read: \d+ requests$/);
        await page.click("#wl-modbus-plan summary");
        assert.match(await text("#wl-modbus-plan p"), /^fast, every 1 s: \d+ requests?, \d+ registers, about \d+ ms$/);
        const rows = await page.$$eval("#wl-modbus-plan tr", (lines) => lines.map((line) => [...line.children].map((cell) => cell.textContent)));
        assert.deepEqual(rows[0], ["From", "Length", "ms", "Ends at", "Points"]);
        assert.match(rows[1]![0]!, /^input \d+$/);
        assert.match(rows[1]![4]!, /^ac_voltage_l1_v … ac_frequency_hz \(\d+\)$/);
        await picture("plan");
        await page.fill("#wl-modbus-period-fast", "2");
        await page.dispatchEvent("#wl-modbus-period-fast", "change");
        await page.waitForFunction(() => document.querySelector("#wl-modbus-plan p")?.textContent.startsWith("fast, every 2 s"));
        assert.equal(await page.inputValue("#wl-modbus-period-fast"), "2");
        await close("ok");
        assert.deepEqual(await saved("periods"), { fast: "2" });
    });

    it("shows what the running node has learned, and what is a change by the map", async () => {
        await open(page, TAUGHT);
        await page.check("#node-input-byException");
        assert.equal(await text("#wl-modbus-deadbands"), "The map has a deadband of its own for: ac_frequency_hz 0.05 Hz");
        await page.click("#wl-modbus-plan summary");
        while ((await page.locator("#wl-modbus-learned li").count()) === 0) {
            const asked = page.waitForResponse((response) => response.url().endsWith("/modbus/map"));
            await page.dispatchEvent("#node-input-units", "change");
            await asked;
        }
        assert.match(await text("#wl-modbus-learned li"), /^input 90\.\.91 \(cabinet_temperature_c\) is left out: Unit 10 has no such address/);
        await page.locator("#wl-modbus-learned").scrollIntoViewIfNeeded();
        await picture("learned");
        await close("cancel");
    });

    it("reads the unit that is chosen among several", async () => {
        await open();
        assert.equal(await page.isVisible("#wl-modbus-unit"), false);
        await page.fill("#node-input-units", "10, 11");
        await page.dispatchEvent("#node-input-units", "change");
        await page.waitForSelector("#wl-modbus-unit", { state: "visible" });
        assert.equal(await page.getAttribute("#wl-modbus-unit", "aria-label"), "Unit to look at");
        await page.selectOption("#wl-modbus-unit", "11");
        await page.click("#wl-modbus-preview");
        await page.waitForSelector("#wl-modbus-result.wl-error");
        assert.match(await text("#wl-modbus-result"), /^Unit 11 /);
        await page.selectOption("#wl-modbus-unit", "10");
        await page.click("#wl-modbus-preview");
        await page.waitForFunction(() => document.querySelector("#wl-modbus-result")!.textContent.startsWith("Unit 10: "));
        await picture("units");
        await close("cancel");
    });

    it("reads the device and shows values beside their registers", async () => {
        await open();
        await page.click("#wl-modbus-preview");
        await page.waitForSelector("#wl-modbus-values tr:nth-child(3)");
        assert.match(await text("#wl-modbus-result"), /^Unit 10: \d+ of \d+ points in \d+ ms\.$/);
        const rows = await page.$$eval("#wl-modbus-values tr", (lines) => lines.map((line) => [...line.children].map((cell) => cell.textContent)));
        const voltage = rows.find(([point]) => point === "ac_voltage_l1_v")!;
        assert.match(voltage[1]!, /^2[0-9][0-9](\.\d+)? V$/);
        assert.match(voltage[3]!, /^43[0-9a-f]{2} [0-9a-f]{4}$/);
        assert.equal(voltage[4], "input 0");
        await page.locator("#wl-modbus-values").scrollIntoViewIfNeeded();
        await picture("preview");
        await close("cancel");
    });

    it("says in words why a device cannot be read", async () => {
        await open();
        await page.fill("#node-input-units", "1");
        await page.click("#wl-modbus-preview");
        await page.waitForSelector("#wl-modbus-result.wl-error");
        assert.match(await text("#wl-modbus-result"), /^Unit 1 is no Eastron SDM630-Modbus V2 \(map eastron-sdm630\): it refuses input 70\. Check the unit id and the device map\.$/);
        await close("cancel");
    });

    it("checks a pasted map while it is typed, and leads to the line", async () => {
        await open();
        await page.selectOption("#node-input-map", "paste");
        assert.equal(await page.isVisible("#wl-modbus-plan"), false);
        await page.fill("#node-input-mapText", METER_MAP.trim().replace("type: int32", "type: int33").replace("every: 400ms", "evry: 400ms"));
        await page.waitForSelector("#wl-modbus-faults a");
        const told = await page.$$eval("#wl-modbus-faults div", (lines) => lines.map((line) => line.textContent));
        assert.deepEqual(told.length, 1, told.join("\n"));
        assert.match(told[0]!, /^line 19: groups\.slow: unknown key "evry": did you mean "every"\?$/);
        await picture("fault");
        await page.click("#wl-modbus-faults a");
        const marked = await page.$eval("#node-input-mapText", (area: HTMLTextAreaElement) => area.value.slice(area.selectionStart, area.selectionEnd));
        assert.equal(marked, "  slow: {evry: 400ms}");
        await page.fill("#node-input-mapText", METER_MAP);
        await known("Acme");
        assert.equal(await text("#wl-modbus-faults"), "");
        await page.waitForSelector("#wl-modbus-plan", { state: "visible" });
        await close("ok");
        assert.deepEqual([await saved("map"), await saved("mapText")], ["paste", METER_MAP]);
    });

    it("gives a copy of a map to edit", async () => {
        await open();
        await page.selectOption("#node-input-map", "eastron-sdm630");
        await known("Eastron");
        await page.click("#wl-modbus-copy");
        await page.waitForFunction(() => (document.querySelector("#node-input-map") as HTMLSelectElement).value === "paste");
        assert.match(await page.inputValue("#node-input-mapText"), /^schema: pointmap\/1\nid: eastron-sdm630\n/);
        await known("Eastron");
        await close("cancel");
    });

    it("fits on a phone", async () => {
        const phone = await newPage({ width: 390, height: 844 });
        await phone.evaluate(() => RED.actions.invoke("core:toggle-sidebar", false));
        await phone.evaluate(() => RED.actions.invoke("core:toggle-palette", false));
        await open(phone);
        await phone.waitForSelector("#wl-modbus-plan", { state: "visible" });
        await phone.click("#wl-modbus-plan summary");
        await phone.click("#wl-modbus-preview");
        await phone.waitForSelector("#wl-modbus-values tr:nth-child(3)");
        await picture("phone", phone);
        const over = await phone.$eval("#dialog-form", (form) => form.scrollWidth - form.clientWidth);
        assert.ok(over <= 0, `${over} pixels too wide`);
        await phone.context().close();
    });
});
