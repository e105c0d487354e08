import { EventEmitter, once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";

/** A read request as it came in. */
export interface Asked {
    transaction: number;
    unit: number;
    function: number;
    address: number;
    quantity: number;
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
    /** The right answer of the request before, on whatever connection; empty at first. */
    previous: Buffer;
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

/**
 * A Modbus TCP server over real sockets that answers right unless told otherwise, and notes what clients do wrong.
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
    readonly live = new Set<Socket>();
    private behaviours: Behaviour[] = [];
    private previous: Buffer = Buffer.alloc(0);
    private readonly timers = new Set<NodeJS.Timeout>();
    private server: Server | undefined;

    static async start(port = 0): Promise<FaultServer> {
        const server = new FaultServer();
        await server.listen(port);
        return server;
    }

    async listen(port = this.port): Promise<void> {
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
        const { server } = this;
        this.server = undefined;
        if (!server) return;
        server.close();
        await once(server, "close");
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
            while (rest.length >= 12) {
                const frame = rest.subarray(0, 12);
                rest = rest.subarray(12);
                if (unanswered) this.violations.push("request sent while another was unanswered");
                unanswered = true;
                this.serve(frame, socket, connection, () => (unanswered = false));
            }
        });
    }

    private serve(frame: Buffer, socket: Socket, connection: number, answered: () => void): void {
        const asked: Asked = {
            transaction: frame.readUInt16BE(0),
            unit: frame[6] as number,
            function: frame[7] as number,
            address: frame.readUInt16BE(8),
            quantity: frame.readUInt16BE(10),
            at: performance.now(),
            connection,
        };
        if (frame.readUInt16BE(2) !== 0 || frame.readUInt16BE(4) !== 6 || asked.function < 1 || asked.function > 4) {
            this.violations.push(`broken request ${frame.toString("hex")}`);
        }
        this.asked.push(asked);
        const right = answerTo(asked, this.registers);
        const peer: Peer = {
            socket,
            right,
            previous: this.previous,
            send: (bytes) => {
                answered();
                if (socket.writable) socket.write(bytes);
            },
            later: (ms, task) => {
                const timer = setTimeout(() => {
                    this.timers.delete(timer);
                    task();
                }, ms);
                this.timers.add(timer);
            },
        };
        this.previous = right;
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

function answerTo(asked: Asked, registers: Registers): Buffer {
    const data = rightData(asked, registers);
    if (!data) return mbap(asked.transaction, asked.unit, [asked.function | 0x80, 2]);
    return mbap(asked.transaction, asked.unit, Buffer.concat([Buffer.from([asked.function, data.length]), data]));
}

/** The right answer with some bytes changed. */
function bent(change: (frame: Buffer, asked: Asked) => void): Behaviour {
    return (asked, { right, send }) => {
        const frame = Buffer.from(right);
        change(frame, asked);
        send(frame);
    };
}

/** Faults seen in the field, each a behaviour for one request. */
export const faults = {
    right: ((_asked, { right, send }) => send(right)) as Behaviour,
    silent: (() => undefined) as Behaviour,
    exception: (code: number): Behaviour => (asked, { send }) => send(mbap(asked.transaction, asked.unit, [asked.function | 0x80, code])),
    late: (ms: number): Behaviour => (_asked, { right, send, later }) => later(ms, () => send(right)),
    transaction: (shift: number): Behaviour => bent((frame, asked) => frame.writeUInt16BE((asked.transaction + shift) & 0xffff, 0)),
    protocol: (id: number): Behaviour => bent((frame) => frame.writeUInt16BE(id, 2)),
    length: (length: number): Behaviour => bent((frame) => frame.writeUInt16BE(length, 4)),
    byteCount: (shift: number): Behaviour => bent((frame) => (frame[8] = (frame[8] as number) + shift)),
    unit: (unit: number): Behaviour => bent((frame) => (frame[6] = unit)),
    function: (code: number): Behaviour => bent((frame) => (frame[7] = code)),
    /** A well-formed answer that holds more or fewer registers than asked. */
    registers: (quantity: number): Behaviour => (asked, { send }) => {
        const data = Buffer.alloc(quantity * 2, 0x5a);
        send(mbap(asked.transaction, asked.unit, Buffer.concat([Buffer.from([asked.function, data.length]), data])));
    },
    /** A PDU of any bytes. */
    pdu: (...bytes: number[]): Behaviour => (asked, { send }) => send(mbap(asked.transaction, asked.unit, bytes)),
    duplicate: ((_asked, { right, send }) => send(Buffer.concat([right, right]))) as Behaviour,
    /** The answer to the request before, as it was sent then, and never the right one. */
    replay: ((_asked, { previous, send }) => send(previous)) as Behaviour,
    /** The answer to the request before under the new transaction: what a confused bridge does. */
    stale: ((asked, { previous, send }) => {
        const frame = Buffer.from(previous);
        frame.writeUInt16BE(asked.transaction, 0);
        send(frame);
    }) as Behaviour,
    /** The request itself comes back, as on an RS485 line with echo. */
    echo: ((asked, { send }) => {
        const pdu = Buffer.alloc(5);
        pdu[0] = asked.function;
        pdu.writeUInt16BE(asked.address, 1);
        pdu.writeUInt16BE(asked.quantity, 3);
        send(mbap(asked.transaction, asked.unit, pdu));
    }) as Behaviour,
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
