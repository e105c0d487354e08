import { EventEmitter, once } from "node:events";
import type { MqttError } from "../../dist/mqtt/errors.js";
import { type LinkOptions, type MqttHandle, MqttLink, type MqttMessage, type MqttState, type MqttSubscription } from "../../dist/mqtt/link.js";
import type { MqttSettings } from "../../dist/mqtt/settings.js";

export function settings(url: string, more: Partial<MqttSettings> = {}): MqttSettings {
    return {
        url,
        version: 4,
        clientId: "wltest",
        clean: false,
        sessionExpiryS: 3_600,
        keepAliveS: 60,
        tls: { verify: true },
        inFlight: 1_000,
        maxBytes: 256 * 1_024,
        ...more,
    };
}

/** A link, and everything it says. */
export class LinkRig extends EventEmitter {
    readonly link: MqttLink;
    readonly states: string[] = [];
    readonly lost: MqttError[] = [];
    readonly warnings: string[] = [];
    back = 0;

    constructor(of: MqttSettings, options: LinkOptions = {}) {
        super();
        this.setMaxListeners(0);
        this.link = new MqttLink(of, {
            onState: ({ name }) => {
                this.states.push(name);
                this.emit("change");
            },
            onLost: (error) => {
                this.lost.push(error);
                this.emit("change");
            },
            onBack: () => {
                this.back++;
                this.emit("change");
            },
            onWarning: (text) => {
                this.warnings.push(text);
                this.emit("change");
            },
            ...options,
        });
    }

    /** Resolves when something holds that changes with what the link says or a user gets. */
    async until(holds: () => boolean): Promise<void> {
        while (!holds()) await once(this, "change");
    }

    user(id: string, topics: string[], more: Partial<MqttSubscription> = {}): RigUser {
        return new RigUser(this, id, { topics, qos: 1, ...more });
    }
}

/** A user that keeps what it gets, or holds it until told. */
export class RigUser {
    readonly messages: MqttMessage[] = [];
    readonly states: MqttState[] = [];
    /** Of messages that came while holding, oldest first. */
    readonly held: { message: MqttMessage; keep: () => void; refuse: (error: Error) => void }[] = [];
    holding = false;
    readonly handle: MqttHandle;

    constructor(
        private readonly rig: LinkRig,
        readonly id: string,
        subscription: Omit<MqttSubscription, "onMessage"> & Partial<Pick<MqttSubscription, "onMessage">>,
    ) {
        this.handle = rig.link.join(id, { onMessage: (message) => this.take(message), ...subscription }, (state) => {
            this.states.push(state);
            rig.emit("change");
        });
    }

    get state(): MqttState {
        return this.states.at(-1) ?? { name: "connecting", kind: "busy", text: "connecting" };
    }

    get payloads(): string[] {
        return this.messages.map(({ payload }) => payload.toString());
    }

    in(name: MqttState["name"]): Promise<void> {
        return this.rig.until(() => this.state.name === name);
    }

    got(count: number): Promise<void> {
        return this.rig.until(() => this.messages.length >= count);
    }

    private take(message: MqttMessage): Promise<void> {
        this.messages.push(message);
        const done = this.holding ? new Promise<void>((keep, refuse) => this.held.push({ message, keep, refuse })) : Promise.resolve();
        this.rig.emit("change");
        return done;
    }
}
