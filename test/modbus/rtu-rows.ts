import type { ReadRequest } from "../../dist/modbus/transport.js";
import { type Behaviour, faults, rtu } from "./fault-server.js";
import { holding } from "./rig.js";

/** One fault of an RTU line, and how the read that meets it ends. */
export interface Row {
    name: string;
    fault: Behaviour;
    /** The code of the error, or the right value. */
    ends: string;
    request?: ReadRequest;
}

const RIGHT = { ends: "right" };
const LATE = { ends: "MODBUS_TIMEOUT" };
const FRAME = { ends: "MODBUS_FRAME" };
const CLOSED = { ends: "MODBUS_CLOSED" };
const REFUSED = { ends: "MODBUS_EXCEPTION" };
/** What is read before each fault. */
export const LONG = holding(1, 0, 60);
const ANSWER = rtu(1, [3, 8, 1, 2, 3, 4, 5, 6, 7, 8]);

const before = (...frames: Buffer[]): Behaviour => faults.before(Buffer.concat(frames));
const echoed: Behaviour = (_asked, { request, right, send }) => send(Buffer.concat([request, right]));

export const ROWS: Row[] = [
    { name: "no reply", fault: faults.silent, ...LATE },
    { name: "the peer closes while a request is out", fault: faults.end, ...CLOSED },
    { name: "the peer closes in the middle of a frame", fault: faults.cutAndEnd(6), ...CLOSED },
    { name: "the peer resets", fault: faults.reset, ...CLOSED },
    { name: "a frame that never ends", fault: faults.cut(6), ...FRAME },
    { name: "a first byte and no more", fault: faults.cut(1), ...FRAME },
    { name: "all but the last byte", fault: faults.cut(12), ...FRAME },
    { name: "a slow first byte", fault: faults.late(20), ...RIGHT },
    { name: "one byte at a time", fault: faults.bytewise, ...RIGHT },
    { name: "a bit of the data turned over", fault: faults.bit(5), ...FRAME },
    { name: "a bit of the check turned over", fault: faults.bit(-1), ...FRAME },
    { name: "a bit of the unit turned over", fault: faults.bit(0), ...FRAME },
    { name: "a bit of the function turned over", fault: faults.bit(1), ...FRAME },
    { name: "a bit of the byte count turned over", fault: faults.bit(2), ...FRAME },
    { name: "byte count 2 too large, check right", fault: faults.byteCount(2), ...FRAME },
    { name: "byte count 2 too small, check right", fault: faults.byteCount(-2), ...FRAME },
    { name: "a whole answer with more registers than asked", fault: faults.registers(125), ...FRAME },
    { name: "a whole answer with one register more than asked", fault: faults.registers(5), ...FRAME },
    { name: "a whole answer with fewer registers than asked", fault: faults.registers(1), ...FRAME },
    { name: "a whole answer with no registers", fault: faults.registers(0), ...FRAME },
    { name: "a replay of the longer frame before", fault: faults.replay, ...FRAME },
    { name: "the longer frame before, then the answer", fault: (asked, peer) => before(peer.previous)(asked, peer), ...RIGHT },
    { name: "another unit's answer, then the answer", fault: before(rtu(9, ANSWER.subarray(1, -2))), ...RIGHT },
    { name: "another unit's request and answer, then the answer", fault: before(rtu(9, [3, 0, 0, 0, 4]), rtu(9, ANSWER.subarray(1, -2))), ...RIGHT },
    { name: "another unit's answer alone", fault: faults.unit(9), ...FRAME },
    { name: "unit 0 instead", fault: faults.unit(0), ...FRAME },
    { name: "unit 255 instead", fault: faults.unit(255), ...FRAME },
    { name: "a byte of noise before the answer", fault: before(Buffer.from([0])), ...RIGHT },
    { name: "noise before the answer", fault: before(Buffer.from("ff000103fe7f", "hex")), ...RIGHT },
    { name: "noise that begins like the answer before it", fault: before(Buffer.from("0103", "hex")), ...RIGHT },
    { name: "text before the answer", fault: before(Buffer.from("connected to 192.168.1.9\r\n")), ...RIGHT },
    { name: "a byte of noise after the answer", fault: faults.after(Buffer.from([0])), ...RIGHT },
    { name: "noise as long as a frame after the answer", fault: faults.after(Buffer.from("ffffffffffff", "hex")), ...FRAME },
    { name: "a repeated answer", fault: faults.duplicate, ...RIGHT },
    { name: "two answers that differ", fault: before(ANSWER), ...FRAME },
    { name: "the request comes back, then the answer", fault: echoed, ...RIGHT },
    { name: "noise, the request, noise, the answer", fault: (asked, peer) => before(Buffer.from([0]), peer.request, Buffer.from([255]))(asked, peer), ...RIGHT },
    { name: "the request comes back alone", fault: faults.echo, ...LATE },
    { name: "another function", fault: faults.function(4), ...FRAME },
    { name: "an exception for another function", fault: faults.pdu(0x84, 2), ...FRAME },
    { name: "an exception without a code", fault: faults.pdu(0x83), ...FRAME },
    { name: "an exception with two bytes", fault: faults.pdu(0x83, 2, 2), ...FRAME },
    { name: "exception 0", fault: faults.exception(0), ...FRAME },
    { name: "exception 1", fault: faults.exception(1), ...REFUSED },
    { name: "exception 2", fault: faults.exception(2), ...REFUSED },
    { name: "exception 6, busy", fault: faults.exception(6), ...REFUSED },
    { name: "exception 0x0A of a gateway", fault: faults.exception(0x0a), ...REFUSED },
    { name: "exception 0x0B of a gateway", fault: faults.exception(0x0b), ...REFUSED },
    { name: "bits: a whole answer one byte longer", fault: faults.pdu(1, 3, 1, 2, 3), ...FRAME, request: { unit: 1, table: "coil", address: 3, quantity: 16 } },
    { name: "bits: a request that comes back looks like no answer", fault: faults.echo, ...LATE, request: { unit: 1, table: "coil", address: 0x0305, quantity: 20 } },
    { name: "a device that answers with ASCII", fault: faults.pdu(3, 4, ...Buffer.from("32ST")), ...FRAME },
];
