import { type Clock, systemClock } from "../common/clock.js";
import { errorText } from "../common/errors.js";
import { describe } from "./pdu.js";
import { type ExchangeOptions, type Framing, ModbusError, type ModbusRequest, type Transport } from "./transport.js";

export interface WireOptions {
    framing: Framing;
    /** The connection ended after it was open, other than by close(). Called once. */
    onLost: (error: ModbusError) => void;
    clock?: Clock;
}

interface Waiting {
    resolve: (data: Buffer) => void;
    reject: (error: ModbusError) => void;
    cancelDeadline: () => void;
}

const NOTHING = Buffer.alloc(0);

/** A framing over something that carries bytes: a TCP connection, a serial port, a UDP socket. */
export abstract class WireTransport<O extends WireOptions> implements Transport {
    protected readonly clock: Clock;
    /** To be called once the wire has closed, and no sooner than the peer can take the next connection. */
    protected gone: () => void = () => undefined;
    private readonly whenGone = new Promise<void>((resolve) => (this.gone = resolve));
    private waiting: Waiting | undefined;
    private state: "new" | "open" | "over" = "new";

    constructor(protected readonly options: O) {
        this.clock = options.clock ?? systemClock;
    }

    /** Begins to connect; `opened` tells when it is done, `end` when it failed. */
    protected abstract start(): void;
    protected abstract send(bytes: Buffer): void;
    /** Closes at once, whatever it was doing; then `gone` is called. */
    protected abstract destroy(): void;
    /** What the wire leads to, for messages. */
    protected abstract readonly target: string;
    /** What to do about an error of the wire, by its code. */
    protected abstract readonly hints: Record<string, string>;

    async open(timeoutMs: number): Promise<void> {
        const late = () => this.end(this.closed(`no answer within ${timeoutMs} ms: check address, network and power`));
        await this.wait(timeoutMs, late, () => this.start());
    }

    exchange(request: ModbusRequest, { timeoutMs, checkUnit }: ExchangeOptions): Promise<Buffer> {
        const { framing } = this.options;
        const late = () => this.fail(framing.abandon() ?? timedOut(request, timeoutMs));
        return this.wait(timeoutMs, late, () => this.send(framing.encode(request, checkUnit)));
    }

    close(): Promise<void> {
        if (this.state !== "over") {
            this.state = "over";
            this.options.framing.abandon();
            this.destroy();
        }
        this.settle()?.reject(this.closed("it was closed here"));
        return this.whenGone;
    }

    protected get isOver(): boolean {
        return this.state === "over";
    }

    protected opened(): void {
        if (this.state !== "new") return;
        this.state = "open";
        this.settle()?.resolve(NOTHING);
    }

    protected receive(chunk: Buffer): void {
        if (this.state === "over") return;
        try {
            const answer = this.options.framing.receive(chunk);
            if (answer === undefined) return;
            if (answer instanceof ModbusError) this.settle()?.reject(answer);
            else this.settle()?.resolve(answer);
        } catch (error) {
            this.options.framing.abandon();
            this.fail(error instanceof ModbusError ? error : new ModbusError("MODBUS_FRAME", "The answer cannot be read.", { cause: error }));
        }
    }

    protected end(error: ModbusError): void {
        if (this.state === "over") return;
        const wasOpen = this.state === "open";
        this.state = "over";
        this.options.framing.abandon();
        this.destroy();
        this.settle()?.reject(error);
        if (wasOpen) this.options.onLost(error);
    }

    /** The error of a wire that ended or could not be opened. */
    protected closed(why: string, cause?: unknown, unsent = false): ModbusError {
        const what = this.state === "open" ? "Lost the connection to" : "No connection to";
        return new ModbusError("MODBUS_CLOSED", `${what} ${this.target}: ${this.hints[why] ?? why}.`, { cause, unsent });
    }

    private wait(timeoutMs: number, late: () => void, start: () => void): Promise<Buffer> {
        return new Promise((resolve, reject) => {
            if (this.state === "over") {
                reject(this.closed("it is over", undefined, true));
                return;
            }
            this.waiting = { resolve, reject, cancelDeadline: this.clock.after(timeoutMs, late) };
            try {
                start();
            } catch (error) {
                this.end(error instanceof ModbusError ? error : this.closed(errorText(error), error));
            }
        });
    }

    /** Whoever waits, for the last time. */
    private settle(): Waiting | undefined {
        const { waiting } = this;
        this.waiting = undefined;
        waiting?.cancelDeadline();
        return waiting;
    }

    /** A broken frame ends the connection, unless the framing finds the next one. */
    private fail(error: ModbusError): void {
        if (error.code === "MODBUS_FRAME" && !this.options.framing.resyncs) this.end(error);
        else this.settle()?.reject(error);
    }
}

function timedOut(request: ModbusRequest, timeoutMs: number): ModbusError {
    return new ModbusError("MODBUS_TIMEOUT", `Unit ${request.unit} did not answer ${describe(request)} within ${timeoutMs} ms: check its unit id and power, or allow it more time.`);
}
