import { createServer, type AddressInfo, type Socket } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { makeUserDir, removeDir, startNodeRed } from "../node-red.js";
import type { Row } from "./row.js";

const UNITS = 10;
const DEAD = 5;
const PERIOD_S = 1;
/** Of every answer on the gateway's bus. */
const TURNAROUND_MS = 10;
/** So long the gateway itself waits for a unit that does not answer, and then says nothing. */
const BUS_TIMEOUT_MS = 500;
const POINTS = 60;

/**
 * wl-modbus in a Node-RED polls ten units behind one gateway once a second, first all alive, then with one dead: what is left of the
 * readings of the other nine, over the first minute of the outage, which is the worst.
 */
export async function run(quick = false): Promise<Row[]> {
    const seconds = quick ? 3 : 60;
    const gateway = await Gateway.start();
    const userDir = await makeUserDir();
    const red = await startNodeRed({ userDir, flows: flow(gateway.port) });
    /** Good readings since it was last asked, by unit. */
    const counted = async () => (await (await fetch(`${red.url}/counts`)).json()) as Record<string, number>;
    /** Readings of the nine in a while. */
    const count = async () => {
        await counted();
        await sleep(seconds * 1_000);
        const { [deviceOf(DEAD)]: dead = 0, ...nine } = await counted();
        return { dead, nine: Object.values(nine).reduce((sum, each) => sum + each, 0), units: Object.keys(nine).length };
    };
    try {
        await sleep(quick ? 2_500 : 6_000);
        const alive = await count();
        gateway.dead = DEAD;
        // The answer that was on its way.
        await sleep(2 * TURNAROUND_MS * UNITS);
        const outage = await count();
        if (alive.units !== UNITS - 1 || alive.dead === 0 || outage.dead > 0) throw new Error(`The gateway is not what it should be: ${JSON.stringify([alive, outage])}\n${red.log()}`);
        const kept = (100 * outage.nine) / alive.nine;
        const name = `gateway, one dead unit among ten at ${PERIOD_S} s, through wl-modbus`;
        return [
            { name: `${name}: poll rate of the other nine`, value: kept, unit: "%", target: ">= 95", pass: kept >= 95 },
            { name: `${name}: readings of each of the nine before, in ${seconds} s`, value: alive.nine / (UNITS - 1), unit: "", target: `>= ${Math.floor(0.95 * seconds)}`, pass: alive.nine / (UNITS - 1) >= Math.floor(0.95 * seconds) },
            { name: `${name}: requests to the dead one in ${seconds} s`, value: gateway.wasted, unit: "", target: "", pass: true },
        ];
    } finally {
        await red.stop();
        await removeDir(userDir);
        await gateway.stop();
    }
}

function deviceOf(unit: number): string {
    return `meter-u${unit}`;
}

function flow(port: number): object[] {
    const place = { z: "tab", x: 0, y: 0 };
    const points = Array.from({ length: POINTS }, (_, i) => `  string_${i + 1}_voltage_v: {address: ${i}, type: uint16, unit: V}`);
    const mapText = [
        "schema: pointmap/1",
        "id: bench",
        "class: generic",
        "vendor: Bench",
        "models: [any]",
        "source: {doc: bench, verified: document, date: 2026-11-21}",
        "protocol: modbus",
        "defaults: {table: input}",
        "points:",
        ...points,
    ].join("\n");
    const tally = 'if (msg.reading.quality !== "good") return null;\nconst counts = global.get("counts") ?? {};\nconst { device } = msg.reading;\ncounts[device] = (counts[device] ?? 0) + 1;\nglobal.set("counts", counts);\nreturn null;';
    const told = 'msg.payload = global.get("counts") ?? {};\nglobal.set("counts", {});\nreturn msg;';
    return [
        { id: "tab", type: "tab" },
        { id: "site", type: "wl-site", siteId: "bench" },
        { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port: String(port), timeoutMs: "1000" },
        { id: "wl", ...place, type: "wl-modbus", site: "site", link: "link", map: "paste", mapText, units: `1-${UNITS}`, deviceName: "meter", periods: { all: String(PERIOD_S) }, wires: [["tally"]] },
        { id: "tally", ...place, type: "function", func: tally, outputs: 1, libs: [], wires: [] },
        { id: "counts", ...place, type: "http in", url: "/counts", method: "get", wires: [["told"]] },
        { id: "told", ...place, type: "function", func: told, outputs: 1, libs: [], wires: [["answer"]] },
        { id: "answer", ...place, type: "http response", wires: [] },
    ];
}

/** Modbus TCP in front of one bus: requests wait for each other there. */
class Gateway {
    readonly host = "127.0.0.1";
    port = 0;
    dead = 0;
    wasted = 0;
    private bus: Promise<void> = Promise.resolve();
    private readonly sockets = new Set<Socket>();
    private readonly server = createServer({ noDelay: true }, (socket) => {
        this.sockets.add(socket);
        socket.on("error", () => {});
        // One request in flight, so a chunk is a frame.
        socket.on("data", (frame) => {
            this.bus = this.bus.then(() => this.serve(socket, frame));
        });
    });

    static async start(): Promise<Gateway> {
        const gateway = new Gateway();
        gateway.server.listen(0, gateway.host);
        await once(gateway.server, "listening");
        gateway.port = (gateway.server.address() as AddressInfo).port;
        return gateway;
    }

    private async serve(socket: Socket, frame: Buffer): Promise<void> {
        const isDead = frame[6] === this.dead;
        if (isDead) this.wasted++;
        await sleep(isDead ? BUS_TIMEOUT_MS : TURNAROUND_MS);
        if (isDead || socket.destroyed) return;
        const bytes = 2 * frame.readUInt16BE(10);
        const answer = Buffer.alloc(9 + bytes, 1);
        frame.copy(answer, 0, 0, 8);
        answer.writeUInt16BE(3 + bytes, 4);
        answer[8] = bytes;
        socket.write(answer);
    }

    async stop(): Promise<void> {
        for (const socket of this.sockets) socket.destroy();
        this.server.close();
        await this.bus;
    }
}
