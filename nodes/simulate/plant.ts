import { Info, type Zone } from "luxon";
import { clamp, hashed, noise, smoothstep } from "./noise.js";
import {
    clearSky,
    inverterOutput,
    moduleTemperature,
    planeOfArray,
    splitIrradiance,
    sunPosition,
    type Direction,
    type Irradiance,
} from "./solar.js";

export interface PlantConfig {
    /** The same seed gives the same weather and the same household at the same time. */
    seed: number;
    /** Degrees north. */
    latitude: number;
    /** Degrees east. */
    longitude: number;
    /** IANA time zone of the household's day. */
    zone: string;
    /** AC power of all inverters, W; battery and household are sized after it. */
    ratedPowerW: number;
}

/** Everything the plant must remember; all else follows from the time. */
export interface PlantState {
    /** Where the plant's sun stands, ms UTC. */
    sun: number;
    /** State of charge, 0..1. */
    soc: number;
    /** Lifetime counters, Wh. */
    energy: {
        inverters: { ac: number; mppts: number[] }[];
        import: number;
        export: number;
        /** What a meter counts of each phase by itself, and of reactive power, varh. */
        phases: PhaseEnergy[];
        reactive: number;
    };
}

export interface PhaseEnergy {
    import: number;
    export: number;
}

interface PvArray {
    /** Share of the plant's DC power. */
    share: number;
    plane: Direction | "tracker";
    /** Maximum-power voltage at 25 °C and 1000 W/m². */
    voltage: number;
}

interface LitArray {
    array: PvArray;
    /** W/m² in its plane. */
    poa: number;
    /** °C of its modules. */
    temperature: number;
}

/** Two inverters with two and three MPPTs; the last array stands on the tracker. Azimuths are for north of the equator. */
const INVERTERS: { share: number; arrays: PvArray[] }[] = [
    {
        share: 0.6,
        arrays: [
            { share: 0.35, plane: { elevation: 60, azimuth: 180 }, voltage: 620 },
            { share: 0.25, plane: { elevation: 60, azimuth: 180 }, voltage: 540 },
        ],
    },
    {
        share: 0.4,
        arrays: [
            { share: 0.14, plane: { elevation: 65, azimuth: 90 }, voltage: 560 },
            { share: 0.14, plane: { elevation: 65, azimuth: 270 }, voltage: 560 },
            { share: 0.12, plane: "tracker", voltage: 480 },
        ],
    },
];

/** DC over AC rating. */
const DC_RATIO = 1.25;
/** Of power per kelvin: data sheets of crystalline silicon say -0.3 to -0.4 %. */
export const TEMPERATURE_COEFFICIENT = -0.0035;
/** Wiring, mismatch and dirt. */
const DC_LOSSES = 0.93;
/** Below this share of its rating an inverter waits. */
const START_SHARE = 0.004;
/** Of one direction. */
const BATTERY_EFFICIENCY = 0.97;
export const SOC_MIN = 0.1;
export const SOC_MAX = 0.95;
/** Longest integration step of the plant's own time, ms. */
const STEP_MS = 60_000;

export interface MpptSample {
    /** W, V, A; the module's temperature in °C. */
    power: number;
    voltage: number;
    current: number;
    temperature: number;
    /** Lifetime, Wh. */
    energy: number;
}

export interface InverterSample {
    rating: number;
    ac: number;
    dc: number;
    reactive: number;
    /** °C inside. */
    temperature: number;
    state: "sleeping" | "starting" | "mppt" | "throttled";
    mppts: MpptSample[];
    /** Lifetime AC, Wh. */
    energy: number;
}

