import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, request as httpRequest, Agent } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createHttpClient } from "../../dist/common/http.js";
import type { PointValue, ReadingMessage } from "../../dist/common/reading.js";
import type { Deliver } from "../../dist/store/delivery.js";
import { InfluxSender } from "../../dist/store/influx-sender.js";
import { LineEncoder } from "../../dist/store/line-protocol.js";
import { Outbox } from "../../dist/store/outbox.js";
import { Series } from "../../dist/store/series.js";
import { Spool } from "../../dist/store/spool.js";
import { ManualClock } from "../common/manual-clock.js";
import { until } from "../store/kit.js";
import type { Row } from "./row.js";

const START = Date.UTC(2026, 5, 1);
const DEVICES = 7;
const POINTS = 60;
/** What the spool keeps in memory when the disk fails; the backlog is ten times as much. */
const CAP_BYTES = 8 * 1024 * 1024;
const BATCH = 5000;

/** Figures of spool, outbox and series, with real files below the temporary folder. */
export async function run(quick: boolean): Promise<Row[]> {
    const rows: Row[] = [];
    const folder = mkdtempSync(path.join(tmpdir(), "wl-bench-"));
    const { server, port } = await startNullServer();
    try {
        rows.push(await appendRate(path.join(folder, "rate"), quick ? 60 : 1200));
        rows.push(...(await plantDay(path.join(folder, "day"), quick ? 60 : 1200)));
        rows.push(...(await replay(path.join(folder, "replay"), port, quick ? CAP_BYTES / 8 : 10 * CAP_BYTES)));
        rows.push(await loopDelay(path.join(folder, "loop"), port, quick ? 2000 : 10_000));
    } finally {
        await stop(server);
        rmSync(folder, { recursive: true, force: true });
    }
    return rows;
}

/** Values as a plant gives them: most move a little, some are counters, some stand still. */
class Plant {
    private readonly state = Array.from({ length: DEVICES }, () => Array.from({ length: POINTS }, () => Math.random() * 5000));
    private seq = 0;

    *readings(timestamp: number): Generator<ReadingMessage> {
        this.seq++;
        for (const [d, values] of this.state.entries()) {
            const payload: Record<string, PointValue> = {};
            for (let i = 0; i < POINTS; i++) payload[`point_${i}_w`] = this.next(values, i);
            const reading = { site: "home", device: `device-${d}`, class: "inverter", seq: this.seq, quality: "good" as const };
            yield { topic: `home/device-${d}`, payload, timestamp, reading };
        }
    }

    private next(values: number[], i: number): number {
        if (i % 4 === 0) return Math.round((values[i]! += Math.random() * 20 - 10) * 10) / 10;
        if (i % 4 === 1) return Math.round((values[i]! += Math.random()));
        if (i % 4 === 2) return Math.round((230 + Math.random() * 2) * 100) / 100;
        return Math.round(values[i]!);
    }
}

/** From append to commit and roll-up, at default settings, one sample a second of each device. */
async function appendRate(folder: string, seconds: number): Promise<Row> {
    const clock = new ManualClock(START);
    const series = new Series({ folder, clock });
    await series.ready;
    const plant = new Plant();
    const readings = Array.from({ length: seconds }, (_, s) => [...plant.readings(START + s * 1000)]);
    const started = performance.now();
    for (const [s, second] of readings.entries()) {
        for (const reading of second) series.append(reading);
        clock.advance(1000);
        if (s % 10 === 9) await series.flush();
    }
    await series.flush();
    const rate = (seconds * DEVICES * POINTS * 1000) / (performance.now() - started);
    await series.close();
    return { name: "series: append, commit and roll-up", value: rate, unit: "points/s", target: ">= 50,000", pass: rate >= 50_000 };
}

