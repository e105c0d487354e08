import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { type OnReadOpts, Socket } from "node:net";
import { setImmediate } from "node:timers/promises";
import { ModbusLink, type LinkListener, type LinkMember, type LinkOptions, type LinkSettings, type LinkState } from "../../dist/modbus/link.js";
import { DatagramFraming, MbapFraming } from "../../dist/modbus/mbap.js";
import type { LinkKind } from "../../dist/modbus/plan.js";
import { RtuFraming, RtuTransport, Strays } from "../../dist/modbus/rtu.js";
import { type SerialPort, SerialTransport } from "../../dist/modbus/serial.js";
import { newSocket, TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError, type ReadRequest, type Table, type Transport } from "../../dist/modbus/transport.js";
import { UdpTransport } from "../../dist/modbus/udp.js";
import { ManualClock } from "../common/manual-clock.js";
import { FaultServer, rightData } from "./fault-server.js";

export const SETTINGS: LinkSettings = { timeoutMs: 500, gapMs: 0, connectPauseMs: 0, maxRegisters: 125, checkUnit: true, idleCloseMs: 0 };

const FUNCTION: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

/** A link to a fault server on a clock that the test moves. The wire is real, so only timeouts and pauses wait for the test. */
export class Rig {
    readonly clock = new ManualClock();
    readonly states: string[] = [];
    readonly lost: ModbusError[] = [];
    back = 0;
    readonly link: ModbusLink;
    readonly server: FaultServer;
    private watchers: (() => void)[] = [];
    private readonly wires = new EventEmitter();
    private socket: Socket | undefined;
    /** Connections made while the one before was not closed yet. */
    overlaps = 0;

    private readonly strays = new Strays();

    private constructor(
        server: FaultServer,
        options: Partial<LinkOptions>,
        private readonly kind: LinkKind["kind"],
    ) {
        this.server = server;
        this.link = new ModbusLink({
            createTransport: (onLost) => this.createTransport(onLost),
            clock: this.clock,
            random: () => 1,
            ...options,
        });
    }

    /** `rtu` is a serial port whose line leads to the server. */
    static async start(options: Partial<LinkOptions> = {}, kind: LinkKind["kind"] = "tcp"): Promise<Rig> {
        return new Rig(await FaultServer.start(0, kind === "rtu" ? "rtutcp" : kind), options, kind);
    }

    private createTransport(onLost: (error: ModbusError) => void): Transport {
        const { clock } = this;
        const { host, port } = this.server;
        const createSocket = (onread: OnReadOpts) => this.createSocket(onread);
        if (this.kind === "udp") return new UdpTransport({ host, port, framing: new DatagramFraming(), onLost, clock });
        if (this.kind === "tcp") return new TcpTransport({ host, port, framing: new MbapFraming(), onLost, clock, createSocket });
        const framing = new RtuFraming(this.strays, clock);
        if (this.kind === "rtutcp") return new RtuTransport({ framing, clock, wire: new TcpTransport({ host, port, framing, onLost, clock, createSocket }) });
        const createPort = () => new SocketPort(this.createSocket(), port);
        const wire = new SerialTransport({ path: "/dev/ttyTEST", baud: 9_600, parity: "none", stopBits: 1, framing, onLost, clock, createPort });
        return new RtuTransport({ framing, wire, clock, characterMs: 10_000 / 9_600 });
    }

    join(settings: Partial<LinkSettings> = {}, listener: LinkListener = {}): LinkMember {
        return this.link.join(
            { ...SETTINGS, ...settings },
            {
                onState: (state) => {
                    this.states.push(state.name);
                    for (const watch of this.watchers) watch();
                },
                onLost: (error) => this.lost.push(error),
                onBack: () => this.back++,
                ...listener,
            },
        );
    }

    /** Resolves once the link is in a state. */
    async in(name: LinkState["name"]): Promise<void> {
        if (this.link.state.name === name) return;
        await new Promise<void>((resolve) => {
            const watch = () => {
                if (this.link.state.name !== name) return;
                this.watchers = this.watchers.filter((other) => other !== watch);
                resolve();
            };
            this.watchers.push(watch);
        });
    }