/** One instant of the plant; W, V, °C, W/m², degrees. Signs: PV + generation, battery + discharge, grid + import. */
export interface PlantSample {
    /** The plant's own time, ms UTC. */
    time: number;
    sun: Direction;
    /** What the tracker looks at. */
    tracker: { target: Direction; position: Direction };
    weather: Irradiance & {
        /** In the plane of the first array. */
        poa: number;
        ambient: number;
        /** Back of a module of the first array. */
        module: number;
        wind: number;
        windDirection: number;
        humidity: number;
        pressure: number;
    };
    inverters: InverterSample[];
    battery: { power: number; soc: number; voltage: number; capacityWh: number; maxPower: number };
    /** `load = pv + battery + grid` holds for the totals and each phase. */
    load: number;
    grid: {
        power: number;
        phases: { power: number; voltage: number; reactive: number }[];
        frequency: number;
        /** Lifetime, Wh and varh. */
        importWh: number;
        exportWh: number;
        phaseEnergy: PhaseEnergy[];
        reactiveVarh: number;
    };
}

/**
 * A plant behind one grid connection: two inverters, a battery that covers the household first, a weather station, a tracker.
 * A pure model: time comes from outside, chance from the seed. Powers are a function of the plant's time and its state of
 * charge; energies are their integral over real seconds, so that power and energy agree for a reader at any speed.
 */
export class Plant {
    private current: PlantSample;
    private readonly zone: Zone;
    private offset = { quarter: NaN, hours: 0 };
    /** Highest AC power of each inverter as a share of its rating. */
    private readonly limits = INVERTERS.map(() => 1);

    constructor(
        private readonly config: PlantConfig,
        readonly state: PlantState,
    ) {
        this.zone = Info.normalizeZone(config.zone);
        this.current = this.compute();
    }

    /** The plant now. */
    get sample(): PlantSample {
        return this.current;
    }

    /**
     * Lets real time pass.
     * @param seconds real seconds, which energies count
     * @param sunMs how far the plant's own time moves meanwhile
     */
    advance(seconds: number, sunMs: number): void {
        const steps = Math.max(1, Math.ceil(sunMs / STEP_MS));
        for (let i = 0; i < steps; i++) this.step(seconds / steps / 3600, sunMs / steps);
    }

    /** Moves the plant's time without letting any pass. */
    setSun(ms: number): void {
        this.state.sun = ms;
        this.current = this.compute();
    }

    /** Caps an inverter's AC power; 1 is no cap. */
    setLimit(inverter: number, share: number): void {
        this.limits[inverter] = share;
        this.current = this.compute();
    }

    /** Starts an inverter's counters again at zero. */
    resetInverter(inverter: number): void {
        const energy = this.state.energy.inverters[inverter]!;
        energy.ac = 0;
        energy.mppts.fill(0);
        this.stamp(this.current);
    }

    /** Starts the meter's counters again at zero. */
    resetMeter(): void {
        Object.assign(this.state.energy, { import: 0, export: 0, phases: equalPhases(0, 0), reactive: 0 });
        this.stamp(this.current);
    }

    private step(hours: number, sunMs: number): void {
        const { state, current: before } = this;
        const cycle = before.battery.power * (before.battery.power > 0 ? 1 / BATTERY_EFFICIENCY : BATTERY_EFFICIENCY);
        state.soc = clamp(state.soc - (cycle * (sunMs / 3_600_000)) / before.battery.capacityWh, SOC_MIN, SOC_MAX);
        state.sun += sunMs;
        const after = this.compute();
        // The trapezoid a reader gets who integrates the powers it has seen.
        const add = (from: number, to: number) => ((from + to) / 2) * hours;
        for (const [i, inverter] of state.energy.inverters.entries()) {
            const [a, b] = [before.inverters[i]!, after.inverters[i]!];
            inverter.ac += add(a.ac, b.ac);
            for (const m of inverter.mppts.keys()) inverter.mppts[m]! += add(a.mppts[m]!.power, b.mppts[m]!.power);
        }
        const count = (into: PhaseEnergy, from: number, to: number) => {
            into.import += add(Math.max(0, from), Math.max(0, to));
            into.export += add(Math.max(0, -from), Math.max(0, -to));
        };
        count(state.energy, before.grid.power, after.grid.power);
        for (const [i, phase] of state.energy.phases.entries()) {
            const [a, b] = [before.grid.phases[i]!, after.grid.phases[i]!];
            count(phase, a.power, b.power);
            state.energy.reactive += add(a.reactive, b.reactive);
        }
        this.current = this.stamp(after);
    }

