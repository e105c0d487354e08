import { clamp } from "./noise.js";

const RAD = Math.PI / 180;
const DAY_MS = 86_400_000;
/** W/m² outside the atmosphere, at the mean distance. */
const SOLAR_CONSTANT = 1361;
/** Share of the light that grass or gravel throws back. */
const ALBEDO = 0.2;

/** Degrees; azimuth clockwise from north. */
export interface Direction {
    elevation: number;
    azimuth: number;
}

/** W/m². */
export interface Irradiance {
    /** Global horizontal. */
    ghi: number;
    /** Diffuse horizontal. */
    dhi: number;
    /** Direct normal. */
    dni: number;
}

/**
 * Where the sun stands, without refraction, to about 0.01° from 1950 to 2050.
 * Source: Michalsky, The Astronomical Almanac's algorithm for approximate solar position, Solar Energy 40 (1988) 227-235.
 * @param ms UTC since 1970
 * @param latitude degrees north
 * @param longitude degrees east
 */
export function sunPosition(ms: number, latitude: number, longitude: number): Direction {
    const days = ms / DAY_MS - 10957.5; // since 2000-01-01 12:00 UTC
    const anomaly = (357.528 + 0.9856003 * days) * RAD;
    const ecliptic = (280.46 + 0.9856474 * days + 1.915 * Math.sin(anomaly) + 0.02 * Math.sin(2 * anomaly)) * RAD;
    const obliquity = (23.439 - 0.0000004 * days) * RAD;
    const ascension = Math.atan2(Math.cos(obliquity) * Math.sin(ecliptic), Math.cos(ecliptic));
    const declination = Math.asin(Math.sin(obliquity) * Math.sin(ecliptic));
    const hours = (ms / 3_600_000) % 24;
    const sidereal = (6.697375 + 0.0657098242 * days + hours) * 15 + longitude;
    const hourAngle = sidereal * RAD - ascension;
    const phi = latitude * RAD;
    const sine = Math.sin(declination) * Math.sin(phi) + Math.cos(declination) * Math.cos(phi) * Math.cos(hourAngle);
    const east = -Math.cos(declination) * Math.sin(hourAngle);
    const north = Math.sin(declination) * Math.cos(phi) - Math.cos(declination) * Math.sin(phi) * Math.cos(hourAngle);
    return { elevation: Math.asin(clamp(sine, -1, 1)) / RAD, azimuth: (Math.atan2(east, north) / RAD + 360) % 360 };
}

/**
 * Global horizontal irradiance of a cloudless sky, W/m².
 * Source: Haurwitz, Insolation in relation to cloudiness and cloud density, J. Meteorology 2 (1945) 154-166,
 * with the coefficients of Reno, Hansen and Stein, SAND2012-2389.
 */
export function clearSky(elevation: number): number {
    const cosZenith = Math.sin(elevation * RAD);
    return cosZenith > 0.001 ? 1098 * cosZenith * Math.exp(-0.059 / cosZenith) : 0;
}

/**
 * Splits global irradiance into diffuse and direct.
 * Source: Erbs, Klein and Duffie, Estimation of the diffuse radiation fraction, Solar Energy 28 (1982) 293-302.
 */
export function splitIrradiance(ghi: number, elevation: number): Irradiance {
    const cosZenith = Math.sin(elevation * RAD);
    if (ghi <= 0 || cosZenith <= 0) return { ghi: 0, dhi: 0, dni: 0 };
    const kt = clamp(ghi / (SOLAR_CONSTANT * cosZenith), 0, 1);
    const share =
        kt <= 0.22 ? 1 - 0.09 * kt : kt <= 0.8 ? 0.9511 + kt * (-0.1604 + kt * (4.388 + kt * (-16.638 + kt * 12.336))) : 0.165;
    const dhi = ghi * share;
    // At sunrise the quotient of two small numbers says nothing; no direct beam is stronger than a clear one.
    return { ghi, dhi, dni: Math.min((ghi - dhi) / cosZenith, 1000) };
}

/**
 * Irradiance in a plane that looks towards `plane`, W/m²: direct, and an isotropic sky and ground.
 * Source: Liu and Jordan, The long-term average performance of flat-plate solar-energy collectors, Solar Energy 7 (1963) 53-74.
 * @param plane direction of the module's normal; a horizontal module looks at elevation 90
 */
export function planeOfArray(light: Irradiance, sun: Direction, plane: Direction): number {
    const up = Math.sin(plane.elevation * RAD);
    const cosIncidence =
        Math.sin(sun.elevation * RAD) * up +
        Math.cos(sun.elevation * RAD) * Math.cos(plane.elevation * RAD) * Math.cos((sun.azimuth - plane.azimuth) * RAD);
    return light.dni * Math.max(0, cosIncidence) + (light.dhi * (1 + up)) / 2 + (light.ghi * ALBEDO * (1 - up)) / 2;
}

/**
 * Temperature of a module in °C.
 * Source: Faiman, Assessing the outdoor operating temperature of photovoltaic modules, Prog. Photovolt. 16 (2008) 307-315; his
 * mean coefficients.
 */
export function moduleTemperature(poa: number, ambient: number, wind: number): number {
    return ambient + poa / (25 + 6.84 * wind);
}

/**
 * AC power of an inverter, W, and whether it reached its limit.
 * Source: PVWatts version 5, NREL/TP-6A20-62641 (2014), §9: efficiency over load, 96 % nominal, 0.9637 reference.
 * @param dc available DC power, W
 * @param rating AC rating, W
 * @param limit highest AC power allowed now, W
 */
export function inverterOutput(dc: number, rating: number, limit = rating): { ac: number; limited: boolean } {
    const load = dc / (rating / 0.96);
    const efficiency = load > 0 ? (0.96 / 0.9637) * (-0.0162 * load - 0.0059 / load + 0.9858) : 0;
    const ac = Math.max(0, dc * efficiency);
    return { ac: Math.min(ac, limit), limited: ac > limit };
}
