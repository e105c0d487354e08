import { WattError } from "../common/errors.js";
import type { BadReason } from "../common/reading.js";
import { readText, wide } from "../modbus/map-values.js";
import { countsIn, HEADER_REGISTERS, type Layout, layoutOf } from "./layout.js";
import type { ModelDef, PointDef, PointType } from "./model.js";

/** Numbers are in the point's unit, scale factor applied; whole numbers that a double cannot hold exactly are bigint. */
export type ModelValue = number | bigint | string;

/** Points by name; a group by its name as values of its own, a repeating one as a list. */
export interface ModelValues {
    [name: string]: ModelValue | ModelValues | ModelValues[];
}

export interface DecodedModel {
    id: number;
    /** L as the device sent it. */
    length: number;
    /**
     * Enums and bitfields as their numbers (`symbolsOf` names them), addresses as text. What the device does not implement,
     * or what lies beyond its length, is left out.
     */
    values: ModelValues;
    /**
     * Points that are left out for a fault, by path (`W`, `module[0].DCW`): `sf` for a scale factor that is missing or not in
     * -10..10, `decode` for a float that is infinite.
     */
    bad: Record<string, BadReason>;
    /** What of length and counts does not fit together. */
    warnings: readonly string[];
}

/** Exact powers of ten up to the largest scale factor; SunSpec factors are -10..10. */
const POWERS: readonly number[] = Array.from({ length: 11 }, (_, n) => Number(`1e${n}`));
const MAX_SF = 10;

/**
 * Decodes a model from the registers of one pass, ID and L first. Any bytes are safe: nothing is read outside of them, and
 * bytes that end early decode as far as they go. Sentinels and types: SunSpec Device Information Model Specification.
 * @throws WattError SUNSPEC_DECODE for fewer than two registers or another model's id.
 */
export function decodeModel(model: ModelDef, bytes: Buffer): DecodedModel {
    const { length } = readHeader(model, bytes);
    const layout = layoutOf(model, length, bytes.length >> 1, countsIn(model, bytes));
    const bad: Record<string, BadReason> = {};
    const blocks: ModelValues[] = layout.blocks.map(() => ({}));
    for (const slot of layout.slots) {
        const raw = READ[slot.point.type](bytes, slot.offset * 2, slot.point.size);
        if (raw === undefined) continue;
        const exponent = slot.factorAt === undefined ? slot.exponent : bytes.readInt16BE(slot.factorAt * 2);
        const fault = faultOf(slot.point, raw, exponent);
        if (fault) bad[layout.blocks[slot.block]!.path + slot.point.name] = fault;
        else blocks[slot.block]![slot.point.name] = exponent === 0 ? raw : scale(raw as number | bigint, exponent);
    }
    return { id: model.id, length, values: assemble(layout, blocks), bad, warnings: layout.warnings };
}

/**
 * The two registers every model begins with.
 * @throws WattError SUNSPEC_DECODE when they are not there or belong to another model.
 */
function readHeader(model: ModelDef, bytes: Buffer): { length: number } {
    if (bytes.length < HEADER_REGISTERS * 2) throw new WattError("SUNSPEC_DECODE", `Model ${model.id}: ${bytes.length} bytes are no model.`);
    const id = bytes.readUInt16BE(0);
    if (id !== model.id) throw new WattError("SUNSPEC_DECODE", `Expected model ${model.id} and found ${id}: the device has rearranged its models.`);
    return { length: bytes.readUInt16BE(2) };
}

/** The names of an enum's value, or of the bits set in a bitfield; what has no name is left out. */
export function symbolsOf(point: PointDef, value: number | bigint): string[] {
    const bits = point.type.startsWith("bitfield");
    const names: string[] = [];
    for (const name in point.symbols) {
        const code = point.symbols[name]!;
        if (bits ? (BigInt(value) >> BigInt(code)) & 1n : Number(value) === code) names.push(name);
    }
    return names;
}

/** Hangs every group's values into those of its parent. */
function assemble(layout: Layout, blocks: readonly ModelValues[]): ModelValues {
    for (const [position, { name, parent, index }] of layout.blocks.entries()) {
        const owner = blocks[parent];
        if (owner && index === undefined) owner[name] = blocks[position]!;
        else if (owner) ((owner[name] ??= []) as ModelValues[]).push(blocks[position]!);
    }
    return blocks[0]!;
}

