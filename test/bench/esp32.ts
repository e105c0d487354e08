import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HttpDoor } from "../../dist/esp32/http.js";
import { Ingest } from "../../dist/esp32/ingest.js";
import { DeviceKeys } from "../../dist/esp32/keys.js";
import { native } from "../../dist/esp32/presets/native.js";
import { makeDir, makeUserDir, removeDir, startNodeRed } from "../node-red.js";
import type { Row } from "./row.js";

const PATH = "/wattledger/esp32";
const KEY = "bench-key";

/** What a process of its own sends. */
interface Load {
    port: number;
    connections: number;
    keepAlive: boolean;
    ms: number;
    /** Messages a second of all together; as many as are answered where absent. */
    ratePerS?: number;
    samples: number;
}

interface Answers {
    /** Answered with 200, and with anything else. */
    kept: number;
    other: number;
    ms: number;
    /** Of an answer, ms. */
    p99: number;
}

export async function run(quick: boolean): Promise<Row[]> {
    return [...(await http(quick)), await loopDelay(quick)];
}

/** Devices post to a Node-RED with the node and a flow that counts behind it; each answer says that the message is on disk. */
async function http(quick: boolean): Promise<Row[]> {
    const userDir = await makeUserDir();
    const place = { z: "tab", x: 100, y: 100 };
    const nodeRed = await startNodeRed({
        userDir,
        flows: [
            { id: "tab", type: "tab", label: "t" },
            { id: "site", type: "wl-site", siteId: "bench" },
            { id: "store", type: "wl-store", folder: "data" },
            { id: "esp32", type: "wl-esp32", ...place, site: "site", store: "store", devices: [{ device: "esp*" }], ratePerS: 10_000, burst: 100_000, wires: [["count"], []] },
            { id: "count", type: "function", ...place, func: "context.set('n', (context.get('n') || 0) + 1);", outputs: 0, wires: [] },
        ],
        credentials: { esp32: { keys: JSON.stringify({ "esp*": KEY }) } },
    });
    try {
        const port = Number(new URL(nodeRed.url).port);
        const ms = quick ? 500 : 10_000;
        await send({ port, connections: 64, keepAlive: true, ms: quick ? 200 : 3000, samples: 1 });
        const kept = await send({ port, connections: 64, keepAlive: true, ms, samples: 1 });
        const few = await send({ port, connections: 8, keepAlive: true, ms, samples: 1 });
        const single = await send({ port, connections: 64, keepAlive: false, ms, samples: 1 });
        const batches = await send({ port, connections: 16, keepAlive: true, ms, samples: 50 });
        const rate = (answers: Answers) => (answers.kept * 1000) / answers.ms;
        return [
            { name: "esp32: durable requests over HTTP, 64 keep-alive connections, through Node-RED", value: rate(kept), unit: "requests/s", target: ">= 3,000", pass: rate(kept) >= 3000 },
            { name: "esp32: answer, 99 of 100 at that load", value: kept.p99, unit: "ms", target: "<= 100", pass: kept.p99 <= 100 },
            { name: "esp32: the same with 8 connections", value: rate(few), unit: "requests/s", target: ">= 500", pass: rate(few) >= 500 },
            { name: "esp32: the same with a new connection for each", value: rate(single), unit: "requests/s", target: ">= 500", pass: rate(single) >= 500 },
            { name: "esp32: samples in messages of 50", value: rate(batches) * 50, unit: "samples/s", target: ">= 10,000", pass: rate(batches) * 50 >= 10_000 },
        ];
    } finally {
        await nodeRed.stop();
        await removeDir(userDir);
    }
}

