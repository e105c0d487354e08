import assert from "node:assert/strict";
import type { LinkMember } from "../../dist/modbus/link.js";
import type { ReadRequest } from "../../dist/modbus/transport.js";
import { type Behaviour, faults, mbap } from "./fault-server.js";
import { holding, outcome, Rig, SETTINGS } from "./rig.js";

interface Row {
    name: string;
    fault: Behaviour;
    /** The code of the error, or the right value. */
    ends: string;
    /** Whether it takes the timeout, or is known at once. */
    afterTimeout?: boolean;
    request?: ReadRequest;
    checkUnit?: boolean;
}

const RIGHT = "right";
const LATE = { ends: "MODBUS_TIMEOUT", afterTimeout: true };
const FRAME = { ends: "MODBUS_FRAME" };
const STOPPED = { ends: "MODBUS_FRAME", afterTimeout: true };
const CLOSED = { ends: "MODBUS_CLOSED" };

const ROWS: Row[] = [
    { name: "no reply", fault: faults.silent, ...LATE },
    { name: "the peer closes while a request is out", fault: faults.end, ...CLOSED },
    { name: "the peer closes in the middle of a frame", fault: faults.cutAndEnd(11), ...CLOSED },
    { name: "the peer resets", fault: faults.reset, ...CLOSED },
    { name: "a frame that never ends", fault: faults.cut(11), ...STOPPED },
    { name: "a header that never ends", fault: faults.cut(3), ...STOPPED },
    { name: "a slow first byte", fault: faults.late(20), ends: RIGHT },
    { name: "the answer to an older transaction", fault: faults.transaction(-1), ...LATE },
    { name: "the answer to a transaction never asked", fault: faults.transaction(1), ...FRAME },
    { name: "the answer to a transaction long before the first", fault: faults.transaction(-30_000), ...FRAME },
    { name: "a replay of the frame before", fault: faults.replay, ...LATE },
    { name: "protocol id 1", fault: faults.protocol(1), ...FRAME },
    { name: "protocol id 65535", fault: faults.protocol(0xffff), ...FRAME },
    { name: "length 60000", fault: faults.length(60_000), ...FRAME },
    { name: "length 255", fault: faults.length(255), ...FRAME },
    { name: "length 0", fault: faults.length(0), ...FRAME },
    { name: "length 2", fault: faults.length(2), ...FRAME },
    { name: "length 2 short", fault: faults.length(9), ...FRAME },
    { name: "length 2 too many", fault: faults.length(13), ...STOPPED },
    { name: "byte count 2 too large", fault: faults.byteCount(2), ...FRAME },
    { name: "byte count 2 too small", fault: faults.byteCount(-2), ...FRAME },
    { name: "byte count odd", fault: faults.byteCount(1), ...FRAME },
    { name: "a whole answer with more registers than asked", fault: faults.registers(125), ...FRAME },
    { name: "a whole answer with fewer registers than asked", fault: faults.registers(1), ...FRAME },
    { name: "a whole answer with no registers", fault: faults.registers(0), ...FRAME },
    { name: "an older, longer answer under the new transaction", fault: faults.stale, ...FRAME },
    { name: "a repeated answer", fault: faults.duplicate, ends: RIGHT },
    { name: "an older frame before the answer", fault: (asked, peer) => faults.before(peer.previous)(asked, peer), ends: RIGHT },
    { name: "a foreign frame before the answer", fault: faults.before(mbap(0x7777, 9, [3, 2, 0, 1])), ...FRAME },
    { name: "noise before the answer", fault: faults.before(Buffer.from("000102030405060708", "hex")), ...FRAME },
    { name: "text before the answer", fault: faults.before(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")), ...FRAME },
    { name: "noise after the answer", fault: faults.after(Buffer.from("ffffffffffff", "hex")), ...FRAME },
    { name: "one byte at a time", fault: faults.bytewise, ends: RIGHT },
    { name: "the answer of another unit", fault: faults.unit(9), ...FRAME },
    { name: "unit 0 instead", fault: faults.unit(0), ...FRAME },
    { name: "unit 255 instead", fault: faults.unit(255), ...FRAME },
    { name: "unit 255 from a gateway that always says so", fault: faults.unit(255), ends: RIGHT, checkUnit: false },
    { name: "another function", fault: faults.function(4), ...FRAME },
    { name: "an exception for another function", fault: faults.pdu(0x84, 2), ...FRAME },
    { name: "two bytes of another function", fault: faults.pdu(4, 2), ...FRAME },
    { name: "an exception without a code", fault: faults.pdu(0x83), ...FRAME },
    { name: "an exception with two bytes", fault: faults.pdu(0x83, 2, 2), ...FRAME },
    { name: "exception 0", fault: faults.exception(0), ...FRAME },
    { name: "exception 1", fault: faults.exception(1), ends: "MODBUS_EXCEPTION" },
    { name: "exception 2", fault: faults.exception(2), ends: "MODBUS_EXCEPTION" },
    { name: "exception 0x0A of a gateway", fault: faults.exception(0x0a), ends: "MODBUS_EXCEPTION" },
    { name: "exception 0x0B of a gateway", fault: faults.exception(0x0b), ends: "MODBUS_EXCEPTION" },
    { name: "exception 250, which no standard knows", fault: faults.exception(250), ends: "MODBUS_EXCEPTION" },
    { name: "the request comes back", fault: faults.echo, ...FRAME },
    { name: "a request for bits comes back that looks like an answer", fault: faults.echo, ...FRAME, request: { unit: 1, table: "discrete", address: 0x0342, quantity: 18 } },
];

describe("A Modbus TCP fault", () => {
    let rig: Rig;
    beforeEach(async () => {
        rig = await Rig.start();
    });
    afterEach(() => rig.stop());

    for (const row of ROWS) {
        it(`${row.name}: ${row.ends}, and later reads are right`, async () => {
            const member = rig.join({ checkUnit: row.checkUnit ?? true });
            await rig.readsRight(member, holding(1, 0, 60));
            rig.server.script(row.fault);
            const { request = holding(1, 200, 4) } = row;
            const seen = row.ends === "MODBUS_FRAME" ? rig.received() : rig.server.nextRequest();
            const read = outcome(member.read(request));
            await seen;
            if (row.afterTimeout) rig.clock.advance(SETTINGS.timeoutMs);
            assert.deepEqual(await read, row.ends === RIGHT ? rig.right(request) : row.ends);
            await recovers(rig, member);
            assert.deepEqual(rig.server.violations, row.afterTimeout ? rig.server.violations : []);
            await member.leave();
            assert.equal(rig.clock.waiting, 0, "a timer was left behind");
        });
    }

    it("a late reply is dropped, not taken for the next answer", async () => {
        const member = rig.join();
        await rig.readsRight(member, holding(1, 0, 4));
        let answerLate: (() => void) | undefined;
        rig.server.script((asked, peer) => (answerLate = () => faults.right(asked, peer)));
        const asked = rig.server.nextRequest();
        const read = outcome(member.read(holding(1, 10, 4)));
        await asked;
        rig.clock.advance(SETTINGS.timeoutMs);
        assert.equal(await read, "MODBUS_TIMEOUT");
        rig.server.script((next, peer) => {
            answerLate?.();
            faults.right(next, peer);
        });
        await rig.readsRight(member, { ...holding(1, 20, 4), probe: true });
        await rig.readsRight(member, holding(1, 30, 4));
        assert.equal(rig.server.connections, 1);
        await member.leave();
    });

    it("busy for some tries, then right: a busy unit is asked again at once", async () => {
        const member = rig.join();
        rig.server.script(faults.exception(6), faults.exception(6), faults.exception(5));
        for (let i = 0; i < 3; i++) assert.equal(await outcome(member.read(holding(1))), "MODBUS_EXCEPTION");
        await rig.readsRight(member, holding(1));
        await member.leave();
    });

    it("an exception on the long read only", async () => {
        const member = rig.join();
        rig.server.otherwise = (asked, peer) => (asked.quantity > 50 ? faults.exception(3)(asked, peer) : faults.right(asked, peer));
        assert.equal(await outcome(member.read(holding(1, 0, 100))), "MODBUS_EXCEPTION");
        await rig.readsRight(member, holding(1, 0, 50));
        await member.leave();
    });

    it("400 reads at once: each gets its own registers, one request on the wire", async () => {
        const member = rig.join();
        const requests = Array.from({ length: 400 }, (_, i) => holding((i % 5) + 1, i * 10, 10));
        const answers = await Promise.all(requests.map((request) => member.read(request)));
        assert.deepEqual(answers, requests.map((request) => rig.right(request)));
        assert.deepEqual(rig.server.violations, []);
        await member.leave();
    });

    it("transaction ids go round", async function () {
        this.timeout(60_000);
        const member = rig.join();
        rig.server.registers = (_unit, address) => address;
        for (let i = 0; i < 66_000; i++) {
            const data = await member.read({ unit: 1, table: "input", address: i % 60_000, quantity: 1 });
            if (data.readUInt16BE(0) !== i % 60_000) assert.fail(`read ${i} got ${data.toString("hex")}`);
        }
        await member.leave();
    });
});

/** However a fault ended, reads are right again, at the latest after the pauses that the link owes to device and network. */
async function recovers(rig: Rig, member: LinkMember): Promise<void> {
    if (rig.link.state.name === "down") rig.clock.advance(1_000);
    await rig.in("up");
    rig.clock.advance(2_000);
    await rig.readsRight(member, holding(1, 300, 125));
}
