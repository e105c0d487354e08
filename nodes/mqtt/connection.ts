import { connect, type IClientOptions, type IConnackPacket, type IDisconnectPacket, type IPublishPacket, type ISubscriptionMap, type MqttClient } from "mqtt";
import { Socket } from "node:net";
import type { Clock } from "../common/clock.js";
import { MqttError, refusal } from "./errors.js";

/** A message as its subscribers get it. */
export interface MqttMessage {
    topic: string;
    payload: Buffer;
    /** The broker had kept it from before: it is as old as its sender's last publish, not new. */
    retain: boolean;
    qos: 0 | 1 | 2;
    /** Of MQTT 5. */
    properties?: NonNullable<IPublishPacket["properties"]>;
}

export interface ConnectionOptions {
    client: IClientOptions;
    url: string;
    /** No more is read from the broker while so many messages, or bytes of them, are with their subscribers. */
    maxMessages: number;
    maxBytes: number;
    /** The message is acknowledged when this resolves. */
    take: (message: MqttMessage) => Promise<void>;
    /** Once, when the connection is over or was never made, however that came; not after `close`. */
    onEnd: (error: unknown) => void;
    clock: Clock;
    connect?: typeof connect;
}

interface Waiting {
    id: number;
    kept: boolean;
}

/** Given to mqtt.js for a message whose PUBACK we send ourselves: it sends none and goes on to the next packet. */
const ACKNOWLEDGED_LATER = new Error("acknowledged later");
const PUBACK = 0x40;
const CLOSE_WITHIN_MS = 500;

/**
 * One connection to a broker, from CONNECT to its end; it never connects again. PUBACKs go out in the order in which messages came
 * (3.1.1 §4.6), each when its message is kept, so that a group commit acknowledges hundreds at once. What is not acknowledged when
 * the connection ends comes again with the session.
 */
export class Connection {
    private readonly client: MqttClient;
    private readonly waiting: Waiting[] = [];
    private readonly calls = new Set<(error: Error) => void>();
    private readonly idle: (() => void)[] = [];
    private taken = 0;
    private bytes = 0;
    private held: (() => void) | undefined;
    private flushing = false;
    private cause: unknown;
    private ending = false;
    private over = false;
    private cancelLate: (() => void) | undefined;
    /** What the broker said when it let us in. */
    connack: IConnackPacket | undefined;
    /** Messages taken so far. */
    received = 0;

    constructor(private readonly options: ConnectionOptions, onUp: (connack: IConnackPacket) => void) {
        const client = (options.connect ?? connect)(options.url, { ...options.client, reconnectPeriod: 0, resubscribe: false, queueQoSZero: false });
        this.client = client;
        client.handleMessage = (packet, done) => this.handle(packet, done);
        // Acknowledgements are small, and a broker whose window is full waits for them.
        if (client.stream instanceof Socket) client.stream.setNoDelay(true);
        client.on("connect", (packet) => {
            this.connack = packet;
            onUp(packet);
        });
        client.on("disconnect", ({ reasonCode }: IDisconnectPacket) => this.fail(reasonCode ? refusal(reasonCode) : undefined));
        client.on("error", (error) => this.fail(error));
        client.on("close", () => this.ended());
    }

    /** Reason codes, one a filter, in their order. */
    async subscribe(filters: string[], qos: 0 | 1, subscriptionIdentifier?: number): Promise<number[]> {
        const map: ISubscriptionMap = Object.fromEntries(filters.map((filter) => [filter, { qos }])) as ISubscriptionMap;
        return this.call((resolve, reject) => {
            this.client.subscribe(map, subscriptionIdentifier ? { properties: { subscriptionIdentifier } } : {}, (error, _, suback) => {
                if (suback?.granted) resolve(suback.granted as number[]);
                else reject(error ?? new Error("no answer"));
            });
        });
    }

    async unsubscribe(filters: string[]): Promise<void> {
        await this.call<void>((resolve, reject) => {
            this.client.unsubscribe(filters, (error?: Error) => (error ? reject(error) : resolve()));
        });
    }

    /** Resolves when the broker has it, with QoS 0 when it is on its way. */
    async publish(topic: string, payload: string | Buffer, options: { qos: 0 | 1; retain: boolean }): Promise<void> {
        const most = this.connack?.properties?.maximumPacketSize;
        const size = Buffer.byteLength(payload) + Buffer.byteLength(topic) + 16;
        if (most !== undefined && size > most) throw new MqttError("MQTT_TOO_LARGE", `The message of ${size} bytes is larger than the ${most} that the broker takes.`);
        await this.call<void>((resolve, reject) => {
            this.client.publish(topic, payload, options, (error?: Error) => {
                if (error) reject(new MqttError("MQTT_PUBLISH", `The broker refused the message for ${topic}: ${error.message}`, undefined, { cause: error }));
                else resolve();
            });
        });
    }

    /** Takes no more messages; what its subscribers have may still be acknowledged. */
    hush(): void {
        this.ending = true;
    }

    /** Resolves once no message is with its subscribers, and what they kept is acknowledged if it still can be. */
    settled(): Promise<void> {
        return new Promise((resolve) => {
            if (this.taken === 0) resolve();
            else this.idle.push(resolve);
        });
    }

