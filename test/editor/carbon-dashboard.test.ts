import assert from "node:assert/strict";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { makeDir, removeDir, root, type Running, start } from "../node-red.js";
import { launchBrowser, patientPage, screenshots } from "./browser.js";
import { weakText } from "./contrast.js";

const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WL|INFLUX)_/.test(name)));
const CONFIG = {
    guardian: { base_url: "https://guardianservice.app/api/v1", username: "your_username", password: "hush-hush", tenant_id: "your_tenant_id" },
    ams_id_policy: { policy_id: "68d69341152381fe552b21ec", policy_tag: "Tag_1758892814008" },
    aggregation: { interval_hours: 12, min_data_points: 10, check_interval_minutes: 60 },
    esp32: { data_interval_seconds: 600 },
};

describe("the dashboard of npm start -- carbon", () => {
    let userDir: string;
    let demo: Running & { url: string };
    let browser: Browser;
    let context: BrowserContext;
    let page: Page;
    let faults: string[];

    before(async () => {
        await mkdir(screenshots, { recursive: true });
        userDir = await makeDir("wl-carbon-page-");
        const config = path.join(userDir, "ams_config.json");
        await writeFile(config, JSON.stringify(CONFIG));
        demo = { ...start([path.join(root, "flows/start.mjs"), "carbon", "--user-dir", userDir, "--port", "0", "--config", config], userDir, clean), url: "" };
        await demo.logged(/Ctrl\+C stops it/);
        demo.url = /Dashboard +(\S+)/.exec(demo.log())![1]!;
        browser = await launchBrowser();
    });
    after(async () => {
        await browser.close();
        assert.equal(await demo.stop(), 0);
        await removeDir(userDir);
    });
    afterEach(async () => {
        await context.close();
        assert.deepEqual(faults, []);
    });

    async function open(width: number, colorScheme: "light" | "dark" = "light"): Promise<void> {
        context = await browser.newContext({ viewport: { width, height: 1300 }, colorScheme });
        page = await patientPage(context);
        faults = [];
        page.on("pageerror", (error) => faults.push(String(error.stack ?? error)));
        page.on("console", (message) => {
            if (message.type() === "error") faults.push(`${message.text()} ${message.location().url}`);
        });
        await page.goto(demo.url);
        await page.locator("[data-tile=energy]").waitFor();
    }

    const tile = async (id: string) => (await page.locator(`[data-tile=${id}] .wl-tile-value`).textContent()) ?? "";

    it("takes the settings of an ams_config.json, and no secret to a file or the console", async () => {
        assert.match(demo.log(), /ams_config\.json sets WL_INTERVAL_HOURS, WL_MIN_POINTS, WL_CHECK_MINUTES, WL_SAMPLE_S, WL_GUARDIAN_URL, WL_GUARDIAN_USERNAME, WL_GUARDIAN_PASSWORD, WL_GUARDIAN_TENANT, WL_GUARDIAN_POLICY/);
        assert.match(demo.log(), /used with WL_GUARDIAN_SERVER=guardian; without it the stand-in is/);
        assert.doesNotMatch(demo.log(), /hush/);
        for (const name of (await readdir(userDir)).filter((file) => /^(flows|\.config|credential)/.test(file))) {
            const text = await readFile(path.join(userDir, name), "utf8").catch(() => "");
            assert.doesNotMatch(text, /hush/, name);
        }
        await open(1280);
    });

    it("takes nothing from a device without a key", async () => {
        const { origin } = new URL(demo.url);
        const body = JSON.stringify({ v: 1, id: "sim-esp32-1", boot: 1, seq: 1, up: 1, s: [{ up: 1, ac_energy_export_wh: 1e9 }] });
        const { status } = await fetch(`${origin}/wattledger/esp32`, { method: "POST", headers: { "content-type": "application/json" }, body });
        assert.equal(status, 401);
        await open(1280);
    });

    it("goes from ESP32 samples to a report that could be filed, and verifies it at a click", async () => {
        await open(1280);
        await page.locator("[data-report].wl-level-good").waitFor();
        for (const id of ["energy", "reduction", "credits", "claimed", "pending", "capacity", "rate", "coverage"]) await page.waitForFunction((key) => /^\d/.test(document.querySelector(`[data-tile=${key}] .wl-tile-value`)?.textContent ?? ""), id);
        assert.match(await tile("rate"), /^100\.0%$/);
        const report = page.locator("[data-report]");
        assert.match(await report.innerText(), /simulated: stand-in only[^]*dry run: it could be filed[^]*Project\s+Validated/);
        // Half days, as the file says.
        await page.locator("[data-interval]").nth(3).waitFor();
        assert.match((await page.locator("[data-interval]").allTextContents()).join(" "), / 12:00/);
        assert.ok((await page.locator("[data-deduction]").count()) > 0);
        await page.locator("[data-device=sim-esp32-3]", { hasText: "signed, simulated" }).waitFor();
        await page.getByRole("button", { name: "Verify the evidence" }).click();
        const verdict = page.locator("[data-verdict]");
        await verdict.waitFor();
        assert.match(await verdict.innerText(), /^VERIFIED report \d+/);
        for (const check of ["form", "root", "signatures", "report", "ledger"]) assert.match(await verdict.innerText(), new RegExp(`ok ${check} `));
    });

    it("shows that changed evidence is refuted", async () => {
        await open(1280);
        const folder = path.join(userDir, "wattledger/carbon/evidence");
        for (const name of (await readdir(folder)).filter((file) => file.endsWith(".capsule"))) {
            const file = path.join(folder, name);
            await writeFile(file, (await readFile(file, "utf8")).replace(/"exportWh":(\d+)/, (_, wh: string) => `"exportWh":${Number(wh) + 1}`));
        }
        await page.getByRole("button", { name: "Verify the evidence" }).click();
        await page.locator("[data-verdict]", { hasText: "REFUTED" }).waitFor();
        assert.match(await page.locator("[data-verdict]").innerText(), /FAIL signatures/);
    });

    for (const colorScheme of ["light", "dark"] as const) {
        it(`is readable in the ${colorScheme}, on a desktop and on a phone`, async () => {
            for (const width of [1280, 390]) {
                await open(width, colorScheme);
                await page.locator("[data-deduction]").first().waitFor();
                assert.deepEqual(await page.evaluate(weakText), []);
                assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width, `wider than ${width}`);
                await page.screenshot({ path: path.join(screenshots, `carbon ${colorScheme} ${width}.png`), fullPage: true });
                if (width === 1280) await context.close();
            }
        });
    }
});