    /** Lets `ms` pass in steps, with time for the wire in each. */
    async pass(ms: number, step = 100): Promise<void> {
        for (let left = ms; left > 0; left -= step) {
            this.clock.advance(Math.min(step, left));
            await this.wire();
        }
    }

    /** Client and server share this process: what one has sent, the other has within a few turns of the event loop. */
    async wire(): Promise<void> {
        for (let turn = 0; turn < 6 || (turn < 1_000 && this.isUnderWay()); turn++) await setImmediate();
    }

    private isUnderWay(): boolean {
        const { socket } = this;
        const peer = [...this.server.live].find(({ remotePort }) => remotePort === socket?.localPort);
        return socket !== undefined && peer !== undefined && (peer.bytesRead < socket.bytesWritten || socket.bytesRead < peer.bytesWritten);
    }

    /** Lets time pass until a promise has settled. */
    async until<T>(promise: Promise<T>): Promise<T> {
        const settled = new AbortController();
        const settle = () => settled.abort();
        promise.then(settle, settle);
        while (!settled.signal.aborted) {
            await this.wire();
            if (!settled.signal.aborted) this.clock.advance(5);
        }
        return promise;
    }

    /** How a read or write ends while time passes, and how long it takes, ms. */
    async settles(request: Promise<Buffer | void>): Promise<{ ended: Buffer | string; ms: number }> {
        const started = this.clock.monotonic();
        const ended = await this.until(outcome(request.then((data) => data ?? Buffer.alloc(0))));
        return { ended, ms: this.clock.monotonic() - started };
    }

    /** Resolves when the next bytes have reached the link. */
    async received(): Promise<void> {
        await once(this.wires, "read");
    }

    /** Apart from what makes sockets: each would keep the one before it. */
    private heard(onread: OnReadOpts): OnReadOpts {
        return {
            buffer: onread.buffer,
            callback: (length, data) => {
                const goesOn = onread.callback(length, data);
                this.wires.emit("read");
                return goesOn;
            },
        };
    }

    private createSocket(onread?: OnReadOpts): Socket {
        const before = this.socket;
        const socket = onread ? newSocket(this.heard(onread)) : new Socket();
        this.socket = socket;
        socket.once("connect", () => {
            if (before?.closed === false) this.overlaps++;
        });
        return socket;
    }

    /** What a right answer to a request holds. */
    right({ unit, table, address, quantity }: ReadRequest): Buffer {
        const data = rightData({ unit, function: FUNCTION[table], address, quantity }, this.server.registers);
        assert.ok(data);
        return data;
    }

    /** Reads and wants the right value. */
    async readsRight(member: LinkMember, request: ReadRequest): Promise<void> {
        assert.deepEqual(await member.read(request), this.right(request));
    }

    async stop(): Promise<void> {
        await this.server.stop();
    }
}

export function holding(unit: number, address = 100, quantity = 4): ReadRequest {
    return { unit, table: "holding", address, quantity };
}

/** The code a read fails with, or its data. */
export async function outcome(read: Promise<Buffer>): Promise<Buffer | string> {
    try {
        return await read;
    } catch (error) {
        assert.ok(error instanceof ModbusError, `not a typed error: ${String(error)}`);
        return error.code;
    }
}

/** A serial port whose line ends at a server. */
class SocketPort extends EventEmitter implements SerialPort {
    isOpen = false;

    constructor(
        private readonly socket: Socket,
        private readonly tcpPort: number,
    ) {
        super();
        socket.on("data", (chunk) => this.emit("data", chunk));
        socket.on("error", () => undefined);
        socket.on("close", () => {
            if (!this.isOpen) return;
            this.isOpen = false;
            this.emit("close", Object.assign(new Error("disconnected"), { disconnected: true }));
        });
    }

    open(done: (error: Error | null) => void): void {
        this.socket.once("error", done);
        this.socket.connect(this.tcpPort, "127.0.0.1", () => {
            this.isOpen = true;
            done(null);
        });
    }

    write(bytes: Buffer): void {
        this.socket.write(bytes);
    }

    close(done: (error: Error | null) => void): void {
        this.isOpen = false;
        this.socket.once("close", () => done(null));
        this.socket.destroy();
    }
}
