import assert from "node:assert/strict";
import fc from "fast-check";
import { createReading, type ReadingMessage } from "../../dist/common/reading.js";
import { LineEncoder } from "../../dist/store/line-protocol.js";
import { decodePercent, parseLine } from "./line-parser.js";

const NOW = Date.UTC(2026, 5, 1);

function reading(parts: Partial<ReadingMessage["reading"]>, values: Record<string, number | string>, timestamp = NOW): ReadingMessage {
    return createReading({ site: "home", device: "inv1", class: "inverter", seq: 1, quality: "good", ...parts }, timestamp, values);
}

/** Characters that break careless encoders, often; anything else of Unicode, sometimes. */
const nasty = fc.oneof(
    fc.string({ unit: fc.constantFrom("\\", ",", " ", "=", '"', "\n", "\r", "\t", "\0", "%", "0", "A", "5", "C", "#", "é", "\u2028", "😀"), minLength: 1, maxLength: 12 }),
    fc.string({ unit: "binary", minLength: 1, maxLength: 12 }),
);
const pointName = fc.stringMatching(/^[a-z][a-z0-9]{0,5}(_[a-z0-9]{1,4}){0,2}$/);
const value = fc.oneof(fc.double({ noNaN: true, noDefaultInfinity: true }), fc.integer(), nasty, fc.constant(""));

describe("line protocol encoder", () => {
    it("writes measurement, sorted tags, floats, texts and ms", () => {
        const line = new LineEncoder().encode(reading({ bad: { freq_hz: "comm" } }, { ac_power_w: 4210.5, ac_energy_export_wh: 812345, state: "MPPT" }));
        assert.equal(
            line,
            `inverter,device=inv1,site=home quality="good",ac_power_w=4210.5,ac_energy_export_wh=812345,state="MPPT",bad="freq_hz:comm" ${NOW}`,
        );
    });

    it("reads back as the same reading, whatever the names and texts hold", () => {
        const encoder = new LineEncoder();
        fc.assert(
            fc.property(nasty, nasty, nasty, fc.dictionary(pointName, value), fc.nat({ max: NOW }), (site, device, kind, values, timestamp) => {
                const parsed = parseLine(encoder.encode(reading({ site, device, class: kind }, values, timestamp)));
                assert.equal(decodePercent(parsed.measurement), Buffer.from(kind).toString());
                assert.deepEqual(Object.keys(parsed.tags), ["device", "site"]);
                assert.equal(decodePercent(parsed.tags["device"]!), Buffer.from(device).toString());
                assert.equal(decodePercent(parsed.tags["site"]!), Buffer.from(site).toString());
                assert.equal(parsed.timestamp, timestamp);
                const { quality, ...fields } = parsed.fields;
                assert.equal(quality, "good");
                const taken = new Set(["time", "site", "device", "quality", "bad", "simulated"]);
                const expected = Object.entries(values).map(([point, v]): [string, number | string] => [
                    taken.has(point) ? `${point}_` : point,
                    // The sign of zero is not a measurement.
                    typeof v === "number" ? v + 0 : Buffer.from(v).toString(),
                ]);
                const read = Object.entries(fields).map(([key, v]) => [key, typeof v === "string" ? decodePercent(v) : v]);
                assert.deepEqual(Object.fromEntries(read), Object.fromEntries(expected));
            }),
            { numRuns: 2000 },
        );
    });

    it("keeps two names apart that differ only in what line protocol cannot carry", () => {
        const encoder = new LineEncoder();
        fc.assert(
            fc.property(nasty, nasty, (a, b) => {
                fc.pre(Buffer.from(a).toString() !== Buffer.from(b).toString());
                const prefix = (device: string): string => encoder.encode(reading({ device }, {})).split(" quality=")[0]!;
                assert.notEqual(prefix(a), prefix(b));
            }),
            { numRuns: 2000 },
        );
    });

    it("leaves out what is not finite and marks an empty sample", () => {
        const message = reading({ quality: "bad" }, {});
        message.payload = { ac_power_w: NaN, ac_voltage_v: Infinity };
        assert.deepEqual(parseLine(new LineEncoder().encode(message)).fields, { quality: "bad" });
    });

    it("refuses names, texts and times that InfluxDB would not store", () => {
        const encoder = new LineEncoder();
        const refused = (message: ReadingMessage): void => {
            assert.throws(() => encoder.encode(message), { code: "READING_INVALID" });
        };
        refused(reading({ device: "x".repeat(2000) }, {}));
        refused(reading({}, { state: "é".repeat(40_000) }));
        refused(reading({}, {}, -1));
        refused(reading({}, {}, 9_300_000_000_000));
    });

    it("stays right when more devices come by than it remembers", () => {
        const encoder = new LineEncoder();
        for (let i = 0; i < 25_000; i += 1) {
            assert.ok(encoder.encode(reading({ device: `d${i}` }, {})).startsWith(`inverter,device=d${i},site=home `));
        }
    });
});
