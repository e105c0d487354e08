import { type Browser, chromium } from "playwright-core";

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
