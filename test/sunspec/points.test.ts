import assert from "node:assert/strict";
import fc from "fast-check";
import { emptySample, type Sample } from "../../dist/common/sample.js";
import { isCounter, isPointName, unitOf } from "../../dist/common/units.js";
import { type DeviceClass, shippedSources } from "../../dist/sunspec/class-maps.js";
import { decodeModel, type ModelValues } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { officialModels } from "../../dist/sunspec/model.js";
import {
    bindModels,
    classesOf,
    derive,
    ratingIn,
    type DeviceFacts,
} from "../../dist/sunspec/points.js";
import { BATTERY, INVERTER, METER } from "./devices.js";

const FACTS: DeviceFacts = { meterPositive: "auto", batteryPositive: "discharge", manufacturer: "", ratedW: undefined };

/** What a device with these models gives as one class. */
function read(cls: DeviceClass, models: [id: number, values: ModelValues][], facts: Partial<DeviceFacts> = {}): Sample {
    const into = emptySample();
    const refs = models.map(([id, values]) => ({ id, bytes: encodeModel(officialModels.get(id)!, values) }));
    for (const { model, def, extract } of bindModels(cls, refs, (id) => officialModels.get(id), { ...FACTS, ...facts }, shippedSources())) {
        extract(decodeModel(def, model.bytes), into);
    }
    derive(cls, into);
    return into;
}

