import assert from "node:assert/strict";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { RtuFraming, Strays } from "../../dist/modbus/rtu.js";
import { impossibleWrite } from "../../dist/modbus/pdu.js";
import { ModbusError, type WriteRequest } from "../../dist/modbus/transport.js";
import { faults } from "./fault-server.js";
import { holding, Rig, SETTINGS } from "./rig.js";

const coil = (address: number, ...values: number[]): WriteRequest => ({ unit: 1, table: "coil", address, values });
const register = (address: number, ...values: number[]): WriteRequest => ({ unit: 1, table: "holding", address, values });

describe("A write", () => {
    it("is encoded as the standard's examples are", () => {
        const pdu = (request: WriteRequest) => new MbapFraming().encode(request, true).subarray(7).toString("hex");
        // Modbus Application Protocol V1.1b3 §6.5, §6.6, §6.11, §6.12.
        assert.equal(pdu(coil(0xac, 1)), "0500acff00");
        assert.equal(pdu(coil(0xac, 0)), "0500ac0000");
        assert.equal(pdu(register(1, 3)), "0600010003");
        assert.equal(pdu(coil(0x13, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0)), "0f0013000a02cd01");
        assert.equal(pdu(register(1, 0x0a, 0x0102)), "100001000204000a0102");
        assert.equal(pdu({ ...register(1, 3), multiple: true }), "1000010001020003");
        assert.equal(pdu({ ...coil(2, 1), multiple: true }), "0f000200010101");
        // Modbus over Serial Line V1.02 §2.5.1: check low byte first. The frame is a widely published example.
        assert.equal(new RtuFraming(new Strays()).encode({ unit: 0x11, table: "holding", address: 1, values: [3] }).toString("hex"), "1106000100039a9b");
    });

    it("is refused before it is sent when no device can take it", () => {
        const refused = (change: object) => impossibleWrite({ ...register(0, 1), ...change })?.code;
        for (const change of [{}, { values: Array(123).fill(0xffff) }, { table: "coil", values: Array(1968).fill(1) }, { address: 65_535 }, { unit: 255 }]) {
            assert.equal(refused(change), undefined, JSON.stringify(change).slice(0, 80));
        }
        const bad = [
            { values: [] },
            { values: Array(124).fill(0) },
            { table: "coil", values: Array(1969).fill(0) },
            { table: "coil", values: [2] },
            { values: [-1] },
            { values: [65_536] },
            { values: [1.5] },
            { values: [NaN] },
            { unit: 0 },
            { unit: 256 },
            { address: 65_535, values: [1, 2] },
            { address: -1 },
            { table: "input" },
            { table: "discrete" },
        ];
        for (const change of bad) assert.equal(refused(change), "MODBUS_REQUEST", JSON.stringify(change).slice(0, 80));
    });

    for (const kind of ["tcp", "rtutcp", "rtu"] as const) {
        describe(`over ${kind}`, () => {
            let rig: Rig;
            beforeEach(async () => {
                rig = await Rig.start({}, kind);
                rig.server.later = (ms, task) => void rig.clock.after(ms, task);
            });
            afterEach(() => rig.stop());

            const codes = () => rig.server.asked.map(({ function: code }) => code).filter((code) => code > 4);

            it("reaches the device and is confirmed", async () => {
                const member = rig.join();
                for (const request of [coil(1, 1), register(2, 3), coil(3, 1, 0, 1), register(4, 5, 6)]) await rig.until(member.write(request));
                assert.deepEqual(codes(), [5, 6, 15, 16]);
                assert.deepEqual(rig.server.asked.at(-1)?.pdu.toString("hex"), "10000400020400050006");
                assert.deepEqual(rig.server.violations, []);
                await member.leave();
            });

            const unknown = {
                silence: faults.silent,
                "another address confirmed": faults.pdu(6, 0, 3, 0, 3),
                "another value confirmed": faults.pdu(6, 0, 2, 0, 4),
                "a confirmation that is too long": faults.pdu(6, 0, 2, 0, 3, 0),
                "another unit's confirmation": faults.unit(9),
                "half a confirmation": faults.cut(6),
                "the end of the connection": faults.end,
                "a reset": faults.reset,
                "exception 4, failed while it wrote": faults.exception(4),
                "exception 5, goes on writing": faults.exception(5),
                "exception 0x0B, silent behind its gateway": faults.exception(0x0b),
            };
            for (const [name, fault] of Object.entries(unknown)) {
                it(`${name}: nobody knows whether it was done, and it is not repeated`, async () => {
                    const member = rig.join();
                    await rig.until(member.read(holding(1)));
                    rig.server.script(fault);
                    const error = await rig.until(member.write(register(2, 3))).catch((thrown: unknown) => thrown);
                    assert.ok(error instanceof ModbusError && error.code === "MODBUS_OUTCOME_UNKNOWN", String(error));
                    assert.match(error.message, /^Nobody knows whether the write of holding 2\+1 on unit 1 was done: read it back/);
                    assert.ok(error.cause instanceof ModbusError);
                    await rig.wire();
                    rig.clock.advance(10_000);
                    await rig.wire();
                    assert.deepEqual(codes(), [6]);
                    await member.leave();
                });
            }

            for (const code of [1, 2, 3, 6, 0x0a]) {
                it(`exception ${code}: it was not done`, async () => {
                    const member = rig.join();
                    await rig.until(member.read(holding(1)));
                    rig.server.script(faults.exception(code));
                    await assert.rejects(rig.until(member.write(register(2, 3))), { code: "MODBUS_EXCEPTION", exception: code });
                    await member.leave();
                });
            }

            it("that is given up on the wire has an unknown outcome; one that waits was not sent", async () => {
                const member = rig.join();
                await rig.until(member.read(holding(1)));
                rig.server.script(faults.silent);
                const controller = new AbortController();
                const asked = rig.server.nextRequest();
                const first = member.write({ ...register(2, 3), signal: controller.signal });
                const second = member.write({ ...register(4, 5), signal: controller.signal });
                const ends = Promise.allSettled([first, second]);
                await rig.until(asked);
                controller.abort();
                const ended = (await ends).map((end) => (end as PromiseRejectedResult).reason as ModbusError);
                assert.deepEqual(ended.map(({ code }) => code), ["MODBUS_OUTCOME_UNKNOWN", "MODBUS_ABORTED"]);
                await member.leave();
                assert.deepEqual(codes(), [6]);
            });
        });
    }

    for (const kind of ["rtutcp", "rtu"] as const) {
        it(`is not confirmed by its own echo (${kind})`, async () => {
            const rig = await Rig.start({}, kind);
            const echo = faults.echo;
            let isDeaf = false;
            // A line with echo: what is sent comes back, and then the device's answer, while there is a device.
            rig.server.otherwise = (asked, peer) => (isDeaf ? echo(asked, peer) : peer.send(Buffer.concat([peer.request, peer.right])));
            const member = rig.join();
            await rig.until(member.write(register(2, 3)));
            isDeaf = true;
            await assert.rejects(rig.until(member.write(register(2, 4))), { code: "MODBUS_OUTCOME_UNKNOWN" });
            await assert.rejects(rig.until(member.write({ ...coil(2, 1), probe: true })), { code: "MODBUS_OUTCOME_UNKNOWN" });
            await member.leave();
            await rig.stop();
        });

        it(`is confirmed on a line with noise, though not where the noise may hide an echo (${kind})`, async () => {
            const rig = await Rig.start({}, kind);
            let noise = Buffer.from([0]);
            rig.server.otherwise = (_asked, { send, right }) => send(Buffer.concat([noise, right]));
            const member = rig.join();
            await rig.until(member.write(register(2, 3)));
            await rig.until(member.write(coil(2, 1)));
            noise = Buffer.alloc(8, 0x55);
            await rig.until(member.read(holding(1)));
            await assert.rejects(rig.until(member.write(register(2, 4))), { code: "MODBUS_FRAME", unsent: true });
            assert.deepEqual(rig.server.asked.filter(({ function: code }) => code > 4).map(({ function: code }) => code), [6, 5]);
            await member.leave();
            await rig.stop();
        });

        it(`is not confirmed by its own echo when it is the first request (${kind})`, async () => {
            const rig = await Rig.start({}, kind);
            rig.server.otherwise = faults.echo;
            const member = rig.join();
            await assert.rejects(rig.until(member.write(register(2, 3))), { code: "MODBUS_TIMEOUT", unsent: true, message: /The request itself was not sent/ });
            assert.ok(rig.server.asked.every(({ function: code }) => code === 3), "nothing was written before the line was known");
            await member.leave();
            await rig.stop();
        });
    }
});

