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
    /** Sent although the unit is being left alone after failures: for discovery, and for a person who asks. */
    probe?: boolean;
    signal?: AbortSignal;
}

/** What a poller or a discovery needs of a link: reads, one at a time, in the order asked. */
export interface ModbusReader {
    /** Most registers that one read may ask for; 125 at most. */
    readonly maxRegisters: number;
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
 * now after failures, nothing was sent · `MODBUS_OVERLOAD` the link has more to do than it can, nothing was sent ·
 * `MODBUS_REQUEST` the request itself is impossible · `MODBUS_ABORTED` given up by the caller.
 */
export type ModbusErrorCode =
    | "MODBUS_TIMEOUT"
    | "MODBUS_EXCEPTION"
    | "MODBUS_FRAME"
    | "MODBUS_CLOSED"
    | "MODBUS_BACKOFF"
    | "MODBUS_OVERLOAD"
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

    /** A gateway says that nobody is behind it: path unavailable, target failed to respond (V1.1b3 §7). The link is well. */
    get unitOffline(): boolean {
        return this.exception === 0x0a || this.exception === 0x0b;
    }
}

export interface ExchangeOptions {
    /** Longest wait for the answer, ms. */
    timeoutMs: number;
    /** False takes the answer of a gateway that puts another unit identifier on it. */
    checkUnit: boolean;
}

/** One connection, used once: how requests travel. When they travel is the link's to say. */
export interface Transport {
    /** Connects; settles within `timeoutMs`. @throws ModbusError MODBUS_CLOSED that says why not. */
    open(timeoutMs: number): Promise<void>;
    /**
     * Sends a request and resolves with its data bytes. One at a time: the caller waits until the last one has settled.
     * @throws ModbusError MODBUS_EXCEPTION and MODBUS_TIMEOUT leave the connection usable; after MODBUS_FRAME and
     * MODBUS_CLOSED it is gone, and the loss is also reported on its own.
     */
    exchange(request: ReadRequest, options: ExchangeOptions): Promise<Buffer>;
    /** Ends at once: what is pending rejects with MODBUS_CLOSED. Resolves when the peer can take the next connection. */
    close(): Promise<void>;
}

/** Turns requests into the bytes of one connection, and its bytes into answers. Holds what is left over between two chunks. */
export interface Framing {
    /** The bytes to send. From now on its answer is looked for. */
    encode(request: ReadRequest, checkUnit: boolean): Buffer;
    /**
     * Takes bytes in whatever pieces they come.
     * @returns The data bytes of the awaited answer, the device's refusal (MODBUS_EXCEPTION), or undefined: not there yet.
     * @throws ModbusError MODBUS_FRAME when the protocol is broken: nothing that follows can be trusted.
     */
    receive(chunk: Buffer): Buffer | ModbusError | undefined;
    /**
     * The answer is no longer awaited: it is dropped if it still comes.
     * @returns MODBUS_FRAME when a frame has begun and not ended: where the next one begins is then uncertain.
     */
    abandon(): ModbusError | undefined;
}
