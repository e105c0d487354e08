import { isIPv4, isIPv6 } from "node:net";
import { errorText, WattError } from "../common/errors.js";
import type { ModelValue, ModelValues } from "./decode.js";
import { HEADER_REGISTERS, type Layout, layoutOf, sizeOf } from "./layout.js";
import type { GroupDef, ModelDef, PointDef } from "./model.js";

/** What a point holds that is not implemented (SunSpec Device Information Model Specification); all others are zero. */
const ABSENT: Partial<Record<PointDef["type"], string>> = {
    int16: "8000",
    int32: "80000000",
    int64: "8000000000000000",
    uint16: "ffff",
    uint32: "ffffffff",
    uint64: "ffffffffffffffff",
    enum16: "ffff",
    enum32: "ffffffff",
    bitfield16: "ffff",
    bitfield32: "ffffffff",
    bitfield64: "ffffffffffffffff",
    float32: "7fc00000",
    float64: "7ff8000000000000",
    sunssf: "8000",
    count: "ffff",
    pad: "8000",
    eui48: "0000ffffffffffff",
};

/** Lowest and highest number that is not the sentinel. */
const RANGES: Partial<Record<PointDef["type"], readonly [bigint, bigint]>> = {
    int16: signed(16n),
    int32: signed(32n),
    int64: signed(64n),
    uint16: [0n, (1n << 16n) - 2n],
    uint32: [0n, (1n << 32n) - 2n],
    uint64: [0n, (1n << 64n) - 2n],
    acc16: [0n, (1n << 16n) - 1n],
    acc32: [0n, (1n << 32n) - 1n],
    acc64: [0n, (1n << 64n) - 1n],
    enum16: [0n, (1n << 16n) - 2n],
    enum32: [0n, (1n << 32n) - 2n],
    bitfield16: [0n, (1n << 15n) - 1n],
    bitfield32: [0n, (1n << 31n) - 1n],
    bitfield64: [0n, (1n << 63n) - 1n],
    raw16: [0n, (1n << 16n) - 1n],
    count: [0n, (1n << 16n) - 2n],
    sunssf: [-10n, 10n],
};

function signed(bits: bigint): readonly [bigint, bigint] {
    const half = 1n << (bits - 1n);
    return [1n - half, half - 1n];
}

/**
 * The registers of a model, ID and L first, from values as `decodeModel` gives them: numbers in the point's unit, rounded to
 * what its scale factor resolves; scale factors among the values. An enum also takes a symbol. What is left out is marked not
 * implemented; ID, L and the counts of repeating groups follow from the values.
 * @param length L where the device's differs from the definition (65 for an old common model): points beyond it are cut off,
 *   registers behind the last point are zero.
 * @throws WattError SUNSPEC_ENCODE naming a point that is unknown, has no scale factor or does not fit its type.
 */
export function encodeModel(model: ModelDef, values: ModelValues, length?: number): Buffer {
    const counts: Record<string, number> = {};
    inspect(model, values, "", counts);
    const natural = sizeOf(model, (name) => counts[name] ?? 0);
    const registers = length === undefined ? natural : HEADER_REGISTERS + length;
    const layout = layoutOf(model, registers - HEADER_REGISTERS, natural, counts);
    const blocks = blockValues(layout, { ...counts, ...values, ID: model.id, L: registers - HEADER_REGISTERS });
    const bytes = Buffer.alloc(registers * 2);
    const factorsFirst = [...layout.slots].toSorted((a, b) => Number(b.point.type === "sunssf") - Number(a.point.type === "sunssf"));
    for (const slot of factorsFirst) {
        const exponent = slot.factorAt === undefined ? slot.exponent : bytes.readInt16BE(slot.factorAt * 2);
        try {
            write(slot.point, blocks[slot.block]?.[slot.point.name], exponent, bytes.subarray(slot.offset * 2, (slot.offset + slot.point.size) * 2));
        } catch (error) {
            throw fault(`${layout.blocks[slot.block]!.path}${slot.point.name}: ${errorText(error)}`);
        }
    }
    return bytes;
}

function fault(message: string): WattError {
    return new WattError("SUNSPEC_ENCODE", message);
}

