import { createServer, type AddressInfo, type Socket } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { WattError } from "../../dist/common/errors.js";
import { sharedLink } from "../../dist/modbus/links.js";
import { UnitPoller } from "../../dist/modbus/poller.js";
import { SETTINGS } from "../modbus/rig.js";
import type { Row } from "./row.js";

const UNITS = 10;
const DEAD = 5;
const PERIOD_MS = 1_000;
/** Of every answer on the gateway's bus. */
const TURNAROUND_MS = 10;
/** So long the gateway itself waits for a unit that does not answer, and then says nothing. */
const BUS_TIMEOUT_MS = 500;

/**
 * Ten units behind one gateway are polled once a second, first all alive, then with one dead: what is left of the other nine's
 * poll rate, over the first minute of the outage, which is the worst.
 */
export async function run(quick = false): Promise<Row[]> {
    const seconds = quick ? 3 : 60;
    const gateway = await Gateway.start();
    const member = sharedLink(gateway).join({ ...SETTINGS, timeoutMs: 1_000 });
    const controller = new AbortController();
    const polled = new Map<number, number>();
    const pollers = Array.from({ length: UNITS }, (_, i) => {
        const unit = i + 1;
        const polledUnit = {
            poll: async () => {
                await member.read({ unit, table: "input", address: 0, quantity: 60 });
                polled.set(unit, (polled.get(unit) ?? 0) + 1);
                return { readings: [], fault: undefined };
            },
            lost: () => [],
            invalidate: () => {},
        };
        const options = { groups: [{ name: "all", periodMs: PERIOD_MS }], unidentified: "", heartbeatMs: 60_000 };
        const listener = { onReading: () => {}, onFault: () => {}, onRecovered: () => {} };
        return new UnitPoller(polledUnit, options, listener).run(controller.signal);
    });
    /** Polls of the nine in a while. */
    const count = async () => {
        polled.clear();
        await sleep(seconds * 1_000);
        return [...polled].reduce((sum, [unit, polls]) => (unit === DEAD ? sum : sum + polls), 0);
    };
    try {
        await sleep(quick ? 1_500 : 5_000);
        const alive = await count();
        gateway.dead = DEAD;
        const outage = await count();
        if (alive === 0 || (polled.get(DEAD) ?? 0) > 2) throw new WattError("BENCH", `the gateway is not what it should be: ${alive} polls, ${polled.get(DEAD)} of the dead unit`);
        const kept = (100 * outage) / alive;
        const name = `gateway, one dead unit among ten at ${PERIOD_MS / 1000} s`;
        return [
            { name: `${name}: poll rate of the other nine`, value: kept, unit: "%", target: ">= 95", pass: kept >= 95 },
            { name: `${name}: requests to the dead one in ${seconds} s`, value: gateway.wasted, unit: "", target: "", pass: true },
        ];
    } finally {
        controller.abort();
        await Promise.all(pollers);
        await member.leave();
        await gateway.stop();
    }
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
