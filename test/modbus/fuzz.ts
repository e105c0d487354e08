import assert from "node:assert/strict";
import type { Socket as UdpSocket } from "node:dgram";
import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { DatagramFraming, MbapFraming } from "../../dist/modbus/mbap.js";
import type { LinkKind } from "../../dist/modbus/plan.js";
import { RtuFraming, RtuTransport, Strays } from "../../dist/modbus/rtu.js";
import { type SerialPort, SerialTransport } from "../../dist/modbus/serial.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError, type ModbusRequest, type Table, type Transport } from "../../dist/modbus/transport.js";
import { UdpTransport } from "../../dist/modbus/udp.js";
import { ManualClock } from "../common/manual-clock.js";
import { distinctWord, mbap, rightData } from "./fault-server.js";

const TIMEOUT_MS = 100;
const TABLES: Table[] = ["coil", "discrete", "holding", "input"];
const FUNCTION: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

export interface Tally {
    exchanges: number;
    /** Right values and confirmed writes. */
    right: number;
    /** Errors by code. */
    errors: Record<string, number>;
}

/**
 * Exchanges requests with a peer that answers right, wrong, late, in pieces, twice or not at all, through a whole transport whose
 * wire is in memory, and holds each outcome against what was asked: a value is the one at that unit, table and address, a write
 * that is confirmed was confirmed by the peer, all else is a typed error, and everything settles in time.
 */
export async function fuzz(kind: LinkKind["kind"], exchanges: number, seed: number): Promise<Tally> {
    const clock = new ManualClock();
    const peer = new HostilePeer(kind, seed);
    const strays = new Strays();
    const tally: Tally = { exchanges: 0, right: 0, errors: {} };
    let transport: Transport | undefined;
    let isLost = false;
    while (tally.exchanges < exchanges) {
        if (!transport || isLost) {
            await transport?.close();
            isLost = false;
            transport = connect(kind, peer, strays, clock, () => (isLost = true));
            await settled(transport.open(1_000), clock, 1_100);
        }
        const request = peer.nextRequest();
        const about = `seed ${seed}, exchange ${tally.exchanges}: ${JSON.stringify(request)}`;
        tally.exchanges++;
        peer.request = request;
        const outcome = await settled(transport.exchange(request, { timeoutMs: TIMEOUT_MS, checkUnit: true }), clock, 4 * TIMEOUT_MS + 300, about);
        if (Buffer.isBuffer(outcome)) {
            tally.right++;
            if ("values" in request) assert.ok(peer.confirmed === request, `a write that was not confirmed: ${about}`);
            else if (!outcome.equals(rightOf(request))) assert.fail(`a wrong value, ${outcome.toString("hex")}: ${about}`);
        } else {
            assert.ok(outcome instanceof ModbusError, `${String(outcome)}: ${about}`);
            tally.errors[outcome.code] = (tally.errors[outcome.code] ?? 0) + 1;
        }
    }
    await transport?.close();
    assert.equal(clock.waiting, 0, "a timer was left behind");
    return tally;
}

/** What a promise ends in, while time passes. */
export async function settled(promise: Promise<unknown>, clock: ManualClock, withinMs: number, about = ""): Promise<unknown> {
    const done = new AbortController();
    let outcome: unknown;
    const settle = (ended: unknown) => {
        outcome = ended;
        done.abort();
    };
    promise.then(settle, settle);
    for (let passed = 0; ; passed += 25) {
        for (let turn = 0; turn < 12 && !done.signal.aborted; turn++) await Promise.resolve();
        if (done.signal.aborted) return outcome;
        assert.ok(passed <= withinMs, `not settled within ${withinMs} ms: ${about}`);
        clock.advance(25);
    }
}

/** A transport whose wire is in memory and ends at a peer. */
export function connect(kind: LinkKind["kind"], peer: HostilePeer, strays: Strays, clock: ManualClock, onLost: (error: ModbusError) => void): Transport {
    const common = { host: "peer", port: 1, clock, onLost };
    const line = new MemoryLine(peer);
    if (kind === "udp") return new UdpTransport({ ...common, framing: new DatagramFraming(), createSocket: () => line as unknown as UdpSocket });
    const createSocket = () => line as unknown as Socket;
    if (kind === "tcp") return new TcpTransport({ ...common, framing: new MbapFraming(), createSocket });
    const framing = new RtuFraming(strays, clock);
    if (kind === "rtutcp") return new RtuTransport({ framing, clock, wire: new TcpTransport({ ...common, framing, createSocket }) });
    const settings = { path: "line", baud: 19_200, parity: "even", stopBits: 1 } as const;
    const wire = new SerialTransport({ ...settings, ...common, framing, createPort: () => line as unknown as SerialPort });
    return new RtuTransport({ framing, clock, wire, characterMs: 11_000 / 19_200 });
}

