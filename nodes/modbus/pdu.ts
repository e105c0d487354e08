import { ModbusError, type ModbusRequest, type ReadRequest, type Table, TABLES, type WriteRequest } from "./transport.js";

/** Function codes that read (Modbus Application Protocol V1.1b3 §6.1-6.4). */
const READ_FUNCTION: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

/** Most registers and bits of one read (V1.1b3 §6.1, §6.3). */
export const MAX_REGISTERS = 125;
export const MAX_BITS = 2000;
/** Most registers and coils of one write (V1.1b3 §6.12, §6.11). */
const MAX_WRITTEN = { holding: 123, coil: 1968 };

/** Function, address, and quantity or value: the PDU of a read, of a write of one value, and of the answer to any write. */
const SHORT_PDU_LENGTH = 5;
/** What function 5 writes for a set coil (V1.1b3 §6.5). */
const COIL_ON = 0xff00;

/** Exception codes (V1.1b3 §7) with what to do about them. */
const EXCEPTIONS: Record<number, string> = {
    1: "does not know this function: check the table",
    2: "has no such address: check address and quantity",
    3: "refuses this quantity: read fewer at a time",
    4: "failed while answering",
    5: "took the request and needs longer",
    6: "is busy: ask less often",
    8: "found an error in its memory",
    0x0a: "has no path from the gateway: check the gateway's settings",
    0x0b: "does not answer the gateway: check its unit id, power and bus",
};

export function isBits(table: Table): boolean {
    return table === "coil" || table === "discrete";
}

function isWhole(value: number, min: number, max: number): boolean {
    return Number.isInteger(value) && value >= min && value <= max;
}

export function isWrite(request: ModbusRequest): request is WriteRequest {
    return "values" in request;
}

/** The function code that carries a request (V1.1b3 §6.1-6.6, §6.11, §6.12). */
export function functionOf(request: ModbusRequest): number {
    if (!isWrite(request)) return READ_FUNCTION[request.table];
    const isMany = request.multiple === true || request.values.length > 1;
    if (request.table === "coil") return isMany ? 15 : 5;
    return isMany ? 16 : 6;
}

/** How many data bytes the answer to a read holds. */
export function dataBytes({ table, quantity }: ReadRequest): number {
    return isBits(table) ? Math.ceil(quantity / 8) : quantity * 2;
}

/** Why a read cannot be sent, or undefined when it can. */
export function impossible(request: ReadRequest, maxRegisters: number): ModbusError | undefined {
    const { unit, table, address, quantity } = request;
    const most = isBits(table) ? MAX_BITS : maxRegisters;
    if (!TABLES.includes(table)) return fault(`table "${table}" is none of ${TABLES.join(", ")}`);
    if (!isWhole(unit, 0, 255)) return fault(`unit ${unit} is not 0..255`);
    if (!isWhole(quantity, 1, most)) return fault(`quantity ${quantity} is not 1..${most}`);
    if (!isWhole(address, 0, 0x10000 - quantity)) return fault(`address ${address} with quantity ${quantity} is not within 0..65535`);
    return undefined;
}

/** Why a write cannot be sent, or undefined when it can. */
export function impossibleWrite({ unit, table, address, values }: WriteRequest): ModbusError | undefined {
    const most = MAX_WRITTEN[table];
    if (!most) return fault(`table "${table}" is none of coil, holding`);
    if (!isWhole(unit, 1, 255)) return fault(`unit ${unit} is not 1..255`);
    if (!isWhole(values.length, 1, most)) return fault(`${values.length} values are not 1..${most}`);
    if (!isWhole(address, 0, 0x10000 - values.length)) return fault(`address ${address} with ${values.length} values is not within 0..65535`);
    const highest = isBits(table) ? 1 : 0xffff;
    const bad = values.find((value) => !isWhole(value, 0, highest));
    return bad === undefined ? undefined : fault(`value ${bad} is not a whole number of 0..${highest}`);
}

function fault(what: string): ModbusError {
    return new ModbusError("MODBUS_REQUEST", `Impossible Modbus request: ${what}.`);
}

/** Length of a request's PDU, bytes. */
export function pduLength(request: ModbusRequest): number {
    const code = functionOf(request);
    return isWrite(request) && code >= 15 ? SHORT_PDU_LENGTH + 1 + packedBytes(request) : SHORT_PDU_LENGTH;
}

