import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import type { MapChoice, MapView, Preview } from "../../dist/modbus/inspect.js";
import { helper } from "../node-red.js";
import { faults } from "./fault-server.js";
import { MapRig } from "./map-rig.js";
import { SITE } from "./reader-rig.js";
import { METER_MAP, meterWords } from "./meter.js";

describe("the dialog of wl-modbus asks", () => {
    const rig = new MapRig();
    const start = () => rig.start([SITE]);
    const link = (more: object = {}) => ({ host: "127.0.0.1", port: String(rig.server.port), timeoutMs: "500", ...more });
    const pasted = (more: object = {}) => ({ map: "paste", mapText: METER_MAP, ...more });

    it("which maps there are, also those of the user's folder, and none of another protocol", async () => {
        const folder = path.join(rig.userDir, "wattledger", "pointmaps");
        mkdirSync(folder, { recursive: true });
        writeFileSync(path.join(folder, "test-meter.yaml"), METER_MAP);
        writeFileSync(path.join(folder, "broken.yaml"), "schema: pointmap/1\nid: [");
        writeFileSync(path.join(folder, "foreign.yaml"), METER_MAP.replace("protocol: modbus", "protocol: mqtt").replace("id: test-meter", "id: foreign"));
        await start();
        const { status, body } = await rig.post<{ maps: MapChoice[] }>("maps", {});
        assert.equal(status, 200);
        const own = body.maps.filter(({ origin }) => origin === "user");
        assert.deepEqual(own, [
            { id: "broken", class: "faulty", vendor: "", models: [], origin: "user" },
            { id: "test-meter", class: "meter", vendor: "Acme", models: ["M1"], origin: "user" },
        ]);
        assert.ok(body.maps.some(({ id, class: cls, origin }) => id === "eastron-sdm630" && cls === "meter" && origin === "shipped"));
        const { body: broken } = await rig.post<{ faults: { line: number }[] }>("map", { map: "broken" });
        assert.equal(broken.faults[0]!.line, 2);
    });

    it("what a map says and how it is read over the link", async () => {
        await start();
        const { body } = await rig.post<MapView>("map", pasted({ link: link() }));
        assert.deepEqual([body.vendor, body.models, body.verified, body.points, body.units, body.deviceName], ["Acme", ["M1"], "document", 8, [1], "test-meter-u1"]);
        assert.deepEqual(body.groups, [{ name: "fast", everyS: 0.2, points: 6 }, { name: "slow", everyS: 0.4, points: 2 }]);
        const requests = (view: MapView) => view.plan.map(({ names, everyS, requests: all }) => [names.join(), everyS, ...all.map(({ address, quantity, cut }) => `${address}+${quantity}${cut ? ` ${cut}` : ""}`)]);
        assert.deepEqual(requests(body), [["fast", 0.2, "0+8"], ["slow", 0.4, "10+11"]]);
        const serial = { transport: "rtu", path: "/dev/ttyUSB0", baud: "9600" };
        const { body: slow } = await rig.post<MapView>("map", pasted({ link: serial, periods: { slow: "0.2" } }));
        assert.deepEqual(requests(slow), [["fast,slow", 0.2, "0+21"]]);
        assert.ok(slow.plan[0]!.ms > body.plan[0]!.ms);
        const { body: short } = await rig.post<MapView>("map", pasted({ link: link({ maxRegisters: "4" }) }));
        assert.deepEqual(requests(short)[0], ["fast", 0.2, "0+4 limit", "4+4"]);
        assert.equal(rig.server.connections, 0, "no device is asked");
        const { body: own } = await rig.post<MapView>("map", pasted({ mapText: METER_MAP.replace("scale: 0.01, valid", "scale: 0.01, deadband: {abs: 0.05, max_age: 5m}, valid") }));
        assert.deepEqual([body.deadbands, own.deadbands], [[], ["ac_frequency_hz 0.05 Hz, at least every 300 s"]]);
    });

    it("what the running node has learned of the device, and plans around it", async () => {
        rig.units.get(1)!.delete(6);
        rig.units.set(2, meterWords());
        await rig.load({ units: "1-2" });
        await rig.shows("yellow 1 of 2 devices");
        const ask = (more: object) => rig.post<MapView>("map", pasted({ link: link(), id: "reader", units: "1-2", ...more }));
        const { body } = await ask({});
        assert.deepEqual([body.chosen, body.unit, body.plan[0]!.requests.map(({ address, quantity }) => [address, quantity])], [[1, 2], 1, [[0, 6], [7, 1]]]);
        assert.equal(body.learned?.length, 1);
        assert.match(body.learned[0]!, /^holding 6 \(state\) is left out: Unit 1 has no such address.* \(exception 2, holding 6\+1\)\.$/);
        assert.equal(body.plan[0]!.requests[0]!.cut, "hole");
        const { body: second } = await ask({ unit: "2" });
        assert.deepEqual([second.unit, second.learned, second.plan[0]!.requests.length], [2, [], 1]);
        const { body: elsewhere } = await ask({ link: link({ host: "localhost" }) });
        assert.deepEqual([elsewhere.learned, elsewhere.plan[0]!.requests.length], [undefined, 1], "that of another endpoint is another device");
        const { body: unknown } = await ask({ id: "none", unit: "77" });
        assert.deepEqual([unknown.learned, unknown.unit], [undefined, 1]);
    });

    it("what a chosen one of several units says now", async () => {
        rig.units.set(2, meterWords().set(3, 1000));
        await start();
        const read = async (unit: string) => {
            const { body } = await rig.post<Preview>("preview", pasted({ link: link(), units: "1-2", unit }));
            return [body.unit, body.rows.find(({ point }) => point === "ac_power_w")!.value];
        };
        assert.deepEqual([await read("2"), await read("1"), await read("9"), await read("")], [[2, -1000], [1, -2500], [1, -2500], [1, -2500]]);
    });

    it("what is wrong with a map, line by line", async () => {
        await start();
        const { status, body } = await rig.post<{ faults: { line: number; message: string }[] }>("map", pasted({ mapText: METER_MAP.replace("kind: ", "").replace("°C", "K").replace("is: [1648", "is: [x, 1648").replace("meter\nvendor", "mete\nvendor") }));
        assert.equal(status, 200);
        assert.match(body.faults[0]!.message, /"mete" is not known: did you mean "meter"\?/);
        assert.equal(body.faults[0]!.line, 4);
        const { body: torn } = await rig.post<{ faults: { message: string }[] }>("map", pasted({ link: link({ maxRegisters: "1" }) }));
        assert.match(torn.faults[0]!.message, /longer than the 1 registers of one read/);
        const { body: none } = await rig.post<{ faults: { message: string }[] }>("map", { map: "no-such" });
        assert.match(none.faults[0]!.message, /There is no point map "no-such"/);
    });

    it("for a map's text, to be edited, and for no other file", async () => {
        await start();
        const { body } = await rig.post<{ text: string }>("map", { map: "eastron-sdm630", copy: true });
        assert.match(body.text, /^schema: pointmap\/1\n/);
        const { status, body: refused } = await rig.post("map", { map: "../../package", copy: true });
        assert.deepEqual([status, refused.code], [400, "POINTMAP_NOT_FOUND"]);
    });

    it("what the device says now: values beside their registers, through a link that is not deployed", async () => {
        rig.units.get(1)!.set(20, 0x7fff);
        rig.units.get(1)!.set(1, 6600);
        await start();
        const { status, body } = await rig.post<Preview>("preview", pasted({ link: link() }));
        assert.equal(status, 200, body.message);
        const row = (point: string) => body.rows.find((one) => one.point === point);
        assert.equal(body.rows.length, 8);
        // A frequency that cannot be: nothing of the answer is believed, the registers are shown all the same.
        assert.deepEqual(row("ac_power_w"), { point: "ac_power_w", unit: "W", table: "holding", address: 2, raw: "0000 09c4", bad: "decode" });
        assert.match(body.warning ?? "", /Unit 1 answers, but sends nothing that can be true for a Acme M1/);
        rig.units.get(1)!.set(1, 5001);
        const { body: right } = await rig.post<Preview>("preview", pasted({ link: link() }));
        assert.deepEqual(right.rows.slice(5), [
            { point: "alarms", value: "overvoltage,phase_loss", table: "holding", address: 7, raw: "0009" },
            { point: "ac_energy_import_wh", value: 7000, unit: "Wh", table: "holding", address: 10, raw: "0000 0007" },
            { point: "cabinet_temperature_c", unit: "°C", table: "holding", address: 20, raw: "7fff", bad: "missing" },
        ]);
        await rig.disconnected();
    });

    it("and is told in a sentence why not", async () => {
        await start();
        rig.units.get(1)!.delete(30);
        const { status, body } = await rig.post("preview", pasted({ link: link() }));
        assert.deepEqual([status, body.code], [400, "MODBUS_WRONG_DEVICE"]);
        assert.match(body.message ?? "", /it refuses holding 30\. Check the unit id and the device map\.$/);
        rig.server.otherwise = faults.silent;
        assert.equal((await rig.post("preview", pasted({ link: link({ timeoutMs: "60" }) }))).body.code, "MODBUS_TIMEOUT");
        for (const wrong of [{}, { map: "paste" }, pasted(), pasted({ link: { host: { a: 1 } } }), pasted({ units: "x", link: link() })]) {
            const answer = await rig.post("preview", wrong);
            assert.equal(answer.status, 400, JSON.stringify(wrong));
            assert.match(answer.body.code ?? "", /^CONFIG_/);
        }
    });

    it("while the link is in use, and disturbs no poll", async () => {
        await rig.load();
        await rig.next();
        const { body } = await rig.post<Preview>("preview", pasted({ link: link() }));
        assert.equal(body.rows.length, 8);
        assert.equal(rig.server.connections, 1);
        const asked = rig.next();
        helper.getNode("reader").receive({ payload: "now" });
        assert.equal((await asked).reading.quality, "good");
        assert.deepEqual(rig.server.violations, []);
    });

    it("whatever it asks, it is answered", async () => {
        await start();
        const broken = fc.tuple(fc.nat(METER_MAP.length), fc.string({ maxLength: 8 })).map(([at, junk]) => METER_MAP.slice(0, at) + junk + METER_MAP.slice(at + 1));
        const junk = fc.oneof(fc.constantFrom("paste", "", "../..", "${HOME}", "__proto__"), broken, fc.string(), fc.integer(), fc.constant(null), fc.boolean(), fc.array(fc.string(), { maxLength: 2 }), fc.object({ maxDepth: 1 }));
        const body = fc.record({ map: junk, mapText: junk, units: junk, periods: junk, deviceName: junk, link: fc.oneof(junk, fc.constant({ host: "127.0.0.1", port: 1 })), copy: junk }, { requiredKeys: [] });
        await fc.assert(
            fc.asyncProperty(fc.constantFrom("maps", "map"), body, async (route, asked) => {
                const { status, body: answer } = await rig.post<object>(route, asked);
                assert.ok(status === 200 || (status === 400 && typeof answer.message === "string" && !/undefined|is not a function|Cannot read/.test(answer.message)), JSON.stringify(answer));
            }),
            { numRuns: 150 },
        );
    });

    it("only for those who may edit", async () => {
        await start();
        assert.deepEqual(rig.permissions.filter((permission) => permission === "wl-modbus.write").length, 3);
    });
});
