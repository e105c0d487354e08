import { DateTime } from "luxon";
import { z } from "zod";
import { Backoff } from "../common/backoff.js";
import { systemClock, type Clock } from "../common/clock.js";
import { toError } from "../common/errors.js";
import type { PointValue } from "../common/reading.js";
import { LenientState } from "../common/statefile.js";
import type { StatusKind } from "../common/status.js";
import { buildImage, DEVICES, type Image, type InverterControls, type SimulatedDevice, SUNSPEC_BASE } from "./devices.js";
import { ActiveFaults, type Fault, parseFault } from "./faults.js";
import { MapMeter, METER_UNIT } from "./map-meter.js";
import { equalPhases, initialState, lateMorning, Plant, type PlantConfig, type PlantState } from "./plant.js";
import { MBAP, RTU } from "./framing.js";
import { ModbusTcpServer, type RegisterBank } from "./server.js";
import { sunPosition } from "./solar.js";

export interface SimulatorConfig extends PlantConfig {
    host: string;
    port: number;
    /** Serves the same devices in RTU framing too; 0 takes any free port. */
    rtuPort?: number;
    /** Plant seconds a real second. */
    speed: number;
    /** `real`: the plant's clock starts at the real time. `daytime`: in the late morning, unless it still is light there. */
    timeOfDay: "real" | "daytime";
}

export interface SimulatorEvents {
    onStatus(kind: StatusKind, text: string): void;
    onError(error: Error): void;
    /** What is true of the plant, once a second. */
    onTruth(points: Record<string, PointValue>, timestamp: number): void;
}

const energySchema = z.number().min(0);
const savedSchema = z.object({
    /** Wall clock at the state, ms UTC. */
    wall: z.number(),
    plant: z.object({
        sun: z.number(),
        soc: z.number().min(0).max(1),
        energy: z.object({
            inverters: z.tuple([
                z.object({ ac: energySchema, mppts: z.array(energySchema).length(2) }),
                z.object({ ac: energySchema, mppts: z.array(energySchema).length(3) }),
            ]),
            import: energySchema,
            export: energySchema,
            phases: z.array(z.object({ import: energySchema, export: energySchema })).length(3).optional(),
            reactive: energySchema.default(0),
        })
        // Saved by a version that did not count them.
        .transform((energy) => ({ ...energy, phases: energy.phases ?? equalPhases(energy.import, energy.export) })),
    }),
});

/** Both stand at one place, so they count the same. */
const METER_UNITS = [METER_UNIT, 200];

/** The step of the plant, and the age of a register at most, ms. */
const TICK_MS = 1000;
/** What a crash loses is calculated again at the next start, so that the card is spared. */
const SAVE_EVERY_TICKS = 900;
/** Longest time calculated again after a restart, of the plant's own time, ms. */
const MAX_GAP_MS = 7 * 86_400_000;
/** The sun is high enough for a demonstration, degrees. */
const LIGHT = 8;
/** A wall clock that left the plant's behind was set. */
const CLOCK_SET_MS = 5000;

/** Offset of WMaxLimPct in model 123 from its ID register; the five control registers follow each other. */
const CONTROLS_OFFSET = 5;
const CONTROLS = ["WMaxLimPct", "WMaxLimPct_WinTms", "WMaxLimPct_RvrtTms", "WMaxLimPct_RmpTms", "WMaxLim_Ena"] as const;

/**
 * A plant that runs: the model in fixed steps of a second, its devices' registers, and the server in front of them.
 * Steps are whole seconds from the saved state on, so a restart calculates exactly what was shown before, and no counter steps
 * back.
 */
export class PlantSimulator {
    private readonly plant: Plant;
    /** Modbus TCP, then RTU over TCP where it is asked for. */
    private readonly servers: ModbusTcpServer[];
    private readonly faults = new ActiveFaults();
    private readonly images = new Map<number, RegisterBank>();
    private readonly meter = new MapMeter();
    private readonly controls: { values: InverterControls; revertIn: number }[];
    /** Wall clock at the plant's last step. */
    private wall: number;
    private ticks = 0;
    private readonly store: LenientState;

    constructor(
        private readonly config: SimulatorConfig,
        private readonly events: SimulatorEvents,
        file: ConstructorParameters<typeof LenientState>[0],
        private readonly clock: Clock = systemClock,
    ) {
        this.store = new LenientState(file, (error) => events.onError(error));
        this.wall = clock.now();
        this.plant = new Plant(config, this.restore());
        this.controls = this.plant.sample.inverters.map(() => ({ values: noControls(), revertIn: 0 }));
        this.rebuild();
        const { host, port, rtuPort } = config;
        const serve = (at: number, framing: typeof MBAP) =>
            new ModbusTcpServer({
                host,
                port: at,
                framing,
                clock,
                bank: (unit) => this.images.get(unit),
                fault: (unit) => this.faults.wire(unit),
            });
        this.servers = [serve(port, MBAP), ...(rtuPort === undefined ? [] : [serve(rtuPort, RTU)])];
    }

