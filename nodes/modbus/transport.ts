import { WattError } from "../common/errors.js";

/** Modbus data tables (Modbus Application Protocol V1.1b3 §4.3): function codes 1, 2, 4 and 3 read them. */
export const TABLES = ["coil", "discrete", "input", "holding"] as const;
export type Table = (typeof TABLES)[number];

interface AnyRequest {
    /** Unit identifier, 0..255. */
    unit: number;
    /** 0-based wire address, 0..65535. */
    address: number;
    /** Sent although the unit is being left alone after failures: for discovery, and for a person who asks. */
    probe?: boolean;
    signal?: AbortSignal;
}

export interface ReadRequest extends AnyRequest {
    table: Table;
    /** Registers 1..125, or bits 1..2000 (V1.1b3 §6.1-6.4). */
    quantity: number;
    /** A slow group's read: the link sends ordinary reads first, yet never lets it wait for good. */
    background?: boolean;
}

export interface WriteRequest extends AnyRequest {
    table: "coil" | "holding";
    /** Unit 1..255: 0 would reach every device of a serial line, and none answers. */
    unit: number;
    /** 1..123 registers of 0..65535, or 1..1968 coils of 0 and 1 (V1.1b3 §6.11, §6.12). */
    values: readonly number[];
    /** A single value goes by function 5 or 6, unless the device wants 15 or 16 for it too. */
    multiple?: boolean;
}

export type ModbusRequest = ReadRequest | WriteRequest;

/** What a poller or a discovery needs of a link: reads, one at a time, in the order asked. */
export interface ModbusReader {
    /** Most registers that one read may ask for; 125 at most. */
    readonly maxRegisters: number;
    /** True where the last answer came from a simulator of this process. */
    readonly simulated?: boolean;
    /**
     * The data bytes of the answer, exactly `2 * quantity` for registers (big-endian words) or `ceil(quantity / 8)` for bits.
     * Always settles, at the latest at the link's own deadline.
     * @throws ModbusError
     */
    read(request: ReadRequest): Promise<Buffer>;
}

/** What control needs of a link. Writes go before all reads that wait. */
export interface ModbusWriter {
    /**
     * Resolves once the device has confirmed exactly this write. Sent at most once: whether to repeat it is the caller's to say.
     * @throws ModbusError MODBUS_OUTCOME_UNKNOWN when it was sent and not answered: read it back. Every other error means that
     * the device did not take it.
     */
    write(request: WriteRequest): Promise<void>;
}

/**
 * `MODBUS_TIMEOUT` no answer in time · `MODBUS_EXCEPTION` the device answered with an exception · `MODBUS_FRAME` the answer
 * breaks the protocol · `MODBUS_CLOSED` the connection was lost or never made · `MODBUS_BACKOFF` the unit is left alone for
 * now after failures, nothing was sent · `MODBUS_OVERLOAD` the link has more to do than it can, nothing was sent ·
 * `MODBUS_REQUEST` the request itself is impossible · `MODBUS_ABORTED` given up by the caller · `MODBUS_OUTCOME_UNKNOWN` a write
 * may or may not have been done; `cause` tells what went wrong.
 */
export type ModbusErrorCode =
    | "MODBUS_TIMEOUT"
    | "MODBUS_EXCEPTION"
    | "MODBUS_FRAME"
    | "MODBUS_CLOSED"
    | "MODBUS_BACKOFF"
    | "MODBUS_OVERLOAD"
    | "MODBUS_REQUEST"
    | "MODBUS_ABORTED"
    | "MODBUS_OUTCOME_UNKNOWN";

export class ModbusError extends WattError {
    override readonly name = "ModbusError";
    declare readonly code: ModbusErrorCode;
    /** Exception code 1..255 where the device sent one (V1.1b3 §7). */
    readonly exception: number | undefined;
    /** The request itself did not go out: for certain, nothing was done. */
    readonly unsent: boolean;

    constructor(code: ModbusErrorCode, message: string, options?: { exception?: number; unsent?: boolean; cause?: unknown }) {
        super(code, message, options);
        this.exception = options?.exception;
        this.unsent = options?.unsent ?? false;
    }

    /** A gateway says that nobody is behind it: path unavailable, target failed to respond (V1.1b3 §7). The link is well. */
    get unitOffline(): boolean {
        return this.exception === 0x0a || this.exception === 0x0b;
    }

    /** The device itself answered, if only to refuse: it is there. */
    get refused(): boolean {
        return this.exception !== undefined && !this.unitOffline;
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
    /** What answers is a simulator of this process; known once it has answered. */
    readonly simulated?: boolean;
    /** Connects; settles within `timeoutMs`. @throws ModbusError MODBUS_CLOSED that says why not. */
    open(timeoutMs: number): Promise<void>;
    /**
     * Sends a request and resolves with its data bytes; with none for a write, once it is confirmed. One at a time: the caller
     * waits until the last one has settled.
     * @throws ModbusError Always settles. After MODBUS_CLOSED, and with a framing that cannot resync after MODBUS_FRAME, the
     * connection is gone, and the loss is also reported on its own; after other errors it can be used on.
     */
    exchange(request: ModbusRequest, options: ExchangeOptions): Promise<Buffer>;
    /** Ends at once: what is pending rejects with MODBUS_CLOSED. Resolves when the peer can take the next connection. */
    close(): Promise<void>;
}

/** Turns requests into the bytes of one connection, and its bytes into answers. Holds what is left over between two chunks. */
export interface Framing {
    /** After a broken frame it finds the next one by itself; where it cannot, the connection must end. */
    readonly resyncs: boolean;
    /** The bytes to send. From now on its answer is looked for. */
    encode(request: ModbusRequest, checkUnit: boolean): Buffer;
    /**
     * Takes bytes in whatever pieces they come.
     * @returns The data bytes of the awaited answer, the device's refusal (MODBUS_EXCEPTION), or undefined: not there yet.
     * @throws ModbusError MODBUS_FRAME when the protocol is broken: nothing that was received can be trusted.
     */
    receive(chunk: Buffer): Buffer | ModbusError | undefined;
    /**
     * The answer is no longer awaited: it is dropped if it still comes.
     * @returns MODBUS_FRAME when something came, but no whole answer.
     */
    abandon(): ModbusError | undefined;
}
