import { type OnReadOpts, Socket, type SocketConstructorOpts } from "node:net";
import { errorCode } from "../common/errors.js";
import { isSimulatedPeer } from "../common/simulated.js";
import { type WireOptions, WireTransport } from "./wire.js";

/** First keep-alive probe, ms: below the 60 s after which small devices and routers forget an idle connection. */
const KEEP_ALIVE_MS = 15_000;

export interface TcpOptions extends WireOptions {
    host: string;
    port: number;
    createSocket?: (onread: OnReadOpts) => Socket;
}

/** Many frames: an answer has 260 bytes at most. */
const READ_BYTES = 2048;

/** A framing over one TCP connection. */
export class TcpTransport extends WireTransport<TcpOptions> {
    protected readonly hints = HINTS;
    protected readonly target: string;
    simulated = false;
    private readonly socket: Socket;

    constructor(options: TcpOptions) {
        super(options);
        this.target = `${options.host}:${options.port}`;
        const take = (chunk: Buffer) => {
            this.simulated ||= isSimulatedPeer(socket);
            this.receive(chunk);
        };
        // A stream takes 64 KiB for every chunk, which costs more than all that is done with an answer.
        const onread: OnReadOpts = {
            buffer: Buffer.allocUnsafeSlow(READ_BYTES),
            callback: (length, buffer) => {
                take(Buffer.from((buffer as Buffer).subarray(0, length)));
                return true;
            },
        };
        const socket = (options.createSocket ?? newSocket)(onread);
        this.socket = socket;
        // Before connect: an error without a listener ends the process.
        socket.on("error", (error) => this.end(this.closed(errorCode(error) ?? error.message, error)));
        // Of a socket that leaves the buffer unused; it also keeps the stream going, so that the peer's end is heard.
        socket.on("data", take);
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

/** Node's own types leave out that a socket takes a buffer. */
export function newSocket(onread: OnReadOpts): Socket {
    return new Socket({ onread } as SocketConstructorOpts);
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
