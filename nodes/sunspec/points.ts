import type { Counter, Sample } from "../common/sample.js";
import { isCounter, LIMITS, unitOf } from "../common/units.js";
import { type ClassSources, DEVICE_CLASSES, type DeviceClass, nameOf, type Source } from "./class-maps.js";
import { type DecodedModel, type ModelValue, type ModelValues, symbolsOf } from "./decode.js";
import type { GroupDef, ModelDef, PointDef } from "./model.js";
import { factorOf } from "./units.js";

/** Where a device states the most it can do, in W. */
const RATINGS: Readonly<Record<number, readonly string[]>> = { 120: ["WRtg"], 702: ["WMaxRtg"], 802: ["WChaRteMax", "WDisChaRteMax"] };

/** DC inputs and overload go beyond the AC rating, a misread goes beyond this many times of it. */
const OVER_RATING = 2;

/** What a positive power means on devices whose model does not say. */
export interface Conventions {
    /** Meters (models 201-214). `auto` knows that SolarEdge counts export as positive; the others do not. */
    meterPositive: "auto" | "import" | "export";
    /** Batteries (model 802). */
    batteryPositive: "discharge" | "charge";
}

/** What is known of the device whose model is read. */
export interface DeviceFacts extends Conventions {
    manufacturer: string;
    /** The most it can do, in W, where it says so. */
    ratedW: number | undefined;
}

/** Reads one model's part of a device into `into`; a point that is there already is kept. */
export type Extract = (decoded: DecodedModel, into: Sample) => void;

/** One model that a class of device is read from. */
export interface BoundModel<M> {
    model: M;
    def: ModelDef;
    slow: boolean;
    neverZero: boolean;
    extract: Extract;
}

/** The classes that a device with these models is, by rank. */
export function classesOf(models: readonly { id: number }[], sources: ClassSources): DeviceClass[] {
    const has = (source: Source) => !source.adds && models.some(({ id }) => source.models.includes(id));
    const classes = DEVICE_CLASSES.filter((cls) => sources[cls].some(has));
    // Models 160 and 714 alone are an optimizer or a combiner; beside an inverter or a battery they belong to it.
    return classes.filter((cls) => cls !== "mppt" || classes.length === 1);
}

/**
 * Chooses the models a class is read from and prepares reading them.
 * @param models The device's models in its own order; of two with the same id the first counts.
 * @param definition A model's definition, undefined for an unknown one.
 */
export function bindModels<M extends { id: number }>(
    cls: DeviceClass,
    models: readonly M[],
    definition: (id: number) => ModelDef | undefined,
    facts: DeviceFacts,
    sources: ClassSources,
): BoundModel<M>[] {
    const names = [...new Set(sources[cls].map(({ part }) => part))];
    const parts = names.map((name) => sources[cls].filter(({ part }) => part === name));
    return parts.flatMap((part) => {
        for (const id of part.flatMap((source) => source.models)) {
            const model = models.find((one) => one.id === id);
            const def = model && definition(id);
            if (!model || !def) continue;
            const chosen = part.filter((source) => source.models.includes(id));
            const extracts = chosen.map((source) => compile(source, def, facts, cls));
            return {
                model,
                def,
                slow: chosen.every(({ slow }) => slow),
                neverZero: chosen.some(({ neverZero }) => neverZero),
                extract: (decoded: DecodedModel, into: Sample) => {
                    for (const one of extracts) one(decoded, into);
                },
            };
        }
        return [];
    });
}

/** Ids of models that state ratings. */
export const RATING_MODELS: readonly number[] = Object.keys(RATINGS).map(Number);

/** The highest rating that a device states, in W. */
export function ratingIn(models: readonly DecodedModel[]): number | undefined {
    const ratings = models.flatMap(({ id, values }) => (RATINGS[id] ?? []).map((name) => Number(values[name])));
    const highest = Math.max(...ratings.filter((watts) => watts > 0));
    return Number.isFinite(highest) ? highest : undefined;
}

interface Extractor {
    template: string;
    /** The template's names by number, made once: they are needed at every poll. */
    names: string[];
    defs: readonly PointDef[];
    kind: "number" | "ratio" | "counter" | "text";
    /** From the device's unit and sign to ours. */
    factor: number;
    min: number;
    max: number;
    kostal: boolean;
}

function compile({ points, group, only, directed }: Source, def: ModelDef, facts: DeviceFacts, cls: DeviceClass): Extract {
    const flipped = new Set(countsOtherWay(cls, facts) ? directed : []);
    const owner = group === undefined ? def : def.groups.find(({ name }) => name === group);
    const extractors = owner ? Object.entries(points).flatMap(([name, from]) => extractor(name, from, owner, facts, flipped)) : [];
    return (decoded, into) => {
        // Paths are put together only where there is something to look up.
        const isClean = Object.keys(decoded.bad).length === 0;
        if (group === undefined) {
            for (const one of extractors) extract(one, one.template, decoded.values, decoded, isClean ? undefined : "", into);
            return;
        }
        const entries = entriesOf(decoded.values[group]);
        let number = 0;
        for (let index = 0; index < entries.length; index++) {
            const entry = entries[index]!;
            if (!only(entry)) continue;
            number++;
            const path = isClean ? undefined : `${group}[${index}].`;
            for (const one of extractors) extract(one, (one.names[number] ??= nameOf(one.template, number)), entry, decoded, path, into);
        }
    };
}

