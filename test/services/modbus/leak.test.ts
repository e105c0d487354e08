import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type LinkMember, ModbusLink } from "../../../dist/modbus/link.js";
import { Strays } from "../../../dist/modbus/rtu.js";
import { ManualClock } from "../../common/manual-clock.js";
import { type Behaviour, faults } from "../../modbus/fault-server.js";
import { connect, HostilePeer, settled } from "../../modbus/fuzz.js";
import { holding, outcome, Rig, SETTINGS } from "../../modbus/rig.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

describe("A Modbus link over 100,000 failed reads", function () {
    this.timeout(180_000);

    let rig: Rig;
    beforeEach(async () => {
        rig = await Rig.start();
    });
    afterEach(() => rig.stop());

    it("keeps its heap, timers and listeners flat", async () => {
        const member = rig.join();
        const controller = new AbortController();
        await failSome(rig, member, controller.signal, 20_000);
        const before = heap(rig);
        await failSome(rig, member, controller.signal, 100_000);
        const after = heap(rig);
        // One forgotten entry a read would be 5 MB at least.
        assert.ok(after - before < 1_500_000, `the heap grew by ${after - before} bytes`);
        assert.equal(getEventListeners(controller.signal, "abort").length, 0);
        await member.leave();
        assert.equal(rig.clock.waiting, 0);
    });
});

for (const kind of ["rtutcp", "rtu", "udp"] as const) {
    describe(`A Modbus link over ${kind} and 100,000 failed reads`, function () {
        this.timeout(180_000);

        it("keeps its heap and timers flat", async () => {
            const clock = new ManualClock();
            const peer = new HostilePeer(kind, 1, true);
            const strays = new Strays();
            const link = new ModbusLink({ createTransport: (onLost) => connect(kind, peer, strays, clock, onLost), clock, random: () => 1 });
            const member = link.join({ ...SETTINGS, timeoutMs: 100 });
            const codes = new Set<unknown>();
            const fail = async (count: number) => {
                for (let i = 0; i < count; i++) {
                    const read = outcome(member.read({ ...holding(1 + (i % 247), i % 50, 1 + (i % 5)), probe: true }));
                    codes.add(await settled(read, clock, 60_000));
                }
                collectGarbage();
                collectGarbage();
                return process.memoryUsage().heapUsed;
            };
            const before = await fail(20_000);
            const after = await fail(100_000);
            assert.ok(after - before < 1_500_000, `the heap grew by ${after - before} bytes`);
            assert.deepEqual(codes, new Set(["MODBUS_TIMEOUT", "MODBUS_FRAME"]));
            await member.leave();
            assert.equal(clock.waiting, 0);
        });
    });
}

/** Each way to fail in turn; those that cost a connection less often. */
const FAULTS: [Behaviour, string][] = [
    [faults.exception(2), "MODBUS_EXCEPTION"],
    [faults.exception(0x0b), "MODBUS_EXCEPTION"],
    [faults.silent, "MODBUS_TIMEOUT"],
    [faults.replay, "MODBUS_TIMEOUT"],
];
const FATAL: [Behaviour, string][] = [
    [faults.length(0), "MODBUS_FRAME"],
    [faults.registers(1), "MODBUS_FRAME"],
    [faults.end, "MODBUS_CLOSED"],
    [faults.reset, "MODBUS_CLOSED"],
];

async function failSome(rig: Rig, member: LinkMember, signal: AbortSignal, count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
        if (i % 50 === 0) await failForGood(rig, member, signal, FATAL[(i / 50) % FATAL.length] as [Behaviour, string]);
        const [behaviour, code] = FAULTS[i % FAULTS.length] as [Behaviour, string];
        rig.server.script(behaviour);
        const asked = rig.server.nextRequest();
        const read = outcome(member.read({ ...holding(1 + (i % 200)), signal, probe: true }));
        if (code === "MODBUS_TIMEOUT") {
            await asked;
            rig.clock.advance(SETTINGS.timeoutMs);
        }
        assert.equal(await read, code);
        // What waits behind a failure, and what is not even sent.
        if (i % 10 === 0) {
            const aborted = new AbortController();
            const waiting = outcome(member.read({ ...holding(201), signal: aborted.signal }));
            const other = outcome(member.read({ ...holding(202), signal: aborted.signal }));
            aborted.abort();
            assert.deepEqual(await Promise.all([waiting, other]), ["MODBUS_ABORTED", "MODBUS_ABORTED"]);
            await rig.wire();
        }
        assert.equal(await outcome(member.read({ ...holding(300), signal })), "MODBUS_REQUEST");
    }
    rig.server.asked.length = 0;
}

/** A failure that ends the connection, up to the next one. */
async function failForGood(rig: Rig, member: LinkMember, signal: AbortSignal, [behaviour, code]: [Behaviour, string]): Promise<void> {
    await rig.readsRight(member, { ...holding(250), signal, probe: true });
    rig.server.script(behaviour);
    assert.equal(await outcome(member.read({ ...holding(250), signal, probe: true })), code);
    await rig.wire();
    rig.clock.advance(1_000);
    await rig.in("up");
}

function heap(rig: Rig): number {
    // What the server and the rig themselves keep.
    rig.server.asked.length = 0;
    rig.states.length = 0;
    rig.lost.length = 0;
    collectGarbage();
    collectGarbage();
    return process.memoryUsage().heapUsed;
}
