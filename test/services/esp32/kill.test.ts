import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connectAsync, type MqttClient } from "mqtt";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { decodeEntry } from "../../../dist/esp32/entry.js";
import { Spool } from "../../../dist/store/spool.js";
import { makeFolder, readAll, removeFolders } from "../../store/kit.js";
import { Mosquitto } from "../mosquitto.js";
import { spoolOf, startWorker, type WorkerOptions } from "./worker-child.js";

const KILLS = 10;
const DEVICES = 5;

/** A worker process and its lives. */
class Worker {
    private child: ChildProcess | undefined;
    private errors = "";

    constructor(readonly options: WorkerOptions) {}

    /** Resolves once it has kept something, to be killed at any instant from then on. */
    async start(): Promise<void> {
        const child = spawn(process.execPath, [path.join(__dirname, "worker-child.js"), JSON.stringify(this.options)], { stdio: ["ignore", "pipe", "pipe"] });
        this.child = child;
        child.stderr.on("data", (chunk: Buffer) => (this.errors += chunk.toString()));
        await new Promise<void>((resolve, reject) => {
            createInterface({ input: child.stdout }).on("line", (line) => line === "kept" && resolve());
            child.once("exit", (code) => reject(new Error(`the worker ended with ${code}: ${this.errors}`)));
        });
    }

    async kill(): Promise<void> {
        const { child } = this;
        this.child = undefined;
        if (!child || child.exitCode !== null || child.signalCode !== null) return;
        const ended = once(child, "exit");
        child.kill("SIGKILL");
        await ended;
    }

    /** What it has on disk, by device and number. */
    async kept(): Promise<string[]> {
        assert.equal(this.errors, "");
        const spool = new Spool({ folder: spoolOf(this.options.folder), keepAll: true });
        const { entries, damaged } = await readAll(spool);
        assert.equal(damaged, 0);
        await spool.close();
        return entries.flatMap((line) => {
            const entry = decodeEntry(line);
            return entry && "readings" in entry ? entry.readings.map(([, payload]) => `${entry.device} ${entry.seq} ${payload["ac_power_w"]}`) : [];
        });
    }
}

describe("wl-esp32 over MQTT: kill -9", function () {
    this.timeout(60_000);
    let broker: Mosquitto;
    let publisher: MqttClient;
    let workers: Worker[] = [];
    beforeEach(async () => {
        broker = await Mosquitto.start();
        publisher = await connectAsync(broker.url);
    });
    afterEach(async () => {
        for (const worker of workers) await worker.kill();
        workers = [];
        await publisher.endAsync(true);
        await broker.stop();
        await removeFolders();
    });

    /** Devices that send until told; resolves with everything that the broker has taken. */
    async function send(until: AbortSignal): Promise<string[]> {
        const sent: string[] = [];
        await Promise.all(
            Array.from({ length: DEVICES }, async (_, device) => {
                for (let seq = 1; !until.aborted; seq++) {
                    const id = `esp${device}`;
                    const body = { v: 1, id, boot: 1, seq, up: seq * 10, ts: 1_795_000_000_000 + seq * 10, s: [{ up: seq * 10, ac_power_w: seq / 2 }] };
                    sent.push(`${id} ${seq} ${seq / 2}`);
                    await publisher.publishAsync(`wattledger/${id}/data`, JSON.stringify(body), { qos: 1 });
                    await sleep(1);
                }
            }),
        );
        return sent;
    }

    /** Takes what still waits at the broker until all is there, and then what may come beside it. */
    async function drain(count: number): Promise<string[]> {
        for (;;) {
            let kept = 0;
            const stops = await Promise.all(workers.map(({ options }) => startWorker(options, () => kept++)));
            for (let before = -1; kept !== before; await sleep(300)) before = kept;
            for (const stop of stops) await stop();
            const found = (await Promise.all(workers.map((worker) => worker.kept()))).flat().filter((text) => !text.startsWith("probe"));
            if (found.length >= count) return found;
        }
    }

    it(`${KILLS} times while devices send: nothing lost, nothing twice`, async () => {
        const worker = new Worker({ folder: await makeFolder(), url: broker.url, clientId: "wlkill", version: 4 });
        workers.push(worker);
        const done = new AbortController();
        const first = worker.start();
        // The session begins with the first connection: what was sent before is for nobody.
        const probe = setInterval(() => publisher.publish("wattledger/probe/data", JSON.stringify({ v: 1, id: "probe", s: [{ ac_power_w: 1 }] }), { qos: 1 }), 20);
        await first;
        clearInterval(probe);
        const sending = send(done.signal);
        for (let kill = 0; kill < KILLS; kill++) {
            await sleep(Math.random() * 150);
            await worker.kill();
            await worker.start();
        }
        await worker.kill();
        done.abort();
        const sent = await sending;
        const kept = await drain(sent.length);
        assert.ok(sent.length > 100, `${sent.length} sent`);
        assert.equal(new Set(kept).size, kept.length, "one is there twice");
        assert.deepEqual(kept.toSorted(), sent.toSorted());
    });

    it("of two that share the load, in turns: each message is with one of them, once", async () => {
        for (const clientId of ["wlone", "wltwo"]) workers.push(new Worker({ folder: await makeFolder(), url: broker.url, clientId, version: 5, share: "plant" }));
        const probe = setInterval(() => publisher.publish("wattledger/probe/data", JSON.stringify({ v: 1, id: "probe", s: [{ ac_power_w: 1 }] }), { qos: 1 }), 20);
        await Promise.all(workers.map((worker) => worker.start()));
        clearInterval(probe);
        const done = new AbortController();
        const sending = send(done.signal);
        for (let kill = 0; kill < KILLS; kill++) {
            const worker = workers[kill % 2]!;
            await sleep(Math.random() * 100);
            await worker.kill();
            await sleep(Math.random() * 50);
            await worker.start();
        }
        for (const worker of workers) await worker.kill();
        done.abort();
        const sent = await sending;
        const kept = await drain(sent.length);
        assert.equal(new Set(kept).size, kept.length, "one is with both, or twice");
        assert.deepEqual(kept.toSorted(), sent.toSorted());
    });
});
