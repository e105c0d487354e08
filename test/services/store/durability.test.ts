import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import { InfluxConnection } from "../../../dist/store/influx-connection.js";
import { Store } from "../../../dist/store/store.js";
import { Writer } from "../../../dist/store/writer.js";
import { makeDir, removeDir } from "../../node-red.js";
import { Influxd } from "../influxd.js";
import { numbered, numberOf, type ChildOptions } from "./writer-child.js";

const never = new AbortController().signal;

describe("from reading to InfluxDB 1.x", function () {
    this.timeout(180_000);
    let influxd: Influxd;
    let folder: string;

    beforeEach(async () => {
        folder = await makeDir("wl-durable-");
        influxd = await Influxd.start({ database: "plant" });
    });
    afterEach(async () => {
        await influxd.stop();
        await removeDir(folder);
    });

    function startChild(mode: ChildOptions["mode"], from: number): ChildProcess {
        const options: ChildOptions = { folder, url: influxd.url, database: "plant", mode, from };
        return spawn(process.execPath, [path.join(__dirname, "writer-child.js"), JSON.stringify(options)], { stdio: ["ignore", "pipe", "inherit"] });
    }

    /** Everything stored: number of the reading → its value. Fails on a value that no reading had. */
    async function stored(): Promise<Set<number>> {
        const { results } = await influxd.query('SELECT "ac_power_w", "ac_energy_export_wh", "device" FROM "inverter"', "plant");
        const found = new Set<number>();
        for (const [time, power, energy, device] of (results[0]?.series?.[0]?.values ?? []) as [number, number, number, string][]) {
            const i = numberOf(time);
            assert.deepEqual([power, energy, device], [i * 1.5, i, `inv${i % 7}`]);
            assert.ok(!found.has(i), `reading ${i} is there twice`);
            found.add(i);
        }
        return found;
    }

    it("loses and doubles nothing when the writer is killed 20 times and InfluxDB 4 times", async () => {
        let started = 0;
        const kept: [number, number][] = [];
        for (let run = 0; run < 20; run += 1) {
            const from = started;
            const child = startChild("write", from);
            let text = "";
            let lastKept = from;
            // Killed in the middle of whatever it does once it has kept so much; InfluxDB before it, under load.
            const enough = from + 500 * (1 + (run % 5));
            const strike = async (): Promise<void> => {
                if (run % 5 === 2) {
                    await influxd.kill();
                    await influxd.restart();
                }
                setTimeout(() => child.kill("SIGKILL"), (run * 37) % 150);
            };
            let struck: Promise<void> | undefined;
            child.stdout!.on("data", (chunk: Buffer) => {
                text += chunk.toString();
                started = Math.max(started, ...[...text.matchAll(/starts (\d+)\n/g)].map((match) => Number(match[1])));
                lastKept = Math.max(lastKept, ...[...text.matchAll(/kept (\d+)\n/g)].map((match) => Number(match[1])));
                if (lastKept >= enough) struck ??= strike();
            });
            const [, signal] = (await once(child, "exit")) as [number | null, string | null];
            await struck;
            assert.equal(signal, "SIGKILL");
            kept.push([from, lastKept]);
        }
        const drain = startChild("drain", 0);
        assert.deepEqual(await once(drain, "exit"), [0, null]);
        const found = await stored();
        const missing: number[] = [];
        let acknowledged = 0;
        for (const [from, to] of kept) {
            for (let i = from; i < to; i += 1) {
                acknowledged += 1;
                if (!found.has(i)) missing.push(i);
            }
        }
        assert.ok(acknowledged >= 20 * 500);
        assert.equal(missing.length, 0, `${missing.length} of ${acknowledged} acknowledged readings are missing, ${missing[0]} to ${missing.at(-1)}; the lives of the writer: ${kept.join(" ")}`);
        assert.ok([...found].every((i) => i < started));
    });

    /** Readings kept in this process, with the outbox of a wl-influxdb. */
    function open(url: string): { writer: Writer; store: Store; connection: InfluxConnection; drained: () => Promise<void>; close: () => Promise<void> } {
        const store = new Store({ folder });
        const target = { url, database: "plant", version: "auto", org: "", retentionPolicy: "" } as const;
        const connection = new InfluxConnection({ target, tls: {}, createDatabase: false });
        const outbox = connection.outbox(store, "influxdb");
        return {
            store,
            connection,
            writer: new Writer({ store, outbox }),
            drained: async () => {
                await outbox.spool.flush();
                while (outbox.stats().pendingPoints > 0) {
                    await new Promise<void>((resolve) => {
                        const end = outbox.onChange(() => {
                            end();
                            resolve();
                        });
                    });
                }
            },
            close: async () => {
                await connection.close();
                await store.close();
            },
        };
    }

    it("stores once what is sent again because the acknowledgement was lost", async () => {
        let cuts = 0;
        const sockets = new Set<Socket>();
        const proxy: Server = createServer((client) => {
            const upstream = connect(influxd.port, "127.0.0.1");
            for (const socket of [client, upstream]) {
                sockets.add(socket);
                socket.on("error", () => undefined);
                socket.on("close", () => sockets.delete(socket));
            }
            let isWrite = false;
            client.on("data", (request: Buffer) => {
                isWrite ||= request.toString("latin1").startsWith("POST /write");
                upstream.write(request);
            });
            upstream.on("data", (answer: Buffer) => {
                // Stored by now; the answer to a write never arrives, five times.
                if (isWrite && cuts < 5 && answer.toString("latin1").startsWith("HTTP/1.1 204")) {
                    cuts += 1;
                    client.destroy();
                } else {
                    client.write(answer);
                }
            });
            upstream.on("end", () => client.end());
            client.on("close", () => upstream.destroy());
        }).listen(0, "127.0.0.1");
        await once(proxy, "listening");
        const { writer, drained, close, connection, store } = open(`http://127.0.0.1:${(proxy.address() as { port: number }).port}`);
        const outbox = connection.outbox(store, "influxdb");
        const nudge = setInterval(() => outbox.probe(), 50);
        try {
            await Promise.all(Array.from({ length: 2000 }, (_, i) => writer.write(numbered(i), never)));
            await drained();
            assert.equal(cuts, 5);
            assert.equal((await stored()).size, 2000);
        } finally {
            clearInterval(nudge);
            await close();
            proxy.close();
            for (const socket of sockets) socket.destroy();
        }
    });

    it("replays an outage in order beside live data, in bounded memory", async () => {
        const order: number[] = [];
        const { writer, store, connection, drained, close } = open(influxd.url);
        const outbox = connection.outbox(store, "influxdb");
        try {
            await influxd.stop();
            const backlog = 200_000;
            for (let i = 0; i < backlog; i += 1000) {
                await Promise.all(Array.from({ length: 1000 }, (_, j) => writer.write(numbered(i + j), never)));
            }
            assert.equal(outbox.stats().pendingPoints, backlog);
                const before = process.memoryUsage().rss;
            influxd = await Influxd.start({ database: "plant", port: influxd.port });
            let peak = before;
            let longest = 0;
            let next = backlog;
            const live = setInterval(() => {
                peak = Math.max(peak, process.memoryUsage().rss);
                const stamped = { ...numbered(next), topic: "home/live", timestamp: Date.now(), reading: { ...numbered(next).reading, device: "live", class: "live" } };
                next += 1;
                void writer.write(stamped, never);
            }, 20);
            outbox.probe();
            try {
                while (outbox.stats().pendingPoints > 200) {
                    const { results } = await influxd.query('SELECT last("ac_power_w") FROM "live"', "plant");
                    const last = results[0]?.series?.[0]?.values[0]?.[0] as number | undefined;
                    if (last !== undefined) longest = Math.max(longest, Date.now() - last);
                    const { results: counted } = await influxd.query('SELECT last("ac_power_w") FROM "inverter"', "plant");
                    const newest = counted[0]?.series?.[0]?.values[0]?.[0] as number | undefined;
                    if (newest !== undefined) order.push(numberOf(newest));
                }
            } finally {
                clearInterval(live);
            }
            await drained();
            assert.equal((await stored()).size, backlog);
            assert.deepEqual(order, order.toSorted((a, b) => a - b));
            assert.ok(order.length > 0 && order[0]! < backlog - 1, "the replay could be watched");
            // One second to be committed, and the rest of a delivery that is under way.
            assert.ok(longest < 5000, `live data came ${longest} ms late`);
            assert.ok(peak - before < 100 * 1024 * 1024, `memory grew by ${Math.round((peak - before) / 1e6)} MB`);
        } finally {
            await close();
        }
    });
});
