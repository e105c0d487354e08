import { type Clock, systemClock } from "../common/clock.js";
import { errorText, WattError } from "../common/errors.js";
import { ModbusError, type ModbusReader } from "../modbus/transport.js";
import { decodeModel, type ModelValues } from "./decode.js";
import { officialModels } from "./model.js";
import { readModel } from "./reads.js";

/** What a common model (1) says of a device; absent where the device leaves it out. */
export interface Identity {
    manufacturer?: string;
    model?: string;
    options?: string;
    version?: string;
    serial?: string;
    /** Modbus address that the device states for itself. */
    address?: number;
}

/** Names a model of a unit for good: it stays the same when the device moves its registers. */
export interface ModelKey {
    /** Logical device: 0 for the first common model of the unit, 1 for the second, … */
    device: number;
    id: number;
    /** 0 for the first model of this id in the logical device, 1 for the second, … */
    ordinal: number;
}

export interface FoundModel extends ModelKey {
    /** Wire address of its ID register; holds for this walk only and must not be kept. */
    address: number;
    /** L: registers behind ID and L. */
    length: number;
    /** False for a model without a definition: it is kept for diagnostics and cannot be read. */
    known: boolean;
}

export interface LogicalDevice {
    /** Undefined where there is no readable common model. */
    identity: Identity | undefined;
    models: FoundModel[];
}

/**
 * Why a walk ended: `end` the end model · `zero` id 0 in its place · `refused` the device refused to read on · `silent` it did
 * not answer any more · `limit` a length or a number of models that cannot be.
 */
export type WalkEnd = "end" | "zero" | "refused" | "silent" | "limit";

/** What a walk found at one unit. */
export interface DeviceMap {
    unit: number;
    /** Wire address of the marker. */
    base: number;
    devices: LogicalDevice[];
    end: WalkEnd;
    warnings: string[];
}

export interface WalkOptions {
    /** The unit had a map before: what hides it now is no setting that was never made. */
    known?: boolean;
    clock?: Clock;
    signal?: AbortSignal;
}

/** "SunS": marks the start of a SunSpec map (SunSpec Device Information Model Specification). */
const MARKER = 0x5375_6e53;
const END_ID = 0xffff;
const COMMON = 1;

/** Where the specification puts the marker; then one register beside, because numbering from 0 and from 1 is mixed up. */
const BASES = [40_000, 0, 50_000];
const BASES_OFF_BY_ONE = [40_001, 39_999, 1, 50_001, 49_999];

/** Common defaults of makers, as reports on their devices show: SMA 126, Fronius 200 and 240, Kostal 71, SAX 100, ABB 247. */
export const USUAL_UNIT_IDS: readonly number[] = [1, 2, 3, 71, 100, 126, 200, 240, 247, 255];

/** More models than any device has; ends a walk through registers that repeat. */
const MAX_MODELS = 100;
const ADDRESS_SPACE = 0x1_0000;

/** Illegal data address (Modbus Application Protocol V1.1b3 §7). */
export const ILLEGAL_ADDRESS = 2;
/** Acknowledge and busy (Modbus Application Protocol V1.1b3 §7): ask again. */
const BUSY = new Set([5, 6]);
const BUSY_TRIES = 3;
const BUSY_WAIT_MS = 500;

/**
 * Finds the SunSpec map of a unit and walks through its models. Reads only.
 * @throws WattError SUNSPEC_NOT_FOUND when there is none, naming where it was looked for.
 * @throws ModbusError when the connection fails or the caller gives up.
 */
export async function walkUnit(reader: ModbusReader, unit: number, options: WalkOptions = {}): Promise<DeviceMap> {
    return new Walk(reader, unit, options).run();
}

class Walk {
    private readonly clock: Clock;
    /** The unit answered, be it with a refusal. */
    private alive = false;
    private last: unknown;

    constructor(
        private readonly reader: ModbusReader,
        private readonly unit: number,
        private readonly options: WalkOptions,
    ) {
        this.clock = options.clock ?? systemClock;
    }

    async run(): Promise<DeviceMap> {
        let map = await this.tryBases(BASES, 2);
        // A unit that answers may hide the map beside, or refuse two registers and give three.
        if (this.alive) map ??= (await this.tryBases(BASES_OFF_BY_ONE, 2)) ?? (await this.tryBases(BASES, 3));
        if (map) return map;
        throw new WattError("SUNSPEC_NOT_FOUND", this.options.known ? this.gone() : this.missing(), { cause: this.last });
    }