/** A TCP socket, UDP socket or serial port, as far as the transports know them. */
class MemoryLine extends EventEmitter {
    isOpen = false;
    private isDestroyed = false;

    constructor(private readonly peer: HostilePeer) {
        super();
        peer.connected();
    }

    connect(): void {
        queueMicrotask(() => this.emit("connect"));
    }

    open(done: (error: null) => void): void {
        this.isOpen = true;
        queueMicrotask(() => done(null));
    }

    write(bytes: Buffer): void {
        for (const chunk of this.peer.answer(bytes)) if (!this.isDestroyed) this.emit("data", chunk);
    }

    send(bytes: Buffer): void {
        for (const chunk of this.peer.answer(bytes)) if (!this.isDestroyed) this.emit("message", chunk);
    }

    destroy(): void {
        if (this.isDestroyed) return;
        this.isDestroyed = true;
        queueMicrotask(() => this.emit("close"));
    }

    close(done?: () => void): void {
        this.isOpen = false;
        this.destroy();
        done?.();
    }

    setNoDelay(): void {}
    setKeepAlive(): void {}
}

interface Frame {
    bytes: Buffer;
    pdu: Buffer;
    unit: number;
    request: ModbusRequest;
}

/** A device, its line and its bridge, that work off requests in order and get everything else wrong. */
export class HostilePeer {
    /** What is being asked, beside reads that the transport sends on its own. */
    request: ModbusRequest | undefined;
    /** The last write whose confirmation was sent whole. */
    confirmed: ModbusRequest | undefined;
    private late: Frame[] = [];
    private previous: Frame | undefined;
    private state: number;
    private readonly isRtu: boolean;

    /** @param isBroken It never answers right. */
    constructor(
        private readonly kind: LinkKind["kind"],
        seed: number,
        private readonly isBroken = false,
    ) {
        this.state = seed;
        this.isRtu = kind === "rtu" || kind === "rtutcp";
    }

    /** What is late on a line comes over any connection to it; what is late on a TCP connection ends with it. */
    connected(): void {
        if (this.isRtu) return;
        this.late = [];
        this.previous = undefined;
    }

    nextRequest(): ModbusRequest {
        const unit = 1 + this.upTo(3);
        const address = this.upTo(60_000);
        const quantity = this.upTo(8) === 0 ? 1 + this.upTo(125) : 1 + this.upTo(6);
        if (this.upTo(10) > 0) return { unit, address, quantity, table: TABLES[this.upTo(4)] as Table };
        const isCoil = this.upTo(2) === 0;
        // Few addresses, so that earlier confirmations look alike.
        return { unit, address: this.upTo(3), table: isCoil ? "coil" : "holding", values: Array.from({ length: 1 + this.upTo(3) }, () => this.upTo(2)) };
    }

    /** What comes back for what was sent, in the pieces in which it comes. */
    answer(sent: Buffer): Buffer[] {
        const frame = this.right(sent);
        if (this.isBroken) return [this.upTo(3) === 0 ? Buffer.alloc(0) : frame.bytes.subarray(0, this.upTo(frame.bytes.length))].filter(({ length }) => length > 0);
        if (this.late.length > 0 && this.upTo(3) === 0) {
            this.late.push(frame);
            return [];
        }
        const before = this.late;
        this.late = [];
        const chunks = before.map(({ bytes }) => bytes);
        const bytes = this.bend(frame, sent);
        this.previous = frame;
        for (const { bytes: shown, request } of [...before, { bytes, request: frame.request }]) {
            if ("values" in request && shown?.includes(frame.request === request ? frame.bytes : shown)) this.confirmed = request;
        }
        if (!bytes) this.late.push(frame);
        else chunks.push(bytes);
        return this.kind === "udp" ? chunks : this.split(chunks);
    }

    /** The right answer. */
    private right(sent: Buffer): Frame {
        const [unit = 0, ...rest] = this.isRtu ? sent.subarray(0, -2) : sent.subarray(6);
        const asked = Buffer.from(rest);
        const code = asked[0] as number;
        const own = this.request;
        const isOwn = own !== undefined && (code > 4) === "values" in own;
        const request = isOwn ? own : { unit, table: TABLES[code === 3 ? 2 : code === 4 ? 3 : code - 1] as Table, address: asked.readUInt16BE(1), quantity: asked.readUInt16BE(3) };
        const data = code <= 4 ? rightData({ unit, function: code, address: asked.readUInt16BE(1), quantity: asked.readUInt16BE(3) }, distinctWord) : undefined;
        const pdu = data ? Buffer.from([code, data.length, ...data]) : asked.subarray(0, 5);
        return { bytes: this.isRtu ? rtuFrame(unit, pdu) : mbap(sent.readUInt16BE(0), unit, pdu), pdu, unit, request };
    }

