import { emptySample } from "../common/sample.js";
import { type Clock, systemClock } from "../common/clock.js";
import type { EnergyBook } from "../common/energy.js";
import { WattError } from "../common/errors.js";
import { type BadReason, createReading, type Quality, type ReadingMessage } from "../common/reading.js";
import { isSimulatedDevice } from "../common/simulated.js";
import { countEnergy, qualityOf } from "../common/totals.js";
import type { PollSample } from "../modbus/poller.js";
import type { SourceUnit } from "../modbus/polled-units.js";
import { ModbusError, type ModbusReader } from "../modbus/transport.js";
import { type ClassSources, type DeviceClass, shippedSources } from "./class-maps.js";
import { type DecodedModel, type ModelValue, type ModelValues, symbolsOf } from "./decode.js";
import { keyText, type ModelSample, SunSpecDevice } from "./device.js";
import type { DeviceMap, FoundModel, Identity, ModelKey } from "./discover.js";
import { type GroupDef, officialModels } from "./model.js";
import { deviceNames, serialOf } from "./naming.js";
import {
    type BoundModel,
    bindModels,
    classesOf,
    type Conventions,
    derive,
    flagsOf,
    RATING_MODELS,
    ratingIn,
} from "./points.js";

/** One logical device that a person chose. */
export interface Chosen {
    /** Position among the unit's logical devices, from 0. */
    device: number;
    /** Instead of the name from the serial number; empty for that one. */
    name: string;
}

export interface UnitOptions extends Conventions {
    site: string;
    /** Only this class; `auto` takes every class that a device is. */
    deviceClass: DeviceClass | "auto";
    /** Undefined takes every logical device. */
    chosen?: readonly Chosen[];
    /** Adds every model as `msg.sunspec`. */
    fullModels: boolean;
    /** What classes are read from; the maps of the package where it is left out. */
    sources?: (() => ClassSources) | undefined;
    /** Power further apart than this is not integrated, ms. */
    maxGapMs: number;
    energy: EnergyBook;
    /** Gives the name back, or another where a device of another unit has it already. */
    claim?: (name: string, unit: number) => string;
    clock?: Clock;
}

/** One source of readings: a logical device as one class. */
export interface Device {
    name: string;
    class: DeviceClass | "generic";
    index: number;
    identity: Identity | undefined;
    /** Ids of the models of its logical device, in their order. */
    models: number[];
}

/** All models of a logical device as read, for those who need more than the points. */
export interface FullModel {
    id: number;
    ordinal: number;
    name: string;
    /** Enums as symbols, bitfields as lists, 64-bit numbers that a double cannot hold as decimal text. */
    values: Record<string, unknown>;
    /** What of its length and counts does not fit together. */
    warnings?: readonly string[];
}

interface Part extends Device {
    bound: BoundModel<FoundModel>[];
    simulated: boolean;
    ratedW: number | undefined;
    /** Shows the models of its logical device in full. */
    full: boolean;
    /** Every point that it ever had, with the id of the model that gave it. */
    seen: Map<string, number>;
}

type Outcome = ModelSample | WattError;

/** Alive but unable: the unit's other models can still be read. */
const MODEL_FAULTS = new Set(["SUNSPEC_MODEL_GONE", "SUNSPEC_UNKNOWN_MODEL", "SUNSPEC_MOVED", "SUNSPEC_DECODE"]);
/** A device that rearranges itself more often within one read is not waited for. */
const MAX_PASSES = 3;

/** Reads one unit: its logical devices as readings in our names, units and signs. */
export class UnitReader implements SourceUnit {
    private readonly device: SunSpecDevice;
    private readonly clock: Clock;
    private preparedFor: DeviceMap | undefined;
    private parts: Part[] = [];

    constructor(
        reader: ModbusReader,
        readonly unit: number,
        private readonly options: UnitOptions,
    ) {
        this.clock = options.clock ?? systemClock;
        this.device = new SunSpecDevice(reader, unit, this.clock);
    }

    /** What the last walk found and the options let through. */
    get devices(): readonly Device[] {
        return this.parts;
    }

    invalidate(): void {
        this.device.invalidate();
    }

