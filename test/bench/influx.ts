import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { connect } from "node:net";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { promisify } from "node:util";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { InfluxConnection } from "../../dist/store/influx-connection.js";
import { LineEncoder } from "../../dist/store/line-protocol.js";
import { Store } from "../../dist/store/store.js";
import { Writer } from "../../dist/store/writer.js";
import { makeDir, makeUserDir, removeDir, startNodeRed } from "../node-red.js";
import { Influxd } from "../services/influxd.js";
import type { Row } from "./row.js";

const DEVICES = 50;
const POINTS_A_READING = 5;
const BATCH = 5000;
const never = new AbortController().signal;

/**
 * Points into a real InfluxDB 1.x: our whole way beside the same lines, encoded before, over a bare socket; a burst through Node-RED
 * beside node-red-contrib-influxdb; and what both do to the event loop.
 */
export async function run(quick = false): Promise<Row[]> {
    return [...(await endToEnd(quick)), ...(await burst(quick ? 2000 : 20_000)), ...(await eventLoop(quick ? 2 : 10))];
}

/** Reading number i of a plant, each device once a second, as cheap as a source can make it. */
function numbered(i: number, start: number): ReadingMessage {
    const device = `inv${i % DEVICES}`;
    const w = Math.round(40_000 + Math.sin(i / 1000) * 30_000) / 10;
    return {
        topic: `home/${device}`,
        payload: { ac_power_w: w, ac_voltage_v: 230 + (i % 70) / 10, ac_current_a: Math.round(w / 23) / 10, freq_hz: 50 + (i % 9) / 100, ac_energy_export_wh: 812_345 + i },
        timestamp: start + Math.floor(i / DEVICES) * 1000,
        reading: { site: "home", device, class: "inverter", seq: i, quality: "good" },
    };
}

async function endToEnd(quick: boolean): Promise<Row[]> {
    const count = quick ? 20_000 : 300_000;
    const rounds = quick ? 1 : 4;
    const influxd = await Influxd.start();
    const best = { bare: 0, ours: 0, series: 0 };
    try {
        for (let round = 0; round < rounds; round += 1) {
            const turn = async (what: keyof typeof best, seconds: (database: string) => Promise<number>): Promise<void> => {
                await influxd.query(`CREATE DATABASE "${what}"`);
                best[what] = Math.max(best[what], count / (await seconds(what)));
                await influxd.query(`DROP DATABASE "${what}"`);
            };
            await turn("bare", (database) => bareSocket(influxd, database, count));
            await turn("ours", (database) => throughStore(influxd, database, count, false));
            await turn("series", (database) => throughStore(influxd, database, count, true));
        }
    } finally {
        await influxd.stop();
    }
    const ratio = best.ours / best.bare;
    const name = `readings of ${POINTS_A_READING} points into InfluxDB 1.x`;
    return [
        { name: `${name}: encoded before, bare socket`, value: best.bare, unit: "readings/s", target: "", pass: true },
        { name: `${name}: encode, spool, send`, value: best.ours, unit: "readings/s", target: "", pass: true },
        { name: `${name}: ours to bare`, value: ratio, unit: "ratio", target: ">= 0.6", pass: ratio >= 0.6 },
        { name: `${name}: and the local series beside it`, value: best.series, unit: "readings/s", target: "", pass: true },
    ];
}

/** Seconds for lines that were encoded before, in batches over one keep-alive connection: the least any client must do. */
async function bareSocket(influxd: Influxd, database: string, count: number): Promise<number> {
    const encoder = new LineEncoder();
    const start = Date.now() - (count / DEVICES) * 1000;
    const requests: Buffer[] = [];
    for (let i = 0; i < count; i += BATCH) {
        const body = Buffer.from(Array.from({ length: BATCH }, (_, j) => `${encoder.encode(numbered(i + j, start))}\n`).join(""));
        requests.push(Buffer.concat([Buffer.from(`POST /write?db=${database}&precision=ms HTTP/1.1\r\nHost: influxd\r\nContent-Length: ${body.length}\r\n\r\n`), body]));
    }
    const socket = connect(influxd.port, "127.0.0.1");
    await once(socket, "connect");
    socket.setNoDelay(true);
    const began = performance.now();
    for (const request of requests) {
        socket.write(request);
        const [answer] = (await once(socket, "data")) as [Buffer];
        if (!answer.toString().startsWith("HTTP/1.1 204")) throw new Error(answer.toString());
    }
    const seconds = (performance.now() - began) / 1000;
    socket.destroy();
    return seconds;
}

