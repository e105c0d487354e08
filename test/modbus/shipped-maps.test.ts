import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import YAML from "yaml";
import { PointMaps } from "../../dist/common/pointmaps.js";
import { isPointName, unitOf } from "../../dist/common/units.js";
import { MapDecoder } from "../../dist/modbus/map-decoder.js";
import { type ModbusMap, parseModbusMap } from "../../dist/modbus/map.js";
import { planReads, type ReadItem } from "../../dist/modbus/plan.js";
import type { Table } from "../../dist/modbus/transport.js";
import { answersOf } from "./answers.js";

/** One answer of a device, written by hand from its documents, and what it means. */
interface Golden {
    name: string;
    registers: { table: Table; address: number; hex: string }[];
    expect: Record<string, number | string>;
    bad?: Record<string, string>;
}

const FOLDER = path.join(__dirname, "../../test/fixtures/modbus");
const maps = new PointMaps();
const ids = maps
    .list()
    .map(({ id }) => id)
    .filter((id) => !id.startsWith("sunspec-"));
const load = (id: string): ModbusMap => maps.load(id, parseModbusMap);

function goldens(id: string): Golden[] {
    return (YAML.parse(readFileSync(path.join(FOLDER, `${id}.yaml`), "utf8")) as { cases: Golden[] }).cases;
}

/** The item's bytes; a register that the frame does not have is an error of the fixture. */
function bytesOf(item: ReadItem, golden: Golden): Buffer {
    const cells = new Map<string, string>();
    for (const { table, address, hex } of golden.registers) {
        for (const [index, word] of hex.split(" ").entries()) cells.set(`${table} ${address + index}`, word);
    }
    const words = Array.from({ length: item.size }, (_, index) => {
        const key = `${item.table} ${item.address + index}`;
        const word = cells.get(key);
        assert(word !== undefined && /^[0-9A-F]{4}$/.test(word), `the golden frame has no register ${key}`);
        return word;
    });
    return Buffer.from(words.join(""), "hex");
}

function decode(map: ModbusMap, golden: Golden) {
    const read = answersOf(map.items, (item) => bytesOf(item, golden));
    const { values, counters, bad } = new MapDecoder(map).decode(read, 0);
    const energies = Object.fromEntries(Object.entries(counters).map(([point, { wh }]) => [point, wh]));
    return { values: { ...values, ...energies }, bad };
}

