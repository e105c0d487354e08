import assert from "node:assert/strict";
import fc from "fast-check";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { helper } from "../node-red.js";
import { faults } from "./fault-server.js";
import { MapRig, TYPES } from "./map-rig.js";
import type { FlowNode } from "./reader-rig.js";
import { METER_MAP, meterWords } from "./meter.js";

const IDENTITY = 30;

describe("wl-modbus in trouble", () => {
    const rig = new MapRig();
    /** Long enough for a busy machine: a status that is waited for must not tell of skipped polls. */
    const calm = { periods: { fast: "1", slow: "2" } };
    const pollNow = () => helper.getNode("reader").receive({ payload: "now" });
    const good = ({ reading }: ReadingMessage) => reading.quality === "good";

    it("sends nothing of another device than the map's, says so once, and goes on when it is the right one", async () => {
        rig.units.get(1)!.set(IDENTITY, 5);
        await rig.load(calm);
        let sent = 0;
        helper.getNode("out").on("input", () => sent++);
        const caught = rig.caught();
        await rig.shows("red wrong device");
        for (let i = 0; i < 2; i++) {
            const asked = rig.server.nextRequest();
            pollNow();
            assert.equal((await asked).address, IDENTITY, "nothing else is asked");
        }
        assert.equal(sent, 0);
        assert.deepEqual(caught.map(({ error }) => error.code), ["MODBUS_WRONG_DEVICE"]);
        assert.equal(caught[0]!.error.message, "Unit 1 is no Acme M1 (map test-meter): holding 30 is 5 and should be 1648 or 1649. Check the unit id and the device map.");
        rig.units.get(1)!.set(IDENTITY, 1649);
        const back = rig.next(good);
        // The poll that is under way may still have the old answer.
        const asking = setInterval(pollNow, 50);
        await back;
        clearInterval(asking);
        await rig.shows("green 1 device");
        assert.equal(caught.length, 1);
    });

    it("looks again who the device is after the connection was lost", async () => {
        await rig.load();
        await rig.next();
        const caught = rig.caught();
        const told = rig.next<(typeof caught)[number]>(({ error }) => error.code === "MODBUS_WRONG_DEVICE", "caught");
        const lost = rig.next(({ reading }) => reading.quality === "bad");
        rig.units.get(1)!.set(IDENTITY, 5);
        await rig.server.stop();
        await rig.shows("red no connection");
        await rig.server.listen();
        const { payload, reading } = await lost;
        assert.deepEqual([payload, reading.bad?.["ac_power_w"]], [{}, "comm"]);
        await rig.shows("red wrong device");
        // Where no poll fell into the outage, the first wrong answer is a mishap and the second is told of.
        await told;
        assert.deepEqual(caught.map(({ error }) => error.code).filter((code) => code !== "MODBUS_TIMEOUT"), ["MODBUS_CLOSED", "MODBUS_WRONG_DEVICE"]);
    });

    it("tells of a silent unit once, and goes on with the others", async () => {
        rig.units.set(2, meterWords());
        await rig.load({ units: "1-2", ...calm }, { timeoutMs: 60 });
        await rig.next(({ topic }) => topic === "home/test-meter-u2");
        const caught = rig.caught();
        rig.units.delete(2);
        const asking = setInterval(pollNow, 100);
        const bad = await rig.next(({ reading }) => reading.quality === "bad");
        assert.deepEqual([bad.topic, bad.payload], ["home/test-meter-u2", {}]);
        await rig.shows("yellow 1 of 2 devices");
        await rig.next(({ topic }) => topic === "home/test-meter-u1");
        assert.deepEqual(caught.map(({ error }) => error.code), ["MODBUS_TIMEOUT"]);
        assert.match(caught[0]!.error.message, /[Uu]nit 2/);
        rig.units.set(2, meterWords());
        const back = await rig.next((msg) => msg.topic === "home/test-meter-u2" && good(msg));
        clearInterval(asking);
        assert.equal(back.payload["ac_power_w"], -2500);
        assert.equal(caught.length, 1);
    });

    it("looks who it is when a unit was silent: devices on a bus are exchanged", async () => {
        await rig.load({}, { timeoutMs: 60 });
        await rig.next(good);
        const caught = rig.caught();
        const told = rig.next<(typeof caught)[number]>(({ error }) => error.code === "MODBUS_WRONG_DEVICE", "caught");
        rig.units.delete(1);
        const asking = setInterval(pollNow, 100);
        await rig.next(({ reading }) => reading.quality === "bad");
        rig.units.set(1, meterWords().set(IDENTITY, 5));
        let sent = 0;
        helper.getNode("out").on("input", () => sent++);
        await rig.shows("red wrong device");
        clearInterval(asking);
        assert.equal(sent, 0);
        await told;
        assert.deepEqual(caught.map(({ error }) => error.code).filter((code) => code !== "MODBUS_CLOSED"), ["MODBUS_TIMEOUT", "MODBUS_WRONG_DEVICE"]);
    });

    it("reads around registers that the device refuses, and says which points are missing", async () => {
        for (const address of [6, 20]) rig.units.get(1)!.delete(address);
        await rig.load();
        const caught = rig.caught();
        await rig.shows("yellow 6 of 8 points");
        const { payload, reading } = await rig.next((msg) => "ac_energy_import_wh" in msg.payload);
        assert.deepEqual(Object.keys(payload).toSorted(), ["ac_current_l1_a", "ac_energy_import_wh", "ac_frequency_hz", "ac_power_w", "ac_voltage_l1_v", "alarms"]);
        assert.deepEqual([payload["alarms"], reading.bad, reading.quality], ["overvoltage,phase_loss", { state: "comm", cabinet_temperature_c: "comm" }, "uncertain"]);
        assert.ok(caught.length <= 1);
        rig.server.asked.length = 0;
        for (let i = 0; i < 4; i++) await rig.next();
        assert.ok(rig.server.asked.every(({ address, quantity }) => address > 6 || address + quantity <= 6), "what is refused is not asked for again");
    });

    it("believes no answer of zeros, nor one that is shifted", async () => {
        await rig.load();
        await rig.next(good);
        const caught = rig.caught();
        const words = rig.units.get(1)!;
        for (let address = 0; address < IDENTITY; address++) words.set(address, 0);
        const zeros = await rig.next(({ reading }) => reading.bad !== undefined && "ac_energy_import_wh" in reading.bad);
        assert.deepEqual([zeros.payload, zeros.reading.quality], [{}, "bad"]);
        assert.deepEqual([...new Set(Object.values(zeros.reading.bad!))], ["decode"]);
        await rig.shows("yellow 0 of 8 points");
        assert.deepEqual(caught.map(({ error }) => error.code), ["MODBUS_IMPLAUSIBLE"]);
        const right = meterWords();
        for (let address = 0; address < IDENTITY; address++) words.set(address, right.get(address + 1)!);
        const shifted = await rig.next(({ reading }) => "state" in (reading.bad ?? {}));
        assert.deepEqual(shifted.payload, {});
        for (const [address, word] of right) words.set(address, word);
        const back = await rig.next((msg) => good(msg) && "ac_energy_import_wh" in msg.payload);
        assert.equal(back.payload["ac_energy_import_wh"], 7000, "the counter never saw a zero");
        assert.equal(caught.length, 1);
    });

    it("takes an inverter of zeros, or without values, for one at night", async () => {
        const points = 'points:\n  ac_power_w: {address: 3, type: uint16, unit: W, invalid: [0xffff]}\n  ac_voltage_l1_v: {address: 0, type: uint16, unit: V, scale: 0.1, invalid: [0xffff], valid: [1, 500]}\n';
        const head = METER_MAP.slice(0, METER_MAP.indexOf("proof:")).replace("class: meter", "class: inverter").replace(/ {2}atomic.*\n/, "");
        await rig.load({ mapText: `${head}proof: [ac_voltage_l1_v]\ngroups: {fast: {every: 200ms}}\n${points}`, periods: {} });
        await rig.next(good);
        const caught = rig.caught();
        const words = rig.units.get(1)!;
        for (const [word, reason] of [[0, "decode"], [0xffff, "missing"]] as const) {
            for (const address of [0, 1, 2, 3]) words.set(address, word);
            const night = await rig.next(({ reading }) => reading.bad?.["ac_power_w"] === reason);
            assert.deepEqual(night.payload, {});
        }
        await rig.shows("grey 1 device, night");
        for (const [address, word] of meterWords()) words.set(address, word);
        await rig.next(good);
        assert.equal(caught.length, 0);
    });

    it("leaves out a jump that cannot be", async () => {
        await rig.load();
        await rig.next(good);
        // 1.3 GW
        rig.units.get(1)!.set(2, 0x4e20);
        const { payload, reading } = await rig.next(({ reading: { bad } }) => bad !== undefined);
        assert.deepEqual([payload["ac_power_w"], reading.bad, payload["ac_voltage_l1_v"]], [undefined, { ac_power_w: "range" }, 231.2]);
    });

    it("returns after the connection was lost, having told of it once", async () => {
        await rig.load();
        await rig.next();
        const caught = rig.caught();
        await rig.server.stop();
        await rig.shows("red no connection");
        rig.units.get(1)!.set(3, 1000);
        await rig.server.listen();
        assert.equal((await rig.next(good)).payload["ac_power_w"], -1000);
        assert.equal(caught.length, 1);
    });

    it("gives the device the pauses that its map asks for", async () => {
        await rig.load({ mapText: METER_MAP.replace("  unit_ids: [1]", "  unit_ids: [1]\n  min_interval_ms: 60\n  gaps: never").replace("  gaps: declared\n", "") });
        for (let i = 0; i < 6; i++) await rig.server.nextRequest();
        const times = rig.server.asked.map(({ at }) => at);
        for (const [i, at] of times.slice(1).entries()) assert.ok(at - times[i]! >= 50, `${at - times[i]!} ms apart`);
    });

    it("shares the connection through every kind of deploy", async () => {
        rig.units.set(2, meterWords());
        const second = { id: "reader2", z: "tab2", type: "wl-modbus", x: 0, y: 0, site: "site", link: "link", map: "paste", mapText: METER_MAP, units: "2", wires: [["out2"]] };
        const both = (fast: string): FlowNode[] => [
            ...rig.flow({ periods: { fast } }),
            { id: "tab2", type: "tab" },
            second,
            { id: "out2", z: "tab2", type: "helper", x: 0, y: 0, wires: [] },
        ];
        const running = () => Promise.all([rig.next(), rig.next(good, "out2")]);
        await helper.load(TYPES, both("0.2"));
        await running();
        assert.equal(rig.server.connections, 1);
        for (const [type, fast] of [["nodes", "0.25"], ["flows", "0.3"]] as const) {
            await helper.setFlows(both(fast), type);
            await running();
            assert.equal(rig.server.connections, 1, `${type}: the reader that did not change kept it`);
        }
        await helper.setFlows(both("0.35"), "full");
        await running();
        assert.equal(rig.server.live.size, 1);
        assert.deepEqual(rig.server.violations, []);
    });

    it("closes in time while the device does not answer", async () => {
        await rig.load({}, { timeoutMs: 60_000 });
        await rig.next();
        rig.server.otherwise = faults.silent;
        await rig.server.nextRequest();
        const started = performance.now();
        await helper.unload();
        assert.ok(performance.now() - started < 2000);
        await rig.disconnected();
    });

    it("no settings, however wrong, stop Node-RED", async () => {
        const object = fc.object({ maxDepth: 1, key: fc.stringMatching(/^[a-z]{1,8}$/) });
        const broken = fc.tuple(fc.nat(METER_MAP.length), fc.string({ maxLength: 12, unit: "binary" })).map(([at, junk]) => METER_MAP.slice(0, at) + junk + METER_MAP.slice(at + junk.length));
        const junk = fc.oneof(fc.string(), broken, fc.integer(), fc.double(), fc.constant(null), fc.boolean(), fc.array(fc.string(), { maxLength: 2 }), object);
        const keys = ["map", "mapText", "units", "deviceName", "periods", "rawValues", "perPoint", "byException", "deadband", "heartbeat", "site", "link"];
        await fc.assert(
            fc.asyncProperty(fc.dictionary(fc.constantFrom(...keys), junk, { maxKeys: 4 }), async (def) => {
                await helper.load(TYPES, JSON.parse(JSON.stringify(rig.flow(def, { port: 1 }))) as FlowNode[]);
                await helper.unload();
            }),
            { numRuns: 40 },
        );
    });
});