/** Seconds from the first message to the last point in InfluxDB, by the way of wl-write: check, encode, spool on disk, send. */
async function throughStore(influxd: Influxd, database: string, count: number, withSeries: boolean): Promise<number> {
    const folder = await makeDir("wl-bench-");
    const store = new Store({ folder });
    const target = { url: influxd.url, database, version: "auto", org: "", retentionPolicy: "" } as const;
    const connection = new InfluxConnection({ target, tls: {}, createDatabase: false });
    try {
        const outbox = connection.outbox(store, "bench");
        if (!withSeries) store.series.append = () => true;
        const writer = new Writer({ store, outbox });
        await Promise.all([store.spool().ready, store.series.ready]);
        const start = Date.now() - (count / DEVICES) * 1000;
        const began = performance.now();
        let next = 0;
        const source = async (): Promise<void> => {
            while (next < count) {
                const from = next;
                next += 500;
                await Promise.all(Array.from({ length: 500 }, (_, i) => writer.write(numbered(from + i, start), never)));
            }
        };
        await Promise.all(Array.from({ length: 10 }, source));
        await outbox.spool.flush();
        while (outbox.stats().pendingPoints > 0) {
            const { state, reason } = outbox.stats();
            if (state === "paused") throw new Error(reason);
            await new Promise<void>((resolve) => {
                const end = outbox.onChange(() => {
                    end();
                    resolve();
                });
            });
        }
        const seconds = (performance.now() - began) / 1000;
        const { results } = await influxd.query('SELECT count("ac_power_w") FROM "inverter"', database);
        const stored = results[0]?.series?.[0]?.values[0]?.[1];
        if (stored !== count) throw new Error(`${String(stored)} of ${count} readings arrived`);
        return seconds;
    } finally {
        await connection.close();
        await store.close();
        await removeDir(folder);
    }
}

const CONTRIB = "node-red-contrib-influxdb@0.7.0";

async function burst(count: number): Promise<Row[]> {
    const theirs = await contribBurst(count);
    const ours = await ourBurst(count);
    const ratio = ours.rate / theirs.rate;
    return [
        { name: `burst of ${count} messages, ${CONTRIB}`, value: theirs.rate, unit: "messages/s", target: "", pass: true },
        { name: `burst of ${count} messages, ${CONTRIB}: lost`, value: theirs.lost, unit: "messages", target: "", pass: true },
        { name: `burst of ${count} messages, wl-write`, value: ours.rate, unit: "messages/s", target: "", pass: true },
        { name: `burst of ${count} messages: ours to theirs`, value: ratio, unit: "ratio", target: ">= 20", pass: ratio >= 20 },
        { name: `burst of ${count} messages, wl-write: lost`, value: ours.lost, unit: "messages", target: "0", pass: ours.lost === 0 },
    ];
}

interface Burst {
    /** Stored messages a second, from the request that starts the burst to the last point in InfluxDB. */
    rate: number;
    lost: number;
}

async function contribBurst(count: number): Promise<Burst> {
    const userDir = await makeDir("wl-contrib-");
    try {
        await writeFile(path.join(userDir, "package.json"), '{"name":"user-dir","private":true}');
        await promisify(execFile)("npm", ["install", "--no-audit", "--no-fund", CONTRIB], { cwd: userDir });
        const point = "[{ac_power_w: i, ac_voltage_v: 230.1, ac_current_a: 5.2, freq_hz: 50.01, ac_energy_export_wh: 812345 + i, time: new Date(start + i)}, {device: 'inv1', site: 'home'}]";
        return await measure(userDir, count, `{payload: ${point}}`, (port) => [
            { id: "influx", type: "influxdb", hostname: "127.0.0.1", port, protocol: "http", database: "burst", influxdbVersion: "1.x", usetls: false },
            { id: "write", type: "influxdb out", z: "tab", x: 0, y: 0, influxdb: "influx", measurement: "inverter", precision: "ms", retentionPolicy: "", wires: [] },
        ]);
    } finally {
        await removeDir(userDir);
    }
}

