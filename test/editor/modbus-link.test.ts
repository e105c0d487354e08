import assert from "node:assert/strict";
import type { Browser, Page } from "playwright-core";
import { FaultServer } from "../modbus/fault-server.js";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): (FlowNode & { transport?: string; path?: string; baud?: string; valid?: boolean }) | null };
    editor: { editConfig(name: string, type: string, id: string): void };
}
declare const RED: Editor;

const LIMITS = ["timeoutMs", "gapMs", "connectPauseMs", "maxRegisters", "idleCloseS"];
const SERIAL = ["path", "baud", "parity", "stopBits"];

describe("the dialog of wl-modbus-link", () => {
    let server: FaultServer;
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];

    before(async () => {
        server = await FaultServer.start();
        userDir = await makeUserDir();
        nodeRed = await startNodeRed({
            userDir,
            // As version 0.1.0 saved it: no transport yet.
            flows: [{ id: "link", type: "wl-modbus-link", host: server.host, port: String(server.port) }],
        });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction(() => RED.nodes.node("link"));
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
        await server.stop();
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    const open = async () => {
        await page.evaluate(() => RED.editor.editConfig("", "wl-modbus-link", "link"));
        await page.waitForSelector("#wl-modbus-link-test");
    };
    const save = async () => {
        await page.click("#node-config-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
    };
    const shown = () =>
        page.$$eval("#node-config-dialog-edit-form [id^=node-config-input-]", (fields) =>
            fields.filter((field) => (field as HTMLElement).offsetParent !== null).map((field) => field.id.replace("node-config-input-", "")),
        );

    it("shows a link without a transport as Modbus TCP, and tests it", async () => {
        await open();
        assert.equal(await page.inputValue("#node-config-input-transport"), "tcp");
        await page.click("#wl-modbus-link-test");
        await page.waitForFunction(() => /^connected in \d+ ms$/.test(document.querySelector("#wl-modbus-link-result")!.textContent));
    });

    it("shows the fields of the chosen transport only", async () => {
        const network = ["transport", "host", "port", "name", ...LIMITS];
        const expected = { tcp: [...network, "checkUnit"], rtutcp: network, udp: [...network, "checkUnit"], rtu: ["transport", ...SERIAL, "name", ...LIMITS] };
        for (const [transport, fields] of Object.entries(expected)) {
            await page.selectOption("#node-config-input-transport", transport);
            assert.deepEqual((await shown()).toSorted(), fields.toSorted(), transport);
        }
        await page.waitForFunction(() => document.querySelector("#wl-modbus-link-ports") !== null);
        await shoot(page, "wl-modbus-link-rtu");
    });

    it("says why a serial port cannot be opened", async () => {
        await page.fill("#node-config-input-path", "/dev/ttyNONE7");
        await page.click("#wl-modbus-link-test");
        await page.waitForSelector("#wl-modbus-link-result.wl-error");
        assert.equal(
            await page.textContent("#wl-modbus-link-result"),
            "No connection to serial port /dev/ttyNONE7: there is no such port; check the cable and the path.",
        );
    });

    it("keeps a serial port without a host, and says that UDP proves nothing", async () => {
        await page.selectOption("#node-config-input-transport", "tcp");
        await page.fill("#node-config-input-host", "");
        await page.selectOption("#node-config-input-transport", "rtu");
        await save();
        await open();
        assert.equal(await page.inputValue("#node-config-input-transport"), "rtu");
        assert.equal(await page.inputValue("#node-config-input-path"), "/dev/ttyNONE7");
        const saved = await page.evaluate(() => {
            const { transport, path: port, baud } = RED.nodes.node("link")!;
            return { transport, port, baud };
        });
        assert.deepEqual(saved, { transport: "rtu", port: "/dev/ttyNONE7", baud: "9600" });
        await page.selectOption("#node-config-input-transport", "udp");
        await page.fill("#node-config-input-host", server.host);
        await page.click("#wl-modbus-link-test");
        await page.waitForFunction(() => document.querySelector("#wl-modbus-link-result")!.textContent.startsWith("ready; UDP has no connection"));
    });
});
