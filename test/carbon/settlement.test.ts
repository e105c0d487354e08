import assert from "node:assert/strict";
import fc from "fast-check";
import { type MeterSample, mergeSamples, orderSamples, sampleOf, settle } from "../../dist/carbon/settlement.js";
import { sum } from "../../dist/carbon/interval.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { conserve, truth } from "./histories.js";
import { DAY, HOUR, meterRecord, MINUTE, rulesFor, START, steady } from "./rig.js";

describe("settlement", () => {
    const rules = rulesFor([meterRecord()]);

    function one(samples: MeterSample[], from = START, to = START + DAY, changes = {}) {
        const { hours, ...rest } = settle({ ...rules, ...changes }, orderSamples(samples), from, to);
        const excluded: Record<string, number> = {};
        for (const { excludedExport = {} } of hours) for (const [reason, wh] of Object.entries(excludedExport)) excluded[reason] = (excluded[reason] ?? 0) + wh;
        return { ...rest, hours, excluded, exportWh: sum(hours, (hour) => hour.exportWh), importWh: sum(hours, (hour) => hour.importWh) };
    }

    it("spreads energy over hours in whole Wh, and hours that meet share a step exactly", () => {
        const samples = [0, 50, 70, 130, 180].map((minute, i) => ({ meter: "site/m1", at: START + minute * MINUTE, exportWh: i * 1001, origin: "measured" as const }));
        const { hours } = one(samples, START, START + 3 * HOUR, { maxGapMs: 2 * HOUR });
        assert.deepEqual(hours.map(({ exportWh }) => exportWh), [1001 + 500, 501 + 834, 167 + 1001]);
        const first = settle(rules, samples, START, START + HOUR);
        const second = settle(rules, samples, START + HOUR, START + 3 * HOUR, first.closing);
        assert.equal(sum([...first.hours, ...second.hours], ({ exportWh }) => exportWh), 4004);
    });

    it("tells rollover, reset and swap apart", () => {
        const at = (i: number) => START + i * 5 * MINUTE;
        const series = (values: number[], serials: string[] = []) => values.map((exportWh, i) => ({ meter: "site/m1", at: at(i), exportWh, origin: "measured" as const, ...(serials[i] && { serial: serials[i] }) }));
        const wraps = rulesFor([meterRecord({ modulusWh: 65_536 })]);
        const rolled = settle(wraps, series([65_000, 65_500, 464]), START, START + DAY);
        assert.deepEqual([rolled.hours[0]!.exportWh, rolled.events.map(({ event }) => event)], [1000, ["rollover"]]);

        const reset = one(series([65_000, 65_500, 464, 900]));
        assert.deepEqual([reset.exportWh, reset.excluded, reset.events.map(({ event, beforeWh, afterWh }) => [event, beforeWh, afterWh])], [936, { reset: 464 }, [["reset", 65_500, 464]]]);

        const named = rulesFor([meterRecord({ serial: "A", to: at(2) }), meterRecord({ serial: "B", from: at(2) })]);
        const swapped = settle(named, series([65_000, 65_500, 464, 900], ["A", "A", "B", "B"]), START, START + DAY);
        assert.deepEqual([swapped.hours[0]!.exportWh, swapped.hours[0]!.excludedExport, swapped.events.map(({ event }) => event)], [936, undefined, ["swap"]]);
    });

    it("takes no lifetime of energy from a misread of the register", () => {
        const samples = steady(START, START + DAY, 100_000).map((sample) => ({ ...sample, exportWh: sample.exportWh! + 1e9 }));
        for (const wrong of [0, 5, 2e9, 1e12]) {
            const misread = samples.map((sample, i) => (i === 100 ? { ...sample, exportWh: wrong } : sample));
            const { exportWh, excluded } = one(misread);
            assert.ok(exportWh <= 2_400_000 && exportWh >= 2_350_000, `${wrong}: ${exportWh}`);
            assert.ok(Math.abs(sum(Object.values(excluded), (wh) => wh)) < 50_000);
        }
    });

    it("excludes more than the rated power makes, but not what a lazy register shows at once", () => {
        const hourly = steady(START, START + DAY, 900_000).map((sample) => ({ ...sample, exportWh: Math.floor((sample.at - START) / HOUR) * 900_000 }));
        assert.equal(one(hourly).exportWh, 900_000 * 24);
        const jump = steady(START, START + DAY, 100_000).map((sample, i) => ({ ...sample, exportWh: sample.exportWh! + (i >= 100 ? 500_000 : 0) }));
        const { exportWh, excluded } = one(jump);
        assert.deepEqual([exportWh, excluded], [2_400_000 - 8333, { implausible: 508_333 }]);
    });

    it("sums the net signed: night import is taken off, never cut to zero", () => {
        const { hours } = one(steady(START, START + DAY, 0, 3000));
        assert.deepEqual(hours.slice(0, 24).map(({ exportWh, importWh }) => exportWh - importWh), Array.from({ length: 24 }, () => -3000));
    });

    it("counts import across a gap and a reset, though export there is not claimed", () => {
        const samples = steady(START, START + DAY, 100_000, 10_000).filter(({ at }) => at <= START + 5 * HOUR || at >= START + 9 * HOUR);
        const { exportWh, importWh, excluded } = one(samples);
        assert.deepEqual([exportWh, importWh, excluded], [2_000_000, 240_000, { gap: 400_000 }]);
    });

    for (const [what, instant] of [
        ["Ramadan begins, 25 h", "2026-02-15T02:00:00Z"],
        ["Ramadan ends, 23 h", "2026-03-22T02:00:00Z"],
        ["Ramadan begins, 25 h", "2027-02-07T02:00:00Z"],
        ["Ramadan ends, 23 h", "2027-03-14T02:00:00Z"],
    ] as const) {
        it(`settles 24 hours on the day the clocks of Casablanca change, or were to: ${instant} (${what})`, () => {
            const change = Date.parse(instant);
            const offset = (at: number) => new Intl.DateTimeFormat("en", { timeZone: "Africa/Casablanca", timeZoneName: "shortOffset" }).formatToParts(at).find(({ type }) => type === "timeZoneName")!.value;
            // As planned in 2025; by tzdata 2026c, of Node.js 24, the clocks of 2027 stay.
            if (change < Date.UTC(2027, 0, 1)) assert.notEqual(offset(change - 1), offset(change), "the clocks change then");
            const from = Date.parse(`${instant.slice(0, 10)}T00:00:00Z`);
            const { hours } = one(steady(from, from + DAY, 100_000, 100), from, from + DAY);
            assert.deepEqual(hours.map(({ at, exportWh, importWh, coveredMs }) => [at, exportWh, importWh, coveredMs]), Array.from({ length: 24 }, (_, i) => [from + i * HOUR, 100_000, 100, HOUR]));
        });
    }

    it("gives the same for samples in any order and however often they come", () => {
        fc.assert(
            fc.property(fc.shuffledSubarray(steady(START, START + 4 * HOUR, 123_457, 89), { minLength: 1 }), fc.array(fc.nat()), (samples, again) => {
                const repeated = [...samples, ...again.map((i) => samples[i % samples.length]!)];
                assert.deepEqual(one(repeated, START, START + 3 * HOUR), one(orderSamples(samples), START, START + 3 * HOUR));
            }),
            { numRuns: 50 },
        );
    });

    it("believes neither of two values for one instant, whichever came first", () => {
        const a: MeterSample = { meter: "site/m1", at: START, exportWh: 10, importWh: 5, serial: "A", origin: "measured" };
        for (const b of [{ ...a, exportWh: 11 }, { ...a, importWh: 4 }, { ...a, serial: "B" }]) {
            assert.deepEqual(mergeSamples(a, b), mergeSamples(b, a));
            assert.equal(mergeSamples(a, b).origin, "doubtful");
        }
        assert.deepEqual(mergeSamples(a, a), a);
    });

    it("M1: every Wh of a register is claimed or excluded, once, and no claim is above the truth (2,000 histories)", () => {
        const seen = new Set<string>();
        let claimedWh = 0;
        let trueWh = 0;
        for (let seed = 1; seed <= 2000; seed++) {
            const history = truth(seed);
            const result = conserve(history);
            claimedWh += result.claimedWh;
            trueWh += history.exportWh;
            for (const event of result.events) seen.add(event);
        }
        assert.ok(seen.has("reset") && seen.has("rollover"), "the histories are tame");
        assert.ok(claimedWh > 0.5 * trueWh, "hardly anything is claimed");
    });

    describe("of a reading", () => {
        const reading = (payload: ReadingMessage["payload"], more: object = {}, timestamp = START): ReadingMessage => ({ topic: "s/m", payload, timestamp, reading: { site: "s", device: "m", class: "meter", seq: 0, quality: "good", ...more } });
        const of = (msg: ReadingMessage) => sampleOf(msg, START);

        it("takes registers in whole Wh, the serial, and what can be averaged", () => {
            assert.deepEqual(of(reading({ ac_energy_export_wh: 10.9, ac_energy_import_wh: 0.2, ac_power_w: 7, serial: "A", state: "ok" })), { meter: "s/m", at: START, exportWh: 10, importWh: 0, serial: "A", origin: "measured", values: { ac_power_w: 7 } });
        });

        for (const [what, more, origin] of [
            ["simulated", { simulated: true }, "simulated"],
            ["simulated, whatever else is said", { simulated: true, bad: { ac_energy_export_wh: "estimated" } }, "simulated"],
            ["estimated", { bad: { ac_energy_export_wh: "estimated" } }, "estimated"],
            ["reset by its source", { bad: { ac_energy_export_wh: "reset" } }, "doubtful"],
            ["uncertain without a reason", { quality: "uncertain" }, "doubtful"],
            ["uncertain for another point", { quality: "uncertain", bad: { ac_power_w: "comm" } }, "measured"],
        ] as const) {
            it(`carries what it is: ${what}`, () => {
                const sample = of(reading({ ac_energy_export_wh: 1 }, more));
                assert.equal(typeof sample === "object" && sample.origin, origin);
            });
        }

        it("is none without a counter, of bad quality, or stamped when nothing can have been measured", () => {
            assert.equal(of(reading({ ac_power_w: 1 })), "no energy counter");
            assert.equal(of(reading({ ac_energy_export_wh: 1 }, { quality: "bad" })), "bad quality");
            assert.equal(of(reading({ ac_energy_export_wh: 1 }, {}, 0)), "clock not set");
            assert.equal(of(reading({ ac_energy_export_wh: 1 }, {}, START + 6 * MINUTE)), "stamped in the future");
        });
    });
});
