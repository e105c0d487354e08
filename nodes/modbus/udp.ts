import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";
import { errorCode } from "../common/errors.js";
import { HINTS } from "./tcp.js";
import { type WireOptions, WireTransport } from "./wire.js";

export interface UdpOptions extends WireOptions {
    host: string;
    port: number;
    createSocket?: (type: "udp4" | "udp6") => Socket;
}

/**
 * A framing over UDP: one datagram is one frame. There is no connection: it is open once the host name is resolved, and takes
 * datagrams of that host and port only. A port that nobody listens on is known by the refusal of the first request.
 */
export class UdpTransport extends WireTransport<UdpOptions> {
    protected readonly hints = { ...HINTS, ECONNREFUSED: "refused; check the port, and that Modbus over UDP is switched on" };
    protected readonly target: string;
    private readonly socket: Socket;

    constructor(options: UdpOptions) {
        super(options);
        this.target = `${options.host}:${options.port} (UDP)`;
        const socket = (options.createSocket ?? createSocket)(isIPv6(options.host) ? "udp6" : "udp4");
        this.socket = socket;
        socket.on("error", (error) => this.end(this.closed(errorCode(error) ?? error.message, error)));
        socket.on("message", (datagram: Buffer) => this.receive(datagram));
        socket.once("connect", () => this.opened());
        socket.once("close", () => this.gone());
    }

    protected start(): void {
        const { host, port } = this.options;
        this.socket.connect(port, host);
    }

    protected send(bytes: Buffer): void {
        this.socket.send(bytes);
    }

    protected destroy(): void {
        this.socket.close();
    }
}
