import { z } from "zod";
import { type Clock, systemClock } from "../common/clock.js";
import { booleanField, numberField, textField } from "../common/config.js";
import { type LinkMember, ModbusLink, type LinkSettings } from "./link.js";
import { MbapFraming } from "./mbap.js";
import { MAX_REGISTERS } from "./pdu.js";
import { TcpTransport } from "./tcp.js";

/** The settings of a wl-modbus-link, from its node or its dialog. */
export const linkSchema = z
    .object({
        host: textField().pipe(z.string().regex(/^[^\s/]+$/, "takes a host name or an IP address")),
        port: numberField({ min: 1, max: 65_535, default: 502, integer: true }),
        timeoutMs: numberField({ min: 50, max: 60_000, default: 1_000 }),
        gapMs: numberField({ min: 0, max: 10_000, default: 0 }),
        connectPauseMs: numberField({ min: 0, max: 30_000, default: 0 }),
        maxRegisters: numberField({ min: 1, max: MAX_REGISTERS, default: MAX_REGISTERS, integer: true }),
        idleCloseS: numberField({ min: 0, max: 86_400, default: 0 }),
        checkUnit: booleanField(true),
    })
    .transform(({ idleCloseS, ...rest }) => ({ ...rest, idleCloseMs: idleCloseS * 1_000 }));

export interface Endpoint {
    host: string;
    port: number;
}

const links = new Map<string, ModbusLink>();

/**
 * The link to an endpoint: two config nodes with the same host and port share one connection, since many devices take only one.
 * Ask for it whenever a user joins; it is forgotten when its last user has left.
 */
export function sharedLink({ host, port }: Endpoint): ModbusLink {
    const key = `${host.toLowerCase()}:${port}`;
    let link = links.get(key);
    if (!link) {
        link = new ModbusLink({
            createTransport: (onLost) => new TcpTransport({ host, port, framing: new MbapFraming(), onLost }),
            onUnused: () => links.delete(key),
        });
        links.set(key, link);
    }
    return link;
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