describe("Turns on a link", () => {
    let rig: Rig;
    beforeEach(async () => {
        rig = await Rig.start();
    });
    afterEach(() => rig.stop());

    /** Function codes, units and addresses as they reach the device, once everything in `queue` has been asked at once. */
    async function order(queue: (member: ReturnType<Rig["join"]>) => Promise<unknown>[]): Promise<string[]> {
        const member = rig.join();
        await member.read(holding(9));
        const before = rig.server.asked.length;
        rig.server.script(faults.late(5));
        const first = member.read(holding(9));
        await Promise.all([first, ...queue(member)]);
        await member.leave();
        return rig.server.asked.slice(before + 1).map(({ function: code, unit, address }) => `${code}:${unit}:${address}`);
    }

    it("go to writes, then reads, then slow groups", async () => {
        const asked = await order((member) => [
            member.read({ ...holding(1, 100), background: true }),
            member.read(holding(1, 1)),
            member.read(holding(2, 2)),
            member.write(register(7, 7)),
            member.write({ ...register(8, 8), unit: 2 }),
        ]);
        assert.deepEqual(asked, ["6:1:7", "6:2:8", "3:1:1", "3:2:2", "3:1:100"]);
    });

    it("come to a slow group's read although other reads never end", async () => {
        const member = rig.join();
        await member.read(holding(1));
        const done = new AbortController();
        const slow = member.read({ ...holding(2, 500), background: true }).then(() => done.abort());
        let reads = 0;
        const busy = async () => {
            while (!done.signal.aborted && reads < 1_000) {
                reads++;
                await member.read(holding(1));
            }
        };
        await Promise.all([slow, ...Array.from({ length: 5 }, busy)]);
        assert.ok(reads < 30, `${reads} reads went first`);
        await member.leave();
    });

    it("come to reads of every unit although writes never end", async () => {
        const member = rig.join();
        await member.read(holding(1));
        const done = new AbortController();
        const reads = Promise.all([2, 3, 4].map((unit) => member.read(holding(unit)))).then(() => done.abort());
        let writes = 0;
        const busy = async () => {
            while (!done.signal.aborted && writes < 1_000) await member.write(register(writes++, 1));
        };
        await Promise.all([reads, ...Array.from({ length: 5 }, busy)]);
        assert.ok(writes < 80, `${writes} writes went first`);
        await member.leave();
    });

    it("leave a unit with a failed write alone; what waits for it is refused", async () => {
        const member = rig.join();
        await member.read(holding(1));
        rig.server.script(faults.silent);
        const asked = rig.server.nextRequest();
        const ends = Promise.allSettled([member.write(register(1, 1)), member.write(register(2, 2)), member.read({ ...holding(1), background: true })]);
        await asked;
        rig.clock.advance(SETTINGS.timeoutMs);
        const codes = (await ends).map((end) => ((end as PromiseRejectedResult).reason as ModbusError).code);
        assert.deepEqual(codes, ["MODBUS_OUTCOME_UNKNOWN", "MODBUS_BACKOFF", "MODBUS_BACKOFF"]);
        await member.leave();
    });
});
