import { z } from "zod";
import { booleanField, choiceField, numberField } from "../common/config.js";
import { deviceNameField, MAX_UNIT, reportFields, secondsField, unitsField } from "../modbus/fields.js";
import { DEVICE_CLASSES } from "./class-maps.js";

/** A row that was selected in the dialog. */
const chosenSchema = z.object({
    unit: numberField({ min: 0, max: MAX_UNIT, default: 1, integer: true }),
    device: numberField({ min: 0, max: 100, default: 0, integer: true }),
    name: deviceNameField,
});

function haveOwnNames(devices: readonly { name: string }[]): boolean {
    const names = devices.map(({ name }) => name).filter((name) => name !== "");
    return new Set(names).size === names.length;
}

export const sunspecSchema = z.object({
    units: unitsField,
    devices: z.preprocess(
        (value) => value ?? [],
        z.array(chosenSchema, { error: "must be a list of devices" }).refine(haveOwnNames, "must have names that differ"),
    ),
    deviceClass: choiceField(["auto", ...DEVICE_CLASSES], "auto"),
    period: secondsField({ min: 0.2, max: 86_400, default: 5 }),
    slowPeriod: secondsField({ min: 1, max: 86_400, default: 60 }),
    meterPositive: choiceField(["auto", "import", "export"], "auto"),
    batteryPositive: choiceField(["discharge", "charge"], "discharge"),
    fullModels: booleanField(false),
    ...reportFields,
});

/** The settings of wl-sunspec; times in ms, deadband in %. */
export type SunSpecConfig = z.output<typeof sunspecSchema>;

/** The units to ask: of the chosen devices where there are any; undefined to search. */
export function unitsOf({ units, devices }: Pick<SunSpecConfig, "units" | "devices">): number[] | undefined {
    return devices.length > 0 ? [...new Set(devices.map(({ unit }) => unit))] : units;
}
