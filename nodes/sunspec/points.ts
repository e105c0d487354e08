import { type Canonical, type Counter, isCounter, LIMITS } from "../common/canonical.js";
import { unitOf } from "../common/units.js";
import { type DecodedModel, type ModelValue, type ModelValues, symbolsOf } from "./decode.js";
import type { GroupDef, ModelDef, PointDef } from "./model.js";
import { SUNSPEC_UNITS } from "./units.js";

/** In order of rank: where a device is several of these, the first has its plain name. */
export const DEVICE_CLASSES = ["inverter", "meter", "battery", "weather", "tracker", "mppt"] as const;
export type DeviceClass = (typeof DEVICE_CLASSES)[number];

/**
 * Our point by what SunSpec calls it: `A|B` takes the first that the model has, `A+B` joins the flags of all. In a repeating
 * group `{i}` is its number from 1, `{n}` the same but nothing for the first.
 */
type Names = Readonly<Record<string, string>>;

interface Source {
    /** Models that measure the same. */
    models: readonly number[];
    points?: Names;
    repeats?: readonly { group: string; points: Names; only?: (entry: ModelValues) => boolean }[];
    /** Changes slowly: read in the slow group. */
    slow?: true;
    /** No device is ever all zeros here: some send such frames while they start or stop. */
    neverZero?: true;
    /** Points whose direction the model leaves to the maker. */
    signed?: readonly string[];
}

const AC: Names = {
    ac_current_a: "A",
    ac_current_l1_a: "AphA|AL1",
    ac_current_l2_a: "AphB|AL2",
    ac_current_l3_a: "AphC|AL3",
    ac_voltage_l1_v: "PhVphA|VL1",
    ac_voltage_l2_v: "PhVphB|VL2",
    ac_voltage_l3_v: "PhVphC|VL3",
    ac_voltage_l1_l2_v: "PPVphAB|PhVphAB|VL1L2",
    ac_voltage_l2_l3_v: "PPVphBC|PhVphBC|VL2L3",
    ac_voltage_l3_l1_v: "PPVphCA|PhVphCA|VL3L1",
    ac_frequency_hz: "Hz",
    ac_power_w: "W",
    ac_power_l1_w: "WphA|WL1",
    ac_power_l2_w: "WphB|WL2",
    ac_power_l3_w: "WphC|WL3",
    ac_apparent_power_va: "VA",
    ac_reactive_power_var: "VAr|VAR|Var",
    power_factor_ratio: "PF",
    ac_energy_import_wh: "TotWhImp|TotWhAbs",
    ac_energy_export_wh: "WH|TotWhExp|TotWhInj",
    alarms: "Evt1+Evt2+EvtVnd1+EvtVnd2+EvtVnd3+EvtVnd4|Evt|Alrm",
};

const INVERTER: Names = {
    ...AC,
    dc_current_a: "DCA",
    dc_voltage_v: "DCV",
    dc_power_w: "DCW",
    ambient_temperature_c: "TmpAmb",
    cabinet_temperature_c: "TmpCab",
    heatsink_temperature_c: "TmpSnk",
    transformer_temperature_c: "TmpTrns",
    switch_temperature_c: "TmpSw",
    other_temperature_c: "TmpOt",
    state: "InvSt|St",
    vendor_state: "StVnd",
};

const MPPT: Names = {
    "mppt{i}_dc_current_a": "DCA",
    "mppt{i}_dc_voltage_v": "DCV",
    "mppt{i}_dc_power_w": "DCW",
    "mppt{i}_dc_energy_wh": "DCWH|DCWhInj",
    "mppt{i}_temperature_c": "Tmp",
    "mppt{i}_state": "DCSt|DCSta",
    "mppt{i}_alarms": "DCEvt|DCAlrm",
};

/** Port types of model 714. */
const PV_PORT = 0;
const ESS_PORT = 1;

/** Fronius hybrids show the two directions of their battery as further modules of model 160, named StCha and StDisCha. */
const storageModule = ({ IDStr }: ModelValues) => (typeof IDStr === "string" ? /^st(dis)?cha/i.exec(IDStr) : null);

const MPPTS: readonly Source[] = [
    { models: [160], repeats: [{ group: "module", points: MPPT, only: (entry) => !storageModule(entry) }] },
    { models: [714], repeats: [{ group: "Prt", points: MPPT, only: ({ PrtTyp }) => PrtTyp === undefined || PrtTyp === PV_PORT }] },
];

