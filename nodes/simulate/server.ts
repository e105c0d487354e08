import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";

/** The registers of one unit; holding and input registers are the same, as in most SunSpec devices. */
export interface RegisterBank {
    /** Wire address of the first register, 0-based. */
    base: number;
    /** Big-endian words. */
    words: Buffer;
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
    clock?: Pick<Clock, "after">;
}

/** Exception codes (Modbus Application Protocol V1.1b3 §7). */
const ILLEGAL_FUNCTION = 1;
const ILLEGAL_ADDRESS = 2;
const ILLEGAL_VALUE = 3;
/** What a gateway says of an absent unit: target device failed to respond. */
const GATEWAY_NO_TARGET = 0x0b;

/** Transaction id, protocol id, length, unit (Modbus Messaging on TCP/IP V1.0b §3.1.3). */
const HEADER = 7;
const MAX_PDU = 253;
const MAX_CLIENTS = 64;
/** Answers that may wait for the slow fault; more requests than that get none. */
const MAX_DELAYED = 1000;

/**
 * A Modbus TCP server for register banks: functions 3, 4, 6 and 16. It answers in the data event itself, so it is as fast as the
 * socket; only the `slow` fault uses a timer. A frame that breaks the protocol ends its connection, since nothing after it can
 * be trusted.
 */
export class ModbusTcpServer {
    /** Whole requests seen, and registers that a client wrote: readers can prove that they wrote nothing. */
    readonly count = { requests: 0, writes: 0 };
    private readonly server: Server;
    private readonly sockets = new Set<Socket>();
    private readonly delayed = new Set<() => void>();
    private readonly clock: Pick<Clock, "after">;

    constructor(private readonly options: ServerOptions) {
        this.clock = options.clock ?? systemClock;
        this.server = createServer({ noDelay: true }, (socket) => this.accept(socket));
        this.server.maxConnections = MAX_CLIENTS;
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
                // After this the only errors are failed accepts (no file handles left): the client sees them, we go on.
                this.server.on("error", () => {});
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
        while (data.length - at >= HEADER) {
            const length = data.readUInt16BE(at + 4);
            if (data.readUInt16BE(at + 2) !== 0 || length < 2 || length > MAX_PDU + 1) {
                socket.destroy();
                return undefined;
            }
            const end = at + 6 + length;
            if (end > data.length) break;
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
        const unit = frame[6]!;
        const fault = this.options.fault?.(unit);
        switch (fault?.kind) {
            case "drop":
                return undefined;
            case "reset":
                socket.resetAndDestroy();
                return undefined;
            case "exception":
                return exception(frame, fault.code);
            case "slow":
                this.later(fault.ms, socket, this.answer(unit, frame));
                return undefined;
            default:
                return this.answer(unit, frame);
        }
    }

    private later(ms: number, socket: Socket, answer: Buffer): void {
        if (this.delayed.size >= MAX_DELAYED) return;
        const cancel = this.clock.after(ms, () => {
            this.delayed.delete(cancel);
            if (!socket.destroyed) socket.write(answer);
        });
        this.delayed.add(cancel);
    }

    private answer(unit: number, frame: Buffer): Buffer {
        const bank = this.options.bank(unit);
        if (!bank) return exception(frame, GATEWAY_NO_TARGET);
        switch (frame[HEADER]) {
            case 3:
            case 4:
                return read(bank, frame);
            case 6:
                return frame.length === HEADER + 5 ? this.write(bank, frame, 1, frame.subarray(10)) : exception(frame, ILLEGAL_VALUE);
            case 16:
                return this.writeMany(bank, frame);
            default:
                return exception(frame, ILLEGAL_FUNCTION);
        }
    }

    private writeMany(bank: RegisterBank, frame: Buffer): Buffer {
        if (frame.length < HEADER + 6) return exception(frame, ILLEGAL_VALUE);
        const quantity = frame.readUInt16BE(10);
        const sane = quantity >= 1 && quantity <= 123 && frame[12] === 2 * quantity && frame.length === 13 + 2 * quantity;
        return sane ? this.write(bank, frame, quantity, frame.subarray(13)) : exception(frame, ILLEGAL_VALUE);
    }

    /** Both write functions echo their first five PDU bytes. */
    private write(bank: RegisterBank, frame: Buffer, quantity: number, words: Buffer): Buffer {
        if (!bank.write?.(frame.readUInt16BE(8), words)) return exception(frame, ILLEGAL_ADDRESS);
        this.count.writes += quantity;
        return reply(frame, Buffer.from(frame.subarray(HEADER, HEADER + 5)));
    }
}

function read(bank: RegisterBank, frame: Buffer): Buffer {
    if (frame.length !== HEADER + 5) return exception(frame, ILLEGAL_VALUE);
    const quantity = frame.readUInt16BE(10);
    if (quantity < 1 || quantity > 125) return exception(frame, ILLEGAL_VALUE);
    const start = 2 * (frame.readUInt16BE(8) - bank.base);
    const bytes = 2 * quantity;
    if (start < 0 || start + bytes > bank.words.length) return exception(frame, ILLEGAL_ADDRESS);
    const answer = Buffer.allocUnsafe(HEADER + 2 + bytes);
    header(answer, frame);
    answer[7] = frame[7]!;
    answer[8] = bytes;
    bank.words.copy(answer, 9, start, start + bytes);
    return answer;
}

function exception(frame: Buffer, code: number): Buffer {
    return reply(frame, Buffer.from([frame[HEADER]! | 0x80, code]));
}

function reply(frame: Buffer, pdu: Buffer): Buffer {
    const answer = Buffer.allocUnsafe(HEADER + pdu.length);
    header(answer, frame);
    pdu.copy(answer, HEADER);
    return answer;
}

/** The request's own transaction id and unit come back. */
function header(answer: Buffer, frame: Buffer): void {
    answer[0] = frame[0]!;
    answer[1] = frame[1]!;
    answer.writeUInt16BE(0, 2);
    answer.writeUInt16BE(answer.length - 6, 4);
    answer[6] = frame[6]!;
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
