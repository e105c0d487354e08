import assert from "node:assert/strict";
import type { LinkMember } from "../../../dist/modbus/link.js";
import { type Endpoint, sharedLink } from "../../../dist/modbus/links.js";
import type { ReadRequest, Table } from "../../../dist/modbus/transport.js";
import { distinctWord, rightData } from "../../modbus/fault-server.js";
import { holding, outcome, SETTINGS } from "../../modbus/rig.js";
import { type Peer, startLibmodbus } from "./libmodbus.js";
import { serialEndpoint, startLine } from "./pty.js";
import { startPymodbus } from "./pymodbus.js";

const FUNCTION: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

interface Served {
    endpoint: Endpoint;
    stop(): Promise<void>;
}

/** @param most Reads at once: a serial line takes some milliseconds for each. */
const PEERS: Record<string, { start: () => Promise<Served>; units: number[]; outside: ReadRequest; most: number }> = {
    "libmodbus server": { start: async () => served(await startLibmodbus()), units: [1], outside: holding(1, 59_999, 2), most: 2_000 },
    "pymodbus server": { start: async () => served(await startPymodbus()), units: [1, 3], outside: holding(1, 195, 10), most: 2_000 },
    "pymodbus server with RTU frames over TCP": {
        start: async () => served(await startPymodbus("rtutcp"), "rtutcp"),
        units: [1, 3],
        outside: holding(1, 195, 10),
        most: 500,
    },
    "pymodbus server over UDP": { start: async () => served(await startPymodbus("udp"), "udp"), units: [1, 3], outside: holding(1, 195, 10), most: 500 },
    "pymodbus server on a serial line": { start: serveSerial, units: [1, 3], outside: holding(1, 195, 10), most: 300 },
};

function served(peer: Peer, transport: "tcp" | "rtutcp" | "udp" = "tcp"): Served {
    return { endpoint: { ...peer, transport }, stop: () => peer.stop() };
}

async function serveSerial(): Promise<Served> {
    const line = await startLine();
    const peer = await startPymodbus("rtu", line.ends[0]);
    return {
        endpoint: serialEndpoint(line.ends[1]!),
        stop: async () => {
            await peer.stop();
            await line.stop();
        },
    };
}

for (const [name, { start, units, outside, most: reads }] of Object.entries(PEERS)) {
    describe(`A ${name}`, function () {
        this.timeout(30_000);
        let peer: Served;
        let member: LinkMember;
        before(async () => {
            peer = await start();
            member = sharedLink(peer.endpoint).join({ ...SETTINGS, timeoutMs: 5_000 });
        });
        after(async () => {
            await member.leave();
            await peer.stop();
        });

        for (const table of Object.keys(FUNCTION) as Table[]) {
            it(`serves ${table}s of any length`, async () => {
                const most = table === "coil" || table === "discrete" ? 2_000 : 125;
                const lengths = [1, 2, 7, 8, 9, 16, 17, 64, 123, 124, 125, 1_999, 2_000].filter((quantity) => quantity <= most);
                for (const unit of units) {
                    for (const quantity of lengths) {
                        const request = { unit, table, address: 210, quantity };
                        const right = rightData({ ...request, function: FUNCTION[table] }, distinctWord);
                        assert.deepEqual(await member.read(request), right, JSON.stringify(request));
                    }
                }
            });
        }

        it("keeps registers and coils that are written, one or many", async () => {
            const unit = units[0]!;
            // Beyond what the other tests read.
            for (const [i, quantity] of [1, 2, 3, 20, 50].entries()) {
                const address = 2_900 + i;
                const values = Array.from({ length: quantity }, (_, at) => (at * 4_099 + i * 257 + 5) & 0xffff);
                await member.write({ unit, table: "holding", address, values, ...(i === 0 && { multiple: true }) });
                const data = await member.read({ unit, table: "holding", address, quantity });
                assert.deepEqual(values, Array.from({ length: quantity }, (_, at) => data.readUInt16BE(2 * at)));
                const bits = values.map((value) => (value >> 3) & 1);
                await member.write({ unit, table: "coil", address, values: bits });
                const packed = await member.read({ unit, table: "coil", address, quantity });
                assert.deepEqual(bits, Array.from({ length: quantity }, (_, at) => (packed[at >> 3]! >> (at & 7)) & 1));
            }
            await member.write({ unit, table: "holding", address: 2_990, values: [0xbeef] });
            assert.equal((await member.read({ unit, table: "holding", address: 2_990, quantity: 1 })).toString("hex"), "beef");
        });

        it("refuses what it has not, and goes on", async () => {
            await assert.rejects(member.read(outside), { code: "MODBUS_EXCEPTION", exception: 2 });
            await member.read(holding(1));
        });

        it("serves many reads at once, each with its own registers", async () => {
            const requests = Array.from({ length: reads }, (_, i) => holding(units[i % units.length] as number, 210 + i, 1 + (i % 125)));
            const one = sharedLink(peer.endpoint).join({ ...SETTINGS, timeoutMs: 5_000 });
            let wrong = 0;
            for (let i = 0; i < requests.length; i += 500) {
                const batch = requests.slice(i, i + 500);
                const answers = await Promise.all(batch.map((request) => one.read(request)));
                wrong += answers.filter((data, j) => !data.equals(rightData({ ...(batch[j] as ReadRequest), function: 3 }, distinctWord) as Buffer)).length;
            }
            assert.equal(wrong, 0);
            await one.leave();
        });

        if (units.length > 1) {
            it("keeps silent about an absent unit, which is then left alone while others go on", async () => {
                const hasty = sharedLink(peer.endpoint).join({ ...SETTINGS, timeoutMs: 200 });
                assert.equal(await outcome(hasty.read(holding(2))), "MODBUS_TIMEOUT");
                assert.equal(await outcome(member.read(holding(2))), "MODBUS_BACKOFF");
                await member.read(holding(3));
                await hasty.leave();
            });
        }
    });
}
