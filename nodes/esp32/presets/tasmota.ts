import { isObject } from "../../common/json.js";
import { valueAt, mappedFactor } from "../mapping.js";
import type { Preset, PresetOptions } from "../preset.js";
import { deviceName, invalid, type JsonObject, levelsBelow, own, parseJsonObject, parseTime, type PointTable, said, textOf, Values } from "../values.js";

/** `#` is the direction that the meter counts forwards. */
const ENERGY: PointTable = {
    Power: ["ac_power_w"],
    ApparentPower: ["ac_apparent_power_va"],
    ReactivePower: ["ac_reactive_power_var"],
    Factor: ["power_factor_ratio"],
    Frequency: ["ac_frequency_hz"],
    Voltage: ["ac_voltage_v"],
    Current: ["ac_current_a"],
    Today: ["ac_energy_today_wh", 1000],
    Total: ["ac_energy_#_wh", 1000],
    ImportActive: ["ac_energy_import_wh", 1000],
    ExportActive: ["ac_energy_export_wh", 1000],
};
/** What adds up over phases. */
const ADDS = /_(w|va|var|wh)$/;
/** Usual names of what a smart meter reader finds; others need the mapping. */
const SML: PointTable = {
    total_in: ["ac_energy_import_wh", 1000],
    total_out: ["ac_energy_export_wh", 1000],
    power_curr: ["ac_power_w"],
    power_cur: ["ac_power_w"],
};

/**
 * Tasmota: `tele/<device>/SENSOR`, in either order of the levels, or the same object by HTTP. `Time` has no zone: it is read in the site's.
 * A meter of more than one phase sends lists beside plain numbers.
 */
export const tasmota: Preset = {
    id: "tasmota",
    topics: ({ prefix }) => {
        const [start, tele] = split(prefix);
        return [`${start}${tele}/+/SENSOR`, `${start}+/${tele}/SENSOR`];
    },
    createDecoder: (options) => ({
        decode: (arrival) => {
            const body = parseJsonObject(textOf(arrival));
            const data = isObject(body["StatusSNS"]) ? body["StatusSNS"] : body;
            const device = arrival.via === "mqtt" ? nameOf(arrival.topic, options) : deviceName(own(arrival.query, "device") ?? arrival.device ?? arrival.topic);
            const values = new Values();
            const unmapped: string[] = [];
            for (const part in data) {
                const fields = data[part];
                if (!isObject(fields)) continue;
                if (part === "ENERGY") putEnergy(values, fields, options);
                else unmapped.push(...putMeter(values, part, fields, options));
            }
            for (const entry of options.mapping?.points ?? []) if (entry.path !== undefined) values.put(entry.point, valueAt(data, entry.path), mappedFactor(entry));
            const ts = parseTime(own(data, "Time"), options.zone, arrival.at);
            return said(device, values.sample(device, arrival, { class: options.forward === "export" ? "inverter" : "meter", ...(ts !== undefined && { ts }) }), unmapped);
        },
    }),
};

/** What stands before `tele`, with a slash, and `tele` itself. */
function split(prefix: string): [start: string, tele: string] {
    const levels = (prefix || "tele").split("/");
    const tele = levels.pop()!;
    return [levels.map((level) => `${level}/`).join(""), tele];
}

function nameOf(topic: string | undefined, { prefix }: PresetOptions): string {
    const [start, tele] = split(prefix);
    const levels = levelsBelow(topic, start.slice(0, -1)) ?? [];
    if (levels.length !== 3 || levels[2] !== "SENSOR" || !levels.slice(0, 2).includes(tele)) throw invalid("Not a topic of Tasmota's telemetry: tele/<device>/SENSOR was expected.");
    return deviceName(levels[0] === tele ? levels[1] : levels[0]);
}

function putEnergy(values: Values, fields: JsonObject, { forward = "import" }: PresetOptions): void {
    for (const key in ENERGY) {
        const raw = own(fields, key);
        // Both directions are counted apart: then the total is their sum, or one of them.
        if (raw === undefined || (key === "Total" && own(fields, `${forward === "import" ? "Import" : "Export"}Active`) !== undefined)) continue;
        const [name, factor] = ENERGY[key]!;
        const point = name.replace("#", forward);
        if (!Array.isArray(raw)) values.put(point, raw, factor);
        else {
            const sum = values.putPhases(point, raw, factor);
            if (ADDS.test(point)) values.put(point, sum, factor);
        }
    }
}

/** @returns the names that need a mapping. */
function putMeter(values: Values, part: string, fields: JsonObject, { mapping }: PresetOptions): string[] {
    const known = Object.keys(fields).filter((key) => own(SML, key.toLowerCase()) !== undefined);
    for (const key of known) {
        const [point, factor] = SML[key.toLowerCase()]!;
        values.put(point, fields[key], factor);
    }
    if (known.length === 0) return [];
    const mapped = (mapping?.points ?? []).map(({ path }) => path);
    return Object.keys(fields).filter((key) => !known.includes(key) && typeof fields[key] === "number" && !mapped.includes(`${part}.${key}`)).map((key) => `${part}.${key}`);
}
