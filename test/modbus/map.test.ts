import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import YAML from "yaml";
import { emptySample, type Sample } from "../../dist/common/sample.js";
import { PointMapError, PointMaps } from "../../dist/common/pointmaps.js";
import { MapDecoder } from "../../dist/modbus/map-decoder.js";
import { applyFactor, factorOf } from "../../dist/modbus/map-values.js";
import { type ModbusMap, parseModbusMap } from "../../dist/modbus/map.js";
import { planReads } from "../../dist/modbus/plan.js";
import { planOptionsOf } from "../../dist/modbus/read-groups.js";
import { ModbusError } from "../../dist/modbus/transport.js";
import { answersOf } from "./answers.js";

const HEAD = `schema: pointmap/1
id: test
class: meter
vendor: Test
models: [test]
source: {doc: test, verified: document, date: 2026-11-21}
protocol: modbus
`;

/** A map of these points; `rest` are further keys, such as defaults. */
function mapOf(points: string | Record<string, string>, rest = "defaults: {table: holding}\n"): ModbusMap {
    return parseModbusMap(textOf(points, rest), "test.yaml");
}

function textOf(points: string | Record<string, string>, rest: string): string {
    const rows = typeof points === "string" ? points : Object.entries(points).map(([name, def]) => `  ${name}: {${def}}\n`).join("");
    return `${HEAD}${rest}points:\n${rows}`;
}

/** What one point makes of these bytes. */
function decodeOne(point: string, def: string, hex: string, rest?: string): Sample {
    const map = mapOf({ [point]: def }, rest);
    const into = emptySample();
    map.points[0]!.decode(Buffer.from(hex.replaceAll(" ", ""), "hex"), into);
    return into;
}

const valueOf = (point: string, def: string, hex: string, rest?: string) => {
    const { values, counters, bad } = decodeOne(point, def, hex, rest);
    return values[point] ?? counters[point]?.wh ?? bad[point];
};

