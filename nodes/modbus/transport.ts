import { WattError } from "../common/errors.js";

/** Modbus data tables (Modbus Application Protocol V1.1b3 §4.3): function codes 1, 2, 4 and 3 read them. */
export type Table = "coil" | "discrete" | "input" | "holding";

export interface ReadRequest {
    /** Unit identifier, 0..255. */
    unit: number;
    table: Table;
    /** 0-based wire address, 0..65535. */
    address: number;
    /** Registers 1..125, or bits 1..2000 (V1.1b3 §6.1-6.4). */
    quantity: number;
    signal?: AbortSignal;
}

/** What a poller or a discovery needs of a link: reads, one at a time, in the order asked. */
export interface ModbusReader {
    /**
     * The data bytes of the answer, exactly `2 * quantity` for registers (big-endian words) or `ceil(quantity / 8)` for bits.
     * Always settles, at the latest at the link's own deadline.
     * @throws ModbusError
     */
    read(request: ReadRequest): Promise<Buffer>;
}

/**
 * `MODBUS_TIMEOUT` no answer in time · `MODBUS_EXCEPTION` the device answered with an exception · `MODBUS_FRAME` the answer
 * breaks the protocol · `MODBUS_CLOSED` the connection was lost or never made · `MODBUS_BACKOFF` the unit is left alone for
 * now after failures, nothing was sent · `MODBUS_REQUEST` the request itself is impossible · `MODBUS_ABORTED` given up by the caller.
 */
export type ModbusErrorCode =
    | "MODBUS_TIMEOUT"
    | "MODBUS_EXCEPTION"
    | "MODBUS_FRAME"
    | "MODBUS_CLOSED"
    | "MODBUS_BACKOFF"
    | "MODBUS_REQUEST"
    | "MODBUS_ABORTED";

export class ModbusError extends WattError {
    override readonly name = "ModbusError";
    declare readonly code: ModbusErrorCode;
    /** Exception code 1..255 where the device sent one (V1.1b3 §7). */
    readonly exception: number | undefined;

    constructor(code: ModbusErrorCode, message: string, options?: { exception?: number; cause?: unknown }) {
        super(code, message, options);
        this.exception = options?.exception;
    }
}
