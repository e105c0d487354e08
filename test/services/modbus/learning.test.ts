import assert from "node:assert/strict";
import { BlockReader } from "../../../dist/modbus/block-reader.js";
import type { LinkMember } from "../../../dist/modbus/link.js";
import { sharedLink } from "../../../dist/modbus/links.js";
import { costOf, type ReadItem } from "../../../dist/modbus/plan.js";
import { ModbusError, type ModbusReader, type ReadRequest } from "../../../dist/modbus/transport.js";
import { byItem } from "../../modbus/answers.js";
import { distinctWord, rightData } from "../../modbus/fault-server.js";
import { SETTINGS } from "../../modbus/rig.js";
import type { Peer } from "./libmodbus.js";
import { startPymodbus } from "./pymodbus.js";

/** Holding registers 200..209 do not exist there. */
const HOLE = [200, 209] as const;

describe("A block reader before a pymodbus server with a hole", function () {
    this.timeout(30_000);
    let peer: Peer;
    let member: LinkMember;
    before(async () => {
        peer = await startPymodbus();
        member = sharedLink(peer).join({ ...SETTINGS, timeoutMs: 5_000 });
    });
    after(async () => {
        await member.leave();
        await peer.stop();
    });

    /** The link, counting. */
    function counted(): ModbusReader & { requests: ReadRequest[] } {
        const requests: ReadRequest[] = [];
        return {
            requests,
            maxRegisters: member.maxRegisters,
            read: (request) => {
                requests.push(request);
                return member.read(request);
            },
        };
    }

    const items = (...addresses: number[]): ReadItem[] => addresses.map((address) => ({ table: "holding", address, size: 2 }));

    async function check(wanted: readonly ReadItem[], read: ReadonlyMap<ReadItem, Buffer | ModbusError>): Promise<void> {
        assert.equal(read.size, wanted.length);
        for (const [item, data] of read) {
            const exists = item.address + item.size <= HOLE[0] || item.address > HOLE[1];
            if (exists) assert.deepEqual(data, rightData({ unit: 1, function: 3, address: item.address, quantity: item.size }, distinctWord), `${item.address}`);
            else assert.ok(data instanceof ModbusError, `${item.address} does not exist there`);
        }
    }

    it("reads around a hole in a gap, and remembers it", async () => {
        const reader = counted();
        const blocks = new BlockReader<ReadItem>(reader, 1, { gaps: "allow", cost: costOf({ kind: "tcp" }) });
        const wanted = items(150, 180, 198, 210, 230, 260);
        assert.equal(blocks.plan(wanted).blocks.length, 1);
        await check(wanted, byItem(await blocks.read(wanted)));
        const learning = reader.requests.length;
        assert.ok(learning <= 12, `${learning} reads to learn of one hole`);
        reader.requests.length = 0;
        await check(wanted, byItem(await blocks.read(wanted)));
        assert.equal(reader.requests.length, 2);
    });

    it("leaves out values that do not exist there, and reads all others", async () => {
        const reader = counted();
        const blocks = new BlockReader<ReadItem>(reader, 1, { gaps: "allow", cost: costOf({ kind: "tcp" }) });
        const wanted = items(150, 196, 200, 204, 208, 212, 250);
        for (let i = 0; i < 3; i++) await check(wanted, byItem(await blocks.read(wanted)));
        reader.requests.length = 0;
        await check(wanted, byItem(await blocks.read(wanted)));
        assert.equal(reader.requests.length, 2, JSON.stringify(reader.requests));
        assert.ok(blocks.learned.holes.length > 0);
    });

    it("learns nothing from a unit that does not answer", async () => {
        const hasty = sharedLink(peer).join({ ...SETTINGS, timeoutMs: 100 });
        const blocks = new BlockReader<ReadItem>(hasty, 2, { gaps: "allow", cost: costOf({ kind: "tcp" }) });
        const read = byItem(await blocks.read(items(10, 20)));
        assert.deepEqual([...read.values()].map((data) => (data instanceof ModbusError ? data.code : data)), ["MODBUS_TIMEOUT", "MODBUS_TIMEOUT"]);
        assert.deepEqual(blocks.learned.holes, []);
        await hasty.leave();
    });
});
