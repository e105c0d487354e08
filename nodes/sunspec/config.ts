import { z } from "zod";
import { booleanField, choiceField, numberField, textField } from "../common/config.js";
import { DEVICE_CLASSES } from "./points.js";

const MAX_UNIT = 255;

/** `1, 3, 10-12` as numbers, ascending, each once; undefined for blank or `auto`. Throws an Error that says what it takes. */
export function parseUnits(text: string): number[] | undefined {
    if (/^\s*(auto)?\s*$/i.test(text)) return undefined;
    const units = text.split(",").flatMap((part) => {
        const [, first, last = first] = /^\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?$/.exec(part) ?? [];
        const [from, to] = [Number(first), Number(last)];
        if (!(from <= to && to <= MAX_UNIT)) throw new Error(`takes unit ids 0..${MAX_UNIT} such as 1, 3, 10-12, or nothing to search`);
        return Array.from({ length: to - from + 1 }, (_, i) => from + i);
    });
    return [...new Set(units)].toSorted((a, b) => a - b);
}

/** The unit ids of a dialog field. */
export const unitsField = textField("").transform((text, context) => {
    try {
        return parseUnits(text);
    } catch (error) {
        context.addIssue({ code: "custom", message: (error as Error).message });
        return z.NEVER;
    }
});

/** A row that was selected in the dialog. */
const chosenSchema = z.object({
    unit: numberField({ min: 0, max: MAX_UNIT, default: 1, integer: true }),
    device: numberField({ min: 0, max: 100, default: 0, integer: true }),
    name: textField("").pipe(z.string().regex(/^[A-Za-z0-9_.-]*$/, "takes letters, digits, dot, dash and underscore only")),
});

function haveOwnNames(devices: readonly { name: string }[]): boolean {
    const names = devices.map(({ name }) => name).filter((name) => name !== "");
    return new Set(names).size === names.length;
}

const seconds = (options: Parameters<typeof numberField>[0]) => numberField(options).transform((value) => value * 1000);

export const sunspecSchema = z.object({
    units: unitsField,
    devices: z.preprocess(
        (value) => value ?? [],
        z.array(chosenSchema, { error: "must be a list of devices" }).refine(haveOwnNames, "must have names that differ"),
    ),
    deviceClass: choiceField(["auto", ...DEVICE_CLASSES], "auto"),
    period: seconds({ min: 0.2, max: 86_400, default: 5 }),
    slowPeriod: seconds({ min: 1, max: 86_400, default: 60 }),
    meterPositive: choiceField(["auto", "import", "export"], "auto"),
    batteryPositive: choiceField(["discharge", "charge"], "discharge"),
    fullModels: booleanField(false),
    perPoint: booleanField(false),
    byException: booleanField(false),
    deadband: numberField({ min: 0, max: 100, default: 0.5 }),
    heartbeat: seconds({ min: 1, max: 86_400, default: 60 }),
});

/** The settings of wl-sunspec; times in ms, deadband in %. */
export type SunSpecConfig = z.output<typeof sunspecSchema>;

/** The units to ask: of the chosen devices where there are any; undefined to search. */
export function unitsOf({ units, devices }: Pick<SunSpecConfig, "units" | "devices">): number[] | undefined {
    return devices.length > 0 ? [...new Set(devices.map(({ unit }) => unit))] : units;
}
