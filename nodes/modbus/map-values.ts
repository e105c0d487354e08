import { isUtf8 } from "node:buffer";
import type { BYTE_ORDERS } from "./map-schema.js";
import { MAX_REGISTERS } from "./pdu.js";

export type ByteOrder = (typeof BYTE_ORDERS)[number];

/** What a value is on the wire. */
export interface WireType {
    name: string;
    family: "int" | "uint" | "acc" | "float" | "string" | "bcd" | "datetime" | "bit";
    /** Registers, or 1 for a bit of a coil table. */
    size: number;
    /** Width of a number; 0 where it is none. */
    bits: number;
}

/** A raw value, `undefined` where the bytes say that there is none, `null` where they make no sense. */
export type Raw = number | bigint | string | undefined | null;

export const TYPE_NAMES = ["int16", "int32", "int64", "uint16", "uint32", "uint64", "acc16", "acc32", "acc64", "float32", "float64", "bit", "string(n)", "bcd(n)", "datetime(2)", "datetime(3)", "datetime(6)"];

/** The type behind a map's word, undefined for one that is none. `n` is a number of registers. */
export function wireType(text: string): WireType | undefined {
    const number = /^(int|uint|acc|float)(16|32|64)$/.exec(text);
    if (number && text !== "float16") {
        const bits = Number(number[2]);
        return { name: text, family: number[1] as WireType["family"], size: bits / 16, bits };
    }
    if (text === "bit") return { name: text, family: "bit", size: 1, bits: 1 };
    const sized = /^(string|bcd|datetime)\((\d{1,3})\)$/.exec(text);
    const size = Number(sized?.[2]);
    const most = { string: MAX_REGISTERS, bcd: 4, datetime: 6 }[sized?.[1] ?? ""] ?? 0;
    if (!sized || size < 1 || size > most) return undefined;
    if (sized[1] === "datetime" && ![2, 3, 6].includes(size)) return undefined;
    return { name: text, family: sized[1] as WireType["family"], size, bits: sized[1] === "bcd" ? size * 16 : 0 };
}

/** True for a type whose values are numbers. */
export function isNumeric({ bits, family }: WireType): boolean {
    return bits > 0 && family !== "bit";
}

/** Least and most raw value of a numeric type: what `min` and `max` mean as sentinels. */
export function rawLimits({ family, bits }: WireType): [min: number | bigint, max: number | bigint] {
    if (family === "float") return bits === 32 ? [-3.4028234663852886e38, 3.4028234663852886e38] : [-Number.MAX_VALUE, Number.MAX_VALUE];
    if (family === "bcd") return [0, 10 ** (bits / 4) - 1];
    const whole = 1n << BigInt(bits);
    const [min, max] = family === "int" ? [-whole / 2n, whole / 2n - 1n] : [0n, whole - 1n];
    return bits > 53 ? [min, max] : [Number(min), Number(max)];
}

const scratch = Buffer.alloc(8);

/**
 * Puts a value's bytes in the order of the wire, or back: `ABCD` as they are, `CDAB` the registers turned round, `BADC` the
 * bytes of each register turned round, `DCBA` both.
 */
function reorder(from: Buffer, at: number, into: Buffer, size: number, order: ByteOrder): void {
    const turned = order === "CDAB" || order === "DCBA";
    const swapped = order === "BADC" || order === "DCBA" ? 1 : 0;
    for (let word = 0; word < size; word++) {
        const source = at + 2 * (turned ? size - 1 - word : word);
        into[2 * word] = from[source + swapped]!;
        into[2 * word + 1] = from[source + 1 - swapped]!;
    }
}

/** Reads a raw value at a byte position; made once a point. */
export function rawReader(type: WireType, order: ByteOrder): (data: Buffer, at: number) => Raw {
    const plain = PLAIN[type.name] ?? textReader(type);
    if (order === "ABCD" || type.family === "bit") return plain;
    if (isNumeric(type) && type.family !== "bcd") {
        return (data, at) => {
            reorder(data, at, scratch, type.size, order);
            return plain(scratch, 0);
        };
    }
    // Texts and digits: their registers stay in order, only bytes within them are turned round.
    const swap = order === "BADC" || order === "DCBA";
    if (!swap) return plain;
    return (data, at) => plain(Buffer.from(data.subarray(at, at + type.size * 2)).swap16(), 0);
}

