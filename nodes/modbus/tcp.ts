import { Socket } from "node:net";
import { errorCode } from "../common/errors.js";
import { isSimulatedPeer } from "../common/simulated.js";
import { type WireOptions, WireTransport } from "./wire.js";

/** First keep-alive probe, ms: below the 60 s after which small devices and routers forget an idle connection. */
const KEEP_ALIVE_MS = 15_000;

export interface TcpOptions extends WireOptions {
    host: string;
    port: number;
    createSocket?: () => Socket;
}

/** A framing over one TCP connection. */
export class TcpTransport extends WireTransport<TcpOptions> {
    protected readonly hints = HINTS;
    protected readonly target: string;
    simulated = false;
    private readonly socket: Socket;

    constructor(options: TcpOptions) {
        super(options);
        this.target = `${options.host}:${options.port}`;
        const socket = (options.createSocket ?? (() => new Socket()))();
        this.socket = socket;
        // Before connect: an error without a listener ends the process.
        socket.on("error", (error) => this.end(this.closed(errorCode(error) ?? error.message, error)));
        socket.on("data", (chunk: Buffer) => {
            this.simulated ||= isSimulatedPeer(socket);
            this.receive(chunk);
        });
        socket.once("connect", () => this.opened());
        socket.once("close", () => {
            this.end(this.closed("ECONNRESET"));
            this.gone();
        });
        socket.setNoDelay(true);
        socket.setKeepAlive(true, KEEP_ALIVE_MS);
    }

    protected start(): void {
        const { host, port } = this.options;
        this.socket.connect({ host, port });
    }

    protected send(bytes: Buffer): void {
        this.socket.write(bytes);
    }

    protected destroy(): void {
        this.socket.destroy();
    }
}

export const HINTS: Record<string, string> = {
    ECONNREFUSED: "refused; check the port, that Modbus TCP is switched on, and that no other client holds the device",
    ECONNRESET: "the device ended it; many take one client only",
    EPIPE: "the device ended it; many take one client only",
    ENOTFOUND: "no such host name; check the spelling or use the IP address",
    EAI_AGAIN: "the name server does not answer; use the IP address",
    EHOSTUNREACH: "no such host on the network; check address, cable and power",
    ENETUNREACH: "no route to that network; check address and network settings",
    ETIMEDOUT: "no answer; check address, cable and power",
};
