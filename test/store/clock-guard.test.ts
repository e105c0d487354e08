import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import fc from "fast-check";
import { ClockGuard } from "../../dist/store/clock-guard.js";
import { ManualClock } from "../common/manual-clock.js";

const NOW = Date.UTC(2026, 5, 1);

const never = new AbortController().signal;
setMaxListeners(0, never);

describe("clock guard", () => {
    it("passes a time that can be trusted, also when our own clock is not set", () => {
        assert.equal(new ClockGuard(new ManualClock(NOW)).trusted(NOW - 5000, never), NOW - 5000);
        assert.equal(new ClockGuard(new ManualClock(60_000)).trusted(NOW, never), NOW);
    });

    it("holds readings of 1970 and moves them by what the clock jumped", async () => {
        const clock = new ManualClock(0);
        const guard = new ClockGuard(clock);
        clock.advance(30_000);
        const first = guard.trusted(clock.now(), never);
        clock.advance(10_000);
        // Sampled two seconds before it arrived.
        const second = guard.trusted(clock.now() - 2000, never);
        assert.equal(guard.held, 2);
        clock.advance(5000);
        clock.set(NOW);
        clock.advance(1000);
        assert.equal(await first, NOW - 15_000);
        assert.equal(await second, NOW - 7000);
        assert.equal(guard.held, 0);
        assert.equal(clock.waiting, 0);
    });

    it("moves what was stamped before the jump and arrived after it", () => {
        const clock = new ManualClock(0);
        const guard = new ClockGuard(clock);
        clock.advance(30_000);
        const stamp = clock.now();
        clock.advance(500);
        clock.set(NOW);
        assert.equal(guard.trusted(stamp, never), NOW - 500);
    });

    it("keeps the distances between samples, whatever the clock does in between", async () => {
        await fc.assert(
            fc.asyncProperty(fc.integer({ min: 0, max: 86_400_000 }), fc.array(fc.nat(100_000), { minLength: 1, maxLength: 20 }), async (boot, gaps) => {
                const clock = new ManualClock(boot);
                const guard = new ClockGuard(clock);
                const pending = gaps.map((gap) => {
                    clock.advance(gap);
                    return guard.trusted(clock.now(), never);
                });
                clock.set(NOW);
                clock.advance(1000);
                const times = await Promise.all(pending.map(async (time) => time));
                for (let i = 1; i < gaps.length; i += 1) assert.equal(times[i]! - times[i - 1]!, gaps[i]);
                assert.equal(times.at(-1), NOW);
            }),
        );
    });

    it("refuses what can be neither trusted nor moved", async () => {
        const set = new ClockGuard(new ManualClock(NOW));
        for (const time of [0, 1000, Date.UTC(2023, 11, 31), NOW + 2 * 86_400_000, -1, Number.MAX_SAFE_INTEGER]) {
            assert.throws(() => set.trusted(time, never), { code: "TIME_UNTRUSTED", message: /set the device's clock/ });
        }
        const clock = new ManualClock(1_000_000);
        const guard = new ClockGuard(clock);
        const constant = guard.trusted(0, never);
        clock.set(NOW);
        clock.advance(1000);
        await assert.rejects(async () => constant, { code: "TIME_UNTRUSTED" });
    });

    it("holds a bounded number, and nothing after the node closed", async () => {
        const clock = new ManualClock(0);
        const guard = new ClockGuard(clock, 3);
        const controller = new AbortController();
        const held = [1, 2, 3].map((t) => guard.trusted(t, controller.signal));
        assert.throws(() => guard.trusted(4, controller.signal), { code: "CLOCK_NOT_SET" });
        controller.abort();
        for (const promise of held) await assert.rejects(async () => promise, { code: "CLOCK_NOT_SET" });
        assert.equal(guard.held, 0);
        assert.equal(clock.waiting, 0);
    });
});
