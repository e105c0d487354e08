import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import fc from "fast-check";
import { localDay } from "../../dist/common/clock.js";
import type { PointValue } from "../../dist/common/reading.js";
import { Series, type Resolution, type SeriesOptions } from "../../dist/store/series.js";
import { openDatabase } from "../../dist/store/sqlite.js";
import { ManualClock } from "../common/manual-clock.js";
import { backends } from "./backends.js";
import { FaultyFiles } from "./faulty-files.js";
import { makeFolder, removeFolders } from "./kit.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const START = Date.UTC(2026, 5, 1);
const ALL = { from: 0, to: 1e15 };

for (const backend of backends) {
    describe(`store/series on ${backend}`, () => {
        let folder: string;
        let clock: ManualClock;
        let series: Series;

        async function open(options: Partial<SeriesOptions> = {}): Promise<void> {
            series = new Series({ folder, backend, clock, ...options });
            await series.ready;
        }
        async function reopen(options: Partial<SeriesOptions> = {}): Promise<void> {
            await series.close();
            await open(options);
        }
        const add = (timestamp: number, payload: Record<string, PointValue>, device = "inv", site = "home") =>
            series.append({ timestamp, payload, reading: { site, device, class: "inverter" } });
        const query = (range: object = {}, device = "inv") => series.query({ site: "home", device, ...ALL, ...range });
        const rollups = (resolution: Resolution, range: object = {}) => series.rollups(resolution, { site: "home", device: "inv", ...ALL, ...range });

        beforeEach(async () => {
            folder = await makeFolder();
            clock = new ManualClock(START);
            await open();
        });
        afterEach(async () => {
            await series.close();
            await removeFolders();
        });

        describe("samples", () => {
            it("come back as they were, before the commit, after it and after a restart", async () => {
                const rows = [
                    { t: START, values: { ac_power_w: 4210.5, state: "MPPT", ac_energy_export_wh: 9_007_199_254_740_991 } },
                    { t: START + 1, values: { ac_power_w: -0.1 } },
                    { t: START + 70_000, values: { state: "Ünder 'quoted' \u0000 text", ac_power_w: 1e-300 } },
                ];
                for (const { t, values } of rows) assert.equal(add(t, values), true);
                assert.deepEqual(await query(), rows);
                await series.flush();
                assert.deepEqual(await query(), rows);
                await reopen();
                assert.deepEqual(await query(), rows);
            });

            it("are selected by time, point and number", async () => {
                for (let i = 0; i < 100; i++) add(START + i * 1000, i % 2 === 0 ? { a_w: i } : { b_w: i });
                await series.flush();
                for (let i = 100; i < 200; i++) add(START + i * 1000, { a_w: i });
                const times = async (range: object) => (await query(range)).map(({ t }) => (t - START) / 1000);
                assert.deepEqual(await times({ from: START + 98_000, to: START + 102_000 }), [98, 99, 100, 101]);
                assert.deepEqual(await times({ limit: 3 }), [197, 198, 199]);
                assert.deepEqual(await times({ to: START + 50_000, limit: 2 }), [48, 49]);
                assert.deepEqual(await times({ points: ["b_w"], to: START + 5000 }), [1, 3]);
                assert.deepEqual(await query({ from: START + 1e9 }), []);
                assert.deepEqual(await query({}, "nobody"), []);
            });

            it("twice is once, in the buffer, across commits and across restarts", async () => {
                for (let round = 0; round < 3; round++) {
                    for (let i = 0; i < 10; i++) {
                        add(START + i * 1000, { a_w: i });
                        add(START + i * 1000, { a_w: i, b_w: 2 * i });
                    }
                    if (round === 1) await reopen();
                    await series.flush();
                }
                assert.deepEqual(await query(), Array.from({ length: 10 }, (_, i) => ({ t: START + i * 1000, values: { a_w: i, b_w: 2 * i } })));
                clock.advance(2 * MINUTE);
                await series.clean();
                assert.equal((await rollups("minute"))[0]!.values["a_w"]!.count, 10);
            });

            it("points of one time may come one by one, in commits of their own", async () => {
                for (const payload of [{ a_w: 1 }, { b_w: 2 }, { c_w: 3 }]) {
                    add(START, payload);
                    await series.flush();
                }
                assert.deepEqual(await query(), [{ t: START, values: { a_w: 1, b_w: 2, c_w: 3 } }]);
            });

            it("are found at the edges of whatever they are looked up by", async () => {
                const times = [-600_001, -600_000, -60_001, -60_000, -1, 0, 1, 59_999, 60_000, 599_999, 600_000, 3_599_999].map((ms) => START + ms);
                for (const t of times) {
                    add(t, { a_w: 1 });
                    await series.flush();
                }
                assert.deepEqual((await query()).map(({ t }) => t), times);
                for (const [i, from] of times.entries()) {
                    for (const [k, to] of times.entries()) assert.deepEqual((await query({ from, to })).map(({ t }) => t), times.slice(i, Math.max(i, k)));
                }
            });

            it("a message that is changed after it was taken changes nothing here", async () => {
                const payload: Record<string, PointValue> = { a_w: 1 };
                add(START, payload);
                payload["a_w"] = 2;
                series.latest()[0]!.values["a_w"] = 3;
                assert.deepEqual((await query())[0]!.values, { a_w: 1 });
                assert.equal(series.latest()[0]!.values["a_w"], 1);
            });

            it("outside the time that is kept, or without a value, are not taken", async () => {
                assert.equal(add(5000, { a_w: 1 }), false, "1970");
                assert.equal(add(START - 8 * DAY, { a_w: 1 }), false, "older than raw data is kept");
                assert.equal(add(START + 2 * DAY, { a_w: 1 }), false, "the day after tomorrow");
                assert.equal(add(START + 0.5, { a_w: 1 }), false);
                assert.equal(add(NaN, { a_w: 1 }), false);
                assert.equal(add(START, { a_w: 1 }, "inv", "a/b"), false);
                assert.equal(add(START, { a_w: 1 }, "a\0b"), false);
                assert.equal(series.stats().refused, 7);
                add(START, { a_w: NaN, b_w: Infinity, c_w: undefined as never, d: { x: 1 } as never });
                add(START, JSON.parse('{"__proto__": 1, "Bad Name": 2, "constructor": 3, "ok_w": 4}') as Record<string, PointValue>);
                await series.flush();
                assert.deepEqual(await query(), [{ t: START, values: { constructor: 3, ok_w: 4 } }]);
            });

            it("while our own clock is not set, samples with a sound time are taken and kept", async () => {
                clock = new ManualClock(0);
                await reopen();
                assert.equal(add(START, { a_w: 1 }), true);
                await series.flush();
                await series.clean();
                clock = new ManualClock(START + HOUR);
                await reopen();
                await series.clean();
                assert.equal((await query()).length, 1);
                assert.equal((await rollups("hour")).length, 1);
            });

            it("sites and devices are apart", async () => {
                add(START, { a_w: 1 }, "x", "one");
                add(START, { a_w: 2 }, "x", "two");
                add(START, { a_w: 3 }, "y", "one");
                await reopen();
                assert.deepEqual(
                    await Promise.all([["one", "x"], ["two", "x"], ["one", "y"]].map(async ([site, device]) => (await series.query({ site: site!, device: device!, ...ALL }))[0]!.values["a_w"])),
                    [1, 2, 3],
                );
                assert.deepEqual(series.list().map(({ site, device, points }) => [site, device, points]), [["one", "x", ["a_w"]], ["two", "x", ["a_w"]], ["one", "y", ["a_w"]]]);
            });
        });

        describe("newest values", () => {
            it("of every device, of every point, also after a restart; what comes late does not replace them", async () => {
                add(START, { a_w: 1, b_w: 1 });
                add(START + 2000, { a_w: 2 });
                add(START + 1000, { a_w: 9 });
                add(START + 500, { c_w: 5 }, "meter");
                const expected = [
                    { site: "home", device: "inv", class: "inverter", t: START + 2000, values: { a_w: 2, b_w: 1 } },
                    { site: "home", device: "meter", class: "inverter", t: START + 500, values: { c_w: 5 } },
                ];
                assert.deepEqual(series.latest(), expected);
                await series.flush();
                for (let i = 0; i < 300; i++) {
                    add(START + 3000 + i * MINUTE, { x_w: i }, "other");
                }
                await reopen();
                assert.deepEqual(series.latest().filter(({ device }) => device !== "other").toSorted((a, b) => (a.device < b.device ? -1 : 1)).map(({ device, t }) => [device, t]), [
                    ["inv", START + 2000],
                    ["meter", START + 500],
                ]);
            });
        });

        it("a device that was silent for days before a restart is still known with its newest values", async () => {
            clock.advance(4 * DAY + HOUR);
            add(START, { a_w: 1, state: "on" });
            add(START + 7 * MINUTE, { a_w: 2 });
            for (let i = 0; i < 5500; i++) add(START + i * MINUTE, { x_w: i }, "other");
            add(START + 5500 * MINUTE, { rare_w: 5 }, "other");
            await series.flush();
            for (let i = 0; i < 60; i++) add(START + (5501 + i) * MINUTE, { x_w: i }, "other");
            await series.flush();
            await series.clean();
            await reopen();
            assert.deepEqual(series.latest().find(({ device }) => device === "other")!.values, { x_w: 59, rare_w: 5 });
            assert.deepEqual(series.latest().find(({ device }) => device === "inv"), {
                site: "home",
                device: "inv",
                class: "inverter",
                t: START + 7 * MINUTE,
                values: { a_w: 2, state: "on" },
            });
        });

        describe("roll-ups", () => {
            it("are those of the samples, the open bucket included", async () => {
                for (let i = 0; i < 90; i++) {
                    add(START + i * 1000, { a_w: i, steady_w: 230.1, state: i < 45 ? "A" : "B" });
                    clock.advance(1000);
                }
                const expected = [
                    { t: START, values: { a_w: { count: 60, last: 59, min: 0, max: 59, sum: 1770, mean: 29.5 }, state: { count: 60, last: "B" } } },
                    { t: START + MINUTE, values: { a_w: { count: 30, last: 89, min: 60, max: 89, sum: 2235, mean: 74.5 }, state: { count: 30, last: "B" } } },
                ];
                const points = ["a_w", "state"];
                assert.deepEqual(await rollups("minute", { points }), expected);
                await series.flush();
                assert.deepEqual(await rollups("minute", { points }), expected);
                clock.advance(20_000);
                await series.clean();
                assert.deepEqual(await rollups("minute", { points }), expected);
                const [hour] = await rollups("hour");
                assert.deepEqual(hour!.values["a_w"], { count: 90, last: 89, min: 0, max: 89, sum: 4005, mean: 44.5 });
                assert.equal(hour!.values["steady_w"]!.min, 230.1);
                assert.ok(Math.abs(hour!.values["steady_w"]!.mean! - 230.1) < 1e-9);
            });

            it("an hour that two local days share counts for both", async () => {
                // Midnight in Kathmandu (UTC+5:45) is 18:15 UTC.
                const midnight = Date.UTC(2026, 2, 28, 18, 15);
                await series.close();
                clock = new ManualClock(midnight + HOUR);
                await open({ zone: "Asia/Kathmandu" });
                for (const t of [midnight - 1000, midnight + 1000]) assert.equal(add(t, { a_w: 1 }), true);
                const days = async () => (await rollups("day")).map(({ t, values }) => [t, values["a_w"]!.count]);
                const expected = [[midnight - DAY, 1], [midnight, 1]];
                assert.deepEqual(await days(), expected);
                await series.clean();
                assert.deepEqual(await days(), expected, "the day before is rolled up");
                clock.advance(2 * DAY);
                await series.clean();
                assert.deepEqual(await days(), expected, "both are");
                await reopen({ zone: "UTC" });
                assert.deepEqual(await days(), [[Date.UTC(2026, 2, 28), 2]]);
                await series.clean();
                await reopen({ zone: "Asia/Kathmandu" });
                assert.deepEqual(await days(), expected, "of the new zone");
            });

            it("whatever comes when, late or twice, across restarts and zones, they agree with a plain count", async () => {
                const zones = fc.constantFrom("UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia");
                // The weekends on which these zones change their clocks lie within.
                const starts = fc.constantFrom(Date.UTC(2026, 2, 28, 20), Date.UTC(2026, 9, 24, 20), Date.UTC(2026, 9, 3, 10), Date.UTC(2026, 3, 4, 10));
                const step = fc.oneof(
                    { weight: 8, arbitrary: fc.record({ kind: fc.constant("add" as const), back: fc.oneof(fc.nat(90), fc.nat(40_000), fc.nat(200_000)), quarter: fc.integer({ min: -400, max: 400 }), point: fc.constantFrom("a_w", "b_w", "state") }) },
                    { weight: 4, arbitrary: fc.record({ kind: fc.constant("wait" as const), seconds: fc.oneof(fc.nat(120), fc.nat(20_000)) }) },
                    { weight: 2, arbitrary: fc.constant({ kind: "flush" as const }) },
                    { weight: 1, arbitrary: fc.constant({ kind: "clean" as const }) },
                    { weight: 1, arbitrary: fc.constant({ kind: "restart" as const }) },
                );
                await fc.assert(
                    fc.asyncProperty(zones, starts, fc.array(step, { maxLength: 40 }), async (zone, start, steps) => {
                        await series.close();
                        folder = await makeFolder();
                        clock = new ManualClock(start);
                        await open({ zone });
                        const model = new Map<number, Record<string, PointValue>>();
                        for (const action of steps) {
                            if (action.kind === "wait") clock.advance(action.seconds * 1000);
                            else if (action.kind === "flush") await series.flush();
                            else if (action.kind === "clean") await series.clean();
                            else if (action.kind === "restart") await reopen({ zone });
                            else {
                                const t = clock.now() - action.back * 1000;
                                const value = action.point === "state" ? `S${t % 7}` : action.quarter / 4;
                                // One time has one value; a second writing is the same.
                                const known = model.get(t)?.[action.point] ?? value;
                                model.set(t, { ...model.get(t), [action.point]: known });
                                assert.equal(add(t, { [action.point]: known }), true);
                            }
                        }
                        const expected = [...model].map(([t, values]) => ({ t, values })).toSorted((a, b) => a.t - b.t);
                        assert.deepEqual(await query(), expected);
                        for (const round of ["live", "rolled"]) {
                            for (const level of ["minute", "hour", "day"] as const) assert.deepEqual(await rollups(level), plain(expected, level, zone), `${round} ${level}`);
                            clock.advance(2 * DAY);
                            await series.clean();
                        }
                    }),
                    { numRuns: 60 },
                );
            });

            it("a day that begins between hours has all of its samples and no other", async () => {
                await reopen({ zone: "Asia/Kathmandu" });
                // 5:45 ahead: days begin at 18:15 UTC.
                const begin = START - 5.75 * HOUR;
                for (let t = begin - DAY; t < begin + DAY; t += 5 * MINUTE) add(t, { a_w: 1 });
                clock.advance(2 * DAY);
                await series.flush();
                assert.deepEqual((await rollups("day")).map(({ t, values }) => [t, values["a_w"]!.count]), [[begin - DAY, 288], [begin, 288]]);
            });

            it("a point that is a number now and a text then: figures of the numbers, the last of either", async () => {
                const points: PointValue[] = [1, "off", 3, "off"];
                for (const [i, mode] of points.entries()) add(START + i * 1000, { mode, reversed: points[3 - i]!, late: i === 0 ? "x" : i });
                clock.advance(2 * HOUR);
                await series.flush();
                const expected = {
                    mode: { count: 2, last: "off", min: 1, max: 3, sum: 4, mean: 2 },
                    reversed: { count: 2, last: 1, min: 1, max: 3, sum: 4, mean: 2 },
                    late: { count: 3, last: 3, min: 1, max: 3, sum: 6, mean: 2 },
                };
                assert.deepEqual((await rollups("minute"))[0]!.values, expected);
                assert.deepEqual((await rollups("hour"))[0]!.values, expected);
            });

            it("a changed zone moves the days, as far as the hours reach", async () => {
                for (let i = 0; i < 48; i++) add(START - 2 * DAY + i * HOUR, { a_w: 1 });
                clock.advance(2 * DAY);
                await series.flush();
                assert.deepEqual((await rollups("day")).map(({ t, values }) => [t, values["a_w"]!.count]), [[START - 2 * DAY, 24], [START - DAY, 24]]);
                await reopen({ zone: "America/New_York" });
                await series.clean();
                assert.deepEqual((await rollups("day")).map(({ t, values }) => [t, values["a_w"]!.count]), [
                    [START - 3 * DAY + 4 * HOUR, 4],
                    [START - 2 * DAY + 4 * HOUR, 24],
                    [START - DAY + 4 * HOUR, 20],
                ]);
            });
        });

        describe("retention", () => {
            it("each resolution goes in its time and the others stay", async () => {
                await reopen({ retention: { raw: 1, minute: 3, hour: 6, day: 100 } });
                const counts = async () => [(await query()).length, (await rollups("minute")).length, (await rollups("hour")).length, (await rollups("day")).length];
                for (let i = 0; i < 24; i++) add(START - DAY + i * HOUR, { a_w: i });
                await series.flush();
                clock.advance(HOUR);
                await series.clean();
                assert.deepEqual(await counts(), [23, 24, 24, 1]);
                clock.advance(2 * DAY);
                await series.clean();
                assert.deepEqual(await counts(), [0, 23, 24, 1]);
                clock.advance(2 * DAY);
                await series.clean();
                assert.deepEqual(await counts(), [0, 0, 24, 1]);
                clock.advance(2 * DAY);
                await series.clean();
                assert.deepEqual(await counts(), [0, 0, 0, 1]);
                assert.equal((await rollups("day"))[0]!.values["a_w"]!.sum, 276);
            });

            it("keeps a width as long as the finer one needs it", async () => {
                await reopen({ retention: { raw: 5, minute: 1, hour: 1, day: 1 } });
                add(START, { a_w: 1 });
                await series.flush();
                clock.advance(4 * DAY);
                await series.clean();
                // Late, of the same hour.
                add(START + 30 * MINUTE, { a_w: 2 });
                await series.flush();
                await series.clean();
                assert.equal((await rollups("hour"))[0]!.values["a_w"]!.count, 2);
                assert.equal((await rollups("day"))[0]!.values["a_w"]!.count, 2);
            });

            it("takes any number of rows", async () => {
                await reopen({ retention: { raw: 1 } });
                for (let i = 0; i < 300; i++) add(START - 20 * HOUR + i * 3 * MINUTE, { a_w: i });
                await series.flush();
                clock.advance(2 * DAY);
                await series.clean();
                assert.deepEqual(await query(), []);
            });
        });

        describe("what goes wrong", () => {
            it("a damaged database is put aside and told; new samples are kept", async () => {
                add(START, { a_w: 1 });
                await series.close();
                const file = path.join(folder, "series.db");
                const content = await readFile(file);
                content.fill(0x5a, 4096);
                await writeFile(file, content);
                await open();
                assert.match(series.stats().setAside!, /series\.db\.damaged-2026-06-01T00-00-00-000Z$/);
                assert.deepEqual(await readFile(series.stats().setAside!), content);
                add(START + 1, { a_w: 2 });
                await reopen();
                assert.deepEqual(await query(), [{ t: START + 1, values: { a_w: 2 } }]);
            });

            it("a folder that takes no writes: values wait in memory, are readable, and are kept once it does", async () => {
                await series.close();
                folder = path.join(folder, "read-only");
                const files = new FaultyFiles();
                files.fault = (operation) => (operation === "mkdir" ? "EROFS" : undefined);
                await open({ files });
                assert.deepEqual([series.stats().state, series.stats().reason], ["memory", "the disk is read-only (read-only)"]);
                add(START, { a_w: 1 });
                await series.flush();
                assert.equal((await query()).length, 1);
                assert.equal((await rollups("hour"))[0]!.values["a_w"]!.count, 1);
                files.fault = () => undefined;
                clock.advance(30_000);
                await series.flush();
                assert.deepEqual([series.stats().state, series.stats().reason, series.stats().buffered], ["disk", undefined, 0]);
                await reopen();
                assert.equal((await query()).length, 1);
            });

            it("memory is bounded: the oldest values go, counted", async () => {
                await series.close();
                const files = new FaultyFiles();
                files.fault = (operation) => (operation === "mkdir" ? "EIO" : undefined);
                await open({ files, bufferValues: 1000 });
                for (let i = 0; i < 3000; i++) add(START + i, { a_w: i });
                const { buffered, dropped } = series.stats();
                assert.ok(buffered <= 1000 && buffered > 800 && dropped.memory + buffered === 3000, `${buffered} values`);
                assert.equal((await query({ limit: 1 }))[0]!.values["a_w"], 2999);
            });

            if (backend === "node:sqlite") {
                // The WebAssembly build locks every other program out.
                it("another program that holds the database is waited for, and nothing is lost", async () => {
                    add(START, { a_w: 1 });
                    await series.flush();
                    const other = openDatabase(path.join(folder, "series.db"), backend);
                    other.exec("BEGIN IMMEDIATE");
                    add(START + 1, { a_w: 2, b_w: 2 });
                    add(START, { a_w: 1 }, "meter");
                    await series.flush();
                    assert.deepEqual([series.stats().state, series.stats().reason], ["memory", "another program holds the database"]);
                    add(START + 2, { b_w: 3 });
                    assert.equal((await query()).length, 3);
                    other.exec("ROLLBACK");
                    other.close();
                    clock.advance(30_000);
                    await series.flush();
                    assert.equal(series.stats().state, "disk");
                    await reopen();
                    assert.deepEqual(await query(), [
                        { t: START, values: { a_w: 1 } },
                        { t: START + 1, values: { a_w: 2, b_w: 2 } },
                        { t: START + 2, values: { b_w: 3 } },
                    ]);
                    assert.equal((await query({}, "meter")).length, 1);
                });
            }

            it("a second owner is refused and says so", async () => {
                const second = new Series({ folder, backend, clock });
                await second.ready;
                assert.equal(second.stats().state, "failed");
                assert.match(second.stats().reason!, /in use by process/);
                assert.equal(second.append({ timestamp: START, payload: { a_w: 1 }, reading: { site: "s", device: "d", class: "c" } }), false);
                await second.close();
            });

            it("a database of a later version is left alone", async () => {
                await series.close();
                const db = openDatabase(path.join(folder, "series.db"), backend);
                db.exec("PRAGMA user_version = 99");
                db.close();
                await open();
                assert.deepEqual([series.stats().state, /later version/.test(series.stats().reason!)], ["failed", true]);
                assert.ok(!(await readdir(folder)).some((name) => name.includes("damaged")));
            });

            it("close commits what waits, and after it nothing is taken", async () => {
                add(START, { a_w: 1 });
                await series.close();
                assert.equal(add(START + 1, { a_w: 1 }), false);
                assert.equal(series.stats().state, "closed");
                await open();
                assert.equal((await query()).length, 1);
            });
        });

        it("commits by itself, once in the time that is set", async () => {
            add(START, { a_w: 1 });
            clock.advance(9999);
            assert.equal(series.stats().buffered, 1);
            clock.advance(1);
            // The turn that the timer began comes before this one.
            await series.clean();
            assert.deepEqual([series.stats().buffered, series.stats().lastCommitMs], [0, START + 10_000]);
        });
    });
}

/** Roll-ups counted the plain way. */
function plain(rows: { t: number; values: Record<string, PointValue> }[], level: Resolution, zone: string): object[] {
    const buckets = new Map<number, Record<string, PointValue[]>>();
    for (const { t, values } of rows) {
        const start = level === "day" ? localDay(t, zone).start : t - (((t % HOUR) + HOUR) % (level === "hour" ? HOUR : MINUTE));
        const bucket = buckets.get(start) ?? {};
        buckets.set(start, bucket);
        for (const [name, value] of Object.entries(values)) (bucket[name] ??= []).push(value);
    }
    return [...buckets]
        .toSorted(([a], [b]) => a - b)
        .map(([t, points]) => ({
            t,
            values: Object.fromEntries(
                Object.entries(points).map(([name, all]) => {
                    const numbers = all.filter((value) => typeof value === "number");
                    const common = { count: all.length, last: all.at(-1)! };
                    if (numbers.length === 0) return [name, common];
                    const sum = numbers.reduce((a, b) => a + b, 0);
                    return [name, { ...common, min: Math.min(...numbers), max: Math.max(...numbers), sum, mean: sum / numbers.length }];
                }),
            ),
        }));
}