    /**
     * Reads the models once, the slow ones too if asked.
     * @throws WattError when the unit does not answer or has no SunSpec map.
     */
    async read(slow: boolean, signal?: AbortSignal): Promise<PollSample> {
        for (let pass = 1; ; pass++) {
            const map = this.device.map ?? (await this.device.walk(signal));
            const fresh = map !== this.preparedFor;
            if (fresh) await this.prepare(map, signal);
            const read = new Map<string, Outcome>();
            for (const [text, key] of this.wanted(slow || fresh)) read.set(text, await this.readModel(key, signal));
            // A walk on the way may have found other devices: what was read under the old names does not count.
            if (this.device.map !== this.preparedFor && pass < MAX_PASSES) continue;
            const fault = [...read.values()].find((outcome) => outcome instanceof WattError);
            return { readings: this.parts.flatMap((part) => this.readingOf(part, read) ?? []), fault };
        }
    }

    poll(groups: ReadonlySet<string>, signal: AbortSignal): Promise<PollSample> {
        return this.read(groups.has("slow"), signal);
    }

    lost(): ReadingMessage[] {
        const told = this.parts.filter(({ seen }) => seen.size > 0);
        return told.map((part) => {
            const bad = Object.fromEntries([...part.seen.keys()].map((point) => [point, "comm" as const]));
            return this.message(part, this.clock.now(), "bad", {}, bad);
        });
    }

    private async readModel(key: ModelKey, signal: AbortSignal | undefined): Promise<Outcome> {
        try {
            return await this.device.read(key, signal);
        } catch (error) {
            const refused = error instanceof ModbusError && error.refused;
            if (error instanceof WattError && (refused || MODEL_FAULTS.has(error.code))) return error;
            throw error;
        }
    }

    /** The models to read, each once although several classes may need it. */
    private wanted(slow: boolean): Map<string, ModelKey> {
        const wanted = new Map<string, ModelKey>();
        for (const { bound, full, index } of this.parts) {
            for (const { model, slow: later } of bound) if (slow || !later) wanted.set(keyText(model), model);
            if (!full || !slow) continue;
            for (const model of this.preparedFor?.devices[index]?.models ?? []) if (model.known) wanted.set(keyText(model), model);
        }
        return wanted;
    }

    /** Finds out what the unit's devices are. */
    private async prepare(map: DeviceMap, signal: AbortSignal | undefined): Promise<void> {
        const { chosen, deviceClass } = this.options;
        const sources = (this.options.sources ?? shippedSources)();
        const names = deviceNames(map);
        const parts: Part[] = [];
        for (const [index, { identity, models }] of map.devices.entries()) {
            const choice = chosen?.find(({ device }) => device === index);
            if (chosen && !choice) continue;
            const ratedW = await this.rating(models, signal);
            const classes = this.classes(models, sources);
            for (const cls of classes.filter((one) => deviceClass === "auto" || one === deviceClass)) {
                const base = choice?.name || names[index]!;
                const wish = cls === classes[0] ? base : `${base}-${cls}`;
                const name = this.options.claim?.(wish, this.unit) ?? wish;
                const facts = { ...this.options, manufacturer: identity?.manufacturer ?? "", ratedW };
                parts.push({
                    name,
                    class: cls,
                    index,
                    identity,
                    models: models.map(({ id }) => id),
                    bound: cls === "generic" ? [] : bindModels(cls, models, (id) => officialModels.get(id), facts, sources),
                    simulated: isSimulatedDevice(identity?.manufacturer, identity?.options),
                    ratedW,
                    full: this.options.fullModels && !parts.some((part) => part.index === index),
                    seen: this.parts.find((part) => part.name === name)?.seen ?? new Map<string, number>(),
                });
            }
        }
        this.parts = parts;
        this.preparedFor = map;
    }

    private classes(models: readonly FoundModel[], sources: ClassSources): Device["class"][] {
        const classes = classesOf(models, sources);
        return classes.length === 0 && this.options.fullModels ? ["generic"] : classes;
    }