function faultOf(point: PointDef, raw: ModelValue, exponent: number): BadReason | undefined {
    if (!(exponent >= -MAX_SF && exponent <= MAX_SF)) return "sf";
    if (point.type === "sunssf") return Math.abs(raw as number) > MAX_SF ? "sf" : undefined;
    return raw === Infinity || raw === -Infinity ? "decode" : undefined;
}

/** raw·10^exponent. Division by an exact power gives the nearest double; multiplication by 0.1 or 0.01 does not. */
function scale(raw: number | bigint, exponent: number): number | bigint {
    const power = POWERS[Math.abs(exponent)]!;
    if (exponent < 0) return typeof raw === "number" ? raw / power : Number(`${raw}e${exponent}`);
    const product = Number(raw) * power;
    return Number.isSafeInteger(product) ? product : BigInt(raw) * BigInt(power);
}

type Read = (bytes: Buffer, at: number, size: number) => ModelValue | undefined;

const readU16 = (absent: number): Read => (bytes, at) => unless(bytes.readUInt16BE(at), absent);
const readU32 = (absent: number): Read => (bytes, at) => unless(bytes.readUInt32BE(at), absent);
const readU64 = (absent: bigint | number): Read => (bytes, at) => unless(wide(bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)), absent);
const readI16: Read = (bytes, at) => unless(bytes.readInt16BE(at), -0x8000);

/** The value in the registers by type, or undefined where they say that there is none. */
const READ: Record<PointType, Read> = {
    int16: readI16,
    int32: (bytes, at) => unless(bytes.readInt32BE(at), -0x8000_0000),
    int64: (bytes, at) => unless(wide(bytes.readInt32BE(at), bytes.readUInt32BE(at + 4)), -0x8000_0000_0000_0000n),
    sunssf: readI16,
    uint16: readU16(0xffff),
    uint32: readU32(0xffff_ffff),
    uint64: readU64(0xffff_ffff_ffff_ffffn),
    enum16: readU16(0xffff),
    enum32: readU32(0xffff_ffff),
    count: readU16(0xffff),
    // A counter at 0 has not counted anything yet or does not exist; the bytes do not tell which.
    acc16: readU16(0),
    acc32: readU32(0),
    acc64: readU64(0),
    // The highest bit is no flag: where it is set, the other bits mean nothing.
    bitfield16: (bytes, at) => below(bytes.readUInt16BE(at), 0x8000),
    bitfield32: (bytes, at) => below(bytes.readUInt32BE(at), 0x8000_0000),
    bitfield64: (bytes, at) => below(wide(bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)), 0x8000_0000_0000_0000n),
    // Devices send other NaNs than the canonical one.
    float32: (bytes, at) => unlessNaN(bytes.readFloatBE(at)),
    float64: (bytes, at) => unlessNaN(bytes.readDoubleBE(at)),
    raw16: (bytes, at) => bytes.readUInt16BE(at),
    pad: () => undefined,
    string: (bytes, at, size) => readText(bytes.subarray(at, at + size * 2)),
    ipaddr: (bytes, at) => (bytes.readUInt32BE(at) === 0 ? undefined : bytes.subarray(at, at + 4).join(".")),
    ipv6addr: (bytes, at) => readIpv6(bytes.subarray(at, at + 16)),
    eui48: (bytes, at) => readEui48(bytes.subarray(at + 2, at + 8)),
};

function unless<T extends number | bigint>(value: T, absent: number | bigint): T | undefined {
    return value === absent ? undefined : value;
}

function below<T extends number | bigint>(value: T, limit: number | bigint): T | undefined {
    return value < limit ? value : undefined;
}

function unlessNaN(value: number): number | undefined {
    return Number.isNaN(value) ? undefined : value;
}

function readIpv6(bytes: Buffer): string | undefined {
    if (bytes.every((byte) => byte === 0)) return undefined;
    const groups = bytes.toString("hex").replaceAll(/(.{4})(?=.)/g, "$1:");
    // The URL parser writes an address in its canonical form (RFC 5952).
    return new URL(`http://[${groups}]`).hostname.slice(1, -1);
}

function readEui48(bytes: Buffer): string | undefined {
    return bytes.every((byte) => byte === 0xff) ? undefined : bytes.toString("hex").replaceAll(/(.{2})(?=.)/g, "$1:");
}
