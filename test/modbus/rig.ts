import assert from "node:assert/strict";
import { once } from "node:events";
import { Socket } from "node:net";
import { setImmediate } from "node:timers/promises";
import { ModbusLink, type LinkListener, type LinkMember, type LinkOptions, type LinkSettings, type LinkState } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError, type ReadRequest, type Table } from "../../dist/modbus/transport.js";
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
    private socket: Socket | undefined;
    /** Connections made while the one before was not closed yet. */
    overlaps = 0;

    private constructor(server: FaultServer, options: Partial<LinkOptions>) {
        const { host, port } = server;
        this.server = server;
        this.link = new ModbusLink({
            createTransport: (onLost) => {
                const createSocket = () => this.createSocket();
                return new TcpTransport({ host, port, framing: new MbapFraming(), onLost, clock: this.clock, createSocket });
            },
            clock: this.clock,
            random: () => 1,
            ...options,
        });
    }

    static async start(options: Partial<LinkOptions> = {}): Promise<Rig> {
        return new Rig(await FaultServer.start(), options);
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
        for (let turn = 0; turn < 6; turn++) await setImmediate();
    }

    /** Resolves when the next bytes have reached the link. */
    async received(): Promise<void> {
        assert.ok(this.socket);
        await once(this.socket, "data");
    }

    private createSocket(): Socket {
        const before = this.socket;
        const socket = new Socket();
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
