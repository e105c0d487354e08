import assert from "node:assert/strict";
import fc from "fast-check";
import { parseReading } from "../../dist/common/reading.js";
import type { ChartPoint } from "../../dist/store/query.js";
import { fittingResolution, parseWindow } from "../../dist/store/window.js";
import { NodeRig } from "./node-rig.js";

const MINUTE = 60_000;

describe("wl-query", () => {
    const rig = new NodeRig();
    before(() => rig.start());
    after(() => rig.stop());
    afterEach(() => rig.unload());

    const now = Math.floor(Date.now() / MINUTE) * MINUTE;

    /** Two devices, a sample a minute over two hours. */
    function fill(): void {
        for (let i = 120; i > 0; i -= 1) {
            for (const device of ["inv1", "inv2"]) {
                rig.store.series.append({
                    timestamp: now - i * MINUTE,
                    payload: { ac_power_w: i, ac_energy_export_wh: 10_000 - i, state: "MPPT" },
                    reading: { site: "home", device, class: "inverter" },
                });
            }
        }
    }

    async function ask<T>(query: object = {}): Promise<T[]> {
        const { payload } = await rig.ask<{ payload: T[] }>("query", { query, keep: "me" }, "answer");
        return payload;
    }

    it("answers a chart: x, y and series, oldest first, replacing what it shows", async () => {
        await rig.load({ query: { points: "ac_power_w", window: "last 1 h" } });
        fill();
        const message = await rig.ask<{ payload: ChartPoint[]; action: string; keep: string }>("query", { keep: "me" }, "answer");
        assert.equal(message.action, "replace");
        assert.equal(message.keep, "me");
        assert.deepEqual(new Set(message.payload.map(({ series }) => series)), new Set(["inv1 ac_power_w", "inv2 ac_power_w"]));
        const times = message.payload.map(({ x }) => x);
        assert.deepEqual(times, times.toSorted((a, b) => a - b));
        for (const { x, y } of message.payload) assert.equal(y, (now - x) / MINUTE);
        const single = await ask<ChartPoint>({ devices: ["home/inv1"] });
        assert.deepEqual(new Set(single.map(({ series }) => series)), new Set(["ac_power_w"]));
    });

    it("answers rows for a table, and readings that our nodes take", async () => {
        await rig.load();
        fill();
        const rows = await ask<Record<string, unknown>>({ format: "table", resolution: "raw", devices: "inv1", window: "last 1 h" });
        assert.deepEqual(rows[0], { time: rows[0]!["time"], site: "home", device: "inv1", ac_power_w: (now - (rows[0]!["time"] as number)) / MINUTE, ac_energy_export_wh: 10_000 - (now - (rows[0]!["time"] as number)) / MINUTE, state: "MPPT" });
        const readings = await ask<object>({ format: "readings", resolution: "raw", window: "last 1 h" });
        assert.ok(readings.length > 100);
        for (const reading of readings) parseReading(reading, 0);
        const latest = await ask<Record<string, unknown>>({ what: "latest", format: "table", points: "state" });
        assert.deepEqual(latest, ["inv1", "inv2"].map((device) => ({ time: now - MINUTE, site: "home", device, state: "MPPT" })));
    });

    it("rolls up: the mean of a power, the last of a counter", async () => {
        await rig.load();
        fill();
        await rig.store.series.flush();
        const rows = await ask<Record<string, number>>({ format: "table", resolution: "hour", devices: "inv1", window: "last 4 h" });
        assert.ok(rows.length >= 2 && rows.length <= 3);
        for (const row of rows) {
            const inHour = Array.from({ length: 120 }, (_, i) => i + 1).filter((i) => Math.floor((now - i * MINUTE) / 3_600_000) * 3_600_000 === row["time"]);
            assert.ok(Math.abs(row["ac_power_w"]! - inHour.reduce((sum, i) => sum + i, 0) / inHour.length) < 1e-9);
            assert.equal(row["ac_energy_export_wh"], 10_000 - Math.min(...inHour));
        }
        const largest = await ask<Record<string, number>>({ format: "table", resolution: "hour", statistic: "max", devices: "inv1", points: "ac_power_w", window: "last 4 h" });
        assert.equal(Math.max(...largest.map((row) => row["ac_power_w"]!)), 120);
    });

    it("takes a window from the message, as ms or dates", async () => {
        await rig.load();
        fill();
        const from = now - 10 * MINUTE;
        for (const window of [{ from, to: now - 5 * MINUTE }, { from: new Date(from).toISOString(), to: new Date(now - 5 * MINUTE) }]) {
            assert.equal((await ask({ ...window, format: "table", resolution: "raw", devices: "inv1" })).length, 5);
        }
    });

    it("says what is wrong with a question", async () => {
        await rig.load();
        for (const query of [{ window: "some day" }, { from: "soon" }, { from: now, to: now - 1 }, { format: "pie" }, { devices: 5 }, { resolution: "second" }]) {
            const { error } = await rig.ask<{ error: { code: string } }>("query", { query }, "caught");
            assert.match(error.code, /^(QUERY|CONFIG)_INVALID$/, JSON.stringify(query));
        }
        const far = await rig.ask<{ error: { code: string } }>("query", { query: { from: 1e300, to: 2e300 } }, "caught");
        assert.equal(far.error.code, "CONFIG_INVALID");
        const { error } = await rig.ask<{ error: { message: string } }>("query", { query: { from: new Date(Number.NaN) } }, "caught");
        assert.match(error.message, /from must be ms since 1970 or an ISO date/);
        const long = await rig.ask<{ error: { message: string } }>("query", { query: { window: "x".repeat(1e6) } }, "caught");
        assert.ok(long.error.message.length < 300);
    });

    it("shows what is missing, and survives any settings", async () => {
        await rig.load({ query: { store: "" } });
        assert.equal((await rig.shows("query", /./)).text, "choose a store");
        await rig.unload();
        await rig.load({ query: { source: "influxdb" } });
        assert.equal((await rig.shows("query", /./)).text, "choose an influxdb");
        await rig.unload();
        const field = fc.oneof(fc.string(), fc.integer(), fc.constantFrom(undefined, null, "${NOT_SET}", {}, []));
        await fc.assert(
            fc.asyncProperty(fc.record({ source: field, window: field, what: field, points: field, devices: field, influxql: field, site: field }), async (def) => {
                try {
                    await rig.load({ query: def });
                } finally {
                    await rig.unload();
                }
            }),
            { numRuns: 20 },
        );
    });

    describe("window", () => {
        const at = (text: string): number => Date.parse(text);

        it("follows the local calendar, on days of 23 and 25 hours too", () => {
            const zone = "Europe/Berlin";
            const hours = (text: string, when: string): number => {
                const { from, to } = parseWindow(text, at(when), zone);
                return (to - from) / 3_600_000;
            };
            assert.deepEqual(parseWindow("today", at("2026-06-01T12:00:00Z"), zone), { from: at("2026-05-31T22:00:00Z"), to: at("2026-06-01T22:00:00Z") });
            assert.equal(hours("today", "2026-03-29T12:00:00Z"), 23);
            assert.equal(hours("today", "2026-10-25T12:00:00Z"), 25);
            assert.equal(hours("yesterday", "2026-10-26T12:00:00Z"), 25);
            assert.equal(hours("this week", "2026-10-20T12:00:00Z"), 7 * 24 + 1);
            assert.equal(hours("this month", "2026-03-10T12:00:00Z"), 31 * 24 - 1);
            assert.equal(hours("this year", "2026-03-10T12:00:00Z"), 365 * 24);
            assert.equal(hours("Last 24 h", "2026-03-10T12:00:00Z"), 24 + 1 / 3_600_000);
            assert.equal(hours("last 2 weeks", "2026-03-10T12:00:00Z"), 336 + 1 / 3_600_000);
        });

        it("gets a resolution that neither floods nor hides", () => {
            const fits = (text: string): string => fittingResolution(parseWindow(text, at("2026-10-25T12:00:00Z"), "Europe/Berlin"));
            assert.deepEqual(["last 30 min", "last 1 h", "today", "last 7 d", "this month", "this year"].map(fits), ["raw", "raw", "minute", "hour", "hour", "day"]);
        });
    });
});
