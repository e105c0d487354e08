import assert from "node:assert/strict";
import fc from "fast-check";
import { DateTime } from "luxon";
import { initialState, lateMorning, Plant, SOC_MAX, SOC_MIN, type PlantConfig, type PlantSample } from "../../dist/simulate/plant.js";
import { inverterOutput, sunPosition } from "../../dist/simulate/solar.js";

const BERLIN: PlantConfig = { seed: 1, latitude: 52.52, longitude: 13.4, zone: "Europe/Berlin", ratedPowerW: 15_000 };
const HOUR = 3_600_000;

const instants = fc.integer({ min: Date.UTC(2024, 0), max: Date.UTC(2040, 0) });
const configs = fc.record({
    seed: fc.integer(),
    latitude: fc.double({ min: -70, max: 70, noNaN: true }),
    longitude: fc.double({ min: -180, max: 180, noNaN: true }),
    zone: fc.constantFrom("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"),
    ratedPowerW: fc.constantFrom(3000, 15_000, 2_000_000),
});

describe("Plant", () => {
    it("keeps to physics at any place, time and charge", () => {
        fc.assert(
            fc.property(configs, instants, fc.double({ min: SOC_MIN, max: SOC_MAX, noNaN: true }), (config, at, soc) => {
                const plant = new Plant(config, { ...initialState(config, at, at), soc });
                checkPhysics(plant.sample, config.ratedPowerW);
            }),
            { numRuns: 500 },
        );
    });

    it("gives nothing at night", () => {
        fc.assert(
            fc.property(configs, instants, (config, at) => {
                const { sun, inverters, weather } = new Plant(config, initialState(config, at, at)).sample;
                fc.pre(sun.elevation <= 0);
                assert.deepEqual([weather.ghi, weather.poa], [0, 0]);
                for (const { ac, dc, state, mppts } of inverters) {
                    assert.deepEqual([ac, dc, state], [0, 0, "sleeping"]);
                    for (const mppt of mppts) assert.deepEqual([mppt.power, mppt.voltage, mppt.current], [0, 0, 0]);
                }
            }),
        );
    });

    it("integrates what it shows, and its counters never step back", () => {
        const steps = fc.array(fc.record({ seconds: fc.double({ min: 0, max: 60, noNaN: true }), speed: fc.constantFrom(0, 1, 60) }), { maxLength: 60 });
        fc.assert(
            fc.property(configs, instants, steps, (config, at, list) => {
                const plant = new Plant(config, initialState(config, at, at));
                for (const { seconds, speed } of list) {
                    const before = plant.sample;
                    // At 60 times, a second is one integration step, so that the trapezoid is exact.
                    const real = speed === 60 ? Math.min(seconds, 1) : seconds;
                    plant.advance(real, real * speed * 1000);
                    const after = plant.sample;
                    assert.ok(Math.abs(after.time - before.time - real * speed * 1000) < 1e-3);
                    const mean = (a: number, b: number) => ((a + b) / 2) * (real / 3600);
                    for (const [from, to, power] of counters(before, after)) {
                        assert.ok(to >= from);
                        close(to - from, mean(power(before), power(after)), 1e-6 * config.ratedPowerW);
                    }
                    checkPhysics(after, config.ratedPowerW);
                }
            }),
        );
    });

    it("charges with surplus, covers the evening, and its charge follows its power", () => {
        const start = Date.UTC(2026, 5, 21, 0);
        const plant = new Plant(BERLIN, initialState(BERLIN, start, start));
        let [charged, discharged, stored] = [0, 0, 0];
        for (let minute = 0; minute < 24 * 60; minute++) {
            const { battery, load, inverters } = plant.sample;
            const surplus = inverters.reduce((sum, { ac }) => sum + ac, 0) - load;
            if (Math.abs(surplus) > 100) assert.ok(battery.power === 0 || Math.sign(battery.power) === -Math.sign(surplus));
            charged += Math.max(0, -battery.power) / 60;
            discharged += Math.max(0, battery.power) / 60;
            stored -= (battery.power * (battery.power > 0 ? 1 / 0.97 : 0.97)) / 60;
            plant.advance(60, 60_000);
        }
        const { soc, capacityWh } = plant.sample.battery;
        close(soc * capacityWh, initialState(BERLIN, start, start).soc * capacityWh + stored, 1);
        assert.ok(charged > 3000 && discharged > 2000, `${charged} ${discharged}`);
        assert.ok(soc > 0.3, "a midsummer day ends with charge in the battery");
    });

    it("yields as plants there do", () => {
        const yearly = (config: PlantConfig) => {
            const start = Date.UTC(2026, 0, 1);
            const plant = new Plant(config, initialState(config, start, start));
            const before = plant.state.energy.inverters.reduce((sum, { ac }) => sum + ac, 0);
            // Every tenth day, in steps of five minutes.
            for (let day = 0; day < 365; day += 10) {
                plant.setSun(start + day * 24 * HOUR);
                for (let i = 0; i < 288; i++) {
                    plant.setSun(start + day * 24 * HOUR + i * 300_000);
                    plant.advance(300, 0);
                }
            }
            return ((plant.state.energy.inverters.reduce((sum, { ac }) => sum + ac, 0) - before) / config.ratedPowerW) * (365 / 37);
        };
        // kWh per kW AC and year at 1.25 kW of modules each.
        within(yearly(BERLIN), 900, 1500);
        within(yearly({ ...BERLIN, latitude: -33.9, longitude: 151.2, zone: "Australia/Sydney" }), 1500, 2300);
    });

    it("is a function of seed and time", () => {
        const run = (seed: number) => {
            const at = Date.UTC(2026, 8, 1, 8);
            const plant = new Plant({ ...BERLIN, seed }, initialState({ ...BERLIN, seed }, at, at));
            return Array.from({ length: 200 }, () => (plant.advance(10, 10_000), plant.sample));
        };
        assert.deepEqual(run(7), run(7));
        assert.notDeepEqual(run(7), run(8));
    });

    it("goes on from a stored state as if it had never stopped", () => {
        const at = Date.UTC(2026, 8, 1, 8);
        const whole = new Plant(BERLIN, initialState(BERLIN, at, at));
        const first = new Plant(BERLIN, initialState(BERLIN, at, at));
        for (let i = 0; i < 100; i++) {
            whole.advance(30, 30_000);
            if (i < 50) first.advance(30, 30_000);
        }
        const second = new Plant(BERLIN, JSON.parse(JSON.stringify(first.state)) as typeof first.state);
        assert.deepEqual(second.sample, first.sample);
        for (let i = 50; i < 100; i++) second.advance(30, 30_000);
        assert.deepEqual(second.sample, whole.sample);
    });

    it("keeps the household's hours on days of 23 and 25 hours", () => {
        for (const day of ["2026-03-29", "2026-10-25", "2026-07-01"]) {
            const start = DateTime.fromISO(day, { zone: BERLIN.zone });
            for (let ms = start.toMillis(); ms < start.plus({ days: 1 }).toMillis(); ms += 17 * 60_000) {
                const offset = DateTime.fromMillis(ms, { zone: BERLIN.zone }).offset / 60;
                const fixed = { ...BERLIN, zone: `UTC+${offset}` };
                assert.equal(
                    new Plant(BERLIN, initialState(BERLIN, ms, ms)).sample.load,
                    new Plant(fixed, initialState(fixed, ms, ms)).sample.load,
                );
            }
        }
    });

    it("holds a power limit by leaving the maximum power points", () => {
        const at = lateMorning(Date.UTC(2026, 5, 21), BERLIN.longitude);
        const plant = new Plant(BERLIN, initialState(BERLIN, at, at));
        plant.setLimit(0, 0.1);
        const [limited, free] = plant.sample.inverters;
        close(limited!.ac, 900, 1e-6);
        assert.equal(limited!.state, "throttled");
        assert.equal(free!.state, "mppt");
        close(inverterOutput(limited!.dc, limited!.rating).ac, 900, 0.01);
        checkPhysics(plant.sample, BERLIN.ratedPowerW);
    });

    it("finds a late morning of the same day anywhere", () => {
        fc.assert(
            fc.property(instants, fc.double({ min: -60, max: 60, noNaN: true }), fc.double({ min: -180, max: 180, noNaN: true }), (now, lat, lon) => {
                const at = lateMorning(now, lon);
                assert.ok(Math.abs(at - now) <= 24 * HOUR);
                const sun = sunPosition(at, lat, lon);
                const later = sunPosition(at + 2 * HOUR, lat, lon);
                assert.ok(sun.elevation > 3 && later.elevation > 3, `${sun.elevation}`);
            }),
        );
    });
});

