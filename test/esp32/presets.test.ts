import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { WattError } from "../../dist/common/errors.js";
import { isPointName } from "../../dist/common/units.js";
import { guessPoint, pointWithUnit } from "../../dist/esp32/names.js";
import { BROKER } from "../../dist/esp32/keys.js";
import { parseMapping, valueAt } from "../../dist/esp32/mapping.js";
import type { Arrival, Decoded, Preset, PresetOptions } from "../../dist/esp32/preset.js";
import { PRESETS } from "../../dist/esp32/presets.js";
import { matches } from "../../dist/mqtt/topics.js";
import { parseNumber, parseTime, textOf, times } from "../../dist/esp32/values.js";
import { IngestRig } from "./rig.js";

/** Sat 2026-11-21 17:20:00 UTC */
const NOW = 1795281600000;
const fixtures = path.join(__dirname, "../../test/fixtures/esp32");

interface Golden {
    /** The trap, in a sentence. */
    about: string;
    options?: Partial<PresetOptions> & { mapping?: unknown };
    /** In the order they come; `expect` is what each gives, or the code of the error. */
    steps: { topic?: string; query?: Record<string, string>; body?: unknown; retained?: boolean; device?: string; at?: number; expect: Decoded[] | string }[];
    /** What the source asks to subscribe to. */
    topics?: string[];
}

function optionsOf({ options = {} }: Pick<Golden, "options">, onTopic?: (topic: string) => void): PresetOptions {
    const { mapping, ...rest } = options;
    return { prefix: "", zone: "UTC", ...rest, ...(mapping !== undefined && { mapping: parseMapping(mapping) }), ...(onTopic && { onTopic }) };
}

function arrivalOf({ topic, query, body = "", retained = false, device, at = NOW }: Golden["steps"][number]): Arrival {
    const bytes = Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
    const isHttp = query !== undefined || topic === undefined;
    return { via: isHttp ? "http" : "mqtt", ...(topic !== undefined && { topic }), ...(query && { query }), ...(device !== undefined && { device }), body: bytes, retained, at };
}

function presetOf(id: string): Preset {
    const preset = PRESETS.find((candidate) => candidate.id === id);
    assert.ok(preset, id);
    return preset;
}

describe("the presets of ESP32 sources", () => {
    it("have golden payloads, every one of them", () => {
        assert.deepEqual(readdirSync(fixtures).toSorted(), PRESETS.map(({ id }) => id).toSorted());
    });

    for (const { id } of PRESETS) {
        describe(id, () => {
            const files = readdirSync(path.join(fixtures, id));
            it("have some", () => assert.ok(files.length > 0));
            for (const file of files) {
                const golden = JSON.parse(readFileSync(path.join(fixtures, id, file), "utf8")) as Golden;
                it(`${file.replace(/\.json$/, "")}: ${golden.about}`, () => {
                    const preset = presetOf(id);
                    const announced: string[] = [];
                    const options = optionsOf(golden, (topic) => announced.push(topic));
                    const decoder = preset.createDecoder(options);
                    for (const [i, step] of golden.steps.entries()) {
                        const arrival = arrivalOf(step);
                        if (arrival.via === "mqtt") {
                            const filters = [...preset.topics(options), ...announced];
                            const isTaken = filters.some((filter) => matches(filter, arrival.topic!));
                            assert.equal(isTaken, step.expect !== "UNSUBSCRIBED", `step ${i}: ${arrival.topic} among ${filters.join(" ")}`);
                            if (!isTaken) continue;
                        }
                        if (typeof step.expect === "string") assert.throws(() => decoder.decode(arrival), { code: step.expect }, `step ${i}`);
                        else assert.deepEqual(decoder.decode(arrival), step.expect, `step ${i}`);
                    }
                    if (golden.topics) assert.deepEqual(announced, golden.topics);
                });
            }
        });
    }

    it("give the ingest what it takes", async () => {
        const rig = new IngestRig();
        await rig.open();
        try {
            // Our own fixtures repeat their numbers.
            for (const preset of PRESETS.filter(({ id }) => id !== "native")) {
                for (const file of readdirSync(path.join(fixtures, preset.id))) {
                    const golden = JSON.parse(readFileSync(path.join(fixtures, preset.id, file), "utf8")) as Golden;
                    const decoder = preset.createDecoder(optionsOf(golden));
                    for (const [i, step] of golden.steps.entries()) {
                        if (typeof step.expect === "string") continue;
                        const { accepted, stale } = await rig.ingest.take(decoder, arrivalOf(step), BROKER).catch((error: unknown) => assert.fail(`${preset.id}/${file} step ${i}: ${String(error)}`));
                        const samples = step.expect.flatMap((decoded) => decoded.samples);
                        const isDated = samples.some(({ ts, stale: isOld }) => ts !== undefined || !isOld);
                        assert.deepEqual([accepted > 0, stale > 0], [isDated, samples.length > 0 && !isDated], `${preset.id}/${file} step ${i}`);
                    }
                }
            }
        } finally {
            await rig.close();
        }
    });

    it("subscribe to nothing that devices take orders from", () => {
        const orders = ["solar/114172801234/cmd/limit_persistent_relative", "solar/1/cmd/power", "inverter/ctrl/limit/0", "inverter/ctrl/power/0", "cmnd/plug/Power", "plug/cmnd/Power", "stat/plug/RESULT", "node/switch/relay/command", "shellyplus1-a/rpc", "shellyplus1-a/command/switch:0", "shellyplus1-a/command", "emon/openevse/rapi/in/$FP", "homeassistant/switch/a/config", "homeassistant/number/a/b/config", "x/set"];
        for (const preset of PRESETS.filter(({ id }) => id !== "mapping")) {
            const filters = preset.topics({ prefix: "", zone: "UTC" });
            assert.ok(filters.length > 0, preset.id);
            for (const filter of filters) assert.ok(!filter.startsWith("/") && !filter.includes("#"), filter);
            for (const order of orders) assert.ok(!filters.some((filter) => matches(filter, order)), `${preset.id} takes ${order}`);
            for (const filter of preset.topics({ prefix: "home/pv", zone: "UTC" })) assert.ok(filter.startsWith("home/"), `${preset.id}: ${filter}`);
        }
    });
});

