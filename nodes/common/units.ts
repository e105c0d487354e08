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

/** Asked for every value that comes in: the endings are not made anew each time. */
const ENDINGS = (Object.keys(UNITS) as UnitKey[]).toSorted((a, b) => b.length - a.length).map((key) => ({ key, ending: `_${key}` }));

/** The unit that a point name ends in, or undefined for a state or text (`ac_energy_export_wh` → `wh`). */
export function unitOf(point: string): UnitKey | undefined {
    return ENDINGS.find(({ ending }) => point.endsWith(ending))?.key;
}

/** What is physically possible; anything else is a misread. */
export const LIMITS: Partial<Record<UnitKey, readonly [min: number, max: number]>> = {
    w: [-1e9, 1e9],
    var: [-1e9, 1e9],
    va: [-1e9, 1e9],
    v: [-5000, 5000],
    a: [-1e5, 1e5],
    hz: [0, 100],
    wh: [0, Number.MAX_SAFE_INTEGER],
    c: [-80, 250],
    w_m2: [-50, 2500],
    m_s: [0, 120],
    mm: [0, 10_000],
    pa: [30_000, 120_000],
    deg: [-360, 360],
    pct: [0, 110],
    ratio: [-1.005, 1.005],
};

const POINT_NAME = /^[a-z][a-z0-9]*(_[a-z0-9]+)*$/;

/** True for a valid point name: snake_case, starting with a letter. */
export function isPointName(name: string): boolean {
    return POINT_NAME.test(name);
}

/** True for a point that is an energy counter, as against an amount of energy such as a capacity. */
export function isCounter(point: string): boolean {
    return /(^|_)energy(_(import|export|charge|discharge))?(_\d+)?_wh$/.test(point);
}

/**
 * How devices and their documents write units, and what each is in ours: `kWh` is 1000 `wh`, `%` is 1 `pct` or 0.01 `ratio`,
 * whichever the point's name ends in.
 */
export const UNIT_TEXTS: Readonly<Record<string, Partial<Record<UnitKey, number>>>> = {
    mW: { w: 0.001 },
    W: { w: 1 },
    kW: { w: 1000 },
    MW: { w: 1e6 },
    var: { var: 1 },
    kvar: { var: 1000 },
    VA: { va: 1 },
    kVA: { va: 1000 },
    mV: { v: 0.001 },
    V: { v: 1 },
    kV: { v: 1000 },
    mA: { a: 0.001 },
    A: { a: 1 },
    mHz: { hz: 0.001 },
    Hz: { hz: 1 },
    Wh: { wh: 1 },
    kWh: { wh: 1000 },
    MWh: { wh: 1e6 },
    varh: { varh: 1 },
    kvarh: { varh: 1000 },
    VAh: { vah: 1 },
    kVAh: { vah: 1000 },
    mAh: { ah: 0.001 },
    Ah: { ah: 1 },
    kAh: { ah: 1000 },
    "°C": { c: 1 },
    "W/m²": { w_m2: 1 },
    "Wh/m²": { wh_m2: 1 },
    "kWh/m²": { wh_m2: 1000 },
    "m/s": { m_s: 1 },
    mm: { mm: 1 },
    Pa: { pa: 1 },
    hPa: { pa: 100 },
    mbar: { pa: 100 },
    kPa: { pa: 1000 },
    bar: { pa: 1e5 },
    "°": { deg: 1 },
    Ω: { ohm: 1 },
    kΩ: { ohm: 1000 },
    MΩ: { ohm: 1e6 },
    ms: { s: 0.001 },
    s: { s: 1 },
    min: { s: 60 },
    h: { s: 3600 },
    d: { s: 86_400 },
    "%": { pct: 1, ratio: 0.01 },
    "‰": { pct: 0.1, ratio: 0.001 },
    ratio: { ratio: 1, pct: 100 },
    tCO2e: { tco2e: 1 },
};

/** What stands for a sign that keyboards lack. */
const TYPED: Readonly<Record<string, string>> = { C: "°C", degC: "°C", "W/m2": "W/m²", "Wh/m2": "Wh/m²", "kWh/m2": "kWh/m²", deg: "°", ohm: "Ω", kohm: "kΩ", Mohm: "MΩ" };

/** A unit as a person typed it by what it is in ours; undefined for one that is not in the list. Case counts: mW is not MW. */
export function unitText(text: string): Partial<Record<UnitKey, number>> | undefined {
    const key = Object.hasOwn(TYPED, text) ? TYPED[text]! : text;
    return Object.hasOwn(UNIT_TEXTS, key) ? UNIT_TEXTS[key] : undefined;
}
