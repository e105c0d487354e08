import assert from "node:assert/strict";
import fc from "fast-check";
import { isPointName, unitOf, UNITS, type UnitKey } from "../../dist/common/units.js";

describe("units", () => {
    it("are read from the end of a point name, the longest that fits", () => {
        const cases: Record<string, UnitKey | undefined> = {
            ac_power_w: "w",
            ac_power_var: "var",
            ac_power_va: "va",
            ac_energy_export_wh: "wh",
            ac_energy_varh: "varh",
            irradiance_poa_w_m2: "w_m2",
            irradiation_wh_m2: "wh_m2",
            wind_m_s: "m_s",
            uptime_s: "s",
            rain_mm: "mm",
            soc_pct: "pct",
            power_factor_ratio: "ratio",
            captured_tco2e: "tco2e",
            state: undefined,
            w: undefined,
            draw: undefined,
        };
        for (const [point, unit] of Object.entries(cases)) assert.equal(unitOf(point), unit, point);
    });

    it("can be told apart for every stem", () => {
        fc.assert(
            fc.property(fc.stringMatching(/^[a-z][a-z0-9]{3,8}$/), fc.constantFrom(...Object.keys(UNITS)), (stem, unit) => {
                fc.pre(!(stem in UNITS));
                assert.equal(unitOf(`${stem}_x9_${unit}`), unit);
                assert.ok(isPointName(`${stem}_${unit}`));
            }),
        );
    });

    for (const name of ["ac_power_w", "w", "mppt_1_dc_voltage_v", "a1"]) {
        it(`${name} is a point name`, () => assert.equal(isPointName(name), true));
    }
    for (const name of ["", "AcPower", "1_w", "_w", "ac__w", "ac_", "ac-power", "ac power", "ac_power_w\n", "ä_w", "__proto__"]) {
        it(`${JSON.stringify(name)} is none`, () => assert.equal(isPointName(name), false));
    }
});
