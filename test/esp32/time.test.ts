import assert from "node:assert/strict";
import fc from "fast-check";
import { EARLIEST_TRUSTED_MS } from "../../dist/common/clock.js";
import { instantOf, sampleTime } from "../../dist/esp32/time.js";

const NOW = Date.UTC(2026, 10, 21, 12);
const live = { at: NOW, retained: false };
const kept = { at: NOW, retained: true };

describe("the time of a sample", () => {
    it("is the device's own where that can be", () => {
        for (const ts of [EARLIEST_TRUSTED_MS, NOW - 86_400_000, NOW, NOW + 5 * 60_000]) {
            assert.deepEqual(sampleTime({ ts, up: 5 }, 10, live), { at: ts, source: "device" });
        }
    });

    it("is counted from the arrival where the device's clock was not set, or runs ahead", () => {
        for (const ts of [0, 1_000_000, EARLIEST_TRUSTED_MS - 1, NOW + 5 * 60_000 + 1, NOW * 1000]) {
            assert.deepEqual(sampleTime({ ts, up: 40_000 }, 100_000, live), { at: NOW - 60_000, source: "uptime" });
        }
    });

    it("survives that millis() starts again after 49.7 days", () => {
        assert.deepEqual(sampleTime({ up: 2 ** 32 - 1000 }, 4000, live), { at: NOW - 5000, source: "uptime" });
    });

    it("is that of the arrival where the only sample's clock or count is unusable, and of several nobody's", () => {
        for (const told of [{ ts: 0 }, { ts: NOW + 5 * 60_000 + 1 }, { up: 5000 }, { ts: 5, up: 5000 }, { ageMs: -1 }]) {
            assert.deepEqual(sampleTime(told, 4000, live), { at: NOW, source: "arrival" });
            assert.equal(sampleTime(told, 4000, live, true), undefined);
            // Something else dates it.
            assert.deepEqual(sampleTime({ ...told, ageMs: 700 }, 4000, live, true), { at: NOW - 700, source: "age" });
        }
        // They tell no time of their own: those that came together are of the same.
        assert.deepEqual(sampleTime({}, 4000, live, true), { at: NOW, source: "arrival" });
    });

    it("is not known of what says that it is older than any buffer keeps, also where it came alone", () => {
        assert.equal(sampleTime({ up: 0 }, 500 * 86_400_000, live), undefined);
        assert.equal(sampleTime({ ageMs: 500 * 86_400_000 }, undefined, live), undefined);
        assert.deepEqual(sampleTime({ up: 0 }, 400 * 86_400_000, live), { at: NOW - 400 * 86_400_000, source: "uptime" });
    });

    it("is another one where anything that is told differs", () => {
        const told = [{}, { ts: 1 }, { up: 1 }, { ageMs: 1 }, { ts: 1, up: 1 }, { ts: 2 }];
        assert.equal(new Set(told.map(instantOf)).size, told.length);
        assert.equal(instantOf({ ts: 1, up: 2 }), instantOf({ up: 2, ts: 1 }));
    });

    it("is that of the arrival where the device counted backwards, or not at all", () => {
        assert.deepEqual(sampleTime({ up: 5000 }, 4000, live), { at: NOW, source: "arrival" });
        assert.deepEqual(sampleTime({ up: 5000 }, undefined, live), { at: NOW, source: "arrival" });
        assert.deepEqual(sampleTime({}, 5000, live), { at: NOW, source: "arrival" });
    });

    it("is its age before the arrival", () => {
        assert.deepEqual(sampleTime({ ageMs: 2500 }, undefined, live), { at: NOW - 2500, source: "age" });
        assert.deepEqual(sampleTime({ ageMs: -1 }, undefined, live), { at: NOW, source: "arrival" });
    });

    it("is not known of what a broker kept, or may be old: never that of the arrival", () => {
        assert.equal(sampleTime({}, undefined, kept), undefined);
        assert.equal(sampleTime({ up: 5, ageMs: 5 }, 10, kept), undefined);
        assert.equal(sampleTime({ stale: true }, undefined, live), undefined);
        assert.deepEqual(sampleTime({ ts: NOW - 5000, stale: true }, undefined, kept), { at: NOW - 5000, source: "device" });
        assert.deepEqual(sampleTime({ ageMs: 60_000, stale: true }, undefined, live), { at: NOW - 60_000, source: "age" });
    });

    it("is whole, never ahead by more than 5 minutes, and the arrival's only for what came live and tells no other, whatever a device says", () => {
        const any = fc.option(fc.double(), { nil: undefined });
        const samples = fc.record({ ts: any, up: any, ageMs: any, stale: fc.option(fc.boolean(), { nil: undefined }) });
        fc.assert(
            fc.property(samples, any, fc.boolean(), fc.boolean(), (sample, up, retained, isOneOfMany) => {
                const given = Object.fromEntries(Object.entries(sample).filter(([, value]) => value !== undefined));
                const time = sampleTime(given, up, { at: NOW, retained }, isOneOfMany);
                const isTold = given["ts"] !== undefined || given["up"] !== undefined || given["ageMs"] !== undefined;
                if (!time) return retained || sample.stale === true || isTold;
                if (time.source === "arrival" && isTold && isOneOfMany) return false;
                const isPossible = Number.isSafeInteger(time.at) && time.at <= NOW + 5 * 60_000;
                return isPossible && (time.source === "device" || (!retained && (time.source !== "arrival" || time.at === NOW)));
            }),
            { numRuns: 2000 },
        );
    });
});
