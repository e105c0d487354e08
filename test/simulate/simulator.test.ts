import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import path from "node:path";
import fc from "fast-check";
import type { Sample } from "../../dist/common/sample.js";
import { PointMaps } from "../../dist/common/pointmaps.js";
import type { PointValue } from "../../dist/common/reading.js";
import { StateFile } from "../../dist/common/statefile.js";
import { isSimulatedDevice } from "../../dist/common/simulated.js";
import { BlockReader } from "../../dist/modbus/block-reader.js";
import { ModbusLink, type LinkMember } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { type MapItem, parseModbusMap } from "../../dist/modbus/map.js";
import { MapDecoder } from "../../dist/modbus/map-decoder.js";
import { costOf } from "../../dist/modbus/plan.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { ModbusError, type Table } from "../../dist/modbus/transport.js";
import { buildImage, DEVICES } from "../../dist/simulate/devices.js";
import { initialState, Plant, type PlantState } from "../../dist/simulate/plant.js";
import { PlantSimulator, type SimulatorConfig } from "../../dist/simulate/simulator.js";
import { decodeModel, type DecodedModel, type ModelValues } from "../../dist/sunspec/decode.js";
import { SunSpecDevice } from "../../dist/sunspec/device.js";
import { officialModels } from "../../dist/sunspec/model.js";
import { ManualClock } from "../common/manual-clock.js";
import { SETTINGS } from "../modbus/rig.js";
import { makeDir, removeDir } from "../node-red.js";

const CONFIG: SimulatorConfig = {
    host: "127.0.0.1", port: 0, speed: 1, timeOfDay: "daytime", seed: 1,
    latitude: 52.52, longitude: 13.4, zone: "Europe/Berlin", ratedPowerW: 15_000,
};
const MORNING = Date.UTC(2026, 5, 1, 4);
interface SavedState {
    wall: number;
    plant: PlantState;
}
type StateStore = Pick<StateFile, "load" | "save" | "remove">;
const SDM630 = new PointMaps().load("eastron-sdm630", parseModbusMap);
const UNITS = [1, 2, 3, 4, 5, 200];

/** A simulator on a clock that the test moves, and a link to it; the wire is real. */
class Bench {
    readonly errors: Error[] = [];
    readonly status: string[] = [];
    truth: Record<string, PointValue> = {};
    private seconds = 0;
    private waiting: (() => void)[] = [];
    private readonly controller = new AbortController();
    private running: Promise<unknown> | undefined;
    private member: LinkMember | undefined;
    private closed = false;
    private readonly devices = new Map<number, SunSpecDevice>();
    readonly simulator: PlantSimulator;

    constructor(
        config: Partial<SimulatorConfig> = {},
        readonly store: StateStore = memoryStore(),
        readonly clock = new ManualClock(MORNING),
    ) {
        this.simulator = new PlantSimulator(
            { ...CONFIG, ...config },
            {
                onError: (error) => this.errors.push(error),
                onStatus: (kind, text) => {
                    this.status.push(`${kind} ${text}`);
                    for (const wake of this.waiting.splice(0)) wake();
                },
                onTruth: (points) => {
                    this.truth = points;
                    this.seconds++;
                },
            },
            store,
            clock,
        );
    }

    async start(): Promise<this> {
        this.running = this.simulator.run(this.controller.signal).catch(() => {});
        await this.shows(/^(ok|warn)/);
        return this;
    }

    /** Resolves once the last status is such. */
    async shows(pattern: RegExp): Promise<void> {
        while (!pattern.test(this.status.at(-1) ?? "")) await new Promise<void>((resolve) => this.waiting.push(resolve));
    }

    get port(): number {
        return Number(/^ok :(\d+)/.exec(this.status.find((text) => text.startsWith("ok")) ?? "")?.[1]);
    }

    /** Lets the plant run. */
    async pass(seconds: number): Promise<void> {
        for (const end = this.seconds + seconds; this.seconds < end; ) {
            const before = this.seconds;
            this.clock.advance(1000);
            while (this.seconds === before) await new Promise((resolve) => setImmediate(resolve));
        }
    }

