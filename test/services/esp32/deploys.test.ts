import assert from "node:assert/strict";
import { once } from "node:events";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { Series } from "../../../dist/store/series.js";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../../node-red.js";
import type { FlowNode } from "../../package/source.js";

const START = Date.now() - 3_600_000;

describe("what a device was told is kept", function () {
    this.timeout(120_000);
    let userDir: string;
    let nodeRed: NodeRed;
    const acknowledged = new Set<number>();
    const over = new AbortController();
    let seq = 0;

    /** @param name Of wl-write, so that it is another one. */
    const flow = (name: string): FlowNode[] => [
        { id: "tab", type: "tab", label: "t" },
        { id: "site", type: "wl-site", siteId: "home", zone: "UTC" },
        { id: "store", type: "wl-store", folder: "data" },
        { id: "esp", type: "wl-esp32", z: "tab", x: 0, y: 0, site: "site", store: "store", preset: "native", http: true, path: "esp32", anonymous: true, ratePerS: "1000", burst: "1000", wires: [["write"], []] },
        { id: "write", type: "wl-write", z: "tab", x: 0, y: 0, store: "store", name, wires: [["told"], []] },
        { id: "told", type: "debug", z: "tab", x: 0, y: 0, active: true, console: true, tosidebar: false, complete: "timestamp", targetType: "msg", wires: [] },
    ] as FlowNode[];

    before(async () => {
        userDir = await makeUserDir();
        nodeRed = await startNodeRed({ userDir, flows: flow("0") });
    });
    after(async () => {
        over.abort();
        await nodeRed.stop();
        await removeDir(userDir);
    });

    /** Sends one message after the other, each until it is acknowledged, as a device does. */
    async function send(): Promise<void> {
        while (!over.signal.aborted) {
            const number = ++seq;
            const body = JSON.stringify({ v: 1, id: "esp1", boot: 1, seq: number, s: [{ ts: START + number, ac_power_w: number }] });
            for (;;) {
                const status = await fetch(`${nodeRed.url}/esp32`, { method: "POST", body }).then((answer) => answer.text().then(() => answer.status), () => 0);
                if (status === 200) break;
                if (over.signal.aborted) return;
                await pause(20);
            }
            acknowledged.add(number);
        }
    }

    async function deploy(type: string, name: string): Promise<void> {
        const headers = { "content-type": "application/json", "node-red-deployment-type": type };
        assert.equal((await fetch(`${nodeRed.url}/flows`, { method: "POST", headers, body: JSON.stringify(flow(name)) })).status, 204);
    }

    it("in the store, whatever is deployed, stopped or killed while it sends", async () => {
        const senders = [send(), send(), send()];
        const more = async () => {
            const enough = acknowledged.size + 100;
            while (acknowledged.size < enough) await pause(5);
        };
        for (let i = 0; i < 4; i++) {
            await more();
            await deploy("full", `full ${i}`);
            await more();
            await deploy("nodes", `changed ${i}`);
        }
        for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
            await more();
            const gone = once(nodeRed.process, "exit");
            nodeRed.process.kill(signal);
            await gone;
            nodeRed = await startNodeRed({ userDir, flows: flow(signal) });
        }
        await more();
        over.abort();
        await Promise.all(senders);
        await nodeRed.stop();
        nodeRed = await startNodeRed({ userDir, flows: flow("last") });
        // In their order: when the last one is through, all are.
        await nodeRed.logged(new RegExp(String(START + Math.max(...acknowledged))));
        await nodeRed.stop();

        const series = new Series({ folder: path.join(userDir, "data") });
        await series.ready;
        const rows = await series.query({ site: "home", device: "esp1", from: START, to: START + seq + 1 });
        await series.close();
        const kept = new Set(rows.map(({ t }) => t - START));
        assert.deepEqual([...acknowledged].filter((number) => !kept.has(number)), []);
        assert.equal(kept.size, rows.length);
    });
});
