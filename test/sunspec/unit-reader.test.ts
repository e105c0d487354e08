import assert from "node:assert/strict";
import { EnergyBook } from "../../dist/common/energy.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import type { ModbusReader } from "../../dist/modbus/transport.js";
import { type UnitOptions, UnitReader } from "../../dist/sunspec/unit-reader.js";
import { ManualClock } from "../common/manual-clock.js";
import { faults } from "../modbus/fault-server.js";
import { addressOf, BATTERY, INVERTER, METER, type Models, mppts, named, put, RATING } from "./devices.js";
import { END, MARKER, model, SunSpecServer } from "./sunspec-server.js";

describe("reading a SunSpec unit", () => {
    let server: SunSpecServer;
    let link: ModbusReader;
    let clock: ManualClock;
    beforeEach(async () => {
        server = await SunSpecServer.start();
        link = server.link();
        clock = new ManualClock();
    });
    afterEach(() => server.stop());

    const unit = (options: Partial<UnitOptions> = {}, id = 1) =>
        new UnitReader(link, id, {
            site: "home", deviceClass: "auto", meterPositive: "auto", batteryPositive: "discharge", fullModels: false, maxGapMs: 60_000,
            energy: new EnergyBook(clock), clock, ...options,
        });

    /** The reading of a device; the slow models are read too. */
    const readingOf = async (reader: UnitReader, device: string): Promise<ReadingMessage> => {
        const { readings } = await reader.read(true);
        const found = readings.find(({ reading }) => reading.device === device);
        assert.ok(found, `no reading of ${device} among ${readings.map(({ topic }) => topic).join()}`);
        return found;
    };

    it("gives an inverter's reading", async () => {
        put(server, 1, [named("34-119"), [103, INVERTER], [120, RATING], [160, mppts(2000, 2380)]]);
        const { topic, payload, timestamp, reading } = await readingOf(unit(), "fronius-34-119");
        assert.equal(topic, "home/fronius-34-119");
        assert.equal(timestamp, clock.now());
        assert.deepEqual(reading, { site: "home", device: "fronius-34-119", class: "inverter", seq: 0, quality: "good" });
        assert.equal(payload["ac_power_w"], 4210);
        assert.equal(payload["mppt2_dc_power_w"], 2380);
        assert.equal(payload["ac_energy_export_wh"], 812_345);
    });

    it("splits a unit at its common models, and knows SolarEdge's sign", async () => {
        put(server, 1, [named("7E1234", "SolarEdge"), [103, INVERTER], named("0606", "WattNode"), [203, METER]]);
        put(server, 2, [named("0707", "SolarEdge"), [203, METER]]);
        const reader = unit();
        assert.equal((await readingOf(reader, "solaredge-7e1234")).reading.class, "inverter");
        assert.equal((await readingOf(reader, "wattnode-0606")).payload["ac_power_w"], 2000);
        assert.deepEqual(reader.devices.map(({ name, index, models }) => [name, index, models]), [
            ["solaredge-7e1234", 0, [1, 103]],
            ["wattnode-0606", 1, [1, 203]],
        ]);
        assert.equal((await readingOf(unit({}, 2), "solaredge-0707")).payload["ac_power_w"], -2000);
    });

    it("gives a hybrid's battery a reading of its own, and none where there is no battery", async () => {
        put(server, 1, [named("H1"), [103, INVERTER], [802, BATTERY]]);
        const { reading, payload } = await readingOf(unit(), "fronius-h1-battery");
        assert.equal(reading.class, "battery");
        assert.equal(payload["soc_pct"], 63.5);
        put(server, 1, [named("H1"), [103, INVERTER], [124, {}]]);
        const { readings } = await unit().read(true);
        assert.deepEqual(readings.map(({ reading: { device } }) => device), ["fronius-h1"]);
    });

    it("at night leaves out what the device does not give: no zero, no old value", async () => {
        put(server, 1, [named("N"), [103, INVERTER], [160, mppts(2000)]]);
        const reader = unit();
        await reader.read(true);
        put(server, 1, [named("N"), [103, { St: "SLEEPING", Evt1: 0 }], [160, { N: 1, module: [{}] }]]);
        const { payload, reading } = await readingOf(reader, "fronius-n");
        assert.deepEqual(payload, { state: "SLEEPING", alarms: "" });
        assert.equal(reading.quality, "good");
        assert.equal(reading.bad?.["ac_power_w"], "missing");
        assert.equal(reading.bad?.["ac_energy_export_wh"], "missing");
        put(server, 1, [named("N"), [103, {}], [160, { N: 1, module: [{}] }]]);
        const asleep = await readingOf(reader, "fronius-n");
        assert.deepEqual([asleep.payload, asleep.reading.quality], [{}, "uncertain"]);
        put(server, 1, [named("N"), [103, { ...INVERTER, WH: 812_400 }], [160, mppts(2000)]]);
        const morning = await readingOf(reader, "fronius-n");
        assert.deepEqual([morning.payload["ac_energy_export_wh"], morning.reading.bad], [812_400, undefined]);
    });

    it("refuses a frame of zeros: no power of 0, no counter reset", async () => {
        const models: Models = [named("Z"), [103, INVERTER]];
        put(server, 1, models);
        const reader = unit();
        await reader.read(true);
        const zeros = server.units.get(1)!;
        const at = addressOf(models, 103);
        for (let address = at + 2; address < at + 52; address++) zeros.set(address, 0);
        const { payload, reading } = await readingOf(reader, "fronius-z");
        assert.deepEqual(payload, {});
        assert.equal(reading.quality, "bad");
        assert.equal(reading.bad?.["ac_power_w"], "decode");
        put(server, 1, models);
        const after = await readingOf(reader, "fronius-z");
        assert.deepEqual([after.payload["ac_energy_export_wh"], after.reading.quality], [812_345, "good"]);
    });

    it("goes on with the other models when the device refuses one", async () => {
        const models: Models = [named("R"), [103, INVERTER], [160, mppts(2000)]];
        put(server, 1, models);
        const reader = unit();
        await reader.read(true);
        server.server.otherwise = (asked, peer) => (asked.address === addressOf(models, 160) ? faults.exception(4) : faults.right)(asked, peer);
        const { readings, fault } = await reader.read(true);
        assert.equal(fault?.code, "MODBUS_EXCEPTION");
        assert.equal(readings[0]?.payload["ac_power_w"], 4210);
        assert.ok(!("mppt1_dc_power_w" in readings[0].payload));
        assert.equal(readings[0].reading.bad?.["mppt1_dc_power_w"], "comm");
        assert.equal(readings[0].reading.quality, "uncertain");
    });

    it("rejects when the unit does not answer, and tells of every point it had", async () => {
        put(server, 1, [named("L"), [203, METER]]);
        link = server.link({ timeoutMs: 50 });
        const reader = unit();
        assert.deepEqual(reader.lost(), [], "nothing is known yet");
        await reader.read(true);
        server.units.delete(1);
        await assert.rejects(reader.read(true), { code: "MODBUS_TIMEOUT" });
        const [told] = reader.lost();
        assert.deepEqual([told?.topic, told?.payload, told?.reading.quality, told?.reading.bad?.["ac_power_w"]], ["home/fronius-l", {}, "bad", "comm"]);
        assert.equal(told?.reading.bad?.["ac_energy_import_wh"], "comm");
    });

    it("follows a device whose registers move while it runs", async () => {
        const models: Models = [named("M"), [714, { NPrt: 1, DCW_SF: 0, Prt: [{ PrtTyp: "PV", DCW: 5 }] }], [103, INVERTER]];
        put(server, 1, models);
        const reader = unit();
        await reader.read(true);
        put(server, 1, [models[0]!, [714, { NPrt: 3, DCW_SF: 0, Prt: [{}, {}, {}] }], [103, { ...INVERTER, W: 1500 }]]);
        const { payload, reading } = await readingOf(reader, "fronius-m");
        assert.deepEqual([payload["ac_power_w"], reading.quality], [1500, "good"]);
    });

    it("never puts another device's values under the old name", async () => {
        put(server, 1, [named("OLD"), [103, INVERTER]]);
        const reader = unit();
        await reader.read(true);
        put(server, 1, [named("NEW"), [103, { ...INVERTER, W: 10 }]]);
        reader.invalidate();
        const { readings } = await reader.read(false);
        assert.deepEqual(readings.map(({ topic, payload }) => [topic, payload["ac_power_w"]]), [["home/fronius-new", 10]]);
    });

    describe("energy", () => {
        const energy = async (reader: UnitReader, values: object) => {
            clock.advance(5000);
            put(server, 1, [named("E"), [103, { ...INVERTER, ...values }], [120, RATING]]);
            const { payload, reading } = await readingOf(reader, "fronius-e");
            return [payload["ac_energy_export_wh"], reading.bad?.["ac_energy_export_wh"], reading.quality];
        };

        it("survives rollover, reset and misread, and says so", async () => {
            const reader = unit();
            const end = 2 ** 32;
            assert.deepEqual(await energy(reader, { WH: end - 6 }), [end - 6, undefined, "good"]);
            assert.deepEqual(await energy(reader, { WH: 10 }), [end + 10, undefined, "good"]);
            assert.deepEqual(await energy(reader, { WH: 20 }), [end + 20, undefined, "good"]);
            assert.deepEqual(await energy(reader, { WH: 500_000_000 }), [undefined, "range", "uncertain"], "8 kW cannot make 500 MWh in 5 s");
            assert.deepEqual(await energy(reader, { WH: 22 }), [end + 22, undefined, "good"]);
            assert.deepEqual(await energy(reader, { WH: 3 }), [end + 25, "reset", "uncertain"]);
            assert.deepEqual(await energy(reader, { WH: 8 }), [end + 30, undefined, "good"]);
        });

        it("keeps a given name's total when the device is replaced", async () => {
            const reader = unit({ chosen: [{ device: 0, name: "roof" }] });
            const total = async (serial: string, WH: number) => {
                clock.advance(5000);
                put(server, 1, [named(serial), [103, { ...INVERTER, WH }]]);
                reader.invalidate();
                const { payload, reading } = await readingOf(reader, "roof");
                return [payload["ac_energy_export_wh"], reading.bad?.["ac_energy_export_wh"]];
            };
            assert.deepEqual(await total("A", 1000), [1000, undefined]);
            assert.deepEqual(await total("A", 1010), [1010, undefined]);
            assert.deepEqual(await total("B", 500_000), [1010, "reset"]);
            assert.deepEqual(await total("B", 500_007), [1017, undefined]);
        });

        it("is integrated from a battery's power, not across a long gap, and marked", async () => {
            const reader = unit();
            const step = async (ms: number, W: number) => {
                clock.advance(ms);
                put(server, 1, [named("B"), [802, { ...BATTERY, W }]]);
                const { payload, reading } = await readingOf(reader, "fronius-b");
                assert.equal(reading.bad?.["dc_energy_charge_wh"], "estimated");
                assert.equal(reading.quality, "good");
                return [payload["dc_energy_discharge_wh"], payload["dc_energy_charge_wh"]];
            };
            assert.deepEqual(await step(0, 3600), [0, 0]);
            assert.deepEqual(await step(10_000, 3600), [10, 0]);
            assert.deepEqual(await step(10_000, -3600), [12.5, 2.5], "half of it on either side of zero");
            assert.deepEqual(await step(60_001, -3600), [12.5, 2.5], "a gap is not bridged");
            assert.deepEqual(await step(1000, -3600), [12.5, 3.5]);
        });

        it("comes from counters where the battery has them", async () => {
            const ports = [{ PrtTyp: "ESS", DCW: -1200, DCWhInj: 700, DCWhAbs: 900 }];
            put(server, 1, [named("C"), [701, { ACType: "THREE_PHASE", W: 1, W_SF: 0 }], [713, { SoC: 55, Pct_SF: 0 }], [714, { NPrt: 1, DCW_SF: 0, DCWH_SF: 0, Prt: ports }]]);
            const { payload, reading } = await readingOf(unit(), "fronius-c-battery");
            assert.deepEqual([payload["dc_energy_discharge_wh"], payload["dc_energy_charge_wh"], reading.bad], [700, 900, undefined]);
        });
    });

    it("reads slow models in the slow group only", async () => {
        const models: Models = [named("S"), [802, BATTERY], [803, { NStr: 0, NStrCon: 0, ModTmpMax: 31, ModTmp_SF: 0, CellV_SF: 0, A_SF: 0, SoC_SF: 0 }]];
        put(server, 1, models);
        const reader = unit();
        assert.equal((await readingOf(reader, "fronius-s")).payload["module_temperature_max_c"], 31);
        server.server.asked.length = 0;
        const { readings } = await reader.read(false);
        assert.equal(readings[0]?.payload["soc_pct"], 63.5);
        assert.ok(!("module_temperature_max_c" in readings[0].payload) && readings[0].reading.bad?.["module_temperature_max_c"] === undefined);
        assert.deepEqual(server.server.asked.map(({ address }) => address), [addressOf(models, 802)], "one request");
    });

    it("lets through what was chosen", async () => {
        put(server, 1, [named("A"), [103, INVERTER], [802, BATTERY], named("B"), [203, METER]]);
        const topics = async (options: Partial<UnitOptions>) => (await unit(options).read(true)).readings.map(({ topic }) => topic);
        assert.deepEqual(await topics({}), ["home/fronius-a", "home/fronius-a-battery", "home/fronius-b"]);
        assert.deepEqual(await topics({ chosen: [{ device: 1, name: "" }] }), ["home/fronius-b"]);
        assert.deepEqual(await topics({ chosen: [{ device: 0, name: "roof" }] }), ["home/roof", "home/roof-battery"]);
        assert.deepEqual(await topics({ deviceClass: "battery" }), ["home/fronius-a-battery"]);
        assert.deepEqual(await topics({ deviceClass: "tracker" }), []);
    });

    it("adds every model in full, as JSON can carry it", async () => {
        const big = 2n ** 63n + 1n;
        put(server, 1, [
            named("F"),
            [701, { ACType: "THREE_PHASE", InvSt: "RUNNING", W: 5, W_SF: 0, TotWhInj: big, TotWh_SF: 0, Alrm: 0b1001 }],
            [714, { NPrt: 1, DCW_SF: 0, Prt: [{ PrtTyp: "PV", DCW: 7, IDStr: "east" }] }],
            [122, {}],
        ]);
        const { readings } = await unit({ fullModels: true }).read(true);
        const models = JSON.parse(JSON.stringify(readings[0]?.["sunspec"])) as { id: number; name: string; values: Record<string, unknown> }[];
        assert.deepEqual(models.map(({ id }) => id).toSorted((a, b) => a - b), [1, 122, 701, 714]);
        const [der, dc] = [701, 714].map((id) => models.find((one) => one.id === id)!);
        assert.deepEqual(
            [der!.name, der!.values["InvSt"], der!.values["TotWhInj"], der!.values["Alrm"], "W_SF" in der!.values],
            ["DERMeasureAC", "RUNNING", String(big), ["GROUND_FAULT", "DC_DISCONNECT"], false],
        );
        assert.deepEqual(dc!.values["Prt"], [{ PrtTyp: "PV", DCW: 7, IDStr: "east" }]);
        assert.equal(readings[0]?.["sunspec"] !== undefined && (await unit().read(true)).readings[0]?.["sunspec"], undefined);
    });

    it("in full shows devices of no class too", async () => {
        put(server, 1, [named("G"), [126, {}]]);
        assert.deepEqual((await unit().read(true)).readings, []);
        const { readings } = await unit({ fullModels: true }).read(true);
        assert.deepEqual(readings.map(({ topic, reading }) => [topic, reading.class]), [["home/fronius-g", "generic"]]);
    });

    it("in full says what of a model does not fit together", async () => {
        server.put(1, 40_000, MARKER, model(1, named("H")[1]), model(160, mppts(1, 2), 8 + 2 * 20 + 5), END);
        const { readings } = await unit({ fullModels: true }).read(true);
        const models = readings[0]?.["sunspec"] as { id: number; warnings?: string[] }[];
        assert.deepEqual(models.map(({ id, warnings }) => [id, warnings?.[0]]), [[160, "5 registers do not fill another module of 20."], [1, undefined]]);
    });

    it("marks what a simulator made", async () => {
        put(server, 1, [named("SIM", "WattLedger", { Opt: "SIMULATED" }), [203, METER]]);
        assert.equal((await readingOf(unit(), "wattledger-sim")).reading.simulated, true);
    });

    it("holds powers against the device's rating", async () => {
        put(server, 1, [named("P"), [103, { ...INVERTER, W: 30_000 }], [120, RATING]]);
        const { payload, reading } = await readingOf(unit(), "fronius-p");
        assert.ok(!("ac_power_w" in payload));
        assert.equal(reading.bad?.["ac_power_w"], "range");
    });

    it("survives registers full of noise", async () => {
        const length = 50;
        const registers = Array.from({ length: 400 }, (_, i) => (i * 7919 + 13) & 0xffff);
        const noise = Buffer.alloc((length + 2) * 2);
        for (let round = 0; round < 50; round++) {
            for (let i = 0; i < length + 2; i++) noise.writeUInt16BE(registers[(i * (round + 1)) % registers.length]!, i * 2);
            noise.writeUInt16BE(103, 0);
            noise.writeUInt16BE(length, 2);
            server.put(1, 40_000, MARKER, model(1, named("Q")[1]), noise, END);
            const { readings } = await unit().read(true);
            for (const value of Object.values(readings[0]?.payload ?? {})) assert.ok(typeof value === "string" || Number.isFinite(value));
        }
    });
});
