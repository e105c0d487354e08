import assert from "node:assert/strict";
import fc from "fast-check";
import { combinedMargin, emissions, type Factor, parseFactors, underFactor, UNSOURCED_MOROCCO, whFor, wholeTonnes } from "../../dist/carbon/factor.js";
import { parseInventory } from "../../dist/carbon/meters.js";
import type { Carry } from "../../dist/carbon/report.js";
import type { MeterSample } from "../../dist/carbon/settlement.js";
import { conserve, truth } from "./histories.js";
import { DAY, days, FACTOR, HOUR, meterRecord, MINUTE, report, seal, START, steady } from "./rig.js";

describe("the emission factor", () => {
    it("makes the combined margin of the weights of TOOL07, in exact decimals", () => {
        assert.equal(combinedMargin(FACTOR), 628_250_000n);
        assert.equal(emissions(100_000_000, FACTOR), 62.824999999999996);
        assert.equal(wholeTonnes(100_000_000, FACTOR), 62);
        assert.equal(wholeTonnes(-1, FACTOR), -1);
    });

    it("ships 0.81 t/MWh for Morocco without a source", () => {
        assert.deepEqual([UNSOURCED_MOROCCO.om, UNSOURCED_MOROCCO.source, combinedMargin(UNSOURCED_MOROCCO)], [0.81, "", 810_000_000n]);
    });

    it("refuses what contradicts itself, another unit, and two at a time", () => {
        for (const [bad, code] of [
            [{ om: 0.7, bm: 0.3, cm: 0.61 }, "FACTOR_INCONSISTENT"],
            [{ om: 729, bm: 326 }, "CONFIG_INVALID"],
            [{ om: 0.7, bm: 0.3, wOm: 0.75, wBm: 0.5 }, "CONFIG_INVALID"],
            [{ om: 0.7, bm: 0.3, fileSha256: "abc" }, "CONFIG_INVALID"],
            [{ om: 0.7, bm: 0.3, validFrom: "2026-01-01T00:00" }, "CONFIG_INVALID"],
            [[{ om: 0.7, bm: 0.3 }, { om: 0.8, bm: 0.3 }], "FACTOR_OVERLAP"],
        ] as const) assert.throws(() => parseFactors(bad), { code });
        assert.equal(parseFactors({ om: 0.7, bm: 0.3, cm: 0.6 }).length, 1);
    });

    it("turns tonnes into the least energy, and back, for any factor", () => {
        const factor = fc.record({ om: fc.integer({ min: 10_000, max: 1_500_000 }), bm: fc.integer({ min: 10_000, max: 1_500_000 }) }).map(({ om, bm }) => ({ ...UNSOURCED_MOROCCO, om: om / 1e6, bm: bm / 1e6 }));
        fc.assert(
            fc.property(factor, fc.integer({ min: 1, max: 1_000_000 }), (f, tonnes) => {
                const wh = whFor(tonnes, f);
                assert.equal(wholeTonnes(wh, f), tonnes);
                assert.ok(wholeTonnes(wh - 1, f) < tonnes);
            }),
        );
    });
});

describe("the meter inventory", () => {
    it("refuses an empty one, a name without site, overlaps, and a time without its zone", () => {
        const ok = { meter: "s/m", ratedW: 1 };
        for (const bad of [[], "x", [{ ...ok, meter: "m" }], [{ ...ok, ratedW: 0 }], [{ ...ok, from: "2026-01-01T10:00" }], [{ ...ok, typo: 1 }]]) assert.throws(() => parseInventory(bad), { code: "CONFIG_INVALID" });
        assert.deepEqual(parseInventory([{ ...ok, serial: " " }, { ...ok, meter: "s/n", serial: 17 }]).map(({ serial }) => serial), [undefined, "17"]);
        for (const correction of [{ export: 1.01, import: 1 }, { export: 1, import: 0.99 }, { export: 1, import: 1, source: "" }]) assert.throws(() => parseInventory([{ ...ok, corrections: [{ source: "PDD", ...correction }] }]), { code: "CONFIG_INVALID" });
        assert.equal(parseInventory([{ ...ok, corrections: [{ kind: "allocation", export: 0.6, import: 0.6, source: "PDD" }] }]).length, 1);
        assert.throws(() => parseInventory([{ ...ok, to: "2026-02-01" }, { ...ok, from: "2026-01-31" }]), { code: "METERS_OVERLAP" });
        assert.equal(parseInventory([{ ...ok, to: "2026-02-01" }, { ...ok, from: "2026-02-01" }]).length, 2);
    });
});