    private missing(): string {
        const why = this.alive
            ? "it answers but has no SunSpec map; switch SunSpec on in the device, or check the unit id"
            : "it does not answer; check the unit id and that Modbus is switched on in the device";
        return `No SunSpec at unit ${this.unit}: ${why}.`;
    }

    private gone(): string {
        const before = `Unit ${this.unit} was read before and`;
        if (!this.alive) return `${before} does not answer now: check its power and its network.`;
        const refuses = this.last instanceof ModbusError && this.last.exception !== undefined && this.last.exception !== ILLEGAL_ADDRESS;
        if (refuses) return `${before} refuses now: ${(this.last as ModbusError).message}`;
        return `${before} has no SunSpec map now: check whether the device was changed or SunSpec was switched off.`;
    }

    private async tryBases(bases: readonly number[], quantity: number): Promise<DeviceMap | undefined> {
        for (const base of bases) {
            const marker = await this.ask(base, quantity);
            if (marker === "absent") return undefined;
            if (typeof marker === "string" || marker.readUInt32BE(0) !== MARKER) continue;
            const map = await this.chain(base);
            if (map.devices.length > 0) return map;
        }
        return undefined;
    }

    /** The answer, or why there is none where a walk can live without. */
    private async ask(address: number, quantity: number): Promise<Buffer | "refused" | "silent" | "absent"> {
        for (let attempt = 1; ; attempt++) {
            try {
                const data = await this.read(address, quantity);
                this.alive = true;
                return data;
            } catch (error) {
                this.last = error;
                if (!(error instanceof ModbusError)) throw error;
                if (error.code === "MODBUS_TIMEOUT") return "silent";
                if (error.exception === undefined) throw error;
                if (error.unitOffline) return "absent";
                this.alive = true;
                if (!BUSY.has(error.exception) || attempt === BUSY_TRIES) return "refused";
                await this.clock.sleep(BUSY_WAIT_MS, this.options.signal);
            }
        }
    }

    private async read(address: number, quantity: number): Promise<Buffer> {
        const { signal } = this.options;
        return this.reader.read({ unit: this.unit, table: "holding", address, quantity, probe: true, ...(signal && { signal }) });
    }

    private async chain(base: number): Promise<DeviceMap> {
        const map: DeviceMap = { unit: this.unit, base, devices: [], end: "limit", warnings: [] };
        // Every step leads to a higher address, so no address comes twice.
        let address = base + 2;
        for (let models = 0; models < MAX_MODELS; models++) {
            const header = await this.header(address);
            if (typeof header === "string") {
                map.end = header;
                break;
            }
            const { id, length } = header;
            if (length > ADDRESS_SPACE - 1 - address) {
                map.warnings.push(`Model ${id} claims ${length} registers, more than there can be behind address ${address}.`);
                break;
            }
            add(map, id, address, length, officialModels.has(id));
            address += 2 + length;
        }
        if (map.end !== "end") map.warnings.push(END_TEXT[map.end]);
        for (const device of map.devices) device.identity = await this.identify(device, map.warnings);
        return map;
    }

    /** ID and L at an address, or how the chain ends there. */
    private async header(address: number): Promise<{ id: number; length: number } | WalkEnd> {
        if (address >= ADDRESS_SPACE) return "limit";
        const both = address + 2 <= ADDRESS_SPACE ? await this.ask(address, 2) : "refused";
        // Some devices have an id but no length at the end, and some do not let ID and L be read together.
        const first = typeof both === "string" ? await this.ask(address, 1) : both;
        if (typeof first === "string") return first === "absent" ? "refused" : first;
        const id = first.readUInt16BE(0);
        if (id === END_ID) return "end";
        if (id === 0) return "zero";
        if (typeof both !== "string") return { id, length: both.readUInt16BE(2) };
        const second = address + 1 < ADDRESS_SPACE ? await this.ask(address + 1, 1) : "refused";
        if (typeof second === "string") return second === "absent" ? "refused" : second;
        return { id, length: second.readUInt16BE(0) };
    }

    private async identify({ models: [first] }: LogicalDevice, warnings: string[]): Promise<Identity | undefined> {
        const definition = first?.id === COMMON ? officialModels.get(COMMON) : undefined;
        if (!first || !definition) return undefined;
        const { signal } = this.options;
        try {
            const { bytes } = await readModel(this.reader, definition, { unit: this.unit, ...first }, { probe: true, ...(signal && { signal }) });
            return identityOf(decodeModel(definition, bytes).values);
        } catch (error) {
            if (error instanceof ModbusError && error.code !== "MODBUS_EXCEPTION" && error.code !== "MODBUS_TIMEOUT") throw error;
            warnings.push(`The common model at ${first.address} cannot be read: ${errorText(error)}`);
            return undefined;
        }
    }
}

