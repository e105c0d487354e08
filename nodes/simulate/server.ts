import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { markSimulated } from "../common/simulated.js";
import type { Table } from "../modbus/transport.js";
import { MBAP, type ServerFraming } from "./framing.js";

/** The registers of one unit. */
export interface RegisterBank {
    /** Wire address of the first register, 0-based. */
    base: number;
    /** Big-endian words. */
    words: Buffer;
    /** The table that holds them; without it holding and input registers are the same, as in most SunSpec devices. */
    table?: Table;
    /** First and last address of what may be read; a read beside or across them is refused (exception 2). Without it all may. */
    readable?: readonly (readonly [first: number, last: number])[];
    /** Most registers of one read, 125 without it; more are refused (exception 3). */
    maxRegisters?: number;
    /** Takes a write of whole registers; false refuses it (exception 2), and nothing may have changed then. */
    write?(address: number, words: Buffer): boolean;
}

/** What goes wrong on the wire for one unit. */
export type WireFault =
    | { kind: "slow"; ms: number }
    | { kind: "drop" }
    | { kind: "reset" }
    | { kind: "exception"; code: number };

export interface ServerOptions {
    host: string;
    /** 0 takes any free port. */
    port: number;
    /** The registers of a unit now; undefined where no such unit is. */
    bank: (unit: number) => RegisterBank | undefined;
    fault?: (unit: number) => WireFault | undefined;
    /** MBAP, Modbus TCP, without it. */
    framing?: ServerFraming;
    clock?: Pick<Clock, "after">;
}

/** Exception codes (Modbus Application Protocol V1.1b3 §7). */
const ILLEGAL_FUNCTION = 1;
const ILLEGAL_ADDRESS = 2;
const ILLEGAL_VALUE = 3;
/** What a gateway says of an absent unit: target device failed to respond. */
const GATEWAY_NO_TARGET = 0x0b;

const MAX_CLIENTS = 64;
/** Answers that may wait for the slow fault; more requests than that get none. */
const MAX_DELAYED = 1000;

/**
 * A Modbus server on a TCP port for register banks: functions 3, 4, 6 and 16. It answers in the data event itself, so it is as
 * fast as the socket; only the `slow` fault uses a timer. A frame that breaks the protocol ends its connection, since nothing after it can
 * be trusted.
 */
export class ModbusTcpServer {
    /** Whole requests seen, and registers that a client wrote: readers can prove that they wrote nothing. */
    readonly count = { requests: 0, writes: 0 };
    private readonly server: Server;
    private readonly sockets = new Set<Socket>();
    private readonly delayed = new Set<() => void>();
    private readonly clock: Pick<Clock, "after">;
    private readonly framing: ServerFraming;

    constructor(private readonly options: ServerOptions) {
        this.clock = options.clock ?? systemClock;
        this.framing = options.framing ?? MBAP;
        this.server = createServer({ noDelay: true }, (socket) => this.accept(socket));
        this.server.maxConnections = MAX_CLIENTS;
        // While it listens the only errors are failed accepts (no file handles left): the client sees them, we go on.
        this.server.on("error", () => {});
    }

    /**
     * Starts to listen; resolves with the port.
     * @throws WattError SIM_LISTEN with what to do about it
     */
    listen(): Promise<number> {
        const { host, port } = this.options;
        return new Promise((resolve, reject) => {
            const failed = (error: Error) => {
                this.server.off("close", closed);
                reject(new WattError("SIM_LISTEN", listenAdvice(error, host, port), { cause: error }));
            };
            // Closed in the moment between: it will never say that it listens.
            const closed = () => reject(new WattError("SIM_LISTEN", "Closed before it listened."));
            this.server.once("error", failed).once("close", closed);
            this.server.listen(port, host, () => {
                this.server.off("error", failed).off("close", closed);
                resolve((this.server.address() as AddressInfo).port);
            });
        });
    }

    /** Clients connected now. */
    get clients(): number {
        return this.sockets.size;
    }

    /** Stops listening and ends every connection; resolves when the port is free. */
    close(): Promise<void> {
        for (const cancel of this.delayed) cancel();
        this.delayed.clear();
        for (const socket of this.sockets) socket.destroy();
        return new Promise((resolve) => {
            this.server.close(() => resolve());
        });
    }

    private accept(socket: Socket): void {
        this.sockets.add(socket);
        markSimulated(socket);
        let rest: Buffer | undefined;
        socket.on("error", () => {});
        socket.on("close", () => this.sockets.delete(socket));
        // A client that asks and never reads would fill our memory with answers.
        socket.on("drain", () => socket.resume());
        socket.on("data", (chunk) => {
            rest = this.consume(socket, rest ? Buffer.concat([rest, chunk]) : chunk);
        });
    }

