import assert from "node:assert/strict";
import fc from "fast-check";
import { createReading, parseReading, type ReadingMeta } from "../../dist/common/reading.js";

const meta: ReadingMeta = { site: "home", device: "inverter-1", class: "inverter", seq: 7, quality: "good" };
const now = Date.UTC(2026, 5, 1);

describe("a reading", () => {
    it("carries topic, values, time and what is known of the sample", () => {
        assert.deepEqual(createReading(meta, now, { ac_power_w: 4210.5, state: "MPPT" }), {
            topic: "home/inverter-1",
            payload: { ac_power_w: 4210.5, state: "MPPT" },
            timestamp: now,
            reading: meta,
        });
    });

    it("leaves out what was not measured, never as 0, and says why", () => {
        const bad = { dc_voltage_v: "missing", ac_current_a: "range" } as const;
        const { payload, reading } = createReading({ ...meta, bad }, now, {
            ac_power_w: NaN,
            ac_current_a: Infinity,
            dc_voltage_v: undefined,
            ac_frequency_hz: 0,
        });
        assert.deepEqual(payload, { ac_frequency_hz: 0 });
        assert.deepEqual(reading.bad, { dc_voltage_v: "missing", ac_current_a: "range", ac_power_w: "decode" });
    });

    it("keeps its meta apart from the caller's", () => {
        const given = { ...meta, bad: { ac_power_w: "comm" as const } };
        createReading(given, now, { dc_power_w: NaN });
        assert.deepEqual(given.bad, { ac_power_w: "comm" });
    });

    it("that was built is taken as it is, whatever the values", () => {
        const point = fc.stringMatching(/^[a-z][a-z0-9]{0,5}_w$/);
        const value = fc.oneof(fc.double(), fc.string(), fc.constant(undefined));
        fc.assert(
            fc.property(fc.dictionary(point, value), (values) => {
                const message = createReading(meta, now, values);
                const copy = structuredClone(message);
                assert.equal(parseReading(message, 0), message);
                assert.deepEqual(message, copy);
                assert.ok(Object.values(message.payload).every((v) => typeof v === "string" || Number.isFinite(v)));
            }),
        );
    });
});

describe("a message of another flow", () => {
    it("needs only a topic and an object of points", () => {
        const msg = { topic: "home/heat-pump", payload: { ac_power_w: 800 }, _msgid: "x", extra: { kept: true } };
        const reading = parseReading(msg, now);
        assert.equal(reading, msg);
        assert.deepEqual(reading, {
            topic: "home/heat-pump",
            payload: { ac_power_w: 800 },
            timestamp: now,
            reading: { site: "home", device: "heat-pump", class: "generic", seq: 0, quality: "good" },
            _msgid: "x",
            extra: { kept: true },
        });
    });

    it("may name site, device and class instead, and its own time", () => {
        const msg = { topic: "", payload: { soc_pct: 55 }, timestamp: 5, reading: { site: "home", device: "battery", class: "battery" } };
        const { topic, timestamp, reading } = parseReading(msg, now);
        assert.equal(topic, "home/battery");
        assert.equal(timestamp, 5);
        assert.deepEqual(reading, { site: "home", device: "battery", class: "battery", seq: 0, quality: "good" });
    });

    it("may share a reading that it has frozen", () => {
        const shared = Object.freeze({ site: "home", device: "battery", class: "battery" });
        const { reading } = parseReading({ payload: { soc_pct: 55 }, reading: shared }, now);
        assert.deepEqual(reading, { ...shared, seq: 0, quality: "good" });
    });

    const cases: [string, unknown, RegExp][] = [
        ["no object", "on", /message is not an object/],
        ["null", null, /message is not an object/],
        ["no payload", { topic: "a/b" }, /msg\.payload must be an object/],
        ["a number as payload", { topic: "a/b", payload: 5 }, /msg\.payload must be an object/],
        ["an array as payload", { topic: "a/b", payload: [1] }, /msg\.payload must be an object/],
        ["bytes as payload", { topic: "a/b", payload: Buffer.from("x") }, /msg\.payload must be an object/],
        ["no topic", { payload: {} }, /msg\.topic must be "<site>\/<device>"/],
        ["a topic without a device", { topic: "a", payload: {} }, /msg\.topic must be/],
        ["a topic with three parts", { topic: "a/b/c", payload: {} }, /msg\.topic must be/],
        ["a topic that is a number", { topic: 5, payload: {} }, /msg\.topic must be/],
        ["a point name with capitals", { topic: "a/b", payload: { AcPower: 1 } }, /point name "AcPower" must be snake_case/],
        ["a value that is null", { topic: "a/b", payload: { ac_power_w: null } }, /point ac_power_w must be a finite number or a text/],
        ["a value that is NaN", { topic: "a/b", payload: { ac_power_w: NaN } }, /point ac_power_w must be a finite number/],
        ["a value that is an object", { topic: "a/b", payload: { ac_power_w: {} } }, /point ac_power_w must be a finite number/],
        ["a reading that is no object", { payload: {}, reading: "x" }, /msg\.reading\.site must be/],
        ["an empty device", { payload: {}, reading: { ...meta, device: "" } }, /msg\.reading\.device must be/],
        ["an unknown quality", { payload: {}, reading: { ...meta, quality: "ok" } }, /msg\.reading\.quality must be one of good, uncertain, bad/],
        ["reasons that are no texts", { payload: {}, reading: { ...meta, bad: { ac_power_w: Object.create(null) as unknown } } }, /msg\.reading\.bad must name a reason/],
        ["a reason without a point", { payload: {}, reading: { ...meta, bad: "comm" } }, /msg\.reading\.bad must name a reason/],
        ["a point name without end", { topic: "a/b", payload: { ["X".repeat(1e6)]: 1 } }, /^Not a reading: point name "X{50}" must/],
        ["a time in seconds with a fraction", { topic: "a/b", payload: {}, timestamp: 1.5 }, /msg\.timestamp must be whole milliseconds/],
        ["a time as text", { topic: "a/b", payload: {}, timestamp: "2026-06-01" }, /msg\.timestamp must be whole milliseconds/],
    ];
    for (const [name, msg, message] of cases) {
        it(`with ${name} is refused in plain words`, () => {
            assert.throws(() => parseReading(msg, now), { code: "READING_INVALID", message });
        });
    }

    it("of any content is taken or refused, nothing else", () => {
        const anything = fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true, withTypedArray: true });
        const messages = fc.oneof(
            anything,
            fc.record({ topic: fc.oneof(fc.constant("a/b"), anything), payload: anything, timestamp: anything, reading: anything }, { requiredKeys: [] }),
        );
        fc.assert(
            fc.property(messages, (msg) => {
                try {
                    const { payload, timestamp, reading } = parseReading(msg, now);
                    assert.ok(Object.values(payload).every((value) => typeof value === "string" || Number.isFinite(value)));
                    assert.ok(Number.isSafeInteger(timestamp) && reading.site !== "" && reading.device !== "");
                } catch (error) {
                    assert.equal((error as { code?: string }).code, "READING_INVALID");
                }
            }),
            { numRuns: 1000 },
        );
    });
});