/** The event loop of ingest while 100 devices post ten points once a second. */
async function loopDelay(quick: boolean): Promise<Row> {
    const folder = await makeDir("wl-bench-");
    const ingest = new Ingest({ folder: path.join(folder, "ingest"), site: "bench", onReading: () => undefined });
    ingest.start();
    await ingest.ready;
    const door = new HttpDoor({ ingest, keys: new DeviceKeys([{ device: "esp*", secret: KEY }]), decoder: native.createDecoder({ prefix: "", zone: "UTC" }), below: {} });
    const server = createServer((request, response) => door.handle(request, response, ""));
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
        const delay = monitorEventLoopDelay({ resolution: 5 });
        delay.enable();
        const { kept, other, ms } = await send({ port: (server.address() as AddressInfo).port, connections: 100, keepAlive: true, ms: quick ? 1000 : 15_000, ratePerS: 100, samples: 10 });
        delay.disable();
        if (other > 0 || kept === 0) throw new Error(`${other} of ${kept + other} requests were refused`);
        const p99 = delay.percentile(99) / 1e6 - 5;
        return { name: `esp32: event loop delay p99 at ${Math.round((kept * 10_000) / ms).toLocaleString("en-US")} points/s`, value: p99, unit: "ms", target: "< 50", pass: p99 < 50 };
    } finally {
        server.closeAllConnections();
        server.close();
        await ingest.close();
        await removeDir(folder);
    }
}

/** Sends a load from another process. */
async function send(load: Load): Promise<Answers> {
    const child: ChildProcess = fork(__filename, [JSON.stringify(load)]);
    const [answers] = (await once(child, "message")) as [Answers];
    await once(child, "exit");
    return answers;
}

/** Each connection has a device of its own, which sends its next message when the one before is answered, or due. */
async function sendAll({ port, connections, keepAlive, ms, ratePerS, samples }: Load): Promise<Answers> {
    const boot = Math.floor(Date.now() / 1000);
    const end = performance.now() + ms;
    const times: number[] = [];
    let other = 0;
    const one = async (n: number): Promise<void> => {
        const gap = ratePerS === undefined ? 0 : (connections * 1000) / ratePerS;
        let due = performance.now() + (gap * n) / connections;
        let socket: Wire | undefined;
        for (let seq = 1; performance.now() < end; seq++) {
            if (gap > 0) {
                await sleep(Math.max(0, due - performance.now()));
                due += gap;
            }
            const list = Array.from({ length: samples }, (_, i) => ({ up: seq * 1000 + i, ac_power_w: 1000 + i }));
            const body = JSON.stringify({ v: 1, id: `esp${n}`, boot, seq, up: seq * 1000 + samples, s: list });
            const started = performance.now();
            socket ??= await Wire.open(port);
            const status = await socket.ask(
                `POST ${PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer ${KEY}\r\nContent-Type: application/json\r\n${keepAlive ? "" : "Connection: close\r\n"}Content-Length: ${body.length}\r\n\r\n${body}`,
            );
            if (status === 200) times.push(performance.now() - started);
            else other++;
            if (!keepAlive) socket = undefined;
        }
        socket?.end();
    };
    const started = performance.now();
    await Promise.all(Array.from({ length: connections }, (_, n) => one(n)));
    const sorted = times.toSorted((a, b) => a - b);
    const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? 0;
    return { kept: times.length, other, ms: performance.now() - started, p99: at(0.99) };
}

/** One request after the other on a socket, with as little work as possible beside. */
class Wire {
    private answered: ((status: number) => void) | undefined;

    private constructor(private readonly socket: ReturnType<typeof connect>) {
        socket.setNoDelay(true).on("error", () => this.answered?.(0)).on("close", () => this.answered?.(0));
        socket.on("data", (chunk) => this.answered?.(Number(chunk.subarray(9, 12).toString("latin1"))));
    }

    static async open(port: number): Promise<Wire> {
        const socket = connect(port, "127.0.0.1");
        await once(socket, "connect");
        return new Wire(socket);
    }

    ask(request: string): Promise<number> {
        return new Promise((resolve) => {
            this.answered = (status) => {
                this.answered = undefined;
                resolve(status);
            };
            this.socket.write(request);
        });
    }

    end(): void {
        this.socket.destroy();
    }
}

if (require.main === module) {
    void sendAll(JSON.parse(process.argv[2]!) as Load).then((answers) => process.send!(answers, () => process.disconnect()));
}
