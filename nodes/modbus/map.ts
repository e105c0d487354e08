import { type MapHead, MapFile, suggest } from "../common/pointmaps.js";
import type { BadReason } from "../common/reading.js";
import type { Deadband } from "../common/report.js";
import type { Sample } from "../common/sample.js";
import { isCounter, isPointName, LIMITS, UNIT_TEXTS, unitOf, UNITS, unitText, type UnitKey } from "../common/units.js";
import { type ModbusMapSchema, modbusMapSchema, type RawMap, type RawPoint, type RawRange, type SIGNS } from "./map-schema.js";
import { applyFactor, type ByteOrder, type Factor, factorOf, isNumeric, type Raw, rawLimits, rawReader, TYPE_NAMES, wireType, type WireType } from "./map-values.js";
import { isBits, MAX_REGISTERS } from "./pdu.js";
import { contains, overlaps, type ReadItem, type Span } from "./plan.js";
import type { Table } from "./transport.js";

/** What is read as one and never cut: one value, or all of an atomic range. */
export interface MapItem extends ReadItem {
    readonly group: string;
    readonly points: readonly MapPoint[];
}

export type PointKind = "gauge" | "counter" | "state" | "text";

/** One value of a device, ready to be decoded. */
export interface MapPoint extends ReadItem {
    name: string;
    readonly group: string;
    readonly kind: PointKind;
    readonly type: WireType;
    readonly byteOrder: ByteOrder;
    /** Ours; the name ends in it. Undefined for a state or text. */
    readonly unit: UnitKey | undefined;
    /** From raw to ours, sign included, without the scale register. */
    readonly factor: Factor;
    /** Added in our unit, sign included. */
    readonly offset: number;
    readonly scaleRegister: { readonly at: number; readonly divides: boolean } | undefined;
    /** Where another register says the sign of a value that has none of its own: `negative` are its values for below zero. */
    readonly direction: { readonly at: number; readonly negative: readonly number[] } | undefined;
    /** Raw values that mean that there is none. */
    readonly invalid: readonly (number | bigint)[];
    /** In our unit and sign: at least one of them holds every good value. */
    readonly valid: readonly (readonly [min: number, max: number])[];
    /** Largest change in our unit by ms. */
    readonly maxStepPerMs: number | undefined;
    /** In our unit; undefined leaves it to the node. */
    readonly deadband: Deadband | undefined;
    /** Names of an enum's values or of bits, by number. */
    readonly labels: ReadonlyMap<number, string> | undefined;
    readonly labelsBits: boolean;
    /** Where it is in its item's data: byte, or bit of a coil table. */
    readonly at: number;
    /**
     * Decodes it, in our unit and sign: into `values`, `counters`, or `bad` with the reason why not. `missing` for a sentinel,
     * `range` outside of what is valid, `sf`, `decode`, `overflow`.
     * @param offset Where its item begins in the data: byte, or bit of a coil table; 0 where it is left out.
     */
    decode(data: Buffer, into: Sample, offset?: number): void;
}

/** A read that tells whether the device is the one of the map. */
export interface IdentifyRule extends ReadItem {
    /** Undefined when it is; else what is wrong, as part of a sentence. */
    check(data: Buffer): string | undefined;
}

/** A map of protocol modbus, its rules checked and its points compiled. */
export interface ModbusMap extends MapHead {
    readonly protocol: "modbus";
    readonly points: readonly MapPoint[];
    readonly items: readonly MapItem[];
    /** Poll groups in their order, with their periods where the map states one; at least one. */
    readonly groups: readonly { name: string; everyMs: number | undefined }[];
    readonly identify: readonly IdentifyRule[];
    /** Points that every true answer has, numbers in their valid range: if one is not, the poll is not believed. In the fastest group. */
    readonly proof: readonly MapPoint[];
    readonly maxRegisters: number;
    readonly gaps: "never" | "declared" | "allow";
    /** Where gaps may be read. */
    readonly readable: readonly Span[];
    /** Never to be read. */
    readonly forbidden: readonly Span[];
    /** Reading them has an effect: read only where a point asks for them, and once a poll. */
    readonly barriers: readonly Span[];
    /** Least time between two requests, ms. */
    readonly minIntervalMs: number;
    /** Wait after connecting, ms. */
    readonly connectPauseMs: number;
    readonly timeoutMs: number | undefined;
    /** Unit ids that the device has from the factory; may be empty. */
    readonly unitIds: readonly number[];
}

