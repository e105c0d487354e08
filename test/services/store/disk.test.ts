import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdir, rm, stat, statfs, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import type { Deliver } from "../../../dist/store/delivery.js";
import { Outbox } from "../../../dist/store/outbox.js";
import { Series } from "../../../dist/store/series.js";
import { Spool } from "../../../dist/store/spool.js";
import { Store } from "../../../dist/store/store.js";
import { ManualClock } from "../../common/manual-clock.js";
import { backends } from "../../store/backends.js";
import { entriesOf, makeFolder, readAll, removeFolders, until } from "../../store/kit.js";

const run = promisify(execFile);
const START = Date.UTC(2026, 5, 1);

/** A disk of its own in memory; mounting takes root. */
class SmallDisk {
    private constructor(readonly folder: string) {}

    static async mount(megabytes: number): Promise<SmallDisk> {
        const folder = await makeFolder();
        await run("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", folder]);
        return new SmallDisk(folder);
    }

    remount(mode: "ro" | "rw"): Promise<unknown> {
        return run("mount", ["-o", `remount,${mode}`, this.folder]);
    }

    /** Another program fills what is left, but for so many bytes. */
    async fill(leave = 0): Promise<void> {
        const { bavail, bsize } = await statfs(this.folder);
        await writeFile(path.join(this.folder, "other"), Buffer.alloc(Math.max(0, bavail * bsize - leave)));
    }

    async free(): Promise<void> {
        await rm(path.join(this.folder, "other"));
    }

    unmount(): Promise<unknown> {
        return run("umount", ["--lazy", this.folder]);
    }
}

/** An entry that gzip cannot make small. */
function entry(i: number): string {
    return `${i} ${randomBytes(750).toString("base64")}`;
}

