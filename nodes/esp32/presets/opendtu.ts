import { isObject } from "../../common/json.js";
import { Recent } from "../../common/recent.js";
import { unitOf } from "../../common/units.js";
import type { Decoded, Preset } from "../preset.js";
import { asRatio, deviceName, factorOf, invalid, type JsonObject, levelsBelow, own, parseJsonObject, parseNumber, type PointTable, said, secondsOf, textOf, Values } from "../values.js";

/** By the field's name in lower case, letters and digits only, which topics and JSON have in common; MQTT's units. */
const AC: PointTable = {
    power: ["ac_power_w"],
    voltage: ["ac_voltage_l1_v"],
    current: ["ac_current_l1_a"],
    voltageph1n: ["ac_voltage_l1_v"],
    voltageph2n: ["ac_voltage_l2_v"],
    voltageph3n: ["ac_voltage_l3_v"],
    currentph1: ["ac_current_l1_a"],
    currentph2: ["ac_current_l2_a"],
    currentph3: ["ac_current_l3_a"],
    frequency: ["ac_frequency_hz"],
    powerdc: ["dc_power_w"],
    powerfactor: ["power_factor_ratio"],
    reactivepower: ["ac_reactive_power_var"],
    temperature: ["cabinet_temperature_c"],
    efficiency: ["efficiency_pct"],
    yieldday: ["ac_energy_today_wh"],
    yieldtotal: ["ac_energy_export_wh", 1000],
};
const DC: PointTable = {
    power: ["mppt#_dc_power_w"],
    voltage: ["mppt#_dc_voltage_v"],
    current: ["mppt#_dc_current_a"],
    yieldday: ["mppt#_dc_energy_today_wh"],
    yieldtotal: ["mppt#_dc_energy_wh", 1000],
};
const STATUS: PointTable = { limit_relative: ["power_limit_pct"], limit_absolute: ["power_limit_w"] };
const MPPTS = [1, 2, 3, 4, 5, 6];

interface State {
    reachable: boolean;
    /** When the values that follow were read, ms UTC. */
    ts: number | undefined;
}

/**
 * OpenDTU: a plain value a topic, which get the time of `status/last_update` that comes before them; or `/api/livedata/status`.
 * Values of an inverter that is not reachable are what was last read, or zeros, and a total of 0 is no counter that started again: none of
 * them is a measurement. The sums over all inverters are not taken: they fall when one is missing, and count everything twice.
 */
export const opendtu: Preset = {
    id: "opendtu",
    topics: ({ prefix }) => ["status", "0", ...MPPTS].map((part) => `${prefix || "solar"}/+/${part}/+`),
    createDecoder: ({ prefix }) => {
        const states = new Recent<State>();
        const byTopic = (levels: readonly string[], text: string, arrival: { retained: boolean }): Decoded[] => {
            const [serial, part = "", field = ""] = levels;
            const device = deviceName(serial);
            const state = states.get(device) ?? { reachable: true, ts: undefined };
            const values = new Values();
            if (part === "status") {
                if (!arrival.retained && field === "last_update") states.set(device, { ...state, ts: secondsOf(text) });
                if (field === "reachable") states.set(device, { ...state, reachable: text !== "0" });
                const entry = own(STATUS, field) as PointTable[string];
                if (entry) values.put(entry[0], text, entry[1]);
                return said(device, values.sample(device, arrival, { class: "inverter" }));
            }
            if (state.reachable) putField(values, Number(part), field, text);
            return said(device, values.sample(device, arrival, { class: "inverter", ...(state.ts !== undefined && !arrival.retained && { ts: state.ts }) }));
        };
        return {
            decode: (arrival) => {
                const text = textOf(arrival);
                if (arrival.via === "http") return inverters(parseJsonObject(text)).flatMap((inverter) => live(inverter, arrival));
                const levels = levelsBelow(arrival.topic, prefix || "solar");
                if (levels?.length !== 3 || !/^(status|[0-6])$/.test(levels[1]!)) throw invalid("Not a topic of OpenDTU: <prefix>/<serial>/<channel>/<field> was expected.");
                return byTopic(levels, text, arrival);
            },
        };
    },
};

function inverters(json: JsonObject): JsonObject[] {
    const list = own(json, "inverters");
    if (Array.isArray(list)) return list.filter(isObject);
    throw invalid("Not OpenDTU's live data: there is no list of inverters.");
}

/** One inverter of the live data, whose values carry their units. */
function live(inverter: JsonObject, arrival: { retained: boolean }): Decoded[] {
    const device = deviceName(own(inverter, "serial"));
    if (own(inverter, "reachable") === false) return [];
    const values = new Values();
    for (const [part, first] of [["AC", 0], ["INV", 0], ["DC", 1]] as const) {
        for (const [channel, fields] of Object.entries(isObject(own(inverter, part)) ? (own(inverter, part) as JsonObject) : {})) {
            if (!/^\d$/.test(channel) || !isObject(fields)) continue;
            for (const [field, value] of Object.entries(fields)) putField(values, Number(channel) + first, field, own(value, "v"), own(value, "u"));
        }
    }
    const ageMs = parseNumber(own(inverter, "data_age_ms")) ?? parseNumber(own(inverter, "data_age"));
    const isMs = own(inverter, "data_age_ms") !== undefined;
    const age = typeof ageMs === "number" && ageMs >= 0 ? { ageMs: isMs ? ageMs : ageMs * 1000 } : {};
    return said(device, values.sample(device, arrival, { class: "inverter", ...age }));
}

/** Channel 0 is the grid's side, the others are its inputs. */
function putField(values: Values, channel: number, field: string, raw: unknown, unit?: unknown): void {
    const entry = own(channel === 0 ? AC : DC, field.toLowerCase().replaceAll(/[^a-z0-9]/g, "")) as PointTable[string];
    if (!entry) return;
    const point = entry[0].replace("#", String(channel));
    if (/energy(_export)?_wh$/.test(point) && parseNumber(raw) === 0) return;
    if (unitOf(point) === "ratio") values.put(point, asRatio(raw));
    else values.put(point, raw, unit === undefined ? entry[1] : (factorOf(unit, point) ?? NaN));
}
