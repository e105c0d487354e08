import assert from "node:assert/strict";
import { type Clock, systemClock } from "../../dist/common/clock.js";
import type { LinkMember } from "../../dist/modbus/link.js";
import { type DeviceMap, discover, walkUnit } from "../../dist/sunspec/discover.js";
import { type Behaviour, faults } from "../modbus/fault-server.js";
import { common, END, MARKER, model, SunSpecServer, unknown } from "./sunspec-server.js";

const ids = (map: DeviceMap) => map.devices.map((device) => device.models.map((found) => found.id));

/** Long enough for an answer on a busy machine, short enough to wait for silence. */
const SLOW = { timeoutMs: 300 };

describe("sunspec discovery", () => {
    let plant: SunSpecServer;
    beforeEach(async () => {
        plant = await SunSpecServer.start();
    });
    afterEach(() => plant.stop());

    for (const base of [40_000, 0, 50_000, 40_001, 39_999, 1, 50_001, 49_999]) {
        it(`finds the marker at ${base}`, async () => {
            plant.put(1, base, MARKER, common("S1"), model(103), END);
            const map = await walkUnit(plant.link(), 1);
            assert.equal(map.base, base);
            assert.deepEqual(ids(map), [[1, 103]]);
            assert.deepEqual(map.devices[0]!.identity, { manufacturer: "Maker", model: "M1", version: "1.2", serial: "S1", address: 7 });
            assert.equal(map.end, "end");
            assert.deepEqual(map.warnings, []);
        });
    }

    it("finds a marker that only shows in a read of three registers", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), END);
        plant.server.otherwise = (asked, peer) => (asked.address === 40_000 && asked.quantity === 2 ? faults.exception(2) : faults.right)(asked, peer);
        assert.equal((await walkUnit(plant.link(), 1)).base, 40_000);
    });

    it("does not take other registers for the marker", async () => {
        plant.put(1, 40_000, Buffer.from("53756e54", "hex"), common("S1"), END);
        await assert.rejects(walkUnit(plant.link(), 1), { code: "SUNSPEC_NOT_FOUND", message: /unit 1: it answers but has no SunSpec map/ });
    });

    it("asks a silent unit at the three bases only", async () => {
        await assert.rejects(walkUnit(plant.link({ timeoutMs: 20 }), 9), { code: "SUNSPEC_NOT_FOUND", message: /unit 9: it does not answer/ });
        assert.deepEqual(plant.server.asked.map((asked) => asked.address), [40_000, 0, 50_000]);
    });

    it("asks once where the gateway says that nobody is there", async () => {
        plant.server.otherwise = faults.exception(0x0b);
        await assert.rejects(walkUnit(plant.link(), 9), { code: "SUNSPEC_NOT_FOUND" });
        assert.equal(plant.server.asked.length, 1);
    });

    it("asks a busy device again", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), END);
        plant.server.script(faults.exception(6), faults.exception(5));
        const clock: Clock = { ...systemClock, sleep: async () => undefined };
        assert.equal((await walkUnit(plant.link(), 1, { clock })).base, 40_000);
    });

    it("skips a model without definition and keeps it for diagnostics", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), unknown(999, 37), model(103), END);
        const map = await walkUnit(plant.link(), 1);
        assert.deepEqual(ids(map), [[1, 999, 103]]);
        const [, found] = map.devices[0]!.models;
        assert.deepEqual(found, { device: 0, id: 999, ordinal: 0, address: 40_070, length: 37, known: false });
    });

    it("starts a logical device at every common model, with lengths 65 and 66", async () => {
        plant.put(1, 40_000, MARKER, common("INV", 65), model(103), common("MTR", 66), model(203), END);
        const map = await walkUnit(plant.link(), 1);
        assert.deepEqual(ids(map), [
            [1, 103],
            [1, 203],
        ]);
        assert.deepEqual(map.devices.map((device) => device.identity?.serial), ["INV", "MTR"]);
        assert.deepEqual(map.devices.map((device) => device.models.map((found) => found.address)), [
            [40_002, 40_069],
            [40_121, 40_189],
        ]);
    });

    it("walks models that come before any common model", async () => {
        plant.put(1, 40_000, MARKER, model(103), common("S1"), model(203), END);
        const map = await walkUnit(plant.link(), 1);
        assert.deepEqual(ids(map), [[103], [1, 203]]);
        assert.equal(map.devices[0]!.identity, undefined);
        assert.equal(map.devices[1]!.identity?.serial, "S1");
    });

    it("tells repeated ids apart", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(701), model(701), model(714, { Prt: [{}] }), model(701), END);
        const map = await walkUnit(plant.link(), 1);
        const found = map.devices[0]!.models.filter(({ id }) => id === 701);
        assert.deepEqual(found.map(({ ordinal }) => ordinal), [0, 1, 2]);
    });

    for (const [what, tail, beyond, end] of [
        ["an id 0 that can only be read alone", Buffer.alloc(2), undefined, "zero"],
        ["an end id that can only be read alone", END.subarray(0, 2), undefined, "end"],
        ["an end model with a length", Buffer.from("ffff0007", "hex"), undefined, "end"],
        ["exception 2 instead of an end model", Buffer.alloc(0), undefined, "refused"],
        ["silence instead of an end model", Buffer.alloc(0), faults.silent, "silent"],
    ] as [string, Buffer, Behaviour | undefined, string][]) {
        it(`ends at ${what}`, async () => {
            const parts = [MARKER, common("S1"), model(103)];
            const last = 40_000 + Buffer.concat(parts).length / 2;
            plant.put(1, 40_000, ...parts, tail);
            if (beyond) plant.server.otherwise = (asked, peer) => (asked.address >= last ? beyond : faults.right)(asked, peer);
            const map = await walkUnit(plant.link(SLOW), 1);
            assert.equal(map.end, end);
            assert.deepEqual(ids(map), [[1, 103]]);
            assert.equal(map.warnings.length, end === "end" ? 0 : 1);
        });
    }

    it("reads on where one answer is lost within the chain", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(103), model(160), END);
        plant.server.script(faults.right, faults.right, faults.silent);
        assert.deepEqual(ids(await walkUnit(plant.link(SLOW), 1)), [[1, 103, 160]]);
    });

    it("reads id and length one by one where a device refuses them together", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(103), END);
        plant.server.otherwise = (asked, peer) => (asked.quantity === 2 && asked.address > 40_000 ? faults.exception(2) : faults.right)(asked, peer);
        assert.deepEqual(ids(await walkUnit(plant.link(), 1)), [[1, 103]]);
    });

    it("walks a chain of 1300 registers", async () => {
        const models = Array.from({ length: 18 }, () => model(103));
        const long = [MARKER, common("S1"), ...models, unknown(64_001, 292), END];
        assert.equal(Buffer.concat(long).length / 2, 2 + 68 + 18 * 52 + 294 + 2);
        plant.put(1, 40_000, ...long);
        const map = await walkUnit(plant.link(), 1);
        assert.equal(map.devices[0]!.models.length, 20);
        assert.equal(map.end, "end");
    });

    it("gives up a chain of endlessly repeated registers", async () => {
        const registers = plant.server;
        plant.put(1, 0, MARKER);
        registers.registers = (_unit, address) => (address < 2 ? MARKER.readUInt16BE(address * 2) : 2);
        const map = await walkUnit(plant.link(), 1);
        assert.equal(map.end, "limit");
        assert.equal(map.devices[0]!.models.length, 100);
        assert.equal(new Set(map.devices[0]!.models.map((found) => found.address)).size, 100);
    });

    for (const [what, length] of [
        ["a length beyond the last address", 0],
        ["a model at the last address", 0xffff - 40_003],
    ] as const) {
        it(`ends at ${what}`, async () => {
            const huge = unknown(999, 0);
            huge.writeUInt16BE(0xfff0, 2);
            plant.put(1, 40_000, MARKER, unknown(998, length), huge, END);
            const map = await walkUnit(plant.link(), 1);
            assert.equal(map.end, "limit");
            assert.deepEqual(ids(map), [[998]]);
        });
    }

    it("goes on without a common model that cannot be read", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(103), END);
        plant.server.otherwise = (asked, peer) => (asked.address === 40_002 && asked.quantity > 2 ? faults.exception(4) : faults.right)(asked, peer);
        const map = await walkUnit(plant.link(), 1);
        assert.equal(map.devices[0]!.identity, undefined);
        assert.deepEqual(ids(map), [[1, 103]]);
        assert.match(map.warnings[0]!, /common model at 40002 cannot be read/);
    });

    it("stops when it is told to", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), END);
        const stop = new AbortController();
        const walk = walkUnit(plant.link(), 1, { signal: stop.signal });
        await plant.server.nextRequest();
        stop.abort();
        await assert.rejects(walk, { code: "MODBUS_ABORTED" });
    });

    it("walks a list of units and says why others were missed", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(103), END);
        plant.put(126, 40_000, MARKER, common("S2"), model(103), END);
        plant.put(3, 40_000, Buffer.alloc(8));
        const { found, missed } = await discover(plant.link(SLOW), [1, 3, 9, 126]);
        assert.deepEqual(found.map((map) => [map.unit, map.devices[0]!.identity?.serial]), [
            [1, "S1"],
            [126, "S2"],
        ]);
        assert.deepEqual(missed.map(({ unit, error }) => [unit, error.code]), [
            [3, "SUNSPEC_NOT_FOUND"],
            [9, "SUNSPEC_NOT_FOUND"],
        ]);
    });

    it("lists a device once that answers to any unit", async () => {
        for (const unit of [1, 2, 3]) plant.put(unit, 40_000, MARKER, common("S1"), model(103), END);
        plant.put(4, 40_000, MARKER, model(1), model(103), END);
        plant.put(5, 40_000, MARKER, model(1), model(103), END);
        const { found } = await discover(plant.link(), [1, 2, 3, 4, 5]);
        assert.deepEqual(found.map(({ unit }) => unit), [1, 4, 5]);
    });

    it("asks the units behind those found, when told to", async () => {
        for (const unit of [2, 3, 7]) plant.put(unit, 40_000, MARKER, common(`S${unit}`), model(103), END);
        plant.server.otherwise = (asked, peer) => (plant.units.has(asked.unit) ? faults.right : faults.exception(0x0b))(asked, peer);
        const units = async (options: object) => (await discover(plant.link(), [1, 2, 7], options)).found.map(({ unit }) => unit);
        assert.deepEqual(await units({}), [2, 7]);
        assert.deepEqual(await units({ neighbours: true }), [2, 3, 7]);
    });

    it("says which units it did not get to", async () => {
        plant.put(1, 40_000, MARKER, common("S1"), model(103), END);
        const enough = new AbortController();
        plant.server.once("request", () => enough.abort());
        const { found, left } = await discover(plant.link(), [1, 2, 3], { enough: enough.signal });
        assert.deepEqual([found.map(({ unit }) => unit), left], [[1], [2, 3]]);
    });

    describe("over a connection that breaks", () => {
        /** Waits for the link instead of the time. */
        const waitFor = (member: LinkMember): Clock => ({
            ...systemClock,
            sleep: async () => {
                for (let waits = 0; member.state.name !== "up" && waits < 400; waits++) await systemClock.sleep(5);
            },
        });

        it("goes on after a unit on which the device hangs up", async () => {
            plant.put(1, 40_000, MARKER, common("S1"), model(103), END);
            plant.server.otherwise = (asked, peer) => (asked.unit === 1 ? faults.right : faults.reset)(asked, peer);
            const member = plant.link();
            const { found, missed } = await discover(member, [9, 1], { clock: waitFor(member) });
            assert.equal(found[0]!.unit, 1);
            assert.deepEqual(missed.map(({ error }) => error.code), ["MODBUS_CLOSED"]);
        });

        it("says so when there is no connection at all", async () => {
            const member = plant.link();
            await plant.server.stop();
            const clock: Clock = { ...systemClock, sleep: async () => undefined };
            await assert.rejects(discover(member, [1], { clock }), { code: "MODBUS_CLOSED" });
            await assert.rejects(discover(member, [1, 2, 3, 4, 5], { clock }), { code: "MODBUS_CLOSED" });
        });
    });
});