const PLAIN: Record<string, (data: Buffer, at: number) => Raw> = {
    int16: (data, at) => data.readInt16BE(at),
    int32: (data, at) => data.readInt32BE(at),
    int64: (data, at) => wide(data.readInt32BE(at), data.readUInt32BE(at + 4)),
    uint16: (data, at) => data.readUInt16BE(at),
    uint32: (data, at) => data.readUInt32BE(at),
    uint64: (data, at) => wide(data.readUInt32BE(at), data.readUInt32BE(at + 4)),
    // A counter at 0 has not counted anything yet or does not exist.
    acc16: (data, at) => data.readUInt16BE(at) || undefined,
    acc32: (data, at) => data.readUInt32BE(at) || undefined,
    acc64: (data, at) => wide(data.readUInt32BE(at), data.readUInt32BE(at + 4)) || undefined,
    float32: (data, at) => finite(data.readFloatBE(at)),
    float64: (data, at) => finite(data.readDoubleBE(at)),
    bit: (data, at) => (data[at >> 3]! >> (at & 7)) & 1,
};

function textReader({ family, size }: WireType): (data: Buffer, at: number) => Raw {
    const bytes = size * 2;
    if (family === "string") return (data, at) => readText(data.subarray(at, at + bytes));
    if (family === "bcd") return (data, at) => readBcd(data, at, bytes);
    return (data, at) => readDate(data, at, size);
}

/** Every NaN means that there is no value, whatever its other bits; an infinite one is nonsense. */
function finite(value: number): Raw {
    return Number.isFinite(value) ? value : Number.isNaN(value) ? undefined : null;
}

/** 64 bits from two halves: a number where that is exact. */
export function wide(high: number, low: number): number | bigint {
    const value = high * 0x1_0000_0000 + low;
    return Number.isSafeInteger(value) ? value : BigInt(high) * 0x1_0000_0000n + BigInt(low);
}

/** Cut at the first NUL, blanks trimmed; bytes that are no UTF-8 are read as ISO 8859-1. */
export function readText(bytes: Buffer): string | undefined {
    const end = bytes.indexOf(0);
    const used = end < 0 ? bytes : bytes.subarray(0, end);
    return used.toString(isUtf8(used) ? "utf8" : "latin1").trim() || undefined;
}

function readBcd(data: Buffer, at: number, bytes: number): Raw {
    const digits = data.toString("hex", at, at + bytes);
    if (/^f+$/.test(digits)) return undefined;
    return /^\d+$/.test(digits) ? Number(digits) : null;
}

/** `datetime(2)` seconds since 1970 UTC · `datetime(3)` bytes and `datetime(6)` registers year, month, day, hour, minute, second in the device's local time. */
function readDate(data: Buffer, at: number, size: number): Raw {
    if (size === 2) {
        const seconds = data.readUInt32BE(at);
        return seconds === 0 || seconds === 0xffff_ffff ? undefined : `${new Date(seconds * 1000).toISOString().slice(0, 19)}Z`;
    }
    const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = Array.from({ length: 6 }, (_, i) => (size === 3 ? data[at + i]! : data.readUInt16BE(at + 2 * i)));
    if (month === 0 && day === 0) return undefined;
    const full = year < 100 ? 2000 + year : year;
    const text = `${String(full).padStart(4, "0")}-${[month, day].map(two).join("-")}T${[hour, minute, second].map(two).join(":")}`;
    const date = new Date(`${text}Z`);
    return full < 10_000 && !Number.isNaN(date.getTime()) && date.toISOString().startsWith(text) ? text : null;
}

function two(number: number): string {
    return String(number).padStart(2, "0");
}

/** A factor as a whole number by a power of ten, so that a scaled value is the nearest double to the exact decimal. */
export interface Factor {
    whole: number;
    exponent: number;
}

/** @param factors Their product; 15 digits count. */
export function factorOf(...factors: readonly number[]): Factor {
    const product = Number(factors.reduce((a, b) => a * b, 1).toPrecision(15));
    const [mantissa = "", power] = product.toExponential().split("e");
    const [head = "", tail = ""] = mantissa.split(".");
    return { whole: Number(head + tail), exponent: Number(power) - tail.length };
}

const POWERS: readonly number[] = Array.from({ length: 23 }, (_, n) => Number(`1e${n}`));

/** raw times the factor. Division by an exact power of ten gives the nearest double; multiplication by 0.1 does not. */
export function applyFactor(raw: number | bigint, { whole, exponent }: Factor): number {
    if (typeof raw === "bigint") return Number(`${raw * BigInt(whole)}e${exponent}`);
    const product = raw * whole;
    if (exponent === 0) return product;
    const power = POWERS[Math.abs(exponent)];
    if (power === undefined || (Number.isInteger(raw) && !Number.isSafeInteger(product))) return Number(`${BigInt(Math.trunc(raw)) * BigInt(whole)}e${exponent}`);
    return exponent < 0 ? product / power : product * power;
}