/** The group of a map that names none. */
const ONLY_GROUP = "all";

/**
 * Reads a map of protocol modbus.
 * @param file Its name, for errors.
 * @throws PointMapError POINTMAP_INVALID naming file, line and fix of every fault; POINTMAP_PROTOCOL, POINTMAP_TOO_LARGE
 */
export function parseModbusMap(text: string, file: string): ModbusMap {
    const source = MapFile.parse(text, file);
    source.expect("modbus");
    return new Compiler(source, source.check<ModbusMapSchema>(modbusMapSchema())).compile();
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

interface Draft {
    raw: RawPoint;
    path: readonly string[];
    table: Table;
    address: number;
    type: WireType;
    /** Registers that must come from the same answer, by the key that names them. */
    scaleAt: number | undefined;
    directionAt: number | undefined;
}

class Compiler {
    private readonly defaults: NonNullable<RawMap["defaults"]>;
    private readonly groups: readonly { name: string; everyMs: number | undefined }[];
    private readonly maxRegisters: number;

    constructor(
        private readonly file: MapFile,
        private readonly raw: RawMap,
    ) {
        this.defaults = raw.defaults ?? {};
        this.maxRegisters = this.defaults.max_registers ?? MAX_REGISTERS;
        const named = Object.entries(raw.groups ?? {}).map(([name, { every }]) => ({ name, everyMs: every }));
        this.groups = named.length > 0 ? named : [{ name: ONLY_GROUP, everyMs: undefined }];
    }

    compile(): ModbusMap {
        const { defaults, file, raw } = this;
        const forbidden = this.ranges("forbidden");
        const barriers = this.ranges("barriers");
        const readable = this.ranges("readable");
        const atomic = this.ranges("atomic");
        const drafts = Object.entries(raw.points).flatMap(([name, point]) => this.draft(name, point) ?? []);
        if (drafts.length === 0 && !file.isFaulty) file.fault(["points"], "must name at least one point");
        const identify = (raw.identify ?? []).flatMap((rule, index) => this.identifyRule(rule, ["identify", String(index)]) ?? []);
        this.checkOverlaps(drafts);
        this.checkForbidden(drafts, atomic, forbidden);
        this.checkAtomic(atomic);
        const { items, points } = this.assemble(drafts, atomic);
        const proof = this.proof(points);
        file.done();
        return {
            id: raw.id,
            class: raw.class,
            vendor: raw.vendor,
            models: raw.models,
            source: raw.source,
            protocol: "modbus",
            points,
            items,
            groups: this.groups,
            identify,
            proof,
            maxRegisters: this.maxRegisters,
            gaps: defaults.gaps ?? "declared",
            readable,
            forbidden,
            barriers,
            minIntervalMs: defaults.min_interval_ms ?? 0,
            connectPauseMs: defaults.connect_pause_ms ?? 0,
            timeoutMs: defaults.timeout_ms,
            unitIds: defaults.unit_ids ?? [],
        };
    }

    /** A number as the map writes it, as table and wire address; undefined after noting why it is none. */
    private place(number: number, table: Table | undefined, path: readonly string[]): { table: Table; address: number } | undefined {
        const { numbering = "wire" } = this.defaults;
        const wanted = table ?? this.defaults.table;
        if (numbering === "modicon") {
            const found = modicon(number);
            if (!found) this.file.fault(path, `${number} is no modicon number: coils 1..9999, discrete inputs from 10001, input registers from 30001, holding registers from 40001`);
            else if (table !== undefined && found.table !== table) this.file.fault(path, `${number} is in table ${found.table}, not ${table}: leave table out`);
            else return found;
            return undefined;
        }
        const address = numbering === "register" ? number - 1 : number;
        if (wanted === undefined) this.file.fault(path, "says no table: add table: input or table: holding to defaults");
        else if (address < 0 || address > 0xffff) this.file.fault(path, `${number} is not within ${numbering === "register" ? "1..65536" : "0..65535"}`);
        else return { table: wanted, address };
        return undefined;
    }

    private ranges(key: "readable" | "forbidden" | "barriers" | "atomic"): Span[] {
        return (this.defaults[key] ?? []).flatMap((range: RawRange, index) => {
            const path = ["defaults", key, String(index)];
            const { table, range: ends } = Array.isArray(range) ? { table: undefined, range: range } : range;
            const first = this.place(ends[0], table, path);
            const last = first && this.place(ends[1], table, path);
            if (!first || !last) return [];
            if (first.table !== last.table) this.file.fault(path, "begins in one table and ends in another");
            return [{ ...first, size: last.address - first.address + 1 }];
        });
    }

    private type(text: string, table: Table, path: readonly string[]): WireType | undefined {
        const type = wireType(text);
        if (!type) {
            const written = /^(string|bcd|datetime)\(\d+\)$/.test(text) ? `no such length: ${TYPE_NAMES.filter((name) => name.includes("(")).join(", ")}, n up to ${MAX_REGISTERS} registers for a string and 4 for bcd` : suggest(text, TYPE_NAMES);
            this.file.fault([...path, "type"], `"${text}" is no type: ${written}`);
            return undefined;
        }
        if (isBits(table) === (type.family === "bit")) return type;
        this.file.fault([...path, "type"], isBits(table) ? `table ${table} holds bits: take type bit` : `table ${table} holds registers: take table coil or discrete for type bit, or a uint16 with bits`);
        return undefined;
    }

    private draft(name: string, raw: RawPoint): Draft | undefined {
        const path = ["points", name];
        if (!isPointName(name)) this.file.fault(path, "a point's name is snake_case and ends in its unit, such as ac_power_w");
        const placed = this.place(raw.address, raw.table, [...path, "address"]);
        const type = placed && this.type(raw.type, placed.table, path);
        if (!type) return undefined;
        if (placed.address + type.size > 0x10000) this.file.fault([...path, "address"], `a ${type.name} at ${raw.address} ends beyond the last register`);
        if (type.size > this.maxRegisters) this.file.fault([...path, "type"], `has ${type.size} registers and max_registers is ${this.maxRegisters}: it cannot be read at once`);
        const beside = (key: "scale" | "direction") => {
            const { [key]: other } = raw;
            if (typeof other !== "object") return undefined;
            const found = this.place(other.register, raw.table, [...path, key, "register"]);
            if (found && found.table !== placed.table) this.file.fault([...path, key, "register"], `is in table ${found.table}, the point in ${placed.table}`);
            return found?.address;
        };
        return { raw, path, ...placed, type, scaleAt: beside("scale"), directionAt: beside("direction") };
    }

    /** Two points on the same registers are a slip unless they are the same bytes read as the same type, or it is said. */
    private checkOverlaps(drafts: readonly Draft[]): void {
        const sorted = drafts.toSorted((a, b) => (a.table === b.table ? a.address - b.address : a.table < b.table ? -1 : 1));
        for (const [index, one] of sorted.entries()) {
            const end = one.address + one.type.size;
            for (let next = index + 1; next < sorted.length; next++) {
                const other = sorted[next]!;
                if (other.table !== one.table || other.address >= end) break;
                if (other.address === one.address && other.type.name === one.type.name) continue;
                const [a, b] = [one.path[1]!, other.path[1]!];
                if (one.raw.overlaps?.includes(b) || other.raw.overlaps?.includes(a)) continue;
                this.file.fault([...other.path, "address"], `shares registers with ${a} (${one.type.name} at ${one.raw.address}): correct one of them, or add overlaps: [${a}] when that is meant`);
            }
        }
        for (const { raw, path } of drafts) {
            for (const name of raw.overlaps ?? []) if (!Object.hasOwn(this.raw.points, name)) this.file.fault([...path, "overlaps"], this.noPoint(name));
        }
    }

    private noPoint(name: string): string {
        return `there is no point "${name}": ${suggest(name, Object.keys(this.raw.points))}`;
    }

    private checkForbidden(drafts: readonly Draft[], atomic: readonly Span[], forbidden: readonly Span[]): void {
        const hit = (range: Span) => forbidden.some((other) => overlaps(range, other));
        for (const draft of drafts) {
            if (hit({ ...draft, size: draft.type.size })) this.file.fault([...draft.path, "address"], "lies in a forbidden range: remove the point or narrow the range");
        }
        for (const [index, range] of atomic.entries()) {
            if (hit(range)) this.file.fault(["defaults", "atomic", String(index)], "covers a forbidden range: narrow one of them");
        }
    }

    private checkAtomic(atomic: readonly Span[]): void {
        for (const [index, range] of atomic.entries()) {
            const path = ["defaults", "atomic", String(index)];
            if (range.size > this.maxRegisters) this.file.fault(path, `has ${range.size} registers and max_registers is ${this.maxRegisters}: it cannot be read at once, so narrow it`);
            if (atomic.slice(0, index).some((other) => overlaps(range, other))) this.file.fault(path, "overlaps another atomic range: make one of the two");
        }
    }

    private assemble(drafts: readonly Draft[], atomic: readonly Span[]): { items: MapItem[]; points: MapPoint[] } {
        const items = new Map<string, { item: Mutable<MapItem>; points: MapPoint[] }>();
        const points: MapPoint[] = [];
        const groupOf = new Map<Span, string>();
        for (const draft of drafts) {
            const own = { table: draft.table, address: draft.address, size: draft.type.size };
            const range = atomic.find((other) => overlaps(own, other));
            if (range && !contains(range, own)) {
                this.file.fault([...draft.path, "address"], "lies only partly in an atomic range: widen the range");
                continue;
            }
            if (!this.comesAlong(draft, range)) continue;
            const group = this.group(draft);
            if (range && (groupOf.get(range) ?? group) !== group) {
                this.file.fault([...draft.path, "group"], `all points of an atomic range are in one group: take ${groupOf.get(range)}`);
                continue;
            }
            const place = range ?? own;
            if (range) groupOf.set(range, group);
            const point = this.point(draft, group, place);
            if (!point) continue;
            const key = `${place.table} ${place.address} ${place.size} ${group}`;
            const entry = items.get(key) ?? newItem(place, group);
            items.set(key, entry);
            entry.points.push(point);
            points.push(point);
        }
        return { items: [...items.values()].map(({ item }) => item), points };
    }

    /** True where the registers that a value depends on are read in one answer with it. */
    private comesAlong(draft: Draft, range: Span | undefined): boolean {
        const { raw, path, table, type } = draft;
        return (["scale", "direction"] as const).every((key) => {
            const at = draft[`${key}At`];
            if (at === undefined || (range && contains(range, { table, address: at, size: 1 }))) return true;
            const other = (raw[key] as { register: number }).register;
            const [first, last] = other < raw.address ? [other, raw.address + type.size - 1] : [raw.address, Math.max(other, raw.address + type.size - 1)];
            this.file.fault([...path, key], `the value and register ${other} must come from one answer: add [${first}, ${last}] to defaults.atomic, or widen the range that is there`);
            return false;
        });
    }

    private group({ raw, path }: Draft): string {
        const names = this.groups.map(({ name }) => name);
        if (raw.group === undefined) return names[0]!;
        if (!names.includes(raw.group)) this.file.fault([...path, "group"], this.raw.groups ? `there is no group "${raw.group}": ${suggest(raw.group, names)}` : `add the key groups, such as {${raw.group}: {every: 10s}}`);
        return raw.group;
    }

    private point(draft: Draft, group: string, place: Span): MapPoint | undefined {
        const { raw, path, type, table, address } = draft;
        const name = path[1]!;
        const fault = (key: string, message: string) => this.file.fault([...path, key], message);
        const kind = raw.kind ?? defaultKind(name, raw, type);
        const isNumber = kind === "gauge" || kind === "counter";
        if (!this.checkKind(draft, kind)) return undefined;
        const conversion = isNumber ? this.conversion(draft) : { unit: undefined, factor: 1 };
        if (!conversion) return undefined;
        const { unit } = conversion;
        const sign = raw.sign === undefined || isOurs(raw.sign, name) ? 1 : -1;
        if (isNumber && raw.sign === undefined && needsSign(name, type) && this.raw.class !== "weather") {
            fault("sign", "a power that can be negative says what positive means: add sign: import_positive, export_positive, discharge_positive, charge_positive, generation_positive or consumption_positive");
        }
        if (!isNumber) for (const key of ["unit", "scale", "offset", "valid", "max_step", "deadband", "sign", "direction"] as const) if (raw[key] !== undefined) fault(key, `does not go with a ${kind}: remove it`);
        if (kind === "counter") for (const key of ["sign", "direction", "offset", "max_step"] as const) if (raw[key] !== undefined) fault(key, "does not go with a counter: remove it");
        const scale = typeof raw.scale === "number" ? raw.scale : 1;
        if (kind === "counter" && scale < 0) fault("scale", "a counter's scale is positive");
        const toOurs = (value: number) => (value * conversion.factor * sign) || 0;
        const toSize = (size: number) => Math.abs(toOurs(size));
        const valid = rangesOf(raw.valid).map(([low, high]) => (sign > 0 ? ([toOurs(low), toOurs(high)] as const) : ([toOurs(high), toOurs(low)] as const)));
        this.checkWrite(draft);
        const point = {
            name,
            table,
            address,
            size: type.size,
            group,
            kind,
            type,
            byteOrder: raw.byte_order ?? this.defaults.byte_order ?? "ABCD",
            unit,
            factor: factorOf(scale, conversion.factor, sign),
            offset: toOurs(raw.offset ?? 0),
            scaleRegister: draft.scaleAt === undefined ? undefined : { at: (draft.scaleAt - place.address) * 2, divides: (raw.scale as { rule: string }).rule === "divide_pow10" },
            direction: draft.directionAt === undefined ? undefined : { at: (draft.directionAt - place.address) * 2, negative: raw.direction!.negative },
            invalid: this.sentinels(draft),
            valid: valid.length > 0 ? valid : [(unit && LIMITS[unit]) ?? ([-Infinity, Infinity] as const)],
            maxStepPerMs: raw.max_step && toSize(raw.max_step.by) / raw.max_step.per,
            deadband: raw.deadband && { abs: raw.deadband.abs && toSize(raw.deadband.abs), pct: raw.deadband.pct, maxAgeMs: raw.deadband.max_age },
            labels: this.labels(draft),
            labelsBits: raw.bits !== undefined,
            at: (address - place.address) * (type.family === "bit" ? 1 : 2),
        };
        return { ...point, decode: decoder(point) };
    }

    private checkKind({ raw, path, type }: Draft, kind: PointKind): boolean {
        const fault = (key: string, message: string) => {
            this.file.fault([...path, key], message);
            return false;
        };
        const hasUnit = unitOf(path[1]!) !== undefined;
        if (raw.enum && raw.bits) return fault("bits", "a point has an enum or bits: make two points, with overlaps");
        if ((raw.enum ?? raw.bits) && kind !== "state") return fault("kind", `labels belong to a state, not to a ${kind}`);
        if (kind === "gauge" || kind === "counter") {
            if (!isNumeric(type)) return fault("type", `a ${type.name} is no number: take kind ${type.family === "bit" ? "state" : "text"}, or a numeric type`);
            if (!hasUnit) return fault("kind", `the name of a number ends in its unit (${Object.keys(UNITS).map((key) => `_${key}`).join(", ")}); for a code without a unit add kind: state`);
            if (kind === "counter" && unitOf(path[1]!) !== "wh") return fault("kind", "counters are energies in Wh: take kind gauge");
            return true;
        }
        if (hasUnit) return fault("kind", `the name ends in a unit, and a ${kind} has none: rename it`);
        if (kind === "text" && isNumeric(type)) return fault("kind", `a ${type.name} is no text: take kind state`);
        return kind === "text" || type.family !== "float" || fault("type", "a state is a whole number");
    }

    /** From the unit of the map to the one that the name ends in. */
    private conversion({ raw, path }: Draft): { unit: UnitKey; factor: number } | undefined {
        const unit = unitOf(path[1]!)!;
        if (raw.unit === undefined) return { unit, factor: 1 };
        const known = unitText(raw.unit);
        const factor = known?.[unit];
        if (factor !== undefined) return { unit, factor };
        const fitting = Object.keys(UNIT_TEXTS).filter((text) => unit in UNIT_TEXTS[text]!);
        this.file.fault([...path, "unit"], known ? `${raw.unit} does not fit the name, which ends in _${unit}: take one of ${fitting.join(", ")}, or rename the point to end in _${Object.keys(known)[0]}` : `"${raw.unit}" is not in the list of units: ${suggest(raw.unit, fitting)}`);
        return undefined;
    }

    private sentinels({ raw, path, type }: Draft): (number | bigint)[] {
        if (!isNumeric(type)) return [];
        const [min, max] = rawLimits(type);
        return (raw.invalid ?? this.defaults.invalid ?? []).flatMap((sentinel) => {
            if (sentinel === "nan") return [];
            if (typeof sentinel === "string") return [sentinel === "min" ? min : max];
            // Documents write the bit pattern of a negative number as well as the number.
            const value = type.family === "int" && sentinel > max ? sentinel - 2 ** type.bits : sentinel;
            if (value >= min && value <= max) return [value];
            if (raw.invalid) this.file.fault([...path, "invalid"], `${sentinel} does not fit into a ${type.name}`);
            return [];
        });
    }

    private labels({ raw, path, type }: Draft): ReadonlyMap<number, string> | undefined {
        const labels = raw.enum ?? raw.bits;
        if (!labels) return undefined;
        const most = raw.bits ? type.bits - 1 : 2 ** type.bits - 1;
        for (const code of Object.keys(labels)) {
            if (Number(code) > most) this.file.fault([...path, raw.bits ? "bits" : "enum", code], `is beyond ${most}, the last of a ${type.name}`);
        }
        return new Map(Object.entries(labels).map(([code, label]) => [Number(code), label]));
    }

    private checkWrite({ raw, path, table }: Draft): void {
        const fault = (key: string, message: string) => this.file.fault([...path, key], message);
        if (raw.access === "rw" && !raw.write) fault("access", "a point that can be written says how: add write with range and readback, or take access: r");
        if (!raw.write) return;
        if (raw.access !== "rw") fault("write", "needs access: rw");
        if (table !== "holding" && table !== "coil") fault("write", `table ${table} cannot be written`);
        for (const name of [...(raw.write.with ?? []), ...(raw.write.revert ? [raw.write.revert.register] : [])]) {
            if (!Object.hasOwn(this.raw.points, name)) fault("write", this.noPoint(name));
        }
    }

    private identifyRule(raw: NonNullable<RawMap["identify"]>[number], path: readonly string[]): IdentifyRule | undefined {
        const placed = this.place(raw.address, raw.table, [...path, "address"]);
        const type = placed && this.type(raw.type, placed.table, path);
        if (!type) return undefined;
        const { in: bounds, is, starts } = raw;
        if ([bounds, is, starts].filter((test) => test !== undefined).length !== 1) {
            this.file.fault(path, "needs one of in: [least, most], is: [values], starts: text");
            return undefined;
        }
        const within = bounds && rangesOf(bounds);
        if (within && !isNumeric(type)) this.file.fault([...path, "in"], `a ${type.name} is no number: take is or starts`);
        const read = rawReader(type, raw.byte_order ?? this.defaults.byte_order ?? "ABCD");
        const expected = within ? within.map(([low, high]) => `${low} to ${high}`).join(" or ") : is ? is.join(" or ") : `"${starts}…"`;
        return {
            ...placed,
            size: type.size,
            check: (data) => {
                const found = read(data, 0);
                const value = typeof found === "bigint" ? Number(found) : found;
                const holds = within ? typeof value === "number" && within.some(([low, high]) => value >= low && value <= high) : is ? is.some((one) => one === value) : typeof value === "string" && value.startsWith(starts!);
                return holds ? undefined : `${placed.table} ${placed.address} is ${value ?? "empty"} and should be ${expected}`;
            },
        };
    }

    /** Every poll reads the group of the shortest period, so what proves an answer belongs there. */
    private proof(points: readonly MapPoint[]): MapPoint[] {
        const fastest = Math.min(...this.groups.map(({ everyMs }) => everyMs ?? 0));
        return (this.raw.proof ?? []).flatMap((name, index) => {
            const path = ["proof", String(index)];
            const point = points.find((one) => one.name === name);
            if (!point) {
                if (!Object.hasOwn(this.raw.points, name)) this.file.fault(path, this.noPoint(name));
                return [];
            }
            // A text that is there at all proves something.
            if (point.kind !== "text" && this.raw.points[name]?.valid === undefined) this.file.fault(path, `${name} proves nothing without a valid range: add valid: [least, most] to it`);
            if ((this.groups.find((group) => group.name === point.group)?.everyMs ?? 0) > fastest) this.file.fault(path, `${name} is not in the fastest group, which is read with every poll: take another point`);
            return [point];
        });
    }
}

function rangesOf(bounds: RawPoint["valid"]): [least: number, most: number][] {
    if (bounds === undefined) return [];
    return (Array.isArray(bounds[0]) ? bounds : [bounds]) as [number, number][];
}

function newItem(place: Span, group: string) {
    const points: MapPoint[] = [];
    return { item: { ...place, group, points }, points };
}

/** Numbers with the table in their first digit, five or six digits long. */
function modicon(number: number): { table: Table; address: number } | undefined {
    const tables: Record<number, Table> = { 0: "coil", 1: "discrete", 3: "input", 4: "holding" };
    const step = number >= 100_000 ? 100_000 : 10_000;
    const table = tables[Math.floor(number / step)];
    const address = (number % step) - 1;
    return table && address >= 0 && address <= 0xffff ? { table, address } : undefined;
}

/** A load counts what it consumes: load = PV + battery + grid. */
function isOurs(sign: (typeof SIGNS)[number], name: string): boolean {
    const own = name.startsWith("load_") ? "consumption_positive" : "generation_positive";
    return sign === "import_positive" || sign === "discharge_positive" || sign === own;
}

function needsSign(name: string, { family }: WireType): boolean {
    return (family === "int" || family === "float") && /(^|_)power(_l\d)?_w$/.test(name);
}

function defaultKind(name: string, raw: RawPoint, { family }: WireType): PointKind {
    if (raw.enum ?? raw.bits) return "state";
    if (family === "string" || family === "datetime") return "text";
    if (family === "bit") return "state";
    return isCounter(name) ? "counter" : "gauge";
}

type Compiled = Omit<MapPoint, "decode">;

function decoder(point: Compiled): MapPoint["decode"] {
    const { name, at, kind, invalid } = point;
    const read = rawReader(point.type, point.byteOrder);
    const convert = kind === "gauge" || kind === "counter" ? numberDecoder(point) : undefined;
    return (data, into, offset = 0) => {
        const raw = read(data, offset + at);
        let fault: BadReason | undefined;
        if (raw === undefined || (invalid.length > 0 && invalid.includes(raw as number))) fault = "missing";
        else if (raw === null) fault = "decode";
        else if (convert) fault = convert(raw as number | bigint, data, into, offset);
        else into.values[name] = typeof raw === "string" ? raw : labelOf(point, raw);
        if (fault) into.bad[name] = fault;
    };
}

/** A scale register that is missing or holds no exponent makes the value unusable, it is never taken as 1. */
const MAX_EXPONENT = 10;

function numberDecoder({ name, kind, type, unit, factor, offset, scaleRegister, direction, valid }: Compiled) {
    const [low, high] = (unit && LIMITS[unit]) ?? [-Infinity, Infinity];
    const [only] = valid.length === 1 ? valid : [];
    // A float does not roll over, and where a signed counter does is not known.
    const rolls = type.family === "uint" || type.family === "acc";
    return (raw: number | bigint, data: Buffer, into: Sample, start: number): BadReason | undefined => {
        let used = factor;
        if (scaleRegister) {
            const exponent = data.readInt16BE(start + scaleRegister.at);
            if (Math.abs(exponent) > MAX_EXPONENT) return "sf";
            used = { whole: factor.whole, exponent: factor.exponent + (scaleRegister.divides ? -exponent : exponent) };
        }
        let value = applyFactor(raw, used);
        // Some models of a series give a sign beside the direction, so only the size counts.
        if (direction) value = direction.negative.includes(data.readUInt16BE(start + direction.at)) ? -Math.abs(value) : Math.abs(value);
        // 15 digits are what a decimal sum of this size keeps.
        if (offset !== 0) value = Number((value + offset).toPrecision(15));
        if (!(value >= low && value <= high)) return "range";
        if (only ? value < only[0] || value > only[1] : !valid.some(([least, most]) => value >= least && value <= most)) return "range";
        if (Number.isInteger(value) && !Number.isSafeInteger(value)) return "overflow";
        if (kind === "gauge") into.values[name] = value === 0 ? 0 : value;
        else into.counters[name] = rolls ? { wh: value, modulusWh: applyFactor(1, used) * 2 ** type.bits } : { wh: value };
        return undefined;
    };
}

/** An enum's name, the names of the bits that are set, or the number where there is no name. */
function labelOf({ type, labels, labelsBits }: Pick<MapPoint, "type" | "labels" | "labelsBits">, raw: Exclude<Raw, string | null | undefined>): string {
    if (!labelsBits) return labels?.get(Number(raw)) ?? (type.family === "bit" && !labels ? (raw ? "on" : "off") : String(raw));
    const names: string[] = [];
    for (let rest = BigInt(raw), bit = 0; rest > 0n; rest >>= 1n, bit++) if (rest & 1n) names.push(labels?.get(bit) ?? `bit${bit}`);
    return names.join(",");
}
