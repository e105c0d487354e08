import type { BadReason, PointValue } from "../common/reading.js";

/** One HTTP request or MQTT message as it came. */
export interface Arrival {
    via: "http" | "mqtt";
    /** Of an MQTT message; of an HTTP request the path below the node's own, without a slash at the front. */
    topic?: string;
    query?: Record<string, string>;
    contentType?: string;
    /** Not compressed. */
    body: Buffer;
    /** The broker kept it: nobody knows how old it is. */
    retained: boolean;
    /** Who sent it, where its key or topic says so; for bodies that do not. */
    device?: string;
    /** ms UTC. */
    at: number;
}

/**
 * What one device measured at one instant, in our names and units.
 *
 * A source that sends one value a message gives samples of one value. They are not collected: a stored value is known by site, device,
 * point and time, so parts of a sample need not travel together, a timer could only delay the acknowledgement of what is not yet
 * durable, and what a crash took from a half-full group would be lost. Where the source tells the time (`ts`), the parts meet again
 * under it.
 */
export interface DeviceSample {
    /** As the source names it: see `deviceName`. */
    device: string;
    /** inverter, meter, weather, …; absent where the source does not tell. */
    class?: string;
    values: Record<string, PointValue>;
    bad?: Record<string, BadReason>;
    /** The device's own time, ms UTC, not checked for plausibility. */
    ts?: number;
    /** `ts` follows from when the message was sent or came: a repeat of it has another one. */
    isReckoned?: boolean;
    /** ms since the device's start, at the sample. */
    up?: number;
    /** How long before its arrival it was measured, ms, where the source tells that instead. */
    ageMs?: number;
    /** It may be old: without `ts` it has no time, least of all that of its arrival. */
    stale?: boolean;
    /** The device's signature of this sample, base64 (docs/evidence.md). */
    signature?: string;
}

/** What one message says of one device. */
export interface Decoded {
    /** Who sends: whose key, rate and sequence count. */
    device: string;
    /** Starts of the device, and the number of the message since then. */
    boot?: number;
    seq?: number;
    /** ms since the device's start, when it sent. */
    up?: number;
    /** The device says that it measured nothing of this. */
    simulated?: boolean;
    samples: DeviceSample[];
    /** Names without a unit that the user's mapping would have to give; few, and short. */
    unmapped?: string[];
}

/** A value that the user gave a name to. */
export interface MappedPoint {
    /** Where in the JSON, such as `data.power`, `phases[0].w`, or a key with dots as it is. Absent for a message that is the value. */
    path?: string;
    /** MQTT topic, `+` for any one level. */
    topic?: string;
    point: string;
    /** Of the source, such as kWh; the one of the point's name where it is absent. */
    unit?: string;
    /** Value × scale is in the unit. */
    scale?: number;
}

export interface Mapping {
    /** Where the device's name is: a path of the JSON, or `topic` and a level from 0, such as `topic[1]`. Absent: see `mapping.ts`. */
    device?: string;
    /** Where the time is: a path of the JSON. */
    time?: string;
    class?: string;
    points: MappedPoint[];
}

export interface PresetOptions {
    /** Start of the topics, without a slash at the end; blank for the preset's own. */
    prefix: string;
    /** IANA zone of a time without one. */
    zone: string;
    /** Names of the user's, for presets whose sources name their values freely. */
    mapping?: Mapping;
    /**
     * What a meter counts forwards, where its data do not tell: what is drawn (`import`, unless said), or what is generated (`export`:
     * power is + for generation then).
     */
    forward?: "import" | "export";
    /** Told of each topic that a message announced (Home Assistant's discovery); many times for the same one. */
    onTopic?: (topic: string) => void;
}

/** Keeps what a source tells only once, of a limited number of devices. */
export interface Decoder {
    /**
     * Nothing for a message that has no measurement.
     * @throws WattError PAYLOAD_INVALID for a message that is not of this kind; what is thrown says what was expected.
     */
    decode(arrival: Arrival): Decoded[];
}

/** How one kind of device talks. */
export interface Preset {
    id: string;
    /** Body of the answer to a request that was taken, where the devices look at it. */
    reply?: string;
    /** What to subscribe to; none where it comes by HTTP alone. Never a topic that a device takes orders from. */
    topics(options: PresetOptions): string[];
    createDecoder(options: PresetOptions): Decoder;
}