/** Of each list the first source that the device has is taken; a point that two sources give comes from the earlier one. */
const SOURCES: Readonly<Record<DeviceClass, readonly (readonly Source[])[]>> = {
    inverter: [
        [
            { models: [101, 102, 103, 111, 112, 113], points: INVERTER, neverZero: true },
            { models: [701], points: INVERTER, neverZero: true },
        ],
        MPPTS,
    ],
    meter: [
        [
            {
                models: [201, 202, 203, 204, 211, 212, 213, 214],
                points: { ...AC, ac_voltage_v: "PhV" },
                neverZero: true,
                signed: ["ac_power_w", "ac_power_l1_w", "ac_power_l2_w", "ac_power_l3_w", "ac_reactive_power_var"],
            },
        ],
    ],
    battery: [
        [
            {
                models: [802],
                points: {
                    soc_pct: "SoC",
                    soh_pct: "SoH",
                    dc_voltage_v: "V",
                    dc_current_a: "A",
                    dc_power_w: "W",
                    energy_capacity_wh: "WHRtg",
                    cell_voltage_max_v: "CellVMax",
                    cell_voltage_min_v: "CellVMin",
                    charge_state: "ChaSt",
                    state: "State",
                    alarms: "Evt1+Evt2+EvtVnd1+EvtVnd2",
                },
                neverZero: true,
                signed: ["dc_power_w", "dc_current_a"],
            },
            {
                models: [713],
                points: { soc_pct: "SoC", soh_pct: "SoH", energy_capacity_wh: "WHRtg", energy_available_wh: "WHAvail", state: "Sta" },
                slow: true,
            },
            { models: [124], points: { soc_pct: "ChaState", dc_voltage_v: "InBatV", charge_state: "ChaSt" }, slow: true },
        ],
        [
            {
                models: [803],
                points: {
                    module_temperature_max_c: "ModTmpMax",
                    module_temperature_min_c: "ModTmpMin",
                    module_temperature_c: "ModTmpAvg",
                },
                slow: true,
            },
        ],
        [
            {
                models: [714],
                repeats: [
                    {
                        group: "Prt",
                        points: {
                            "dc_current{n}_a": "DCA",
                            "dc_voltage{n}_v": "DCV",
                            "dc_power{n}_w": "DCW",
                            "dc_energy_discharge{n}_wh": "DCWhInj",
                            "dc_energy_charge{n}_wh": "DCWhAbs",
                        },
                        only: ({ PrtTyp }) => PrtTyp === ESS_PORT,
                    },
                ],
            },
            {
                models: [160],
                repeats: [
                    {
                        group: "module",
                        points: { "dc_discharge_power{n}_w": "DCW", "dc_energy_discharge{n}_wh": "DCWH" },
                        only: (entry) => storageModule(entry)?.[1] !== undefined,
                    },
                    {
                        group: "module",
                        points: { "dc_charge_power{n}_w": "DCW", "dc_energy_charge{n}_wh": "DCWH" },
                        only: (entry) => storageModule(entry)?.[1] === undefined && storageModule(entry) !== null,
                    },
                ],
            },
        ],
    ],
    weather: [
        [
            {
                models: [307],
                points: {
                    ambient_temperature_c: "TmpAmb",
                    relative_humidity_pct: "RH",
                    pressure_pa: "Pres",
                    wind_speed_m_s: "WndSpd",
                    wind_direction_deg: "WndDir",
                    rain_mm: "Rain",
                    snow_depth_mm: "Snw",
                },
            },
        ],
        [
            {
                models: [302],
                repeats: [
                    {
                        group: "repeating",
                        points: {
                            "irradiance_ghi{n}_w_m2": "GHI",
                            "irradiance_poa{n}_w_m2": "POAI",
                            "irradiance_diffuse{n}_w_m2": "DFI",
                            "irradiance_direct{n}_w_m2": "DNI",
                            "irradiance_other{n}_w_m2": "OTI",
                        },
                    },
                ],
            },
        ],
        [{ models: [303], repeats: [{ group: "temp", points: { "module_temperature{n}_c": "TmpBOM" } }] }],
        [
            {
                models: [308],
                points: { irradiance_ghi_w_m2: "GHI", module_temperature_c: "TmpBOM", ambient_temperature_c: "TmpAmb", wind_speed_m_s: "WndSpd" },
            },
        ],
        // The units of the other points of 306 are wrong in its definition.
        [{ models: [306], points: { irradiance_ghi_w_m2: "GHI" } }],
        [
            {
                models: [304],
                repeats: [
                    { group: "incl", points: { "inclination_x{n}_deg": "Inclx", "inclination_y{n}_deg": "Incly", "inclination_z{n}_deg": "Inclz" } },
                ],
                slow: true,
            },
        ],
        [{ models: [305], points: { latitude_deg: "Lat", longitude_deg: "Long" }, slow: true }],
    ],
    tracker: [
        [
            {
                models: [601],
                points: { state: "GlblCtl", alarms: "GlblAlm" },
                repeats: [
                    {
                        group: "tracker",
                        points: {
                            "tracker{i}_elevation_deg": "ElPos",
                            "tracker{i}_azimuth_deg": "AzPos",
                            "tracker{i}_elevation_target_deg": "ElTrgt",
                            "tracker{i}_azimuth_target_deg": "AzTrgt",
                            "tracker{i}_state": "Ctl",
                            "tracker{i}_alarms": "Alm",
                        },
                    },
                ],
            },
        ],
    ],
    mppt: [MPPTS],
};