    /** Answers every whole frame in `data`; returns the begun one at its end. */
    private consume(socket: Socket, data: Buffer): Buffer | undefined {
        const answers: Buffer[] = [];
        let at = 0;
        while (at < data.length) {
            const end = this.framing.end(data, at);
            if (end === "more") break;
            if (end === "broken") {
                socket.destroy();
                return undefined;
            }
            const answer = this.respond(socket, data.subarray(at, end));
            if (socket.destroyed) return undefined;
            if (answer) answers.push(answer);
            at = end;
        }
        if (answers.length > 0 && !socket.write(answers.length === 1 ? answers[0]! : Buffer.concat(answers))) socket.pause();
        return at < data.length ? data.subarray(at) : undefined;
    }

    /** The answer to one frame, or undefined where none is due now. */
    private respond(socket: Socket, frame: Buffer): Buffer | undefined {
        this.count.requests++;
        const { head, tail } = this.framing;
        const unit = frame[head - 1]!;
        const request = frame.subarray(head, frame.length - tail);
        const fault = this.options.fault?.(unit);
        switch (fault?.kind) {
            case "drop":
                return undefined;
            case "reset":
                socket.resetAndDestroy();
                return undefined;
            case "exception":
                return this.seal(exception(request, fault.code), frame);
            case "slow":
                this.later(fault.ms, socket, this.seal(this.answer(unit, request), frame));
                return undefined;
            default:
                return this.seal(this.answer(unit, request), frame);
        }
    }

    private seal(pdu: Buffer | undefined, request: Buffer): Buffer | undefined {
        if (!pdu) return undefined;
        const { head, tail } = this.framing;
        const answer = Buffer.allocUnsafe(head + pdu.length + tail);
        answer[head - 1] = request[head - 1]!;
        pdu.copy(answer, head);
        this.framing.seal(answer, request);
        return answer;
    }

    private later(ms: number, socket: Socket, answer: Buffer | undefined): void {
        if (!answer || this.delayed.size >= MAX_DELAYED) return;
        const cancel = this.clock.after(ms, () => {
            this.delayed.delete(cancel);
            if (!socket.destroyed) socket.write(answer);
        });
        this.delayed.add(cancel);
    }

    /** The answer's PDU, or undefined for silence. */
    private answer(unit: number, request: Buffer): Buffer | undefined {
        const bank = this.options.bank(unit);
        if (!bank) return this.framing.absent === "silence" ? undefined : exception(request, GATEWAY_NO_TARGET);
        switch (request[0]) {
            case 3:
                return read(bank, "holding", request);
            case 4:
                return read(bank, "input", request);
            case 6:
                return request.length === 5 ? this.write(bank, request, 1, request.subarray(3)) : exception(request, ILLEGAL_VALUE);
            case 16:
                return this.writeMany(bank, request);
            default:
                return exception(request, ILLEGAL_FUNCTION);
        }
    }

    private writeMany(bank: RegisterBank, request: Buffer): Buffer {
        if (request.length < 6) return exception(request, ILLEGAL_VALUE);
        const quantity = request.readUInt16BE(3);
        const sane = quantity >= 1 && quantity <= 123 && request[5] === 2 * quantity && request.length === 6 + 2 * quantity;
        return sane ? this.write(bank, request, quantity, request.subarray(6)) : exception(request, ILLEGAL_VALUE);
    }

    /** Both write functions echo their first five bytes. */
    private write(bank: RegisterBank, request: Buffer, quantity: number, words: Buffer): Buffer {
        if (!bank.write?.(request.readUInt16BE(1), words)) return exception(request, ILLEGAL_ADDRESS);
        this.count.writes += quantity;
        return request.subarray(0, 5);
    }
}

function read(bank: RegisterBank, table: Table, request: Buffer): Buffer {
    if (request.length !== 5) return exception(request, ILLEGAL_VALUE);
    const quantity = request.readUInt16BE(3);
    if (quantity < 1 || quantity > (bank.maxRegisters ?? 125)) return exception(request, ILLEGAL_VALUE);
    const address = request.readUInt16BE(1);
    const start = 2 * (address - bank.base);
    const bytes = 2 * quantity;
    const there = start >= 0 && start + bytes <= bank.words.length && (bank.table === undefined || bank.table === table);
    if (!there || bank.readable?.some(([first, last]) => address >= first && address + quantity - 1 <= last) === false) {
        return exception(request, ILLEGAL_ADDRESS);
    }
    const answer = Buffer.allocUnsafe(2 + bytes);
    answer[0] = request[0]!;
    answer[1] = bytes;
    bank.words.copy(answer, 2, start, start + bytes);
    return answer;
}

function exception(request: Buffer, code: number): Buffer {
    return Buffer.of(request[0]! | 0x80, code);
}

function listenAdvice(error: Error, host: string, port: number): string {
    switch (errorCode(error)) {
        case "EADDRINUSE":
            return `Port ${port} on ${host} is taken: stop what listens there, or choose another port.`;
        case "EACCES":
            return `Port ${port} needs administrator rights: choose one above 1023, such as 1502.`;
        case "EADDRNOTAVAIL":
        case "ENOTFOUND":
        case "EAI_AGAIN":
            return `${host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all its networks.`;
        default:
            return `Cannot listen on ${host}:${port}: ${errorText(error)}`;
    }
}
