import { PointMaps } from "../common/pointmaps.js";
import { type MapPoint, type ModbusMap, parseModbusMap } from "../modbus/map.js";
import { applyFactor } from "../modbus/map-values.js";
import { meteredPhases } from "./devices.js";
import type { PlantSample } from "./plant.js";
import type { RegisterBank } from "./server.js";

/** The unit of the meter that speaks no SunSpec, and the map it is built by. */
export const METER_UNIT = 10;
const METER_MAP = "eastron-sdm630";

/** A float32 without a value: what a register pair behind no point of the map holds. */
const NO_VALUE = 0x7fc0_0000;

/** A second meter at the plant's grid connection: the same measurements, in the registers of the shipped map. */
export class MapMeter {
    private readonly map: ModbusMap = new PointMaps().load(METER_MAP, parseModbusMap);
    private readonly size = Math.max(...this.map.readable.map(({ address, size }) => address + size));
    private readonly readable = this.map.readable.map(({ address, size }) => [address, address + size - 1] as const);

    /** @param night No register has a value. */
    bank(sample: PlantSample, night: boolean): RegisterBank {
        const words = Buffer.alloc(2 * this.size);
        for (let at = 0; at < words.length; at += 4) words.writeUInt32BE(NO_VALUE, at);
        if (!night) {
            const values = measurements(sample);
            for (const point of this.map.points) write(words, point, values[point.name]);
        }
        return { base: 0, words, table: "input", readable: this.readable, maxRegisters: this.map.maxRegisters };
    }
}

/** The inverse of the map's decoding; the meter has floats only. */
function write(words: Buffer, { address, factor, offset }: MapPoint, value: number | undefined): void {
    if (value !== undefined) words.writeFloatBE((value - offset) / applyFactor(1, factor), 2 * address);
}

/** By the names of our points. */
function measurements(sample: PlantSample): Record<string, number> {
    const { grid } = sample;
    const phases = meteredPhases(sample);
    const reactive = phases.reduce((total, phase) => total + phase.reactive, 0);
    const apparent = Math.hypot(grid.power, reactive);
    const values: Record<string, number> = {
        ac_power_w: grid.power,
        ac_apparent_power_va: apparent,
        ac_reactive_power_var: reactive,
        power_factor_ratio: ratio(grid.power, apparent),
        ac_frequency_hz: grid.frequency,
        ac_energy_import_wh: grid.importWh,
        ac_energy_export_wh: grid.exportWh,
        ac_reactive_energy_import_varh: grid.reactiveVarh,
        ac_reactive_energy_export_varh: 0,
    };
    for (const [i, phase] of phases.entries()) {
        const l = `l${i + 1}`;
        Object.assign(values, {
            [`ac_voltage_${l}_v`]: phase.voltage,
            [`ac_current_${l}_a`]: phase.current,
            [`ac_power_${l}_w`]: phase.power,
            [`ac_apparent_power_${l}_va`]: phase.apparent,
            [`ac_reactive_power_${l}_var`]: phase.reactive,
            [`power_factor_${l}_ratio`]: ratio(phase.power, phase.apparent),
            // What the household's electronics do to the voltage, more under load.
            [`ac_voltage_${l}_thd_pct`]: 1.5 + phase.apparent / 10_000,
            [`ac_energy_import_${l}_wh`]: grid.phaseEnergy[i]!.import,
            [`ac_energy_export_${l}_wh`]: grid.phaseEnergy[i]!.export,
        });
    }
    return values;
}

function ratio(power: number, apparent: number): number {
    return apparent > 0 ? power / apparent : 1;
}
