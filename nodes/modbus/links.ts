import { z } from "zod";
import { type Clock, systemClock } from "../common/clock.js";
import { booleanField, choiceField, numberField, textField } from "../common/config.js";
import { type LinkMember, ModbusLink, type LinkSettings } from "./link.js";
import { DatagramFraming, MbapFraming } from "./mbap.js";
import { MAX_REGISTERS } from "./pdu.js";
import type { LinkKind } from "./plan.js";
import { RtuFraming, RtuTransport, Strays } from "./rtu.js";
import { DATA_BITS, type SerialSettings, SerialTransport } from "./serial.js";
import { TcpTransport } from "./tcp.js";
import type { ModbusError, Transport } from "./transport.js";
import { UdpTransport } from "./udp.js";

const limits = {
    timeoutMs: numberField({ min: 50, max: 60_000, default: 1_000 }),
    gapMs: numberField({ min: 0, max: 10_000, default: 0 }),
    connectPauseMs: numberField({ min: 0, max: 30_000, default: 0 }),
    maxRegisters: numberField({ min: 1, max: MAX_REGISTERS, default: MAX_REGISTERS, integer: true }),
    idleCloseS: numberField({ min: 0, max: 86_400, default: 0 }),
    checkUnit: booleanField(true),
};

const networkSchema = z.object({
    transport: z.enum(["tcp", "rtutcp", "udp"]),
    host: textField().pipe(z.string().regex(/^[^\s/]+$/, "takes a host name or an IP address")),
    port: numberField({ min: 1, max: 65_535, default: 502, integer: true }),
    ...limits,
});

const serialSchema = z.object({
    transport: z.literal("rtu"),
    path: textField(),
    baud: numberField({ min: 300, max: 4_000_000, default: 9_600, integer: true }),
    parity: choiceField(["none", "even", "odd"], "none"),
    stopBits: numberField({ min: 1, max: 2, default: 1, integer: true }),
    ...limits,
});

const transportSchema = z.looseObject({ transport: choiceField(["tcp", "rtutcp", "udp", "rtu"], "tcp") });

/** The settings of a wl-modbus-link, from its node or its dialog. What belongs to another transport is not looked at. */
export const linkSchema = transportSchema
    .pipe(z.discriminatedUnion("transport", [networkSchema, serialSchema]))
    .transform(({ idleCloseS, ...rest }) => ({ ...rest, idleCloseMs: idleCloseS * 1_000 }));

interface NetworkEndpoint {
    /** Modbus TCP unless told otherwise. */
    transport?: "tcp" | "rtutcp" | "udp";
    host: string;
    port: number;
}

interface SerialEndpoint extends SerialSettings {
    transport: "rtu";
}

export type Endpoint = NetworkEndpoint | SerialEndpoint;

/** `192.168.1.20:502`, `/dev/ttyUSB0`: for messages. */
export function endpointName(endpoint: Endpoint): string {
    return isSerial(endpoint) ? endpoint.path : `${endpoint.host}:${endpoint.port}`;
}

function isSerial(endpoint: Endpoint): endpoint is SerialEndpoint {
    return endpoint.transport === "rtu";
}

/** Everything that makes two endpoints different connections. Two settings of one serial port cannot both be open. */
function keyOf(endpoint: Endpoint): string {
    if (!isSerial(endpoint)) return `${endpoint.transport ?? "tcp"} ${endpoint.host.toLowerCase()}:${endpoint.port}`;
    const { path, baud, parity, stopBits } = endpoint;
    return `${path} ${baud} ${parity} ${stopBits}`;
}

const links = new Map<string, ModbusLink>();

/**
 * The link to an endpoint: two config nodes with the same endpoint share one connection, since many devices take only one, and
 * a serial line has one master. Ask for it whenever a user joins; it is forgotten when its last user has left.
 */
export function sharedLink(endpoint: Endpoint): ModbusLink {
    const key = keyOf(endpoint);
    let link = links.get(key);
    if (!link) {
        const strays = new Strays();
        link = new ModbusLink({
            kind: kindOf(endpoint),
            createTransport: (onLost) => createTransport(endpoint, strays, onLost),
            onUnused: () => links.delete(key),
        });
        links.set(key, link);
    }
    return link;
}

/** What a link runs over, for plans. */
export function kindOf(endpoint: Endpoint): LinkKind {
    if (!isSerial(endpoint)) return { kind: endpoint.transport ?? "tcp" };
    const { baud, parity, stopBits } = endpoint;
    return { kind: "rtu", baud, characterBits: 1 + DATA_BITS + (parity === "none" ? 0 : 1) + stopBits };
}

function createTransport(endpoint: Endpoint, strays: Strays, onLost: (error: ModbusError) => void): Transport {
    if (endpoint.transport === "udp") return new UdpTransport({ ...endpoint, framing: new DatagramFraming(), onLost });
    if (endpoint.transport === "rtutcp") {
        const framing = new RtuFraming(strays);
        return new RtuTransport({ framing, wire: new TcpTransport({ ...endpoint, framing, onLost }) });
    }
    if (isSerial(endpoint)) {
        const framing = new RtuFraming(strays);
        const { baud = 0, characterBits = 0 } = kindOf(endpoint);
        return new RtuTransport({ framing, wire: new SerialTransport({ ...endpoint, framing, onLost }), characterMs: (characterBits * 1_000) / baud });
    }
    return new TcpTransport({ ...endpoint, framing: new MbapFraming(), onLost });
}

/** What a device needs of its link: the longest wait for an answer and the shortest pauses, ms. */
export type DeviceNeeds = Pick<LinkSettings, "timeoutMs" | "gapMs" | "connectPauseMs">;

/** A link's settings for a device that needs more time than they give. */
export function withNeeds<S extends DeviceNeeds>(settings: S, needs: DeviceNeeds): S {
    const longer = (key: keyof DeviceNeeds) => Math.max(settings[key], needs[key]);
    return { ...settings, timeoutMs: longer("timeoutMs"), gapMs: longer("gapMs"), connectPauseMs: longer("connectPauseMs") };
}

/**
 * Connects as a user would, over the shared link, and leaves again.
 * @returns How long it took, ms; about 0 when the connection is already in use.
 * @throws ModbusError MODBUS_CLOSED with the reason.
 */
export async function tryConnect(endpoint: Endpoint, settings: LinkSettings, clock: Clock = systemClock): Promise<number> {
    const started = clock.monotonic();
    let member: LinkMember | undefined;
    try {
        await new Promise<void>((resolve, reject) => {
            member = sharedLink(endpoint).join(settings, {
                onState: ({ name, error }) => {
                    if (name === "up") resolve();
                    else if (error) reject(error);
                },
            });
            if (member.state.name === "up") resolve();
        });
        return Math.round(clock.monotonic() - started);
    } finally {
        await member?.leave();
    }
}
