/**
 * The closed list of units. A point name ends in the key of its unit (`ac_power_w`), so a value is never read in the wrong one.
 * SI inside (design §4); state of charge stays in percent because every peer system shows it so.
 */
export const UNITS = {
    w: "W",
    var: "var",
    va: "VA",
    v: "V",
    a: "A",
    hz: "Hz",
    wh: "Wh",
    varh: "varh",
    vah: "VAh",
    ah: "Ah",
    c: "°C",
    w_m2: "W/m²",
    wh_m2: "Wh/m²",
    m_s: "m/s",
    mm: "mm",
    pa: "Pa",
    deg: "°",
    ohm: "Ω",
    s: "s",
    pct: "%",
    ratio: "ratio",
    tco2e: "tCO2e",
} as const;

export type UnitKey = keyof typeof UNITS;

const BY_LENGTH = (Object.keys(UNITS) as UnitKey[]).toSorted((a, b) => b.length - a.length);

/** The unit that a point name ends in, or undefined for a state or text (`ac_energy_export_wh` → `wh`). */
export function unitOf(point: string): UnitKey | undefined {
    return BY_LENGTH.find((key) => point.endsWith(`_${key}`));
}

/** True for a valid point name: snake_case, starting with a letter. */
export function isPointName(name: string): boolean {
    return /^[a-z][a-z0-9]*(_[a-z0-9]+)*$/.test(name);
}