const END_TEXT: Record<Exclude<WalkEnd, "end">, string> = {
    zero: "The chain of models ends with id 0 instead of the end model.",
    refused: "The chain of models has no end model; the device refuses to read on.",
    silent: "The chain of models has no end model; the device does not answer any more.",
    limit: "The chain of models does not end; what follows is left out.",
};

function add(map: DeviceMap, id: number, address: number, length: number, known: boolean): void {
    if (id === COMMON || map.devices.length === 0) map.devices.push({ identity: undefined, models: [] });
    const { models } = map.devices.at(-1)!;
    const ordinal = models.filter((model) => model.id === id).length;
    models.push({ device: map.devices.length - 1, id, ordinal, address, length, known });
}

/** What a decoded common model says of its device. */
export function identityOf(values: ModelValues): Identity {
    const texts = { manufacturer: values.Mn, model: values.Md, options: values.Opt, version: values.Vr, serial: values.SN };
    const given = Object.entries(texts).filter(([, text]) => typeof text === "string");
    return { ...Object.fromEntries(given), ...(typeof values.DA === "number" && { address: values.DA }) };
}

export interface Discovery {
    /** A device that answers to several units once, at the first. */
    found: DeviceMap[];
    /** Units without SunSpec, with the reason. */
    missed: { unit: number; error: WattError }[];
    /** Units that were not asked any more. */
    left: number[];
}

export interface DiscoverOptions extends WalkOptions {
    /** Asks the unit behind each one found too: plants number their inverters one after the other. */
    neighbours?: boolean;
    /** Once aborted no further unit is asked. */
    enough?: AbortSignal;
}

/** Those above are reserved (Modbus over Serial Line V1.02 §2.2), so nobody counts on into them. */
const LAST_UNIT = 247;

/** A connection that breaks while a unit is asked is given this time to come back, ms. */
const RECONNECT_WAIT_MS = 2_000;
/** So many units in a row, without an answer from any, mean that there is no connection; some devices hang up on a wrong unit. */
const MAX_LOST = 3;

/**
 * Walks the units of one endpoint, one after the other.
 * @throws ModbusError when there is no connection, or the caller gives up.
 */
export async function discover(reader: ModbusReader, units: readonly number[] = USUAL_UNIT_IDS, options: DiscoverOptions = {}): Promise<Discovery> {
    const result: Discovery = { found: [], missed: [], left: [] };
    const queue = [...units];
    let lost = 0;
    for (const unit of queue) {
        if (options.enough?.aborted) {
            result.left.push(unit);
            continue;
        }
        try {
            const map = await walkPatiently(reader, unit, options);
            const isNew = !result.found.some((other) => isSame(other, map));
            if (isNew) result.found.push(map);
            if (options.neighbours && isNew && unit < LAST_UNIT && !queue.includes(unit + 1)) queue.splice(queue.indexOf(unit) + 1, 0, unit + 1);
            lost = -Infinity;
        } catch (error) {
            if (!(error instanceof WattError) || error.code === "MODBUS_ABORTED") throw error;
            lost = isLost(error) ? lost + 1 : -Infinity;
            if (lost === MAX_LOST) throw error;
            result.missed.push({ unit, error });
        }
    }
    if (lost > 0) throw result.missed[0]!.error;
    return result;
}

async function walkPatiently(reader: ModbusReader, unit: number, options: WalkOptions): Promise<DeviceMap> {
    try {
        return await walkUnit(reader, unit, options);
    } catch (error) {
        if (!isLost(error)) throw error;
        await (options.clock ?? systemClock).sleep(RECONNECT_WAIT_MS, options.signal);
        return walkUnit(reader, unit, options);
    }
}

function isLost(error: unknown): boolean {
    return error instanceof ModbusError && (error.code === "MODBUS_CLOSED" || error.code === "MODBUS_FRAME");
}

/** Same serial numbers and models: one device that does not look at the unit id. */
function isSame(a: DeviceMap, b: DeviceMap): boolean {
    const shape = ({ base, devices }: DeviceMap) => JSON.stringify([base, devices]);
    return a.devices.some(({ identity }) => identity?.serial !== undefined) && shape(a) === shape(b);
}