    /** Writes the counters of the state into a sample. */
    private stamp(sample: PlantSample): PlantSample {
        const { energy } = this.state;
        for (const [i, inverter] of sample.inverters.entries()) {
            inverter.energy = energy.inverters[i]!.ac;
            for (const [m, mppt] of inverter.mppts.entries()) mppt.energy = energy.inverters[i]!.mppts[m]!;
        }
        sample.grid.importWh = energy.import;
        sample.grid.exportWh = energy.export;
        sample.grid.phaseEnergy = energy.phases.map((phase) => ({ ...phase }));
        sample.grid.reactiveVarh = energy.reactive;
        return sample;
    }

    private compute(): PlantSample {
        const { seed, latitude, longitude, ratedPowerW } = this.config;
        const time = this.state.sun;
        const sun = sunPosition(time, latitude, longitude);
        const light = splitIrradiance(clearSky(sun.elevation) * skyIndex(seed, time), sun.elevation);
        const air = airAt(seed, time, latitude, longitude);
        // The drive moves every two minutes, towards where the sun is then.
        const position = trackerTarget(sunPosition(time - (time % 120_000), latitude, longitude));
        const facing = latitude < 0 ? 180 : 0;
        const arrays = INVERTERS.map(({ arrays: list }) =>
            list.map((array) => {
                const { plane } = array;
                const looks = plane === "tracker" ? position : { elevation: plane.elevation, azimuth: plane.azimuth + facing };
                const poa = planeOfArray(light, sun, looks);
                return { array, poa, temperature: moduleTemperature(poa, air.ambient, air.wind) };
            }),
        );
        const inverters = arrays.map((list, i) => this.inverter(i, list, air.ambient));
        const pv = inverters.reduce((sum, inverter) => sum + inverter.ac, 0);
        const load = householdLoad(seed, time, this.localHour(time), air.ambient) * (ratedPowerW / 15_000);
        const battery = this.battery(load - pv);
        const first = arrays[0]![0]!;
        return this.stamp({
            time,
            sun,
            tracker: { target: trackerTarget(sun), position },
            weather: { ...light, ...air, poa: first.poa, module: first.temperature },
            inverters,
            battery,
            load,
            grid: gridAt(seed, time, load - pv - battery.power, load, pv + battery.power, ratedPowerW),
        });
    }

    private inverter(index: number, arrays: LitArray[], ambient: number): InverterSample {
        const rating = INVERTERS[index]!.share * this.config.ratedPowerW;
        const available = arrays.map(({ array, poa, temperature }) => {
            const peak = array.share * this.config.ratedPowerW * DC_RATIO;
            return Math.max(0, ((peak * poa) / 1000) * (1 + TEMPERATURE_COEFFICIENT * (temperature - 25)) * DC_LOSSES);
        });
        const dcAvailable = available.reduce((sum, power) => sum + power, 0);
        const running = dcAvailable >= START_SHARE * rating;
        const { ac, limited } = running
            ? inverterOutput(dcAvailable, rating, rating * this.limits[index]!)
            : { ac: 0, limited: false };
        // At its limit the inverter leaves the maximum power points: it takes the DC power that gives the AC power.
        const taken = !running ? 0 : limited ? dcNeeded(ac, rating) / dcAvailable : 1;
        const mppts = arrays.map(({ array, poa, temperature }, i) => {
            const power = available[i]! * taken;
            // Falls with temperature and, slowly, with light.
            const v = poa < 1 ? 0 : array.voltage * (1 + 0.05 * Math.log(poa / 1000)) * (1 - 0.003 * (temperature - 25));
            return { power, voltage: v, current: v > 0 ? power / v : 0, temperature, energy: 0 };
        });
        const dc = mppts.reduce((sum, mppt) => sum + mppt.power, 0);
        const state = running ? (limited ? "throttled" : "mppt") : dcAvailable > 0 ? "starting" : "sleeping";
        return { rating, ac, dc, reactive: -0.02 * ac, temperature: ambient + 8 + 25 * (ac / rating), state, mppts, energy: 0 };
    }