function countsOtherWay(cls: DeviceClass, { meterPositive, batteryPositive, manufacturer }: DeviceFacts): boolean {
    if (cls !== "meter") return batteryPositive === "charge";
    return meterPositive === "export" || (meterPositive === "auto" && /^solar ?edge/i.test(manufacturer));
}

function entriesOf(group: ModelValue | ModelValues | ModelValues[] | undefined): ModelValues[] {
    return Array.isArray(group) ? group : [];
}

function extractor(template: string, from: string, group: GroupDef, facts: DeviceFacts, flipped: ReadonlySet<string>): Extractor[] {
    const find = (name: string) => group.points.find((point) => point.name === name);
    const alternatives = from.split("|").map((names) => names.split("+").map(find).filter((def) => def !== undefined));
    const defs = alternatives.find(({ length }) => length > 0);
    if (!defs) return [];
    const unit = unitOf(nameOf(template, 1));
    if (unit === undefined) return [{ template, names: [], defs, kind: "text", factor: 1, min: 0, max: 0, kostal: false }];
    const [low, high] = LIMITS[unit] ?? [-Infinity, Infinity];
    const rated = facts.ratedW !== undefined && ["w", "var", "va"].includes(unit) ? OVER_RATING * facts.ratedW : Infinity;
    return [
        {
            template,
            names: [],
            defs: defs.slice(0, 1),
            kind: unit === "ratio" ? "ratio" : isCounter(nameOf(template, 1)) ? "counter" : "number",
            factor: (unit === "ratio" ? 1 : (factorOf(defs[0]!.unit ?? "", unit) ?? 1)) * (flipped.has(template) ? -1 : 1),
            min: Math.max(low, -rated),
            max: Math.min(high, rated),
            kostal: /kostal/i.test(facts.manufacturer),
        },
    ];
}

/** @param path Where the group's faults are found in `decoded.bad`; undefined when there are none. */
function extract(one: Extractor, point: string, group: ModelValues, decoded: DecodedModel, path: string | undefined, into: Sample): void {
    if (point in into.values || point in into.counters) return;
    const def = one.defs[0]!;
    const fault = path === undefined ? undefined : decoded.bad[path + def.name];
    if (fault) into.bad[point] ??= fault;
    if (one.kind === "text") {
        const text = textOf(one.defs, group);
        if (text !== undefined) into.values[point] = text;
        return;
    }
    const raw = group[def.name];
    if (typeof raw !== "number" && typeof raw !== "bigint") return;
    let value = Number(raw) * one.factor;
    // Some state the power factor in percent, some as a ratio, whatever the model says; 1 % does not occur.
    if (one.kind === "ratio" && Math.abs(value) > 1.005) value = Math.round(value * 1e4) / 1e6;
    if (!(value >= one.min && value <= one.max)) {
        into.bad[point] ??= "range";
        return;
    }
    if (point in into.bad) delete into.bad[point];
    if (one.kind === "counter") into.counters[point] = counterOf(one, def, value, group, decoded.values);
    else into.values[point] = value === 0 ? 0 : value;
}

/** Bits of a counter by its type; floats do not roll over. */
const COUNTER_BITS: Partial<Record<string, number>> = { acc16: 16, uint16: 16, acc32: 32, uint32: 32, acc64: 64, uint64: 64 };

function counterOf(one: Extractor, def: PointDef, wh: number, group: ModelValues, top: ModelValues): Counter {
    const bits = COUNTER_BITS[def.type];
    if (bits === undefined) return { wh };
    const sf = typeof def.sf === "string" ? Number(group[def.sf] ?? top[def.sf] ?? 0) : (def.sf ?? 0);
    const modulusWh = 2 ** bits * 10 ** sf * one.factor;
    // Kostal counts down from zero: what would be negative in an int32 is the energy with the sign turned.
    const negative = one.kostal && def.type === "acc32" && wh >= modulusWh / 2;
    return { wh: negative ? modulusWh - wh : wh, modulusWh };
}

/** An enum's symbol, the flags of bitfields as a list, or a text; undefined where the device has none of them. */
function textOf(defs: readonly PointDef[], group: ModelValues): string | undefined {
    const flags: string[] = [];
    let known = false;
    for (const def of defs) {
        const value = group[def.name];
        if (typeof value === "string") return value;
        if (typeof value !== "number" && typeof value !== "bigint") continue;
        if (!def.type.startsWith("bitfield")) return symbolsOf(def, value)[0] ?? String(value);
        known = true;
        if (value !== 0) flags.push(...flagsOf(def, value));
    }
    return known ? flags.join(",") : undefined;
}

/** Names of the bits that are set; `EvtVnd1:3` for one that has none. */
export function flagsOf(def: PointDef, value: number | bigint): string[] {
    const named = symbolsOf(def, value);
    const known = Object.values(def.symbols ?? {}).reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
    const rest = BigInt(value) & ~known;
    for (let bit = 0; rest >> BigInt(bit) > 0n; bit++) if ((rest >> BigInt(bit)) & 1n) named.push(`${def.name}:${bit}`);
    return named;
}

/** Completes what no single model says: a battery's power from its two directions. */
export function derive(cls: DeviceClass, { values }: Sample): void {
    const { dc_charge_power_w: charge, dc_discharge_power_w: discharge } = values;
    if (cls !== "battery" || values["dc_power_w"] !== undefined) return;
    if (typeof charge === "number" && typeof discharge === "number") values["dc_power_w"] = discharge - charge;
}
