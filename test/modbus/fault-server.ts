import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { EventEmitter, once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { crc16 } from "../../dist/modbus/crc.js";

/** A request as it came in. */
export interface Asked {
    /** 0 where there is none. */
    transaction: number;
    unit: number;
    function: number;
    address: number;
    /** Or the value, of a write of one. */
    quantity: number;
    pdu: Buffer;
    /** performance.now() at arrival. */
    at: number;
    /** Number of the connection it came on, from 1. */
    connection: number;
}

/** Where a behaviour answers to. */
export interface Peer {
    socket: Socket;
    /** The right answer, whole; behaviours bend it. */
    right: Buffer;
    /** The PDU of the right answer. */
    pdu: Buffer;
    /** The right answer of the request before, on whatever connection, and its PDU; empty at first. */
    previous: Buffer;
    previousPdu: Buffer;
    /** The request as it came. */
    request: Buffer;
    /** A frame around a PDU, as if it were the answer; of another unit if one is given. */
    wrap: (pdu: Buffer | number[], unit?: number) => Buffer;
    send: (bytes: Buffer) => void;
    /** Runs after `ms`; given up when the server stops. */
    later: (ms: number, task: () => void) => void;
}

/** What the server does with one request. */
export type Behaviour = (asked: Asked, peer: Peer) => void;

/** The word at an address; undefined answers exception 2. */
export type Registers = (unit: number, address: number, functionCode: number) => number | undefined;

/** Different at every unit, function and address, so that no wrong value looks right. */
export const distinctWord: Registers = (unit, address, functionCode) => (unit * 7919 + functionCode * 104_729 + address * 31 + 17) & 0xffff;

/** How frames look, and what carries them. */
export type ServerWire = "tcp" | "rtutcp" | "udp";

/**
 * A Modbus server over real sockets that answers right unless told otherwise, and notes what clients do wrong.
 * `script` takes the behaviours of the next requests, in order; then `otherwise` holds.
 */
export class FaultServer extends EventEmitter<{ request: [Asked]; connection: [Socket]; disconnection: [] }> {
    readonly host = "127.0.0.1";
    port = 0;
    otherwise: Behaviour = faults.right;
    registers: Registers = distinctWord;
    /** Instead of serving a new connection. */
    onConnect: ((socket: Socket) => void) | undefined;
    readonly asked: Asked[] = [];
    /** Broken requests, and requests sent while another was unanswered. */
    readonly violations: string[] = [];
    connections = 0;
    /** Port of the last client over UDP. */
    client = 0;
    readonly live = new Set<Socket>();
    /** What makes answers late; in real time unless a test has its own. */
    later = (ms: number, task: () => void): void => {
        const timer = setTimeout(() => {
            this.timers.delete(timer);
            task();
        }, ms);
        this.timers.add(timer);
    };
    private behaviours: Behaviour[] = [];
    private previous: Buffer = Buffer.alloc(0);
    private previousPdu: Buffer = Buffer.alloc(0);
    private readonly timers = new Set<NodeJS.Timeout>();
    private server: Server | undefined;
    private udp: UdpSocket | undefined;

    constructor(readonly wire: ServerWire = "tcp") {
        super();
    }

    static async start(port = 0, wire: ServerWire = "tcp"): Promise<FaultServer> {
        const server = new FaultServer(wire);
        await server.listen(port);
        return server;
    }

    async listen(port = this.port): Promise<void> {
        if (this.wire === "udp") {
            const udp = createSocket("udp4");
            this.udp = udp;
            udp.on("message", (datagram, { port: from }) => {
                this.client = from;
                this.serve(datagram, {} as Socket, 1, (bytes) => udp.send(bytes, from, this.host));
            });
            udp.bind(port, this.host);
            await once(udp, "listening");
            this.port = udp.address().port;
            return;
        }
        const server = createServer((socket) => this.accept(socket));
        this.server = server;
        server.listen(port, this.host);
        await once(server, "listening");
        this.port = (server.address() as AddressInfo).port;
    }

    script(...behaviours: Behaviour[]): void {
        this.behaviours.push(...behaviours);
    }

    /** Resolves with the next request, already answered or not. */
    async nextRequest(): Promise<Asked> {
        const [asked] = await once(this, "request");
        return asked as Asked;
    }

    /** RST to every client. */
    reset(): void {
        for (const socket of this.live) socket.resetAndDestroy();
    }

    /** No longer listens, and cuts every client; `listen()` starts it again on the same port. */
    async stop(): Promise<void> {
        for (const timer of this.timers) clearTimeout(timer);
        for (const socket of this.live) socket.destroy();
        const { server, udp } = this;
        this.server = undefined;
        this.udp = undefined;
        for (const ending of [server, udp]) {
            if (!ending) continue;
            ending.close();
            await once(ending as EventEmitter, "close");
        }
    }

    private accept(socket: Socket): void {
        const connection = ++this.connections;
        this.live.add(socket);
        socket.setNoDelay(true);
        socket.on("error", () => undefined);
        socket.on("close", () => {
            this.live.delete(socket);
            this.emit("disconnection");
        });
        this.emit("connection", socket);
        if (this.onConnect) {
            this.onConnect(socket);
            return;
        }
        let unanswered = false;
        let rest = Buffer.alloc(0);
        socket.on("data", (chunk: Buffer) => {
            rest = Buffer.concat([rest, chunk]);
            for (let length = this.lengthOf(rest); length <= rest.length; length = this.lengthOf(rest)) {
                const frame = rest.subarray(0, length);
                rest = rest.subarray(length);
                if (unanswered) this.violations.push("request sent while another was unanswered");
                unanswered = true;
                this.serve(frame, socket, connection, (bytes) => {
                    unanswered = false;
                    if (socket.writable) socket.write(bytes);
                });
            }
        });
    }

    /** Of the request that begins here; more than there is while that is unknown. */
    private lengthOf(bytes: Buffer): number {
        if (this.wire !== "rtutcp") return bytes.length < 6 ? 6 : 6 + bytes.readUInt16BE(4);
        return (bytes[1] ?? 0) < 15 ? 8 : 9 + (bytes[6] ?? 0);
    }

    private serve(frame: Buffer, socket: Socket, connection: number, send: (bytes: Buffer) => void): void {
        const isRtu = this.wire === "rtutcp";
        const pdu = isRtu ? frame.subarray(1, -2) : frame.subarray(7);
        const asked: Asked = {
            transaction: isRtu ? 0 : frame.readUInt16BE(0),
            unit: frame[isRtu ? 0 : 6] as number,
            function: pdu[0] as number,
            address: pdu.readUInt16BE(1),
            quantity: pdu.readUInt16BE(3),
            pdu,
            at: performance.now(),
            connection,
        };
        const isBroken = isRtu ? crc16(frame) !== 0 : frame.readUInt16BE(2) !== 0 || frame.length !== this.lengthOf(frame);
        if (isBroken || ![1, 2, 3, 4, 5, 6, 15, 16].includes(asked.function)) this.violations.push(`broken request ${frame.toString("hex")}`);
        this.asked.push(asked);
        const wrap: Peer["wrap"] = (body, unit = asked.unit) => (isRtu ? rtu(unit, body) : mbap(asked.transaction, unit, body));
        const answer = answerTo(asked, this.registers);
        const right = wrap(answer);
        const peer: Peer = {
            socket,
            right,
            pdu: answer,
            previous: this.previous,
            previousPdu: this.previousPdu,
            request: frame,
            wrap,
            send,
            later: this.later,
        };
        this.previous = right;
        this.previousPdu = answer;
        (this.behaviours.shift() ?? this.otherwise)(asked, peer);
        this.emit("request", asked);
    }
}

/** The data bytes that a right answer holds, or undefined where it is exception 2. */
export function rightData(asked: Pick<Asked, "unit" | "function" | "address" | "quantity">, registers: Registers): Buffer | undefined {
    const { unit, address, quantity } = asked;
    const isBits = asked.function <= 2;
    const data = Buffer.alloc(isBits ? Math.ceil(quantity / 8) : quantity * 2);
    for (let i = 0; i < quantity; i++) {
        const word = registers(unit, address + i, asked.function);
        if (word === undefined) return undefined;
        if (isBits) data[i >> 3] = (data[i >> 3] as number) | ((word & 1) << (i & 7));
        else data.writeUInt16BE(word & 0xffff, i * 2);
    }
    return data;
}

/** A Modbus TCP frame. */
export function mbap(transaction: number, unit: number, pdu: Buffer | number[], protocol = 0): Buffer {
    const body = Buffer.from(pdu);
    const header = Buffer.alloc(7);
    header.writeUInt16BE(transaction & 0xffff, 0);
    header.writeUInt16BE(protocol, 2);
    header.writeUInt16BE(body.length + 1, 4);
    header[6] = unit;
    return Buffer.concat([header, body]);
}

/** An RTU frame. */
export function rtu(unit: number, pdu: Buffer | number[]): Buffer {
    const frame = Buffer.from([unit, ...pdu, 0, 0]);
    frame.writeUInt16LE(crc16(frame, 0, frame.length - 2), frame.length - 2);
    return frame;
}

function answerTo(asked: Asked, registers: Registers): Buffer {
    if (asked.function > 4) return asked.pdu.subarray(0, 5);
    const data = rightData(asked, registers);
    return Buffer.from(data ? [asked.function, data.length, ...data] : [asked.function | 0x80, 2]);
}

/** The right answer with some bytes changed. */
function bent(change: (frame: Buffer, asked: Asked) => void): Behaviour {
    return (asked, { right, send }) => {
        const frame = Buffer.from(right);
        change(frame, asked);
        send(frame);
    };
}

/** The right answer with some bytes of its PDU changed, in a right frame. */
function bentPdu(change: (pdu: Buffer) => void): Behaviour {
    return (_asked, { pdu, wrap, send }) => {
        const changed = Buffer.from(pdu);
        change(changed);
        send(wrap(changed));
    };
}

/** Faults seen in the field, each a behaviour for one request. */
export const faults = {
    right: ((_asked, { right, send }) => send(right)) as Behaviour,
    silent: (() => undefined) as Behaviour,
    exception: (code: number): Behaviour => (asked, { send, wrap }) => send(wrap([asked.function | 0x80, code])),
    late: (ms: number): Behaviour => (_asked, { right, send, later }) => later(ms, () => send(right)),
    transaction: (shift: number): Behaviour => bent((frame, asked) => frame.writeUInt16BE((asked.transaction + shift) & 0xffff, 0)),
    protocol: (id: number): Behaviour => bent((frame) => frame.writeUInt16BE(id, 2)),
    length: (length: number): Behaviour => bent((frame) => frame.writeUInt16BE(length, 4)),
    byteCount: (shift: number): Behaviour => bentPdu((pdu) => (pdu[1] = (pdu[1] as number) + shift)),
    unit: (unit: number): Behaviour => (_asked, { pdu, send, wrap }) => send(wrap(pdu, unit)),
    function: (code: number): Behaviour => bentPdu((pdu) => (pdu[0] = code)),
    /** One bit of one byte is turned over, behind the frame's header or before its end where `at` is negative. */
    bit: (at: number): Behaviour => bent((frame) => (frame[(at + frame.length) % frame.length]! ^= 4)),
    /** A well-formed answer that holds more or fewer registers than asked. */
    registers: (quantity: number): Behaviour => (asked, { send, wrap }) => {
        const data = Buffer.alloc(quantity * 2, 0x5a);
        send(wrap([asked.function, data.length, ...data]));
    },
    /** A PDU of any bytes. */
    pdu: (...bytes: number[]): Behaviour => (_asked, { send, wrap }) => send(wrap(bytes)),
    duplicate: ((_asked, { right, send }) => send(Buffer.concat([right, right]))) as Behaviour,
    /** The answer to the request before, as it was sent then, and never the right one. */
    replay: ((_asked, { previous, send }) => send(previous)) as Behaviour,
    /** The answer to the request before under the new transaction: what a confused bridge does. */
    stale: ((_asked, { previousPdu, send, wrap }) => send(wrap(previousPdu))) as Behaviour,
    /** The request itself comes back, as on an RS485 line with echo. */
    echo: ((_asked, { request, send }) => send(request)) as Behaviour,
    before: (noise: Buffer): Behaviour => (_asked, { right, send }) => send(Buffer.concat([noise, right])),
    after: (noise: Buffer): Behaviour => (_asked, { right, send }) => send(Buffer.concat([right, noise])),
    /** One byte a turn of the event loop. */
    bytewise: ((_asked, { right, send, later }) => {
        const next = (at: number) => {
            send(right.subarray(at, at + 1));
            if (at + 1 < right.length) later(0, () => next(at + 1));
        };
        next(0);
    }) as Behaviour,
    /** The first bytes of the answer, then nothing. */
    cut: (bytes: number): Behaviour => (_asked, { right, send }) => send(right.subarray(0, bytes)),
    cutAndEnd: (bytes: number): Behaviour => (_asked, { right, socket }) => socket.end(right.subarray(0, bytes)),
    end: ((_asked, { socket }) => socket.end()) as Behaviour,
    reset: ((_asked, { socket }) => socket.resetAndDestroy()) as Behaviour,
};