    /** Covers the household's deficit, takes its surplus, and fades out towards full and empty. */
    private battery(deficit: number): PlantSample["battery"] {
        const { soc } = this.state;
        const capacityWh = this.config.ratedPowerW * 0.7;
        const maxPower = this.config.ratedPowerW / 3;
        const charge = maxPower * clamp((SOC_MAX - soc) / 0.05, 0, 1);
        const discharge = maxPower * clamp((soc - SOC_MIN) / 0.03, 0, 1);
        // Its controller sees the meter a moment late, so the grid never rests at exactly nothing.
        const late = (noise(this.config.seed, 41, this.state.sun / 4000) - 0.5) * 0.004 * this.config.ratedPowerW;
        const power = clamp(deficit + late, -charge, discharge);
        return { power, soc, capacityWh, maxPower, voltage: 380 + 60 * soc - (8 * power) / maxPower };
    }

    private localHour(ms: number): number {
        // Zones change on a quarter of an hour; asking each time would cost more than all the rest.
        const quarter = Math.floor(ms / 900_000);
        if (quarter !== this.offset.quarter) this.offset = { quarter, hours: this.zone.offset(ms) / 60 };
        return (((ms / 3_600_000 + this.offset.hours) % 24) + 24) % 24;
    }
}

/**
 * The state of a plant that was never run: counters as after some years, so that they look like a meter's. `now` only sets how
 * old the plant is.
 */
export function initialState(config: PlantConfig, now: number, sun: number): PlantState {
    const hours = Math.max(0, now - Date.UTC(2024, 0, 1)) / 3_600_000;
    const yearly = config.ratedPowerW * 0.11 * hours;
    return {
        sun,
        soc: 0.3 + 0.3 * hashed(config.seed, 40, 0),
        energy: {
            inverters: INVERTERS.map(({ share, arrays }) => ({
                ac: yearly * share,
                mppts: arrays.map((array) => yearly * array.share * 1.04),
            })),
            import: yearly * 0.25,
            export: yearly * 0.5,
            phases: equalPhases(yearly * 0.25, yearly * 0.5),
            reactive: yearly * 0.03,
        },
    };
}

/** Counters of the phases where only their sum is known. */
export function equalPhases(importWh: number, exportWh: number): PhaseEnergy[] {
    return [1, 2, 3].map(() => ({ import: importWh / 3, export: exportWh / 3 }));
}

/** The instant of the UTC day around `now` at which it is 11:00 by the sun: light enough, and most of the day's yield ahead. */
export function lateMorning(now: number, longitude: number): number {
    const shift = (longitude / 15) * 3_600_000;
    const day = Math.floor((now + shift) / 86_400_000) * 86_400_000;
    return day + 11 * 3_600_000 - shift;
}

/** DC power that gives `ac`, by bisection: the efficiency curve has no simple inverse. */
function dcNeeded(ac: number, rating: number): number {
    let [low, high] = [ac, ac + 0.1 * rating];
    for (let i = 0; i < 40; i++) {
        const middle = (low + high) / 2;
        if (inverterOutput(middle, rating, Infinity).ac < ac) low = middle;
        else high = middle;
    }
    return high;
}

