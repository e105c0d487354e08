import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, stat, symlink, truncate, unlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { encodeHeader } from "../../dist/store/record.js";
import { Spool, type SpoolOptions } from "../../dist/store/spool.js";
import { ManualClock } from "../common/manual-clock.js";
import { FaultyFiles } from "./faulty-files.js";
import { makeFolder, readAll, removeFolders } from "./kit.js";

const opened: Spool[] = [];

/** A spool that commits every append at once. */
function openSpool(folder: string, options: Partial<SpoolOptions> = {}): Spool {
    const spool = new Spool({ folder, commitEntries: 1, clock: new ManualClock(), ...options });
    opened.push(spool);
    return spool;
}

/** Appends `from`..`to` one by one as entries named by their number. */
async function fill(spool: Spool, from: number, to: number): Promise<void> {
    for (let i = from; i < to; i++) assert.equal(await spool.append(`entry ${i}`, 1), "disk");
}

function numbers(from: number, to: number): string[] {
    return Array.from({ length: to - from }, (_, i) => `entry ${from + i}`);
}

async function segments(folder: string): Promise<string[]> {
    return (await readdir(folder)).filter((name) => name.endsWith(".seg")).toSorted().map((name) => path.join(folder, name));
}

describe("store/spool", () => {
    let folder: string;
    beforeEach(async () => {
        folder = await makeFolder();
    });
    afterEach(async () => {
        await Promise.allSettled(opened.splice(0).map((spool) => spool.close()));
        await removeFolders();
    });

    describe("keeping", () => {
        it("gives back what was appended, in order, also after a restart", async () => {
            const first = openSpool(folder);
            await fill(first, 0, 50);
            assert.deepEqual((await readAll(first)).entries, numbers(0, 50));
            await first.close();
            const second = openSpool(folder);
            await fill(second, 50, 60);
            assert.deepEqual(await readAll(second), { entries: numbers(0, 60), damaged: 0, version: 0 });
        });

        it("writes what arrives within the commit time as one record", async () => {
            const clock = new ManualClock();
            const spool = openSpool(folder, { clock, commitEntries: 500 });
            await spool.ready;
            const kept = Promise.all([spool.append("a", 1), spool.append("b\nc\n", 2), spool.append("d", 1)]);
            clock.advance(1000);
            assert.deepEqual(await kept, ["disk", "disk", "disk"]);
            const { records } = await spool.read(0, { until: 4, entries: 10, bytes: 1e6 });
            assert.deepEqual(records.map(({ seq, count }) => [seq, count]), [[0, 4]]);
            assert.deepEqual((await readAll(spool)).entries, ["a", "b", "c", "d"]);
        });

        it("cuts a burst into records that a receiver can be sent one by one", async () => {
            const spool = openSpool(folder, { commitEntries: 500 });
            const kept = Array.from({ length: 20_000 }, (_, i) => spool.append(`entry ${i}`, 1));
            await Promise.all(kept);
            assert.deepEqual((await readAll(spool)).entries, numbers(0, 20_000));
            const { records } = await spool.read(0, { until: 20_000, entries: 20_000, bytes: 1e9 });
            assert.ok(records.length >= 4 && records.every(({ count }) => count <= 5000));
        });

        it("refuses an append that holds nothing or too much, and every one after close", async () => {
            const spool = openSpool(folder);
            await assert.rejects(spool.append("x", 0), { code: "SPOOL_ENTRY_INVALID" });
            await assert.rejects(spool.append("x".repeat(5e6), 1), { code: "SPOOL_ENTRY_INVALID" });
            await spool.close();
            await assert.rejects(spool.append("x", 1), { code: "SPOOL_CLOSED" });
        });

        it("flushes what waits on close", async () => {
            const spool = openSpool(folder, { commitEntries: 500 });
            const kept = spool.append("last words", 1);
            await spool.close();
            assert.equal(await kept, "disk");
            assert.deepEqual((await readAll(openSpool(folder))).entries, ["last words"]);
        });

        it("never gives a number twice, also when all segments are gone", async () => {
            const first = openSpool(folder, { segmentBytes: 1 });
            await fill(first, 0, 5);
            first.acknowledge(first.cursor("influx"), 0, 5);
            await first.close();
            const second = openSpool(folder, { segmentBytes: 1 });
            await second.ready;
            await second.flush();
            assert.equal((await segments(folder)).length, 0);
            await fill(second, 5, 6);
            assert.deepEqual(second.cursor("influx").done.toJSON(), [[0, 5]]);
            assert.equal(second.end, 6);
        });
    });

    describe("cursors", () => {
        it("survive a restart; a segment goes when everyone has passed it", async () => {
            const first = openSpool(folder, { segmentBytes: 1 });
            await fill(first, 0, 4);
            first.acknowledge(first.cursor("a"), 0, 3);
            first.acknowledge(first.cursor("b"), 0, 1);
            first.acknowledge(first.cursor("b"), 2, 3);
            await first.close();
            assert.equal((await segments(folder)).length, 2);
            const second = openSpool(folder);
            await second.ready;
            assert.deepEqual(second.cursor("b").done.toJSON(), [[0, 1], [2, 3]]);
            await second.forget("b");
            await second.flush();
            assert.equal((await segments(folder)).length, 1);
        });

        it("are written again when the disk did not take them", async () => {
            const files = new FaultyFiles();
            const first = openSpool(folder, { files });
            await fill(first, 0, 4);
            first.acknowledge(first.cursor("a"), 0, 3);
            files.fault = (operation, file) => (operation === "open" && file.includes(".cursor") ? "EIO" : undefined);
            await first.flush();
            files.fault = () => undefined;
            await first.close();
            const second = openSpool(folder);
            await second.ready;
            assert.equal(second.pending(second.cursor("a")).entries, 1);
        });

        for (const content of ["", "{", "null", '{"done":[["x",2]]}', '{"done":[[0,1e300]]}']) {
            it(`a place lost to ${JSON.stringify(content)} costs a second delivery and nothing else`, async () => {
                const first = openSpool(folder);
                await fill(first, 0, 4);
                first.acknowledge(first.cursor("a"), 0, 3);
                await first.close();
                await writeFile(path.join(folder, "a.cursor"), content);
                const second = openSpool(folder);
                await second.ready;
                assert.deepEqual(second.pending(second.cursor("a")).entries, 4);
                assert.deepEqual(second.cursor("a").dropped, {});
            });
        }

        it("tells how much waits and since when", async () => {
            const clock = new ManualClock();
            const spool = openSpool(folder, { clock });
            const start = clock.now();
            for (let i = 0; i < 20; i++) {
                await spool.append("x".repeat(20) + Buffer.from(Array.from({ length: 3000 }, () => Math.random() * 256)).toString("hex"), 1);
                clock.advance(1000);
            }
            const cursor = spool.cursor("a");
            const all = spool.pending(cursor);
            assert.deepEqual([all.entries, all.oldestMs], [20, start]);
            spool.acknowledge(cursor, 0, 10);
            const half = spool.pending(cursor);
            assert.ok(Math.abs(half.bytes - all.bytes / 2) < all.bytes / 10);
            assert.ok(half.oldestMs! >= start + 8000 && half.oldestMs! <= start + 10_000);
            spool.acknowledge(cursor, 10, 20);
            assert.deepEqual(spool.pending(cursor), { entries: 0, bytes: 0, oldestMs: undefined });
        });
    });

    describe("damage", () => {
        it("torn tail: cut at every byte of the last record, it starts, loses only that record and says so", async () => {
            const spool = openSpool(folder);
            await fill(spool, 0, 3);
            const [file] = await segments(folder);
            const start = (await stat(file!)).size;
            await fill(spool, 3, 4);
            await spool.close();
            const whole = await readFile(file!);
            for (let length = start; length < whole.length; length++) {
                await writeFile(file!, whole.subarray(0, length));
                const again = openSpool(folder);
                assert.deepEqual(await readAll(again), { entries: numbers(0, 3), damaged: 0, version: 0 }, `cut at ${length}`);
                assert.equal(again.stats().tornBytes, length - start);
                assert.equal((await stat(file!)).size, start);
                // Work goes on behind the cut.
                await fill(again, 3, 5);
                assert.deepEqual((await readAll(again)).entries, numbers(0, 5));
                await again.close();
                for (const other of (await segments(folder)).slice(1)) await unlink(other);
            }
        });

        it("bit rot: any damage to one record loses that record, counted, and no other", async () => {
            const spool = openSpool(folder);
            const ends: number[] = [0];
            for (let i = 0; i < 10; i++) {
                await fill(spool, i, i + 1);
                ends.push((await stat((await segments(folder))[0]!)).size);
            }
            await spool.close();
            const [file] = await segments(folder);
            const whole = await readFile(file!);
            await fc.assert(
                fc.asyncProperty(
                    fc.integer({ min: 0, max: 8 }),
                    fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 20 }),
                    async (victim, flips) => {
                        const content = Buffer.from(whole);
                        const [from, to] = [ends[victim]!, ends[victim + 1]!];
                        const spots = new Map(flips.map(([at, bits]) => [from + (at % (to - from)), bits]));
                        for (const [at, bits] of spots) content[at]! ^= bits;
                        await writeFile(file!, content);
                        const again = openSpool(folder);
                        const found = await readAll(again);
                        await again.close();
                        assert.deepEqual(found.entries, numbers(0, 10).filter((_, i) => i !== victim));
                        assert.deepEqual([found.damaged, found.version], [1, 0]);
                    },
                ),
                { numRuns: 150 },
            );
        });

        it("damage at the end of a segment, or a segment cut short while it is in use, costs what was there", async () => {
            const spool = openSpool(folder, { segmentBytes: 300 });
            await fill(spool, 0, 20);
            const [first, second] = await segments(folder);
            const content = await readFile(first!);
            content.fill(0, content.length - 20);
            await writeFile(first!, content);
            const { size } = await stat(second!);
            await truncate(second!, size - 10);
            const { entries, damaged } = await readAll(spool);
            assert.equal(damaged, 2);
            assert.equal(entries.length, 18);
            assert.deepEqual(entries, entries.toSorted((a, b) => Number(a.slice(6)) - Number(b.slice(6))));
        });

        it("records and damage larger than one read are passed all the same", async () => {
            const spool = openSpool(folder);
            const large = (i: number) => `entry ${i} ${randomBytes(300_000).toString("hex")}`;
            const kept = [large(0), large(1), "entry 2", large(3)];
            for (const line of kept) await spool.append(line, 1);
            assert.deepEqual((await readAll(spool)).entries, kept);
            // Not even one record has room in the first read.
            assert.equal((await spool.read(0, { until: 4, entries: 1, bytes: 1 })).entries, 1);
            const [file] = await segments(folder);
            const content = await readFile(file!);
            content.fill(0, 100, 200_000);
            await writeFile(file!, content);
            const again = await readAll(spool);
            assert.deepEqual([again.entries, again.damaged], [kept.slice(1), 1]);
        });

        it("a folder in the place of a segment is left alone, and what it should hold is counted", async () => {
            const spool = openSpool(folder, { segmentBytes: 1 });
            await fill(spool, 0, 3);
            await spool.close();
            const [first] = await segments(folder);
            await unlink(first!);
            await mkdir(first!);
            const again = openSpool(folder);
            assert.deepEqual((await readAll(again)).entries, numbers(1, 3));
            await fill(again, 3, 4);
            assert.equal(again.stats().state, "disk");
        });

        it("noise for a file: starts, and keeps what comes after", async () => {
            await fc.assert(
                fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (noise) => {
                    const own = await makeFolder();
                    await writeFile(path.join(own, `${"0".repeat(16)}-0.seg`), Buffer.concat([noise, Buffer.from("WLsp"), noise]));
                    const spool = openSpool(own);
                    await fill(spool, 0, 2);
                    assert.deepEqual((await readAll(spool)).entries, numbers(0, 2));
                    await spool.close();
                }),
                { numRuns: 50 },
            );
        });

        it("a record of a later version is stepped over and counted, whatever its body", async () => {
            const spool = openSpool(folder);
            await fill(spool, 0, 1);
            await spool.close();
            const later = { seq: 1, count: 7, body: Buffer.from("a body of the future") };
            const known = { seq: 8, count: 1, body: gzipSync("entry 8\n") };
            const [file] = await segments(folder);
            const now = await readFile(file!);
            await writeFile(file!, Buffer.concat([now, encodeHeader(later, 2), later.body, encodeHeader(known), known.body]));
            const again = openSpool(folder);
            assert.deepEqual(await readAll(again), { entries: ["entry 0", "entry 8"], damaged: 0, version: 7 });
            await fill(again, 9, 10);
            assert.equal(again.end, 10);
        });

        it("a segment that someone removed is counted as damaged, the rest is read", async () => {
            const spool = openSpool(folder, { segmentBytes: 1 });
            await fill(spool, 0, 3);
            const cursor = spool.cursor("a");
            await unlink((await segments(folder))[1]!);
            const first = await spool.read(0, { until: 3, entries: 100, bytes: 1e6 });
            assert.equal(first.to, 1);
            await spool.read(1, { until: 3, entries: 100, bytes: 1e6 });
            assert.deepEqual(cursor.dropped, { damaged: 1 });
            const last = await spool.read(2, { until: 3, entries: 100, bytes: 1e6 });
            assert.equal(last.entries, 1);
        });
    });

    describe("bounds", () => {
        it("never takes more than its limit; what goes is the oldest, counted for each destination", async () => {
            const spool = openSpool(folder, { maxBytes: 4000, segmentBytes: 500 });
            await spool.ready;
            const [slow, quick] = [spool.cursor("slow"), spool.cursor("quick")];
            for (let i = 0; i < 300; i++) {
                await fill(spool, i, i + 1);
                spool.acknowledge(quick, i, i + 1);
                const sizes = await Promise.all((await segments(folder)).map(async (file) => (await stat(file)).size));
                assert.ok(sizes.reduce((a, b) => a + b, 0) <= 4000);
            }
            const lost = slow.dropped.bytes ?? 0;
            assert.ok(lost > 150 && lost < 300);
            assert.deepEqual(quick.dropped, {});
            assert.equal(spool.pending(slow).entries, 300 - lost);
            const rest = await spool.read(lost, { until: 300, entries: 1000, bytes: 1e6 });
            assert.equal(rest.damaged, 0);
        });

        it("drops what is too old, segment by segment", async () => {
            const clock = new ManualClock();
            const spool = openSpool(folder, { clock, segmentBytes: 1, maxAgeMs: 10_000 });
            await spool.ready;
            const cursor = spool.cursor("a");
            for (let i = 0; i < 5; i++) {
                await fill(spool, i, i + 1);
                clock.advance(4000);
            }
            await fill(spool, 5, 6);
            assert.equal(cursor.dropped.age, 2);
            assert.equal(spool.pending(cursor).oldestMs! >= clock.now() - 14_000, true);
        });

        it("a clock that was never set, or is set while it runs, makes nothing old; order is by number", async () => {
            const early = openSpool(folder, { clock: new ManualClock(0), segmentBytes: 1 });
            await fill(early, 0, 3);
            await early.close();
            // Set by NTP, then an hour back.
            for (const [i, now] of [Date.UTC(2026, 10, 21, 12), Date.UTC(2026, 10, 21, 11)].entries()) {
                const later = openSpool(folder, { clock: new ManualClock(now), segmentBytes: 1 });
                await fill(later, 3 + i, 4 + i);
                assert.deepEqual((await readAll(later)).entries, numbers(0, 4 + i));
                assert.deepEqual(later.cursor("reader").dropped, {});
                await later.close();
            }
        });
    });

    describe("a disk that fails", () => {
        const cases = [
            ["ENOSPC", "the disk is full"],
            ["EIO", "the disk reports errors"],
            ["EROFS", "read-only"],
            ["short", "the disk is full"],
        ] as const;
        for (const [fault, words] of cases) {
            it(`${fault}: keeps entries in memory, says so, delivers them, and writes them once it can`, async () => {
                const clock = new ManualClock();
                const files = new FaultyFiles();
                const spool = openSpool(folder, { files, clock });
                await fill(spool, 0, 2);
                files.fault = (operation) => (operation === "handle.writev" || (operation === "open" && fault === "EROFS") ? fault : undefined);
                assert.equal(await spool.append("entry 2", 1), "memory");
                assert.equal(spool.stats().state, "memory");
                assert.match(spool.stats().reason!, new RegExp(words));
                assert.equal(await spool.append("entry 3", 1), "memory");
                files.fault = () => undefined;
                assert.ok((await readAll(spool)).entries.slice(-2).join() === numbers(2, 4).join());
                clock.advance(5000);
                await spool.flush();
                assert.deepEqual([spool.stats().state, spool.stats().reason, spool.stats().memoryBytes], ["disk", undefined, 0]);
                await spool.close();
                const again = await readAll(openSpool(folder));
                // A full disk costs the oldest segment: here that is all there was.
                assert.deepEqual(again.entries, fault === "ENOSPC" || fault === "short" ? numbers(2, 4) : numbers(0, 4));
                assert.equal(again.damaged, 0);
            });
        }

        it("memory is bounded: the oldest goes, counted", async () => {
            const files = new FaultyFiles();
            const spool = openSpool(folder, { files, memoryBytes: 1000 });
            await spool.ready;
            const cursor = spool.cursor("a");
            files.fault = (operation) => (operation === "handle.writev" ? "EIO" : undefined);
            for (let i = 0; i < 200; i++) await spool.append(`entry ${i}`, 1);
            assert.ok(spool.stats().memoryBytes <= 1000);
            const { memory } = cursor.dropped;
            assert.ok(memory! > 100 && memory! + spool.pending(cursor).entries === 200);
        });

        it("a full disk frees what everyone has before it gives up what is wanted", async () => {
            const files = new FaultyFiles();
            const spool = openSpool(folder, { files, segmentBytes: 1 });
            await fill(spool, 0, 4);
            const cursor = spool.cursor("a");
            spool.acknowledge(cursor, 0, 2);
            let full = true;
            files.fault = (operation, file) => {
                if (operation === "unlink" && file.endsWith(".seg")) full = false;
                return operation === "handle.writev" && full ? "ENOSPC" : undefined;
            };
            await fill(spool, 4, 5);
            assert.deepEqual(cursor.dropped, {});
            full = true;
            await fill(spool, 5, 6);
            assert.deepEqual(cursor.dropped, { disk: 1 });
        });

        it("a folder that cannot be made: works from memory, and takes it when it can", async () => {
            const clock = new ManualClock();
            const files = new FaultyFiles();
            files.fault = (operation) => (operation === "mkdir" ? "EROFS" : operation === "readdir" ? "EACCES" : undefined);
            const own = path.join(folder, "below");
            const spool = openSpool(own, { files, clock });
            assert.equal(await spool.append("entry 0", 1), "memory");
            files.fault = () => undefined;
            clock.advance(5000);
            await spool.flush();
            await fill(spool, 1, 2);
            await spool.close();
            assert.deepEqual((await readAll(openSpool(own))).entries, numbers(0, 2));
        });

        it("a folder behind a link to a disk that is not mounted: works from memory, and takes it once it is", async () => {
            const clock = new ManualClock();
            const disk = path.join(folder, "disk");
            await symlink(path.join(disk, "kept"), path.join(folder, "link"));
            const own = path.join(folder, "link", "spool", "points");
            const spool = openSpool(own, { clock });
            assert.equal(await spool.append("entry 0", 1), "memory");
            assert.match(spool.stats().reason!, /check that the disk it lies on is mounted$/);
            await mkdir(path.join(disk, "kept"), { recursive: true });
            clock.advance(5000);
            await spool.flush();
            await spool.close();
            assert.deepEqual((await readAll(openSpool(own))).entries, numbers(0, 1));
        });

        it("a folder that comes back with older data is not written over", async () => {
            const first = openSpool(folder);
            await fill(first, 0, 3);
            await first.close();
            const clock = new ManualClock();
            const files = new FaultyFiles();
            files.fault = (operation) => (operation === "readdir" ? "EIO" : undefined);
            const spool = openSpool(folder, { files, clock });
            assert.equal(await spool.append("new", 1), "memory");
            files.fault = () => undefined;
            clock.advance(5000);
            await spool.flush();
            assert.match(spool.stats().reason!, /restart Node-RED/);
            await spool.close();
            assert.deepEqual((await readAll(openSpool(folder))).entries, numbers(0, 3));
        });

        it("a bad sector: the segment is given up after some attempts, the rest is read", async () => {
            const files = new FaultyFiles();
            const spool = openSpool(folder, { files, segmentBytes: 1 });
            await fill(spool, 0, 3);
            const cursor = spool.cursor("a");
            const [, bad] = await segments(folder);
            files.fault = (operation, file) => (operation === "handle.read" && file === bad ? "EIO" : undefined);
            const limits = { until: 3, entries: 10, bytes: 1e6 };
            for (let i = 0; i < 4; i++) await assert.rejects(spool.read(1, limits), { code: "EIO" });
            await spool.read(1, limits);
            assert.deepEqual(cursor.dropped, { damaged: 1 });
            assert.equal((await spool.read(2, limits)).entries, 1);
        });

        it("a disk that hangs: what waits for it is bounded", async () => {
            const files = new FaultyFiles();
            const spool = openSpool(folder, { files });
            await spool.ready;
            let release!: () => void;
            const hang = new Promise<void>((resolve) => {
                release = resolve;
            });
            const open = files.open.bind(files);
            files.open = async (...args: Parameters<typeof open>) => {
                await hang;
                return open(...args);
            };
            const line = "x".repeat(4_000_000);
            const taken = Array.from({ length: 40 }, () => spool.append(line, 1));
            await assert.rejects(taken.at(-1)!, { code: "SPOOL_FULL" });
            release();
            assert.equal(await taken[0], "disk");
        });

        it("a disk that hangs does not hold up close", async () => {
            const clock = new ManualClock();
            const files = new FaultyFiles();
            const spool = openSpool(folder, { files, clock });
            await spool.ready;
            let release!: () => void;
            const hang = new Promise<void>((resolve) => {
                release = resolve;
            });
            const open = files.open.bind(files);
            files.open = async (...args: Parameters<typeof open>) => {
                await hang;
                return open(...args);
            };
            const kept = spool.append("entry 0", 1);
            const closed = spool.close();
            clock.advance(1500);
            await closed;
            assert.equal(spool.stats().state, "closed");
            release();
            assert.equal(await kept, "disk");
        });
    });

    describe("one owner", () => {
        it("a second opener in this process is refused until the first closes", async () => {
            const first = openSpool(folder);
            await first.ready;
            const second = openSpool(folder);
            await assert.rejects(second.ready, { code: "STORE_LOCKED" });
            await assert.rejects(second.append("x", 1), { code: "STORE_LOCKED" });
            assert.deepEqual([second.stats().state, /in use by process/.test(second.stats().reason!)], ["failed", true]);
            await second.close();
            await fill(first, 0, 1);
            await first.close();
            await openSpool(folder).ready;
        });

        it("another living process is refused, a dead one and one that only has its number are not", async () => {
            const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000); console.log('up')"], { stdio: ["ignore", "pipe", "ignore"] });
            await once(child.stdout, "data");
            const fields = (await readFile(`/proc/${child.pid}/stat`, "latin1")).split(") ")[1]!.split(" ");
            const lock = path.join(folder, "lock");
            await writeFile(lock, JSON.stringify({ pid: child.pid, start: fields[19] }));
            await assert.rejects(openSpool(folder).ready, { code: "STORE_LOCKED", message: new RegExp(`process ${child.pid}`) });
            await writeFile(lock, JSON.stringify({ pid: child.pid, start: "1" }));
            const other = openSpool(folder);
            await other.ready;
            await other.close();
            child.kill("SIGKILL");
            await once(child, "exit");
            for (const left of [JSON.stringify({ pid: child.pid, start: fields[19] }), JSON.stringify({ pid: process.pid, start: "1" }), "", "{"]) {
                await writeFile(lock, left);
                const spool = openSpool(folder);
                await spool.ready;
                await spool.close();
            }
        });
    });
});
