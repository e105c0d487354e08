import assert from "node:assert/strict";
import { BlockReader } from "../../dist/modbus/block-reader.js";
import { ModbusLink, type LinkMember } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import type { ReadItem } from "../../dist/modbus/plan.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError } from "../../dist/modbus/transport.js";
import { ModbusTcpServer, type RegisterBank, type WireFault } from "../../dist/simulate/server.js";
import { byItem } from "./answers.js";
import { type Behaviour, faults } from "./fault-server.js";
import { Rig, SETTINGS } from "./rig.js";

const UNIT = 3;
const COST = { requestMs: 40, registerMs: 2 };

function longs(count: number, from = 0): ReadItem[] {
    return Array.from({ length: count }, (_, i) => ({ table: "holding", address: from + i * 2, size: 2 }));
}

describe("Block reader and a simulated device", () => {
    const words = Buffer.alloc(400);
    for (let i = 0; i < 200; i++) words.writeUInt16BE((i * 40_503) & 0xffff, i * 2);
    let readable: NonNullable<RegisterBank["readable"]>;
    let fault: (unit: number) => WireFault | undefined;
    let server: ModbusTcpServer;
    let member: LinkMember;

    beforeEach(async () => {
        readable = [[0, 199]];
        fault = () => undefined;
        const host = "127.0.0.1";
        const bank = (unit: number) => (unit === UNIT ? { base: 0, words, readable } : undefined);
        server = new ModbusTcpServer({ host, port: 0, bank, fault: (unit) => fault(unit) });
        const port = await server.listen();
        const link = new ModbusLink({ createTransport: (onLost) => new TcpTransport({ host, port, framing: new MbapFraming(), onLost }) });
        member = link.join(SETTINGS);
    });

    afterEach(async () => {
        await member.leave();
        await server.close();
    });

    /** @returns How many items have a value; it is the right one. @throws AssertionError for a wrong one. */
    async function call(reader: BlockReader<ReadItem>, items: ReadItem[]): Promise<number> {
        let good = 0;
        for (const [{ address, size }, outcome] of byItem(await reader.read(items))) {
            if (outcome instanceof ModbusError) continue;
            assert.deepEqual(outcome, words.subarray(address * 2, (address + size) * 2));
            good++;
        }
        return good;
    }

    async function steady(reader: BlockReader<ReadItem>, items: ReadItem[]): Promise<number> {
        for (let i = 0; i < 10; i++) await call(reader, items);
        const before = server.count.requests;
        await call(reader, items);
        return server.count.requests - before;
    }

    it("leaves out what is refused from the second call on", async () => {
        readable = [[0, 39], [42, 119]];
        const items = longs(60);
        const reader = new BlockReader<ReadItem>(member, UNIT, { gaps: "allow", cost: member.cost });
        assert.equal(await call(reader, items), 59);
        const before = server.count.requests;
        assert.equal(await call(reader, items), 59);
        assert.equal(server.count.requests - before, 2);
        assert.equal(reader.plan(items).blocks.length, 2);
    });

    it("reads up to the end of a region, and on from there", async () => {
        readable = [[0, 29], [30, 99], [100, 199]];
        const items = longs(100);
        const reader = new BlockReader<ReadItem>(member, UNIT, { gaps: "allow", cost: COST });
        assert.equal(await call(reader, items), 100);
        const requests = await steady(reader, items);
        assert.equal(requests, reader.plan(items).blocks.length);
        assert.equal(await call(reader, items), 100);
    });

    it("waits for a device that is busy now and then, and learns nothing", async () => {
        let count = 0;
        fault = () => (count++ % 3 < 2 ? { kind: "exception", code: 6 } : undefined);
        const items = longs(100);
        const reader = new BlockReader<ReadItem>(member, UNIT, { gaps: "allow", cost: COST });
        assert.equal(await call(reader, items), 100);
        assert.deepEqual(reader.learned.holes, []);
    });

    it("asks an absent unit once a call", async () => {
        const items = longs(100);
        const reader = new BlockReader<ReadItem>(member, 9, { gaps: "allow", cost: COST });
        const results = byItem(await reader.read(items));
        assert.equal(server.count.requests, 1);
        assert.ok([...results.values()].every((outcome) => outcome instanceof ModbusError && outcome.unitOffline));
    });
});

describe("Block reader and a broken device", () => {
    let rig: Rig;
    let member: LinkMember;
    let reader: BlockReader<ReadItem>;

    beforeEach(async () => {
        rig = await Rig.start();
        member = rig.join();
        await rig.in("up");
        reader = new BlockReader<ReadItem>(member, UNIT, { gaps: "allow", cost: COST, clock: rig.clock });
    });

    afterEach(async () => {
        await member.leave();
        await rig.stop();
    });

    /** Every 5 s, while time passes. @returns How many values came in each call; all were right. */
    async function poll(items: ReadItem[], calls: number): Promise<number[]> {
        const counts: number[] = [];
        for (let i = 0; i < calls; i++) {
            const reading = reader.read(items);
            const ended = reading.then(() => true);
            while (!(await Promise.race([ended, rig.pass(100)])));
            let good = 0;
            for (const [{ table, address, size }, outcome] of byItem(await reading)) {
                if (outcome instanceof ModbusError) continue;
                assert.deepEqual(outcome, rig.right({ unit: UNIT, table, address, quantity: size }));
                good++;
            }
            counts.push(good);
            await rig.pass(5_000);
        }
        return counts;
    }

    const longer = (than: number, behaviour: Behaviour): Behaviour => (asked, peer) => (asked.quantity > than ? behaviour : faults.right)(asked, peer);

    for (const [name, behaviour] of Object.entries({ silence: faults.silent, "short frames": faults.registers(50), "closed connections": faults.reset })) {
        it(`learns from ${name} that reads are too long`, async () => {
            rig.server.otherwise = longer(50, behaviour);
            const counts = await poll(longs(100), 12);
            assert.deepEqual(counts.slice(-6), Array.from({ length: 6 }, () => 100), counts.join(" "));
            const { maxRegisters } = reader.learned;
            assert.ok(maxRegisters >= 30 && maxRegisters <= 50);
            assert.deepEqual(reader.learned.holes, []);
        });
    }

    it("isolates a register that is never answered", async () => {
        rig.server.otherwise = (asked, peer) => (asked.address <= 77 && asked.address + asked.quantity > 77 ? faults.silent : faults.right)(asked, peer);
        const items = longs(100);
        const counts = await poll(items, 30);
        assert.deepEqual(counts.slice(-5), [99, 99, 99, 99, 99], counts.join(" "));
        rig.server.asked.length = 0;
        await poll(items, 1);
        assert.equal(rig.server.asked.length, reader.plan(items).blocks.length);
    });
});
