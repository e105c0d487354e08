import assert from "node:assert/strict";
import fc from "fast-check";
import { hashed, noise } from "../../dist/simulate/noise.js";
import { clearSky, inverterOutput, moduleTemperature, planeOfArray, splitIrradiance, sunPosition } from "../../dist/simulate/solar.js";

const latitude = fc.double({ min: -89, max: 89, noNaN: true });
const longitude = fc.double({ min: -180, max: 180, noNaN: true });
const instant = fc.integer({ min: Date.UTC(2000, 0), max: Date.UTC(2050, 0) });

describe("solar", () => {
    it("puts the sun where others do", () => {
        // The worked example of NREL's Solar Position Algorithm, NREL/TP-560-34302 (2008), A.5: zenith 50.11162°, azimuth 194.34024°.
        const spa = sunPosition(Date.UTC(2003, 9, 17, 19, 30, 30), 39.742476, -105.1786);
        near(spa.elevation, 90 - 50.11162, 0.03);
        near(spa.azimuth, 194.34024, 0.03);
        // Geometry: at the June solstice the sun passes the zenith of the tropic, at an equinox it rises in the east.
        near(sunPosition(Date.UTC(2026, 5, 21, 12, 1, 50), 23.436, 0).elevation, 90, 0.05);
        near(sunPosition(Date.UTC(2026, 2, 20, 6, 7, 30), 0, 0).azimuth, 90, 0.2);
        near(sunPosition(Date.UTC(2026, 2, 20, 6, 7, 30), 0, 0).elevation, 0, 0.2);
        // South of the equator it culminates in the north.
        const sydney = sunPosition(Date.UTC(2026, 11, 21, 1, 53), -33.87, 151.21);
        near(sydney.elevation, 79.6, 0.2);
        assert.ok(sydney.azimuth < 15 || sydney.azimuth > 345);
    });

    it("keeps irradiance within what the sky can give, and dark at night", () => {
        fc.assert(
            fc.property(instant, latitude, longitude, fc.double({ min: 0, max: 1.05, noNaN: true }), (ms, lat, lon, index) => {
                const sun = sunPosition(ms, lat, lon);
                assert.ok(sun.elevation >= -90 && sun.elevation <= 90 && sun.azimuth >= 0 && sun.azimuth < 360);
                const light = splitIrradiance(clearSky(sun.elevation) * index, sun.elevation);
                assert.ok(light.ghi >= 0 && light.ghi < 1200 && light.dhi >= 0 && light.dhi <= light.ghi && light.dni >= 0 && light.dni <= 1000);
                const flat = planeOfArray(light, sun, { elevation: 90, azimuth: 0 });
                // Only near the horizon, where the beam is capped, does the horizontal plane get less than the global value.
                if (light.dni < 1000) near(flat, light.ghi, 1e-6 * (1 + light.ghi));
                const facing = planeOfArray(light, sun, sun);
                assert.ok(facing < 1400);
                if (sun.elevation <= 0) assert.deepEqual([light.ghi, facing], [0, 0]);
            }),
        );
    });

    it("splits light as Erbs measured: overcast is diffuse, clear is direct", () => {
        const overcast = splitIrradiance(100, 40);
        assert.ok(overcast.dhi / overcast.ghi > 0.97);
        const clear = splitIrradiance(clearSky(60), 60);
        near(clear.dhi / clear.ghi, 0.2, 0.06);
    });

    it("warms modules in the sun and cools them in wind", () => {
        assert.equal(moduleTemperature(0, 12, 3), 12);
        near(moduleTemperature(800, 20, 1), 45.13, 0.01);
        assert.ok(moduleTemperature(800, 20, 8) < moduleTemperature(800, 20, 1));
    });

    it("converts at the PVWatts efficiency and clips at the limit", () => {
        near(inverterOutput(10_000 / 0.96, 10_000).ac, 10_000, 10);
        near(inverterOutput(5000, 10_000).ac / 5000, 0.9629, 0.001);
        assert.deepEqual(inverterOutput(20_000, 10_000), { ac: 10_000, limited: true });
        assert.deepEqual(inverterOutput(5000, 10_000, 3000), { ac: 3000, limited: true });
        assert.deepEqual(inverterOutput(0, 10_000), { ac: 0, limited: false });
    });
});

describe("noise", () => {
    it("is a function of its arguments, even and smooth", () => {
        fc.assert(
            fc.property(fc.integer(), fc.integer({ min: 0, max: 99 }), fc.double({ min: -1e8, max: 1e8, noNaN: true }), (seed, channel, x) => {
                const value = noise(seed, channel, x);
                assert.ok(value >= 0 && value < 1);
                assert.equal(value, noise(seed, channel, x));
                near(noise(seed, channel, x + 1e-3), value, 2e-3);
            }),
        );
        const tenths = Array.from({ length: 10 }, () => 0);
        for (let n = 0; n < 20_000; n++) tenths[Math.floor(hashed(5, 1, n) * 10)]!++;
        for (const count of tenths) near(count, 2000, 200);
    });
});

function near(actual: number, expected: number, tolerance: number): void {
    assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not within ${tolerance} of ${expected}`);
}
