import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { ServerTCP } from "modbus-serial";
import { ModbusTcpServer } from "../../dist/simulate/server.js";
import type { Row } from "./row.js";

const BASE = 40_000;
/** Read 125 holding registers from BASE of unit 1. */
const REQUEST = Buffer.from("00010000000601039c40007d", "hex");
const ANSWER_BYTES = 9 + 250;
const FULL = { warmUpMs: 300, roundMs: 1500, rounds: 2 };
const QUICK = { warmUpMs: 100, roundMs: 300, rounds: 1 };

type Kind = "ours" | "modbus-serial";

/**
 * The simulated plant's server beside modbus-serial's ServerTCP: each in its own process, asked by the same bare socket with one
 * request in flight, in turn, the better of two rounds.
 */
export async function run(quick = false): Promise<Row[]> {
    const times = quick ? QUICK : FULL;
    const best: Record<Kind, number> = { ours: 0, "modbus-serial": 0 };
    for (let round = 0; round < times.rounds; round++) {
        for (const kind of ["ours", "modbus-serial"] as const) best[kind] = Math.max(best[kind], await measure(kind, 1, times));
    }
    const pipelined = await measure("ours", 8, times);
    const ratio = best.ours / best["modbus-serial"];
    return [
        { name: "simulated plant, reads of 125 registers, 1 in flight", value: best.ours, unit: "requests/s", target: ">= 20,000", pass: best.ours >= 20_000 },
        { name: "simulated plant, reads of 125 registers, 8 in flight", value: pipelined, unit: "requests/s", target: ">= 20,000", pass: pipelined >= 20_000 },
        { name: "simulated plant over modbus-serial's ServerTCP", value: ratio, unit: "x", target: ">= 10", pass: ratio >= 10 },
    ];
}

async function measure(kind: Kind, inFlight: number, { warmUpMs, roundMs }: typeof FULL): Promise<number> {
    const child = fork(__filename, [kind]);
    try {
        const [port] = (await once(child, "message")) as [number];
        const socket = connect({ port, host: "127.0.0.1", noDelay: true });
        await once(socket, "connect");
        await ask(socket, inFlight, warmUpMs);
        const rate = await ask(socket, inFlight, roundMs);
        socket.destroy();
        return rate;
    } finally {
        await stop(child);
    }
}

/** Requests answered a second. */
function ask(socket: Socket, inFlight: number, ms: number): Promise<number> {
    return new Promise((resolve) => {
        const started = performance.now();
        let [sent, bytes] = [0, 0];
        const send = () => {
            sent++;
            socket.write(REQUEST);
        };
        const take = (chunk: Buffer) => {
            bytes += chunk.length;
            const answered = Math.floor(bytes / ANSWER_BYTES);
            const elapsed = performance.now() - started;
            if (elapsed < ms) {
                for (let more = answered + inFlight - sent; more > 0; more--) send();
            } else if (answered === sent) {
                socket.off("data", take);
                resolve((answered / elapsed) * 1000);
            }
        };
        socket.on("data", take);
        for (let i = 0; i < inFlight; i++) send();
    });
}

async function stop(child: ChildProcess): Promise<void> {
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
}

async function serve(kind: Kind): Promise<number> {
    const words = Buffer.alloc(500, 7);
    if (kind === "ours") {
        const bank = { base: BASE, words };
        return new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: () => bank }).listen();
    }
    const vector = { getHoldingRegister: (address: number) => words.readUInt16BE(2 * (address - BASE)) };
    const port = await freePort();
    await once(new ServerTCP(vector, { host: "127.0.0.1", port, unitID: 1 }), "initialized");
    return port;
}

async function freePort(): Promise<number> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return port;
}

if (require.main === module) {
    void serve(process.argv[2] as Kind).then((port) => process.send?.(port));
}