/** A demo plant, 7 devices of 60 points a second, with a destination that takes everything; the time runs faster, the writes are real. */
async function plantDay(folder: string, seconds: number): Promise<Row[]> {
    const clock = new ManualClock(START);
    // Committed by hand every 10 s, the default, so that its writes are told from the spool's.
    const series = new Series({ folder, clock, commitMs: 1e9 });
    const spool = new Spool({ folder: path.join(folder, "spool"), clock });
    const outbox = new Outbox(spool, "influx", async () => ({ kind: "delivered" }), { clock });
    await Promise.all([series.ready, spool.ready]);
    const plant = new Plant();
    const encoder = new LineEncoder();
    const written = { spool: 0, series: 0, lines: 0 };
    for (let s = 0; s < seconds; s++) {
        const readings = [...plant.readings(clock.now())];
        for (const reading of readings) series.append(reading);
        let before = writtenBytes();
        const kept = readings.map((reading) => {
            const line = encoder.encode(reading);
            written.lines += line.length + 1;
            return spool.append(line, 1);
        });
        clock.advance(1000);
        await Promise.all(kept);
        await until(outbox, () => outbox.stats().state === "idle" && outbox.stats().pendingPoints === 0);
        written.spool += writtenBytes() - before;
        before = writtenBytes();
        if (s % 10 === 9) await series.flush();
        written.series += writtenBytes() - before;
    }
    const before = writtenBytes();
    await outbox.close();
    await spool.close();
    await series.close();
    written.series += writtenBytes() - before;
    const perDay = (bytes: number) => (bytes * 86_400) / seconds / 1e9;
    const amplification = written.spool / written.lines;
    const day = perDay(written.spool + written.series);
    return [
        { name: "outbox: bytes written / line protocol taken, commits of 1 s", value: amplification, unit: "x", target: "<= 1.5", pass: amplification <= 1.5 },
        { name: "spool of the demo plant", value: perDay(written.spool), unit: "GB/day", target: "<= 0.6", pass: perDay(written.spool) <= 0.6 },
        { name: "series of the demo plant", value: perDay(written.series), unit: "GB/day", target: "<= 0.5", pass: perDay(written.series) <= 0.5 },
        { name: "demo plant on disk", value: day, unit: "GB/day", target: "<= 1", pass: day <= 1 },
    ];
}

/** A backlog on disk to a server that only counts, by the real sender; beside it the same bytes over a bare keep-alive socket. */
async function replay(folder: string, port: number, backlogBytes: number): Promise<Row[]> {
    const spool = new Spool({ folder, commitEntries: BATCH });
    await spool.ready;
    await fill(spool, backlogBytes);
    const points = spool.end;
    const bytes = spool.stats().bytes;
    const sender = influx(port);
    const before = process.memoryUsage().rss;
    let peak = before;
    const watched: Deliver = async (records, signal) => {
        const outcome = await sender.deliver(records, signal);
        peak = Math.max(peak, process.memoryUsage().rss);
        return outcome;
    };
    const started = performance.now();
    const outbox = new Outbox(spool, "influx", watched);
    await until(outbox, () => outbox.stats().state === "idle" && outbox.stats().pendingPoints === 0);
    const rate = (points * 1000) / (performance.now() - started);
    if (outbox.stats().delivered !== points) throw new Error(`${outbox.stats().delivered} of ${points} points were delivered`);
    await outbox.close();
    await spool.close();
    const bare = (await bareLoop(port, bytes, (bytes / points) * BATCH)) * (points / bytes);
    const grown = (peak - before) / 1e6;
    return [
        { name: `outbox: replay of ${(bytes / 1e6).toFixed(0)} MB, ${(points / 1e6).toFixed(1)} M points`, value: rate, unit: "points/s", target: ">= 200,000", pass: rate >= 200_000 },
        { name: "outbox: replay / the same bytes over a bare socket", value: rate / bare, unit: "x", target: ">= 0.05", pass: rate / bare >= 0.05 },
        { name: "outbox: memory grown by that replay", value: grown, unit: "MB", target: "<= 64", pass: grown <= 64 },
    ];
}

