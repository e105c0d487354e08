import { systemClock, type Clock } from "../common/clock.js";
import type { WattError } from "../common/errors.js";
import type { StatusKind } from "../common/status.js";
import type { MqttMessage, MqttState, MqttSubscription } from "../mqtt/link.js";
import { type Esp32Config, presetOf, presetOptions } from "./config.js";
import { HttpDoor } from "./http.js";
import { Ingest, isPassing, type IngestOptions, type Refusal } from "./ingest.js";
import { BROKER, type DeviceKeys } from "./keys.js";
import { Rates } from "./limits.js";
import type { Decoder } from "./preset.js";
import { emoncms } from "./presets/emoncms.js";

export interface ReceiverOptions extends Pick<IngestOptions, "folder" | "site" | "onReading" | "settled" | "onWarning" | "clock" | "files"> {
    config: Esp32Config;
    /** IANA zone of times without one. */
    zone: string;
    keys: DeviceKeys;
    /** Some of those that were refused: enough to see what is wrong, too few to fill a flow. */
    onRefusal?(refusal: ToldRefusal): void;
}

export interface ToldRefusal extends Refusal {
    /** Refused since the last one that was told, and not told. */
    omitted?: number;
}

/** Refusals told of one device for one reason: a second, and at once. */
const REFUSAL_RATES = { ratePerS: 0.2, burst: 3, devices: 500 };
/** Of all devices and reasons together: anybody can think of new names. */
const ALL_REFUSAL_RATES = { ratePerS: 1, burst: 20, devices: 1 };
const MOST_TOPICS = 2000;
/** Devices announce many topics at once. */
const ANNOUNCE_MS = 200;

/** One node's devices: what they send by HTTP and MQTT, decoded by one preset, taken by one ingest. */
export class Receiver {
    readonly ingest: Ingest;
    readonly door: HttpDoor;
    private readonly decoder: Decoder;
    private readonly topics: Set<string>;
    private readonly share: string;
    private readonly clock: Clock;
    private announce: (() => void) | undefined;
    private cancelAnnounce: (() => void) | undefined;

    /** @throws WattError CONFIG_INVALID */
    constructor(options: ReceiverOptions) {
        this.share = options.config.share;
        const { config, zone, keys, clock = systemClock, ...rest } = options;
        this.clock = clock;
        const preset = presetOf(config);
        const presetSettings = presetOptions(config, zone);
        this.topics = new Set(preset.topics(presetSettings));
        this.decoder = preset.createDecoder({ ...presetSettings, onTopic: (topic) => this.listen(topic) });
        const [told, toldOfAll] = [new Rates(REFUSAL_RATES), new Rates(ALL_REFUSAL_RATES)];
        let toldUpTo = 0;
        this.ingest = new Ingest({
            ...rest,
            clock,
            ...(config.deviceClass !== "" && { deviceClass: config.deviceClass }),
            commitMs: config.commitMs,
            isListed: (device) => keys.of(device)?.device === device,
            limits: { bodyBytes: config.bodyKb * 1024, samples: config.samples, ratePerS: config.ratePerS, burst: config.burst, devices: config.maxDevices },
            onRefusal: (refusal) => {
                const now = clock.monotonic();
                if (told.take(`${refusal.code} ${refusal.device}`, now) > 0 || toldOfAll.take("", now) > 0) return;
                const omitted = this.ingest.refused - toldUpTo - 1;
                toldUpTo = this.ingest.refused;
                options.onRefusal?.({ ...refusal, ...(omitted > 0 && { omitted }) });
            },
        });
        // Its paths are always there.
        const bulk = preset === emoncms ? this.decoder : emoncms.createDecoder(presetSettings);
        this.door = new HttpDoor({
            ingest: this.ingest,
            keys,
            decoder: this.decoder,
            ...(preset.reply !== undefined && { reply: preset.reply }),
            below: { "input/post": bulk, "input/bulk": bulk },
            clock,
        });
    }

    /**
     * What to ask the broker for.
     * @param onTopics Called when devices announced more topics: ask again.
     */
    subscription(onTopics: () => void): MqttSubscription {
        this.announce = onTopics;
        return { topics: [...this.topics], qos: 1, ...(this.share !== "" && { share: this.share }), onMessage: (message) => this.take(message) };
    }

    /** Announces no more topics: the node is leaving its link, which may still hand it messages. */
    leave(): void {
        this.announce = undefined;
        this.cancelAnnounce?.();
    }

    /** Of the ingest, or of the broker where that is what is wrong. */
    status(broker: MqttState | undefined): { kind: StatusKind; text: string } {
        const own = this.ingest.status();
        return broker && broker.name !== "up" && own.kind !== "error" ? broker : own;
    }

    /** What the dialog of a deployed node shows. */
    look(): { devices: ReturnType<Ingest["seen"]>; now: number } {
        return { devices: this.ingest.seen(), now: this.clock.now() };
    }

    private listen(topic: string): void {
        if (this.topics.has(topic) || this.topics.size >= MOST_TOPICS) return;
        this.topics.add(topic);
        const { announce } = this;
        if (!announce) return;
        this.cancelAnnounce ??= this.clock.after(ANNOUNCE_MS, () => {
            this.cancelAnnounce = undefined;
            announce();
        });
    }

    /** Resolves when the message is on disk, or never will be: only then the broker may forget it. */
    private async take({ topic, payload, retain }: MqttMessage): Promise<void> {
        try {
            await this.ingest.take(this.decoder, { via: "mqtt", topic, body: payload, retained: retain, at: this.clock.now() }, BROKER);
        } catch (error) {
            if (isPassing(error as WattError)) throw error;
        }
    }
}
