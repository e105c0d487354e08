import assert from "node:assert/strict";
import fc from "fast-check";
import { EnergyCounter, EnergyIntegrator, energyIn, type CounterEvent, type PowerSample } from "../../dist/common/energy.js";

const MIN = 60_000;
const HOUR = 60 * MIN;
const U32 = 2 ** 32;

/** Feeds values 5 s apart; totals relative to the first, as Home Assistant's sums are. */
function sums(values: number[], options: { modulusWh?: number; ratedW?: number; stepMs?: number } = {}): (number | undefined)[] {
    const { stepMs = 5000, ...rest } = options;
    const counter = new EnergyCounter();
    const totals = values.map((wh, i) => counter.add({ wh, at: i * stepMs, ...rest }).totalWh);
    return totals.map((total) => total === undefined ? undefined : total - values[0]!);
}

function near(actual: number | undefined, expected: number, digits = 3): void {
    assert.equal(actual?.toFixed(digits), expected.toFixed(digits));
}

describe("energy counter", () => {
    it("K6: sums across a reset, zero point 0", () => {
        assert.deepEqual(sums([1000, 1010, 0, 5], { modulusWh: U32 }), [0, 10, 10, 15]);
        assert.deepEqual(sums([1000, 1010, 5, 10], { modulusWh: U32 }), [0, 10, 15, 20]);
    });

    it("K6: a uint32 that wraps grows by the way over the end", () => {
        const counter = new EnergyCounter();
        counter.add({ wh: 4294967290, modulusWh: U32, at: 0 });
        assert.deepEqual(counter.add({ wh: 10, modulusWh: U32, at: 5000 }), { totalWh: 4294967306, event: "rollover" });
    });

    it("knows the end of each counter type, with its scale", () => {
        for (const [last, next, modulusWh, grown] of [
            [65530, 4, 2 ** 16, 10],
            [655300, 40, 10 * 2 ** 16, 100],
            [U32 - 6, 10, U32, 16],
            [(U32 - 6) / 10, 1, U32 / 10, 1.6],
        ] as const) {
            const counter = new EnergyCounter();
            counter.add({ wh: last, modulusWh, at: 0, ratedW: 10_000 });
            const { totalWh, event } = counter.add({ wh: next, modulusWh, at: HOUR, ratedW: 10_000 });
            assert.equal(event, "rollover");
            near(totalWh! - last, grown);
        }
    });

    it("takes a fall far from the end, or of a float, for a reset", () => {
        const events = (values: number[], modulusWh?: number): (CounterEvent | undefined)[] => {
            const counter = new EnergyCounter();
            return values.map((wh, i) => counter.add({ wh, at: i * 5000, ...(modulusWh && { modulusWh }) }).event);
        };
        assert.deepEqual(events([30_000, 12], 2 ** 16), [undefined, "reset"]);
        assert.deepEqual(events([4294967290, 10]), [undefined, "reset"]);
        // Near the end, but an hour at rated power does not reach over it.
        const counter = new EnergyCounter();
        counter.add({ wh: 0.95 * U32, modulusWh: U32, at: 0, ratedW: 10_000 });
        assert.equal(counter.add({ wh: 10, modulusWh: U32, at: 5000, ratedW: 10_000 }).event, "reset");
    });

    it("ignores a decrease of less than 10 % and counts no energy twice when it returns", () => {
        assert.deepEqual(sums([1000, 1010, 1000, 1010, 1020]), [0, 10, 10, 10, 20]);
        assert.deepEqual(sums([1000, 1100, 991, 1101]), [0, 100, 100, 101]);
    });

    it("goes on from a counter that was corrected downwards for good", () => {
        const totals = sums([100_000, 95_000, 95_100, 95_200, 95_300], { stepMs: 12 * HOUR });
        assert.deepEqual(totals, [0, 0, 0, 0, 100]);
    });

    it("refuses a step that the rated power cannot make, and returns to the old value without loss", () => {
        assert.deepEqual(sums([812_345, 812_350, 53_241_872_000, 812_360], { ratedW: 10_000 }), [0, 5, undefined, 15]);
        assert.deepEqual(sums([812_345, 812_345 * 65_536, 812_350]), [0, undefined, 5]);
    });

    it("bounds the step by the time that passed", () => {
        const after = (ms: number) => sums([1000, 101_000], { ratedW: 10_000, stepMs: ms })[1];
        assert.equal(after(5000), undefined);
        assert.equal(after(10 * HOUR), 100_000);
    });

    it("believes a far value that stays, without counting the step", () => {
        assert.deepEqual(sums([1000, 9e6, 9e6 + 5, 9e6 + 10, 9e6 + 20], { ratedW: 10_000 }), [0, undefined, undefined, 0, 10]);
    });

    it("undoes a reset that was a misread: no phantom lifetime of energy", () => {
        assert.deepEqual(sums([812_345, 0, 0, 812_350]), [0, 0, 0, 5]);
        assert.deepEqual(sums([812_345, 7, 812_350], { ratedW: 10_000 }), [0, 7, 5]);
        assert.deepEqual(sums([812_345, 500_000, 812_350], { ratedW: 10_000 }), [0, undefined, 5]);
    });

    it("starts a new counter at a swap: neither the old nor the new lifetime is counted", () => {
        const counter = new EnergyCounter();
        counter.add({ wh: 1000, at: 0, serial: "A" });
        counter.add({ wh: 1010, at: 5000, serial: "A" });
        assert.deepEqual(counter.add({ wh: 500_000, at: 10_000, serial: "B" }), { totalWh: 1010, event: "swap" });
        assert.deepEqual(counter.add({ wh: 500_007, at: 15_000, serial: "B" }), { totalWh: 1017 });
        assert.equal(counter.add({ wh: 500_008, at: 20_000 }).totalWh, 1018, "an unreadable serial is no swap");
    });

    it("survives a restart, and sees what happened while it was away", () => {
        const wall = Date.UTC(2026, 5, 1);
        const before = new EnergyCounter();
        before.add({ wh: 5000, at: 100, serial: "A", ratedW: 10_000 });
        before.add({ wh: 12, at: 200, serial: "A", ratedW: 10_000 });
        const state = JSON.parse(JSON.stringify(before.state((at) => wall + at)));
        const resume = (sample: { wh: number; serial?: string }, awayMs: number) =>
            EnergyCounter.restore(state, wall + 200 + awayMs, 7).add({ at: 7, ratedW: 10_000, serial: "A", ...sample });
        assert.deepEqual(resume({ wh: 20 }, MIN), { totalWh: 5020 });
        assert.deepEqual(resume({ wh: 80_012 }, 8 * HOUR), { totalWh: 85_012 });
        assert.equal(resume({ wh: 80_012 }, MIN).event, "refused");
        assert.deepEqual(resume({ wh: 3 }, MIN), { totalWh: 5015, event: "reset" });
        assert.equal(resume({ wh: 20, serial: "B" }, MIN).event, "swap");
        // Started in 1970, or the clock went back: no bound can be computed.
        assert.equal(EnergyCounter.restore(state, 1000, 7).add({ wh: 80_012, at: 7, ratedW: 10_000 }).totalWh, 85_012);
    });

    it("refuses what is no count", () => {
        for (const wh of [NaN, Infinity, -1]) assert.deepEqual(new EnergyCounter().add({ wh, at: 0 }), { totalWh: undefined, event: "refused" });
    });

    it("never goes back, whatever it is fed, but for a misread that is taken back", () => {
        const sample = fc.record({ wh: fc.oneof(fc.integer({ min: 0, max: U32 }), fc.double(), fc.constantFrom(0, 10, 4294967290)), gap: fc.nat(2 * HOUR) });
        fc.assert(fc.property(fc.array(sample, { maxLength: 40 }), fc.boolean(), (samples, rated) => {
            const counter = new EnergyCounter();
            let at = 0;
            let last = 0;
            let resetAt = -Infinity;
            for (const { wh, gap } of samples) {
                at += gap;
                const { totalWh, event } = counter.add({ wh, at, modulusWh: U32, ...(rated && { ratedW: 10_000 }) });
                if (event === "reset") resetAt = at;
                if (totalWh === undefined) continue;
                assert.ok(Number.isFinite(totalWh));
                assert.ok(totalWh >= last || at - resetAt < HOUR);
                last = totalWh;
            }
        }));
    });
});

