import assert from "node:assert/strict";
import path from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { Store } from "../../dist/store/store.js";
import { makeDir, removeDir, root, type Running, start } from "../node-red.js";
import { launchBrowser, patientPage, screenshots } from "./browser.js";
import { weakText } from "./contrast.js";

const MINUTE = 60_000;
const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WL|INFLUX)_/.test(name)));

/** A zone where it is about noon, so that "today" is hours long whenever the test runs. */
function noonZone(): string {
    const east = 12 - new Date().getUTCHours();
    return east === 0 ? "Etc/GMT" : `Etc/GMT${east > 0 ? "-" : "+"}${Math.abs(east)}`;
}

async function startDemo(userDir: string, args: string[] = [], env: Record<string, string> = {}): Promise<Running & { url: string }> {
    const demo = start([path.join(root, "flows/start.mjs"), "--user-dir", userDir, "--port", "0", ...args], userDir, { ...clean, WL_ZONE: noonZone(), ...env });
    await demo.logged(/Ctrl\+C stops it/);
    return { ...demo, url: /Dashboard +(\S+)/.exec(demo.log())![1]! };
}

/** What an earlier run kept: two hours of a plant at 5 kW, one sample a minute. */
async function keepThePast(userDir: string): Promise<void> {
    const store = new Store({ folder: path.join(userDir, "wattledger") });
    const end = Math.floor(Date.now() / MINUTE) * MINUTE;
    for (let i = 120; i > 0; i--) {
        const sample = (device: string, kind: string, payload: Record<string, number>) =>
            assert.ok(store.series.append({ payload, timestamp: end - i * MINUTE, reading: { site: "demo", device, class: kind } }));
        sample("inverter-a", "inverter", { ac_power_w: 3000 });
        sample("inverter-b", "inverter", { ac_power_w: 2000 });
        sample("meter", "meter", { ac_power_w: -1000 });
        sample("battery", "battery", { dc_power_w: -500, soc_pct: 50 });
        sample("weather", "weather", { irradiance_poa_w_m2: 600 });
        sample("tracker", "tracker", { tracker1_elevation_deg: 40 });
    }
    await store.close();
}