/** The event loop while 1,000 points a second come in and a backlog is sent to the server on `port`. */
export async function loopDelay(folder: string, port: number, ms: number): Promise<Row> {
    const spool = new Spool({ folder: path.join(folder, "spool") });
    const series = new Series({ folder, commitMs: 1000 });
    await Promise.all([spool.ready, series.ready]);
    await fill(spool, 16 * 1024 * 1024);
    const sender = influx(port);
    // Slow enough to last.
    const outbox = new Outbox(spool, "influx", async (records, signal) => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        return sender.deliver(records, signal);
    });
    const encoder = new LineEncoder();
    const plant = new Plant();
    const delay = monitorEventLoopDelay({ resolution: 5 });
    delay.enable();
    const started = performance.now();
    for (let tick = 1; performance.now() - started < ms; tick++) {
        // 420 points each 420 ms.
        for (const reading of plant.readings(Date.now())) {
            series.append(reading);
            void spool.append(encoder.encode(reading), 1);
        }
        await new Promise((resolve) => setTimeout(resolve, 420));
    }
    delay.disable();
    await outbox.close();
    await Promise.all([spool.close(), series.close()]);
    const p99 = delay.percentile(99) / 1e6 - 5;
    return { name: "event loop delay, 99 %, at 1,000 points/s beside a replay", value: p99, unit: "ms", target: "< 50", pass: p99 < 50 };
}

/** Lines of one value each, 97 bytes as plants write them, until so much is on disk. */
async function fill(spool: Spool, bytes: number): Promise<void> {
    let n = 0;
    while (spool.stats().bytes < bytes) {
        const lines: string[] = [];
        for (let i = 0; i < BATCH; i++, n++) {
            const value = (Math.sin(n / 1000) * 5000 + Math.random() * 10).toFixed(1);
            lines.push(`inverter,device=inverter-${n % 50},site=home ac_power_w=${value},ac_voltage_v=${(230 + Math.random()).toFixed(1)} ${START + n * 20}`);
        }
        await spool.append(lines.join("\n"), BATCH);
    }
}

function influx(port: number): InfluxSender {
    const target = { url: `http://127.0.0.1:${port}`, version: "1" as const, database: "bench", org: "", retentionPolicy: "" };
    return new InfluxSender({ http: createHttpClient(), target });
}

/** Bytes/s of posting `total` bytes in requests of `size`, one in flight. */
async function bareLoop(port: number, total: number, size: number): Promise<number> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const body = Buffer.alloc(Math.round(size), 1);
    const started = performance.now();
    for (let sent = 0; sent < total; sent += body.length) {
        const post = httpRequest({ port, host: "127.0.0.1", method: "POST", agent, headers: { "content-length": body.length } });
        post.end(body);
        const [answer] = (await once(post, "response")) as [NodeJS.ReadableStream];
        answer.resume();
        await once(answer, "end");
    }
    agent.destroy();
    return (total * 1000) / (performance.now() - started);
}

function writtenBytes(): number {
    return Number(/^write_bytes: (\d+)/m.exec(readFileSync("/proc/self/io", "utf8"))![1]);
}

/** A server in a process of its own that takes everything and keeps nothing. */
export async function startNullServer(): Promise<{ server: ChildProcess; port: number }> {
    const server = fork(__filename, ["null-server"]);
    const [port] = (await once(server, "message")) as [number];
    return { server, port };
}

export async function stop(child: ChildProcess): Promise<void> {
    child.kill();
    await once(child, "exit");
}

function nullServer(): void {
    const server = createServer((request, response) => {
        request.resume().once("end", () => response.writeHead(204, { "X-Influxdb-Version": "1.6.7" }).end());
    });
    server.listen(0, "127.0.0.1", () => process.send!((server.address() as AddressInfo).port));
}

if (process.argv[2] === "null-server") nullServer();