/** Length of the PDU that answers a request, other than an exception, bytes. */
export function answerLength(request: ModbusRequest): number {
    return isWrite(request) ? SHORT_PDU_LENGTH : 2 + dataBytes(request);
}

function packedBytes({ table, values }: WriteRequest): number {
    return isBits(table) ? Math.ceil(values.length / 8) : values.length * 2;
}

/** Writes a request's PDU at `at`; `pduLength` bytes. */
export function writePdu(into: Buffer, at: number, request: ModbusRequest): void {
    const code = functionOf(request);
    into[at] = code;
    into.writeUInt16BE(request.address, at + 1);
    into.writeUInt16BE(operand(request, code), at + 3);
    if (!isWrite(request) || code < 15) return;
    const { values } = request;
    const bytes = packedBytes(request);
    into[at + 5] = bytes;
    const data = at + 6;
    if (code === 16) {
        for (const [i, value] of values.entries()) into.writeUInt16BE(value, data + 2 * i);
        return;
    }
    into.fill(0, data, data + bytes);
    for (const [i, value] of values.entries()) into[data + (i >> 3)] = (into[data + (i >> 3)] ?? 0) | (value << (i & 7));
}

/** What follows the address: the quantity, or the one value that is written. */
function operand(request: ModbusRequest, code: number): number {
    if (!isWrite(request)) return request.quantity;
    const [value = 0] = request.values;
    if (code === 5) return value === 1 ? COIL_ON : 0;
    return code === 6 ? value : request.values.length;
}

const NOTHING = Buffer.alloc(0);

/**
 * The answer in data[start..end), exactly as asked or not at all.
 * @returns The data bytes (a view; none for a write), or the device's refusal.
 * @throws ModbusError MODBUS_FRAME for any other function, byte count, length, or echo of a write.
 */
export function parseAnswer(data: Buffer, start: number, end: number, request: ModbusRequest): Buffer | ModbusError {
    const asked = functionOf(request);
    const code = data[start];
    const first = data[start + 1] ?? 0;
    if (code === asked) {
        if (isWrite(request)) return confirmed(data, start, end, request, asked);
        const bytes = dataBytes(request);
        if (first !== bytes || end - start !== bytes + 2) {
            throw broken(request, `it holds ${end - start - 2} bytes, says ${first} and should have ${bytes}`);
        }
        if (isRequest(data, start, end, request)) throw broken(request, "it is the request itself, come back");
        return data.subarray(start + 2, end);
    }
    if (code !== (asked | 0x80)) throw broken(request, `it is for function ${code} instead of ${asked}`);
    if (end - start !== 2 || first === 0) throw broken(request, "its exception code is missing or not one byte");
    const reason = EXCEPTIONS[first] ?? "refused";
    return new ModbusError("MODBUS_EXCEPTION", `Unit ${request.unit} ${reason} (exception ${first}, ${describe(request)}).`, {
        exception: first,
    });
}

/** Bits can look like it: reading 17 to 24 at 768 to 1023. Where they truly do, the answer cannot be told from an echo. */
function isRequest(data: Buffer, start: number, end: number, { address, quantity }: ReadRequest): boolean {
    return end - start === SHORT_PDU_LENGTH && data.readUInt16BE(start + 1) === address && data.readUInt16BE(start + 3) === quantity;
}

/** A write's answer repeats its address, and its value or quantity (V1.1b3 §6.5, §6.6, §6.11, §6.12). */
function confirmed(data: Buffer, start: number, end: number, request: WriteRequest, code: number): Buffer {
    if (end - start !== SHORT_PDU_LENGTH) throw broken(request, `it holds ${end - start - 1} bytes and should have ${SHORT_PDU_LENGTH - 1}`);
    const address = data.readUInt16BE(start + 1);
    const echoed = data.readUInt16BE(start + 3);
    const sent = operand(request, code);
    if (address !== request.address || echoed !== sent) {
        throw broken(request, `it confirms ${echoed} at ${address} instead of ${sent} at ${request.address}`);
    }
    return NOTHING;
}

function broken(request: ModbusRequest, why: string): ModbusError {
    return new ModbusError("MODBUS_FRAME", `Unit ${request.unit} sent a wrong answer for ${describe(request)}: ${why}.`);
}

/** `holding 40000+125`: table, wire address and quantity, for messages. */
export function describe(request: ModbusRequest): string {
    return isWrite(request)
        ? `the write of ${request.table} ${request.address}+${request.values.length}`
        : `${request.table} ${request.address}+${request.quantity}`;
}