async function ourBurst(count: number): Promise<Burst> {
    const userDir = await makeUserDir();
    try {
        const values = "{ac_power_w: i, ac_voltage_v: 230.1, ac_current_a: 5.2, freq_hz: 50.01, ac_energy_export_wh: 812345 + i}";
        const meta = "{site: 'home', device: 'inv1', class: 'inverter', seq: i, quality: 'good'}";
        return await measure(userDir, count, `{topic: 'home/inv1', payload: ${values}, timestamp: start + i, reading: ${meta}}`, (port) => [
            { id: "store", type: "wl-store", folder: "data" },
            { id: "influx", type: "wl-influxdb", url: `http://127.0.0.1:${port}`, version: "auto", database: "burst" },
            { id: "write", type: "wl-write", z: "tab", x: 0, y: 0, store: "store", influxdb: "influx", wires: [[], []] },
        ]);
    } finally {
        await removeDir(userDir);
    }
}

const WARM_UP = 1000;
/** No further point for so long: the rest is lost. */
const GIVE_UP_MS = 15_000;

/** Has a Node-RED send all messages at once to the node `write`, and waits until all are stored or no more come. */
async function measure(userDir: string, count: number, message: string, nodes: (port: number) => object[]): Promise<Burst> {
    const influxd = await Influxd.start({ database: "burst" });
    const place = { z: "tab", x: 0, y: 0 };
    const source = `const start = ${Date.now() - count - WARM_UP}; for (let i = Number(msg.payload.from); i < Number(msg.payload.to); i++) node.send(${message}); return null;`;
    const nodeRed = await startNodeRed({
        userDir,
        flows: [
            { id: "tab", type: "tab", label: "burst" },
            { id: "in", type: "http in", ...place, url: "/burst", method: "get", wires: [["send", "answer"]] },
            { id: "answer", type: "http response", ...place, wires: [] },
            { id: "send", type: "function", ...place, func: source, outputs: 1, wires: [["write"]] },
            { id: "catch", type: "catch", ...place, scope: ["write"], wires: [[]] },
            ...nodes(influxd.port),
        ],
    });
    const stored = async (): Promise<number> => {
        const { results } = await influxd.query('SELECT count("ac_power_w") FROM "inverter"', "burst");
        return (results[0]?.series?.[0]?.values[0]?.[1] as number | undefined) ?? 0;
    };
    try {
        const send = (from: number, to: number): Promise<unknown> => fetch(`${nodeRed.url}/burst?from=${from}&to=${to}`);
        // Both have connected and seen their messages before.
        await send(0, WARM_UP);
        while ((await stored()) < WARM_UP) await new Promise((resolve) => setTimeout(resolve, 25));
        const began = performance.now();
        await send(WARM_UP, WARM_UP + count);
        let [found, at] = [0, began];
        // Promises of node-influx may never settle, so the end is told by points that no longer come.
        while (found < count && performance.now() - at < GIVE_UP_MS) {
            const now = (await stored()) - WARM_UP;
            if (now > found) [found, at] = [now, performance.now()];
            await new Promise((resolve) => setTimeout(resolve, 25));
        }
        return { rate: found / ((at - began) / 1000), lost: count - found };
    } finally {
        await nodeRed.stop();
        await influxd.stop();
    }
}

/** p99 of the event loop's delay while 1,000 points a second come in and a backlog is replayed. */
async function eventLoop(seconds: number): Promise<Row[]> {
    const folder = await makeDir("wl-bench-");
    const influxd = await Influxd.start({ database: "loop" });
    const store = new Store({ folder });
    const target = { url: influxd.url, database: "loop", version: "auto", org: "", retentionPolicy: "" } as const;
    const connection = new InfluxConnection({ target, tls: {}, createDatabase: false });
    try {
        const outbox = connection.outbox(store, "bench");
        await influxd.kill();
        const writer = new Writer({ store, outbox });
        const backlog = seconds * 50_000;
        const start = Date.now() - (backlog / DEVICES) * 1000;
        for (let i = 0; i < backlog; i += 1000) await Promise.all(Array.from({ length: 1000 }, (_, j) => writer.write(numbered(i + j, start), never)));
        await influxd.restart();
        const delay = monitorEventLoopDelay({ resolution: 1 });
        const writes: Promise<unknown>[] = [];
        let next = backlog;
        delay.enable();
        outbox.probe();
        const source = setInterval(() => {
            for (let i = 0; i < 20 / POINTS_A_READING; i += 1) writes.push(writer.write(numbered(next++, start), never));
        }, 20);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
        clearInterval(source);
        delay.disable();
        await Promise.all(writes);
        const p99 = delay.percentile(99) / 1e6;
        return [{ name: "event loop delay p99, 1,000 points/s in and a backlog out", value: p99, unit: "ms", target: "< 50", pass: p99 < 50 }];
    } finally {
        await connection.close();
        await store.close();
        await influxd.stop();
        await removeDir(folder);
    }
}