describe("energy from power", () => {
    const at = (minutes: number) => minutes * MIN;
    const ramp: PowerSample[] = [1, 2, 3, 2, 1].map((w, i) => ({ w, at: at(15 * i) }));
    const per = (samples: PowerSample[], minutes: number, options?: Parameters<typeof energyIn>[3]) =>
        Array.from({ length: 60 / minutes }, (_, i) => energyIn(samples, at(i * minutes), at((i + 1) * minutes), options));

    it("K4: right-labelled and instantaneous power of rdtools", () => {
        assert.deepEqual(per(ramp, 15, { rule: "right" }), [0.5, 0.75, 0.5, 0.25]);
        assert.deepEqual(per(ramp, 15), [0.375, 0.625, 0.625, 0.375]);
        for (const [i, expected] of [0.75, 0.8333, 0.4167].entries()) near(per(ramp, 20, { rule: "right" })[i], expected, 4);
    });

    it("K4: a gap is not bridged", () => {
        assert.deepEqual(per(ramp.filter((_, i) => i !== 1), 15, { rule: "right" }), [undefined, undefined, 0.5, 0.25]);
        const three = [0, 30, 45].map((minute) => ({ w: 1, at: at(minute) }));
        assert.deepEqual(per(three, 30, { maxGapMs: at(20) }), [undefined, undefined]);
    });

    it("K5: one long silence by each rule, and capped", () => {
        const silence = [{ w: 0, at: 0 }, { w: 1274, at: 1_020_000 }];
        near(energyIn(silence, 0, 1_020_000), 180.483);
        assert.equal(energyIn(silence, 0, 1_020_000, { rule: "left" }), 0);
        near(energyIn(silence, 0, 1_020_000, { rule: "right" }), 360.967);
        assert.equal(energyIn(silence, 0, 1_020_000, { maxGapMs: 300_000 }), undefined);

        const integrator = new EnergyIntegrator();
        for (const sample of silence) integrator.add(sample, 300_000);
        assert.deepEqual({ ...integrator.state, missingMs: integrator.missingMs }, { positiveWh: 0, negativeWh: 0, missingMs: 1_020_000 });
        const bridging = new EnergyIntegrator();
        for (const sample of silence) bridging.add(sample, 2_000_000);
        near(bridging.state.positiveWh, 180.483);
    });

    it("keeps both directions apart, also within one interval", () => {
        const integrator = new EnergyIntegrator();
        for (const [i, w] of [1000, -1000, -1000].entries()) integrator.add({ w, at: i * HOUR }, HOUR);
        assert.deepEqual(integrator.state, { positiveWh: 250, negativeWh: 1250 });
    });

    it("goes on from stored totals without bridging the restart", () => {
        const integrator = new EnergyIntegrator({ positiveWh: 10, negativeWh: 2 });
        integrator.add({ w: 60_000, at: 5 }, HOUR);
        assert.deepEqual(integrator.state, { positiveWh: 10, negativeWh: 2 });
    });

    it("agrees with the whole integral whatever the samples", () => {
        const step = fc.record({ w: fc.integer({ min: -1e6, max: 1e6 }), gap: fc.integer({ min: 1, max: 10 * MIN }) });
        fc.assert(fc.property(fc.array(step, { minLength: 2, maxLength: 30 }), (steps) => {
            let t = 0;
            const samples = steps.map(({ w, gap }) => ({ w, at: (t += gap) }));
            const integrator = new EnergyIntegrator();
            for (const sample of samples) integrator.add(sample, HOUR);
            const net = energyIn(samples, samples[0]!.at, t, { maxGapMs: HOUR })!;
            const { positiveWh, negativeWh } = integrator.state;
            assert.ok(Math.abs(positiveWh - negativeWh - net) < 1e-6 * (1 + positiveWh + negativeWh));
        }));
    });
});
