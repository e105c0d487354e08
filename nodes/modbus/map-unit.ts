import type { Sample } from "../common/sample.js";
import { type Clock, systemClock } from "../common/clock.js";
import type { EnergyBook } from "../common/energy.js";
import { WattError } from "../common/errors.js";
import { type BadReason, createReading, type PointValue, type Quality, type ReadingMessage } from "../common/reading.js";
import { countEnergy, qualityOf } from "../common/totals.js";
import { UNITS } from "../common/units.js";
import { BlockReader, type Learned, offsetOf } from "./block-reader.js";
import type { IdentifyRule, MapItem, MapPoint, ModbusMap } from "./map.js";
import { isBlank, type MapAnswers, MapDecoder, pointsOf } from "./map-decoder.js";
import { isBits } from "./pdu.js";
import type { LinkCost } from "./plan.js";
import type { PollSample } from "./poller.js";
import type { SourceUnit } from "./polled-units.js";
import { planOptionsOf, type ReadGroup } from "./read-groups.js";
import { ModbusError, type ModbusReader, type ReadRequest, type Table } from "./transport.js";

/** One point as it was read, with the registers that it came from. */
export interface RawValue {
    point: string;
    /** In our unit and sign, for a counter what the device shows; absent where it could not be read. */
    value?: PointValue;
    /** Such as `kWh`; absent for a state or text. */
    unit?: string;
    table: Table;
    /** 0-based wire address. */
    address: number;
    /** Its registers in hexadecimal, a group of four digits each; absent where they were not read. */
    raw?: string;
    bad?: BadReason;
}

export interface MapUnitOptions {
    map: ModbusMap;
    groups: readonly ReadGroup[];
    cost: LinkCost;
    site: string;
    name: string;
    /** Adds every value with its registers as `msg.modbus`. */
    rawValues: boolean;
    /** Power further apart than this is not integrated, ms. */
    maxGapMs: number;
    energy: EnergyBook;
    clock?: Clock;
}

/** Illegal function, address, value (V1.1b3 §7): the device does not have what is asked for. */
const REFUSALS = new Set([1, 2, 3]);

/** Reads one unit by a map, after making sure that it is the map's device. */
export class MapUnit implements SourceUnit {
    /** Why there is no reading, for a status. */
    trouble: string | undefined;
    private readonly clock: Clock;
    private readonly blocks: BlockReader<MapItem>;
    private readonly names: ReadonlySet<string>;
    private readonly decoder: MapDecoder;
    private identified = false;
    /** The next request is sent although the unit is left alone after failures. */
    private probing = false;
    /** The link sends the fast groups of all units first. */
    private background = false;
    /** Points that their last read did not bring. */
    private readonly unread = new Set<string>();
    /** Every point that it ever had. */
    private readonly seen = new Set<string>();
    private seenAll = false;
    private serial: string | undefined;
    /** Bounds how fast its counters can count. */
    private ratedW: number | undefined;

    constructor(
        private readonly reader: ModbusReader,
        readonly unit: number,
        private readonly options: MapUnitOptions,
    ) {
        const { map, cost, clock = systemClock } = options;
        this.clock = clock;
        this.names = new Set(map.points.map(({ name }) => name));
        this.decoder = new MapDecoder(map);
        const asking: ModbusReader = { maxRegisters: reader.maxRegisters, read: (request) => this.ask(request) };
        this.blocks = new BlockReader(asking, unit, { ...planOptionsOf(map, cost), clock });
    }

    get devices(): readonly { name: string }[] {
        return [this.options];
    }

    get learned(): Learned {
        return this.blocks.learned;
    }

    get coverage(): { read: number; total: number } {
        const total = this.options.map.points.length;
        return { read: total - this.unread.size, total };
    }

    invalidate(): void {
        this.identified = false;
        this.probing = true;
        this.blocks.doubt();
    }

