import assert from "node:assert/strict";
import { once } from "node:events";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Book } from "../../../dist/carbon/book.js";
import { sum } from "../../../dist/carbon/interval.js";
import { bookRules, DAY, START } from "../../carbon/rig.js";
import { ManualClock } from "../../common/manual-clock.js";
import { makeDir, removeDir, start } from "../../node-red.js";
import { sampleOf } from "./samples.js";

const KILLS = 20;

describe("the carbon book: kill -9", function () {
    this.timeout(180_000);
    let folder: string;
    before(async () => {
        folder = await makeDir("wl-carbon-");
    });
    after(() => removeDir(folder));

    it(`${KILLS} times at any instant: no kept sample is lost, each period is sealed and reported once, every Wh is in one place`, async () => {
        let kept = 0;
        const keys = new Map<string, string>();
        for (let i = 0; i < KILLS; i++) {
            // Some samples come again, as they would from a device that heard no answer.
            const child = start([path.join(__dirname, "book-child.js"), folder, String(Math.max(0, kept - (kept % 288)))], folder);
            await child.logged(/kept/);
            await sleep(Math.random() * 300);
            const ended = once(child.process, "exit");
            child.process.kill("SIGKILL");
            await ended;
            for (const [, count] of child.log().matchAll(/kept (\d+)\n/g)) kept = Math.max(kept, Number(count));
            for (const [, number, key] of child.log().matchAll(/report (\d+) ([0-9a-f]{64})\n/g)) {
                assert.equal(keys.get(number!) ?? key, key, "a report has changed");
                keys.set(number!, key!);
            }
        }
        assert.ok(kept > 288, `only ${kept} samples in all lives`);
        const book = await Book.open({ folder, rules: bookRules(), clock: new ManualClock(sampleOf(kept).at) });
        try {
            await book.check();
            const samples = book.samples("site/m1", START, Infinity);
            assert.deepEqual(samples.slice(0, kept), Array.from({ length: kept }, (_, i) => sampleOf(i)));
            const { sealedTo, credits, claimedWh, pendingWh } = book.stats();
            const intervals = Array.from({ length: (sealedTo! - START) / DAY }, (_, i) => book.interval(i + 1)!);
            assert.deepEqual(intervals.map(({ from, to }) => [from, to]), intervals.map((_, i) => [START + i * DAY, START + (i + 1) * DAY]));
            const reports = Array.from({ length: book.stats().reports }, (_, i) => book.reportOf(i + 1)!);
            assert.equal(new Set(reports.map(({ key }) => key)).size, reports.length);
            assert.equal(sum(reports, ({ figures }) => figures.credits), credits);
            for (const { number, key } of reports) assert.equal(keys.get(String(number)) ?? key, key);
            const net = sum(intervals, ({ meters }) => sum(meters, ({ exportWh, importWh, excludedExport }) => exportWh - importWh + sum(Object.values(excludedExport), (wh) => wh)));
            const last = sampleOf((sealedTo! - START) / (5 * 60_000));
            assert.equal(net, last.exportWh! - last.importWh!);
            const forClock = sum(reports, ({ lines }) => lines.find(({ code }) => code === "clock")?.wh ?? 0);
            assert.equal(claimedWh + pendingWh, net + forClock);
        } finally {
            await book.close();
        }
    });
});