describe("points of a SunSpec device", () => {
    it("names an inverter's points in our units", () => {
        const { values, counters, bad } = read("inverter", [[103, INVERTER]]);
        assert.deepEqual(values, {
            ac_current_a: 18.3, ac_current_l1_a: 6.1, ac_current_l2_a: 6.1, ac_current_l3_a: 6.1,
            ac_voltage_l1_v: 231.2, ac_voltage_l2_v: 230.9, ac_voltage_l3_v: 229.8, ac_voltage_l1_l2_v: 400,
            ac_frequency_hz: 49.98, ac_power_w: 4210, ac_apparent_power_va: 4220, ac_reactive_power_var: -150, power_factor_ratio: -0.9977,
            dc_power_w: 4380, cabinet_temperature_c: 41.5, state: "MPPT", alarms: "",
        });
        assert.deepEqual(counters, { ac_energy_export_wh: { wh: 812_345, modulusWh: 2 ** 32 } });
        assert.deepEqual(bad, {});
    });

    it("reads the same from integer and float models and from 701", () => {
        const floats = { W: 4210.5, Hz: 50, PF: 0.98, WH: 812_345, St: "THROTTLED" };
        const float = read("inverter", [[113, floats]]);
        assert.equal(float.values["ac_power_w"], 4210.5);
        assert.equal(Number(float.values["power_factor_ratio"]).toFixed(3), "0.980");
        assert.deepEqual(float.counters, { ac_energy_export_wh: { wh: 812_345 } }, "a float does not roll over");
        const der = read("inverter", [
            [701, { ACType: "THREE_PHASE", InvSt: "RUNNING", St: "ON", W: -50, W_SF: 0, PF: -0.5, PF_SF: -2, VL1L2: 400, V_SF: 0, TotWhInj: 123_456_789_012, TotWhAbs: 42, TotWh_SF: 0, Alrm: 0b1001 }],
        ]);
        assert.equal(der.values["ac_power_w"], -50);
        assert.equal(der.values["ac_voltage_l1_l2_v"], 400);
        assert.equal(der.values["state"], "RUNNING");
        assert.equal(der.values["alarms"], "GROUND_FAULT,DC_DISCONNECT");
        assert.deepEqual(der.counters, {
            ac_energy_export_wh: { wh: 123_456_789_012, modulusWh: 2 ** 64 },
            ac_energy_import_wh: { wh: 42, modulusWh: 2 ** 64 },
        });
    });

    it("takes the power factor as percent or as ratio, whichever it is", () => {
        for (const [sent, ratio] of [[-96.91, -0.9691], [100, 1], [1, 1], [0.5, 0.5], [-1, -1], [0, 0]] as const) {
            const { values } = read("inverter", [[103, { ...INVERTER, PF: sent }]]);
            assert.equal(values["power_factor_ratio"], ratio);
        }
        assert.equal(read("inverter", [[103, { ...INVERTER, PF: 320 }]]).bad["power_factor_ratio"], "range");
    });

    it("gives one set of points a tracker of an inverter's maximum power", () => {
        const module = [1, 2].map((n) => ({ ID: n, DCA: n, DCV: 600 + n, DCW: 1000 * n, DCWH: 5000 * n, Tmp: 30 + n, DCSt: "MPPT", DCEvt: n === 2 ? 1 << 7 : 0 }));
        const { values, counters } = read("inverter", [[103, INVERTER], [160, { DCA_SF: 0, DCV_SF: 0, DCW_SF: 0, DCWH_SF: 1, N: 2, module }]]);
        assert.deepEqual(
            ["mppt1_dc_power_w", "mppt2_dc_power_w", "mppt2_dc_voltage_v", "mppt2_dc_current_a", "mppt1_temperature_c", "mppt1_state", "mppt1_alarms", "mppt2_alarms"].map((point) => values[point]),
            [1000, 2000, 602, 2, 31, "MPPT", "", "OVER_TEMP"],
        );
        assert.deepEqual(counters["mppt2_dc_energy_wh"], { wh: 10_000, modulusWh: 2 ** 32 * 10 });
    });

    it("tells PV ports from storage ports", () => {
        const ports = [{ PrtTyp: "PV", DCW: 3000 }, { PrtTyp: "ESS", DCW: -1200, DCWhInj: 700, DCWhAbs: 900 }, { PrtTyp: "PV", DCW: 2500 }];
        const models: [number, ModelValues][] = [[701, { ACType: "THREE_PHASE", W: 4000, W_SF: 0 }], [714, { NPrt: 3, DCW_SF: 0, DCWH_SF: 0, Prt: ports }], [713, { SoC: 55, Pct_SF: 0 }]];
        const inverter = read("inverter", models);
        assert.deepEqual([inverter.values["mppt1_dc_power_w"], inverter.values["mppt2_dc_power_w"], inverter.values["mppt3_dc_power_w"]], [3000, 2500, undefined]);
        const battery = read("battery", models);
        assert.deepEqual(battery.values, { soc_pct: 55, dc_power_w: -1200 });
        assert.deepEqual(Object.keys(battery.counters), ["dc_energy_discharge_wh", "dc_energy_charge_wh"]);
    });

    it("knows the battery of a Fronius hybrid, which hides among the modules of 160", () => {
        const module = [
            { IDStr: "MPPT 1", DCW: 3000 }, { IDStr: "MPPT 2", DCW: 0 },
            { IDStr: "StCha 3", DCW: 1800, DCWH: 40_000 }, { IDStr: "StDisCha 4", DCW: 0, DCWH: 35_000 },
        ];
        const models: [number, ModelValues][] = [[103, INVERTER], [124, { ChaState: 41, ChaState_SF: 0, ChaSt: "CHARGING" }], [160, { DCW_SF: 0, DCWH_SF: 0, N: 4, module }]];
        const battery = read("battery", models);
        assert.equal(battery.values["dc_power_w"], -1800);
        assert.equal(battery.values["soc_pct"], 41);
        assert.deepEqual(battery.counters, {
            dc_energy_discharge_wh: { wh: 35_000, modulusWh: 2 ** 32 },
            dc_energy_charge_wh: { wh: 40_000, modulusWh: 2 ** 32 },
        });
        const { values } = read("inverter", models);
        assert.deepEqual([values["mppt2_dc_power_w"], values["mppt3_dc_power_w"]], [0, undefined]);
    });

    describe("signs", () => {
        const power = (facts: Partial<DeviceFacts>, W: number) => read("meter", [[203, { ...METER, W }]], facts).values["ac_power_w"];

        it("a meter's grid import is positive, whichever way the device counts", () => {
            assert.equal(power({ meterPositive: "import" }, 2000), 2000);
            assert.equal(power({ meterPositive: "import" }, -2000), -2000);
            assert.equal(power({ meterPositive: "export" }, 2000), -2000);
            assert.equal(power({ meterPositive: "export" }, -2000), 2000);
        });

        it("auto knows SolarEdge's meters", () => {
            assert.equal(power({ manufacturer: "SolarEdge " }, 2000), -2000);
            assert.equal(power({ manufacturer: "SolarEdge " }, -2000), 2000);
            assert.equal(power({ manufacturer: "Fronius" }, 2000), 2000);
            assert.equal(power({ manufacturer: "SolarEdge", meterPositive: "import" }, 2000), 2000);
        });

        it("phases and reactive power turn with it; counters and magnitudes do not", () => {
            const { values, counters } = read("meter", [[203, METER]], { meterPositive: "export" });
            assert.deepEqual(
                ["ac_power_l1_w", "ac_power_l3_w", "ac_reactive_power_var", "ac_voltage_v", "ac_voltage_l1_l2_v", "ac_current_l1_a"].map((point) => values[point]),
                [-700, -600, -300, 231, 400, -2.9],
            );
            assert.deepEqual([counters["ac_energy_import_wh"]?.wh, counters["ac_energy_export_wh"]?.wh], [7000, 5000]);
        });

        it("a battery's discharge is positive, whichever way the device counts", () => {
            for (const [batteryPositive, sign] of [["discharge", 1], ["charge", -1]] as const) {
                for (const W of [2010, -2010]) {
                    const { values } = read("battery", [[802, { ...BATTERY, W, A: W / 402 }]], { batteryPositive });
                    assert.equal(values["dc_power_w"], sign * W);
                    assert.equal(values["dc_current_a"], sign * 5 * Math.sign(W));
                }
            }
        });

        it("a zero has no sign", () => {
            assert.ok(Object.is(power({ meterPositive: "export" }, 0), 0));
        });

        it("an inverter's generation is positive whatever the options", () => {
            assert.equal(read("inverter", [[103, INVERTER]], { meterPositive: "export", batteryPositive: "charge" }).values["ac_power_w"], 4210);
        });
    });

    it("names a battery's points", () => {
        const { values, counters } = read("battery", [[802, BATTERY], [803, { NStr: 0, NStrCon: 0, ModTmpMax: 31.5, ModTmpMin: 29, ModTmp_SF: -1, CellV_SF: 0, A_SF: 0, SoC_SF: 0 }]]);
        assert.deepEqual(values, {
            soc_pct: 63.5, soh_pct: 98, dc_voltage_v: 402.1, dc_current_a: 5, dc_power_w: 2010, energy_capacity_wh: 10_000, cell_voltage_max_v: 3.351,
            cell_voltage_min_v: 3.32, charge_state: "DISCHARGING", state: "CONNECTED", alarms: "", module_temperature_max_c: 31.5, module_temperature_min_c: 29,
        });
        assert.deepEqual(counters, {});
    });

    it("names weather and trackers, several of one kind apart", () => {
        const weather = read("weather", [
            [307, { TmpAmb: 18.5, RH: 61, Pres: 1013, WndSpd: 3, WndDir: 270 }],
            [302, { repeating: [{ GHI: 810, POAI: 930 }, { POAI: 610 }] }],
            [303, { temp: [{ TmpBOM: 44.1 }, { TmpBOM: 39 }] }],
            [305, { Lat: 52.5, Long: -13.4 }],
        ]);
        assert.deepEqual(weather.values, {
            ambient_temperature_c: 18.5, relative_humidity_pct: 61, pressure_pa: 101_300, wind_speed_m_s: 3, wind_direction_deg: 270,
            irradiance_ghi_w_m2: 810, irradiance_poa_w_m2: 930, irradiance_poa_2_w_m2: 610, module_temperature_c: 44.1, module_temperature_2_c: 39,
            latitude_deg: 52.5, longitude_deg: -13.4,
        });
        const tracker = read("tracker", [[601, { Typ: "Dual", GlblCtl: "Automatic", GlblAlm: 0, Dgr_SF: -1, N: 1, tracker: [{ ElPos: 31.5, AzPos: 181, ElTrgt: 32, AzTrgt: 182, Ctl: "Manual", Alm: 1 }] }]]);
        assert.deepEqual(tracker.values, {
            state: "Automatic", alarms: "", tracker1_elevation_deg: 31.5, tracker1_azimuth_deg: 181, tracker1_elevation_target_deg: 32,
            tracker1_azimuth_target_deg: 182, tracker1_state: "Manual", tracker1_alarms: "SetPoint",
        });
    });

    it("keeps flags and states that the model does not name", () => {
        const { values } = read("inverter", [[103, { ...INVERTER, St: 42, StVnd: 7, Evt1: 1 | (1 << 20), EvtVnd2: 0b101 }]]);
        assert.equal(values["state"], "42");
        assert.equal(values["vendor_state"], "7");
        assert.equal(values["alarms"], "GROUND_FAULT,Evt1:20,EvtVnd2:0,EvtVnd2:2");
    });

    it("turns Kostal's counter, which runs below zero", () => {
        const WH = 2 ** 32 - 37_325_890;
        assert.equal(read("inverter", [[103, { ...INVERTER, WH }]], { manufacturer: "KOSTAL" }).counters["ac_energy_export_wh"]?.wh, 37_325_890);
        assert.equal(read("inverter", [[103, { ...INVERTER, WH: 812_345 }]], { manufacturer: "KOSTAL" }).counters["ac_energy_export_wh"]?.wh, 812_345);
        assert.equal(read("inverter", [[103, { ...INVERTER, WH }]]).counters["ac_energy_export_wh"]?.wh, WH);
    });

    it("scales a counter's end with the counter", () => {
        assert.equal(read("inverter", [[103, { ...INVERTER, WH: 8000, WH_SF: 3 }]]).counters["ac_energy_export_wh"]?.modulusWh, 2 ** 32 * 1000);
    });

    it("leaves out what is absent and marks what is broken", () => {
        const { Tmp_SF: _gone, TmpCab: _too, ...rest } = INVERTER;
        const { values, bad } = read("inverter", [[103, rest]]);
        assert.ok(!("cabinet_temperature_c" in values) && !("cabinet_temperature_c" in bad));
        const noFactor = encodeModel(officialModels.get(103)!, INVERTER);
        // W_SF is register 15 of the model.
        noFactor.writeInt16BE(-0x8000, 15 * 2);
        const into = emptySample();
        for (const { def, extract } of bindModels("inverter", [{ id: 103 }], (id) => officialModels.get(id), FACTS, shippedSources())) extract(decodeModel(def, noFactor), into);
        assert.equal(into.bad["ac_power_w"], "sf");
        assert.ok(!("ac_power_w" in into.values));
    });

    it("refuses what no such device can measure", () => {
        const spike = read("inverter", [[103, { ...INVERTER, W: 9_000_000, W_SF: 3 }]], { ratedW: 5000 });
        assert.equal(spike.bad["ac_power_w"], "range");
        assert.ok(!("ac_power_w" in spike.values));
        assert.equal(read("inverter", [[103, { ...INVERTER, Hz: 327, Hz_SF: 0 }]]).bad["ac_frequency_hz"], "range");
        assert.equal(read("battery", [[802, { ...BATTERY, SoC: 6553, SoC_SF: 0 }]]).bad["soc_pct"], "range");
    });

    it("ranks classes and finds ratings", () => {
        const classes = (...ids: number[]) => classesOf(ids.map((id) => ({ id })), shippedSources());
        assert.deepEqual(classes(1, 103, 120, 160, 124), ["inverter", "battery"]);
        assert.deepEqual(classes(1, 203), ["meter"]);
        assert.deepEqual(classes(1, 160), ["mppt"]);
        assert.deepEqual(classes(1, 307, 302), ["weather"]);
        assert.deepEqual(classes(1, 601), ["tracker"]);
        assert.deepEqual(classes(1, 701, 713, 714), ["inverter", "battery"]);
        assert.deepEqual(classes(1, 64_000), []);
        const rating = decodeModel(officialModels.get(120)!, encodeModel(officialModels.get(120)!, { WRtg: 8000, WRtg_SF: 0 }));
        assert.equal(ratingIn([rating]), 8000);
        assert.equal(ratingIn([]), undefined);
    });

    it("has only valid names that end in a unit or are states", () => {
        const seen = new Set<string>();
        for (const id of officialModels.ids()) {
            const def = officialModels.get(id)!;
            const bytes = Buffer.alloc(800, 1);
            bytes.writeUInt16BE(id, 0);
            bytes.writeUInt16BE(398, 2);
            for (const cls of classesOf([{ id }], shippedSources())) {
                const into = emptySample();
                for (const { extract } of bindModels(cls, [{ id }], () => def, FACTS, shippedSources())) extract(decodeModel(def, bytes), into);
                for (const point of [...Object.keys(into.values), ...Object.keys(into.bad), ...Object.keys(into.counters)]) seen.add(point);
            }
        }
        assert.ok(seen.size > 60);
        for (const point of seen) {
            assert.ok(isPointName(point), point);
            assert.ok(unitOf(point) !== undefined || /state$|alarms$/.test(point), point);
        }
        assert.ok(isCounter("dc_energy_charge_2_wh") && isCounter("mppt1_dc_energy_wh") && !isCounter("energy_capacity_wh"));
    });

    it("survives any bytes of any model", () => {
        const ids = [101, 103, 111, 113, 160, 203, 213, 302, 303, 307, 601, 701, 713, 714, 802, 803, 124];
        fc.assert(fc.property(fc.constantFrom(...ids), fc.uint8Array({ minLength: 4, maxLength: 400 }), (id, random) => {
            const bytes = Buffer.from(random);
            bytes.writeUInt16BE(id, 0);
            const def = officialModels.get(id)!;
            for (const cls of classesOf([{ id }], shippedSources())) {
                const into = emptySample();
                for (const { extract } of bindModels(cls, [{ id }], () => def, { ...FACTS, ratedW: 5000 }, shippedSources())) extract(decodeModel(def, bytes), into);
                derive(cls, into);
                for (const value of Object.values(into.values)) assert.ok(typeof value === "string" || Number.isFinite(value));
                for (const { wh } of Object.values(into.counters)) assert.ok(Number.isFinite(wh) && wh >= 0);
            }
        }), { numRuns: 2000 });
    });
});