describe("the report", () => {
    const meter = meterRecord();
    const samples = steady(START, START + 3 * DAY + HOUR, 100_000, 1000);
    const intervals = seal(samples, [meter], START, days(START, 3));

    it("states coverage, points, sampling class, capacity factor and averages beside the figures", () => {
        const powered = seal(samples.map((sample) => ({ ...sample, values: { ac_power_w: -99_000, irradiance_poa_w_m2: 500 } })), [meter], START, days(START, 3));
        const { figures, meters } = report(powered, [meter]);
        assert.deepEqual([figures.coverage, figures.points, Math.round(figures.capacityFactor * 1e6)], [1, 864, 99_000]);
        assert.deepEqual([meters[0]!.sampling, meters[0]!.averages, meters[0]!.gaps], ["5 minutes", { ac_power_w: -99_000, irradiance_poa_w_m2: 500 }, []]);
    });

    it("claims nothing of an interval with too few points or too little coverage, but takes its import off", () => {
        const few = samples.filter(({ at }) => at < START + DAY || at >= START + 2 * DAY || (at - START) % (HOUR * 4) === 0);
        const result = report(seal(few, [meter], START, days(START, 3), { maxGapMs: 5 * HOUR }), [meter]);
        assert.deepEqual(result.lines.filter(({ code }) => code === "sparse").map(({ wh }) => wh), [-2_400_000]);
        assert.equal(result.figures.importWh, 72_000);
    });

    it("refuses what AMS-I.D is not for: behind the meter, above 15 MW, and shows each criterion", () => {
        const behind = report(intervals, [meterRecord({ kind: "generator" })]);
        assert.deepEqual(behind.refusals.map(({ code }) => code), ["NOT_APPLICABLE"]);
        const large = report(intervals, [meter], { project: { id: "p", name: "P", capacityW: 15_000_001 } });
        assert.deepEqual(large.applicability.map(({ ok }) => ok), [true, false, true, true]);
        assert.equal(large.ready, false);
        assert.deepEqual(report(intervals, [meterRecord({ from: undefined })]).refusals.map(({ code }) => code), ["NOT_APPLICABLE"]);
    });

    it("refuses a net import, less than a tonne, and meters whose import is not known yet", () => {
        const night = seal(steady(START, START + 3 * DAY + HOUR, 0, 1000), [meter], START, days(START, 3));
        assert.deepEqual(report(night, [meter]).refusals.map(({ code }) => code), ["NET_NEGATIVE"]);
        assert.deepEqual(report(intervals, [meter], { minTonnes: 100 }).refusals.map(({ code }) => code), ["BELOW_MINIMUM"]);
        assert.deepEqual(report(intervals, [meter], { silent: ["site/m1"] }).refusals.map(({ code }) => code), ["METER_SILENT"]);
    });

    it("does not ask for data of a meter that was retired before", () => {
        const retired = meterRecord({ meter: "site/old", to: START });
        assert.equal(report(seal(samples, [meter, retired], START, days(START, 3)), [meter, retired]).ready, true);
    });

    it("splits what crosses a year into its vintages", () => {
        const from = Date.UTC(2026, 11, 30);
        const crossing = seal(steady(from, from + 3 * DAY + HOUR, 100_000), [meter], from, days(from, 3));
        assert.deepEqual(report(crossing, [meter]).vintages, [{ year: 2026, netWh: 4_800_000 }, { year: 2027, netWh: 2_400_000 }]);
    });

    it("marks whatever holds simulated energy", () => {
        const trial = seal(samples.map((sample, i) => ({ ...sample, origin: i === 300 ? ("simulated" as const) : sample.origin })), [meter], START, days(START, 3), { allowSimulated: true });
        assert.equal(report(trial, [meter]).simulated, true);
        assert.equal(report(intervals, [meter]).simulated, false);
        const carry: Carry = { wh: 1, factor: FACTOR, report: "k", simulated: true };
        assert.equal(report(intervals, [meter], { carry }).simulated, true);
        const real = report(seal(samples.map((sample, i) => ({ ...sample, origin: i === 300 ? ("simulated" as const) : sample.origin })), [meter], START, days(START, 3)), [meter]);
        assert.equal(real.simulated, false);
        assert.equal(real.lines.find(({ code }) => code === "simulated")?.wh, -16_666);
    });

    it("M3: over any run of reports the credits never exceed the whole tonnes of all that was claimable, and reach them", () => {
        const runs = fc.array(fc.integer({ min: 0, max: 900_000 }), { minLength: 1, maxLength: 6 });
        fc.assert(
            fc.property(runs, fc.constantFrom<Factor>(FACTOR, UNSOURCED_MOROCCO), (powers, factor) => {
                let carry: Carry | undefined;
                let credits = 0;
                let minted = 0;
                let netWh = 0;
                for (const [i, watts] of powers.entries()) {
                    const from = START + i * DAY;
                    const day = seal(steady(from, from + DAY + HOUR, watts), [meter], from, [from + DAY]);
                    const { figures, key, lines } = report(day, [meter], { number: i + 1, carry, factors: [factor], acceptsUnsourced: true, minTonnes: 1 });
                    netWh += 24 * watts + (lines.find(({ code }) => code === "clock")?.wh ?? 0);
                    credits += figures.credits;
                    minted += figures.mint.nearest;
                    assert.ok(figures.credits === 0 || figures.mint.floor === figures.credits || figures.carriedOutWh === 0);
                    carry = { wh: figures.credits > 0 ? figures.carriedOutWh : figures.netWh, factor, report: key, simulated: false };
                    assert.ok(minted <= wholeTonnes(netWh, factor));
                }
                assert.equal(credits, wholeTonnes(netWh, factor));
            }),
            { numRuns: 40 },
        );
    });

    it("takes off what a clock that is ahead may have brought in from before, and no more than there is", () => {
        const first = (list: MeterSample[]) => report(seal(list, [meter], START, days(START, 3)), [meter]).lines.find(({ code }) => code === "clock");
        assert.equal(first(samples)?.wh, -8334);
        assert.equal(first(samples.filter(({ at }) => at >= START + 55 * MINUTE))?.wh, -8333);
        assert.equal(first(steady(START, START + 3 * DAY, 0, 100)), undefined);
    });

    it("reckons energy carried under a lower factor at no more than it was worth, and never at more Wh", () => {
        const [low, high] = [{ ...FACTOR, om: 0.3, bm: 0.3 }, { ...FACTOR, om: 0.9, bm: 0.9 }];
        assert.equal(underFactor(900_000, low, high), 300_000);
        assert.equal(underFactor(900_000, high, low), 900_000);
    });

    it("M6: whatever goes wrong with the data, no claim is above the true net export (200 plants)", () => {
        for (let seed = 100_001; seed <= 100_200; seed++) {
            const history = truth(seed);
            conserve(history);
            const meters = [meterRecord(history.modulusWh === undefined ? {} : { modulusWh: history.modulusWh })];
            const { figures } = report(seal(history.arrived, meters, START, history.bounds), meters, { minTonnes: 1 });
            assert.ok(figures.claimedWh <= Math.max(0, history.exportWh), `plant ${seed}`);
            assert.ok(figures.netWh <= figures.upperBoundWh, `plant ${seed}: ${figures.netWh} above the bound ${figures.upperBoundWh}`);
        }
        const clean = report(seal(steady(START, START + 3 * DAY + 5 * MINUTE, 500_000), [meter], START, days(START, 3)), [meter]);
        assert.equal(clean.figures.netWh, 36_000_000 - 41_667, "all but 5 minutes for the clock");
    });
});
