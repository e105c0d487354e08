import { isObject } from "../../common/json.js";
import type { Preset } from "../preset.js";
import { asRatio, deviceName, invalid, levelsBelow, own, parseJson, parseNumber, type PointTable, said, secondsOf, textOf, Values } from "../values.js";

const AC: PointTable = {
    P_AC: ["ac_power_w"],
    U_AC: ["ac_voltage_l1_v"],
    I_AC: ["ac_current_l1_a"],
    F_AC: ["ac_frequency_hz"],
    Q_AC: ["ac_reactive_power_var"],
    PF_AC: ["power_factor_ratio"],
    Temp: ["cabinet_temperature_c"],
    P_DC: ["dc_power_w"],
    Efficiency: ["efficiency_pct"],
    YieldDay: ["ac_energy_today_wh"],
    YieldTotal: ["ac_energy_export_wh", 1000],
};
const DC: PointTable = {
    P_DC: ["mppt#_dc_power_w"],
    U_DC: ["mppt#_dc_voltage_v"],
    I_DC: ["mppt#_dc_current_a"],
    YieldDay: ["mppt#_dc_energy_today_wh"],
    YieldTotal: ["mppt#_dc_energy_wh", 1000],
};
const CHANNELS = [0, 1, 2, 3, 4, 5, 6];

/**
 * AhoyDTU: a plain value a topic, or an object a channel with its own time. The device is the inverter's name as it is set there.
 * A total of 0, which it sends for an inverter that it does not reach, is no measurement. `total` is not taken: a sum, counted twice.
 */
export const ahoy: Preset = {
    id: "ahoy",
    topics: ({ prefix }) => CHANNELS.flatMap((channel) => [`${prefix || "inverter"}/+/ch${channel}`, `${prefix || "inverter"}/+/ch${channel}/+`]),
    createDecoder: ({ prefix }) => ({
        decode: (arrival) => {
            const levels = levelsBelow(arrival.topic, prefix || "inverter") ?? [];
            const channel = /^ch([0-6])$/.exec(levels[1] ?? "")?.[1];
            if (channel === undefined || levels.length > 3) throw invalid("Not a topic of AhoyDTU: <prefix>/<name>/ch<number> was expected.");
            const device = deviceName(levels[0]);
            const body = levels.length === 3 ? { [levels[2]!]: textOf(arrival) } : parseJson(textOf(arrival));
            if (!isObject(body)) throw invalid("AhoyDTU sends an object for a channel.");
            const values = new Values();
            for (const key in body) {
                const entry = own(channel === "0" ? AC : DC, key) as PointTable[string];
                if (!entry || (key === "YieldTotal" && parseNumber(body[key]) === 0)) continue;
                values.put(entry[0].replace("#", channel), key === "PF_AC" ? asRatio(body[key]) : body[key], entry[1]);
            }
            const ts = levels.length === 3 ? undefined : secondsOf(own(body, "ts"));
            return said(device, values.sample(device, arrival, { class: "inverter", ...(ts !== undefined && { ts }) }));
        },
    }),
};
