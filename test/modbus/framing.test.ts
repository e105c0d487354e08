import assert from "node:assert/strict";
import fc from "fast-check";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { impossible } from "../../dist/modbus/pdu.js";
import { ModbusError, type ReadRequest, type Table } from "../../dist/modbus/transport.js";
import { mbap } from "./fault-server.js";

const TABLES: Table[] = ["coil", "discrete", "holding", "input"];
const CODES: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

describe("MBAP framing", () => {
    it("encodes requests as the standard's examples do", () => {
        const framing = new MbapFraming();
        const encode = (table: Table, address: number, quantity: number) =>
            framing.encode({ unit: 0x11, table, address, quantity }, true).toString("hex");
        // PDUs of Modbus Application Protocol V1.1b3 §6.1-6.4.
        assert.equal(encode("coil", 0x13, 0x13), "000100000006110100130013");
        assert.equal(encode("discrete", 0xc4, 0x16), "000200000006110200c40016");
        assert.equal(encode("holding", 0x6b, 3), "0003000000061103006b0003");
        assert.equal(encode("input", 8, 1), "000400000006110400080001");
    });

    it("takes the standard's example answers", () => {
        const framing = new MbapFraming();
        const answer = (table: Table, address: number, quantity: number, pdu: string) => {
            const sent = framing.encode({ unit: 1, table, address, quantity }, true);
            return framing.receive(mbap(sent.readUInt16BE(0), 1, Buffer.from(pdu, "hex")));
        };
        assert.deepEqual(answer("coil", 0x13, 0x13, "0103cd6b05"), Buffer.from("cd6b05", "hex"));
        assert.deepEqual(answer("discrete", 0xc4, 0x16, "0203acdb35"), Buffer.from("acdb35", "hex"));
        assert.deepEqual(answer("holding", 0x6b, 3, "0306022b00000064"), Buffer.from("022b00000064", "hex"));
        assert.deepEqual(answer("input", 8, 1, "0402000a"), Buffer.from("000a", "hex"));
        const refusal = answer("coil", 0x4a1, 1, "8102");
        assert.ok(refusal instanceof ModbusError && refusal.exception === 2 && refusal.code === "MODBUS_EXCEPTION");
    });

    it("refuses requests that no device can answer", () => {
        const good: ReadRequest = { unit: 1, table: "holding", address: 0, quantity: 1 };
        const refused = (change: Partial<ReadRequest>) => impossible({ ...good, ...change }, 125)?.code;
        for (const change of [{}, { quantity: 125 }, { address: 65_535 }, { unit: 0 }, { unit: 255 }, { table: "coil", quantity: 2000 } as const]) {
            assert.equal(refused(change), undefined, JSON.stringify(change));
        }
        const bad: Partial<ReadRequest>[] = [
            { quantity: 126 },
            { quantity: 0 },
            { quantity: 1.5 },
            { quantity: NaN },
            { table: "coil", quantity: 2001 },
            { address: -1 },
            { address: 65_536 },
            { address: 65_500, quantity: 37 },
            { unit: 256 },
            { unit: -1 },
            { table: "register" as Table },
        ];
        for (const change of bad) assert.equal(refused(change), "MODBUS_REQUEST", JSON.stringify(change));
        assert.equal(impossible({ ...good, quantity: 51 }, 50)?.code, "MODBUS_REQUEST");
    });

    it("takes nothing wrong from 100,000 hostile frames, however they are split", function () {
        this.timeout(60_000);
        const property = fc.property(fc.array(exchange, { minLength: 50, maxLength: 50 }), fc.boolean(), (exchanges, checkUnit) => {
            const tally = play(exchanges, checkUnit);
            assert.equal(tally.frames, exchanges.length);
        });
        fc.assert(property, { numRuns: 2_000 });
    });
});

/** One request and what a hostile peer sends for it. Numbers pick among possibilities, so that shrinking simplifies. */
interface Exchange {
    table: number;
    quantity: number;
    unit: number;
    kind: number;
    value: number;
    cuts: number[];
}

const exchange: fc.Arbitrary<Exchange> = fc.record({
    table: fc.nat(3),
    quantity: fc.integer({ min: 1, max: 125 }),
    unit: fc.nat(255),
    kind: fc.nat(15),
    value: fc.nat(0xffff),
    cuts: fc.array(fc.nat(40), { maxLength: 3 }),
});

/** Plays exchanges over one connection after another and holds each outcome against the oracle. */
function play(exchanges: Exchange[], checkUnit: boolean): { frames: number } {
    let framing = new MbapFraming();
    let oracle = new Oracle(checkUnit);
    let previous: Buffer = Buffer.alloc(0);
    let frames = 0;
    for (const it of exchanges) {
        const table = TABLES[it.table] as Table;
        const request: ReadRequest = { unit: it.unit, table, address: it.value, quantity: it.quantity };
        const sent = framing.encode(request, checkUnit);
        const transaction = sent.readUInt16BE(0);
        const right = rightAnswer(transaction, request, it.value);
        const bytes = hostile(it, transaction, request, right, previous);
        previous = right;
        frames++;
        oracle.ask(transaction, request);
        const expected = oracle.hear(bytes);
        const got = feed(framing, bytes, it.cuts);
        check(got, expected, it);
        const unfinished = got.outcome === undefined && framing.abandon() !== undefined;
        if (unfinished) assert.ok(got.broken || oracle.midFrame, "a frame was said to be unfinished");
        oracle.giveUp();
        if (got.broken || unfinished) {
            framing = new MbapFraming();
            oracle = new Oracle(checkUnit);
        }
    }
    return { frames };
}

