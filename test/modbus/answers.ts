import assert from "node:assert/strict";
import { type Answer, offsetOf } from "../../dist/modbus/block-reader.js";
import type { ReadItem } from "../../dist/modbus/plan.js";
import type { ModbusError } from "../../dist/modbus/transport.js";

/** Every item with its own bytes or its error; each must be there once. */
export function byItem<I extends ReadItem>(answers: readonly Answer<I>[]): Map<I, Buffer | ModbusError> {
    const found = new Map<I, Buffer | ModbusError>();
    for (const answer of answers) {
        for (const item of answer.items) {
            assert(!found.has(item), "an item is there twice");
            found.set(item, Buffer.isBuffer(answer.data) ? bytesOf(answer.data, offsetOf(answer, item), item) : answer.data);
        }
    }
    return found;
}

function bytesOf(data: Buffer, offset: number, { table, size }: ReadItem): Buffer {
    if (table !== "coil" && table !== "discrete") return data.subarray(offset, offset + 2 * size);
    const bits = Buffer.alloc(Math.ceil(size / 8));
    for (let i = 0; i < size; i++) bits[i >> 3]! |= ((data[(offset + i) >> 3]! >> ((offset + i) & 7)) & 1) << (i & 7);
    return bits;
}

/** Every item as if it had been read by itself. */
export function answersOf<I extends ReadItem>(items: readonly I[], data: (item: I, index: number) => Buffer | ModbusError): Answer<I>[] {
    return items.map((item, index) => ({ items: [item], address: item.address, data: data(item, index) }));
}
