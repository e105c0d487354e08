import assert from "node:assert/strict";
import { EventEmitter, getEventListeners, once } from "node:events";
import { Socket } from "node:net";
import type { LinkMember, LinkOptions } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { sharedLink, tryConnect } from "../../dist/modbus/links.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError, type Transport } from "../../dist/modbus/transport.js";
import { faults, FaultServer } from "./fault-server.js";
import { holding, outcome, Rig, SETTINGS } from "./rig.js";

describe("ModbusLink", () => {
    let rig: Rig;
    const start = async (options: Partial<LinkOptions> = {}) => {
        rig = await Rig.start(options);
    };
    afterEach(() => rig.stop());

    /** Times on the link's clock at which requests reach the server, and the units they are for. */
    function record(): { at: number; unit: number }[] {
        const seen: { at: number; unit: number }[] = [];
        rig.server.on("request", ({ unit }) => seen.push({ at: rig.clock.monotonic(), unit }));
        return seen;
    }

    describe("connection", () => {
        it("connects with the first user, is shared, and ends with the last", async () => {
            await start();
            await rig.wire();
            assert.equal(rig.server.connections, 0);
            const first = rig.join();
            const second = rig.join();
            await rig.in("up");
            await Promise.all([rig.readsRight(first, holding(1)), rig.readsRight(second, holding(2))]);
            await first.leave();
            await rig.readsRight(second, holding(2));
            assert.equal(rig.server.connections, 1);
            const ended = once(rig.server, "disconnection");
            await second.leave();
            await ended;
            assert.equal(rig.link.state.name, "idle");
            assert.equal(rig.clock.waiting, 0);
        });

        it("never has two connections, even when a user joins while the last one leaves", async () => {
            await start();
            let member = rig.join();
            for (let i = 0; i < 20; i++) {
                await rig.readsRight(member, holding(1));
                const left = member.leave();
                member = rig.join();
                await left;
            }
            await rig.readsRight(member, holding(1));
            assert.equal(rig.server.connections, 21);
            assert.equal(rig.overlaps, 0);
            await member.leave();
        });

        it("opens no connection before the last one is closed", async () => {
            const steps: string[] = [];
            let closed: (() => void) | undefined;
            const transport = (): Transport => ({
                open: () => Promise.resolve(void steps.push("open")),
                exchange: () => Promise.resolve(Buffer.alloc(8)),
                close: () => new Promise((resolve) => (closed = () => resolve(void steps.push("closed")))),
            });
            await start({ createTransport: transport });
            const first = rig.join();
            await first.read(holding(1));
            const left = first.leave();
            const second = rig.join();
            const read = second.read(holding(1));
            await rig.wire();
            closed?.();
            await Promise.all([left, read]);
            assert.deepEqual(steps, ["open", "closed", "open"]);
            const done = second.leave();
            closed?.();
            await done;
        });

        it("tells who joins and leaves at once: reads of a user that has left are refused", async () => {
            await start();
            const first = rig.join();
            const second = rig.join();
            await first.leave();
            assert.equal(await outcome(first.read(holding(1))), "MODBUS_CLOSED");
            await rig.readsRight(second, holding(1));
            await second.leave();
        });

        it("rejects all that waits, at once, when the last user leaves", async () => {
            await start();
            rig.server.otherwise = faults.silent;
            const member = rig.join();
            const reads = [1, 1, 2, 3].map((unit) => outcome(member.read(holding(unit))));
            await rig.server.nextRequest();
            await member.leave();
            assert.deepEqual(await Promise.all(reads), Array(4).fill("MODBUS_CLOSED"));
            assert.equal(rig.clock.waiting, 0);
        });

        it("rejects all that waits, at once, when the user leaves before the connection is made", async () => {
            await start();
            const member = rig.join();
            const read = outcome(member.read(holding(1)));
            await member.leave();
            assert.equal(await read, "MODBUS_CLOSED");
            assert.equal(rig.clock.waiting, 0);
        });

        it("pauses after connecting", async () => {
            await start();
            const seen = record();
            const member = rig.join({ connectPauseMs: 1_000 });
            const read = member.read(holding(1));
            await rig.wire();
            await rig.pass(1_500);
            await read;
            assert.deepEqual(seen.map(({ at }) => at >= 1_000 && at <= 1_100), [true]);
            assert.deepEqual(rig.states, ["connecting", "up"]);
            await member.leave();
        });

        it("gives up a connection that is never made", async () => {
            await start({ createTransport: (onLost) => new TcpTransport({ host: "192.0.2.1", port: 502, framing: new MbapFraming(), onLost, clock: rig.clock, createSocket: deafSocket }) });
            const member = rig.join();
            const read = outcome(member.read(holding(1)));
            await rig.wire();
            rig.clock.advance(5_000);
            assert.equal(await read, "MODBUS_CLOSED");
            assert.match(rig.lost[0]?.message ?? "", /192\.0\.2\.1:502: no answer within 5000 ms: check address, network and power/);
            await member.leave();
        });

        it("says what to do when the port is closed", async () => {
            await start();
            await rig.server.stop();
            const member = rig.join();
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_CLOSED");
            assert.match(rig.lost[0]?.message ?? "", /refused; check the port/);
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_CLOSED");
            await member.leave();
        });

        it("reconnects after 1, 2, 4 .. 60 s, jittered, and reports one loss and one return", async () => {
            await start();
            const attempts: number[] = [];
            const member = rig.join({}, {
                onState: ({ name }) => {
                    if (name === "connecting") attempts.push(rig.clock.monotonic());
                },
            });
            await rig.readsRight(member, holding(1));
            await rig.server.stop();
            await rig.wire();
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_CLOSED");
            await rig.pass(400_000, 250);
            const waits = attempts.slice(1).map((at, i) => Math.round((at - (attempts[i] as number)) / 1_000));
            assert.deepEqual(waits.slice(0, 10), [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
            assert.equal(rig.lost.length, 1);
            await rig.server.listen();
            await rig.pass(60_000, 250);
            await rig.in("up");
            assert.equal(rig.back, 0, "a connection alone is no return");
            await rig.readsRight(member, holding(1));
            await rig.readsRight(member, holding(1));
            assert.deepEqual([rig.lost.length, rig.back], [1, 1]);
            attempts.length = 0;
            rig.server.script(faults.reset);
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_CLOSED");
            const lostAt = rig.clock.monotonic();
            await rig.pass(1_000, 250);
            assert.deepEqual(attempts, [lostAt + 1_000], "the next outage begins with a short wait again");
            await member.leave();
        });

        it("slows down when a peer accepts and closes at once, as one that takes a single client", async () => {
            await start();
            const member = rig.join();
            rig.server.onConnect = (socket) => socket.end();
            await rig.pass(120_000, 250);
            assert.ok(rig.server.connections <= 9, `${rig.server.connections} connections in 2 min`);
            assert.deepEqual([rig.lost.length, rig.back], [1, 0]);
            rig.server.onConnect = undefined;
            await rig.pass(60_000, 250);
            await rig.readsRight(member, holding(1));
            assert.deepEqual([rig.lost.length, rig.back], [1, 1]);
            await member.leave();
        });

        it("recovers from a reset at connect", async () => {
            await start();
            rig.server.onConnect = (socket) => socket.resetAndDestroy();
            const member = rig.join();
            const read = outcome(member.read(holding(1)));
            assert.equal(await read, "MODBUS_CLOSED");
            rig.server.onConnect = undefined;
            await rig.pass(2_000);
            await rig.in("up");
            await rig.readsRight(member, holding(1));
            await member.leave();
        });

        it("takes the end of an idle connection quietly and connects for the next read", async () => {
            await start();
            const member = rig.join();
            await rig.readsRight(member, holding(1));
            rig.server.reset();
            await rig.in("idle");
            await rig.readsRight(member, holding(1));
            for (const socket of rig.server.live) socket.end();
            await rig.in("idle");
            await rig.readsRight(member, holding(1));
            assert.deepEqual([rig.lost.length, rig.server.connections], [0, 3]);
            await member.leave();
        });

        it("disconnects when idle, if all users want that, and connects for the next read", async () => {
            await start();
            const member = rig.join({ idleCloseMs: 5_000 });
            const other = rig.join();
            await rig.readsRight(member, holding(1));
            await rig.pass(10_000);
            assert.equal(rig.link.state.name, "up");
            await other.leave();
            for (let i = 0; i < 3; i++) {
                await rig.readsRight(member, holding(1));
                await rig.pass(4_900);
                assert.equal(rig.link.state.name, "up");
            }
            await rig.pass(200);
            assert.equal(rig.link.state.name, "idle");
            await rig.readsRight(member, holding(1));
            assert.equal(rig.server.connections, 2);
            await member.leave();
            assert.equal(rig.clock.waiting, 0);
        });

        it("sends a probe at once on a new connection, whatever the unit's backoff was", async () => {
            await start();
            const member = rig.join();
            rig.server.otherwise = faults.silent;
            await timesOut(member, 1, true);
            await timesOut(member, 1, true);
            rig.server.otherwise = faults.right;
            await rig.server.stop();
            await rig.wire();
            await rig.server.listen();
            await rig.pass(1_000);
            await rig.in("up");
            await rig.readsRight(member, holding(1));
            await member.leave();
        });
    });

    describe("order and pace", () => {
        it("lets units take turns, first come first served within a unit", async () => {
            await start();
            const seen = record();
            const member = rig.join();
            await rig.in("up");
            const units = [1, 1, 1, 1, 2, 3, 2];
            await Promise.all(units.map((unit, i) => rig.readsRight(member, holding(unit, i))));
            assert.deepEqual(seen.map(({ unit }) => unit), [1, 1, 2, 3, 1, 2, 1]);
            const addresses = rig.server.asked.filter(({ unit }) => unit === 1).map(({ address }) => address);
            assert.deepEqual(addresses, [0, 1, 2, 3]);
            await member.leave();
        });

        it("keeps the gap between an answer and the next request; the longest of all users holds", async () => {
            await start();
            const seen = record();
            const member = rig.join({ gapMs: 20 });
            const other = rig.join({ gapMs: 50 });
            await rig.in("up");
            const reads = Promise.all([1, 2, 3].map((unit) => member.read(holding(unit))));
            await rig.wire();
            await rig.pass(200, 10);
            await reads;
            assert.deepEqual(seen.map(({ at }) => at), [0, 50, 100]);
            await other.leave();
            await member.leave();
            assert.equal(rig.clock.waiting, 0);
        });

        it("bounds its queue", async () => {
            await start({ maxQueue: 3 });
            rig.server.script(faults.silent);
            const member = rig.join();
            await rig.in("up");
            const reads = [1, 2, 3, 4, 5].map((unit) => outcome(member.read(holding(unit))));
            assert.equal(await reads[4], "MODBUS_OVERLOAD");
            rig.clock.advance(SETTINGS.timeoutMs);
            const rest = await Promise.all(reads.slice(0, 4));
            assert.deepEqual(rest, ["MODBUS_TIMEOUT", ...[2, 3, 4].map((unit) => rig.right(holding(unit)))]);
            await member.leave();
        });

        it("gives each of many units its turn on a slow line", async () => {
            await start();
            const member = rig.join();
            await rig.in("up");
            rig.server.otherwise = faults.silent;
            const reads = Array.from({ length: 25 }, (_, i) => outcome(member.read({ ...holding(i + 1), probe: true })));
            for (let i = 0; i < reads.length; i++) await rig.pass(SETTINGS.timeoutMs);
            assert.deepEqual([...new Set(await Promise.all(reads))], ["MODBUS_TIMEOUT"]);
            await member.leave();
        });

        it("rejects a read whose turn does not come in time, without sending it", async () => {
            await start({ maxWaitMs: 10_000 });
            rig.server.script(faults.silent);
            const member = rig.join({ timeoutMs: 60_000 });
            await rig.in("up");
            const first = outcome(member.read(holding(1)));
            const second = outcome(member.read(holding(2)));
            await rig.wire();
            rig.clock.advance(5_000);
            const third = outcome(member.read(holding(3)));
            rig.clock.advance(5_000);
            assert.equal(await second, "MODBUS_OVERLOAD");
            rig.clock.advance(5_000);
            assert.equal(await third, "MODBUS_OVERLOAD");
            rig.clock.advance(45_000);
            assert.equal(await first, "MODBUS_TIMEOUT");
            assert.deepEqual(rig.server.asked.map(({ unit }) => unit), [1]);
            await member.leave();
        });

        it("sends nothing impossible", async () => {
            await start();
            const member = rig.join({ maxRegisters: 50 });
            assert.equal(await outcome(member.read(holding(1, 0, 51))), "MODBUS_REQUEST");
            assert.equal(await outcome(member.read(holding(1, 0, 126))), "MODBUS_REQUEST");
            assert.equal(await outcome(member.read(holding(300))), "MODBUS_REQUEST");
            await rig.readsRight(member, { unit: 1, table: "coil", address: 5, quantity: 2000 });
            await rig.readsRight(member, { unit: 1, table: "discrete", address: 5, quantity: 9 });
            await rig.readsRight(member, { unit: 1, table: "input", address: 5, quantity: 50 });
            assert.equal(rig.server.asked.length, 3);
            await member.leave();
        });
    });

    describe("abort", () => {
        it("rejects at once; a waiting read is not sent", async () => {
            await start();
            const member = rig.join();
            await rig.in("up");
            rig.server.script(faults.silent);
            const controller = new AbortController();
            const { signal } = controller;
            const first = outcome(member.read({ ...holding(1), signal }));
            const second = outcome(member.read({ ...holding(2), signal }));
            const third = member.read(holding(3));
            await rig.server.nextRequest();
            controller.abort();
            assert.deepEqual(await Promise.all([first, second]), ["MODBUS_ABORTED", "MODBUS_ABORTED"]);
            assert.equal(await outcome(member.read({ ...holding(1), signal })), "MODBUS_ABORTED");
            assert.deepEqual(rig.server.asked.map(({ unit }) => unit), [1], "the wire is still taken by the first");
            rig.clock.advance(SETTINGS.timeoutMs);
            assert.deepEqual(await third, rig.right(holding(3)));
            assert.deepEqual(rig.server.asked.map(({ unit }) => unit), [1, 3]);
            await member.leave();
        });

        it("leaves no listener on the signal, however reads end", async () => {
            await start();
            const member = rig.join();
            const { signal } = new AbortController();
            await member.read({ ...holding(1), signal });
            rig.server.script(faults.exception(2), faults.end);
            await outcome(member.read({ ...holding(1), signal }));
            await outcome(member.read({ ...holding(1), signal }));
            await outcome(member.read({ ...holding(1), signal }));
            assert.equal(getEventListeners(signal, "abort").length, 0);
            await member.leave();
        });
    });

    describe("dead units", () => {
        it("are left alone for 2 s, 4 s .. 5 min, with one probe each time", async () => {
            await start();
            rig.server.otherwise = (asked, peer) => (asked.unit === 2 ? undefined : faults.right(asked, peer));
            const seen = record();
            const member = rig.join();
            await rig.in("up");
            const codes = new Set<Buffer | string>();
            for (let second = 0; second < 24 * 3_600; second += 10) {
                await rig.readsRight(member, holding(1));
                const reads = [holding(2), holding(2)].map((request) => outcome(member.read(request)));
                await rig.wire();
                rig.clock.advance(SETTINGS.timeoutMs);
                for (const code of await Promise.all(reads)) codes.add(code);
                rig.clock.advance(10_000 - SETTINGS.timeoutMs);
            }
            assert.deepEqual(codes, new Set(["MODBUS_TIMEOUT", "MODBUS_BACKOFF"]));
            const probes = seen.filter(({ unit }) => unit === 2).map(({ at }) => at);
            const waits = probes.slice(1).map((at, i) => at - (probes[i] as number));
            // Asked every 10 s: the wait of 2 s a failure, rounded up.
            assert.deepEqual(waits.slice(0, 12), [10, 10, 10, 10, 20, 20, 20, 20, 20, 30, 30, 30].map((s) => s * 1_000));
            assert.equal(Math.max(...waits), 310_000);
            assert.ok(waits.slice(150).every((wait) => wait === 310_000), "the cap is 5 min");
            assert.equal(seen.filter(({ unit }) => unit === 1).length, 8_640);
            await member.leave();
        });

        it("do not hold up the others: nine of ten units are read every second", async () => {
            await start();
            rig.server.otherwise = (asked, peer) => (asked.unit === 5 ? undefined : faults.right(asked, peer));
            const member = rig.join();
            await rig.in("up");
            let right = 0;
            for (let second = 0; second < 120; second++) {
                const reads = Array.from({ length: 10 }, (_, i) => outcome(member.read(holding(i + 1))));
                await rig.pass(1_000, 250);
                right += (await Promise.all(reads)).filter((data) => Buffer.isBuffer(data)).length;
            }
            assert.equal(right, 9 * 120);
            await member.leave();
        });

        it("are asked by one read at a time: others are refused at once", async () => {
            await start();
            const member = rig.join();
            rig.server.otherwise = faults.silent;
            await rig.in("up");
            await timesOut(member, 1);
            rig.clock.advance(2_000);
            const probe = outcome(member.read(holding(1)));
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_BACKOFF");
            await member.leave();
            assert.equal(await probe, "MODBUS_CLOSED");
        });

        it("are left alone on a new connection too, when it was they who broke the last one", async () => {
            await start();
            const member = rig.join();
            await rig.readsRight(member, holding(1));
            rig.server.script(faults.length(0));
            assert.equal(await outcome(member.read(holding(7))), "MODBUS_FRAME");
            rig.clock.advance(1_000);
            await rig.in("up");
            assert.equal(await outcome(member.read(holding(7))), "MODBUS_BACKOFF");
            // Each identification after a reconnection is a probe: it would break the next one too.
            await assert.rejects(member.read({ ...holding(7), probe: true }), /^Unit 7 broke the protocol and is left alone; next try in 1 s\.$/);
            await rig.readsRight(member, holding(1));
            rig.clock.advance(1_000);
            await rig.readsRight(member, holding(7));
            await member.leave();
        });

        it("reject what waited for them at once", async () => {
            await start();
            const member = rig.join();
            await rig.in("up");
            rig.server.script(faults.silent);
            const reads = [holding(1), holding(1, 0), holding(1, 50)].map((request) => outcome(member.read(request)));
            await rig.server.nextRequest();
            rig.clock.advance(SETTINGS.timeoutMs);
            assert.deepEqual(await Promise.all(reads), ["MODBUS_TIMEOUT", "MODBUS_BACKOFF", "MODBUS_BACKOFF"]);
            await member.leave();
        });

        it("can be asked by a person or a discovery all the same, and answer again", async () => {
            await start();
            const member = rig.join();
            await rig.in("up");
            rig.server.script(faults.silent);
            await timesOut(member, 1);
            assert.equal(await outcome(member.read(holding(1))), "MODBUS_BACKOFF");
            await rig.readsRight(member, { ...holding(1), probe: true });
            await rig.readsRight(member, holding(1));
            await member.leave();
        });

        for (const code of [0x0a, 0x0b]) {
            it(`are known by a gateway's exception ${code} too, and the link stays`, async () => {
                await start();
                const member = rig.join();
                rig.server.script(faults.exception(code));
                const error = await member.read(holding(7)).catch((thrown: unknown) => thrown);
                assert.ok(error instanceof ModbusError && error.exception === code && /gateway/.test(error.message));
                assert.equal(await outcome(member.read(holding(7))), "MODBUS_BACKOFF");
                await rig.readsRight(member, holding(1));
                await rig.pass(2_000);
                await rig.readsRight(member, holding(7));
                assert.equal(rig.server.connections, 1);
                await member.leave();
            });
        }
    });

    describe("half-open connections", () => {
        it("are closed after three timeouts in a row of all units", async () => {
            await start();
            const member = rig.join();
            await rig.readsRight(member, holding(1));
            await rig.readsRight(member, holding(2));
            rig.server.otherwise = faults.silent;
            await timesOut(member, 1);
            await timesOut(member, 2);
            assert.equal(rig.link.state.name, "up");
            await rig.pass(2_000);
            await timesOut(member, 1);
            assert.equal(rig.link.state.name, "down");
            assert.match(rig.lost[0]?.message ?? "", /No unit answers/);
            rig.server.otherwise = faults.right;
            await rig.pass(1_000);
            await rig.in("up");
            await rig.readsRight(member, holding(2));
            assert.deepEqual([rig.lost.length, rig.back, rig.server.connections], [1, 1, 2]);
            await member.leave();
        });

        it("are not suspected while another unit answers", async () => {
            await start();
            const member = rig.join();
            rig.server.otherwise = (asked, peer) => (asked.unit === 2 ? undefined : faults.right(asked, peer));
            await rig.readsRight(member, holding(1));
            for (let i = 0; i < 6; i++) {
                await timesOut(member, 2);
                await rig.pass(15_000, 5_000);
            }
            assert.equal(rig.server.connections, 1);
            await member.leave();
        });

        it("are not suspected by a discovery that meets many silent units", async () => {
            await start();
            const member = rig.join();
            await rig.in("up");
            rig.server.otherwise = faults.silent;
            for (let unit = 1; unit <= 5; unit++) await timesOut(member, unit, true);
            assert.equal(rig.server.connections, 1);
            assert.equal(rig.link.state.name, "up");
            await member.leave();
        });
    });

    async function timesOut(member: LinkMember, unit: number, probe = false): Promise<void> {
        const asked = rig.server.nextRequest();
        const read = outcome(member.read({ ...holding(unit), probe }));
        await asked;
        rig.clock.advance(SETTINGS.timeoutMs);
        assert.equal(await read, "MODBUS_TIMEOUT");
    }
});

describe("Links to the same endpoint", () => {
    let server: FaultServer;
    beforeEach(async () => {
        server = await FaultServer.start();
    });
    afterEach(() => server.stop());

    it("are one, until the last user has left", async () => {
        const { port } = server;
        const link = sharedLink({ host: "localhost", port });
        assert.equal(sharedLink({ host: "LOCALHOST", port }), link);
        assert.notEqual(sharedLink({ host: "127.0.0.1", port }), link);
        const member = link.join(SETTINGS);
        const other = sharedLink({ host: "localhost", port }).join(SETTINGS);
        await Promise.all([member.read(holding(1)), other.read(holding(1))]);
        assert.equal(server.connections, 1);
        await member.leave();
        assert.equal(sharedLink({ host: "localhost", port }), link);
        await other.leave();
        assert.notEqual(sharedLink({ host: "localhost", port }), link);
    });

    it("are tried as they would be used: over the connection that is there, or a new one that is closed again", async () => {
        const events = new EventEmitter();
        server.on("disconnection", () => events.emit("gone"));
        const gone = once(events, "gone");
        assert.ok((await tryConnect(server, SETTINGS)) >= 0);
        await gone;
        const member = sharedLink(server).join(SETTINGS);
        await member.read(holding(1));
        await tryConnect(server, SETTINGS);
        assert.equal(server.connections, 2);
        await member.read(holding(1));
        await member.leave();
        await server.stop();
        await assert.rejects(tryConnect(server, SETTINGS), { code: "MODBUS_CLOSED", message: /refused/ });
    });
});

describe("ModbusError", () => {
    it("tells what the device itself refused from what a gateway says of it", () => {
        const refused = Array.from({ length: 12 }, (_, exception) => exception).filter((exception) => new ModbusError("MODBUS_EXCEPTION", "", { exception }).refused);
        assert.deepEqual(refused, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert.equal(new ModbusError("MODBUS_TIMEOUT", "").refused, false);
    });
});

/** A socket whose connect never ends, as with a host that drops packets. */
function deafSocket(): Socket {
    const socket = new Socket();
    socket.connect = () => socket;
    return socket;
}