describe("a point of a modbus map", () => {
    describe("decodes each type", () => {
        const CASES: [string, string, string, number | string][] = [
            ["x_v", "address: 0, type: int16", "FFFE", -2],
            ["x_v", "address: 0, type: uint16", "1388", 5000],
            ["x_w", "address: 0, type: int32, sign: import_positive", "FFFFFFFE", -2],
            ["x_w", "address: 0, type: uint32", "0001E240", 123456],
            ["x_ah", "address: 0, type: int64", "FFFFFFFFFFFFFFFE", -2],
            ["x_ah", "address: 0, type: uint64", "0000000100000001", 4294967297],
            ["x_v", "address: 0, type: float32", "43668000", 230.5],
            ["x_v", "address: 0, type: float64", "406CD00000000000", 230.5],
            ["x_v", "address: 0, type: float32", "7FBFFF80", "missing"],
            ["x_v", "address: 0, type: float32", "7F800000", "decode"],
            ["x_ah", "address: 0, type: acc32", "00000000", "missing"],
            ["x_ah", "address: 0, type: acc16", "0001", 1],
            ["x_ah", "address: 0, type: bcd(2)", "00123456", 123456],
            ["x_ah", "address: 0, type: bcd(2)", "0012345A", "decode"],
            ["x_ah", "address: 0, type: bcd(1)", "FFFF", "missing"],
            ["name", "address: 0, type: string(4)", "53554E32 30303000", "SUN2000"],
            ["name", "address: 0, type: string(2)", "00000000", "missing"],
            ["name", "address: 0, type: string(2)", "4DFC6C20", "Mül"],
            ["name", "address: 0, type: string(2), byte_order: BADC", "55534E32", "SU2N"],
            ["clock", "address: 0, type: datetime(2)", "6AFFB100", "2026-11-20T02:31:28Z"],
            ["clock", "address: 0, type: datetime(6)", "001A 000B 0015 000E 0007 0022", "2026-11-21T14:07:34"],
            ["clock", "address: 0, type: datetime(3)", "1A0B 150E 0722", "2026-11-21T14:07:34"],
            ["clock", "address: 0, type: datetime(3)", "1A0D 150E 0722", "decode"],
            ["clock", "address: 0, type: datetime(6)", "001A 0002 001E 000E 0007 0022", "decode"],
            ["clock", "address: 0, type: datetime(6)", "0000 0000 0000 0000 0000 0000", "missing"],
            ["state", "address: 0, type: uint16, enum: {0: idle, 1: running}", "0001", "running"],
            ["state", "address: 0, type: uint16, enum: {0: idle}", "0007", "7"],
            ["alarms", "address: 0, type: uint16, bits: {0: hot, 15: old}", "8003", "hot,bit1,old"],
            ["alarms", "address: 0, type: uint64, bits: {63: last}", "8000000000000001", "bit0,last"],
            ["alarms", "address: 0, type: uint16, bits: {0: hot}", "0000", ""],
            ["code", "address: 0, type: uint32, kind: state", "00010000", "65536"],
            ["relay", "address: 0, type: bit, table: coil", "01", "on"],
            ["relay", "address: 0, type: bit, table: coil, enum: {0: open, 1: closed}", "00", "open"],
        ];
        for (const [point, def, hex, expected] of CASES) it(`${def} from ${hex}`, () => assert.equal(valueOf(point, def, hex), expected));

        it("in every byte order", () => {
            const orders: [string, string, string][] = [
                ["ABCD", "01020304", "0102030405060708"],
                ["CDAB", "03040102", "0708050603040102"],
                ["BADC", "02010403", "0201040306050807"],
                ["DCBA", "04030201", "0807060504030201"],
            ];
            for (const [order, four, eight] of orders) {
                assert.equal(valueOf("x_ah", `address: 0, type: uint32, byte_order: ${order}`, four), 0x01020304);
                assert.equal(valueOf("x_ah", `address: 0, type: uint64, byte_order: ${order}`, eight, "defaults: {table: input}\n"), "overflow");
                assert.equal(valueOf("x_ah", `address: 0, type: uint64, byte_order: ${order}, scale: 0.001`, eight), 72623859790382.86);
            }
        });

        it("and raw values at random as written by another encoder", () => {
            const write: Record<string, [number, (buffer: Buffer, raw: bigint) => void]> = {
                int16: [2, (b, v) => b.writeInt16BE(Number(BigInt.asIntN(16, v)))],
                uint16: [2, (b, v) => b.writeUInt16BE(Number(BigInt.asUintN(16, v)))],
                int32: [4, (b, v) => b.writeInt32BE(Number(BigInt.asIntN(32, v)))],
                uint32: [4, (b, v) => b.writeUInt32BE(Number(BigInt.asUintN(32, v)))],
                int64: [8, (b, v) => b.writeBigInt64BE(BigInt.asIntN(64, v))],
                uint64: [8, (b, v) => b.writeBigUInt64BE(BigInt.asUintN(64, v))],
            };
            const maps = new Map(Object.keys(write).flatMap((type) => [0, 1, 2, 3, 4].map((digits) => [`${type}${digits}`, mapOf({ x_ah: `address: 0, type: ${type}, scale: ${Number(`1e-${digits}`)}` })])));
            fc.assert(
                fc.property(fc.constantFrom(...Object.keys(write)), fc.integer({ min: 0, max: 4 }), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n }), (type, digits, raw) => {
                    const [size, put] = write[type]!;
                    const data = Buffer.alloc(size);
                    put(data, raw);
                    const bits = size * 8;
                    const exact = type.startsWith("int") ? BigInt.asIntN(bits, raw) : BigInt.asUintN(bits, raw);
                    const expected = Number(`${exact}e-${digits}`);
                    const into = emptySample();
                    maps.get(`${type}${digits}`)!.points[0]!.decode(data, into);
                    const wanted = Number.isInteger(expected) && !Number.isSafeInteger(expected) ? "overflow" : expected;
                    assert.equal(into.values["x_ah"] ?? into.bad["x_ah"], wanted);
                }),
                { numRuns: 2000 },
            );
        });
    });

    it("scales to the nearest double of the exact decimal, whatever the factors", () => {
        fc.assert(
            fc.property(fc.integer({ min: -(2 ** 31), max: 2 ** 31 }), fc.integer({ min: 1, max: 9999 }), fc.integer({ min: -6, max: 6 }), (raw, whole, exponent) => {
                const exact = BigInt(raw) * BigInt(whole);
                assert.equal(applyFactor(raw, factorOf(Number(`${whole}e${exponent}`))), Number(`${exact}e${exponent}`));
            }),
            { numRuns: 2000 },
        );
    });

    it("converts units by the end of its name", () => {
        assert.equal(valueOf("x_wh", "address: 0, type: uint32, unit: kWh, scale: 0.1", "00000007"), 700);
        assert.equal(valueOf("x_a", "address: 0, type: uint16, unit: mA", "04D2"), 1.234);
        assert.equal(valueOf("power_factor_ratio", "address: 0, type: int16, unit: '%', scale: 0.1", "FC4A"), -0.95);
        assert.equal(valueOf("pressure_pa", "address: 0, type: uint16, unit: hPa, scale: 0.1", "2794"), 101320);
        assert.equal(valueOf("x_c", "address: 0, type: uint16, unit: °C, scale: 0.1, offset: -25", "0160"), 10.2);
        assert.equal(valueOf("x_w", "address: 0, type: int16, unit: kW, scale: 0.01, offset: 1, sign: export_positive", "0064"), -2000);
    });

    it("turns every sign into ours", () => {
        for (const [sign, ours] of Object.entries({ import: 1, export: -1, discharge: 1, charge: -1, generation: 1, consumption: -1 })) {
            assert.equal(valueOf("x_power_w", `address: 0, type: int16, sign: ${sign}_positive`, "000A"), ours * 10);
            assert.equal(valueOf("x_power_w", `address: 0, type: int16, sign: ${sign}_positive, valid: [-5, 20]`, "FFF6"), "range");
            assert.equal(valueOf("x_power_w", `address: 0, type: int16, sign: ${sign}_positive, valid: [-5, 20]`, "000A"), ours * 10);
            assert(Object.is(valueOf("x_power_w", `address: 0, type: int16, sign: ${sign}_positive`, "0000"), 0));
        }
    });

    it("counts what a load consumes as positive", () => {
        for (const [sign, ours] of Object.entries({ consumption: 10, generation: -10 })) assert.equal(valueOf("load_power_w", `address: 0, type: int16, sign: ${sign}_positive`, "000A"), ours);
    });

    it("takes the sign from another register where its own says nothing", () => {
        const map = mapOf({ dc_power_w: "address: 0, type: int16, sign: discharge_positive, direction: {register: 1, negative: [0, 2]}" }, "defaults: {table: holding, atomic: [[0, 1]]}\n");
        for (const [hex, expected] of [["000A0000", -10], ["000A0001", 10], ["FFF60002", -10], ["FFF60001", 10]] as const) {
            const into = emptySample();
            map.points[0]!.decode(Buffer.from(hex, "hex"), into);
            assert.equal(into.values["dc_power_w"], expected);
        }
    });

    it("has no value where a sentinel stands", () => {
        const is = (type: string, invalid: string, hex: string) => valueOf("x_ah", `address: 0, type: ${type}, invalid: [${invalid}]`, hex);
        assert.equal(is("int16", "max", "7FFF"), "missing");
        assert.equal(is("int16", "min", "8000"), "missing");
        assert.equal(is("int16", "max", "8000"), -32768);
        assert.equal(is("int16", "0xD8F1", "D8F1"), "missing");
        assert.equal(is("int16", "-9999", "D8F1"), "missing");
        assert.equal(is("uint16", "max", "FFFF"), "missing");
        assert.equal(is("uint32", "max", "FFFFFFFF"), "missing");
        assert.equal(is("int32", "min", "80000000"), "missing");
        assert.equal(is("uint64", "max", "FFFFFFFFFFFFFFFF"), "missing");
        assert.equal(is("int64", "min", "8000000000000000"), "missing");
        assert.equal(is("float32", "0", "00000000"), "missing");
        assert.equal(valueOf("state", "address: 0, type: uint16, enum: {1: on}, invalid: [max]", "FFFF"), "missing");
    });

    it("is out of range beyond what is valid, and beyond what is possible", () => {
        assert.equal(valueOf("x_hz", "address: 0, type: uint16, scale: 0.01, valid: [[0, 0], [45, 66]]", "0000"), 0);
        assert.equal(valueOf("x_hz", "address: 0, type: uint16, scale: 0.01, valid: [[0, 0], [45, 66]]", "1388"), 50);
        assert.equal(valueOf("x_hz", "address: 0, type: uint16, scale: 0.01, valid: [[0, 0], [45, 66]]", "07D0"), "range");
        assert.equal(valueOf("soc_pct", "address: 0, type: uint16", "03E8"), "range");
    });

    it("is scaled by the register of the same answer, and bad without a scale", () => {
        const rest = "defaults: {table: holding, atomic: [[4, 5]]}\n";
        for (const [rule, hex, expected] of [
            ["divide_pow10", "000103E5", 99.7],
            ["divide_pow10", "FFFF0064", 1000],
            ["multiply_pow10", "FFFF03E5", 99.7],
            ["multiply_pow10", "000803E5", "range"],
            ["multiply_pow10", "800003E5", "sf"],
            ["multiply_pow10", "000B03E5", "sf"],
        ] as const) {
            assert.equal(valueOf("irradiance_ghi_w_m2", `address: 5, type: int16, scale: {register: 4, rule: ${rule}}`, hex, rest), expected);
        }
    });

    it("is a counter with its modulus, in Wh", () => {
        assert.deepEqual(decodeOne("ac_energy_import_wh", "address: 0, type: uint32, unit: kWh, scale: 0.1", "000003E8").counters, {
            ac_energy_import_wh: { wh: 100_000, modulusWh: 2 ** 32 * 100 },
        });
        assert.deepEqual(decodeOne("ac_energy_import_wh", "address: 0, type: float32, unit: kWh", "44FA0000").counters, { ac_energy_import_wh: { wh: 2_000_000 } });
        assert.deepEqual(decodeOne("ac_energy_import_l1_wh", "address: 0, type: acc16, kind: counter", "0001").counters, { ac_energy_import_l1_wh: { wh: 1, modulusWh: 65536 } });
    });
});

