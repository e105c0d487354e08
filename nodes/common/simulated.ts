import type { Socket } from "node:net";

/**
 * How a simulated SunSpec device says so in its common model: manufacturer (Mn) and options (Opt). A reader that finds both
 * sets `reading.simulated`, so that invented energy never reaches a claim.
 */
export const SIMULATED_MANUFACTURER = "WattLedger";
export const SIMULATED_OPTIONS = "SIMULATED";

/** True for a device that declares itself simulated by `Mn` and `Opt` of its common model. */
export function isSimulatedDevice(manufacturer: unknown, options: unknown): boolean {
    return manufacturer === SIMULATED_MANUFACTURER && options === SIMULATED_OPTIONS;
}

/** Header, in lower case, by which our stand-in of a remote service says with every answer that it is one. */
export const SIMULATED_HEADER = "x-wattledger-simulated";

/** Account of the stand-in for Guardian; it opens nothing else. */
export const STAND_IN_ACCOUNT = { username: "pp", password: "stand-in", tenantId: "stand-in-tenant" } as const;

/** Connections to the simulators of this process, by both their ends. */
const connections = new Set<string>();

/** To be called by a simulator for each connection that it accepts: not every device has a register to say that it is simulated. */
export function markSimulated(socket: Socket): void {
    const name = connectionName(socket.remoteAddress, socket.remotePort, socket.localAddress, socket.localPort);
    connections.add(name);
    socket.once("close", () => connections.delete(name));
}

/** True for the other end of such a connection. Certain once something was received over it. */
export function isSimulatedPeer({ localAddress, localPort, remoteAddress, remotePort }: Socket): boolean {
    return connections.size > 0 && connections.has(connectionName(localAddress, localPort, remoteAddress, remotePort));
}

/** A server of both IP versions sees IPv4 addresses in the form of IPv6 (RFC 4291 §2.5.5.2). */
function connectionName(from = "", fromPort = 0, to = "", toPort = 0): string {
    return `${from.replace("::ffff:", "")} ${fromPort} ${to.replace("::ffff:", "")} ${toPort}`;
}
