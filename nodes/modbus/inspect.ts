import { systemClock } from "../common/clock.js";
import { EnergyBook } from "../common/energy.js";
import { errorText } from "../common/errors.js";
import { type MapClass, type MapEntry, type MapFault, type MapHead, PointMapError, type PointMaps } from "../common/pointmaps.js";
import type { Deadband } from "../common/report.js";
import { UNITS } from "../common/units.js";
import { type ChosenMap, deviceNameOf, unitsOf } from "./config.js";
import { type Learned, planAround } from "./block-reader.js";
import { explainCut, explainLearned } from "./explain.js";
import type { LinkMember } from "./link.js";
import { type MapItem, type ModbusMap, parseModbusMap } from "./map.js";
import { MapUnit, type RawValue } from "./map-unit.js";
import { type Block, type LinkCost, overlaps } from "./plan.js";
import { planOptionsOf, readGroups } from "./read-groups.js";

/** A map in the dialog's list. */
export interface MapChoice {
    id: string;
    /** `faulty` for a file that cannot be used; choosing it shows why. */
    class: MapClass | "faulty";
    vendor: string;
    models: string[];
    origin: MapEntry["origin"];
}

/** The maps that wl-modbus can read by, by class, vendor and id. */
export function listChoices(maps: PointMaps): MapChoice[] {
    const choices = maps.list().flatMap(({ id, origin }): MapChoice[] => {
        try {
            // The maps of the package are right; of the user's one wants to know before choosing.
            const { class: cls, vendor, models, protocol } = origin === "shipped" ? maps.head(id) : maps.load(id, parseModbusMap);
            return protocol === "modbus" ? [{ id, class: cls, vendor, models, origin }] : [];
        } catch (error) {
            const isForeign = error instanceof PointMapError && error.code === "POINTMAP_PROTOCOL";
            return isForeign ? [] : [{ id, class: "faulty", vendor: "", models: [], origin }];
        }
    });
    const key = ({ class: cls, vendor, id }: MapChoice) => `${cls}\n${vendor}\n${id}`;
    return choices.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** One read of a poll, and why it ends where it does. */
export interface PlannedRead extends Pick<Block<MapItem>, "table" | "address" | "quantity" | "ms" | "cut"> {
    /** `cut` as a sentence; empty at the last. */
    why: string;
    points: string[];
}

export interface PlannedGroup {
    names: string[];
    everyS: number;
    requests: PlannedRead[];
    registers: number;
    bits: number;
    ms: number;
}

/** A map as the dialog shows it. */
export interface MapView {
    vendor: string;
    models: string[];
    verified: MapHead["source"]["verified"];
    points: number;
    /** Unit ids from the factory. */
    units: number[];
    /** Unit ids that will be read. */
    chosen: number[];
    /** The one of them that is looked at. */
    unit: number;
    /** What that one taught, a sentence each; absent where no running node reads it. */
    learned?: string[];
    deviceName: string;
    groups: { name: string; everyS: number; points: number }[];
    plan: PlannedGroup[];
    /** Points with a deadband of their own. */
    deadbands: string[];
}

const NOTHING: Learned = { holes: [], maxRegisters: Infinity, maxBits: Infinity };

export interface ViewOptions {
    cost: LinkCost;
    maxRegisters: number;
    /** The unit to look at; the first one where it is none of those chosen. */
    unit?: number;
    /** What a unit has taught. */
    learned?: (unit: number) => Learned | undefined;
}

/**
 * What a map says and how it would be read.
 * @throws WattError MODBUS_PLAN when the link's limit tears points apart.
 */
export function viewOf(map: ModbusMap, chosen: ChosenMap, { cost, maxRegisters, unit: wanted, learned: learnedOf }: ViewOptions): MapView {
    const unit = chosenUnit(chosen, map, wanted);
    const learned = learnedOf?.(unit);
    const limits = { ...planOptionsOf(map, cost), maxRegisters: Math.min(map.maxRegisters, maxRegisters), maxBits: Infinity };
    const plan = readGroups(map, chosen.periods).map(({ names, periodMs, items }): PlannedGroup => {
        const { blocks, registers, bits, ms } = planAround(items, limits, learned ?? NOTHING);
        const requests = blocks.map(({ items: held, ...block }, i) => ({
            ...block,
            why: explainCut(block, blocks[i + 1]),
            points: held.flatMap(({ points }) => points.map(({ name }) => name)),
        }));
        return { names, everyS: periodMs / 1000, requests, registers, bits, ms };
    });
    const units = unitsOf(chosen, map);
    return {
        vendor: map.vendor,
        models: map.models,
        verified: map.source.verified,
        points: map.points.length,
        units: unitsOf({ units: undefined }, map),
        chosen: units,
        unit,
        ...(learned && { learned: explainLearned(learned, (span) => map.points.filter((point) => overlaps(point, span)).map(({ name }) => name)) }),
        deviceName: deviceNameOf({ deviceName: "" }, map, units[0]!, units.length),
        groups: readGroups(map, {})
            .flatMap(({ names, periodMs }) => names.map((name) => ({ name, everyS: periodMs / 1000 })))
            .map((group) => ({ ...group, points: map.points.filter((point) => point.group === group.name).length })),
        plan,
        deadbands: map.points.flatMap(({ name, unit: measure, deadband }) => (deadband ? [`${name} ${deadbandText(deadband, measure ? UNITS[measure] : "")}`] : [])),
    };
}

/** `0.05 Hz, at least every 300 s` */
function deadbandText({ abs, pct, maxAgeMs }: Deadband, unit: string): string {
    const parts = [abs !== undefined && `${abs} ${unit}`, pct !== undefined && `${pct} %`, maxAgeMs !== undefined && `at least every ${maxAgeMs / 1000} s`];
    return parts.filter(Boolean).join(", ");
}

/** What is wrong with a map, line by line; the error's own message where it names no line. */
export function faultsOf(error: unknown): MapFault[] | { message: string }[] {
    const faults = error instanceof PointMapError ? error.faults : [];
    return faults.length > 0 ? [...faults] : [{ message: errorText(error) }];
}

/** What a device says now. */
export interface Preview {
    unit: number;
    ms: number;
    rows: RawValue[];
    /** What a person should look at. */
    warning?: string;
}

function chosenUnit(chosen: ChosenMap, map: ModbusMap, wanted: number | undefined): number {
    const units = unitsOf(chosen, map);
    return wanted !== undefined && units.includes(wanted) ? wanted : units[0]!;
}

/**
 * Reads one of the units once, every group of the map.
 * @param wanted The first one where it is none of those chosen.
 * @throws WattError that says why nothing can be shown.
 */
export async function preview(reader: LinkMember, map: ModbusMap, chosen: ChosenMap, signal: AbortSignal, wanted?: number): Promise<Preview> {
    const clock = systemClock;
    const unit = chosenUnit(chosen, map, wanted);
    const groups = readGroups(map, chosen.periods);
    const options = { map, groups, cost: reader.cost, site: "", name: "", rawValues: true, maxGapMs: 0, energy: new EnergyBook(clock), clock };
    const started = clock.monotonic();
    const { rows, fault } = await new MapUnit(reader, unit, options).survey(signal);
    return { unit, ms: Math.round(clock.monotonic() - started), rows, ...(fault && { warning: fault.message }) };
}
