import { z } from "zod";
import { headShape, type MapEntry, MapFile, type MapHead, mapInt, mapText, PointMaps, strictMap, suggest } from "../common/pointmaps.js";
import { isPointName, unitOf } from "../common/units.js";
import type { ModelValues } from "./decode.js";
import { type GroupDef, officialModels } from "./model.js";
import { factorOf } from "./units.js";

/** In order of rank: where a device is several of these, the first has its plain name. */
export const DEVICE_CLASSES = ["inverter", "meter", "battery", "weather", "tracker", "mppt"] as const;
export type DeviceClass = (typeof DEVICE_CLASSES)[number];

/** One model, or several that measure the same, that points of a class are read from. */
export interface Source {
    /** Of the sources of a part, those of the first model that the device has are taken. */
    part: string;
    /** In order of preference. */
    models: readonly number[];
    /** The repeating group that the points are in; without one they are the model's own. */
    group: string | undefined;
    /** Which entries of the group count. */
    only: (entry: ModelValues) => boolean;
    /**
     * Our point by what SunSpec calls it: `A|B` takes the first that the model has, `A+B` joins the flags of all. In a group `{i}` is
     * its number from 1, `{n}` the same but nothing for the first.
     */
    points: Readonly<Record<string, string>>;
    /** Changes slowly: read in the slow group. */
    slow: boolean;
    /** No device is ever all zeros here: some send such frames while they start or stop. */
    neverZero: boolean;
    /** Points whose direction the model leaves to the maker. */
    directed: readonly string[];
    /** Does not make a device one of the class, only adds to one. */
    adds: boolean;
}

/** A map of protocol sunspec. */
export interface SunSpecMap extends MapHead {
    readonly class: DeviceClass;
    readonly sources: readonly Source[];
}

/** What each class is read from; a point that two parts give comes from the earlier one. */
export type ClassSources = Readonly<Record<DeviceClass, readonly Source[]>>;

const SUNSPEC_NAMES = /^[A-Za-z]\w*([|+][A-Za-z]\w*)*$/;

/** The name of a point in entry `number` of a group, from 1. */
export function nameOf(template: string, number: number): string {
    return template.replace("{i}", String(number)).replace("{n}", number === 1 ? "" : `_${number}`);
}

/** Made when the first map is read, not when Node-RED starts. */
function buildSchema() {
    const text = mapText("a name as in the SunSpec model");
    const condition = () =>
        strictMap({
            point: text,
            is: z.array(z.union([z.number(), z.string()]), { error: "must be a list of values, such as [0, 1]" }).min(1).optional(),
            starts: z.array(text, { error: "must be a list of beginnings of a text" }).min(1).optional(),
            or_absent: z.boolean({ error: "must be true or false" }).optional(),
        }).optional();
    const flag = () => z.boolean({ error: "must be true or false" }).optional();
    const source = strictMap({
        part: mapText("a name that sources which stand for each other share"),
        models: z.array(mapInt(1, 65_534), { error: "must be a list of model ids, such as [101, 102, 103]" }).min(1, "must name at least one model"),
        group: text.optional(),
        only: condition(),
        except: condition(),
        slow: flag(),
        never_zero: flag(),
        adds: flag(),
        directed: z.array(text, { error: "must be a list of points" }).optional(),
        points: z.record(z.string(), text, { error: "must be our points with their SunSpec names, such as {ac_power_w: W}" }),
    });
    return strictMap({ ...headShape(), sources: z.array(source, { error: "must be a list, each beginning with a dash" }).min(1, "must have at least one source") });
}

let schema: ReturnType<typeof buildSchema> | undefined;
type RawSource = z.output<ReturnType<typeof buildSchema>>["sources"][number];

/**
 * Reads a map of protocol sunspec.
 * @throws PointMapError POINTMAP_INVALID naming file, line and fix of every fault; POINTMAP_PROTOCOL, POINTMAP_TOO_LARGE
 */
export function parseSunSpecMap(text: string, origin: string): SunSpecMap {
    return parse(text, origin, false);
}

/** Reads a map of a user: what it names is looked up in the models, too. */
export function parseUserMap(text: string, origin: string): SunSpecMap {
    return parse(text, origin, true);
}

function parse(text: string, origin: string, thorough: boolean): SunSpecMap {
    const file = MapFile.parse(text, origin);
    file.expect("sunspec");
    const raw = file.check((schema ??= buildSchema()));
    const cls = DEVICE_CLASSES.find((one) => one === raw.class);
    if (!cls) file.fault(["class"], `sunspec devices are one of ${DEVICE_CLASSES.join(", ")}`);
    for (const [index, source] of raw.sources.entries()) checkSource(file, ["sources", String(index)], source, thorough);
    file.done();
    return { ...raw, class: cls!, sources: raw.sources.map(build) };
}