    read(unit: number, address: number, quantity: number): Promise<Buffer> {
        return this.reader.read({ unit, table: "holding", address, quantity });
    }

    /** One link for all units, joined at the first read. */
    private get reader(): LinkMember {
        this.member ??= new ModbusLink({
            createTransport: (onLost) => new TcpTransport({ host: "127.0.0.1", port: this.port, framing: new MbapFraming(), onLost, clock: this.clock }),
            clock: this.clock,
        }).join(SETTINGS);
        return this.member;
    }

    /** Every model of a unit by id, as wl-sunspec reads them; the unit is walked once and after it moved its registers. */
    async models(unit: number): Promise<Map<number, DecodedModel & { address: number }>> {
        const device = this.devices.get(unit) ?? new SunSpecDevice(this.reader, unit, this.clock);
        this.devices.set(unit, device);
        const { devices, end, warnings } = device.map ?? (await device.walk());
        assert.deepEqual([devices.length, end, warnings], [1, "end", []]);
        const found = new Map<number, DecodedModel & { address: number }>();
        for (const key of devices[0]!.models) {
            const { model } = await device.read(key);
            found.set(key.id, { ...model, address: device.map!.devices[0]!.models.find(({ id }) => id === key.id)!.address });
        }
        return found;
    }

    /** The meter by map, as wl-modbus reads it. */
    async meter(): Promise<Sample> {
        const blocks = new BlockReader<MapItem>(this.reader, 10, { ...SDM630, cost: costOf({ kind: "tcp" }), clock: this.clock });
        return new MapDecoder(SDM630).decode(await blocks.read(SDM630.items), 0);
    }

    /** What a read of unit 10 gives: the exception code, or how many bytes. */
    async asked(table: Table, address: number, quantity: number): Promise<string> {
        try {
            return `${(await this.reader.read({ unit: 10, table, address, quantity })).length} bytes`;
        } catch (error) {
            return `exception ${(error as ModbusError).exception}`;
        }
    }

    async values(unit: number, model: number): Promise<ModelValues> {
        return (await this.models(unit)).get(model)!.values;
    }

    /** As Node-RED ends it. */
    async close(removed = false): Promise<void> {
        if (this.closed) return;
        this.closed = true;
        await this.kill();
        await this.simulator.close(removed);
    }

    /** Stops it with nothing saved, but for the socket. */
    async kill(): Promise<void> {
        this.controller.abort();
        await this.member?.leave();
        await this.running;
    }
}

function memoryStore(): StateStore & { text?: string } {
    return {
        load() {
            return this.text === undefined ? undefined : JSON.parse(this.text);
        },
        save(state) {
            this.text = JSON.stringify(state);
        },
        remove() {
            delete this.text;
        },
    };
}

