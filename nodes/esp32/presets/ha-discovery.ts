import { Recent } from "../../common/recent.js";
import { mappedFactor, valueAt } from "../mapping.js";
import { pointWithUnit } from "../names.js";
import type { Arrival, Decoded, Mapping, Preset } from "../preset.js";
import { deviceName, factorOf, invalid, type JsonObject, levelsBelow, own, parseJson, parseJsonObject, parseNumber, said, textOf, Values } from "../values.js";

const MOST_SENSORS = 2000;
/** Of one topic: more than any device has. */
const MOST_OF_TOPIC = 200;
/** Topics by which devices are told what to do. */
const ORDERS = /(^|\/)(cmd|cmnd|command|set|rpc|ctrl)(\/|$)/i;

interface Sensor {
    device: string;
    topic: string;
    /** Where in the JSON; absent: the message is the value. */
    path: string | undefined;
    point: string;
    factor: number;
    /** Its value is true for a while only. */
    expires: boolean;
}

/**
 * Home Assistant's discovery: `<prefix>/sensor/[<node>/]<object>/config` says topic, template, unit and device of each sensor, with long or
 * abbreviated keys. A sensor's name and unit make its point, unless the mapping gives it another by its name (`path`). Of templates only `value` and `value_json` with names are understood; a sensor with another one is left out.
 */
export const haDiscovery: Preset = {
    id: "ha-discovery",
    topics: ({ prefix }) => [`${prefix || "homeassistant"}/sensor/+/config`, `${prefix || "homeassistant"}/sensor/+/+/config`],
    createDecoder: ({ prefix, mapping, onTopic }) => {
        const sensors = new Recent<Sensor>(MOST_SENSORS);
        const byTopic = new Recent<Set<string>>(MOST_SENSORS);
        /** Whose each point of a device is. */
        const owners = new Recent<string>(MOST_SENSORS);
        const announced = (topic: string, text: string): Decoded[] => {
            const old = sensors.get(topic);
            if (old) {
                const owned = `${old.device}/${old.point}`;
                if (owners.get(owned) === topic) owners.delete(owned);
                byTopic.get(old.topic)?.delete(topic);
                sensors.delete(topic);
            }
            const { device, sensor, unmapped } = text === "" ? {} : parseConfig(parseJsonObject(text), topic, mapping, (point) => (owners.get(point) ?? topic) === topic);
            if (!sensor) return unmapped === undefined || device === undefined ? [] : said(device, [], [unmapped]);
            const users = byTopic.get(sensor.topic) ?? new Set();
            if (users.size >= MOST_OF_TOPIC) for (const user of users) if (!sensors.has(user)) users.delete(user);
            if (users.size >= MOST_OF_TOPIC) throw invalid(`More than ${MOST_OF_TOPIC} sensors share one topic.`);
            sensors.set(topic, sensor);
            owners.set(`${sensor.device}/${sensor.point}`, topic);
            byTopic.set(sensor.topic, users.add(topic));
            onTopic?.(sensor.topic);
            return [];
        };
        return {
            decode: (arrival) => {
                if (arrival.via !== "mqtt" || arrival.topic === undefined) throw invalid("Home Assistant's discovery comes by MQTT.");
                const levels = levelsBelow(arrival.topic, prefix || "homeassistant");
                if (levels?.[0] === "sensor" && levels.at(-1) === "config") return announced(arrival.topic, textOf(arrival));
                const users = byTopic.get(arrival.topic);
                if (!users) throw invalid("No sensor was announced for this topic.");
                return measured([...users].flatMap((config) => sensors.get(config) ?? []), arrival);
            },
        };
    },
};

/** The values of all sensors that share a topic, a sample for each device. */
function measured(sensors: readonly Sensor[], arrival: Arrival): Decoded[] {
    const text = textOf(arrival);
    const json = sensors.some(({ path }) => path !== undefined) ? parseJson(text) : undefined;
    const devices = new Map<string, Values>();
    for (const { device, path, point, factor, expires } of sensors) {
        // What expires and is of an unknown age is none any more.
        if (expires && arrival.retained) continue;
        const values = devices.get(device) ?? new Values();
        devices.set(device, values);
        values.put(point, path === undefined ? text : valueAt(json, path), factor);
    }
    return [...devices].flatMap(([device, values]) => said(device, values.sample(device, arrival)));
}

/** A sensor by its configuration; only a name where it measures something that cannot be taken. Two of one name are told apart by their objects. */
function parseConfig(config: JsonObject, topic: string, mapping: Mapping | undefined, isFree: (point: string) => boolean): { device?: string; sensor?: Sensor; unmapped?: string } {
    const get = (short: string, long: string) => own(config, short) ?? own(config, long);
    const about = get("dev", "device");
    const ids = own(about, "ids") ?? own(about, "identifiers");
    const id = Array.isArray(ids) ? (ids as unknown[])[0] : ids;
    const unique = get("uniq_id", "unique_id");
    const unit = get("unit_of_meas", "unit_of_measurement");
    const names = [own(config, "name"), get("obj_id", "object_id"), topic.split("/").at(-2)].filter((text): text is string => typeof text === "string" && text !== "");
    // Texts and times have no unit.
    if (typeof unit !== "string" || unit === "") return {};
    const device = deviceName(id ?? own(about, "name") ?? unique);
    const base = get("~", "~");
    const stated = get("stat_t", "state_topic");
    const path = templatePath(get("val_tpl", "value_template"));
    const found = names.flatMap((name) => mappedPoint(mapping, name, unit) ?? pointWithUnit(name, unit) ?? []).find(({ point }) => isFree(`${device}/${point}`));
    if (typeof stated !== "string" || path === null || !found) return { device, unmapped: names[0] ?? topic };
    const state = typeof base === "string" ? stated.replace(/^~|~$/, base) : stated;
    if (/[+#\0]|^\$|^$/.test(state) || state.length > 256 || ORDERS.test(state)) throw invalid(`The state topic of "${(names[0] ?? "").slice(0, 50)}" is none that sensors have.`);
    const expires = parseNumber(get("exp_aft", "expire_after"));
    return { device, sensor: { device, topic: state, path, ...found, expires: typeof expires === "number" && expires > 0 } };
}

/** The user's point for a sensor of this name, in the sensor's unit unless the mapping has another. */
function mappedPoint(mapping: Mapping | undefined, name: string, unit: string): { point: string; factor: number } | undefined {
    const entry = mapping?.points.find(({ path }) => path === name);
    const factor = entry && (entry.unit === undefined ? factorOf(unit, entry.point) : 1);
    return entry && factor !== undefined ? { point: entry.point, factor: factor * mappedFactor(entry) } : undefined;
}

/** The path in `{{ value_json.a.b }}`, undefined for `{{ value }}` or none, null for what is not understood. */
function templatePath(template: unknown): string | undefined | null {
    if (template === undefined || template === null || template === "") return undefined;
    const inner = typeof template === "string" && template.length <= 300 ? /^\s*\{\{-?\s*(.*?)\s*-?\}\}\s*$/s.exec(template)?.[1] : undefined;
    if (inner === undefined) return null;
    // Rounding and conversions to numbers change nothing of what is measured.
    const bare = inner.replace(/(\s*\|\s*(float|int|round)(\([^()]*\))?)+$/, "");
    if (bare === "value") return undefined;
    return /^value_json((\.[A-Za-z_]\w*)|(\[\d+\])|(\[(["'])[^"'\]]+\5\]))+$/.test(bare) ? bare.slice("value_json".length).replace(/^\./, "") : null;
}
