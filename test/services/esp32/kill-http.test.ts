import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { makeFolder, removeFolders } from "../../store/kit.js";

const KILLS = 8;
const DEVICES = 6;

describe("wl-esp32 over HTTP: kill -9", function () {
    this.timeout(60_000);
    let child: ChildProcess | undefined;
    let port = 0;
    let folder = "";
    afterEach(async () => {
        await kill();
        await removeFolders();
    });

    async function start(): Promise<void> {
        child = spawn(process.execPath, [path.join(__dirname, "http-child.js"), path.join(folder, "ingest"), path.join(folder, "handed")], { stdio: ["ignore", "pipe", "inherit"] });
        const [line] = (await Promise.race([once(createInterface({ input: child.stdout! }), "line"), once(child, "exit").then(() => ["0"])])) as [string];
        port = Number(line);
        assert.ok(port > 0, "the process ended");
    }

    async function kill(): Promise<void> {
        const killed = child;
        child = undefined;
        if (!killed || killed.exitCode !== null) return;
        const ended = once(killed, "exit");
        killed.kill("SIGKILL");
        await ended;
    }

    /** Posts until it is answered with 200, as a device does that knows nothing of what became of the last attempt. */
    async function deliver(body: string): Promise<number> {
        for (let attempts = 1; ; attempts++) {
            try {
                const answer = await fetch(`http://127.0.0.1:${port}/`, { method: "POST", body, headers: { authorization: "Bearer key" }, signal: AbortSignal.timeout(5000) });
                const text = await answer.text();
                if (answer.status === 200) return attempts;
                assert.equal(answer.status, 503, text);
            } catch (error) {
                if (error instanceof assert.AssertionError) throw error;
            }
            await sleep(20);
        }
    }

    async function handed(): Promise<string[]> {
        const text = await readFile(path.join(folder, "handed"), "utf8").catch(() => "");
        // A kill may leave half a line, which is handed on again.
        return text.split("\n").slice(0, -1);
    }

    it(`${KILLS} times while devices post: what was answered with 200 reaches the flow, each under one time only`, async () => {
        folder = await makeFolder();
        await start();
        const done = new AbortController();
        let repeated = 0;
        const sent: string[] = [];
        const devices = Array.from({ length: DEVICES }, async (_, n) => {
            const boot = performance.now();
            for (let seq = 1; !done.signal.aborted; seq++) {
                // No clock: its time is that of its arrival less what it counted.
                const up = Math.round(performance.now() - boot) + 1000;
                const value = `esp${n} ${seq * 10}`;
                const attempts = await deliver(JSON.stringify({ v: 1, id: `esp${n}`, boot: 1, seq, up, s: [{ up: up - 500, ac_power_w: seq * 10 }] }));
                repeated += attempts - 1;
                sent.push(value);
            }
        });
        for (let i = 0; i < KILLS; i++) {
            const enough = sent.length + 10 + Math.random() * 60;
            while (sent.length < enough) await sleep(1);
            await kill();
            await start();
        }
        done.abort();
        await Promise.all(devices);
        const wanted = new Set(sent);
        for (;;) {
            const values = new Set((await handed()).map((line) => line.replace(/ \d+ /, " ")));
            if ([...wanted].every((value) => values.has(value))) break;
            await sleep(20);
        }
        await kill();
        const found = new Set(await handed());
        const whole = [...found].filter((line) => /^esp\d \d{13} \d+0$/.test(line));
        assert.ok(sent.length > 100 && repeated > 0, `${sent.length} sent, ${repeated} repeated`);
        assert.equal(whole.length, wanted.size, "a message is there under two times");
    });
});
