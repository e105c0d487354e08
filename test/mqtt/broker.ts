import { Aedes, type AedesOptions, type AedesPublishPacket, type Client } from "aedes";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, Server as TlsServer, type TlsOptions } from "node:tls";

/** A broker for MQTT 3.1.1 in this process, on a port of its own; sessions live as long as it. */
export class TestBroker {
    readonly sockets = new Set<Socket>();
    connections = 0;
    port = 0;

    private constructor(
        readonly aedes: Aedes,
        private readonly server: Server,
    ) {
        server.on(server instanceof TlsServer ? "secureConnection" : "connection", (socket: Socket) => {
            this.connections++;
            this.sockets.add(socket);
            socket.on("error", () => undefined);
            socket.on("close", () => this.sockets.delete(socket));
        });
    }

    static async start(options: AedesOptions = {}, tls?: TlsOptions, port = 0): Promise<TestBroker> {
        const aedes = new Aedes(options);
        await aedes.listen();
        aedes.on("clientError", () => undefined);
        aedes.on("connectionError", () => undefined);
        const server = tls ? createTlsServer(tls, (socket) => void aedes.handle(socket)) : createServer((socket) => void aedes.handle(socket));
        server.on("tlsClientError", () => undefined);
        const broker = new TestBroker(aedes, server);
        broker.port = port;
        await broker.open();
        return broker;
    }

    get url(): string {
        return `mqtt://127.0.0.1:${this.port}`;
    }

    /** Listens again, on the same port. */
    async open(): Promise<void> {
        this.server.listen(this.port, "127.0.0.1");
        await once(this.server, "listening");
        this.port = (this.server.address() as { port: number }).port;
    }

    /** Drops all connections; `away` refuses new ones too until `open`. */
    async drop(away = false): Promise<void> {
        const closed = away ? once(this.server, "close") : undefined;
        if (away) this.server.close();
        const gone = [...this.sockets].map((socket) => once(socket, "close"));
        for (const socket of this.sockets) socket.destroy();
        await Promise.all(gone);
        await closed;
    }

    publish(topic: string, payload: string | Buffer, { qos = 1, retain = false }: { qos?: 0 | 1 | 2; retain?: boolean } = {}): Promise<void> {
        return new Promise((resolve, reject) => {
            this.aedes.publish({ cmd: "publish", topic, payload, qos, retain, dup: false }, (error) => (error ? reject(error) : resolve()));
        });
    }

    /** The next message that a client publishes. */
    async published(): Promise<AedesPublishPacket> {
        for (;;) {
            const [packet, client] = (await once(this.aedes, "publish")) as [AedesPublishPacket, Client | null];
            if (client) return packet;
        }
    }

    async stop(): Promise<void> {
        await this.drop(this.server.listening);
        await new Promise<void>((resolve) => {
            this.aedes.close(() => resolve());
        });
    }
}
