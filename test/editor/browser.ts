import path from "node:path";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { nodeRedPackage, root } from "../node-red.js";

/** Pictures for a person to look at. */
export const screenshots = path.join(root, ".ci", "work", "screenshots", nodeRedPackage);

/** The system's Chromium, without what would ask hosts outside. It keeps nothing: every start has a profile of its own. */
export function launchBrowser(): Promise<Browser> {
    return chromium.launch({
        executablePath: "/usr/bin/chromium",
        args: [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ],
    });
}

/** A page that is waited for as long as a test may last: other tiers may have the processors. */
export async function patientPage(context: BrowserContext): Promise<Page> {
    const page = await context.newPage();
    page.setDefaultTimeout(110_000);
    return page;
}

/** Node-RED's editor in a profile of its own; `faults` takes what its scripts throw and the console calls an error. */
export async function openEditor(browser: Browser, url: string, viewport = { width: 1280, height: 900 }): Promise<{ page: Page; faults: string[] }> {
    const context = await browser.newContext({ viewport, colorScheme: "light", locale: "en-US" });
    // Node-RED 5 has a dark theme too; here it follows what the browser prefers.
    await context.addInitScript(() => localStorage.setItem("view-dark-theme", "auto"));
    const page = await patientPage(context);
    const faults: string[] = [];
    page.on("pageerror", (error) => faults.push(String(error.stack ?? error)));
    page.on("console", (message) => {
        // A button that is refused says so in its dialog, which its test reads.
        if (message.type() === "error" && !message.location().url.includes("/wattledger/")) faults.push(`${message.text()} ${message.location().url}`);
    });
    await page.goto(url);
    return { page, faults };
}

/** `<name>-light.png`, and `-dark.png` where the editor has a dark theme. */
export async function shoot(page: Page, name: string): Promise<void> {
    for (const scheme of nodeRedPackage === "node-red" ? (["light"] as const) : (["light", "dark"] as const)) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.screenshot({ path: path.join(screenshots, `${name}-${scheme}.png`) });
    }
    await page.emulateMedia({ colorScheme: "light" });
}
