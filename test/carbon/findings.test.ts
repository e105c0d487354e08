import assert from "node:assert/strict";
import type { Interval } from "../../dist/carbon/interval.js";
import { intervalFrom } from "../../dist/carbon/interval.js";
import { parseInventory, topologyChanges, type MeterRecord } from "../../dist/carbon/meters.js";
import { parseFactors } from "../../dist/carbon/factor.js";
import type { Report } from "../../dist/carbon/report.js";
import type { MeterSample } from "../../dist/carbon/settlement.js";
import { DAY, days, HOUR, meterRecord, MINUTE, report, seal, START, steady } from "./rig.js";

/** Findings of the UNFCCC secretariat at issuance, each by the id of its form at cdm.unfccc.int/IRCheck. */
describe("what made the UNFCCC reject a request for issuance", () => {
    const LATE_CALIBRATION = { calibrations: [{ at: START - 30 * DAY, until: START + DAY }, { at: START + 2 * DAY, until: START + 900 * DAY }] };
    const meter = meterRecord();

    function plant(samples: MeterSample[], meters: MeterRecord[] = [meter], count = 3, changes = {}): Report {
        return report(seal(samples, meters, START, days(START, count)), meters, changes);
    }
    const codes = ({ refusals }: Report) => refusals.map(({ code }) => code);
    const line = ({ lines }: Report, code: string, direction?: string) => lines.find((found) => found.code === code && (direction === undefined || found.direction === direction));

    it("1STGZQ5KU9ABOHC: two periods both contain 1 June", () => {
        const bounds: number[] = [];
        for (let from = Date.UTC(2026, 4, 1); from < Date.UTC(2026, 6, 2); ) bounds.push((from = intervalFrom(from, DAY, []).to));
        const intervals = seal(steady(Date.UTC(2026, 4, 1), Date.UTC(2026, 6, 2), 10_000), [meter], Date.UTC(2026, 4, 1), bounds);
        for (const [i, { from }] of intervals.entries()) assert.equal(from, intervals[i - 1]?.to ?? from);
        const firstOfJune = intervals.filter(({ from, to }) => from < Date.UTC(2026, 5, 2) && Date.UTC(2026, 5, 1) < to);
        assert.equal(firstOfJune.length, 1);
        const [may, june] = [report(intervals.slice(0, 31), [meter]), report(intervals.slice(31), [meter], { number: 2 })];
        assert.equal(may.period.to, june.period.from);
        assert.equal(may.figures.grossExportWh + june.figures.grossExportWh, 10_000 * 24 * 62);
        assert.deepEqual(codes(report([...intervals.slice(0, 31), ...intervals.slice(30)], [meter])).slice(0, 1), ["PERIODS_TORN"]);
    });

    it("HMBC0ANU91LGVQI: three billing cycles for the same month", () => {
        const samples = steady(START, START + 3 * DAY + HOUR, 100_000);
        const invoice = { from: START, to: START + 2 * DAY, exportWh: 4_000_000, source: "grid" };
        const other = { from: START + DAY, to: START + 3 * DAY, exportWh: 4_000_000, source: "bank" };
        const third = { from: START + 5 * HOUR, to: START + 2 * DAY + 5 * HOUR, exportWh: 4_000_000, source: "plant" };
        const result = plant(samples, [meter], 3, { invoices: [invoice, other, third] });
        assert.deepEqual(codes(result), ["INVOICE_OVERLAP", "INVOICE_OVERLAP", "INVOICE_CALENDAR"].toSorted((a) => (a === "INVOICE_CALENDAR" ? 1 : -1)));
        assert.equal(result.period.zone, "UTC");
        assert.equal(plant(samples, [meter], 3, { invoices: [invoice] }).ready, true);
    });

    it("0ODZFVSXKW63LI2: a gap said to be not claimed is in the total of the counter", () => {
        const isGap = ({ at }: MeterSample) => at > START + 30 * HOUR && at < START + 37 * HOUR;
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000).filter((sample) => !isGap(sample)));
        assert.equal(result.figures.grossExportWh, 7_200_000);
        assert.deepEqual([line(result, "gap")?.wh, line(result, "gap")?.beforeWh, line(result, "gap")?.afterWh], [-700_000, 7_200_000, 6_500_000]);
        assert.match(line(result, "gap")!.basis, /7 h from 2026-01-06T06:00:00Z to 2026-01-06T12:00:00Z/);
        assert.deepEqual(result.meters[0]!.gaps, [{ from: "2026-01-06T06:00:00Z", to: "2026-01-06T13:00:00Z", excludedWh: 700_000 }]);
        assert.ok(result.figures.netWh <= 6_500_000);
    });

    it("L9MSXVQNE4AOH25: calibration was late and the permissible error not taken off", () => {
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000, 1000), [meterRecord(LATE_CALIBRATION)]);
        // The second day alone has no valid calibration: 0.5 % of its export, and of its import.
        assert.equal(line(result, "mpe", "export")?.wh, -12_000);
        assert.equal(line(result, "mpe", "import")?.wh, -120);
        assert.match(line(result, "mpe", "export")!.basis, /in 24 h without a valid calibration/);
        // A calibration that ends within an hour does not cover it.
        const ended = plant(steady(START, START + 3 * DAY + HOUR, 100_000), [meterRecord({ calibrations: [{ at: START - 30 * DAY, until: START + 3 * DAY - 1 }] })]);
        assert.equal(line(ended, "mpe", "export")?.wh, -500);
        assert.deepEqual(codes(plant(steady(START, START + 3 * DAY + HOUR, 100_000), [meterRecord({ calibrations: [], mpeExport: undefined })])).includes("MPE_MISSING"), true);
    });

    it("OEYZXW51RP0S7FI: the permissible error was applied to the net instead of each direction, and a larger error was found later", () => {
        const samples = steady(START, START + 3 * DAY + HOUR, 100_000, 90_000);
        const result = plant(samples, [meterRecord({ calibrations: [] })]);
        assert.equal(line(result, "mpe", "export")?.wh, -36_000);
        assert.equal(line(result, "mpe", "import")?.wh, -32_400);
        const found = { calibrations: [{ at: START - 30 * DAY, until: START + DAY }, { at: START + 2 * DAY, until: START + 900 * DAY, foundError: 0.02 }] };
        assert.equal(line(plant(samples, [meterRecord(found)]), "mpe", "export")?.wh, -48_000);
    });

    it("GO2HV7U0E9A1QNL: a deduction said to be made is not visible in the sheet", () => {
        const isGap = ({ at }: MeterSample) => at > START + 30 * HOUR && at < START + 37 * HOUR;
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000, 1000).filter((sample) => !isGap(sample)), [meterRecord({ ...LATE_CALIBRATION, corrections: [{ export: 0.9979, import: 1.0021, source: "PDD" }] })]);
        assert.deepEqual(result.lines.map(({ code }) => code), ["gap", "import", "clock", "factor", "factor", "mpe", "mpe", "carry-out"]);
        let wh = result.figures.grossExportWh;
        for (const { beforeWh, wh: change, afterWh } of result.lines) {
            assert.equal(beforeWh, wh);
            assert.equal(afterWh, beforeWh + change);
            wh = afterWh;
        }
        assert.equal(wh, result.figures.claimedWh);
    });

    it("1C7MJILH4KFX0A5: the larger of invoice and meter was used", () => {
        const samples = steady(START, START + 3 * DAY + HOUR, 100_000, 1000);
        const bill = (exportWh: number, importWh: number) => plant(samples, [meter], 3, { invoices: [{ from: START, to: START + 3 * DAY, exportWh, importWh, source: "invoice 12" }] });
        const smaller = bill(7_000_000, 80_000);
        assert.deepEqual([line(smaller, "invoice", "export")?.wh, line(smaller, "invoice", "import")?.wh], [-200_000, -8000]);
        assert.equal(line(bill(7_300_000, 70_000), "invoice"), undefined);
    });

    it("1M7FLIJ0S92WVZ5: three meters in the diagram, two reported", () => {
        const meters = parseInventory(["site/m1", "site/m2", "site/m3"].map((name) => ({ meter: name, ratedW: 1e6, from: "2025-12-01", mpeExport: 0.005, mpeImport: 0.005 })));
        const samples = steady(START, START + 3 * DAY + HOUR, 100_000);
        const two = [...samples, ...samples.map((sample) => ({ ...sample, meter: "site/m2" }))];
        assert.deepEqual(codes(plant(two, meters)), ["METER_MISSING"]);
        assert.match(plant(two, meters).refusals[0]!.text, /site\/m3/);
        assert.equal(plant([...two, ...samples.map((sample) => ({ ...sample, meter: "site/m3" }))], meters).ready, true);
    });

    it("5N2IATYJL3XKV41: meters were moved within the period without approval", () => {
        const moved = START + 30 * HOUR;
        const samples = [...steady(START, moved - 5 * MINUTE, 100_000, 0, { serial: "A" }), ...steady(moved, START + 3 * DAY + HOUR, 100_000, 0, { serial: "B" })];
        const silent = plant(samples);
        assert.equal(line(silent, "unapproved")?.wh, -4_200_000);
        // Approved, it ends the interval to the minute, and each meter counts in its own time.
        const meters = [meterRecord({ serial: "A", to: moved }), meterRecord({ serial: "B", from: moved })];
        assert.deepEqual(topologyChanges(meters).includes(moved), true);
        assert.equal(intervalFrom(START + DAY, DAY, topologyChanges(meters)).to, moved);
        const intervals = seal(samples, meters, START, [START + DAY, moved, START + 2 * DAY, START + 3 * DAY]);
        assert.deepEqual(intervals.map(({ meters: [part] }) => part!.serial), ["A", "A", "B", "B"]);
        assert.equal(line(report(intervals, meters), "unapproved"), undefined);
    });

    it("LYN7HOKDWVBCT89: claims from before the meter was installed", () => {
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000), [meterRecord({ from: START + DAY })]);
        assert.equal(line(result, "uncommissioned")?.wh, -2_400_000);
        assert.ok(result.figures.upperBoundWh <= 4_800_000);
    });

    it("07OWUARDMZL9NGP: factors of the design document were not applied, or after the class had changed", () => {
        const corrections = [{ from: START, to: START + DAY, export: 0.9979, import: 1.0021, source: "PDD p. 30, class 0.5" }];
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000, 1000), [meterRecord({ corrections })]);
        // One day of three: the factor ends with the class it was made for.
        assert.equal(line(result, "factor", "export")?.wh, -5040);
        assert.equal(line(result, "factor", "import")?.wh, -51);
        assert.match(line(result, "factor", "export")!.basis, /0\.9979 of 2400000 Wh: PDD p\. 30/);
    });

    it("ZUVQ43XY8MDBNTK: the spreadsheet of the emission factor was not attached", () => {
        const samples = steady(START, START + 3 * DAY + HOUR, 100_000);
        for (const lacking of [{ source: "" }, { vintage: "" }, { fileSha256: "" }]) {
            const factors = parseFactors({ om: 0.729, bm: 0.326, source: "a study", vintage: "2021", fileSha256: "ab".repeat(32), ...lacking });
            assert.deepEqual(codes(plant(samples, [meter], 3, { factors })), ["FACTOR_UNSOURCED"]);
            const confirmed = plant(samples, [meter], 3, { factors, acceptsUnsourced: true });
            assert.deepEqual([confirmed.ready, confirmed.factor?.sourced], [true, false]);
        }
        assert.deepEqual(codes(plant(samples, [meter], 3, { factors: [] })), ["FACTOR_MISSING"]);
    });

    it("HR3WK7BP1MZ84JY: the apportioning procedure of the design document was not followed", () => {
        const corrections = [{ from: START, kind: "allocation", export: 0.6, import: 1, source: "PDD annex 4: 6 MW of 10 MW" }];
        const result = plant(steady(START, START + 3 * DAY + HOUR, 100_000), [meterRecord({ corrections })]);
        assert.equal(line(result, "allocation")?.wh, -2_880_000);
        const again = plant(steady(START, START + 3 * DAY + HOUR, 100_000), [meterRecord({ corrections })]);
        assert.equal(JSON.stringify(again), JSON.stringify(result), "replayed, it is the same to the byte");
    });

    it("holds for intervals, too: none is longer than its rule, and none crosses a year", () => {
        const end = Date.UTC(2027, 0, 1);
        assert.deepEqual(intervalFrom(end - 3 * HOUR, 7 * DAY, []), { from: end - 3 * HOUR, to: end });
        const torn: Interval[] = [];
        assert.deepEqual(codes(report(torn, [meter])).slice(0, 1), ["NOTHING_SEALED"]);
    });
});