    /** Requests and written registers that the servers have seen. */
    get count(): Readonly<ModbusTcpServer["count"]> {
        const sum = (key: keyof ModbusTcpServer["count"]) => this.servers.reduce((total, { count }) => total + count[key], 0);
        return { requests: sum("requests"), writes: sum("writes") };
    }

    /** The ports it listens on, Modbus TCP first; empty while it does not. */
    ports: readonly number[] = [];

    /** Listens, tries again while it cannot, then lets the plant run; rejects when aborted. */
    async run(signal: AbortSignal): Promise<void> {
        this.ports = await this.listen(signal);
        let due = this.clock.monotonic();
        for (;;) {
            this.showStatus();
            // Steps missed while the machine was stopped are not caught up in a burst.
            due = Math.max(due + TICK_MS, this.clock.monotonic());
            await this.clock.sleep(Math.max(0, due - this.clock.monotonic()), signal);
            this.tick();
        }
    }

    /** @throws WattError SIM_FAULT for a payload that is none. */
    command(payload: unknown): void {
        const asked = parseFault(payload);
        if (asked.fault === "clear") {
            this.faults.clear(asked.unit);
        } else {
            this.faults.set(asked);
            this.strike(asked);
        }
        this.rebuild();
    }

    async close(removed: boolean): Promise<void> {
        await this.hangUp();
        if (removed) this.store.remove();
        else this.save();
    }

    private async hangUp(): Promise<void> {
        await Promise.all(this.servers.map((server) => server.close()));
    }

    /** All or nothing: a plant that only some can reach would go unnoticed. */
    private async listen(signal: AbortSignal): Promise<number[]> {
        const backoff = new Backoff({ base: 1000, cap: 15_000 });
        for (;;) {
            try {
                const ports: number[] = [];
                for (const server of this.servers) ports.push(await server.listen());
                // Closed meanwhile: a server that was not listening yet could not be.
                if (signal.aborted) await this.hangUp();
                return ports;
            } catch (error) {
                await this.hangUp();
                signal.throwIfAborted();
                // Once: the status stays red, and the log is not filled.
                if (backoff.count === 0) this.events.onError(toError(error));
                const taken = /^Port (\d+) .* is taken/.exec((error as Error).message)?.[1];
                this.events.onStatus("error", taken ? `port ${taken} taken` : "cannot listen");
                await this.clock.sleep(backoff.next(), signal);
            }
        }
    }

    private showStatus(): void {
        const fault = this.faults.describe();
        const clients = this.servers.reduce((total, server) => total + server.clients, 0);
        if (fault) this.events.onStatus("warn", fault);
        else this.events.onStatus("ok", `:${this.ports[0]}, clients ${clients}`);
    }

    /** One second of the plant. */
    private tick(): void {
        const { speed, timeOfDay } = this.config;
        this.wall += TICK_MS;
        this.plant.advance(TICK_MS / 1000, TICK_MS * speed);
        const now = this.clock.now();
        if (Math.abs(now - this.wall) > CLOCK_SET_MS) {
            if (timeOfDay === "real") this.plant.setSun(this.plant.state.sun + now - this.wall);
            this.wall = now;
            this.save();
        } else if (++this.ticks % SAVE_EVERY_TICKS === 0) {
            this.save();
        }
        this.revertControls();
        this.rebuild();
        this.events.onTruth(this.truth(), now);
    }

    /** Faults that happen once. */
    private strike({ fault, unit, hours }: Fault): void {
        if (fault === "jump") this.plant.setSun(this.plant.state.sun + hours * 3_600_000);
        if (fault !== "counters") return;
        const hit = DEVICES.filter((device) => unit === undefined || device.unit === unit);
        for (const device of hit) {
            if (device.inverter !== undefined) this.plant.resetInverter(device.inverter);
        }
        if (METER_UNITS.some((meter) => unit === undefined || unit === meter)) this.plant.resetMeter();
        this.save();
    }

