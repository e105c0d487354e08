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
