import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { makeDir, removeDir, root, start } from "../node-red.js";
import type { Row } from "./row.js";

/** How long `npm start` takes until the first reading of every inverter is on the dashboard: in a new folder, and in one that was used before. */
export async function run(quick = false): Promise<Row[]> {
    const warmStarts = quick ? 1 : 5;
    const userDir = await makeDir("wl-bench-demo-");
    try {
        const first = await firstReading(userDir);
        const warm: number[] = [];
        for (let i = 0; i < warmStarts; i++) warm.push(await firstReading(userDir));
        const median = warm.toSorted((a, b) => a - b)[Math.floor(warm.length / 2)]!;
        return [
            { name: "npm start, new folder: first reading on the dashboard", value: first, unit: "s", target: "", pass: true },
            { name: "npm start, warm: first reading on the dashboard", value: median, unit: "s", target: "<= 5", pass: median <= 5 },
        ];
    } finally {
        await removeDir(userDir);
    }
}

/** Seconds from spawn. */
async function firstReading(userDir: string): Promise<number> {
    const env = { ...process.env, WL_USER: "", WL_HOST: "", INFLUX_URL: "" };
    const before = performance.now();
    const demo = start([path.join(root, "flows/start.mjs"), "--user-dir", userDir, "--port", "0"], userDir, env);
    try {
        await demo.logged(/Dashboard +http/);
        // What a page that is opened now is sent.
        const tiles = new URL("/dashboard/_debug/datastore/plant-w-tiles", /Dashboard +(\S+)/.exec(demo.log())![1]);
        for (;;) {
            const text = await (await fetch(tiles)).text();
            const { payload = [] } = JSON.parse(text || "{}") as { payload?: { id: string; value: string; note: string }[] };
            const solar = payload.find(({ id }) => id === "solar");
            if (solar && solar.value !== "–" && solar.note === "all inverters") return (performance.now() - before) / 1000;
            await sleep(20);
        }
    } finally {
        await demo.stop();
    }
}
