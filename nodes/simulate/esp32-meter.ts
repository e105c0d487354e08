import { airAt, skyIndex, TEMPERATURE_COEFFICIENT } from "./plant.js";
import { noise } from "./noise.js";
import { clearSky, inverterOutput, moduleTemperature, planeOfArray, splitIrradiance, sunPosition } from "./solar.js";

export interface MeterConfig {
    /** Same seed, same weather. */
    seed: number;
    latitude: number;
    longitude: number;
    /** AC rating of the plant behind this meter, W. */
    ratedW: number;
}

/** What a meter remembers: where it is in time, ms UTC, and what it counted, Wh. */
export interface MeterState {
    at: number;
    exportWh: number;
    importWh: number;
}

/** DC over AC rating: an assumption, somewhat more modules than the inverter needs. */
const DC_RATIO = 1.2;
/** What the inverter draws of rated power, by day and night: an assumption, 9 W of 15 kW. */
const STANDBY = 0.0006;
/** Longest step of integration, ms. */
const STEP_MS = 60_000;
/** W/m² at which modules have their rated power. */
const STC = 1000;

export interface MeterSample {
    /** ms UTC. */
    at: number;
    values: Record<string, number>;
}

/**
 * The meter between a small solar plant and the grid: a pure function of time, place and seed, and two counters that follow from it.
 * Samples made again from an earlier state are the same.
 */
export class SolarMeter {
    /** @param index Its number among the meters of one place: each has clouds of its own. */
    constructor(
        private readonly config: MeterConfig,
        private readonly index: number,
        readonly state: MeterState,
    ) {}

    /** Counts up to `at`, and reads itself there: W, Wh, W/m², °C; import and what it draws are +. */
    sample(at: number): MeterSample {
        const { state } = this;
        const steps = Math.max(1, Math.ceil((at - state.at) / STEP_MS));
        const step = (at - state.at) / steps;
        let before = this.read(state.at);
        for (let i = 1; i <= steps; i++) {
            const after = this.read(state.at + step * i);
            const wh = (a: number, b: number) => ((Math.max(0, a) + Math.max(0, b)) / 2) * (step / 3_600_000);
            state.exportWh += wh(-before.power, -after.power);
            state.importWh += wh(before.power, after.power);
            before = after;
        }
        state.at = at;
        const tenth = (value: number) => Math.round(value * 10) / 10 + 0;
        return {
            at,
            values: {
                ac_power_w: tenth(before.power),
                ac_energy_export_wh: Math.floor(state.exportWh),
                ac_energy_import_wh: Math.floor(state.importWh),
                irradiance_poa_w_m2: tenth(before.poa),
                module_temperature_c: tenth(before.module),
            },
        };
    }

    private read(ms: number): { power: number; poa: number; module: number } {
        const { seed, latitude, longitude, ratedW } = this.config;
        const sun = sunPosition(ms, latitude, longitude);
        const cloud = 1 - 0.15 * noise(seed, 100 + this.index, ms / 300_000);
        const light = splitIrradiance(clearSky(sun.elevation) * skyIndex(seed, ms) * cloud, sun.elevation);
        const air = airAt(seed, ms, latitude, longitude);
        const poa = planeOfArray(light, sun, { elevation: 60, azimuth: latitude < 0 ? 0 : 180 });
        const module = moduleTemperature(poa, air.ambient, air.wind);
        const dc = ((ratedW * DC_RATIO * poa) / STC) * (1 + TEMPERATURE_COEFFICIENT * (module - 25));
        return { power: ratedW * STANDBY - inverterOutput(Math.max(0, dc), ratedW).ac, poa, module };
    }
}
