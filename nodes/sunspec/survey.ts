import { type Clock, systemClock } from "../common/clock.js";
import { EnergyBook } from "../common/energy.js";
import { errorText } from "../common/errors.js";
import type { PointValue } from "../common/reading.js";
import type { ModbusReader } from "../modbus/transport.js";
import type { ClassSources, DeviceClass } from "./class-maps.js";
import { discover } from "./discover.js";
import { serialOf } from "./naming.js";
import type { Conventions } from "./points.js";
import { type Device, UnitReader } from "./unit-reader.js";

/** One logical device as the dialog shows it. */
export interface SurveyRow {
    unit: number;
    /** Position among the unit's logical devices, from 0. */
    device: number;
    /** The name its readings will have. */
    name: string;
    classes: (DeviceClass | "generic")[];
    manufacturer: string;
    model: string;
    serial: string;
    version: string;
    models: number[];
    /** What it measures now. */
    values: Record<string, PointValue>;
}

export interface Survey {
    rows: SurveyRow[];
    /** Units without SunSpec, and why. */
    missed: { unit: number; message: string }[];
    /** Units for which the time was too short. */
    left: number[];
    /** What of the units' maps is not as the specification has it. */
    warnings: string[];
}

export interface SurveyOptions extends Conventions {
    /** Undefined asks the usual ones. */
    units: readonly number[] | undefined;
    sources?: (() => ClassSources) | undefined;
    clock?: Clock;
    signal?: AbortSignal;
    /** No further unit is asked after this long, ms. */
    limitMs: number;
}

/**
 * Looks at every unit once and reads what is there.
 * @throws ModbusError when there is no connection.
 */
export async function survey(reader: ModbusReader, options: SurveyOptions): Promise<Survey> {
    const { units, limitMs, signal } = options;
    const common = { ...(options.clock && { clock: options.clock }), ...(signal && { signal }) };
    const { found, missed, left } = await discover(reader, units, { ...common, neighbours: units === undefined, enough: AbortSignal.timeout(limitMs) });
    const result: Survey = { rows: [], missed: missed.map(({ unit, error }) => ({ unit, message: error.message })), left, warnings: [] };
    for (const { unit, warnings } of found) {
        result.warnings.push(...warnings.map((warning) => `Unit ${unit}: ${warning}`));
        try {
            result.rows.push(...(await surveyUnit(reader, unit, options)));
        } catch (error) {
            result.missed.push({ unit, message: errorText(error) });
        }
    }
    return result;
}

async function surveyUnit(reader: ModbusReader, unit: number, options: SurveyOptions): Promise<SurveyRow[]> {
    const { clock = systemClock, meterPositive, batteryPositive, sources, signal } = options;
    const energy = new EnergyBook(clock);
    const settings = { meterPositive, batteryPositive, site: "", deviceClass: "auto", fullModels: true, maxGapMs: 0, energy, sources, clock } as const;
    const unitReader = new UnitReader(reader, unit, settings);
    const { readings } = await unitReader.read(true, signal);
    const rows = new Map<number, SurveyRow>();
    for (const part of unitReader.devices) {
        const row = rows.get(part.index) ?? newRow(unit, part);
        rows.set(part.index, row);
        row.classes.push(part.class);
        Object.assign(row.values, readings.find(({ reading }) => reading.device === part.name)?.payload);
    }
    return [...rows.values()];
}

function newRow(unit: number, { name, index, identity, models }: Device): SurveyRow {
    const { manufacturer = "", model = "", version = "" } = identity ?? {};
    return { unit, device: index, name, classes: [], manufacturer, model, serial: serialOf(identity) ?? "", version, models, values: {} };
}