    async poll(names: ReadonlySet<string>, signal: AbortSignal): Promise<PollSample> {
        if (!this.identified) await this.identify(signal);
        const timestamp = this.clock.now();
        const answers = await this.read(names, signal);
        const sample = this.decoder.decode(answers, this.clock.monotonic());
        const raw = this.options.rawValues ? rawValues(answers, sample) : undefined;
        const fault = this.judge(answers, sample);
        const isNight = fault?.code === "MODBUS_IMPLAUSIBLE" && this.isAsleep(answers, sample);
        const reading = this.reading(timestamp, sample);
        if (raw) reading["modbus"] = raw;
        return { readings: [reading], fault: isNight ? undefined : fault };
    }

    /**
     * What of the whole map can be read now, for a person who looks.
     * @throws WattError MODBUS_WRONG_DEVICE, or why it does not answer.
     */
    async survey(signal: AbortSignal): Promise<{ rows: RawValue[]; fault: WattError | undefined }> {
        this.probing = true;
        if (!this.identified) await this.identify(signal);
        const answers = await this.read(new Set(this.options.groups.map(({ name }) => name)), signal);
        const sample = this.decoder.decode(answers, this.clock.monotonic());
        return { rows: rawValues(answers, sample), fault: this.judge(answers, sample) };
    }

    lost(): ReadingMessage[] {
        if (this.seen.size === 0) return [];
        const bad = Object.fromEntries([...this.seen].map((point) => [point, "comm" as const]));
        return [this.message(this.clock.now(), "bad", {}, bad)];
    }

    private ask(request: ReadRequest): Promise<Buffer> {
        if (this.probing) request.probe = true;
        if (this.background) request.background = true;
        this.probing = false;
        return this.reader.read(request);
    }

    /** @throws WattError MODBUS_WRONG_DEVICE naming what does not fit. */
    private async identify(signal: AbortSignal): Promise<void> {
        this.background = false;
        const { identify } = this.options.map;
        for (const rule of identify) {
            const wrong = await this.check(rule, signal);
            if (wrong !== undefined) throw this.stranger(wrong);
        }
        this.identified = true;
        this.trouble = undefined;
    }

    private async check(rule: IdentifyRule, signal: AbortSignal): Promise<string | undefined> {
        const { table, address, size } = rule;
        try {
            return rule.check(await this.ask({ unit: this.unit, table, address, quantity: size, signal }));
        } catch (error) {
            if (error instanceof ModbusError && REFUSALS.has(error.exception ?? 0)) return `it refuses ${table} ${address}`;
            this.trouble = undefined;
            throw error;
        }
    }

    private stranger(wrong: string): WattError {
        const { vendor, models, id } = this.options.map;
        this.trouble = "wrong device";
        this.blocks.forget();
        return new WattError("MODBUS_WRONG_DEVICE", `Unit ${this.unit} is no ${vendor} ${models[0] ?? ""} (map ${id}): ${wrong}. Check the unit id and the device map.`);
    }

    /** The groups one after the other, the fastest first. */
    private async read(names: ReadonlySet<string>, signal: AbortSignal): Promise<MapAnswers> {
        let answers: MapAnswers = [];
        for (const [index, { name, items }] of this.options.groups.entries()) {
            if (!names.has(name)) continue;
            this.background = index > 0;
            const read = await this.blocks.read(items, signal);
            answers = answers.length === 0 ? read : [...answers, ...read];
            const silence = silenceOf(answers);
            if (!silence) continue;
            // Whoever answers next may be another device: on a bus they are exchanged without the link noticing.
            this.identified = false;
            throw silence;
        }
        return answers;
    }

