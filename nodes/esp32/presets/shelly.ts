import { isObject } from "../../common/json.js";
import { Recent } from "../../common/recent.js";
import type { Arrival, Decoded, DeviceSample, Preset, PresetOptions } from "../preset.js";
import { deviceName, invalid, type JsonObject, levelsBelow, own, parseJsonObject, parseNumber, phasePoint, type PointTable, said, secondsOf, textOf, Values } from "../values.js";

/** Of a channel that measures one phase: switch, pm1, cover, light, em1. */
const CHANNEL: PointTable = {
    apower: ["ac_power_w"],
    act_power: ["ac_power_w"],
    aprt_power: ["ac_apparent_power_va"],
    voltage: ["ac_voltage_l1_v"],
    current: ["ac_current_l1_a"],
    freq: ["ac_frequency_hz"],
    pf: ["power_factor_ratio"],
};
/** Of a three-phase meter, each phase, and together. */
const PHASE: PointTable = {
    act_power: ["ac_power_w"],
    aprt_power: ["ac_apparent_power_va"],
    voltage: ["ac_voltage_v"],
    current: ["ac_current_a"],
    pf: ["power_factor_ratio"],
};
const TOTAL: PointTable = { total_act_power: ["ac_power_w"], total_aprt_power: ["ac_apparent_power_va"], total_current: ["ac_current_a"], n_current: ["ac_current_n_a"] };
const PHASES = ["a", "b", "c"];
const COMPONENT = /^(switch|pm1|cover|light|em|em1|emdata|em1data):(\d{1,3})$/;
const RETURNED = "ret_aenergy";

/** What is known of one component, which its notifications change piece by piece. */
interface Component {
    fields: JsonObject;
    /** It showed its energy before: what was not with it then, the device does not have. */
    toldEnergy: boolean;
}

/**
 * Shelly, second generation and later: notifications on `<id>/events/rpc`, whole components on `<id>/status/<component>`, or either by
 * HTTP. A notification holds only what changed and is laid over what was known. `aenergy` counts both directions together, so what was
 * returned is taken off it. Each component is a device: `<id>-em.0`, `<id>-switch.1`.
 */
export const shelly: Preset = {
    id: "shelly",
    topics: ({ prefix }) => ["events/rpc", "status/+"].map((part) => `${prefix && `${prefix}/`}+/${part}`),
    createDecoder: (options) => {
        const known = new Recent<Component>(2000);
        return {
            decode: (arrival) => {
                const body = parseJsonObject(textOf(arrival));
                const levels = arrival.via === "mqtt" ? levelsBelow(arrival.topic, options.prefix) : undefined;
                if (levels?.length === 3 && levels[1] === "status") return components(deviceName(levels[0]), { [levels[2]!]: body }, true, arrival, options, known);
                if (levels && levels.slice(1).join("/") !== "events/rpc") throw invalid("Not a topic of a Shelly: <id>/events/rpc or <id>/status/<component> was expected.");
                const device = deviceName(levels?.[0] ?? own(body, "src") ?? arrival.device);
                const { method } = body;
                // Buttons, updates and the like.
                if (method !== undefined && method !== "NotifyStatus" && method !== "NotifyFullStatus") return [];
                const status = isObject(body["params"]) ? body["params"] : isObject(body["result"]) ? body["result"] : body;
                return components(device, status, method !== "NotifyStatus", arrival, options, known);
            },
        };
    },
};

function components(device: string, status: JsonObject, isWhole: boolean, arrival: Arrival, options: PresetOptions, known: Recent<Component>): Decoded[] {
    const ts = secondsOf(own(status, "ts"));
    const samples: DeviceSample[] = [];
    for (const [name, changed] of Object.entries(status)) {
        const [, type = "", index = ""] = COMPONENT.exec(name) ?? [];
        if (type === "" || !isObject(changed)) continue;
        const key = `${device}/${name}`;
        const before = known.get(key);
        const component = { fields: isWhole ? changed : { ...before?.fields, ...kept(changed) }, toldEnergy: isWhole || (before?.toldEnergy ?? false) };
        const values = new Values();
        if (type === "em") putPhases(values, changed);
        else if (type.endsWith("data")) putCounters(values, changed, options);
        else {
            values.putAll(changed, CHANNEL);
            putEnergy(values, changed, component, options);
        }
        known.set(key, { fields: kept(component.fields), toldEnergy: component.toldEnergy || own(changed, "aenergy") !== undefined });
        const more = { class: options.forward === "export" ? "inverter" : "meter", ...(ts !== undefined && { ts }) };
        samples.push(...values.sample(deviceName(`${device}-${type.replace("data", "")}.${Number(index)}`), arrival, more));
    }
    return said(device, samples);
}

/** What later notifications may leave out and still count on. */
function kept(fields: JsonObject): JsonObject {
    const totals = ["aenergy", RETURNED].map((key) => [key, parseNumber(own(own(fields, key), "total"))] as const);
    return Object.fromEntries(totals.filter(([, total]) => total !== undefined).map(([key, total]) => [key, { total }]));
}

/** Forwards less what was returned; nothing while it is not known whether the device counts that. */
function putEnergy(values: Values, changed: JsonObject, { fields, toldEnergy }: Component, { forward = "import" }: PresetOptions): void {
    if (own(changed, "aenergy") === undefined && own(changed, RETURNED) === undefined) return;
    const all = parseNumber(own(own(fields, "aenergy"), "total"));
    const returned = parseNumber(own(own(fields, RETURNED), "total"));
    if (typeof all !== "number" || typeof returned === "string" || (returned === undefined && !toldEnergy)) return;
    values.put(`ac_energy_${forward}_wh`, Number((all - (returned ?? 0)).toFixed(6)));
    values.put(`ac_energy_${other(forward)}_wh`, returned);
}

function putPhases(values: Values, fields: JsonObject): void {
    values.putAll(fields, TOTAL);
    for (const [i, phase] of PHASES.entries()) {
        for (const key in PHASE) {
            const raw = own(fields, `${phase}_${key}`);
            if (raw !== undefined) values.put(phasePoint(PHASE[key]![0], i + 1), raw);
        }
    }
    values.put("ac_frequency_hz", own(fields, "a_freq"));
}

/** `emdata` names its totals otherwise than its phases, and than `em1data`. */
function putCounters(values: Values, fields: JsonObject, { forward = "import" }: PresetOptions): void {
    values.put(`ac_energy_${forward}_wh`, own(fields, "total_act") ?? own(fields, "total_act_energy"));
    values.put(`ac_energy_${other(forward)}_wh`, own(fields, "total_act_ret") ?? own(fields, "total_act_ret_energy"));
    for (const [i, phase] of PHASES.entries()) {
        values.put(`ac_energy_${forward}_l${i + 1}_wh`, own(fields, `${phase}_total_act_energy`));
        values.put(`ac_energy_${other(forward)}_l${i + 1}_wh`, own(fields, `${phase}_total_act_ret_energy`));
    }
}

function other(direction: "import" | "export"): "import" | "export" {
    return direction === "import" ? "export" : "import";
}
