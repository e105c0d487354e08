import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { Book, type BookRules } from "../../dist/carbon/book.js";
import { capsuleLines, type CapsuleSummary, statementOf, verifyCapsule } from "../../dist/carbon/capsule.js";
import { recomputeReport } from "../../dist/carbon/evidence.js";
import type { Report } from "../../dist/carbon/report.js";
import type { MeterSample } from "../../dist/carbon/settlement.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir } from "../node-red.js";
import { bookRules, DAY, FACTOR, HOUR, meterRecord, MINUTE, START, steady } from "./rig.js";

describe("the evidence of a report", () => {
    let folder: string;
    let clock: ManualClock;
    let book: Book;
    beforeEach(async () => {
        folder = await makeDir("wl-evidence-");
        clock = new ManualClock(START);
    });
    afterEach(async () => {
        await book.close();
        await removeDir(folder);
    });

    async function open(changes: Partial<BookRules> = {}): Promise<void> {
        await book?.close();
        book = await Book.open({ folder, rules: bookRules(changes), clock });
    }

    async function put(samples: readonly MeterSample[]): Promise<void> {
        const kept = samples.map((sample) => book.add(sample));
        clock.advance(200);
        await Promise.all(kept);
    }

    function capsuleOf(number: number): { text: string; summary: CapsuleSummary } {
        const { terms, samples } = book.evidence(number);
        const run = capsuleLines(terms, samples, recomputeReport);
        let text = "";
        for (;;) {
            const step = run.next();
            if (step.done) return { text, summary: step.value };
            if (step.value !== undefined) text += `${step.value}\n`;
        }
    }

    const samplesOf = (number: number) => [...book.evidence(number).samples].filter((sample) => sample !== undefined);

    /** Each report's capsule holds the report as it was recorded, and verifies. */
    async function assertProven(): Promise<{ reports: Report[]; texts: string[] }> {
        const reports: Report[] = [];
        const texts: string[] = [];
        for (let number = 1; ; number++) {
            const report = book.reportOf(number);
            if (!report) return { reports, texts };
            const { text, summary } = capsuleOf(number);
            assert.deepEqual(summary.outcome.report, JSON.parse(JSON.stringify(report)));
            const verdict = await verifyCapsule(inPieces(text), recomputeReport);
            assert.ok(verdict.ok, JSON.stringify(verdict.findings));
            reports.push(report);
            texts.push(text);
        }
    }

    it("recomputes each report from its raw samples, with what was carried over, and is the same to the byte later", async () => {
        await open();
        const samples = steady(START, START + 5 * DAY + HOUR, 100_000, 1000);
        await put(samples.filter(({ at }) => at < START + 3 * DAY + HOUR));
        clock.set(START + 3 * DAY + 2 * HOUR);
        await book.check();
        const before = (await assertProven()).texts;
        assert.equal(before.length, 3);
        await put(samples.filter(({ at }) => at >= START + 3 * DAY + HOUR));
        clock.set(START + 5 * DAY + 2 * HOUR);
        await book.check();
        const { texts, reports } = await assertProven();
        assert.deepEqual(texts.slice(0, 3), before);
        assert.equal(reports.length, 5);
        // On any machine, Node.js and SQLite; other figures here are another format.
        assert.equal(capsuleOf(5).summary.root, "9763f38feaa91b34cb8f3ace0f3f36a8082d8b3734b8133de9ca4c1fec836a81");
        assert.throws(() => book.evidence(6), { code: "REPORT_UNKNOWN" });
    });

    it("settles by what was known when an interval was sealed, and checks that late data add up to the adjustments", async () => {
        await open({ minTonnes: 4 });
        const samples = steady(START, START + 6 * DAY + HOUR, 60_000, 500);
        const late = (sample: MeterSample) => sample.at % DAY >= 6 * HOUR && sample.at % DAY < 9 * HOUR;
        for (let day = 0; day < 6; day++) {
            await put(samples.filter((sample) => sample.at >= START + day * DAY + HOUR && sample.at < START + (day + 1) * DAY + HOUR && !late(sample)));
            clock.set(START + (day + 1) * DAY + HOUR);
            await book.check();
            await put(samples.filter((sample) => Math.floor((sample.at - START) / DAY) === day - 1 && late(sample)));
            // Another value for an instant that is sealed.
            await put([{ ...samples.find(({ at }) => at === START + day * DAY + 12 * HOUR)!, importWh: 1 + day }]);
        }
        book.accept(book.news().adjustments.filter(({ exportWh }) => exportWh > 0).map(({ number }) => number), "a person");
        clock.advance(DAY);
        await put(steady(START + 6 * DAY + HOUR, START + 7 * DAY + HOUR, 60_000, 500, {}, START));
        await book.check();
        const { reports } = await assertProven();
        const changed = reports.flatMap(({ adjustments }) => adjustments.map(({ interval, exportWh }) => [interval, exportWh]));
        // Two steps around a contradiction, then three hours that came late; of the fifth day only what was there in time.
        assert.deepEqual(changed, [...[1, 2, 3, 4].flatMap((interval) => [[interval, -10_000], [interval, 185_000]]), [5, -10_000]]);
    });

    it("holds for samples that come in the middle of a sealing: they wait, and are late data", async () => {
        await open();
        const samples = steady(START, START + 2 * DAY + HOUR, 60_000);
        await put(samples.filter(({ at }) => at <= START + DAY));
        clock.set(START + DAY + HOUR);
        const turn = () => new Promise((resolve) => setImmediate(resolve));
        const checking = book.check();
        // The second turn is in the middle of it.
        await turn();
        await turn();
        let isKept = false;
        const lower = book.add({ ...samples[100]!, exportWh: samples[100]!.exportWh! - 5000 }).then(() => (isKept = true));
        clock.advance(200);
        await turn();
        assert.equal(isKept, false, "it waits for the sealing");
        await checking;
        await lower;
        await put(samples.filter(({ at }) => at > START + DAY));
        clock.set(START + 2 * DAY + HOUR);
        await book.check();
        const { reports } = await assertProven();
        assert.ok(reports.some(({ adjustments }) => adjustments.some(({ interval, exportWh }) => interval === 1 && exportWh < 0)));
    });

    it("is written meter by meter in readings of its own where memory holds no more at once", async () => {
        const names = ["site/m3", "site/m10", "site/m1"];
        await open({ meters: names.map((meter) => meterRecord({ meter })) });
        // So dense at first that the whole is taken for millions of samples.
        const times = [...Array.from({ length: 600 }, (_, i) => START + i * 1000), ...Array.from({ length: 73 }, (_, i) => START + (i + 1) * HOUR)];
        const read = (meter: string, at: number): MeterSample => ({ meter, at, exportWh: Math.round((at - START) / 60), importWh: 0, origin: "measured" });
        await put(names.flatMap((meter) => times.map((at) => read(meter, at))));
        clock.set(START + DAY + HOUR);
        await book.check();
        // Late, and other than before: what was known then is read too.
        await put([{ ...read("site/m10", START + 5 * HOUR), exportWh: 1 }]);
        clock.set(START + 3 * DAY + HOUR);
        await book.check();
        const { texts } = await assertProven();
        const meters = texts.flatMap((text) => [...text.matchAll(/"meter":"(site\/m\d+)","origin"/g)].map(([, meter]) => meter!));
        assert.deepEqual([...new Set(meters)], ["site/m1", "site/m10", "site/m3"]);
        // The day's, and the 16 from its end on that may have closed it.
        assert.equal(samplesOf(1).filter(({ meter }) => meter === "site/m3").length, 600 + 23 + 16);
    });

    it("keeps the rules that each interval was sealed by", async () => {
        await open({ minTonnes: 3 });
        const other = meterRecord({ meter: "site/m2" });
        const samples = [...steady(START, START + 4 * DAY + HOUR, 60_000), ...steady(START, START + 4 * DAY + HOUR, 20_000, 0, { meter: "site/m2" })];
        await put(samples.filter(({ at, meter }) => at < START + 2 * DAY + HOUR && meter === "site/m1"));
        clock.set(START + 2 * DAY + HOUR);
        await book.check();
        await open({ minTonnes: 3, meters: [meterRecord(), other], maxGapMs: 2 * HOUR, minPoints: 5 });
        await put(samples.filter(({ at, meter }) => at >= START + 2 * DAY + HOUR || meter === "site/m2"));
        clock.set(START + 5 * DAY);
        await book.check();
        assert.ok((await assertProven()).reports.length > 0);
    });

    it("proves a period that was closed without filing, whose energy the next report holds", async () => {
        const change = START + 2 * DAY;
        const factors = [{ ...FACTOR, validTo: change }, { ...FACTOR, validFrom: change }];
        await open({ factors, minTonnes: 5 });
        await put(steady(START, START + 9 * DAY + HOUR, 50_000));
        clock.set(START + 9 * DAY + HOUR);
        await book.check();
        const { reports } = await assertProven();
        assert.deepEqual(reports.map(({ ready, figures }) => [ready, figures.carriedInWh > 0]), [[false, false], [true, true]]);
        assert.deepEqual(book.closedBefore(2), reports.slice(0, 1));
        assert.deepEqual(book.closedBefore(1), []);
    });

    it("is refused when a counter is raised, though tree and report are made anew by someone without the device's key", async () => {
        const { privateKey, publicKey } = generateKeyPairSync("ed25519");
        const key = publicKey.export({ type: "spki", format: "der" }).subarray(12).toString("base64");
        await open({ meters: [meterRecord({ key })] });
        const signed = steady(START, START + DAY + HOUR, 100_000).map((sample, i): MeterSample => {
            const said = { ...sample, boot: 1, seq: i };
            return { ...said, signature: sign(null, Buffer.from(statementOf(said)), privateKey).toString("base64") };
        });
        await put([...signed, ...signed]);
        clock.set(START + DAY + HOUR);
        await book.check();
        const { texts } = await assertProven();
        assert.match(texts[0]!, /"signature":/);
        const { terms } = book.evidence(1);
        const raised = samplesOf(1).map((sample) => (sample.at === START + DAY ? { ...sample, exportWh: sample.exportWh! + 1000 } : sample));
        const forged = [...capsuleLines(terms, raised, recomputeReport)].map((line) => `${line}\n`).join("");
        const verdict = await verifyCapsule(inPieces(forged), recomputeReport);
        assert.deepEqual(verdict.findings.filter(({ ok }) => !ok).map(({ check }) => check), ["signatures"]);
        assert.notEqual(verdict.summary?.root, capsuleOf(1).summary.root);
    });

    it("is refused where terms are bent: an interval left out, an adjustment forgotten, a better opening", async () => {
        await open({ minTonnes: 2 });
        const samples = steady(START, START + 4 * DAY + HOUR, 60_000);
        await put(samples.filter(({ at }) => at < START + DAY + HOUR));
        clock.set(START + DAY + HOUR);
        await book.check();
        await put([{ ...samples[100]!, exportWh: samples[100]!.exportWh! - 40_000 }, ...samples.filter(({ at }) => at >= START + DAY + HOUR)]);
        clock.set(START + 4 * DAY + HOUR);
        await book.check();
        const { reports } = await assertProven();
        assert.ok(reports[0]!.adjustments.length > 0);
        const { terms } = book.evidence(1);
        const bend = (change: (terms: { opening: Record<string, never[]> }) => void) => {
            const bent = structuredClone(terms);
            change(bent as never);
            return () => [...capsuleLines(bent, book.evidence(1).samples, recomputeReport)];
        };
        assert.throws(bend(({ opening }) => opening["adjustments"]!.splice(0)), { code: "LATE_DATA_DIFFERS" });
        assert.throws(bend(({ opening }) => opening["intervals"]!.splice(1, 1)), { code: "CAPSULE_TERMS" });
        const { period } = terms;
        const far = { ...terms.opening, intervals: [{ ...(terms.opening["intervals"] as unknown as object[])[0], to: 8e15 }] };
        const others = [{ project: "other" }, { period: { ...period, from: period.from - 1 } }, { keys: [{ meter: "site/m1", key: "", from: 0, to: 1 }] }, { opening: far, period: { ...period, to: 8e15 } }];
        for (const change of others) assert.throws(() => recomputeReport({ ...terms, ...(change as object) }), { code: "CAPSULE_TERMS" });
        for (const part of ["settings", "opening", "factor"] as const) {
            assert.throws(() => recomputeReport({ ...terms, [part]: {} }), { code: "CONFIG_INVALID" });
        }
    });

    it("holds for any history of loss, doubles, reorder, resets and late data", async () => {
        const event = fc.record({ at: fc.integer({ min: 0, max: 4 * 24 * 6 }), wh: fc.integer({ min: -2000, max: 30_000 }), delay: fc.constantFrom(0, 0, 0, 1, 2), reset: fc.boolean() });
        await fc.assert(
            fc.asyncProperty(fc.array(event, { minLength: 5, maxLength: 60 }), fc.integer({ min: 1, max: 3 }), async (events, minTonnes) => {
                clock = new ManualClock(START);
                await removeDir(folder);
                folder = await makeDir("wl-evidence-");
                await open({ minTonnes: minTonnes / 20, minPoints: 1, minCoverage: 0 });
                let wh = 1_000_000;
                const samples = events.toSorted((a, b) => a.at - b.at).map((step) => {
                    wh = step.reset && step.wh % 7 === 0 ? 5 : Math.max(0, wh + step.wh);
                    return { day: Math.floor(step.at / 144) + step.delay, sample: { meter: "site/m1", at: START + step.at * 10 * MINUTE, exportWh: wh, origin: "measured" } satisfies MeterSample };
                });
                for (let day = 0; day < 6; day++) {
                    const now = samples.filter((each) => each.day === day).map(({ sample }) => sample);
                    if (now.length > 0) await put([...now.toReversed(), ...now]);
                    clock.set(START + (day + 1) * DAY + HOUR);
                    await book.check();
                }
                await assertProven();
                await book.close();
            }),
            { numRuns: 12 },
        );
    });
});

async function* inPieces(text: string): AsyncGenerator<Buffer> {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += 65_536) yield await Promise.resolve(bytes.subarray(at, at + 65_536));
}