describe("any message to a preset", () => {
    const segment = fc.oneof(fc.string({ maxLength: 8 }), fc.constantFrom("solar", "0", "1", "status", "inverter", "ch0", "tele", "plug", "SENSOR", "sensor", "state", "events", "rpc", "switch:0", "em:0", "emon", "homeassistant", "config", "esp32", "data", "plant", "power", "YieldTotal", "__proto__", "constructor"));
    const key = fc.constantFrom("ENERGY", "Total", "Power", "Time", "SML", "Total_in", "params", "method", "switch:0", "em:0", "emdata:0", "aenergy", "ret_aenergy", "total", "inverters", "serial", "AC", "DC", "0", "v", "u", "data", "node", "stat_t", "unit_of_meas", "dev", "ids", "val_tpl", "power", "energy", "time", "ts", "__proto__", "constructor", "toString", "a", "");
    const scalar = fc.oneof(fc.double(), fc.string({ maxLength: 12 }), fc.constantFrom(null, true, "nan", "1e999", "-0", "12.5", "kWh", "W", "{{ value_json.a }}", "NotifyStatus", 1e308, -1, 0), fc.integer());
    const { json } = fc.letrec((tie) => ({
        json: fc.oneof({ maxDepth: 6, withCrossShrink: true }, scalar, fc.array(tie("json"), { maxLength: 4 }), fc.dictionary(key, tie("json"), { maxKeys: 5 })),
    }));
    const body = fc.oneof(json.map((value) => Buffer.from(JSON.stringify(value))), fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)), scalar.map((value) => Buffer.from(String(value))));
    const query = fc.dictionary(fc.constantFrom("node", "device", "data", "json", "fulljson", "csv", "sentat", "offset", "time", "cb"), fc.oneof(fc.string({ maxLength: 20 }), json.map((value) => JSON.stringify(value)), fc.constant("1")), { maxKeys: 4 });
    const arrival: fc.Arbitrary<Arrival> = fc
        .record({ via: fc.constantFrom("http" as const, "mqtt" as const), levels: fc.array(segment, { minLength: 1, maxLength: 5 }), query, body, retained: fc.boolean() })
        .map(({ levels, ...rest }) => ({ ...rest, topic: levels.join("/"), at: NOW }));
    const mapping = parseMapping([{ topic: "plant/+/power", point: "ac_power_w" }, { path: "a[0]", point: "dc_power_w", unit: "kW" }, { path: "power", point: "ac_power_w" }]);

    for (const preset of PRESETS) {
        it(`${preset.id}: gives readings' points and finite values, or says PAYLOAD_INVALID`, () => {
            const decoder = preset.createDecoder({ prefix: "", zone: "Africa/Casablanca", mapping });
            fc.assert(
                fc.property(arrival, (message) => {
                    let decoded: Decoded[] = [];
                    try {
                        decoded = decoder.decode(message);
                    } catch (error) {
                        assert.ok(error instanceof WattError && error.code === "PAYLOAD_INVALID", String(error));
                    }
                    for (const { device, samples } of decoded) {
                        assert.match(device, /^[^/+#]{1,64}$/u);
                        for (const sample of samples) check(sample, message);
                    }
                }),
                { numRuns: 1500 },
            );
        });
    }

    function check(sample: Decoded["samples"][number], { retained }: Arrival): void {
        assert.match(sample.device, /^[^/+#]{1,64}$/u);
        assert.equal(sample.stale ?? false, retained);
        for (const [point, value] of Object.entries(sample.values)) {
            assert.ok(isPointName(point), point);
            assert.ok(typeof value === "string" || Number.isFinite(value), `${point} ${value}`);
        }
        for (const [point, reason] of Object.entries(sample.bad ?? {})) assert.ok(isPointName(point) && reason !== undefined);
        assert.ok(sample.ts === undefined || Number.isSafeInteger(sample.ts));
        assert.ok(sample.ageMs === undefined || (Number.isFinite(sample.ageMs) && sample.ageMs >= 0));
    }

    it("remembers a limited number of sensors for one topic", () => {
        const discovery = presetOf("ha-discovery").createDecoder({ prefix: "", zone: "UTC" });
        const announce = (i: number, name = `Power ${i}`) => {
            const config = Buffer.from(name && JSON.stringify({ name, stat_t: "all/state", unit_of_meas: "W", dev: { ids: `d${i}` } }));
            return discovery.decode({ via: "mqtt", topic: `homeassistant/sensor/d${i}/config`, body: config, retained: true, at: NOW });
        };
        for (let i = 0; i < 200; i++) announce(i);
        for (let i = 200; i < 5000; i++) assert.throws(() => announce(i), { code: "PAYLOAD_INVALID" });
        const devices = () => discovery.decode({ via: "mqtt", topic: "all/state", body: Buffer.from("5"), retained: false, at: NOW }).map(({ device }) => device);
        assert.equal(devices().length, 200);
        // One that goes, or announces itself again, makes room for itself or another.
        announce(7, "");
        announce(300);
        announce(8);
        assert.throws(() => announce(301), { code: "PAYLOAD_INVALID" });
        assert.deepEqual([devices().length, devices().includes("d7"), devices().includes("d300"), devices().includes("d8")], [200, false, true, true]);
    });

    it("fills no memory with names: what is remembered is bounded", () => {
        const [opendtu, shelly, discovery] = ["opendtu", "shelly", "ha-discovery"].map((id) => presetOf(id).createDecoder({ prefix: "", zone: "UTC" }));
        setFlagsFromString("--expose-gc");
        const collectGarbage = runInNewContext("gc") as () => void;
        collectGarbage();
        const before = process.memoryUsage().heapUsed;
        for (let i = 0; i < 5000; i++) {
            const at = { retained: false, at: NOW, via: "mqtt" as const };
            opendtu!.decode({ ...at, topic: `solar/${i}/status/last_update`, body: Buffer.from("1795281600") });
            shelly!.decode({ ...at, topic: `d${i}/status/switch:0`, body: Buffer.from(JSON.stringify({ aenergy: { total: i, pad: "x".repeat(500) }, pad: "x".repeat(500) })) });
            discovery!.decode({ ...at, topic: `homeassistant/sensor/d${i}/config`, body: Buffer.from(JSON.stringify({ name: "Power", stat_t: `d${i}/power`, unit_of_meas: "W", dev: { ids: `d${i}` } })) });
        }
        collectGarbage();
        // More than twice what is remembered was sent.
        assert.ok(process.memoryUsage().heapUsed - before < 5e6);
    });
});

describe("what presets share", () => {
    it("reads numbers as devices write them, and none where there is none", () => {
        for (const [raw, value] of [["42.0", 42], [" -1.5e3 ", -1500], [".5", 0.5], ["nan", undefined], ["NaN", undefined], ["unavailable", undefined], ["unknown", undefined], ["n/a", undefined], ["", undefined], [null, undefined], ["0x10", "decode"], ["1,5", "decode"], ["1e999", "decode"], [true, "decode"], [{}, "decode"], [[1], "decode"], ["12 W", "decode"]] as const) {
            assert.equal(parseNumber(raw), value, JSON.stringify(raw));
        }
    });

    it("reads a long text in a time by its length, not by its square", () => {
        const most = 1_000_000;
        assert.equal(parseNumber(`${"1".repeat(most)}x`), "decode");
        assert.equal(textOf({ body: Buffer.from(`${"\0".repeat(most)}x`) }).length, most + 1);
        assert.equal(textOf({ body: Buffer.from(` 5\0\0`) }), "5");
    });

    it("makes Wh of kWh without dust", () => {
        fc.assert(
            fc.property(fc.integer({ min: 0, max: 2 ** 45 }), (wh) => {
                assert.equal(times(Number((wh / 1000).toFixed(3)), 1000), wh);
            }),
        );
    });

    it("reads a time without a zone in the site's, and the hour that comes twice as the nearer one", () => {
        // Summer time ends in Berlin at 2026-10-25 01:00 UTC: 02:30 is at 00:30 UTC and again at 01:30 UTC.
        const [first, second] = [Date.UTC(2026, 9, 25, 0, 30), Date.UTC(2026, 9, 25, 1, 30)];
        assert.equal(parseTime("2026-10-25T02:30:00", "Europe/Berlin", first + 2000), first);
        assert.equal(parseTime("2026-10-25T02:30:00", "Europe/Berlin", second + 2000), second);
        assert.equal(parseTime("2026-10-25T02:30:00+02:00", "Europe/Berlin", second), first);
        assert.equal(parseTime("1970-01-01T00:01:23", "UTC", NOW), 83_000);
        assert.equal(parseTime("2025-01-20T3:5:7.000Z", "UTC", NOW), undefined);
        fc.assert(fc.property(fc.string(), (text) => assert.ok(Number.isSafeInteger(parseTime(text, "UTC", NOW) ?? 0))));
    });

    it("takes a unit from a name only where it leaves no doubt", () => {
        assert.deepEqual(guessPoint("Solar Power"), { point: "solar_power_w", factor: 1 });
        assert.deepEqual(guessPoint("total_kwh"), { point: "total_wh", factor: 1000 });
        assert.deepEqual(guessPoint("power2"), { point: "power2_w", factor: 1 });
        assert.deepEqual(guessPoint("ac_energy_export_wh"), { point: "ac_energy_export_wh", factor: 1 });
        for (const name of ["energy", "total_daily_energy", "counter", "x", "", "123", "powerful", "constructor"]) assert.equal(guessPoint(name), undefined, name);
        assert.deepEqual(pointWithUnit("Energy Export", "kWh"), { point: "energy_export_wh", factor: 1000 });
        assert.deepEqual(pointWithUnit("Power (kW)", "kW"), { point: "power_w", factor: 1000 });
        assert.deepEqual(pointWithUnit("AC Power", "VA"), { point: "ac_power_va", factor: 1 });
        assert.equal(pointWithUnit("Signal", "dBm"), undefined);
    });

    it("finds what a path names, and only what is there itself", () => {
        const json = { a: { b: [{ c: 1 }] }, "x.y": 2, "p q": { r: 3 } };
        assert.deepEqual(["a.b[0].c", "['a']['b'][0]['c']", "x.y", "['p q'].r"].map((at) => valueAt(json, at)), [1, 1, 2, 3]);
        for (const at of ["a.b.c", "constructor", "__proto__", "a.toString", "a.b[1]", "a.b.length"]) assert.equal(valueAt(json, at), undefined, at);
    });

    it("says which entry of a mapping is wrong, and why", () => {
        for (const [mapping, message] of [
            ["{", /no JSON/],
            [[], /at least one point/],
            [[{ point: "ac_power_w" }], /points\.0.*path or a topic/],
            [[{ path: "a", point: "Power" }], /points\.0\.point.*snake_case/],
            [[{ path: "a", point: "power" }], /ends in its unit/],
            [[{ path: "a", point: "ac_power_w", unit: "kWh" }], /unit that is not one/],
            [[{ topic: "a/#", point: "ac_power_w" }], /topic.*#/],
            [[{ path: "a", point: "ac_power_w", scale: 0 }], /scale/],
        ] as const) {
            assert.throws(() => parseMapping(mapping), { code: "CONFIG_INVALID", message }, JSON.stringify(mapping));
        }
    });
});
