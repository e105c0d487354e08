import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, patientPage } from "./browser.js";

interface Editor {
    nodes: { node(id: string): FlowNode | null };
    editor: { edit(node: object): void; editConfig(name: string, type: string, id: string): void };
}
declare const RED: Editor;

const MRV = {
    did: "did:hedera:testnet:device_0.0.1",
    key: "secret-of-the-device",
    hederaAccountKey: "secret-of-the-account",
    policyTag: "iREC",
    didDocument: { verificationMethod: [{ privateKeyBase58: "secret-to-sign-with" }] },
};

describe("the dialogs of Guardian", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    before(async () => {
        userDir = await makeUserDir();
        const probe = createServer().listen(0, "127.0.0.1");
        await once(probe, "listening");
        const { port } = probe.address() as AddressInfo;
        probe.close();
        await once(probe, "close");
        const read = async (name: string) => JSON.parse((await readFile(path.join(root, "examples", "carbon", name), "utf8")).replaceAll("3010", String(port))) as FlowNode[];
        const flows = [...(await read("02 File a report with Guardian.json")), ...(await read("03 Send a report to an external data block.json")).filter(({ type }) => type !== "wl-sim-guardian")];
        nodeRed = await startNodeRed({ userDir, flows });
        browser = await launchBrowser();
        page = await patientPage(await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-US" }));
        await page.goto(nodeRed.url);
        await page.waitForFunction(() => RED.nodes.node("wlextsend0000000") && RED.nodes.node("wlguardianconf"));
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
    });

    it("find the policy by the account, and take over id and fingerprint", async () => {
        await page.evaluate(() => RED.editor.editConfig("", "wl-guardian", "wlguardianconf"));
        await page.waitForSelector("#node-config-input-url");
        assert.equal(await page.isVisible("#wl-guardian-find"), false, "the stand-in needs none");
        await page.selectOption("#node-config-input-server", "guardian");
        await page.fill("#node-config-input-username", "pp");
        await page.fill("#node-config-input-password", "wrong");
        await page.click("#wl-guardian-find");
        await page.waitForSelector("#wl-guardian-result.wl-error");
        assert.match((await page.textContent("#wl-guardian-result"))!, /refuses the login/);
        await page.fill("#node-config-input-password", "stand-in");
        await page.click("#wl-guardian-find");
        await page.waitForSelector("#wl-guardian-found option:nth-child(2)", { state: "attached" });
        assert.match((await page.textContent("#wl-guardian-found"))!, /AMS-I\.D stand-in \(PUBLISH/);
        await page.selectOption("#wl-guardian-found", { index: 1 });
        assert.match(await page.inputValue("#node-config-input-fingerprint"), /^[0-9a-f]{64}$/);
        assert.match((await page.textContent("#wl-guardian-result"))!, /Filing stops when the policy changes/);
        await page.click("#node-config-dialog-cancel");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
    });

    it("take an MRV file as a credential, without the keys that are not needed, and no other file", async () => {
        await page.evaluate(() => RED.editor.edit(RED.nodes.node("wlextsend0000000")!));
        await page.waitForSelector("#wl-guardian-external-choose");
        const choose = (content: string) => page.setInputFiles("#wl-guardian-external-file", { name: "sensor.config.json", mimeType: "application/json", buffer: Buffer.from(content) });
        await choose("{}");
        await page.waitForSelector("#wl-guardian-external-note.wl-error");
        await choose(JSON.stringify(MRV));
        await page.waitForFunction(() => document.querySelector("#wl-guardian-external-note")!.textContent.includes("iREC"));
        const kept = await page.inputValue("#node-input-mrv");
        assert.match(kept, /secret-to-sign-with/);
        assert.doesNotMatch(kept, /secret-of-the/);
        assert.equal(await page.getAttribute("#node-input-mrv", "type"), "password");
        await page.click("#node-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
        const saved = page.waitForResponse((response) => response.url().endsWith("/flows") && response.request().method() === "POST");
        await page.click("#red-ui-header-button-deploy");
        await saved;
        assert.doesNotMatch(JSON.stringify(await (await fetch(`${nodeRed.url}/flows`)).json()), /secret/);
    });
});