    /** What of the answers a person should look at. */
    private judge(answers: MapAnswers, { values, counters, bad }: Sample): WattError | undefined {
        let fault: WattError | undefined;
        let refused = true;
        for (const { data } of answers) {
            if (data instanceof ModbusError) fault ??= data;
            else refused = false;
        }
        const known = isEmpty(bad) && this.unread.size === 0;
        for (const { name } of known ? [] : pointsOf(answers)) {
            if (bad[name] === "comm" || bad[name] === "decode") this.unread.add(name);
            else this.unread.delete(name);
        }
        if (refused || !isEmpty(values) || !isEmpty(counters)) return fault;
        const { vendor, models } = this.options.map;
        const why = Object.values(bad).every((reason) => reason === "missing") ? "has no values" : "sends nothing that can be true";
        return new WattError("MODBUS_IMPLAUSIBLE", `Unit ${this.unit} answers, but ${why} for a ${vendor} ${models[0] ?? ""}: it may be starting or asleep, or be another device.`);
    }

    /** An inverter without values, or with zeros alone: that is its night, and no fault to tell of. */
    private isAsleep(answers: MapAnswers, { bad }: Sample): boolean {
        if (this.options.map.class !== "inverter") return false;
        const isMissing = Object.values(bad).every((reason) => reason === "missing");
        return isMissing || answers.every(({ items, address, data }) => Buffer.isBuffer(data) && items.every((item) => isBlank(item, data, offsetOf({ address }, item))));
    }

    private reading(timestamp: number, sample: Sample): ReadingMessage {
        const { map, name, energy, maxGapMs } = this.options;
        const { values, bad, counters } = sample;
        const serial = values["serial_number"];
        if (typeof serial === "string") this.serial = serial;
        const rated = values["rated_power_w"];
        if (typeof rated === "number" && rated > 0) this.ratedW = rated;
        const device = { name, class: map.class, serial: this.serial, ratedW: this.ratedW, has: (point: string) => this.names.has(point) };
        countEnergy(sample, device, energy, this.clock.monotonic(), maxGapMs);
        if (!this.seenAll) {
            for (const points of [values, counters]) for (const point in points) this.seen.add(point);
            this.seenAll = map.points.every((point) => this.seen.has(point.name));
        }
        return this.message(timestamp, qualityOf(sample), values, bad);
    }

    private message(timestamp: number, quality: Quality, values: ReadingMessage["payload"], bad: Record<string, BadReason>): ReadingMessage {
        const { site, name, map } = this.options;
        const meta = { site, device: name, class: map.class, seq: 0, quality, bad, ...(this.reader.simulated && { simulated: true }) };
        return createReading(meta, timestamp, values);
    }
}

/** Why a unit from which nothing came is not there; undefined for one that answers, if only to refuse. */
function silenceOf(answers: MapAnswers): ModbusError | undefined {
    let silence: ModbusError | undefined;
    for (const { data } of answers) {
        if (!(data instanceof ModbusError)) return undefined;
        if (!data.refused) silence ??= data;
    }
    return silence;
}

function isEmpty(points: object): boolean {
    return Object.keys(points).length === 0;
}

function rawValues(answers: MapAnswers, { values, counters, bad }: Sample): RawValue[] {
    const rows: RawValue[] = [];
    for (const { items, address: start, data } of answers) {
        for (const point of items.flatMap(({ points }) => points)) {
            const { name, unit, table, address } = point;
            const value = values[name] ?? counters[name]?.wh;
            const reason = bad[name];
            rows.push({
                point: name,
                ...(value !== undefined && { value }),
                ...(unit && { unit: UNITS[unit] }),
                table,
                address,
                ...(Buffer.isBuffer(data) && { raw: rawText(point, data, offsetOf({ address: start }, point)) }),
                ...(reason && { bad: reason }),
            });
        }
    }
    return rows;
}

function rawText({ table, size }: MapPoint, data: Buffer, at: number): string {
    if (isBits(table)) return String((data[at >> 3]! >> (at & 7)) & 1);
    return data.toString("hex", at, at + size * 2).replaceAll(/(.{4})(?=.)/g, "$1 ");
}