describe("a poll by a map", () => {
    const map = mapOf(
        {
            ac_frequency_hz: "address: 0, type: uint16, scale: 0.01, valid: [[0, 0], [45, 66]]",
            ac_power_w: "address: 1, type: int16, sign: import_positive, max_step: {per: 1s, by: 1000}",
            ac_energy_import_wh: "address: 2, type: uint16, unit: kWh",
        },
        "defaults: {table: input}\nproof: [ac_frequency_hz]\n",
    );
    const poll = (decoder: MapDecoder, at: number, ...words: (number | ModbusError)[]) =>
        decoder.decode(answersOf(map.items, (_, i) => (typeof words[i] === "number" ? Buffer.from([words[i] >> 8, words[i] & 255]) : words[i]!)), at);

    it("is believed while its proof holds", () => {
        const { values, counters, bad } = poll(new MapDecoder(map), 0, 5000, 230, 7);
        assert.deepEqual(values, { ac_frequency_hz: 50, ac_power_w: 230 });
        assert.deepEqual([Object.keys(counters), bad], [["ac_energy_import_wh"], {}]);
    });

    it("is not believed when another answer's registers came", () => {
        const { values, counters, bad } = poll(new MapDecoder(map), 0, 230, 7, 5000);
        assert.deepEqual({ values, counters, bad }, { values: {}, counters: {}, bad: { ac_frequency_hz: "decode", ac_power_w: "decode", ac_energy_import_wh: "decode" } });
    });

    it("is not believed without the text that proves it", () => {
        const named = mapOf({ serial_number: "address: 0, type: string(1)", ac_power_w: "address: 1, type: int16, sign: import_positive" }, "defaults: {table: input}\nproof: [serial_number]\n");
        const read = (...words: string[]) => new MapDecoder(named).decode(answersOf(named.items, (_, i) => Buffer.from(words[i]!, "hex")), 0);
        assert.deepEqual(read("4131", "0000").values, { serial_number: "A1", ac_power_w: 0 });
        assert.deepEqual(read("0000", "0001").bad, { serial_number: "decode", ac_power_w: "decode" });
        assert.deepEqual(read("0000", "0000").values, {});
    });

    it("has deadbands in our unit", () => {
        const { points } = mapOf({ ac_power_w: "address: 0, type: int16, unit: kW, scale: 0.1, sign: export_positive, deadband: {abs: 0.2, max_age: 5m}", a_v: "address: 1, type: int16" });
        assert.deepEqual(points.map(({ deadband }) => deadband), [{ abs: 200, pct: undefined, maxAgeMs: 300_000 }, undefined]);
    });

    it("identifies by one of several ranges", () => {
        const [rule] = mapOf({ ac_power_w: "address: 0, type: uint16" }, "defaults: {table: input}\nidentify:\n  - {address: 9, type: uint16, in: [[1, 2], [10, 12]]}\n").identify;
        const check = (word: number) => rule!.check(Buffer.from([0, word]));
        for (const word of [1, 2, 10, 12]) assert.equal(check(word), undefined);
        assert.equal(check(5), "input 9 is 5 and should be 1 to 2 or 10 to 12");
    });

    it("is not believed when all of it is zero, and is when only some is", () => {
        assert.deepEqual(poll(new MapDecoder(map), 0, 0, 0, 0).values, {});
        assert.deepEqual(poll(new MapDecoder(map), 0, 0, 0, 7).values, { ac_frequency_hz: 0, ac_power_w: 0 });
    });

    it("is not believed without a proof either when it is all zero and a counter had counted", () => {
        const plain = { ...map, proof: [] };
        const decoder = new MapDecoder(plain);
        assert.deepEqual(poll(decoder, 0, 0, 0, 0).values, { ac_frequency_hz: 0, ac_power_w: 0 });
        assert.equal(poll(decoder, 5_000, 5000, 230, 7).values["ac_power_w"], 230);
        assert.deepEqual(poll(decoder, 10_000, 0, 0, 0).bad, { ac_frequency_hz: "decode", ac_power_w: "decode", ac_energy_import_wh: "decode" });
        assert.equal(poll(decoder, 15_000, 0, 0, new ModbusError("MODBUS_TIMEOUT", "no answer")).values["ac_power_w"], 0);
    });

    it("marks what could not be read, and believes the rest", () => {
        const { values, bad } = poll(new MapDecoder(map), 0, 5000, new ModbusError("MODBUS_TIMEOUT", "no answer"), 7);
        assert.deepEqual([values, bad], [{ ac_frequency_hz: 50 }, { ac_power_w: "comm" }]);
    });

    it("leaves out a leap, and believes it once there was time for it", () => {
        const decoder = new MapDecoder(map);
        const at = (ms: number, watts: number) => {
            const { values, bad } = poll(decoder, ms, 5000, watts, 7);
            return values["ac_power_w"] ?? bad["ac_power_w"];
        };
        assert.equal(at(0, 100), 100);
        assert.equal(at(1000, 1100), 1100);
        assert.equal(at(2000, 2101), "range");
        assert.equal(at(3000, 9000), "range");
        assert.equal(at(10_000, 9000), 9000);
        poll(decoder, 10_500, 230, 5000, 1);
        assert.equal(at(11_000, 9900), 9900, "a poll that is not believed leaves no trace");
    });
});