    /** Says goodbye and ends; what is not acknowledged stays with the broker. `forGood` ends the session too (5.0). */
    async close(forGood = false): Promise<void> {
        const wasUp = this.connack !== undefined && !this.over;
        this.flush();
        this.finish(new MqttError("MQTT_CLOSED", "The MQTT link is closing."));
        const gone = new Promise<void>((resolve) => {
            if (this.client.stream.closed) resolve();
            else this.client.stream.once("close", () => resolve());
        });
        const is5 = this.options.client.protocolVersion === 5;
        // A graceful end waits for the broker to answer what was sent before; that is decided already.
        for (const id of Object.keys(this.client.outgoing)) this.client.removeOutgoingMessage(Number(id));
        this.client.end(!wasUp, is5 && forGood ? { properties: { sessionExpiryInterval: 0 } } : {});
        this.destroyLate();
        await gone;
        this.cancelLate?.();
    }

    private handle(packet: IPublishPacket, done: (error?: Error) => void): void {
        if (this.ending) return;
        const { payload } = packet;
        const message: MqttMessage = {
            topic: packet.topic,
            payload: typeof payload === "string" ? Buffer.from(payload) : payload,
            retain: packet.retain,
            qos: packet.qos,
            ...(packet.properties && { properties: packet.properties }),
        };
        const size = message.payload.length;
        this.received++;
        this.taken++;
        this.bytes += size;
        const waiting: Waiting | undefined = packet.qos === 1 ? { id: packet.messageId!, kept: false } : undefined;
        if (waiting) this.waiting.push(waiting);
        const settle = () => {
            this.taken--;
            this.bytes -= size;
            if (waiting) this.acknowledge(waiting);
            else if (packet.qos === 2) done();
            this.resume();
        };
        this.options.take(message).then(
            () => {
                if (waiting) waiting.kept = true;
                settle();
            },
            (error: unknown) => {
                // Nothing can bring a message of QoS 0 back.
                if (packet.qos > 0) this.fail(error);
                settle();
            },
        );
        // We ask for QoS 1 at most: only a session from before can hold this, and mqtt.js takes it one at a time.
        if (packet.qos === 2) return;
        if (this.isFull()) this.held = () => done(ACKNOWLEDGED_LATER);
        else done(ACKNOWLEDGED_LATER);
    }

    private isFull(): boolean {
        return this.taken >= this.options.maxMessages || this.bytes >= this.options.maxBytes;
    }

    private resume(): void {
        if (this.held && !this.isFull()) {
            const { held } = this;
            this.held = undefined;
            held();
        }
        if (this.taken > 0 || this.idle.length === 0) return;
        this.flush();
        for (const resolve of this.idle.splice(0)) resolve();
    }

    /** A commit settles many messages one after the other: their PUBACKs go out in one write, once all have. */
    private acknowledge(waiting: Waiting): void {
        if (this.flushing || !waiting.kept || waiting !== this.waiting[0]) return;
        this.flushing = true;
        process.nextTick(() => this.flush());
    }

    private flush(): void {
        this.flushing = false;
        const { stream } = this.client;
        let count = this.waiting.findIndex(({ kept }) => !kept);
        if (count < 0) count = this.waiting.length;
        if (count === 0 || !stream.writable) return;
        const bytes = Buffer.allocUnsafe(4 * count);
        for (const [at, { id }] of this.waiting.splice(0, count).entries()) {
            // The form without a reason code means success in 5.0 (§3.4.2.1) as in 3.1.1.
            bytes[4 * at] = PUBACK;
            bytes[4 * at + 1] = 2;
            bytes.writeUInt16BE(id, 4 * at + 2);
        }
        stream.write(bytes);
    }

    private call<T>(start: (resolve: (value: T) => void, reject: (error: Error) => void) => void): Promise<T> {
        return new Promise<T>((resolve, reject) => {
            if (this.over || !this.client.connected) {
                reject(new MqttError("MQTT_CLOSED", "There is no connection to the broker."));
                return;
            }
            const end = (error: Error) => reject(error);
            this.calls.add(end);
            start(
                (value) => {
                    this.calls.delete(end);
                    resolve(value);
                },
                (error) => {
                    this.calls.delete(end);
                    reject(error);
                },
            );
        });
    }

    private fail(error: unknown): void {
        this.cause ??= error;
        if (this.ending) return;
        this.ending = true;
        this.flush();
        // Lets what was acknowledged go out first.
        this.client.stream.end();
        this.destroyLate();
    }

    /** A broker that hangs is not waited for. */
    private destroyLate(): void {
        this.cancelLate?.();
        this.cancelLate = this.options.clock.after(CLOSE_WITHIN_MS, () => this.client.stream.destroy());
    }

    private ended(): void {
        if (this.over) return;
        this.cancelLate?.();
        this.finish(new MqttError("MQTT_CLOSED", "The connection to the broker was lost."));
        this.client.end(true);
        this.options.onEnd(this.cause);
    }

    private finish(error: Error): void {
        this.over = true;
        this.ending = true;
        this.held = undefined;
        for (const end of this.calls) end(error);
        this.calls.clear();
    }
}
