import { mappedName } from "../mapping.js";
import { guessPoint } from "../names.js";
import type { Arrival, Preset, PresetOptions } from "../preset.js";
import { deviceName, invalid, levelsBelow, parseJsonObject, said, textOf, Values } from "../values.js";

/**
 * ESPHome: `<device>/sensor/<name>/state`, a plain value a topic, retained; or by HTTP an object whose values often are texts.
 * Neither tells units: they are taken from the mapping, or from a name that leaves no doubt (`solar_power`, `total_kwh`).
 */
export const esphome: Preset = {
    id: "esphome",
    topics: ({ prefix }) => [`${prefix && `${prefix}/`}+/sensor/+/state`],
    createDecoder: (options) => ({
        decode: (arrival) => {
            if (arrival.via === "http") return named(deviceName(arrival.query?.["device"] ?? arrival.device ?? arrival.topic), parseJsonObject(textOf(arrival)), arrival, options);
            const [device, sensor, name = "", state, ...more] = levelsBelow(arrival.topic, options.prefix) ?? [];
            if (sensor !== "sensor" || state !== "state" || more.length > 0) throw invalid("Not a topic of ESPHome: <device>/sensor/<name>/state was expected.");
            return named(deviceName(device), { [name]: textOf(arrival) }, arrival, options);
        },
    }),
};

function named(device: string, fields: Record<string, unknown>, arrival: Arrival, { mapping, forward }: PresetOptions) {
    const values = new Values();
    const unmapped: string[] = [];
    for (const name in fields) {
        const found = mappedName(mapping, name, arrival) ?? guessPoint(name);
        if (found) values.put(found.point, fields[name], found.factor);
        else unmapped.push(name);
    }
    return said(device, values.sample(device, arrival, { ...(mapping?.class !== undefined ? { class: mapping.class } : forward === "export" && { class: "inverter" }) }), unmapped);
}