/** Checks the names, and collects how often each group repeats. */
function inspect(group: GroupDef, values: ModelValues, path: string, counts: Record<string, number>): void {
    for (const [name, value] of Object.entries(values)) {
        if (group.points.some((point) => point.name === name)) continue;
        const child = group.groups.find((other) => other.name === name);
        if (!child || typeof value !== "object" || Array.isArray(value) !== (child.count !== undefined)) {
            throw fault(`${path}${name} is no ${typeof value === "object" ? "group" : "point"} of ${group.name}.`);
        }
        const occurrences = Array.isArray(value) ? value : [value];
        if (child.count !== undefined) counts[child.count] = Math.max(counts[child.count] ?? 0, occurrences.length);
        for (const occurrence of occurrences) inspect(child, occurrence, `${path}${name}.`, counts);
    }
}

function blockValues(layout: Layout, top: ModelValues): (ModelValues | undefined)[] {
    const blocks: (ModelValues | undefined)[] = [];
    for (const { name, parent, index } of layout.blocks) {
        const found = blocks[parent]?.[name] as ModelValues | ModelValues[] | undefined;
        blocks.push(parent < 0 ? top : Array.isArray(found) ? found[index!] : found);
    }
    return blocks;
}

function write(point: PointDef, value: ModelValues[string] | undefined, exponent: number, target: Buffer): void {
    const range = RANGES[point.type];
    if (value === undefined || point.type === "pad") {
        target.write(ABSENT[point.type] ?? "", "hex");
    } else if (range) {
        const raw = toRaw(typeof value === "string" ? point.symbols?.[value] : value, exponent);
        if (raw < range[0] || raw > range[1]) throw new Error(`${raw} is outside ${range[0]}..${range[1]} of a ${point.type}.`);
        writeInteger(raw, target);
    } else if (point.type === "float32" || point.type === "float64") {
        if (typeof value !== "number" || Number.isNaN(value)) throw new Error(`${textOf(value)} is no number.`);
        if (point.type === "float32") target.writeFloatBE(value);
        else target.writeDoubleBE(value);
    } else {
        writeText(point, textOf(value), target);
    }
}

/** The integer nearest to value·10^-exponent. */
function toRaw(value: unknown, exponent: number): bigint {
    if (typeof value !== "bigint" && (typeof value !== "number" || !(Math.abs(value) < 1e21))) throw new Error("is no number or symbol it can hold.");
    if (!(Math.abs(exponent) <= 10)) throw new Error("its scale factor is missing.");
    const power = BigInt(10 ** Math.abs(exponent));
    if (typeof value === "bigint") return exponent < 0 ? value * power : value / power + BigInt(Math.round(Number(value % power) / Number(power)));
    // toFixed rounds the exact value of the double.
    return exponent < 0 ? BigInt(value.toFixed(-exponent).replace(".", "")) : BigInt(Math.round(value / Number(power)));
}

function writeInteger(raw: bigint, target: Buffer): void {
    if (target.length === 8) target.writeBigUInt64BE(BigInt.asUintN(64, raw));
    else target.writeUIntBE(Number(BigInt.asUintN(target.length * 8, raw)), 0, target.length);
}

function writeText(point: PointDef, text: string, target: Buffer): void {
    if (point.type === "string") {
        const bytes = Buffer.from(text);
        if (bytes.length > target.length) throw new Error(`takes ${target.length} bytes, not ${bytes.length}.`);
        bytes.copy(target);
    } else if (point.type === "eui48" && /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text)) {
        target.write(text.replaceAll(":", ""), 2, "hex");
    } else if (point.type === "ipaddr" && isIPv4(text)) {
        target.set(text.split(".").map(Number));
    } else if (point.type === "ipv6addr" && isIPv6(text)) {
        const [head = "", tail] = new URL(`http://[${text}]`).hostname.slice(1, -1).split("::");
        const hex = [head, tail ?? ""].map((part) => part.split(":").map((group) => (group === "" ? "" : group.padStart(4, "0"))).join(""));
        target.write(hex[0]!, "hex");
        target.write(hex[1]!, target.length - hex[1]!.length / 2, "hex");
    } else {
        throw new Error(`"${text}" is no ${point.type}.`);
    }
}

function textOf(value: ModelValues[string]): string {
    return typeof value === "object" ? "a group" : String(value satisfies ModelValue);
}