function build(raw: RawSource): Source {
    const [only, except] = [raw.only && matcher(raw.only), raw.except && matcher(raw.except)];
    return {
        part: raw.part,
        models: raw.models,
        group: raw.group,
        only: (entry) => (only?.(entry) ?? true) && !except?.(entry),
        points: raw.points,
        slow: raw.slow ?? false,
        neverZero: raw.never_zero ?? false,
        directed: raw.directed ?? [],
        adds: raw.adds ?? false,
    };
}

function matcher({ point, is, starts = [], or_absent: orAbsent = false }: NonNullable<RawSource["only"]>): (entry: ModelValues) => boolean {
    const beginnings = starts.map((text) => text.toLowerCase());
    return ({ [point]: value }) => {
        if (value === undefined) return orAbsent;
        if (is?.some((one) => one === value)) return true;
        return typeof value === "string" && beginnings.some((text) => value.toLowerCase().startsWith(text));
    };
}

function checkSource(file: MapFile, path: readonly string[], { models, group, points, directed = [], only, except }: RawSource, thorough: boolean): void {
    const at = (...keys: string[]) => [...path, ...keys];
    for (const [name, from] of Object.entries(points)) {
        const isNumbered = /\{[in]\}/.test(name);
        if (!isPointName(nameOf(name, 1))) file.fault(at("points", name), "a point's name is snake_case and ends in its unit, such as ac_power_w");
        if (isNumbered !== (group !== undefined)) file.fault(at("points", name), group === undefined ? "{i} and {n} number the entries of a group: add group" : "is in a group that repeats: number it with {i} or {n}");
        if (!SUNSPEC_NAMES.test(from)) file.fault(at("points", name), `"${from}" is no SunSpec name; A|B takes the first that is there, A+B joins flags`);
    }
    for (const name of directed) if (!Object.hasOwn(points, name)) file.fault(at("directed"), `there is no point "${name}": ${suggest(name, Object.keys(points))}`);
    for (const [key, condition] of Object.entries({ only, except })) {
        if (!condition) continue;
        if (group === undefined) file.fault(at(key), "chooses entries of a group: add group");
        if (!condition.is && !condition.starts) file.fault(at(key), "needs is: [values] or starts: [texts]");
    }
    if (thorough) checkNames(file, path, { models, group, points });
}

/** Holds a map against the models it names. */
function checkNames(file: MapFile, path: readonly string[], { models, group, points }: Pick<RawSource, "models" | "group" | "points">): void {
    const groups: GroupDef[] = [];
    for (const id of models) {
        const model = officialModels.get(id);
        const found = group === undefined ? model : model?.groups.find(({ name }) => name === group);
        if (!model) file.fault([...path, "models"], `there is no definition of model ${id}`);
        else if (!found) file.fault([...path, "group"], `model ${id} has no group "${group}": ${suggest(group!, model.groups.map(({ name }) => name))}`);
        else groups.push(found);
    }
    const defs = groups.flatMap((one) => one.points);
    for (const [name, from] of Object.entries(points)) {
        const names = from.split(/[|+]/);
        const found = defs.filter((def) => names.includes(def.name));
        if (groups.length > 0 && found.length === 0) file.fault([...path, "points", name], `no model of this source has ${from}: ${suggest(names[0]!, defs.map((def) => def.name))}`);
        const unit = unitOf(nameOf(name, 1));
        const other = unit && found.find((def) => def.unit !== undefined && factorOf(def.unit, unit) === undefined);
        if (other) file.fault([...path, "points", name], `${other.name} is in ${other.unit}, which does not fit the name's ending _${unit}: rename the point`);
    }
}

/** The ids of sunspec maps begin with it, so that no other file needs to be looked into. */
const PREFIX = "sunspec-";

/**
 * What every class is read from: the maps that come with the package, or the user's with the same id; and before them the sources of
 * the user's further maps.
 * @throws PointMapError when one of them cannot be used.
 */
export function loadSources(maps: PointMaps): ClassSources {
    const sources: Record<DeviceClass, Source[]> = { inverter: [], meter: [], battery: [], weather: [], tracker: [], mppt: [] };
    const entries = maps.list().filter(({ id }) => id.startsWith(PREFIX));
    const isFurther = ({ origin, notice }: MapEntry) => origin === "user" && notice === undefined;
    for (const { id, origin } of [...entries.filter(isFurther), ...entries.filter((entry) => !isFurther(entry))]) {
        const map = maps.load(id, origin === "user" ? parseUserMap : parseSunSpecMap);
        sources[map.class].push(...map.sources);
    }
    return sources;
}

/** Which maps of the package a user's take the place of, a sentence each. */
export function replacements(maps: PointMaps): string[] {
    return maps.list().flatMap(({ id, notice }) => (id.startsWith(PREFIX) && notice !== undefined ? [notice] : []));
}

let shipped: ClassSources | undefined;

/** The maps of the package alone, loaded when they are first asked for. */
export function shippedSources(): ClassSources {
    return (shipped ??= loadSources(new PointMaps()));
}
