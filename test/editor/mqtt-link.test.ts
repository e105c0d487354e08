import assert from "node:assert/strict";
import type { Browser, Page } from "playwright-core";
import { TestBroker } from "../mqtt/broker.js";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import type { FlowNode } from "../package/source.js";
import { launchBrowser, openEditor, shoot } from "./browser.js";

interface Editor {
    nodes: { node(id: string): (FlowNode & { url?: string; credentials?: Record<string, string>; valid?: boolean }) | null };
    editor: { editConfig(name: string, type: string, id: string): void };
}
declare const RED: Editor;

const TLS = ["ca", "cert", "key", "serverName", "insecure"];
const ALWAYS = ["url", "version", "username", "password", "name", "clientId", "keepAliveS", "inFlight", "maxKb", "clean"];

describe("the dialog of wl-mqtt-link", () => {
    let broker: TestBroker;
    let userDir: string;
    let nodeRed: NodeRed;
    let browser: Browser;
    let page: Page;
    let faults: string[];

    before(async () => {
        broker = await TestBroker.start({
            authenticate: (_client, user, password, done) => {
                const isRight = user === "meter" && password?.toString() === "stored";
                done(isRight ? null : Object.assign(new Error("no"), { returnCode: 4 }), isRight);
            },
        });
        userDir = await makeUserDir();
        nodeRed = await startNodeRed({
            userDir,
            flows: [{ id: "a1b2c3d4e5f60718", type: "wl-mqtt-link", url: broker.url, version: "4" }],
            credentials: { a1b2c3d4e5f60718: { username: "meter", password: "stored" } },
        });
        browser = await launchBrowser();
        ({ page, faults } = await openEditor(browser, nodeRed.url));
        await page.waitForFunction(() => RED.nodes.node("a1b2c3d4e5f60718"));
        await page.evaluate(() => RED.editor.editConfig("", "wl-mqtt-link", "a1b2c3d4e5f60718"));
        await page.waitForSelector("#wl-mqtt-link-test");
    });
    after(async () => {
        await browser.close();
        await nodeRed.stop();
        await removeDir(userDir);
        await broker.stop();
    });
    afterEach(() => assert.deepEqual(faults.splice(0), []));

    const shown = () =>
        page.$$eval("#node-config-dialog-edit-form [id^=node-config-input-]", (fields) =>
            fields.filter((field) => (field as HTMLElement).offsetParent !== null).map((field) => field.id.replace("node-config-input-", "")),
        );
    const result = (pattern: string) => page.waitForFunction((text) => new RegExp(text).test(document.querySelector("#wl-mqtt-link-result")!.textContent), pattern);

    it("tests the connection with the stored password, and says what is wrong", async () => {
        await page.click("#wl-mqtt-link-test");
        await result("^Connected in \\d+ ms\\.$");
        assert.equal(await page.getAttribute("#node-config-input-clientId", "placeholder"), "wla1b2c3d4e5f60718");
        await page.fill("#node-config-input-username", "other");
        await page.click("#wl-mqtt-link-test");
        await result("refused user and password: check them in the MQTT link");
        await page.fill("#node-config-input-url", "http://broker");
        await page.click("#wl-mqtt-link-test");
        await result("url must look like mqtt://");
        await page.waitForSelector("#wl-mqtt-link-result.wl-error");
    });

    it("shows what is needed: certificates with TLS, the session's time with MQTT 5", async () => {
        await page.fill("#node-config-input-url", broker.url);
        assert.deepEqual((await shown()).toSorted(), ALWAYS.toSorted());
        await page.selectOption("#node-config-input-version", "5");
        assert.deepEqual((await shown()).toSorted(), [...ALWAYS, "sessionExpiryH"].toSorted());
        await shoot(page, "wl-mqtt-link");
        await page.fill("#node-config-input-url", "mqtts://broker.example:8883");
        assert.deepEqual((await shown()).toSorted(), [...ALWAYS, ...TLS, "sessionExpiryH"].toSorted());
        await page.fill("#node-config-input-key", "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----");
        await shoot(page, "wl-mqtt-link-tls");
        await page.check("#node-config-input-clean");
        assert.ok(!(await shown()).includes("sessionExpiryH"));
        await page.uncheck("#node-config-input-clean");
    });

    it("keeps what was entered, and the key as a credential only", async () => {
        await page.click("#node-config-dialog-ok");
        await page.waitForSelector(".red-ui-tray", { state: "detached" });
        const node = await page.evaluate(() => {
            const { url, valid, credentials } = RED.nodes.node("a1b2c3d4e5f60718")!;
            return { url, valid, key: credentials?.["key"], whole: Object.keys(RED.nodes.node("a1b2c3d4e5f60718")!) };
        });
        assert.deepEqual([node.url, node.valid, node.whole.includes("key")], ["mqtts://broker.example:8883", true, false]);
        assert.match(node.key ?? "", /^-----BEGIN PRIVATE KEY-----\n.*\n-----END/s);
    });
});
