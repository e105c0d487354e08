import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { appendFile, readdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Deliver, Outcome, SpoolRecord } from "../../dist/store/delivery.js";
import { Outbox, type OutboxOptions } from "../../dist/store/outbox.js";
import { Spool } from "../../dist/store/spool.js";
import { ManualClock } from "../common/manual-clock.js";
import { FaultyFiles } from "./faulty-files.js";
import { entriesOf, makeFolder, removeFolders, until } from "./kit.js";

/** A receiver that answers as told and remembers what it was sent. */
class Receiver {
    readonly sent: string[][] = [];
    readonly bodies: Buffer[] = [];
    answer: (entries: string[], records: SpoolRecord[]) => Outcome | Promise<Outcome> = () => ({ kind: "delivered" });
    signal: AbortSignal | undefined;
    private readonly called = new EventEmitter();

    deliver: Deliver = async (records, signal) => {
        this.signal = signal;
        const entries = entriesOf(records);
        this.sent.push(entries);
        this.bodies.push(Buffer.concat(records.map(({ body }) => body)));
        this.called.emit("call");
        await new Promise(setImmediate);
        return this.answer(entries, records);
    };

    /** Resolves once it has been called so often. */
    async call(times = 1): Promise<void> {
        while (this.sent.length < times) await once(this.called, "call");
    }
}

