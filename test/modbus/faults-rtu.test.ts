import assert from "node:assert/strict";
import fc from "fast-check";
import type { LinkMember } from "../../dist/modbus/link.js";
import type { ReadRequest } from "../../dist/modbus/transport.js";
import { faults, rtu } from "./fault-server.js";
import { holding, outcome, Rig, SETTINGS } from "./rig.js";
import { LONG, ROWS } from "./rtu-rows.js";

for (const kind of ["rtutcp", "rtu"] as const) {
    const over = kind === "rtu" ? "on a serial port" : "over TCP";
    describe(`An RTU fault ${over}`, () => {
        let rig: Rig;
        beforeEach(async () => {
            rig = await Rig.start({}, kind);
            rig.server.later = (ms, task) => void rig.clock.after(ms, task);
        });
        afterEach(() => rig.stop());

        async function readsRight(member: LinkMember, request: ReadRequest): Promise<void> {
            assert.deepEqual((await rig.settles(member.read(request))).ended, rig.right(request));
        }

        for (const { name, fault, ends, request = holding(1, 200, 4) } of ROWS) {
            it(`${name}: ${ends} in time, and later reads are right`, async () => {
                const member = rig.join();
                await readsRight(member, LONG);
                rig.server.script(fault);
                const { ended, ms } = await rig.settles(member.read(request));
                assert.deepEqual(ended, ends === "right" ? rig.right(request) : ends);
                assert.ok(ms <= SETTINGS.timeoutMs + 300, `it took ${ms} ms`);
                await recovers(member);
                assert.deepEqual(rig.server.violations.filter((violation) => violation.startsWith("broken")), []);
                await member.leave();
                assert.equal(rig.clock.waiting, 0, "a timer was left behind");
            });
        }

        /** Right again with the same read, and with others, at the latest after the pauses owed to device and network. */
        async function recovers(member: LinkMember): Promise<void> {
            await rig.wire();
            if (rig.link.state.name === "down") rig.clock.advance(1_000);
            for (let turn = 0; rig.link.state.name === "connecting" && turn < 1_000; turn++) await rig.wire();
            rig.clock.advance(2_000);
            for (const request of [holding(1, 300, 4), LONG, holding(1, 304, 4), holding(1, 7, 125)]) await readsRight(member, request);
        }

        it("late replies never pass for others: each read is right or fails, however slow the device", async function () {
            this.timeout(30_000);
            const slow = fc.record({ delay: fc.integer({ min: 0, max: 1_500 }), quantity: fc.constantFrom(1, 2, 4, 4, 4), write: fc.nat(5), pause: fc.constantFrom(0, 0, 100, 2_500) });
            const property = fc.asyncProperty(fc.array(slow, { minLength: 4, maxLength: 12 }), async (steps) => {
                const device = await Rig.start({}, kind);
                try {
                    let busyUntil = 0;
                    let delay = 0;
                    device.server.otherwise = (_asked, { send, right }) => {
                        // One after another, as a device or bridge with a queue works them off.
                        busyUntil = Math.max(busyUntil, device.clock.monotonic()) + delay;
                        device.clock.after(busyUntil - device.clock.monotonic(), () => send(right));
                    };
                    const member = device.join();
                    for (const [i, { delay: now, quantity, write, pause }] of steps.entries()) {
                        delay = now;
                        if (device.link.state.name === "down") device.clock.advance(1_000);
                        if (write === 0) {
                            const asked = device.server.asked.length;
                            const { ended } = await device.settles(member.write({ unit: 1, table: "holding", address: 50, values: [i, i], probe: true }));
                            const isAnswered = device.clock.monotonic() >= busyUntil;
                            const isSent = device.server.asked.slice(asked).some(({ function: code }) => code === 16);
                            if (Buffer.isBuffer(ended)) assert.ok(isSent && isAnswered, "a write was confirmed by the echo of an earlier one");
                        } else {
                            const request = { ...holding(1, i * 10, quantity), probe: true };
                            const { ended, ms } = await device.settles(member.read(request));
                            if (Buffer.isBuffer(ended)) assert.deepEqual(ended, device.right(request), `read ${i} got another's registers`);
                            assert.ok(ms <= 3 * SETTINGS.timeoutMs + 300, `read ${i} took ${ms} ms`);
                        }
                        device.clock.advance(pause);
                        await device.wire();
                    }
                    await member.leave();
                } finally {
                    await device.stop();
                }
            });
            await fc.assert(property, { numRuns: 60 });
        });

        it("a read that times out is followed by one whose late answer would be known, before the same length is read again", async () => {
            const member = rig.join();
            await readsRight(member, holding(1, 0, 4));
            let answerLate: (() => void) | undefined;
            rig.server.script((_asked, { send, right }) => (answerLate = () => send(right)));
            assert.equal((await rig.settles(member.read(holding(1, 10, 4)))).ended, "MODBUS_TIMEOUT");
            rig.server.script((_asked, { send, right }) => {
                answerLate?.();
                rig.clock.after(20, () => send(right));
            });
            await readsRight(member, { ...holding(1, 20, 4), probe: true });
            await readsRight(member, holding(1, 30, 4));
            assert.deepEqual(
                rig.server.asked.map(({ address, quantity }) => [address, quantity]),
                [[0, 4], [10, 4], [20, 1], [20, 4], [30, 4]],
            );
            await member.leave();
        });

        it("an answer that could be an earlier one is known over a new connection too", async () => {
            const member = rig.join();
            await readsRight(member, holding(1, 0, 4));
            let late: Buffer = Buffer.alloc(0);
            rig.server.script((_asked, { right, socket }) => {
                late = right;
                socket.end();
            });
            assert.equal((await rig.settles(member.read(holding(1, 10, 4)))).ended, "MODBUS_CLOSED");
            rig.clock.advance(1_000);
            rig.server.otherwise = (_asked, { send, right }) => {
                // A bridge hands on what the line still delivers to whoever is connected.
                if (late.length > 0) send(late);
                late = Buffer.alloc(0);
                rig.clock.after(60, () => send(right));
            };
            const { ended } = await rig.settles(member.read(holding(1, 20, 4)));
            if (Buffer.isBuffer(ended)) assert.deepEqual(ended, rig.right(holding(1, 20, 4)));
            await member.leave();
        });

        it("drains the line after a timeout until it is silent, discarding what comes", async () => {
            const member = rig.join();
            await readsRight(member, holding(1, 0, 4));
            rig.server.script(faults.silent);
            assert.equal((await rig.settles(member.read(holding(1, 10, 4)))).ended, "MODBUS_TIMEOUT");
            const started = rig.clock.monotonic();
            const read = member.read({ ...holding(2, 20, 4), probe: true });
            const socket = [...rig.server.live][0];
            for (let i = 0; i < 4; i++) {
                socket?.write(rtu(2, [3, 8, 1, 2, 3, 4, 5, 6, 7, 8]));
                await rig.wire();
                rig.clock.advance(40);
            }
            assert.equal(rig.server.asked.length, 2, "nothing is sent into the noise");
            assert.deepEqual((await rig.settles(read)).ended, rig.right(holding(2, 20, 4)));
            assert.ok(rig.clock.monotonic() - started >= 170);
            await member.leave();
        });

        it("a line that never falls silent fails the read in time", async () => {
            const member = rig.join();
            await readsRight(member, holding(1, 0, 4));
            rig.server.script(faults.silent);
            assert.equal((await rig.settles(member.read(holding(1, 10, 4)))).ended, "MODBUS_TIMEOUT");
            const read = outcome(member.read({ ...holding(2, 20, 4), probe: true }));
            const socket = [...rig.server.live][0];
            for (let passed = 0; passed < 2 * SETTINGS.timeoutMs + 200; passed += 20) {
                socket?.write("chatter");
                await rig.wire();
                rig.clock.advance(20);
            }
            assert.equal(await read, "MODBUS_FRAME");
            assert.equal(rig.server.asked.length, 2);
            await member.leave();
        });

        it("400 reads at once: each gets its own registers, one request on the wire", async () => {
            const member = rig.join();
            const requests = Array.from({ length: 400 }, (_, i) => holding((i % 5) + 1, i * 10, 10));
            const answers = await rig.until(Promise.all(requests.map((request) => member.read(request))));
            assert.deepEqual(answers, requests.map((request) => rig.right(request)));
            assert.deepEqual(rig.server.violations, []);
            await member.leave();
        });

        it("a link that closes while it drains settles its read and leaves nothing behind", async () => {
            const member = rig.join();
            await readsRight(member, holding(1, 0, 4));
            rig.server.script(faults.silent);
            assert.equal((await rig.settles(member.read(holding(1, 10, 4)))).ended, "MODBUS_TIMEOUT");
            const read = outcome(member.read({ ...holding(1, 10, 4), probe: true }));
            await rig.wire();
            await member.leave();
            assert.equal(await read, "MODBUS_CLOSED");
            assert.equal(rig.clock.waiting, 0);
        });

        it("one dead unit among ten does not hold up the others", async () => {
            rig.server.otherwise = (asked, peer) => (asked.unit === 5 ? undefined : faults.right(asked, peer));
            const member = rig.join();
            let right = 0;
            const seconds = 60;
            for (let second = 0; second < seconds; second++) {
                const started = rig.clock.monotonic();
                const reads = Array.from({ length: 10 }, (_, i) => outcome(member.read(holding(i + 1))));
                right += (await rig.until(Promise.all(reads))).filter((ended) => Buffer.isBuffer(ended)).length;
                rig.clock.advance(Math.max(0, 1_000 - (rig.clock.monotonic() - started)));
            }
            assert.equal(right, 9 * seconds);
            assert.ok(rig.clock.monotonic() <= seconds * 1_050, `it took ${rig.clock.monotonic()} ms`);
            await member.leave();
        });
    });
}

describe("An RTU line on a serial port", () => {
    it("keeps 3.5 characters of silence between an answer and the next request", async () => {
        const rig = await Rig.start({}, "rtu");
        const member = rig.join();
        const times: number[] = [];
        rig.server.on("request", () => times.push(rig.clock.monotonic()));
        for (let i = 0; i < 5; i++) await rig.settles(member.read(holding(1)));
        for (let i = 1; i < times.length; i++) assert.ok(times[i]! - times[i - 1]! >= 3.5 * (10_000 / 9_600));
        await member.leave();
        await rig.stop();
    });

    it("allows an answer the time that it takes on the line, beside the timeout", async () => {
        const rig = await Rig.start({}, "rtu");
        const member = rig.join({ timeoutMs: 100 });
        rig.server.script((_asked, { right, send }) => void rig.clock.after(250, () => send(right)));
        const long = holding(1, 0, 125);
        assert.deepEqual((await rig.settles(member.read(long))).ended, rig.right(long));
        await member.leave();
        await rig.stop();
    });
});
