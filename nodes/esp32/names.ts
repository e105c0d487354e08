import { isPointName, type UnitKey, UNITS, unitText } from "../common/units.js";

/** What sources that name no unit call their values, by the last word; energies are none of them: they come in Wh and in kWh. */
const WORDS: Readonly<Record<string, UnitKey | undefined>> = {
    power: "w",
    watts: "w",
    watt: "w",
    voltage: "v",
    volts: "v",
    current: "a",
    amps: "a",
    amp: "a",
    frequency: "hz",
    temperature: "c",
    temp: "c",
    irradiance: "w_m2",
    humidity: "pct",
    soc: "pct",
};

/** Other names of units, as they end names. */
const SUFFIXES: Readonly<Record<string, readonly [UnitKey, number] | undefined>> = {
    kwh: ["wh", 1000],
    mwh: undefined,
    kw: ["w", 1000],
    mv: ["v", 0.001],
    ma: ["a", 0.001],
    hpa: ["pa", 100],
    ...Object.fromEntries((Object.keys(UNITS) as UnitKey[]).map((key) => [key, [key, 1]])),
};

export const LONGEST_NAME = 64;

/** True for a device's name that a topic of MQTT, a reading and a file can carry. */
export function isDeviceName(name: string): boolean {
    return name !== "" && name.length <= LONGEST_NAME && !/[/+#\p{C}]/u.test(name);
}

/** Any text as the first part of a point's name: "AC Power (kW)" is `ac_power_kw`; "" for one without letters. */
export function slug(text: string): string {
    return text
        .replaceAll(/([a-z])([A-Z])/g, "$1_$2")
        .toLowerCase()
        .replaceAll(/[^a-z0-9]+/g, "_")
        .replaceAll(/^[_0-9]+|_+$/g, "")
        .slice(0, 60);
}

/** A value's point by its name alone: `solar_power` is `solar_power_w`, `total_kwh` is `total_wh`; undefined where the unit is in doubt. */
export function guessPoint(name: string): { point: string; factor: number } | undefined {
    const words = slug(name).split("_");
    const last = words.at(-1) ?? "";
    if (words.length > 1 && Object.hasOwn(SUFFIXES, last)) {
        const unit = SUFFIXES[last];
        return unit && checked([...words.slice(0, -1), unit[0]].join("_"), unit[1]);
    }
    const numbered = /^([a-z]+)(\d+)$/.exec(last);
    const word = numbered?.[1] ?? last;
    const key = Object.hasOwn(WORDS, word) ? WORDS[word] : undefined;
    return key && checked([...words, key].join("_"), 1);
}

/** A value's point by its name and the source's unit; undefined for a unit that is not ours. */
export function pointWithUnit(name: string, unit: string): { point: string; factor: number } | undefined {
    const [entry] = Object.entries(unitText(unit) ?? {}) as [UnitKey, number][];
    if (!entry) return undefined;
    const [key, factor] = entry;
    const words = slug(name);
    const bare = words.endsWith(`_${slug(unit)}`) && slug(unit) !== "" ? words.slice(0, -slug(unit).length - 1) : words;
    return checked(bare.endsWith(`_${key}`) ? bare : `${bare}_${key}`, factor);
}

function checked(point: string, factor: number): { point: string; factor: number } | undefined {
    return isPointName(point) ? { point, factor } : undefined;
}