describe("store/outbox", () => {
    let folder: string;
    let clock: ManualClock;
    let receiver: Receiver;
    let spool: Spool;
    let outbox: Outbox;
    let files: FaultyFiles;

    async function open(options: OutboxOptions = {}): Promise<void> {
        spool = new Spool({ folder, clock, files, commitEntries: 1 });
        outbox = new Outbox(spool, "influx", receiver.deliver, { clock, random: () => 1, ...options });
        await spool.ready;
    }
    async function close(): Promise<void> {
        await outbox.close();
        await spool.close();
    }
    const idle = () => until(outbox, () => outbox.stats().state === "idle" && outbox.stats().pendingPoints === 0);
    const reaches = (state: string) => until(outbox, () => outbox.stats().state === state);

    beforeEach(async () => {
        folder = await makeFolder();
        clock = new ManualClock();
        receiver = new Receiver();
        files = new FaultyFiles();
        await open();
    });
    afterEach(async () => {
        await close();
        await removeFolders();
    });

    it("delivers what is appended, once and in order, also across a restart", async () => {
        for (let i = 0; i < 5; i++) await spool.append(String(i), 1);
        await idle();
        await close();
        await open();
        for (let i = 5; i < 8; i++) await spool.append(String(i), 1);
        await idle();
        assert.deepEqual(receiver.sent.flat(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert.deepEqual(outbox.stats(), { state: "idle", pendingPoints: 0, pendingBytes: 0, delivered: 3, dropped: {}, quarantined: 0, lastDeliveredMs: clock.now() });
    });

    it("waits after a failure with growing jitter, or as long as the receiver asks, then sends the same bytes again", async () => {
        const answers: Outcome[] = [{ kind: "retry", reason: "503" }, { kind: "retry", reason: "503" }, { kind: "retry", reason: "429", afterMs: 30_000 }];
        receiver.answer = () => answers.shift() ?? { kind: "delivered" };
        await spool.append("a", 1);
        for (const [attempts, wait] of [[1, 1000], [2, 2000], [3, 30_000]] as const) {
            await until(outbox, () => outbox.stats().state === "waiting" && receiver.sent.length === attempts);
            clock.advance(wait - 1);
            assert.equal(receiver.sent.length, attempts);
            clock.advance(1);
        }
        await idle();
        assert.equal(receiver.sent.length, 4);
        // A success ends the outage: the next one begins with the short wait.
        receiver.answer = () => ({ kind: "retry", reason: "503" });
        await spool.append("b", 1);
        await reaches("waiting");
        receiver.answer = () => ({ kind: "delivered" });
        clock.advance(1000);
        await idle();
        assert.equal(receiver.sent.length, 6);
        receiver.bodies.length = 4;
        // An answer that was lost is met with the identical request: the receiver stores the same points again, which changes nothing.
        for (const body of receiver.bodies) assert.deepEqual(body, receiver.bodies[0]);
    });

    it("after a failure it asks once at a time, however many it may have in flight", async () => {
        await close();
        await open({ inFlight: 4, batchEntries: 1 });
        receiver.answer = () => ({ kind: "retry", reason: "503" });
        for (let i = 0; i < 8; i++) await spool.append(String(i), 1);
        await reaches("waiting");
        for (let attempt = 0; attempt < 5; attempt++) {
            receiver.sent.length = 0;
            outbox.probe();
            await reaches("waiting");
            assert.equal(receiver.sent.length, 1);
        }
    });

    it("a receiver that throws is an outage, not the end", async () => {
        receiver.answer = () => {
            throw new Error("socket hang up");
        };
        await spool.append("a", 1);
        await reaches("waiting");
        assert.equal(outbox.stats().reason, "socket hang up");
        receiver.answer = () => ({ kind: "delivered" });
        outbox.probe();
        await idle();
    });

    it("pauses until a person has acted, asks once a minute, drops nothing", async () => {
        receiver.answer = () => ({ kind: "pause", reason: "wrong token" });
        await spool.append("a", 1);
        await reaches("paused");
        assert.equal(outbox.stats().reason, "wrong token");
        for (let i = 0; i < 5; i++) await spool.append("b", 1);
        clock.advance(59_999);
        assert.equal(receiver.sent.length, 1);
        clock.advance(1);
        await until(outbox, () => receiver.sent.length === 2 && outbox.stats().state === "paused");
        receiver.answer = () => ({ kind: "delivered" });
        outbox.probe();
        await idle();
        assert.equal(outbox.stats().delivered, 6);
    });

    it("halves until the receiver can take it; one record alone that is too large is set aside", async () => {
        receiver.answer = () => ({ kind: "retry", reason: "down" });
        for (let i = 0; i < 16; i++) await spool.append(i === 9 ? "x".repeat(1000) : String(i), 1);
        await reaches("waiting");
        receiver.answer = (entries) => (entries.length > 3 || entries.join("").length > 500 ? { kind: "split", reason: "413" } : { kind: "delivered" });
        outbox.probe();
        await idle();
        assert.equal(outbox.stats().delivered, 15);
        assert.deepEqual(await outbox.quarantine.list(), [{ at: clock.now(), entry: "x".repeat(1000), reason: "413" }]);
        // Learnt: no more than three at once.
        receiver.sent.length = 0;
        for (let i = 0; i < 16; i++) await spool.append("later", 1);
        await idle();
        assert.ok(receiver.sent.every((entries) => entries.length <= 3));
    });

    describe("live data beside a backlog", () => {
        let release: (outcome: Outcome) => void = () => undefined;

        /** 40 deliveries of backlog, then the receiver works again. */
        async function fallBehind(): Promise<void> {
            await close();
            await open({ batchEntries: 100 });
            receiver.answer = () => ({ kind: "retry", reason: "down" });
            for (let i = 0; i < 40; i++) await spool.append(Array.from({ length: 100 }, (_, k) => `old ${i * 100 + k}`).join("\n"), 100);
            await reaches("waiting");
            receiver.sent.length = 0;
            // The first attempt succeeds; then each backlog delivery takes until it is released.
            let probed = false;
            receiver.answer = (entries) => {
                if (entries[0]!.startsWith("new") || !probed) {
                    probed = true;
                    return { kind: "delivered" };
                }
                return new Promise((resolve) => {
                    release = (outcome) => resolve(outcome);
                });
            };
            outbox.probe();
            await reaches("behind");
        }

        it("fresh entries go out at once while the backlog drains in order", async () => {
            await fallBehind();
            for (let i = 0; i < 10; i++) {
                await spool.append(`new ${i}`, 1);
                await until(outbox, () => receiver.sent.flat().includes(`new ${i}`));
                assert.ok(outbox.stats().pendingPoints > 2000, "the backlog was not drained before");
                release({ kind: "delivered" });
            }
            receiver.answer = () => ({ kind: "delivered" });
            release({ kind: "delivered" });
            await idle();
            const all = receiver.sent.flat();
            assert.deepEqual(all.filter((entry) => entry.startsWith("old")), Array.from({ length: 4000 }, (_, i) => `old ${i}`));
            assert.deepEqual(all.filter((entry) => entry.startsWith("new")), Array.from({ length: 10 }, (_, i) => `new ${i}`));
        });

        it("both places survive a restart: nothing is sent twice", async () => {
            await fallBehind();
            await spool.append("new", 1);
            await until(outbox, () => outbox.stats().delivered === 101);
            await receiver.call(3);
            // The answer is chosen in the turn after the call.
            await new Promise(setImmediate);
            await new Promise(setImmediate);
            release({ kind: "retry", reason: "down" });
            await reaches("waiting");
            const delivered = new Set([...receiver.sent[0]!, "new"]);
            await close();
            receiver.sent.length = 0;
            receiver.answer = () => ({ kind: "delivered" });
            await open();
            await idle();
            assert.equal(outbox.stats().delivered + delivered.size, 4001);
            assert.ok(!receiver.sent.flat().some((entry) => delivered.has(entry)));
        });

        it("strict order where it is asked for", async () => {
            await close();
            await open({ live: false, batchEntries: 10 });
            receiver.answer = () => ({ kind: "retry", reason: "down" });
            for (let i = 0; i < 200; i++) await spool.append(String(i), 1);
            await reaches("waiting");
            receiver.sent.length = 0;
            receiver.answer = () => ({ kind: "delivered" });
            outbox.probe();
            for (let i = 200; i < 220; i++) await spool.append(String(i), 1);
            await idle();
            assert.deepEqual(receiver.sent.flat(), Array.from({ length: 220 }, (_, i) => String(i)));
        });

        it("several in flight where it is asked for, each entry once, none larger than its bound", async () => {
            await close();
            await open({ inFlight: 4, batchEntries: 50 });
            receiver.answer = () => ({ kind: "pause", reason: "wait" });
            for (let i = 0; i < 100; i++) await spool.append(Array.from({ length: 10 }, (_, k) => String(i * 10 + k)).join("\n"), 10);
            await reaches("paused");
            receiver.sent.length = 0;
            // After the probe, none is answered before four are in flight.
            let probed = false;
            const waiting: (() => void)[] = [];
            receiver.answer = () => {
                if (!probed) {
                    probed = true;
                    return { kind: "delivered" };
                }
                return new Promise((resolve) => {
                    waiting.push(() => resolve({ kind: "delivered" }));
                    if (waiting.length < 4) return;
                    receiver.answer = () => ({ kind: "delivered" });
                    for (const answer of waiting) answer();
                });
            };
            outbox.probe();
            await idle();
            assert.equal(waiting.length, 4);
            assert.deepEqual(receiver.sent.flat().toSorted((a, b) => Number(a) - Number(b)), Array.from({ length: 1000 }, (_, i) => String(i)));
            assert.ok(receiver.sent.every((entries) => entries.length <= 50));
        });
    });

    describe("quarantine", () => {
        const refuseBad = (entries: string[]): Outcome => ({
            kind: "delivered",
            rejected: entries.filter((entry) => entry.startsWith("bad")).map((entry) => ({ entry, reason: "type conflict" })),
        });

        it("takes refused entries with the reason and lets the rest pass; it survives a restart, also with a torn line", async () => {
            receiver.answer = refuseBad;
            await spool.append("good 1\nbad 1\ngood 2", 3);
            await idle();
            await close();
            await appendFile(path.join(folder, "influx.refused"), 'null\n5\n{"at":1}\n{"at":1,"ent');
            await open();
            await spool.append("bad 2", 1);
            await idle();
            assert.deepEqual((await outbox.quarantine.list()).map(({ entry, reason }) => [entry, reason]), [["bad 1", "type conflict"], ["bad 2", "type conflict"]]);
            assert.equal(outbox.stats().quarantined, 2);
            assert.equal((await outbox.quarantine.list(1))[0]!.entry, "bad 2");
            assert.equal((await outbox.quarantine.export()).trim().split("\n").length, 2);
        });

        it("is on disk before the rest moves on: a power cut takes nothing of it", async () => {
            receiver.answer = refuseBad;
            await spool.append("bad 1\ngood", 2);
            await idle();
            await close();
            await files.powerCut(0);
            await open();
            await idle();
            assert.deepEqual((await outbox.quarantine.list()).map(({ entry }) => entry), ["bad 1"]);
        });

        for (const how of ["close", "kill"] as const) {
            it(`what the disk did not take when it was refused is not lost by a ${how}`, async () => {
                receiver.answer = refuseBad;
                files.fault = (operation, file) => (operation === "open" && file.endsWith(".refused") ? "EIO" : undefined);
                await spool.append("bad 1\ngood", 2);
                await idle();
                await spool.flush();
                if (how === "kill") files.kill();
                else files.fault = () => undefined;
                await close();
                files = new FaultyFiles();
                await open();
                await idle();
                assert.deepEqual((await outbox.quarantine.list()).map(({ entry }) => entry), ["bad 1"]);
            });
        }

        it("is sent again on demand; what is refused again, or cannot be sent, stays", async () => {
            receiver.answer = refuseBad;
            await spool.append("bad 1\nbad 2\nbad 3", 3);
            await idle();
            receiver.answer = () => ({ kind: "retry", reason: "down" });
            assert.deepEqual(await outbox.retryQuarantined(), { kind: "retry", reason: "down" });
            assert.equal(outbox.stats().quarantined, 3);
            receiver.answer = () => ({ kind: "delivered", rejected: [{ entry: "bad 2", reason: "still" }] });
            assert.equal((await outbox.retryQuarantined()).kind, "delivered");
            assert.deepEqual(await outbox.quarantine.list(), [{ at: clock.now(), entry: "bad 2", reason: "still" }]);
            await outbox.quarantine.discard();
            assert.equal(outbox.stats().quarantined, 0);
            assert.equal(await readFile(path.join(folder, "influx.refused"), "utf8"), "");
        });

        it("is bounded: the oldest go, counted", async () => {
            await close();
            await open({ quarantineBytes: 20_000 });
            receiver.answer = refuseBad;
            for (let i = 0; i < 100; i++) await spool.append(Array.from({ length: 10 }, (_, k) => `bad ${i * 10 + k}`).join("\n"), 10);
            await idle();
            const { quarantined, dropped } = outbox.stats();
            assert.equal(quarantined + dropped.quarantine!, 1000);
            assert.equal((await outbox.quarantine.list(1))[0]!.entry, "bad 999");
            for (const name of ["influx.refused", "influx.refused.old"]) assert.ok((await stat(path.join(folder, name))).size <= 10_000);
        });

        it("a disk that takes no writes does not stop delivery; entries wait in memory", async () => {
            receiver.answer = refuseBad;
            files.fault = (operation, file) => (operation === "open" && file.endsWith(".refused") ? "EROFS" : undefined);
            await spool.append("bad 1\ngood", 2);
            await idle();
            assert.deepEqual((await outbox.quarantine.list()).map(({ entry }) => entry), ["bad 1"]);
            files.fault = () => undefined;
            await spool.append("bad 2", 1);
            await idle();
            assert.match(await readFile(path.join(folder, "influx.refused"), "utf8"), /bad 1.*\n.*bad 2/);
        });
    });

    it("one destination that is down holds up no other", async () => {
        const other = new Receiver();
        const second = new Outbox(spool, "uplink", other.deliver, { clock });
        receiver.answer = () => ({ kind: "pause", reason: "wrong token" });
        await spool.append("a", 1);
        await until(second, () => second.stats().delivered === 1);
        await reaches("paused");
        assert.equal(outbox.stats().pendingPoints, 1);
        await second.close();
    });

    it("counts what the spool lost before it could be delivered", async () => {
        await close();
        spool = new Spool({ folder, clock, commitEntries: 1, maxBytes: 2000, segmentBytes: 200 });
        receiver.answer = () => ({ kind: "retry", reason: "down" });
        outbox = new Outbox(spool, "influx", receiver.deliver, { clock, random: () => 1 });
        for (let i = 0; i < 100; i++) await spool.append(String(i), 1);
        await reaches("waiting");
        receiver.answer = () => ({ kind: "delivered" });
        receiver.sent.length = 0;
        outbox.probe();
        await idle();
        assert.equal(outbox.stats().delivered + outbox.stats().dropped.bytes!, 100);
        assert.equal(receiver.sent.flat().at(-1), "99");
    });

    it("counts what was damaged on disk, once, and delivers the rest", async () => {
        receiver.answer = () => ({ kind: "retry", reason: "down" });
        for (const entry of ["a", "b", "c"]) await spool.append(entry, 1);
        await reaches("waiting");
        const [name] = (await readdir(folder)).filter((file) => file.endsWith(".seg"));
        const content = await readFile(path.join(folder, name!));
        content[Math.floor(content.length / 2)]! ^= 1;
        await writeFile(path.join(folder, name!), content);
        receiver.sent.length = 0;
        // Read twice, lost once.
        outbox.probe();
        await reaches("waiting");
        receiver.answer = () => ({ kind: "delivered" });
        outbox.probe();
        await idle();
        assert.deepEqual(receiver.sent.at(-1), ["a", "c"]);
        assert.deepEqual([outbox.stats().delivered, outbox.stats().dropped], [2, { damaged: 1 }]);
    });

    it("a disk that cannot be read is waited for", async () => {
        files.fault = (operation) => (operation === "handle.read" ? "EIO" : undefined);
        await spool.append("a", 1);
        await reaches("waiting");
        assert.match(outbox.stats().reason!, /EIO/);
        files.fault = () => undefined;
        clock.advance(1000);
        await idle();
        assert.deepEqual(receiver.sent, [["a"]]);
    });

    it("a folder in use by another is told, not waited for", async () => {
        const second = new Spool({ folder, clock });
        const stuck = new Outbox(second, "x", receiver.deliver, { clock });
        await until(stuck, () => stuck.stats().state === "paused");
        assert.match(stuck.stats().reason!, /in use by process/);
        await stuck.close();
        await second.close();
    });

    it("close gives up what is in flight and keeps it", async () => {
        receiver.answer = () =>
            new Promise((resolve) => {
                const giveUp = () => resolve({ kind: "retry", reason: "aborted" });
                if (receiver.signal!.aborted) giveUp();
                else receiver.signal!.addEventListener("abort", giveUp);
            });
        await spool.append("a", 1);
        await receiver.call();
        assert.equal(outbox.stats().state, "sending");
        await close();
        assert.equal(outbox.stats().state, "closed");
        receiver.answer = () => ({ kind: "delivered" });
        await open();
        await idle();
        assert.deepEqual(receiver.sent, [["a"], ["a"]]);
    });

    it("a receiver that ignores the abort does not hold up close", async () => {
        receiver.answer = () => new Promise(() => undefined);
        await spool.append("a", 1);
        await receiver.call();
        const closed = outbox.close();
        clock.advance(1000);
        await closed;
    });
});