describe("the dashboard of npm start", () => {
    let userDir: string;
    let demo: Running & { url: string };
    let browser: Browser;
    let context: BrowserContext;
    let page: Page;
    let faults: string[];
    const begun = Date.now();

    before(async () => {
        userDir = await makeDir("wl-dashboard-");
        await keepThePast(userDir);
        demo = await startDemo(userDir);
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

    async function open(options: { width: number; dark?: boolean; login?: { username: string; password: string } }): Promise<void> {
        const { width, dark, login } = options;
        context = await browser.newContext({ viewport: { width, height: 1500 }, colorScheme: dark ? "dark" : "light", ...(login && { httpCredentials: login }) });
        page = await patientPage(context);
        faults = [];
        page.on("pageerror", (error) => faults.push(String(error.stack ?? error)));
        page.on("console", (message) => {
            if (message.type() === "error") faults.push(`${message.text()} ${message.location().url}`);
        });
        page.on("request", (request) => {
            const { protocol, host } = new URL(request.url());
            if (/^(http|ws)s?:$/.test(protocol) && host !== new URL(demo.url).host) faults.push(`asked a foreign host: ${request.url()}`);
        });
        await page.goto(demo.url);
        await page.locator(".wl-device").nth(6).waitFor();
    }

    const tile = (id: string) => page.locator(`[data-tile=${id}] .wl-tile-value`);

    it("shows the flow of energy, six key figures, every device and every value", async () => {
        await open({ width: 1280 });
        for (const id of ["solar", "irradiance", "soc", "energy", "grid", "house"]) await page.waitForFunction((key) => /^\d/.test(document.querySelector(`[data-tile=${key}] .wl-tile-value`)?.textContent ?? ""), id);
        assert.match((await tile("solar").textContent()) ?? "", /^[\d.]+k?W$/);
        assert.match((await page.locator(".wl-flow svg").getAttribute("aria-label")) ?? "", /^Solar [\d.]+ k?W.*Grid [\d.]+ k?W.*House [\d.]+ k?W.*Battery \d+ %/);
        assert.ok((await page.locator(".wl-pulse").count()) >= 2);
        assert.deepEqual((await page.locator(".wl-device-name").allTextContents()).toSorted(), ["battery", "check-meter", "inverter-a", "inverter-b", "meter", "tracker", "weather"]);
        assert.deepEqual(await page.locator(".wl-level-bad").count(), 0);
        assert.match(await page.locator("[data-device=inverter-a]").innerText(), /(now|\d+ s ago)[^]*(MPPT|throttled|starting|sleeping)[^]*inverter · good[^]*no errors/);
        await page.getByText("simulated plant").waitFor();
        assert.ok((await page.locator(".wl-values tbody tr").count()) > 60);
        await page.screenshot({ path: path.join(screenshots, "dashboard light.png"), fullPage: true });
    });

    it("finds values by device and point", async () => {
        await open({ width: 1280 });
        await page.getByLabel("Search device or point").fill("battery soc_pct");
        await page.locator(".wl-values tbody tr").nth(1).waitFor({ state: "detached" });
        assert.match(await page.locator(".wl-values tbody tr").innerText(), /battery\s+SoC soc_pct\s+[\d.]+ %/);
        await page.getByLabel("Search device or point").fill("no such thing");
        await page.getByText("Nothing matches.").waitFor();
    });

    it("takes the day's curve and the last hour's lines from the store after a restart", async () => {
        await open({ width: 1280 });
        const kept = (await (await fetch(new URL("/dashboard/_debug/datastore/plant-w-day", demo.url))).json()) as { payload: { series: string; x: number; y: number } }[];
        const points = (series: string) => kept.map(({ payload }) => payload).filter((point) => point.series === series && point.x < begun - 5 * MINUTE);
        assert.ok(points("Solar").length > 100);
        assert.deepEqual([...new Set(points("Solar").map(({ y }) => y))], [5]);
        assert.deepEqual([...new Set(points("House").map(({ y }) => y))], [3.5]);
        // The curve is drawn: pixels in colour, on a canvas where axes and text are grey.
        await page.waitForFunction(() => {
            const canvas = document.querySelector<HTMLCanvasElement>(".nrdb-ui-chart canvas");
            if (!canvas) return false;
            const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
            let coloured = 0;
            for (let i = 0; i < data.length; i += 4) if (Math.max(data[i]!, data[i + 1]!, data[i + 2]!) - Math.min(data[i]!, data[i + 1]!, data[i + 2]!) > 80) coloured++;
            return coloured > 500;
        });
        for (const id of ["solar", "irradiance", "soc", "grid", "house"]) {
            await page.waitForFunction((key) => (document.querySelector(`[data-tile=${key}] .wl-spark-line`)?.getAttribute("d") ?? "").split("L").length > 50, id);
        }
    });

    for (const dark of [false, true]) {
        it(`is readable in the ${dark ? "dark" : "light"}, on a desktop and on a phone`, async () => {
            for (const width of [1280, 390]) {
                await open({ width, dark });
                assert.deepEqual(await page.evaluate(weakText), []);
                assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width, `wider than ${width}`);
                const lightness = await page.evaluate(() => Number(/\d+/.exec(getComputedStyle(document.querySelector(".nrdb-ui-group .v-card")!).backgroundColor)?.[0]));
                assert.equal(lightness < 128, dark);
                await page.screenshot({ path: path.join(screenshots, `dashboard ${dark ? "dark" : "light"} ${width}.png`), fullPage: true });
                await context.close();
            }
        });
    }

    it("asks for the login where one is set, and works with it", async () => {
        assert.equal(await demo.stop(), 0);
        // bcrypt of "sunshine", cost 4.
        demo = await startDemo(userDir, [], { WL_USER: "installer", WL_PASSWORD_HASH: "$2b$04$VcWeh.7SE0uX//5SFiRYsuvU67dValFElJ6zDxTPF79lYLzdBYXfK" });
        assert.equal((await fetch(demo.url)).status, 401);
        await open({ width: 1280, login: { username: "installer", password: "sunshine" } });
        await page.waitForFunction(() => /^\d/.test(document.querySelector("[data-tile=solar] .wl-tile-value")?.textContent ?? ""));
    });

    it("shows a plant that fell silent as silent, with nothing in the sums", async () => {
        assert.equal(await demo.stop(), 0);
        demo = await startDemo(userDir, ["--fault", "drop"]);
        await open({ width: 1280 });
        await page.waitForFunction(() => document.querySelectorAll(".wl-level-bad").length === 7);
        assert.match((await tile("solar").textContent()) ?? "", /^–/);
        assert.match((await tile("house").textContent()) ?? "", /^–/);
    });
});
