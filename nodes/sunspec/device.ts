import { type Clock, systemClock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { ModbusError, type ModbusReader } from "../modbus/transport.js";
import { type DecodedModel, decodeModel } from "./decode.js";
import { type DeviceMap, type FoundModel, identityOf, ILLEGAL_ADDRESS, type ModelKey, walkUnit } from "./discover.js";
import type { Counts } from "./layout.js";
import { type ModelDef, officialModels } from "./model.js";
import { readModel } from "./reads.js";

/** One model as it was read. */
export interface ModelSample {
    key: ModelKey;
    definition: ModelDef;
    model: DecodedModel;
    /** Wall time when the pass began, ms UTC. */
    timestamp: number;
}

/** Devices add, drop and move models while they run, so a map holds for a day at most. */
const MAP_LIFETIME_MS = 86_400_000;
/** A fault that walking does not cure must not make every read a walk. */
const MIN_WALK_INTERVAL_MS = 60_000;

/**
 * A unit whose models are read by key. It is walked before the first read, after `invalidate`, once a day, and when a read
 * shows that its registers have moved: an illegal address, another id, length or serial number than the walk found.
 */
export class SunSpecDevice {
    private current: DeviceMap | undefined;
    private valid = false;
    /** On the monotonic clock. */
    private walkedAt = -Infinity;
    private walking: Promise<DeviceMap> | undefined;
    private readonly counts = new WeakMap<FoundModel, Counts>();

    constructor(
        private readonly reader: ModbusReader,
        readonly unit: number,
        private readonly clock: Clock = systemClock,
    ) {}

    /** What the last walk found, also while another is due. */
    get map(): DeviceMap | undefined {
        return this.current;
    }

    /** The next read walks first: to be called after every reconnect. */
    invalidate(): void {
        this.valid = false;
    }

    /**
     * Walks now; calls while a walk is under way share it.
     * @throws WattError SUNSPEC_NOT_FOUND
     * @throws ModbusError
     */
    async walk(signal?: AbortSignal): Promise<DeviceMap> {
        this.walking ??= this.walkOnce(signal).finally(() => (this.walking = undefined));
        return this.walking;
    }

    /**
     * Reads one model.
     * @throws WattError SUNSPEC_MODEL_GONE when the unit has no such model (any more), SUNSPEC_UNKNOWN_MODEL when there is no
     * definition for it, SUNSPEC_MOVED when its registers keep moving, SUNSPEC_NOT_FOUND
     * @throws ModbusError
     */
    async read(key: ModelKey, signal?: AbortSignal): Promise<ModelSample> {
        const definition = officialModels.get(key.id);
        if (!definition) throw new WattError("SUNSPEC_UNKNOWN_MODEL", `There is no definition of model ${key.id}.`);
        if (this.isDue()) await this.walk(signal);
        const fault = await this.attempt(key, definition, signal);
        if (!(fault instanceof Error)) return fault;
        if (!(await this.refresh(fault, signal))) throw fault;
        const again = await this.attempt(key, definition, signal);
        if (again instanceof Error) throw again;
        return again;
    }

    private isDue(): boolean {
        return !this.valid || this.clock.monotonic() - this.walkedAt >= MAP_LIFETIME_MS;
    }

    private async walkOnce(signal: AbortSignal | undefined): Promise<DeviceMap> {
        const map = await walkUnit(this.reader, this.unit, { known: this.current !== undefined, clock: this.clock, ...(signal && { signal }) });
        this.current = map;
        this.valid = true;
        this.walkedAt = this.clock.monotonic();
        return map;
    }

    /** A sample, or the error that says that the map does not hold. */
    private async attempt(key: ModelKey, definition: ModelDef, signal: AbortSignal | undefined): Promise<ModelSample | WattError> {
        const found = this.find(key);
        if (!found) return new WattError("SUNSPEC_MODEL_GONE", `Unit ${this.unit} has no model ${key.id} any more: the device was changed, or has rearranged its models.`);
        const timestamp = this.clock.now();
        const known = this.counts.get(found);
        try {
            const { bytes, counts } = await readModel(this.reader, definition, { unit: this.unit, ...found }, { ...(known && { counts: known }), ...(signal && { signal }) });
            this.counts.set(found, counts);
            const model = decodeModel(definition, bytes);
            return this.moved(found, model) ?? { key, definition, model, timestamp };
        } catch (error) {
            if (error instanceof ModbusError && error.exception === ILLEGAL_ADDRESS) return error;
            if (error instanceof WattError && error.code === "SUNSPEC_DECODE") return error;
            throw error;
        }
    }

    private find({ device, id, ordinal }: ModelKey): FoundModel | undefined {
        return this.current?.devices[device]?.models.find((model) => model.id === id && model.ordinal === ordinal);
    }

    private moved(found: FoundModel, model: DecodedModel): WattError | undefined {
        const serial = this.current?.devices[found.device]?.identity?.serial;
        const replaced = model.id === 1 && identityOf(model.values).serial !== serial;
        if (!replaced && model.length === found.length) return undefined;
        const what = replaced ? "is another device now" : `has model ${model.id} with ${model.length} registers instead of ${found.length}`;
        return new WattError("SUNSPEC_MOVED", `Unit ${this.unit} ${what}.`);
    }

    /** Walks again where that may cure the fault. */
    private async refresh({ code }: WattError, signal: AbortSignal | undefined): Promise<boolean> {
        const certain = code === "SUNSPEC_MOVED" || code === "SUNSPEC_DECODE";
        if (!certain && this.clock.monotonic() - this.walkedAt < MIN_WALK_INTERVAL_MS) return false;
        this.invalidate();
        await this.walk(signal);
        return true;
    }
}

/** `device/id/ordinal`, to write a key down. */
export function keyText({ device, id, ordinal }: ModelKey): string {
    return `${device}/${id}/${ordinal}`;
}