describe("a modbus map", () => {
    it("makes items of single values and of atomic ranges", () => {
        const map = mapOf(
            { a_v: "address: 40001, type: float32", b_v: "address: 40005, type: int16", c_v: "address: 40009, type: int16", d_v: "address: 30001, type: int16", state: "address: 40001, type: uint16, kind: state, overlaps: [a_v]" },
            "defaults: {numbering: modicon, atomic: [[40005, 40009]]}\n",
        );
        assert.deepEqual(
            map.items.map(({ table, address, size, points }) => [table, address, size, points.map(({ name }) => name).join()]),
            [
                ["holding", 0, 2, "a_v"],
                ["holding", 4, 5, "b_v,c_v"],
                ["input", 0, 1, "d_v"],
                ["holding", 0, 1, "state"],
            ],
        );
    });

    it("counts registers as its documents do", () => {
        assert.equal(mapOf({ a_v: "address: 1, type: int16" }, "defaults: {table: input, numbering: register}\n").points[0]?.address, 0);
        assert.equal(mapOf({ a_v: "address: 465536, type: int16" }, "defaults: {numbering: modicon}\n").points[0]?.address, 65535);
        assert.deepEqual(mapOf({ relay: "address: 10002, type: bit" }, "defaults: {numbering: modicon}\n").items[0]?.table, "discrete");
    });

    it("identifies its device", () => {
        const [number, text, float] = mapOf({ a_v: "address: 0, type: int16" }, "defaults: {table: holding}\nidentify: [{address: 1, type: uint16, is: [1648, 1649]}, {address: 2, type: string(2), starts: SUN}, {address: 4, type: float32, in: [40, 70]}]\n").identify;
        assert.equal(number?.check(Buffer.from("0671", "hex")), undefined);
        assert.equal(number?.check(Buffer.from("0672", "hex")), "holding 1 is 1650 and should be 1648 or 1649");
        assert.equal(text?.check(Buffer.from("SUN2")), undefined);
        assert.match(text?.check(Buffer.alloc(4)) ?? "", /is empty and should be "SUN…"/);
        assert.equal(float?.check(Buffer.from("42480000", "hex")), undefined);
        assert.match(float?.check(Buffer.from("7FC00000", "hex")) ?? "", /should be 40 to 70/);
    });

    it("keeps limits and periods", () => {
        const map = mapOf({ a_v: "address: 0, type: int16, group: slow" }, "defaults: {table: input, max_registers: 10, gaps: never, min_interval_ms: 5, connect_pause_ms: 1000, timeout_ms: 700, unit_ids: [3]}\ngroups: {fast: {every: 500ms}, slow: {every: 1m}}\n");
        assert.deepEqual(map.groups, [
            { name: "fast", everyMs: 500 },
            { name: "slow", everyMs: 60_000 },
        ]);
        assert.deepEqual([map.maxRegisters, map.gaps, map.minIntervalMs, map.connectPauseMs, map.timeoutMs, map.unitIds], [10, "never", 5, 1000, 700, [3]]);
    });

    it("reads a barrier for its own point alone, and never on the way", () => {
        const points = { a_v: "address: 0, type: int16", b_v: "address: 2, type: int16", c_v: "address: 4, type: int16", d_v: "address: 6, type: int16" };
        const map = mapOf(points, "defaults: {table: input, gaps: allow, barriers: [[1, 2]]}\n");
        const { blocks } = planReads(map.items, planOptionsOf(map, { requestMs: 60, registerMs: 0.1 }));
        assert.deepEqual(blocks.map(({ address, quantity }) => [address, quantity]), [[0, 1], [2, 5]]);
    });

    it("takes write blocks that are whole, and permits nothing", () => {
        const write = "write: {allow: false, range: [1, 100], step: 1, fc: 16, with: [limit_s], persist: {flash: {max_per_day: 10}}, revert: {register: limit_s, refresh: 0.5}, readback: {within: 2s, tolerance: 1}, failsafe: 100}";
        assert.equal(mapOf({ limit_pct: `address: 0, type: uint16, access: rw, ${write}`, limit_s: "address: 1, type: uint16" }).points.length, 2);
    });

    describe("is refused, with the line and what to do, when", () => {
        const ok = "address: 0, type: int16";
        const FAULTS: [string, Record<string, string>, RegExp, string?][] = [
            ["points overlap", { a_v: "address: 0, type: float32", b_v: "address: 1, type: int16" }, /line 11: points\.b_v\.address: shares registers with a_v .*add overlaps: \[a_v\]/],
            ["the same register is two types", { a_v: "address: 0, type: int16", b_v: "address: 0, type: uint16" }, /shares registers/],
            ["an overlap names nobody", { a_v: `${ok}, overlaps: [b_a]` }, /overlaps: there is no point "b_a"/],
            ["a type is none", { a_v: "address: 0, type: int17" }, /line 10: points\.a_v\.type: "int17" is no type: did you mean "int16"\?/],
            ["a length is none", { name: "address: 0, type: string(0)" }, /no such length/],
            ["a text is longer than a read", { name: "address: 0, type: string(80)" }, /has 80 registers and max_registers is 60/, "defaults: {table: input, max_registers: 60}\n"],
            ["an atomic range is longer than a read", { a_v: ok }, /defaults\.atomic\.0: has 70 registers and max_registers is 60.*narrow it/, "defaults: {table: input, max_registers: 60, atomic: [[0, 69]]}\n"],
            ["atomic ranges overlap", { a_v: ok }, /overlaps another atomic range/, "defaults: {table: input, atomic: [[0, 5], [5, 9]]}\n"],
            ["a value is half in an atomic range", { a_v: "address: 5, type: int32" }, /lies only partly in an atomic range/, "defaults: {table: input, atomic: [[0, 5]]}\n"],
            ["a scale register is left out of the answer", { a_v: "address: 5, type: int32, scale: {register: 4, rule: divide_pow10}" }, /line 10: points\.a_v\.scale: .*one answer: add \[4, 6\] to defaults\.atomic/],
            ["a scale register is elsewhere", { a_v: "address: 5, type: int32, scale: {register: 9, rule: divide_pow10}" }, /add \[5, 9\]/, "defaults: {table: input, atomic: [[0, 6]]}\n"],
            ["a direction is left out of the answer", { a_power_w: `${ok}, sign: charge_positive, direction: {register: 1, negative: [1]}` }, /points\.a_power_w\.direction: .*add \[0, 1\]/],
            ["a deadband says nothing", { a_v: `${ok}, deadband: {}` }, /line 10: points\.a_v\.deadband: must have abs, pct or max_age/],
            ["a state has a deadband", { state: `${ok}, enum: {0: off}, deadband: {abs: 1}` }, /deadband: does not go with a state/],
            ["a scale has no rule", { a_v: `${ok}, scale: {register: 4}` }, /scale/],
            ["a scale is 0", { a_v: `${ok}, scale: 0` }, /scale: must be a number other than 0/],
            ["atomic points are in two groups", { a_v: "address: 0, type: int16, group: fast", b_v: "address: 1, type: int16, group: slow" }, /all points of an atomic range are in one group: take fast/, "defaults: {table: input, atomic: [[0, 1]]}\ngroups: {fast: {every: 1s}, slow: {every: 60s}}\n"],
            ["a group is none", { a_v: `${ok}, group: slwo` }, /group: there is no group "slwo": did you mean "slow"\?/, "defaults: {table: input}\ngroups: {fast: {every: 1s}, slow: {every: 60s}}\n"],
            ["a period is none", { a_v: ok }, /groups\.fast\.every: must be a time such as 500ms/, "defaults: {table: input}\ngroups: {fast: {every: often}}\n"],
            ["a unit is none", { a_w: `${ok}, unit: Wat` }, /line 10: points\.a_w\.unit: "Wat" is not in the list of units/],
            ["a unit does not fit the name", { a_w: `${ok}, unit: kWh` }, /kWh does not fit the name, which ends in _w: take one of mW, W, kW, MW, or rename the point to end in _wh/],
            ["a name has no unit", { power: ok }, /points\.power\.kind: the name of a number ends in its unit.*add kind: state/],
            ["a name is not ours", { "Power-W": ok }, /snake_case/],
            ["a state's name has a unit", { a_w: `${ok}, enum: {0: off}` }, /the name ends in a unit, and a state has none/],
            ["a power does not say its sign", { ac_power_w: ok }, /line 10: points\.ac_power_w\.sign: .*add sign: import_positive/],
            ["a sentinel does not fit", { a_v: `${ok}, invalid: [99999]` }, /invalid: 99999 does not fit into a int16/],
            ["a label is beyond the type", { state: `${ok}, bits: {16: x}`.replace("int16", "uint16") }, /bits\.16: is beyond 15/],
            ["enum and bits are both there", { state: `${ok}, enum: {0: a}, bits: {0: b}` }, /make two points/],
            ["a point lies in a forbidden range", { a_v: ok }, /lies in a forbidden range/, "defaults: {table: input, forbidden: [[0, 3]]}\n"],
            ["there is no table", { a_v: ok }, /says no table: add table: input/, "defaults: {gaps: never}\n"],
            ["an address is none", { a_v: "address: -1, type: int16" }, /address: must be a whole number from 0/],
            ["an address is beyond the last", { a_v: "address: 65535, type: int32" }, /ends beyond the last register/],
            ["a modicon number is none", { a_v: "address: 20001, type: int16" }, /20001 is no modicon number/, "defaults: {numbering: modicon}\n"],
            ["registers are read as bits", { relay: "address: 0, type: bit" }, /take table coil or discrete for type bit/],
            ["bits are read as numbers", { a_v: "address: 0, type: int16, table: coil" }, /table coil holds bits: take type bit/],
            ["a counter is no energy", { a_varh: `${ok}, kind: counter` }, /counters are energies in Wh: take kind gauge/],
            ["a counter counts down", { a_wh: `${ok}, kind: counter, sign: export_positive` }, /sign: does not go with a counter/],
            ["a range is the wrong way round", { a_v: `${ok}, valid: [10, 0]` }, /valid: must be the least and the most/],
            ["a proof is nobody", { a_v: ok }, /proof\.0: there is no point "a_w"/, "defaults: {table: input}\nproof: [a_w]\n"],
            ["a proof proves nothing", { a_v: ok }, /proof\.0: a_v proves nothing without a valid range/, "defaults: {table: input}\nproof: [a_v]\n"],
            ["a proof is rarely read", { a_v: `${ok}, valid: [1, 2], group: slow` }, /not in the fastest group/, "defaults: {table: input}\nproof: [a_v]\ngroups: {fast: {every: 1s}, slow: {every: 9s}}\n"],
            ["an identification asks nothing", { a_v: ok }, /identify\.0: needs one of in: \[least, most\]/, "defaults: {table: input}\nidentify: [{address: 0, type: uint16}]\n"],
            ["writing is allowed", { a_pct: `${ok}, access: rw, write: {allow: true, range: [0, 1], readback: {within: 2s, tolerance: 0}}` }, /write\.allow: must be false/],
            ["a write has no range", { a_pct: `${ok}, access: rw, write: {allow: false, readback: {within: 2s, tolerance: 0}}` }, /write\.range: must be the least and the most/],
            ["a write is not read back", { a_pct: `${ok}, access: rw, write: {allow: false, range: [0, 1]}` }, /write\.readback: must be a list of keys \(within, tolerance\), not nothing/],
            ["a writable point does not say how", { a_pct: `${ok}, access: rw` }, /access: a point that can be written says how/],
            ["a write needs an input register", { a_pct: `${ok}, access: rw, write: {allow: false, range: [0, 1], readback: {within: 2s, tolerance: 0}}` }, /table input cannot be written/, "defaults: {table: input}\n"],
            ["an unknown key is nested", { a_v: `${ok}, max_step: {pre: 1s, by: 1}` }, /unknown key "pre": did you mean "per"\?/],
            ["there are no points", {}, /points/],
        ];
        for (const [what, points, message, rest = "defaults: {table: holding}\n"] of FAULTS) {
            it(what, () => {
                assert.throws(
                    () => mapOf(points, rest),
                    (error) => {
                        assert(error instanceof PointMapError);
                        assert.match(error.message, message);
                        return /^test\.yaml, line \d+: /.test(error.message) && error.faults.every(({ line }) => line > 0 && line <= textOf(points, rest).split("\n").length);
                    },
                );
            });
        }
    });

    it("with any value of any kind in any place ends in faults with lines, or decodes whatever bytes come", () => {
        const maps = new PointMaps();
        const ids = ["example-meter", "kipp-zonen-smp", "solis-hybrid-battery", "huawei-sun2000", "carlo-gavazzi-em24"];
        const sources = ids.map((id) => YAML.parse(readFileSync(maps.find(id).file, "utf8")) as Tree);
        const junk = fc.oneof(
            fc.constantFrom<Tree>(null, true, "", "nan", "holding", "datetime(6)", "string(3)", "0x10", [], {}, [[9, 1]], [1, [2, [3]]], { register: 5, rule: "divide_pow10" }, { range: [0, 1] }),
            fc.integer() as fc.Arbitrary<Tree>,
            fc.double() as fc.Arbitrary<Tree>,
            fc.string({ maxLength: 8 }) as fc.Arbitrary<Tree>,
        );
        fc.assert(
            fc.property(fc.constantFrom(...sources), fc.array(fc.tuple(fc.nat(), fc.constantFrom("set", "drop", "add"), junk, fc.string({ maxLength: 6 })), { minLength: 1, maxLength: 3 }), fc.uint8Array({ minLength: 260, maxLength: 260 }), (source, changes, random) => {
                const tree = structuredClone(source);
                for (const [at, how, value, key] of changes) change(tree, at, how, value, key);
                const text = YAML.stringify(tree);
                let map: ModbusMap;
                try {
                    map = parseModbusMap(text, "x.yaml");
                } catch (error) {
                    assert(error instanceof PointMapError, `${String(error)}\n${text}`);
                    const lines = text.split("\n").length;
                    assert(error.faults.length > 0 && error.faults.every(({ line, message }) => line >= 1 && line <= lines && message.length > 5), `${error.message}\n${text}`);
                    return;
                }
                const read = answersOf(map.items, ({ table, size }) => Buffer.from(random.subarray(0, table === "coil" || table === "discrete" ? 1 : size * 2)));
                const { values, counters } = new MapDecoder(map).decode(read, 0);
                for (const value of Object.values(values)) assert(typeof value === "string" || (Number.isFinite(value) && !Object.is(value, -0)));
                for (const { wh, modulusWh } of Object.values(counters)) assert(Number.isFinite(wh) && (modulusWh === undefined || modulusWh > 0));
            }),
            { numRuns: 150 },
        );
    });
});

type Tree = null | boolean | number | string | Tree[] | { [key: string]: Tree };

/** Changes one place of a tree, counted through all of it. */
function change(tree: Tree, at: number, how: string, value: Tree, key: string): void {
    const places: [owner: Record<string, Tree>, key: string][] = [];
    const visit = (node: Tree) => {
        if (typeof node !== "object" || node === null) return;
        for (const [name, child] of Object.entries(node)) {
            places.push([node as Record<string, Tree>, name]);
            visit(child);
        }
    };
    visit(tree);
    const place = places[at % Math.max(1, places.length)];
    if (!place) return;
    const [owner, name] = place;
    if (how === "set") owner[name] = value;
    else if (how === "drop") delete owner[name];
    // An array takes no other length than a whole one.
    else if (!Array.isArray(owner) || key !== "length") owner[key] = value;
}