    private async rating(models: readonly FoundModel[], signal: AbortSignal | undefined): Promise<number | undefined> {
        const decoded: DecodedModel[] = [];
        for (const model of models) {
            if (!RATING_MODELS.includes(model.id)) continue;
            const outcome = await this.readModel(model, signal);
            if (!(outcome instanceof WattError)) decoded.push(outcome.model);
        }
        return ratingIn(decoded);
    }

    /** Undefined where there is nothing to tell: nothing was read, or the device never had a value as this class. */
    private readingOf(part: Part, read: ReadonlyMap<string, Outcome>): ReadingMessage | undefined {
        const sample = emptySample();
        const { values, bad, counters } = sample;
        const fate = new Map<number, BadReason>();
        let timestamp: number | undefined;
        for (const { model, extract, neverZero } of part.bound) {
            const outcome = read.get(keyText(model));
            if (!outcome) continue;
            if (outcome instanceof WattError) {
                fate.set(model.id, outcome instanceof ModbusError ? "comm" : "decode");
                continue;
            }
            timestamp ??= outcome.timestamp;
            const zeros = neverZero && isAllZero(outcome.model.values);
            fate.set(model.id, zeros ? "decode" : "missing");
            if (!zeros) extract(outcome.model, sample);
            for (const points of [values, counters]) for (const point in points) if (!part.seen.has(point)) part.seen.set(point, model.id);
        }
        if (part.class !== "generic") derive(part.class, sample);
        part.seen.forEach((from, point) => {
            if (point in values || point in counters) return;
            const reason = fate.get(from);
            if (reason) bad[point] ??= reason;
        });
        const { name, class: cls, ratedW, identity, seen } = part;
        const counted = { name, class: cls, ratedW, serial: serialOf(identity), has: (point: string) => seen.has(point) };
        countEnergy(sample, counted, this.options.energy, this.clock.monotonic(), this.options.maxGapMs);
        const full = part.full ? this.fullModels(part.index, read) : [];
        if (part.seen.size === 0 && full.length === 0) return undefined;
        if (fate.size === 0 && full.length === 0) return undefined;
        const message = this.message(part, timestamp ?? this.clock.now(), qualityOf(sample), values, bad);
        return full.length > 0 ? { ...message, sunspec: full } : message;
    }

    private message(part: Part, timestamp: number, quality: Quality, values: ReadingMessage["payload"], bad: Record<string, BadReason>): ReadingMessage {
        const { site } = this.options;
        const meta = { site, device: part.name, class: part.class, seq: 0, quality, bad, ...(part.simulated && { simulated: true }) };
        return createReading(meta, timestamp, values);
    }

    private fullModels(index: number, read: ReadonlyMap<string, Outcome>): FullModel[] {
        const samples = [...read.values()].filter((outcome): outcome is ModelSample => !(outcome instanceof WattError) && outcome.key.device === index);
        return samples.map(({ key, definition, model }) => ({
            id: key.id,
            ordinal: key.ordinal,
            name: definition.name,
            values: plainValues(definition, model.values),
            ...(model.warnings.length > 0 && { warnings: model.warnings }),
        }));
    }
}

/** True for a model that says something, and only zeros. */
function isAllZero(values: ModelValues): boolean {
    let said = false;
    for (const name in values) {
        if (name === "ID" || name === "L") continue;
        if (values[name] !== 0) return false;
        said = true;
    }
    return said;
}

/** Values as JSON can carry them and a person reads them. */
function plainValues(group: GroupDef, values: ModelValues): Record<string, unknown> {
    const plain: Record<string, unknown> = {};
    for (const point of group.points) {
        const value = values[point.name] as ModelValue | undefined;
        if (value === undefined || point.type === "sunssf") continue;
        if (typeof value === "string") plain[point.name] = value;
        else if (point.type.startsWith("bitfield")) plain[point.name] = flagsOf(point, value);
        else if (point.type.startsWith("enum")) plain[point.name] = symbolsOf(point, value)[0] ?? value;
        else plain[point.name] = typeof value === "bigint" ? String(value) : value;
    }
    for (const child of group.groups) {
        const inner = values[child.name];
        if (Array.isArray(inner)) plain[child.name] = inner.map((entry) => plainValues(child, entry));
        else if (typeof inner === "object") plain[child.name] = plainValues(child, inner);
    }
    return plain;
}
