import { z } from "zod";
import { booleanField, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import type { PointMaps } from "../common/pointmaps.js";
import { deviceNameField, reportFields, secondsField, unitsField } from "./fields.js";
import { type ModbusMap, parseModbusMap } from "./map.js";

/** Instead of a map's id: the map is in the node itself. */
export const PASTED = "paste";

const period = secondsField({ min: 0.1, max: 86_400, default: 5 });

/** Poll periods by group; a blank one is the map's own. */
const periodsField = z.preprocess((value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value ?? {};
    return Object.fromEntries(Object.entries(value).filter(([, text]) => text !== "" && text !== null));
}, z.record(z.string(), period, { error: "must be seconds by group" }));

/** A device's map, and the units to read by it. */
export const chosenMapSchema = z.object({
    map: textField(""),
    mapText: z.preprocess((value) => value ?? "", z.string({ error: "must be a text" })),
    units: unitsField,
    deviceName: deviceNameField,
    periods: periodsField,
});

export type ChosenMap = z.output<typeof chosenMapSchema>;

export const modbusSchema = chosenMapSchema.extend({ rawValues: booleanField(false), ...reportFields });

/** The settings of wl-modbus; times in ms, deadband in %. */
export type ModbusConfig = z.output<typeof modbusSchema>;

/** @throws WattError CONFIG_MISSING when none is chosen, POINTMAP_… */
export function mapOf({ map, mapText }: Pick<ChosenMap, "map" | "mapText">, maps: PointMaps): ModbusMap {
    if (map === PASTED && mapText.trim() !== "") return parseModbusMap(mapText, "pasted map");
    if (map === "" || map === PASTED) throw new WattError("CONFIG_MISSING", map === "" ? "choose a device map" : "paste a device map");
    return maps.load(map, parseModbusMap);
}

/** The units to read: as set, else the one that the device has from the factory. */
export function unitsOf({ units }: Pick<ChosenMap, "units">, { unitIds }: Pick<ModbusMap, "unitIds">): number[] {
    return units ?? [unitIds[0] ?? 1];
}

/** The name of a unit's readings: as set, else the map's id; more than one unit, or no name, adds the unit id. */
export function deviceNameOf({ deviceName }: Pick<ChosenMap, "deviceName">, { id }: Pick<ModbusMap, "id">, unit: number, units: number): string {
    if (deviceName !== "" && units === 1) return deviceName;
    return `${deviceName || id}-u${unit}`;
}