/** Share of the clear sky's light that comes through: fronts of half a day, clouds of minutes. */
export function skyIndex(seed: number, ms: number): number {
    const minutes = ms / 60_000;
    const cover = clamp(1.6 * noise(seed, 1, minutes / 540) - 0.2, 0, 1);
    const gaps = 0.65 * noise(seed, 2, minutes / 14) + 0.35 * noise(seed, 3, minutes / 3);
    const cloud = smoothstep(0.35, 0.65, gaps + 1.3 * (cover - 0.5));
    const thickness = 0.35 + 0.5 * noise(seed, 4, minutes / 45) * (0.5 + cover / 2);
    return 1 - cloud * thickness;
}

export function airAt(seed: number, ms: number, latitude: number, longitude: number) {
    const hours = ms / 3_600_000;
    const north = latitude < 0 ? -1 : 1;
    // Warmest about 20 July in the north, and about 15:00 by the sun.
    const season = north * Math.cos((2 * Math.PI * (hours / 24 - 200)) / 365.25);
    const daily = Math.cos((2 * Math.PI * (hours + longitude / 15 - 15)) / 24);
    const far = Math.abs(latitude);
    return {
        ambient: 27 - 0.33 * far + 0.17 * far * season + 4 * daily + 6 * (noise(seed, 10, hours / 30) - 0.5),
        wind: 0.5 + 6 * noise(seed, 11, hours / 4) * noise(seed, 12, hours * 12),
        windDirection: 360 * noise(seed, 13, hours / 10),
        humidity: clamp(70 - 12 * daily + 30 * (noise(seed, 14, hours / 9) - 0.5), 5, 100),
        pressure: 1013 + 30 * (noise(seed, 15, hours / 40) - 0.5),
    };
}

/** Household demand in W: habits of the day, a refrigerator, appliances that switch, and a heat pump when it is cold. */
function householdLoad(seed: number, ms: number, hour: number, ambient: number): number {
    const minutes = ms / 60_000;
    const bell = (at: number, width: number) => Math.exp(-(((hour - at) / width) ** 2));
    const habits = 120 * bell(7.2, 1.3) + 90 * bell(12.8, 1) + 260 * bell(19.8, 2.2);
    const refrigerator = (minutes / 42 + hashed(seed, 20, 0)) % 1 < 0.35 ? 110 : 0;
    const slot = Math.floor(minutes / 12);
    const chance = 0.03 + 0.2 * bell(7, 1) + 0.25 * bell(12.5, 0.8) + 0.4 * bell(19, 1.5);
    const on = hashed(seed, 21, slot) < chance && (minutes / 12) % 1 < 0.2 + 0.8 * hashed(seed, 22, slot);
    const appliance = on ? 900 + 1900 * hashed(seed, 23, slot) : 0;
    const heating = (minutes / 37 + hashed(seed, 25, 0)) % 1 < clamp((16 - ambient) / 32, 0, 0.95) ? 1900 : 0;
    return 180 + 90 * noise(seed, 24, minutes / 20) + habits + refrigerator + appliance + heating;
}

/** Follows the sun; flat towards the sky when it is low. */
function trackerTarget(sun: Direction): Direction {
    return sun.elevation > 5 ? sun : { elevation: 90, azimuth: 180 };
}

/** Inverters and battery feed all phases alike; the household does not load them alike. */
function gridAt(seed: number, ms: number, power: number, load: number, feed: number, rating: number): PlantSample["grid"] {
    const minutes = ms / 60_000;
    const first = 0.3 + 0.3 * noise(seed, 30, minutes / 25);
    const second = (1 - first) * (0.3 + 0.4 * noise(seed, 31, minutes / 35));
    const phases = [first, second, 1 - first - second].map((share, i) => {
        const net = load * share - feed / 3;
        // Export lifts the voltage, import lowers it.
        const voltage = 230 + 5 * (noise(seed, 32 + i, minutes / 8) - 0.5) - (4 * net * 3) / rating;
        return { power: net, voltage, reactive: 0.12 * load * share };
    });
    return { power, phases, frequency: 50 + 0.06 * (noise(seed, 36, minutes * 2) - 0.5), importWh: 0, exportWh: 0, phaseEnergy: [], reactiveVarh: 0 };
}
