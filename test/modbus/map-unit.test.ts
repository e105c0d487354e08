import assert from "node:assert/strict";
import { EnergyBook } from "../../dist/common/energy.js";
import { parseModbusMap } from "../../dist/modbus/map.js";
import { MapUnit } from "../../dist/modbus/map-unit.js";
import { readGroups } from "../../dist/modbus/read-groups.js";
import type { ModbusReader } from "../../dist/modbus/transport.js";
import { ManualClock } from "../common/manual-clock.js";

const INVERTER = `
schema: pointmap/1
id: test-inverter
class: inverter
vendor: Acme
models: [I1]
source: {doc: invented for tests, verified: document, date: 2026-11-21}
protocol: modbus
defaults: {table: holding, atomic: [[0, 3]]}
points:
  rated_power_w: {address: 0, type: uint16, unit: W}
  ac_energy_export_wh: {address: 1, type: uint32, unit: Wh}
  state: {address: 3, type: uint16, kind: state}
`;

describe("a unit read by a map", () => {
    const clock = new ManualClock();
    const words = Buffer.alloc(8);
    let unit: MapUnit;
    beforeEach(() => {
        const map = parseModbusMap(INVERTER, "test.yaml");
        const reader: ModbusReader = { maxRegisters: 125, read: ({ address, quantity }) => Promise.resolve(Buffer.from(words.subarray(2 * address, 2 * (address + quantity)))) };
        const cost = { requestMs: 20, registerMs: 0.02 };
        unit = new MapUnit(reader, 1, { map, groups: readGroups(map, {}), cost, site: "home", name: "roof", rawValues: false, maxGapMs: 60_000, energy: new EnergyBook(clock), clock });
    });

    async function poll(rated: number, wh: number) {
        words.writeUInt16BE(rated, 0);
        words.writeUInt32BE(wh, 2);
        const { readings } = await unit.poll(new Set(["all"]), new AbortController().signal);
        const { payload, reading } = readings[0]!;
        return [payload["ac_energy_export_wh"], reading.bad?.["ac_energy_export_wh"]];
    }

    it("refuses a counter's step that the rated power does not allow", async () => {
        assert.deepEqual(await poll(10_000, 700_000), [700_000, undefined]);
        // A device may renew its counter once an hour.
        assert.deepEqual(await poll(10_000, 711_000), [711_000, undefined]);
        assert.deepEqual(await poll(10_000, 740_000), [undefined, "range"]);
        assert.deepEqual(await poll(10_000, 711_500), [711_500, undefined]);
    });

    it("bounds a counter loosely where nobody says what is rated", async () => {
        await poll(0, 700_000);
        assert.deepEqual(await poll(0, 740_000), [740_000, undefined]);
    });
});
