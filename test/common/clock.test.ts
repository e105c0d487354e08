import assert from "node:assert/strict";
import fc from "fast-check";
import { DateTime } from "luxon";
import { EARLIEST_TRUSTED_MS, isClockSet, isTimeZone, localDay, systemClock } from "../../dist/common/clock.js";

describe("local day", () => {
    const hour = 3_600_000;

    /** Zone, an instant of the day, its first instant, its length in hours. */
    const days: [string, string, string, number][] = [
        ["UTC", "2026-06-01T23:59:59.999Z", "2026-06-01T00:00:00.000Z", 24],
        ["Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00.000Z", 23],
        ["Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00.000Z", 25],
        ["America/New_York", "2026-03-08T12:00:00Z", "2026-03-08T05:00:00.000Z", 23],
        ["America/New_York", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00.000Z", 25],
        // UTC+13: the local day is mostly the UTC day before.
        ["Pacific/Tongatapu", "2026-06-01T10:59:59.999Z", "2026-05-31T11:00:00.000Z", 24],
        ["Pacific/Tongatapu", "2026-06-01T11:00:00Z", "2026-06-01T11:00:00.000Z", 24],
        ["Pacific/Auckland", "2026-09-26T20:00:00Z", "2026-09-26T12:00:00.000Z", 23],
        ["Asia/Kathmandu", "2026-06-01T12:00:00Z", "2026-05-31T18:15:00.000Z", 24],
        // Half an hour of daylight saving.
        ["Australia/Lord_Howe", "2026-04-04T20:00:00Z", "2026-04-04T13:00:00.000Z", 24.5],
        // The clock goes forward at midnight: the day begins at 01:00.
        ["Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-23T22:00:00.000Z", 23],
        // The clock goes back at 01:00 to midnight, which comes twice; seen from before and from after.
        ["America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T04:00:00.000Z", 25],
        ["America/Havana", "2026-11-01T20:00:00Z", "2026-11-01T04:00:00.000Z", 25],
        // A day that a whole country skipped.
        ["Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00.000Z", 24],
        ["Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00.000Z", 24],
    ];
    for (const [zone, instant, start, hours] of days) {
        it(`in ${zone} around ${instant} has ${hours} h`, () => {
            const day = localDay(Date.parse(instant), zone);
            assert.equal(new Date(day.start).toISOString(), start);
            assert.equal((day.end - day.start) / hour, hours);
        });
    }

    it("follows the day before without gap or overlap, and holds one date", () => {
        const zones = ["UTC", ...new Set(days.map(([zone]) => zone)), "America/Santiago", "Asia/Beirut", "Asia/Gaza", "Africa/Casablanca"];
        fc.assert(
            fc.property(
                fc.constantFrom(...zones),
                fc.integer({ min: Date.UTC(2012, 0, 1), max: Date.UTC(2037, 0, 1) }),
                (zone, ms) => {
                    const { start, end } = localDay(ms, zone);
                    assert.ok(start <= ms && ms < end);
                    assert.deepEqual(localDay(start, zone), { start, end });
                    assert.deepEqual(localDay(end - 1, zone), { start, end });
                    assert.equal(localDay(end, zone).start, end);
                    assert.equal(localDay(start - 1, zone).end, start);
                    const date = (at: number) => DateTime.fromMillis(at, { zone }).toISODate();
                    assert.equal(date(start), date(ms));
                    assert.equal(date(end - 1), date(ms));
                    assert.notEqual(date(end), date(ms));
                },
            ),
            { numRuns: 1000 },
        );
    });
});

describe("time zone names", () => {
    for (const zone of ["UTC", "Europe/Berlin", "Pacific/Chatham", "Etc/GMT-13"]) {
        it(`knows ${zone}`, () => assert.equal(isTimeZone(zone), true));
    }
    // "local" and "system" would make records depend on the machine.
    for (const zone of ["", "local", "system", "Berlin", "Europe/Atlantis", "CET-1CEST", "../etc/passwd"]) {
        it(`refuses ${JSON.stringify(zone)}`, () => assert.equal(isTimeZone(zone), false));
    }
});

describe("system clock", () => {
    it("tells a clock that was never set", () => {
        assert.equal(isClockSet(0), false);
        assert.equal(isClockSet(EARLIEST_TRUSTED_MS - 1), false);
        assert.equal(isClockSet(systemClock.now()), true);
    });

    it("sleeps, and wakes at once when aborted", async () => {
        const before = systemClock.monotonic();
        await keepAlive(systemClock.sleep(20));
        assert.ok(systemClock.monotonic() - before >= 19);
        const abort = new AbortController();
        const sleep = systemClock.sleep(2 ** 40, abort.signal);
        abort.abort(new Error("enough"));
        await assert.rejects(sleep, { name: "AbortError", cause: new Error("enough") });
        await assert.rejects(systemClock.sleep(1, AbortSignal.abort()), { name: "AbortError" });
    });

    it("calls once after a while, or never when cancelled, and no sooner for a wait too long for a timer", async () => {
        const calls: string[] = [];
        const cancel = [systemClock.after(1, () => calls.push("cancelled")), systemClock.after(2 ** 31, () => calls.push("too soon"))];
        cancel[0]?.();
        await new Promise<void>((resolve) => {
            systemClock.after(10, () => {
                calls.push("called");
                resolve();
            });
        });
        cancel[1]?.();
        assert.deepEqual(calls, ["called"]);
    });
});

/** A sleep alone does not keep the process, and so the test, alive. */
async function keepAlive(promise: Promise<void>): Promise<void> {
    const hold = setInterval(() => {}, 1000);
    await promise;
    clearInterval(hold);
}