describe("PlantSimulator", () => {
    const open: { close(): Promise<void> }[] = [];
    afterEach(async () => {
        for (const one of open.splice(0)) await one.close();
    });

    const start = async (...args: ConstructorParameters<typeof Bench>): Promise<Bench> => {
        const bench = new Bench(...args);
        open.push(bench);
        return bench.start();
    };

    it("serves six SunSpec devices that decode without a fault and say that they are simulated", async () => {
        const bench = await start();
        const ids: Record<number, number[]> = {};
        for (const unit of UNITS) {
            const models = await bench.models(unit);
            ids[unit] = [...models.keys()];
            for (const { bad, warnings } of models.values()) assert.deepEqual([bad, warnings], [{}, []]);
            const { Mn, Opt, SN, DA } = models.get(1)!.values;
            assert.ok(isSimulatedDevice(Mn, Opt));
            assert.match(SN as string, /^SIM1-/);
            assert.equal(DA, unit);
        }
        assert.deepEqual(ids, {
            1: [1, 103, 120, 121, 123, 160],
            2: [1, 103, 120, 121, 123, 160],
            3: [1, 802, 124],
            4: [1, 307, 302, 303, 305],
            5: [1, 601],
            200: [1, 203],
        });
        assert.equal(((await bench.values(1, 160))["module"] as ModelValues[]).length, 2);
        assert.equal(((await bench.values(2, 160))["module"] as ModelValues[]).length, 3);
        await assert.rejects(bench.read(7, 40_000, 2), (error: unknown) => error instanceof ModbusError && error.exception === 11);
    });

    it("shows in its registers what is true", async () => {
        const bench = await start({ speed: 600 });
        const factors = new Set<unknown>();
        for (let i = 0; i < 12; i++) {
            await bench.pass(5);
            const [a, b, battery, meter, met] = await Promise.all([bench.values(1, 103), bench.values(2, 103), bench.values(3, 802), bench.values(200, 203), bench.values(4, 302)]);
            const { truth } = bench;
            close(number(a["W"]) + number(b["W"]), truth["pv_power_w"], 1.1);
            close(battery["W"], truth["battery_power_w"], 0.51);
            close(battery["SoC"], truth["battery_soc_pct"], 0.11);
            close(meter["W"], truth["grid_power_w"], 0.51);
            close(number(meter["WphA"]) + number(meter["WphB"]) + number(meter["WphC"]), truth["grid_power_w"], 1.6);
            close((met["repeating"] as ModelValues[])[0]!["POAI"], truth["irradiance_poa_w_m2"], 0.6);
            close(truth["load_power_w"], number(truth["pv_power_w"]) + number(truth["battery_power_w"]) + number(truth["grid_power_w"]), 0.21);
            factors.add(a["W_SF"]);
        }
        assert.ok(factors.size >= 2, "scale factors move with the power");
    });

    describe("meter by map", () => {
        it("agrees with the SunSpec meter and with what is true", async () => {
            const bench = await start({ speed: 600 });
            for (let i = 0; i < 5; i++) {
                await bench.pass(5);
                const { values, counters, bad } = await bench.meter();
                assert.deepEqual(bad, {});
                assert.equal(Object.keys(values).length + Object.keys(counters).length, SDM630.points.length);
                const sunspec = await bench.values(200, 203);
                close(values["ac_power_w"], bench.truth["grid_power_w"], 0.06);
                for (const [ours, theirs, tolerance] of [
                    ["ac_power_w", "W", 0.51], ["ac_power_l2_w", "WphB", 0.51], ["ac_current_l1_a", "AphA", 0.006], ["ac_voltage_l3_v", "PhVphC", 0.051],
                    ["ac_reactive_power_var", "VAR", 0.51], ["ac_apparent_power_va", "VA", 0.51], ["ac_frequency_hz", "Hz", 0.006],
                ] as const) close(values[ours], sunspec[theirs], tolerance);
                close(values["power_factor_ratio"], number(sunspec["PF"]) / 100, 0.0001);
                close(counters["ac_energy_import_wh"]!.wh, sunspec["TotWhImp"], 2);
                close(counters["ac_energy_export_wh"]!.wh, sunspec["TotWhExp"], 2);
            }
        });

        it("counts each phase as its power goes", async () => {
            const bench = await start();
            const before = (await bench.meter()).counters;
            let expected = 0;
            for (let i = 0; i < 600; i++) {
                await bench.pass(1);
                if (i % 30 === 0) expected += Math.max(0, number((await bench.meter()).values["ac_power_l1_w"])) / 120;
            }
            const counted = (await bench.meter()).counters["ac_energy_import_l1_wh"]!.wh - before["ac_energy_import_l1_wh"]!.wh;
            close(counted, expected, 3 + expected / 5);
        });

        it("refuses what the map does not declare", async () => {
            const bench = await start();
            assert.equal(await bench.asked("input", 0, 80), "160 bytes");
            assert.equal(await bench.asked("input", 334, 48), "96 bytes");
            for (const [address, quantity] of [[0, 81], [79, 2], [80, 1], [223, 2], [381, 2], [40_000, 2]] as const) {
                assert.equal(await bench.asked("input", address, quantity), quantity > 80 ? "exception 3" : "exception 2", `${address}+${quantity}`);
            }
            assert.equal(await bench.asked("holding", 0, 2), "exception 2");
            assert.equal(await bench.asked("coil", 0, 2), "exception 1");
        });

        it("breaks as the others do", async () => {
            const bench = await start();
            const { values: day, counters: counted } = await bench.meter();
            bench.simulator.command({ fault: "frozen", unit: 10 });
            await bench.pass(30);
            assert.deepEqual((await bench.meter()).values, day);
            bench.simulator.command({ fault: "night", unit: 10 });
            const night = await bench.meter();
            assert.deepEqual([night.values, night.counters, night.bad["ac_power_w"]], [{}, {}, "missing"]);
            bench.simulator.command({ fault: "exception", unit: 10, code: 4 });
            assert.equal(await bench.asked("input", 0, 2), "exception 4");
            bench.simulator.command("clear");
            assert.ok(counted["ac_energy_export_wh"]!.wh > 1e6);
            bench.simulator.command({ fault: "counters", unit: 10 });
            const { counters } = await bench.meter();
            for (const point in counters) assert.equal(counters[point]!.wh, 0, point);
            assert.equal((await bench.values(200, 203))["TotWhExp"], undefined, "both count the same");
        });
    });

    it("takes up a state in which phases were not counted yet", async () => {
        const old = { wall: MORNING, plant: initialState(CONFIG, MORNING, MORNING) } as { wall: number; plant: { energy: object } };
        old.plant.energy = Object.fromEntries(Object.entries(old.plant.energy).filter(([key]) => key !== "phases" && key !== "reactive"));
        const bench = await start({}, { load: () => old, save: () => {}, remove: () => {} });
        const { counters } = await bench.meter();
        close(counters["ac_energy_import_l2_wh"]!.wh * 3, counters["ac_energy_import_wh"]!.wh, 3);
        assert.equal((await bench.values(200, 203))["TotWhImp"], Math.floor((old.plant as PlantState).energy.import));
    });

    it("builds registers for any place, size and time", () => {
        const controls = { WMaxLimPct: 100, WMaxLimPct_WinTms: 0, WMaxLimPct_RvrtTms: 0, WMaxLimPct_RmpTms: 0, WMaxLim_Ena: 0 };
        fc.assert(
            fc.property(
                fc.double({ min: -90, max: 90, noNaN: true }),
                fc.double({ min: -180, max: 180, noNaN: true }),
                fc.oneof(fc.double({ min: 1, max: 1e10, noNaN: true }), fc.constantFrom(1, 15_000, 1e10)),
                fc.integer({ min: 0, max: Date.UTC(2099, 0) }),
                fc.integer({ min: 0, max: 99_999 }),
                (latitude, longitude, ratedPowerW, at, seed) => {
                    const config = { ...CONFIG, latitude, longitude, ratedPowerW, seed };
                    const { sample } = new Plant(config, initialState(config, at, at));
                    for (const device of DEVICES) {
                        const { words, addresses } = buildImage(device, { sample, seed, site: config, local: { date: "20260101", time: "000000", day: 1 }, controls: [controls, controls] });
                        for (const [id, address] of addresses) {
                            const offset = 2 * (address - 40_000);
                            const decoded = decodeModel(officialModels.get(id)!, words.subarray(offset, offset + 4 + 2 * words.readUInt16BE(offset + 2)));
                            assert.deepEqual([decoded.bad, decoded.warnings], [{}, []]);
                            if (id === 103) close(decoded.values["W"], sample.inverters[device.inverter!]!.ac, 1 + ratedPowerW / 3000);
                        }
                    }
                },
            ),
            { numRuns: 200 },
        );
    });

    it("starts in light with daytime, and at the real time otherwise", async () => {
        const midnight = () => new ManualClock(Date.UTC(2026, 5, 1, 22));
        const day = await start({}, memoryStore(), midnight());
        await day.pass(1);
        assert.ok(number(day.truth["irradiance_poa_w_m2"]) > 50);
        assert.match(String(day.truth["plant_time"]), /^2026-06-01T10:06/);
        const night = await start({ timeOfDay: "real" }, memoryStore(), midnight());
        await night.pass(1);
        assert.equal(night.truth["irradiance_poa_w_m2"], 0);
        assert.equal(night.truth["plant_time"], "2026-06-01T22:00:01.000Z");
    });

    describe("restart", () => {
        const counters = async (bench: Bench) => {
            const [a, b, meter] = [await bench.values(1, 103), await bench.values(2, 103), await bench.values(200, 203)];
            return [a["WH"], b["WH"], meter["TotWhImp"], meter["TotWhExp"]].map(number);
        };

        it("goes on where a killed one was, and no counter steps back", async () => {
            const store = memoryStore();
            const clock = new ManualClock(MORNING);
            const first = await start({ speed: 60 }, store, clock);
            await first.pass(950);
            const shown = await counters(first);
            // The last save was at 900 s; the next one starts two seconds after the kill.
            await first.kill();
            const saved = store.text;
            await first.simulator.close(false);
            store.text = saved!;
            clock.advance(2000);
            const second = await start({ speed: 60 }, store, clock);
            const restored = await counters(second);
            for (const [i, wh] of restored.entries()) assert.ok(wh >= shown[i]! && wh < shown[i]! + 20, `${wh} after ${shown[i]}`);
        });

        it("calculates exactly what was shown", async () => {
            const whole = await start();
            await whole.pass(100);
            const store = memoryStore();
            const clock = new ManualClock(MORNING);
            const first = await start({}, store, clock);
            await first.pass(40);
            await first.close();
            clock.advance(60_000);
            const second = await start({}, store, clock);
            assert.deepEqual(await second.values(1, 103), await whole.values(1, 103));
            assert.deepEqual(await second.values(200, 203), await whole.values(200, 203));
        });

        it("credits days of rest, and takes up a late morning again", async () => {
            const store = memoryStore();
            const clock = new ManualClock(MORNING);
            const first = await start({}, store, clock);
            const before = await counters(first);
            await first.close();
            clock.advance(2.7 * 86_400_000);
            const second = await start({}, store, clock);
            const after = await counters(second);
            assert.ok(after[0]! > before[0]! + 20_000 && after[1]! > before[1]! + 10_000);
            assert.match(await plantTime(second), /^2026-06-03T10:06/);
        });

        it("starts anew from a state that makes no sense", () => {
            const states = fc.oneof(
                fc.anything(),
                fc.record({ wall: fc.anything(), plant: fc.anything() }),
                fc.record({ wall: fc.double(), plant: fc.record({ sun: fc.double(), soc: fc.double(), energy: fc.anything() }) }),
            );
            fc.assert(
                fc.property(states, (state) => {
                    const bench = new Bench({}, { load: () => state, save: () => {}, remove: () => {} });
                    assert.deepEqual(bench.errors, []);
                }),
            );
        });

        it("never steps back, whatever the clocks did meanwhile", () => {
            const wall = fc.integer({ min: Date.UTC(1970, 0), max: Date.UTC(2037, 0) });
            fc.assert(
                fc.property(wall, wall, fc.constantFrom("real" as const, "daytime" as const), fc.constantFrom(0.1, 1, 60, 3600), (then, now, timeOfDay, speed) => {
                    const saved: SavedState = { wall: then, plant: initialState(CONFIG, then, then) };
                    let restored: SavedState | undefined;
                    const store = { load: () => structuredClone(saved), save: (state: SavedState) => void (restored = state), remove: () => {} };
                    const bench = new Bench({ timeOfDay, speed }, store, new ManualClock(now));
                    // Hits nothing on a weather station, but saves.
                    bench.simulator.command({ fault: "counters", unit: 4 });
                    assert.ok(restored);
                    for (const [i, { ac }] of restored.plant.energy.inverters.entries()) assert.ok(ac >= saved.plant.energy.inverters[i]!.ac);
                    assert.ok(restored.plant.energy.import >= saved.plant.energy.import);
                }),
                { numRuns: 20 },
            );
        });
    });

    it("follows a wall clock that is set, and its counters do not", async () => {
        const bench = await start({ timeOfDay: "real" });
        await bench.pass(2);
        const before = number((await bench.values(1, 103))["WH"]);
        const real = bench.clock.now.bind(bench.clock);
        bench.clock.now = () => real() + 6 * 3_600_000;
        await bench.pass(1);
        assert.equal(bench.truth["plant_time"], "2026-06-01T10:00:03.000Z");
        assert.ok(number((await bench.values(1, 103))["WH"]) - before < 10);
    });

    describe("faults", () => {
        it("slow, drop, exception and reset hit one unit or all", async () => {
            const bench = await start();
            const outcome = async (unit: number) => {
                try {
                    return (await bench.read(unit, 40_000, 2)).toString();
                } catch (error) {
                    assert.ok(error instanceof ModbusError);
                    return error.exception ?? error.code;
                }
            };
            bench.simulator.command({ fault: "exception", unit: 2, code: 6 });
            assert.deepEqual([await outcome(1), await outcome(2)], ["SunS", 6]);
            bench.simulator.command({ fault: "clear", unit: 2 });
            bench.simulator.command("exception");
            assert.deepEqual([await outcome(1), await outcome(200)], [4, 4]);
            bench.simulator.command({ fault: "reset" });
            assert.equal(await outcome(4), "MODBUS_CLOSED");
            await bench.pass(60);
            bench.simulator.command("clear");
            assert.equal(await outcome(5), "SunS");
            for (const [fault, patience] of [["drop", 600], [{ fault: "slow", unit: 3, ms: 400 }, 0]] as const) {
                bench.simulator.command(fault);
                const { requests } = bench.simulator.count;
                const answer = outcome(3);
                while (bench.simulator.count.requests === requests) await new Promise((resolve) => setImmediate(resolve));
                bench.clock.advance(patience || 399);
                if (!patience) bench.clock.advance(1);
                assert.equal(await answer, patience ? "MODBUS_TIMEOUT" : "SunS");
                bench.simulator.command("clear");
                await bench.pass(60);
            }
        });

        it("frozen keeps one device's values", async () => {
            const bench = await start();
            bench.simulator.command({ fault: "frozen", unit: 200 });
            const before = [await bench.values(200, 203), await bench.values(1, 103)];
            await bench.pass(30);
            assert.deepEqual(await bench.values(200, 203), before[0]);
            assert.notDeepEqual(await bench.values(1, 103), before[1]);
            bench.simulator.command("clear");
            assert.notDeepEqual(await bench.values(200, 203), before[0]);
        });

        it("night leaves nothing but who the device is", async () => {
            const bench = await start();
            const day = await bench.models(2);
            bench.simulator.command({ fault: "night", unit: 2 });
            const night = await bench.models(2);
            assert.deepEqual(night.get(1), day.get(1));
            for (const [id, { address, length }] of day) assert.deepEqual([night.get(id)?.address, night.get(id)?.length], [address, length]);
            assert.deepEqual(night.get(103)!.values, { ID: 103, L: 50 });
            assert.deepEqual(night.get(160)!.values["module"], [{}, {}, {}]);
        });

        it("counters start again at zero and count on", async () => {
            const bench = await start({ speed: 1 });
            bench.simulator.command({ fault: "counters", unit: 1 });
            assert.equal((await bench.values(1, 103))["WH"], undefined, "0 means not accumulated");
            assert.ok(number((await bench.values(2, 103))["WH"]) > 1e6);
            assert.ok(number((await bench.values(200, 203))["TotWhExp"]) > 1e6);
            await bench.pass(60);
            const wh = number((await bench.values(1, 103))["WH"]);
            assert.ok(wh > 5 && wh < 200, `${wh} Wh in a minute`);
        });

        it("length moves every model behind the common one", async () => {
            const bench = await start();
            const before = await bench.models(1);
            bench.simulator.command({ fault: "length", unit: 1 });
            const after = await bench.models(1);
            assert.deepEqual([before.get(1)!.length, after.get(1)!.length], [66, 65]);
            for (const id of [103, 120, 121, 123, 160]) assert.equal(after.get(id)!.address, before.get(id)!.address - 1);
            assert.deepEqual(after.get(160)!.values, before.get(160)!.values);
        });

        it("jump moves the sun once", async () => {
            const bench = await start();
            await bench.pass(1);
            const before = Date.parse(String(bench.truth["plant_time"]));
            bench.simulator.command({ fault: "jump", hours: -3 });
            await bench.pass(1);
            assert.equal(Date.parse(String(bench.truth["plant_time"])) - before, 1000 - 3 * 3_600_000);
        });

        it("shows what is wrong, and understands nothing else", async () => {
            const bench = await start();
            const after = async (command: unknown) => {
                bench.simulator.command(command);
                await bench.pass(1);
                return bench.status.at(-1);
            };
            assert.equal(await after({ fault: "night", unit: 2 }), "warn unit 2: night");
            assert.equal(await after("drop"), "warn 2 faults");
            assert.equal(await after({ fault: "clear", unit: 2 }), "warn all units: drop");
            assert.match((await after({ fault: "clear" }))!, /^ok :\d+, clients 0$/);
            for (const wrong of [undefined, null, 5, "", "blue", {}, { fault: "slow", ms: -1 }, { fault: "slow", unit: 256 }, { fault: "exception", code: 0 }, []]) {
                assert.throws(() => bench.simulator.command(wrong), { code: "SIM_FAULT" });
            }
            fc.assert(fc.property(fc.anything(), (payload) => {
                try {
                    bench.simulator.command(payload);
                } catch (error) {
                    assert.equal((error as { code?: string }).code, "SIM_FAULT");
                }
            }));
        });
    });

    describe("power limit", () => {
        const write = async (bench: Bench, unit: number, address: number, ...words: number[]): Promise<string> => {
            const socket = connect(bench.port, "127.0.0.1");
            const pdu = Buffer.alloc(6 + 2 * words.length);
            pdu.writeUInt8(16, 0);
            pdu.writeUInt16BE(address, 1);
            pdu.writeUInt16BE(words.length, 3);
            pdu.writeUInt8(2 * words.length, 5);
            for (const [i, word] of words.entries()) pdu.writeUInt16BE(word, 6 + 2 * i);
            socket.write(Buffer.concat([Buffer.of(0, 1, 0, 0, 0, pdu.length + 1, unit), pdu]));
            const [answer] = (await once(socket, "data")) as [Buffer];
            socket.destroy();
            return answer.subarray(7).toString("hex");
        };

        it("is the only thing that takes a write", async () => {
            const bench = await start();
            for (const unit of UNITS) {
                const models = await bench.models(unit);
                assert.equal(bench.simulator.count.writes, unit === 1 ? 0 : unit === 2 ? 5 : 10, "reading writes nothing");
                const last = [...models.values()].at(-1)!;
                const controls = models.get(123)?.address ?? Infinity;
                for (let address = 40_000; address < last.address + 2 + last.length; address++) {
                    const answer = await write(bench, unit, address, 1);
                    const allowed = address >= controls + 5 && address <= controls + 9;
                    assert.equal(answer.startsWith("10"), allowed, `unit ${unit} address ${address}: ${answer}`);
                }
            }
            assert.equal(bench.simulator.count.writes, 10);
        });

        it("limits the inverter until it reverts", async () => {
            const bench = await start();
            await bench.pass(1);
            const at = (await bench.models(1)).get(123)!.address + 5;
            const free = number((await bench.values(1, 103))["W"]);
            assert.equal(await write(bench, 1, at, 10_001, 0, 0, 0, 1), "9002", "more than 100 %");
            assert.equal(await write(bench, 1, at, 500, 0, 30, 0, 1), `10${at.toString(16)}0005`);
            const { W, St } = await bench.values(1, 103);
            close(W, 450, 0.1);
            assert.equal(St, 5);
            assert.equal((await bench.values(1, 123))["WMaxLimPct"], 5);
            await bench.pass(29);
            close((await bench.values(1, 103))["W"], 450, 0.1);
            await bench.pass(1);
            assert.ok(number((await bench.values(1, 103))["W"]) > free / 2);
            assert.equal((await bench.values(1, 123))["WMaxLim_Ena"], 0);
        });
    });

    it("waits for a taken port, says so once, and takes it when it is free", async () => {
        const other = createServer().listen(0, "127.0.0.1");
        await once(other, "listening");
        const { port } = other.address() as AddressInfo;
        const bench = new Bench({ port });
        open.push(bench);
        const started = bench.start();
        for (let i = 0; i < 5; i++) {
            await bench.shows(/^error/);
            while (bench.clock.waiting === 0) await new Promise((resolve) => setImmediate(resolve));
            bench.status.length = 0;
            bench.clock.advance(20_000);
        }
        await bench.shows(/^error/);
        assert.equal(bench.status.at(-1), `error port ${port} taken`);
        assert.match(bench.errors[0]!.message, new RegExp(`^Port ${port} on 127.0.0.1 is taken`));
        assert.equal(bench.errors.length, 1);
        await new Promise((resolve) => other.close(resolve));
        while (bench.clock.waiting === 0) await new Promise((resolve) => setImmediate(resolve));
        bench.clock.advance(20_000);
        await started;
        assert.equal((await bench.read(1, 40_000, 2)).toString(), "SunS");
    });

    it("serves RTU over TCP beside Modbus TCP, both or none", async () => {
        const other = createServer().listen(0, "127.0.0.1");
        await once(other, "listening");
        const { port: rtuPort } = other.address() as AddressInfo;
        const bench = new Bench({ rtuPort });
        open.push(bench);
        const started = bench.start();
        await bench.shows(/^error/);
        assert.equal(bench.status.at(-1), `error port ${rtuPort} taken`);
        assert.deepEqual(bench.simulator.ports, []);
        await new Promise((resolve) => other.close(resolve));
        while (bench.clock.waiting === 0) await new Promise((resolve) => setImmediate(resolve));
        bench.clock.advance(20_000);
        await started;
        assert.deepEqual(bench.simulator.ports, [bench.port, rtuPort]);
        const socket = connect(rtuPort, "127.0.0.1");
        try {
            // Unit 1, holding registers 40000 and 40001.
            socket.write(Buffer.from("01039c400002eb8f", "hex"));
            const [answer] = (await once(socket, "data")) as [Buffer];
            assert.equal(answer.toString("hex"), "01030453756e5396f0");
            assert.equal((await bench.read(1, 40_000, 2)).toString(), "SunS");
            assert.equal(bench.simulator.count.requests, 2);
        } finally {
            socket.destroy();
        }
    });

    it("says once that its state cannot be saved", async () => {
        const full = () => {
            throw new Error("no space left");
        };
        const bench = await start({}, { load: () => undefined, save: full, remove: () => {} });
        for (let i = 0; i < 3; i++) bench.simulator.command("counters");
        assert.deepEqual(bench.errors.map(({ message }) => message), ["no space left"]);
    });

    it("keeps its state in a file that is gone with the node", async () => {
        const dir = await makeDir("wl-sim-");
        try {
            const file = path.join(dir, "sub", "plant.json");
            const first = await start({}, new StateFile(file));
            await first.pass(3);
            await first.close();
            const saved = JSON.parse(readFileSync(file, "utf8")) as SavedState;
            assert.equal(saved.wall, MORNING + 3000);
            writeFileSync(file, '{"wall": 1');
            const second = await start({}, new StateFile(file));
            assert.deepEqual(second.errors.map(({ code }: Error & { code?: string }) => code), ["STATE_DAMAGED"]);
            await second.pass(1);
            await second.close(true);
            assert.equal(existsSync(file), false);
        } finally {
            await removeDir(dir);
        }
    });
});

async function plantTime(bench: Bench): Promise<string> {
    await bench.pass(1);
    return String(bench.truth["plant_time"]);
}

function number(value: unknown): number {
    assert.equal(typeof value, "number", `${String(value)} is no number`);
    return value as number;
}

function close(actual: unknown, expected: unknown, tolerance: number): void {
    assert.ok(Math.abs(number(actual) - number(expected)) <= tolerance, `${String(actual)} is not within ${tolerance} of ${String(expected)}`);
}