describe("store: a real disk that is full or read-only", function () {
    this.timeout(60_000);
    let disk: SmallDisk;
    let clock: ManualClock;
    const closers: (() => Promise<unknown>)[] = [];
    beforeEach(() => {
        clock = new ManualClock(START);
    });
    afterEach(async () => {
        for (const close of closers.splice(0).toReversed()) await close();
        await disk.unmount();
        await removeFolders();
    });

    it("a spool larger than its disk: the oldest go, each counted, the rest arrives", async () => {
        disk = await SmallDisk.mount(2);
        const spool = new Spool({ folder: disk.folder, clock, commitEntries: 1, segmentBytes: 128 * 1024 });
        closers.push(() => spool.close());
        let isUp = false;
        const arrived: number[] = [];
        const deliver: Deliver = async (records) => {
            if (!isUp) return { kind: "retry", reason: "down" };
            arrived.push(...entriesOf(records).map((line) => Number(line.split(" ")[0])));
            return { kind: "delivered" };
        };
        const outbox = new Outbox(spool, "x", deliver, { clock, live: false });
        closers.push(() => outbox.close());
        for (let i = 0; i < 5000; i++) assert.equal(await spool.append(entry(i), 1), "disk");
        assert.equal(spool.stats().state, "disk");
        isUp = true;
        outbox.probe();
        await until(outbox, () => outbox.stats().state === "idle" && outbox.stats().pendingPoints === 0);
        const { delivered, dropped } = outbox.stats();
        assert.equal(delivered + dropped.disk!, 5000);
        assert.ok(delivered > 1000);
        assert.deepEqual(arrived, Array.from({ length: delivered }, (_, i) => 5000 - delivered + i));
    });

    it("another program fills the disk: memory serves until it gives room, and nothing taken meanwhile is lost", async () => {
        disk = await SmallDisk.mount(4);
        const spool = new Spool({ folder: disk.folder, clock, commitEntries: 1 });
        closers.push(() => spool.close());
        await spool.ready;
        await disk.fill();
        for (let i = 0; i < 100; i++) await spool.append(entry(i), 1);
        assert.deepEqual([spool.stats().state, /disk is full/.test(spool.stats().reason!)], ["memory", true]);
        assert.equal((await readAll(spool)).entries.length, 100);
        await disk.free();
        clock.advance(5000);
        await spool.flush();
        assert.equal(spool.stats().state, "disk");
        await spool.close();
        const again = new Spool({ folder: disk.folder });
        closers.push(() => again.close());
        assert.equal((await readAll(again)).entries.length, 100);
    });

    it("a folder on a read-only disk: says so, delivers from memory, and keeps all once it can write", async () => {
        disk = await SmallDisk.mount(16);
        await disk.remount("ro");
        const store = new Store({ folder: path.join(disk.folder, "wattledger"), clock });
        closers.push(() => store.close());
        const arrived: string[] = [];
        const outbox = store.outbox("x", async (records) => {
            arrived.push(...entriesOf(records));
            return { kind: "delivered" };
        });
        store.series.append({ timestamp: START, payload: { a_w: 1 }, reading: { site: "home", device: "inv", class: "inverter" } });
        const kept = store.spool().append("one", 1);
        await store.spool().flush();
        assert.equal(await kept, "memory");
        await until(outbox, () => arrived.length === 1);
        await store.series.flush();
        const { problems } = store.health();
        assert.equal(problems.length, 2);
        for (const problem of problems) assert.match(problem, /read-only/);
        await disk.remount("rw");
        clock.advance(60_000);
        await store.series.flush();
        await store.spool().flush();
        assert.deepEqual(store.health().problems, []);
        assert.equal((await store.series.query({ site: "home", device: "inv", from: 0, to: 1e15 })).length, 1);
        assert.deepEqual([store.series.stats().buffered, store.series.stats().state], [0, "disk"]);
    });

    for (const backend of backends) {
        const add = (series: Series, i: number) =>
            series.append({
                timestamp: clock.now(),
                payload: Object.fromEntries(Array.from({ length: 40 }, (_, k) => [`p${k}_w`, Math.random()])),
                reading: { site: "home", device: `inv${i % 5}`, class: "inverter" },
            });

        it(`a series larger than its disk (${backend}): the oldest samples go, counted, and new ones are kept`, async () => {
            disk = await SmallDisk.mount(8);
            const series = new Series({ folder: disk.folder, clock, backend });
            closers.push(() => series.close());
            await series.ready;
            for (let i = 0; i < 30_000; i++) {
                add(series, i);
                clock.advance(500);
                if (i % 100 === 99) await series.flush();
            }
            await series.flush();
            assert.deepEqual([series.stats().state, series.stats().buffered, series.stats().dropped.memory], ["disk", 0, 0]);
            assert.ok(series.stats().dropped.disk > 0);
            const newest = await series.query({ site: "home", device: "inv4", from: 0, to: 1e15, limit: 100 });
            assert.equal(newest.length, 100);
            await series.close();
            const again = new Series({ folder: disk.folder, clock, backend });
            closers.push(() => again.close());
            await again.ready;
            assert.equal(again.stats().setAside, undefined);
            assert.deepEqual(await again.query({ site: "home", device: "inv4", from: 0, to: 1e15, limit: 100 }), newest);
        });

        it(`another program fills the disk (${backend}): samples wait in memory and are all kept once there is room`, async () => {
            disk = await SmallDisk.mount(16);
            const series = new Series({ folder: disk.folder, clock, backend });
            closers.push(() => series.close());
            await series.ready;
            assert.ok((await readdir(disk.folder)).includes("ballast"));
            // The ballast is the first to go, then the oldest samples, and each time the other program takes the room.
            for (let round = 0; round < 20 && series.stats().state === "disk"; round++) {
                await disk.fill();
                for (let i = 0; i < 3000; i++) {
                    add(series, i);
                    clock.advance(100);
                }
                await series.flush();
                assert.ok(!(await readdir(disk.folder)).includes("ballast"));
            }
            assert.deepEqual([series.stats().state, series.stats().reason], ["memory", "the disk is full"]);
            const { dropped, buffered } = series.stats();
            await disk.free();
            clock.advance(60_000);
            await series.flush();
            assert.deepEqual([series.stats().state, series.stats().buffered], ["disk", 0]);
            await series.clean();
            assert.equal((await stat(path.join(disk.folder, "ballast"))).size, 2 * 1024 * 1024);
            assert.deepEqual(series.stats().dropped, dropped);
            const rows = await Promise.all([0, 1, 2, 3, 4].map((k) => series.query({ site: "home", device: `inv${k}`, from: 0, to: 1e15 })));
            const kept = rows.reduce((sum, { length }) => sum + length, 0);
            assert.ok(kept * 40 >= buffered, `${kept} samples kept, ${buffered} values waited`);
        });
    }
});