function checkPhysics(sample: PlantSample, rating: number): void {
    const { inverters, battery, grid, load, weather } = sample;
    const pv = inverters.reduce((sum, { ac }) => sum + ac, 0);
    close(load, pv + battery.power + grid.power, 1e-6 * rating);
    close(grid.phases.reduce((sum, { power }) => sum + power, 0), grid.power, 1e-6 * rating);
    assert.ok(pv >= 0 && pv <= rating && load > 0 && load < rating);
    assert.ok(battery.soc >= SOC_MIN && battery.soc <= SOC_MAX && Math.abs(battery.power) <= battery.maxPower);
    within(battery.voltage, 350, 450);
    for (const inverter of inverters) {
        assert.ok(inverter.ac <= inverter.dc && inverter.ac <= inverter.rating);
        close(inverter.mppts.reduce((sum, { power }) => sum + power, 0), inverter.dc, 1e-6 * rating);
        for (const { power, voltage, current, temperature } of inverter.mppts) {
            close(voltage * current, power, 1e-6 * rating);
            within(voltage, 0, 900);
            within(temperature, -60, 95);
        }
    }
    for (const { voltage } of grid.phases) within(voltage, 215, 245);
    within(grid.frequency, 49.9, 50.1);
    within(weather.ambient, -50, 50);
    within(weather.wind, 0, 50);
    within(weather.humidity, 0, 100);
    within(weather.ghi, 0, 1100);
    within(weather.poa, 0, 1400);
}

type Power = (sample: PlantSample) => number;

function counters(a: PlantSample, b: PlantSample): [number, number, Power][] {
    const pairs: [number, number, Power][] = [
        [a.grid.importWh, b.grid.importWh, ({ grid }) => Math.max(0, grid.power)],
        [a.grid.exportWh, b.grid.exportWh, ({ grid }) => Math.max(0, -grid.power)],
    ];
    for (const [i, inverter] of a.inverters.entries()) {
        pairs.push([inverter.energy, b.inverters[i]!.energy, ({ inverters }) => inverters[i]!.ac]);
        for (const [m, mppt] of inverter.mppts.entries()) {
            pairs.push([mppt.energy, b.inverters[i]!.mppts[m]!.energy, ({ inverters }) => inverters[i]!.mppts[m]!.power]);
        }
    }
    return pairs;
}

function close(actual: number, expected: number, tolerance: number): void {
    assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not within ${tolerance} of ${expected}`);
}

function within(value: number, low: number, high: number): void {
    assert.ok(value >= low && value <= high, `${value} is outside ${low}..${high}`);
}