/** How many of the lists make a device one of the class; the others only add to it. */
const TELLING: Partial<Record<DeviceClass, number>> = { inverter: 1, battery: 2 };

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
export type Extract = (decoded: DecodedModel, into: Canonical) => void;

/** One model that a class of device is read from. */
export interface BoundModel<M> {
    model: M;
    def: ModelDef;
    slow: boolean;
    neverZero: boolean;
    extract: Extract;
}

/** The classes that a device with these models is, by rank. */
export function classesOf(models: readonly { id: number }[]): DeviceClass[] {
    const has = (sources: readonly Source[]) => sources.some((source) => models.some(({ id }) => source.models.includes(id)));
    const classes = DEVICE_CLASSES.filter((cls) => SOURCES[cls].slice(0, TELLING[cls]).some(has));
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
): BoundModel<M>[] {
    return SOURCES[cls].flatMap((alternatives) => {
        for (const source of alternatives) {
            const model = models.find(({ id }) => source.models.includes(id));
            const def = model && definition(model.id);
            if (model && def) {
                return [{ model, def, slow: source.slow ?? false, neverZero: source.neverZero ?? false, extract: compile(source, def, facts, cls) }];
            }
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

function compile(source: Source, def: ModelDef, facts: DeviceFacts, cls: DeviceClass): Extract {
    const flipped = new Set(countsOtherWay(cls, facts) ? source.signed : []);
    const build = (group: GroupDef, names: Names) => Object.entries(names).flatMap(([name, from]) => extractor(name, from, group, facts, flipped));
    const top = build(def, source.points ?? {});
    const repeats = (source.repeats ?? []).flatMap(({ group, points, only }) => {
        const found = def.groups.find(({ name }) => name === group);
        return found ? [{ group, only, extractors: build(found, points) }] : [];
    });
    return (decoded, into) => {
        // Paths are put together only where there is something to look up.
        const isClean = Object.keys(decoded.bad).length === 0;
        for (const one of top) extract(one, one.template, decoded.values, decoded, isClean ? undefined : "", into);
        for (const { group, only, extractors } of repeats) {
            const entries = entriesOf(decoded.values[group]);
            let number = 0;
            for (let index = 0; index < entries.length; index++) {
                const entry = entries[index]!;
                if (only && !only(entry)) continue;
                number++;
                const path = isClean ? undefined : `${group}[${index}].`;
                for (const one of extractors) extract(one, (one.names[number] ??= nameOf(one.template, number)), entry, decoded, path, into);
            }
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

function nameOf(template: string, number: number): string {
    return template.replace("{i}", String(number)).replace("{n}", number === 1 ? "" : `_${number}`);
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
            factor: (SUNSPEC_UNITS[defs[0]!.unit ?? ""]?.factor ?? 1) * (flipped.has(template) ? -1 : 1),
            min: Math.max(low, -rated),
            max: Math.min(high, rated),
            kostal: /kostal/i.test(facts.manufacturer),
        },
    ];
}

/** @param path Where the group's faults are found in `decoded.bad`; undefined when there are none. */
function extract(one: Extractor, point: string, group: ModelValues, decoded: DecodedModel, path: string | undefined, into: Canonical): void {
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
export function derive(cls: DeviceClass, { values }: Canonical): void {
    const { dc_charge_power_w: charge, dc_discharge_power_w: discharge } = values;
    if (cls !== "battery" || values["dc_power_w"] !== undefined) return;
    if (typeof charge === "number" && typeof discharge === "number") values["dc_power_w"] = discharge - charge;
}
