import { ModbusError, type ReadRequest, type Table } from "./transport.js";

/** Function codes that read (Modbus Application Protocol V1.1b3 §6.1-6.4). */
const READ_FUNCTION: Record<Table, number> = { coil: 1, discrete: 2, holding: 3, input: 4 };

/** Most registers and bits of one read (V1.1b3 §6.1, §6.3). */
export const MAX_REGISTERS = 125;
const MAX_BITS = 2000;

/** Length of a read request's PDU, bytes. */
export const READ_PDU_LENGTH = 5;

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

function isBits(table: Table): boolean {
    return table === "coil" || table === "discrete";
}

function isWhole(value: number, min: number, max: number): boolean {
    return Number.isInteger(value) && value >= min && value <= max;
}

/** Why a read cannot be sent, or undefined when it can. */
export function impossible(request: ReadRequest, maxRegisters: number): ModbusError | undefined {
    const { unit, table, address, quantity } = request;
    const most = isBits(table) ? MAX_BITS : maxRegisters;
    if (!(table in READ_FUNCTION)) return fault(`table "${table}" is none of coil, discrete, input, holding`);
    if (!isWhole(unit, 0, 255)) return fault(`unit ${unit} is not 0..255`);
    if (!isWhole(quantity, 1, most)) return fault(`quantity ${quantity} is not 1..${most}`);
    if (!isWhole(address, 0, 0x10000 - quantity)) return fault(`address ${address} with quantity ${quantity} is not within 0..65535`);
    return undefined;
}

function fault(what: string): ModbusError {
    return new ModbusError("MODBUS_REQUEST", `Impossible Modbus request: ${what}.`);
}

/** Writes the PDU of a read at `at`; `READ_PDU_LENGTH` bytes. */
export function writeRead(into: Buffer, at: number, request: ReadRequest): void {
    into[at] = READ_FUNCTION[request.table];
    into.writeUInt16BE(request.address, at + 1);
    into.writeUInt16BE(request.quantity, at + 3);
}

/**
 * The answer in data[start..end), exactly as asked or not at all.
 * @returns The data bytes (a view), or the device's refusal.
 * @throws ModbusError MODBUS_FRAME for any other function, byte count or length.
 */
export function parseReadAnswer(data: Buffer, start: number, end: number, request: ReadRequest): Buffer | ModbusError {
    const asked = READ_FUNCTION[request.table];
    const code = data[start];
    const first = data[start + 1] ?? 0;
    if (code === asked) {
        const bytes = isBits(request.table) ? Math.ceil(request.quantity / 8) : request.quantity * 2;
        if (first !== bytes || end - start !== bytes + 2) {
            throw broken(request, `it holds ${end - start - 2} bytes, says ${first} and should have ${bytes}`);
        }
        return data.subarray(start + 2, end);
    }
    if (code !== (asked | 0x80)) throw broken(request, `it is for function ${code} instead of ${asked}`);
    if (end - start !== 2 || first === 0) throw broken(request, "its exception code is missing or not one byte");
    const reason = EXCEPTIONS[first] ?? "refused";
    return new ModbusError("MODBUS_EXCEPTION", `Unit ${request.unit} ${reason} (exception ${first}, ${describe(request)}).`, {
        exception: first,
    });
}

function broken(request: ReadRequest, why: string): ModbusError {
    return new ModbusError("MODBUS_FRAME", `Unit ${request.unit} sent a wrong answer for ${describe(request)}: ${why}.`);
}

/** `holding 40000+125`: table, wire address and quantity, for messages. */
export function describe(request: ReadRequest): string {
    return `${request.table} ${request.address}+${request.quantity}`;
}