describe("shipped point maps", () => {
    it("are there, each with a golden frame, and no frame without its map", () => {
        assert(ids.length >= 30, `${ids.length} maps`);
        assert.deepEqual(readdirSync(FOLDER).map((name) => path.basename(name, ".yaml")).toSorted(), ids.toSorted());
    });

    for (const id of ids) {
        describe(id, () => {
            const map = load(id);

            for (const golden of goldens(id)) {
                it(`decodes the golden frame: ${golden.name}`, () => {
                    const { values, bad } = decode(map, golden);
                    assert.deepEqual({ values, bad }, { values: golden.expect, bad: golden.bad ?? {} });
                });
            }

            it("is decoded in both directions of power", () => {
                const cases = goldens(id).map((golden) => decode(map, golden).values);
                assert(cases.length >= 2, "one case is no proof of a sign");
                for (const point of map.points) {
                    if (!/power(_l\d)?_w$/.test(point.name) || !/^(int|float)/.test(point.type.name)) continue;
                    for (const sign of [1, -1]) assert(cases.some((values) => Math.sign(Number(values[point.name])) === sign), `${point.name} is never ${sign > 0 ? "positive" : "negative"}`);
                }
            });

            it("plans reads that hold every point and touch nothing forbidden", () => {
                const { maxRegisters, gaps, readable, forbidden, items } = map;
                const { blocks } = planReads(items, { maxRegisters, gaps, readable, forbidden, cost: { requestMs: 60, registerMs: 0.1 } });
                assert.deepEqual(new Set(blocks.flatMap((block) => block.items)), new Set(items));
                for (const { table, address, quantity } of blocks) {
                    assert(quantity <= maxRegisters);
                    assert(!forbidden.some((range) => range.table === table && range.address < address + quantity && address < range.address + range.size));
                }
            });

            it("knows its device by the golden frames", () => {
                for (const golden of goldens(id)) {
                    for (const rule of map.identify) {
                        const isThere = golden.registers.some(({ table, address, hex }) => table === rule.table && address <= rule.address && rule.address + rule.size <= address + hex.split(" ").length);
                        if (isThere && !/night|wait|idle/.test(golden.name)) assert.equal(rule.check(bytesOf(rule, golden)), undefined);
                    }
                }
            });

            it("says where its facts are from, names points by our rules and permits no writing", () => {
                assert(map.source.doc ?? map.source.url);
                for (const { name, unit } of map.points) {
                    assert(isPointName(name));
                    assert.equal(unit, unitOf(name));
                }
                assert.doesNotMatch(readFileSync(maps.find(id).file, "utf8"), /allow:|access: rw/);
            });
        });
    }

    it("know their device, or say that nothing identifies it", () => {
        for (const id of ids) assert(load(id).identify.length > 0 || /names no register that identifies|there is only an example/.test(readFileSync(maps.find(id).file, "utf8")), id);
    });

    it("guard the rate of what is slow by nature", () => {
        for (const id of ids) {
            for (const { name, maxStepPerMs } of load(id).points) {
                if (/_c$|^so[ch]_pct$|^pressure_pa$/.test(name)) assert(maxStepPerMs !== undefined, `${id} ${name}`);
            }
        }
    });

    it("tell a Sungrow string inverter from a hybrid, whose energies are in other units", () => {
        const fits = (id: string, code: number) => load(id).identify.every((rule) => rule.check(Buffer.from([code >> 8, code & 0xff])) === undefined);
        for (const code of [0x27, 0x147, 0x2430, 0x2600, 0x2c22]) assert(fits("sungrow-string", code) && !fits("sungrow-hybrid", code), String(code));
        for (const code of [0xd03, 0xe03]) assert(!fits("sungrow-string", code) && fits("sungrow-hybrid", code), String(code));
        assert(!fits("sungrow-string", 0));
    });

    it("take no Growatt of protocol 1.39 for a MIN, whose registers mean other things there", () => {
        const fits = (typeCode: number, mode: number, frequency: number) =>
            load("growatt-min-tl-x").identify.every((rule) => {
                const word = Buffer.alloc(2);
                word.writeUInt16BE(rule.table === "holding" ? typeCode : rule.address === 3000 ? mode : frequency);
                return rule.check(word) === undefined;
            });
        // In 1.39, 3000 is the work mode and 3025 the high word of the power to the grid, in W.
        assert(fits(5200, 1, 5001) && fits(5201, 1, 4998) && fits(0, 1, 5001));
        assert(!fits(5400, 1, 5001) && !fits(5200, 0, 0) && !fits(0, 2, 0) && !fits(3502, 5, 0) && !fits(0, 7, 5001));
    });

    it("do not believe a meter's answer that is shifted by one value", () => {
        for (const id of ids) {
            const map = load(id);
            // A text that is there proves no more than that the answer is not empty.
            if (map.class !== "meter" || map.proof.every(({ kind }) => kind === "text")) continue;
            for (const golden of goldens(id)) {
                for (const by of [-2, -1, 1, 2]) {
                    const cells = golden.registers.map((run) => ({ ...run, address: run.address + by }));
                    const around = map.items.map(({ table, address, size }) => ({ table, address: address - 2, hex: Array.from({ length: size + 4 }, () => "0000").join(" ") }));
                    const { values } = decode(map, { ...golden, registers: [...around, ...cells] });
                    assert.deepEqual(values, {}, `${id}, ${golden.name}, ${by} registers`);
                }
            }
        }
    });

    it("do not take an empty answer for the device's", () => {
        for (const id of ids) {
            const map = load(id);
            if (map.proof.length === 0) continue;
            const zeros = answersOf(map.items, ({ size }) => Buffer.alloc(size * 2));
            const { values, counters, bad } = new MapDecoder(map).decode(zeros, 0);
            assert.deepEqual({ values, counters }, { values: {}, counters: {} }, id);
            assert.deepEqual(new Set(Object.values(bad)), new Set(["decode"]), id);
        }
    });
});