    private rebuild(): void {
        const { config, plant } = this;
        const local = DateTime.fromMillis(plant.state.sun, { zone: config.zone });
        const input = {
            sample: plant.sample,
            seed: config.seed,
            site: config,
            local: { date: local.toFormat("yyyyMMdd"), time: local.toFormat("HHmmss"), day: local.ordinal },
            controls: this.controls.map(({ values }) => values),
        };
        for (const device of DEVICES) {
            const fault = this.faults.of(device.unit)?.fault;
            if (fault === "frozen" && this.images.has(device.unit)) continue;
            const image = buildImage(device, input, { night: fault === "night", length: fault === "length" });
            this.images.set(device.unit, {
                ...image,
                base: SUNSPEC_BASE,
                write: (address, words) => this.write(device, image, address, words),
            });
        }
        const fault = this.faults.of(METER_UNIT)?.fault;
        if (fault !== "frozen" || !this.images.has(METER_UNIT)) this.images.set(METER_UNIT, this.meter.bank(plant.sample, fault === "night"));
    }

    /** The only registers that take a write: the five contiguous power limit controls of model 123. */
    private write({ inverter }: SimulatedDevice, image: Image, address: number, words: Buffer): boolean {
        const first = address - (image.addresses.get(123) ?? Infinity) - CONTROLS_OFFSET;
        if (inverter === undefined || first < 0 || first + words.length / 2 > CONTROLS.length) return false;
        const control = this.controls[inverter]!;
        const values = { ...control.values };
        for (let i = 0; i < words.length / 2; i++) {
            const name = CONTROLS[first + i]!;
            values[name] = words.readUInt16BE(2 * i) / (name === "WMaxLimPct" ? 100 : 1);
        }
        if (values.WMaxLimPct > 100 || values.WMaxLim_Ena > 1) return false;
        this.controls[inverter] = { values, revertIn: values.WMaxLimPct_RvrtTms };
        this.applyControls(inverter);
        return true;
    }

    private applyControls(inverter: number): void {
        const { values } = this.controls[inverter]!;
        this.plant.setLimit(inverter, values.WMaxLim_Ena === 1 ? values.WMaxLimPct / 100 : 1);
        this.rebuild();
    }

    /** A limit with a revert time ends by itself unless it is written again. */
    private revertControls(): void {
        for (const [inverter, control] of this.controls.entries()) {
            if (control.values.WMaxLim_Ena === 0 || control.revertIn === 0 || --control.revertIn > 0) continue;
            control.values.WMaxLim_Ena = 0;
            this.applyControls(inverter);
        }
    }

    private truth(): Record<string, PointValue> {
        const { inverters, battery, load, grid, weather, time } = this.plant.sample;
        const tenths = (value: number) => Math.round(value * 10) / 10 + 0;
        return {
            pv_power_w: tenths(inverters.reduce((sum, { ac }) => sum + ac, 0)),
            load_power_w: tenths(load),
            battery_power_w: tenths(battery.power),
            battery_soc_pct: tenths(100 * battery.soc),
            grid_power_w: tenths(grid.power),
            grid_energy_import_wh: Math.floor(grid.importWh),
            grid_energy_export_wh: Math.floor(grid.exportWh),
            irradiance_poa_w_m2: tenths(weather.poa),
            ambient_temperature_c: tenths(weather.ambient),
            module_temperature_c: tenths(weather.module),
            plant_time: new Date(time).toISOString(),
        };
    }

    /** The saved state brought up to now; a new plant where there is none. */
    private restore(): PlantState {
        const { config, wall } = this;
        const saved = savedSchema.safeParse(this.store.load());
        if (!saved.success) return initialState(config, wall, config.timeOfDay === "real" ? wall : lateMorning(wall, config.longitude));
        const plant = new Plant(config, saved.data.plant);
        const gap = Math.min(Math.max(0, wall - saved.data.wall), MAX_GAP_MS / config.speed);
        // What may have been shown before a crash is calculated in the same steps, the rest in minutes.
        const exact = Math.min(Math.ceil(gap / TICK_MS), 2 * SAVE_EVERY_TICKS);
        for (let i = 0; i < exact; i++) plant.advance(TICK_MS / 1000, TICK_MS * config.speed);
        const rest = gap - exact * TICK_MS;
        if (rest > 0) plant.advance(rest / 1000, rest * config.speed);
        const light = sunPosition(plant.state.sun, config.latitude, config.longitude).elevation >= LIGHT;
        if (config.timeOfDay === "real" && Math.abs(plant.state.sun - wall) > CLOCK_SET_MS) plant.setSun(wall);
        if (config.timeOfDay === "daytime" && !light) plant.setSun(lateMorning(wall, config.longitude));
        return plant.state;
    }

    private save(): void {
        this.store.save({ wall: this.wall, plant: this.plant.state });
    }
}

function noControls(): InverterControls {
    return { WMaxLimPct: 100, WMaxLimPct_WinTms: 0, WMaxLimPct_RvrtTms: 0, WMaxLimPct_RmpTms: 0, WMaxLim_Ena: 0 };
}
