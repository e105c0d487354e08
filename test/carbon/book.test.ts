import assert from "node:assert/strict";
import { Book, type BookRules } from "../../dist/carbon/book.js";
import type { MeterSample } from "../../dist/carbon/settlement.js";
import { sum } from "../../dist/carbon/interval.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir } from "../node-red.js";
import { backends } from "../store/backends.js";
import { bookRules, DAY, HOUR, MINUTE, meterRecord, START, steady } from "./rig.js";

for (const backend of backends) {
    describe(`the carbon book on ${backend}`, () => {
        let folder: string;
        let clock: ManualClock;
        let book: Book | undefined;
        beforeEach(async () => {
            folder = await makeDir("wl-carbon-");
            clock = new ManualClock(START);
        });
        afterEach(async () => {
            await book?.close();
            book = undefined;
            await removeDir(folder);
        });

        async function open(changes: Partial<BookRules> = {}): Promise<Book> {
            await book?.close();
            book = await Book.open({ folder, rules: bookRules(changes), clock, backend });
            return book;
        }

        async function put(samples: MeterSample[]): Promise<void> {
            const kept = samples.map((sample) => book!.add(sample));
            clock.advance(200);
            await Promise.all(kept);
        }

        it("seals each day once, an hour after its end, and reports whole tonnes with the rest carried", async () => {
            await open();
            await put(steady(START, START + 2 * DAY, 100_000, 1000));
            clock.set(START + DAY + HOUR - 1);
            await book!.check();
            assert.equal(book!.news().intervals.length, 0);
            clock.set(START + 2 * DAY + HOUR);
            await book!.check();
            const { intervals, reports } = book!.news();
            assert.deepEqual(intervals.map(({ from, to }) => [from, to]), [[START, START + DAY], [START + DAY, START + 2 * DAY]]);
            assert.deepEqual(intervals.map(({ meters }) => [meters[0]!.exportWh, meters[0]!.importWh]), [[2_400_000, 24_000], [2_400_000, 24_000]]);
            // 0.62825 t/MWh x 2.376 MWh = 1.49 t, and with the rest of it 1.97 t; 8334 Wh of each are off for the clock.
            assert.deepEqual(reports.map(({ figures: { credits, carriedInWh, claimedWh, carriedOutWh } }) => [credits, carriedInWh, claimedWh, carriedOutWh]), [
                [1, 0, 1_591_724, 775_942],
                [1, 775_942, 1_591_724, 1_551_884],
            ]);
            assert.deepEqual(book!.stats(), { sealedTo: START + 2 * DAY, pendingWh: 1_551_884, claimedWh: 3_183_448, credits: 2, reports: 2, waiting: 0 });
            book!.sent(book!.news());
            assert.deepEqual(book!.news(), { intervals: [], adjustments: [], reports: [] });
        });

        it("goes on after a restart as if there had been none", async () => {
            const samples = steady(START, START + 3 * DAY, 90_000, 500);
            await open();
            await put(samples);
            clock.set(START + 4 * DAY);
            await book!.check();
            const { intervals: once } = book!.news();

            const other = await makeDir("wl-carbon-");
            try {
                const clock2 = new ManualClock(START);
                let second = await Book.open({ folder: other, rules: bookRules(), clock: clock2, backend });
                for (let day = 0; day < 3; day++) {
                    clock2.set(START + (day + 1) * DAY);
                    const kept = samples.filter(({ at }) => at >= START + day * DAY && at <= START + (day + 1) * DAY + HOUR / 2).map((sample) => second.add(sample));
                    clock2.advance(200);
                    await Promise.all(kept);
                    clock2.set(START + (day + 1) * DAY + HOUR);
                    await second.check();
                    await second.close();
                    second = await Book.open({ folder: other, rules: bookRules(), clock: clock2, backend });
                }
                const { intervals } = second.news();
                const figures = (list: typeof once) => list.map(({ number, from, to, meters }) => [number, from, to, meters[0]!.hours]);
                assert.deepEqual(figures(intervals), figures(once));
                await second.close();
            } finally {
                await removeDir(other);
            }
        });

        it("records late data as an adjustment and never touches what is sealed; a rise waits for a person, a fall does not", async () => {
            await open();
            const samples = steady(START, START + 2 * DAY, 100_000);
            const isMissing = ({ at }: MeterSample) => at > START + 6 * HOUR && at < START + 9 * HOUR;
            await put(samples.filter((sample) => !isMissing(sample)));
            clock.set(START + DAY + HOUR);
            await book!.check();
            const sealed = JSON.stringify(book!.interval(1));
            const [first] = book!.news().reports;
            assert.equal(first!.lines[0]!.code, "gap");
            assert.equal(first!.lines[0]!.wh, -300_000);

            await put(samples.filter(isMissing));
            await book!.check();
            assert.equal(JSON.stringify(book!.interval(1)), sealed);
            const [adjustment, ...more] = book!.news().adjustments;
            assert.deepEqual(more, []);
            assert.deepEqual([adjustment!.exportWh, adjustment!.excludedExport, adjustment!.report], [300_000, { gap: -300_000 }, first!.key]);
            assert.equal(book!.stats().waiting, 1);

            clock.set(START + 2 * DAY + HOUR);
            await book!.check();
            const before = await book!.preview();
            book!.accept([1], "a verifier");
            assert.throws(() => book!.accept([1], "again"), { code: "ADJUSTMENT_UNKNOWN" });
            assert.equal(book!.news().reports[1]!.figures.waitingWh, 300_000);
            assert.equal(before, undefined);
            await put(steady(START + 2 * DAY + 5 * MINUTE, START + 3 * DAY, 100_000, 0, {}, START));
            clock.set(START + 3 * DAY + HOUR);
            await book!.check();
            const third = book!.news().reports[2]!;
            assert.deepEqual(third.lines.find(({ code }) => code === "late")?.wh, 300_000);
            assert.deepEqual(third.corrects, [first!.key]);
        });

        it("takes late import off the next report at once", async () => {
            await open();
            const quiet = ({ at }: MeterSample) => at <= START + 20 * HOUR || at >= START + 30 * HOUR;
            const samples = steady(START, START + 3 * DAY, 100_000, 10_000).filter(quiet);
            await put(samples.filter(({ at }) => at <= START + DAY));
            clock.set(START + DAY + HOUR);
            await book!.check();
            assert.equal(book!.news().reports.length, 0, "the import since 20:00 is not known");
            assert.deepEqual((await book!.preview())!.refusals.map(({ code }) => code), ["METER_SILENT"]);
            await put(samples.filter(({ at }) => at > START + DAY));
            await book!.check();
            const { adjustments, reports } = book!.news();
            assert.deepEqual(adjustments.map(({ exportWh, importWh, excludedExport }) => [exportWh, importWh, excludedExport]), [[0, 40_000, { gap: 400_000 }]]);
            assert.equal(reports[0]!.lines.find(({ code }) => code === "late")?.wh, -40_000);
        });

        it("keeps every Wh of the registers in exactly one place", async () => {
            await open();
            await put(steady(START, START + DAY + HOUR, 77_777, 333));
            clock.set(START + DAY + HOUR);
            await book!.check();
            const [interval] = book!.news().intervals;
            const last = steady(START, START + DAY, 77_777, 333).at(-1)!;
            assert.equal(sum(interval!.meters, ({ exportWh }) => exportWh), last.exportWh);
            assert.equal(sum(interval!.meters, ({ importWh }) => importWh), last.importWh);
        });

        it("refuses, in the file itself, periods that overlap and changes of what is sealed", async () => {
            await open();
            await put(steady(START, START + DAY + HOUR, 100_000));
            clock.set(START + DAY + HOUR);
            await book!.check();
            const { db } = book as unknown as { db: { run(sql: string, ...values: unknown[]): void } };
            const insert = "INSERT INTO interval (number, starts, ends, net, body) VALUES (2, ?, ?, 0, '{}')";
            assert.throws(() => db.run(insert, START + DAY - 1, START + 2 * DAY), /overlap/);
            assert.throws(() => db.run("UPDATE interval SET net = 0 WHERE number = 1"), /never changes/);
            assert.throws(() => db.run("DELETE FROM interval"), /never goes/);
            assert.throws(() => db.run("UPDATE report SET credits = 9"), /never changes/);
        });

        it("refuses a meter that the inventory does not name, and a second owner of its file", async () => {
            await open();
            await assert.rejects(book!.add({ meter: "site/other", at: START, exportWh: 1, origin: "measured" }), { code: "METER_UNKNOWN" });
            await assert.rejects(Book.open({ folder, rules: bookRules(), clock, backend }), { code: "STORE_LOCKED" });
        });

        it("cuts an interval where a meter is exchanged, and claims nothing that an unnamed meter counted", async () => {
            const swap = START + 10 * HOUR;
            const meters = [meterRecord({ serial: "A", to: swap }), meterRecord({ serial: "B", from: swap })];
            await open({ meters });
            await put([...steady(START, swap - 5 * MINUTE, 100_000, 0, { serial: "A" }), ...steady(swap, START + 2 * DAY, 100_000, 0, { serial: "B" })]);
            clock.set(START + DAY + HOUR);
            await book!.check();
            const { intervals } = book!.news();
            assert.deepEqual(intervals.map(({ to }) => to), [swap, START + DAY]);
            assert.deepEqual(intervals.map(({ meters: [part] }) => [part!.serial, part!.exportWh]), [["A", 991_667], ["B", 1_400_000]]);
        });

        it("carries what is left when the emission factor changes, at no more than it was worth", async () => {
            const change = START + DAY;
            const base = { om: 0.729, bm: 0.326, source: "s", vintage: "2021", fileSha256: "ab".repeat(32), wOm: 0.75, wBm: 0.25, kind: "ex-post" as const };
            const factors = [
                { ...base, validFrom: 0, validTo: change },
                { ...base, om: 0.9, bm: 0.9, validFrom: change, validTo: 8.64e15 },
            ];
            await open({ factors });
            await put(steady(START, START + 2 * DAY, 50_000));
            clock.set(START + 2 * DAY + HOUR);
            await book!.check();
            const { reports } = book!.news();
            assert.equal(reports.length, 1);
            assert.equal(reports[0]!.number, 2);
            const line = reports[0]!.lines.find(({ code }) => code === "factor-change");
            assert.equal(line?.wh, Math.floor((1_195_833 * 0.62825) / 0.9) - 1_195_833);
        });
    });
}
