import { Socket } from "node:net";
import { type Clock, systemClock } from "../common/clock.js";
import { errorCode } from "../common/errors.js";
import { describe } from "./pdu.js";
import { type ExchangeOptions, type Framing, ModbusError, type ReadRequest, type Transport } from "./transport.js";

/** First keep-alive probe, ms: below the 60 s after which small devices and routers forget an idle connection. */
const KEEP_ALIVE_MS = 15_000;

export interface TcpOptions {
    host: string;
    port: number;
    framing: Framing;
    /** The connection ended after it was open, other than by close(). Called once. */
    onLost: (error: ModbusError) => void;
    createSocket?: () => Socket;
    clock?: Clock;
}

interface Waiting {
    resolve: (data: Buffer) => void;
    reject: (error: ModbusError) => void;
    cancelDeadline: () => void;
}

const NOTHING = Buffer.alloc(0);

/** A framing over one TCP connection. */
export class TcpTransport implements Transport {
    private readonly socket: Socket;
    private readonly clock: Clock;
    private readonly gone: Promise<void>;
    private waiting: Waiting | undefined;
    private state: "new" | "open" | "over" = "new";

    constructor(private readonly options: TcpOptions) {
        this.clock = options.clock ?? systemClock;
        const socket = (options.createSocket ?? (() => new Socket()))();
        this.socket = socket;
        // Before connect: an error without a listener ends the process.
        socket.on("error", (error) => this.end(this.closed(errorCode(error) ?? error.message, error)));
        socket.on("data", (chunk: Buffer) => this.receive(chunk));
        this.gone = new Promise((resolve) => {
            socket.once("close", () => {
                this.end(this.closed("ECONNRESET"));
                resolve();
            });
        });
        socket.setNoDelay(true);
        socket.setKeepAlive(true, KEEP_ALIVE_MS);
    }

    async open(timeoutMs: number): Promise<void> {
        const { host, port } = this.options;
        this.socket.once("connect", () => {
            this.state = "open";
            this.settle()?.resolve(NOTHING);
        });
        await this.wait(timeoutMs, () => this.end(this.closed(`no answer within ${timeoutMs} ms: check address, network and power`)), () => {
            this.socket.connect({ host, port });
        });
    }

    exchange(request: ReadRequest, { timeoutMs, checkUnit }: ExchangeOptions): Promise<Buffer> {
        const { framing } = this.options;
        const late = () => {
            const broken = framing.abandon();
            if (broken) this.end(broken);
            else this.settle()?.reject(timedOut(request, timeoutMs));
        };
        return this.wait(timeoutMs, late, () => {
            this.socket.write(framing.encode(request, checkUnit));
        });
    }

    close(): Promise<void> {
        this.state = "over";
        this.socket.destroy();
        this.settle()?.reject(this.closed("it was closed here"));
        return this.gone;
    }

    private wait(timeoutMs: number, late: () => void, start: () => void): Promise<Buffer> {
        return new Promise((resolve, reject) => {
            if (this.state === "over") {
                reject(this.closed("it is over"));
                return;
            }
            this.waiting = { resolve, reject, cancelDeadline: this.clock.after(timeoutMs, late) };
            start();
        });
    }

    /** Whoever waits, for the last time. */
    private settle(): Waiting | undefined {
        const { waiting } = this;
        this.waiting = undefined;
        waiting?.cancelDeadline();
        return waiting;
    }

    private receive(chunk: Buffer): void {
        if (this.state === "over") return;
        try {
            const answer = this.options.framing.receive(chunk);
            if (answer === undefined) return;
            if (answer instanceof ModbusError) this.settle()?.reject(answer);
            else this.settle()?.resolve(answer);
        } catch (error) {
            this.end(error instanceof ModbusError ? error : new ModbusError("MODBUS_FRAME", "The answer cannot be read.", { cause: error }));
        }
    }

    private end(error: ModbusError): void {
        if (this.state === "over") return;
        const wasOpen = this.state === "open";
        this.state = "over";
        this.socket.destroy();
        this.settle()?.reject(error);
        if (wasOpen) this.options.onLost(error);
    }

    private closed(why: string, cause?: unknown): ModbusError {
        const { host, port } = this.options;
        const what = this.state === "open" ? "Lost the connection to" : "No connection to";
        return new ModbusError("MODBUS_CLOSED", `${what} ${host}:${port}: ${HINTS[why] ?? why}.`, { cause });
    }
}

function timedOut(request: ReadRequest, timeoutMs: number): ModbusError {
    return new ModbusError("MODBUS_TIMEOUT", `Unit ${request.unit} did not answer ${describe(request)} within ${timeoutMs} ms: check its unit id and power, or allow it more time.`);
}

const HINTS: Record<string, string> = {
    ECONNREFUSED: "refused; check the port, that Modbus TCP is switched on, and that no other client holds the device",
    ECONNRESET: "the device ended it; many take one client only",
    EPIPE: "the device ended it; many take one client only",
    ENOTFOUND: "no such host name; check the spelling or use the IP address",
    EAI_AGAIN: "the name server does not answer; use the IP address",
    EHOSTUNREACH: "no such host on the network; check address, cable and power",
    ENETUNREACH: "no route to that network; check address and network settings",
    ETIMEDOUT: "no answer; check address, cable and power",
};