    /** What the peer makes of the right answer; undefined: nothing yet, it comes late. */
    private bend({ bytes, pdu, unit }: Frame, sent: Buffer): Buffer | undefined {
        const wrap = (body: Buffer | number[], from = unit) => (this.isRtu ? rtuFrame(from, Buffer.from(body)) : mbap(sent.readUInt16BE(0), from, body));
        const noise = () => Buffer.from(Array.from({ length: this.upTo(12) }, () => this.upTo(256)));
        const code = pdu[0] as number;
        switch (this.upTo(24)) {
            case 0:
                return undefined;
            case 1:
                return wrap([code | 0x80, this.upTo(12)]);
            case 2:
                return Buffer.concat([this.isRtu ? noise() : (this.previous?.bytes ?? noise()), bytes]);
            case 3:
                return Buffer.concat([bytes, bytes]);
            case 4:
                return bytes.subarray(0, this.upTo(bytes.length));
            case 5:
                return this.flip(bytes);
            case 6:
                return this.flip(bytes);
            case 7:
                return wrap(pdu, unit + 1 + this.upTo(200));
            case 8:
                return wrap([(code + 1 + this.upTo(250)) & 0xff, ...pdu.subarray(1)]);
            case 9:
                return wrap([code, this.upTo(256), ...pdu.subarray(2, 2 + this.upTo(pdu.length))].slice(0, pdu.length - 1));
            case 10:
                return wrap([...pdu, 0, 0].slice(0, 253 - this.upTo(2)).concat(pdu.length > 250 ? [1] : []));
            case 11:
                return this.isRtu ? Buffer.concat([sent, bytes]) : sent;
            case 12:
                return noise();
            case 13:
                return Buffer.concat([bytes, noise()]);
            case 14:
                return this.otherThan(bytes);
            case 15:
                return Buffer.concat([wrap(pdu, unit + 3), bytes]);
            case 16:
                return wrap([code | 0x80, ...noise()].slice(0, 8));
            default:
                return bytes;
        }
    }

    /** One bit, or a burst of up to 16, where the framing can see it: RTU's check covers all, Modbus TCP's header itself alone. */
    private flip(bytes: Buffer): Buffer {
        const bent = Buffer.from(bytes);
        const last = this.isRtu ? bent.length - 1 : Math.min(8, bent.length - 1);
        const at = this.upTo(last + 1);
        bent[at] = (bent[at] as number) ^ (1 + this.upTo(255));
        if (this.isRtu && at < last) bent[at + 1] = (bent[at + 1] as number) ^ this.upTo(256);
        return bent;
    }

    /** The answer before: on RTU only where it differs in unit, function or length, since nothing else tells it apart. */
    private otherThan(bytes: Buffer): Buffer {
        const before = this.previous?.bytes;
        if (!before) return bytes;
        const isAlike = before.length === bytes.length && before[0] === bytes[0] && before[1] === bytes[1];
        return this.isRtu && isAlike ? bytes : Buffer.concat([before, this.upTo(2) === 0 ? bytes : Buffer.alloc(0)]);
    }

    /** Cuts what comes at any place, and may join what comes together. */
    private split(chunks: Buffer[]): Buffer[] {
        const all = this.upTo(3) === 0 ? [Buffer.concat(chunks)] : chunks;
        return all.flatMap((chunk) => {
            const way = this.upTo(8);
            if (way === 0) return Array.from(chunk, (byte) => Buffer.from([byte]));
            if (way > 3 || chunk.length === 0) return [chunk];
            const cut = this.upTo(chunk.length);
            return [chunk.subarray(0, cut), chunk.subarray(cut)];
        });
    }

    /** A whole number of 0..n-1 (mulberry32). */
    private upTo(n: number): number {
        this.state = (this.state + 0x6d2b79f5) | 0;
        let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n);
    }
}

/** What is at that place, and nowhere else. */
function rightOf(request: ModbusRequest): Buffer {
    assert.ok(!("values" in request));
    const { unit, table, address, quantity } = request;
    return rightData({ unit, function: FUNCTION[table], address, quantity }, distinctWord) as Buffer;
}

/** An RTU frame, its check computed bit by bit (Modbus over Serial Line V1.02 §6.2.2): not by what is tested. */
function rtuFrame(unit: number, pdu: Buffer): Buffer {
    const frame = Buffer.from([unit & 0xff, ...pdu, 0, 0]);
    let crc = 0xffff;
    for (const byte of frame.subarray(0, -2)) {
        crc ^= byte;
        for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xa001 : crc >>> 1;
    }
    frame.writeUInt16LE(crc, frame.length - 2);
    return frame;
}