function rightAnswer(transaction: number, { unit, table, quantity }: ReadRequest, seed: number): Buffer {
    const length = dataBytes(table, quantity);
    const data = Buffer.alloc(length);
    for (let i = 0; i < length; i++) data[i] = (seed * 31 + i * 7 + transaction) & 0xff;
    return mbap(transaction, unit, Buffer.concat([Buffer.from([CODES[table], length]), data]));
}

function dataBytes(table: Table, quantity: number): number {
    return CODES[table] <= 2 ? Math.ceil(quantity / 8) : quantity * 2;
}

function hostile({ kind, value }: Exchange, transaction: number, request: ReadRequest, right: Buffer, previous: Buffer): Buffer {
    const code = CODES[request.table];
    const bend = (change: (frame: Buffer) => void) => {
        const frame = Buffer.from(right);
        change(frame);
        return frame;
    };
    switch (kind) {
        case 0:
            return right;
        case 1:
            return mbap(transaction, request.unit, [code | 0x80, value & 0xff]);
        case 2:
            return Buffer.concat([previous, right]);
        case 3:
            return Buffer.concat([right, right]);
        case 4:
            return bend((frame) => frame.writeUInt16BE(value, 0));
        case 5:
            return bend((frame) => frame.writeUInt16BE(value % 3, 2));
        case 6:
            return bend((frame) => frame.writeUInt16BE(value % 300, 4));
        case 7:
            return bend((frame) => (frame[6] = value & 0xff));
        case 8:
            return bend((frame) => (frame[7] = value & 0xff));
        case 9:
            return bend((frame) => (frame[8] = value & 0xff));
        case 10:
            return right.subarray(0, value % right.length);
        case 11:
            return Buffer.concat([Buffer.from([value >> 8, value & 0xff]), right]);
        case 12:
            return mbap(transaction, request.unit, Buffer.alloc(value % 260, code));
        case 13:
            return bend((frame) => (frame[value % frame.length] = value >> 8));
        case 14:
            return mbap(transaction, request.unit, Buffer.concat([Buffer.from([(value & 1 ? code : value >> 8) | 0x80, value & 0xff]), Buffer.alloc(value % 3)]));
        default:
            return Buffer.concat([mbap(transaction - 1 - (value % 5), value & 0xff, Buffer.alloc(value % 7, value)), right]);
    }
}

interface Heard {
    /** What the reader who waits gets; the first counts. */
    outcome: Buffer | ModbusError | undefined;
    broken: boolean;
}

/** Hands the bytes over in pieces. */
function feed(framing: MbapFraming, bytes: Buffer, cuts: number[]): Heard {
    const edges = [...new Set([0, ...cuts.filter((cut) => cut < bytes.length), bytes.length])].toSorted((a, b) => a - b);
    let outcome: Buffer | ModbusError | undefined;
    try {
        for (let i = 1; i < edges.length; i++) {
            const heard = framing.receive(bytes.subarray(edges[i - 1], edges[i]));
            outcome ??= heard;
        }
    } catch (error) {
        assert.ok(error instanceof ModbusError && error.code === "MODBUS_FRAME", `not a typed error: ${String(error)}`);
        return { outcome, broken: true };
    }
    return { outcome, broken: false };
}

type Verdict = { data?: Buffer; exception?: number; broken: boolean };

/** What the bytes mean to somebody who knows what was asked: written from the standard, not from the framing. */
class Oracle {
    midFrame = false;
    private bytes: number[] = [];
    private asked: { transaction: number; request: ReadRequest } | undefined;
    private readonly known = new Set<number>();

    constructor(private readonly checkUnit: boolean) {}

    ask(transaction: number, request: ReadRequest): void {
        this.asked = { transaction, request };
        this.known.add(transaction);
    }

    giveUp(): void {
        this.asked = undefined;
    }

    hear(more: Buffer): Verdict {
        this.bytes.push(...more);
        const verdict: Verdict = { broken: false };
        while (this.bytes.length >= 6) {
            const [t1 = 0, t0 = 0, p1 = 0, p0 = 0, l1 = 0, l0 = 0] = this.bytes;
            const length = l1 * 256 + l0;
            if (p1 + p0 !== 0 || length < 3 || length > 254) return { ...verdict, broken: true };
            if (this.bytes.length < 6 + length) break;
            const [unit = 0, ...pdu] = this.bytes.splice(0, 6 + length).slice(6);
            const transaction = t1 * 256 + t0;
            if (this.asked?.transaction === transaction) {
                const { request } = this.asked;
                this.asked = undefined;
                if (this.checkUnit && unit !== request.unit) return { ...verdict, broken: true };
                const code = CODES[request.table];
                const size = dataBytes(request.table, request.quantity);
                if (pdu[0] === code && pdu[1] === size && pdu.length === size + 2) verdict.data = Buffer.from(pdu.slice(2));
                else if (pdu[0] === code + 128 && pdu.length === 2 && pdu[1] !== 0) verdict.exception = pdu[1] as number;
                else return { ...verdict, broken: true };
            } else if (!this.known.has(transaction)) {
                return { ...verdict, broken: true };
            }
        }
        this.midFrame = this.bytes.length > 0;
        return verdict;
    }
}

function check({ outcome, broken }: Heard, expected: Verdict, it: Exchange): void {
    const about = JSON.stringify(it);
    assert.equal(broken, expected.broken, `${broken ? "refused what was right" : "missed what was wrong"}: ${about}`);
    if (Buffer.isBuffer(outcome)) assert.deepEqual(outcome, expected.data, `took a wrong value: ${about}`);
    else if (outcome) assert.equal(outcome.exception, expected.exception, about);
    else if (!broken) assert.ok(!expected.data && expected.exception === undefined, `missed an answer: ${about}`);
}
