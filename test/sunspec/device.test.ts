import assert from "node:assert/strict";
import fc from "fast-check";
import { type Clock, systemClock } from "../../dist/common/clock.js";
import type { WattError } from "../../dist/common/errors.js";
import { SunSpecDevice } from "../../dist/sunspec/device.js";
import { layoutOf } from "../../dist/sunspec/layout.js";
import { officialModels } from "../../dist/sunspec/model.js";
import { planReads } from "../../dist/sunspec/reads.js";
import { type Asked, type Behaviour, faults } from "../modbus/fault-server.js";
import { common, END, MARKER, model, SunSpecServer } from "./sunspec-server.js";

const BASE = 40_000;
const INVERTER = { device: 0, id: 103, ordinal: 0 };
const AC = { device: 0, id: 701, ordinal: 0 };

describe("sunspec reads", () => {
    it("cut no point and no sync group, at any limit, in any model", () => {
        const ids = officialModels.ids();
        fc.assert(
            fc.property(fc.constantFrom(...ids), fc.integer({ min: 4, max: 125 }), fc.integer({ min: 1, max: 600 }), fc.nat(9), (id, max, length, count) => {
                const definition = officialModels.get(id)!;
                const counts = Object.fromEntries(["NPt", "NCrv", "NCrvSet", "NProf"].map((name) => [name, count]));
                const layout = layoutOf(definition, length, length + 2, counts);
                const { reads, checks, factors } = planReads(layout, max);
                const inOrder = reads.toSorted((a, b) => a.start - b.start);
                let end = 0;
                for (const { start, size } of inOrder) {
                    assert.equal(start, end, "the reads cover every register once");
                    assert.ok(size <= max);
                    end += size;
                }
                assert.equal(end, layout.end);
                const readOf = (offset: number) => inOrder.findIndex(({ start, size }) => offset >= start && offset < start + size);
                for (const { offset, point, block } of layout.slots) {
                    if (point.size <= max) assert.equal(readOf(offset), readOf(offset + point.size - 1), `${point.name} is cut`);
                    if (layout.blocks[block]!.sync) {
                        const group = layout.slots.filter((slot) => slot.block === block);
                        assert.equal(new Set(group.map((slot) => readOf(slot.offset))).size, 1, `${point.name}'s group is cut`);
                    }
                }
                for (const factor of factors) assert.ok(checks.some(({ start, size }) => factor >= start && factor < start + size));
                assert.ok(checks.every(({ size }) => size <= max));
            }),
            { numRuns: 1000 },
        );
    });

    it("take every sync group of model 704 in one read", () => {
        const layout = layoutOf(officialModels.get(704)!, 65, 67, {});
        const groups = layout.slots.filter(({ point }) => point.name === "PF").map(({ offset }) => offset);
        assert.deepEqual(groups, [59, 61, 63, 65]);
        for (let max = 2; max <= 67; max++) {
            const { reads } = planReads(layout, max);
            for (const start of groups) assert.ok(reads.some((read) => start >= read.start && start + 2 <= read.start + read.size), `${start} at ${max}`);
        }
    });

    it("ask for the factors again only where a model takes several reads", () => {
        const plan = (id: number, length: number, max: number) => planReads(layoutOf(officialModels.get(id)!, length, length + 2, {}), max);
        assert.deepEqual(plan(103, 50, 125), { reads: [{ start: 0, size: 52 }], factors: [], checks: [], checkBefore: false });
        assert.deepEqual(plan(701, 153, 125).factors, [], "only a text lies beyond the first read");
        const { reads, factors, checks, checkBefore } = plan(701, 153, 64);
        assert.deepEqual(reads[0], { start: 64, size: 59 }, "the read with the factors goes first");
        assert.deepEqual([factors.length, checks.length, checkBefore], [10, 1, false]);
        assert.equal(plan(701, 153, 8).checkBefore, true, "the factors are in several reads");
    });
});

describe("SunSpecDevice", () => {
    let plant: SunSpecServer;
    beforeEach(async () => {
        plant = await SunSpecServer.start();
    });
    afterEach(() => plant.stop());

    const asked = (test: (asked: Asked) => boolean = () => true) => plant.server.asked.filter(test).length;
    const walks = () => asked(({ address, quantity }) => address === BASE && quantity === 2);

    it("walks once and then reads by key", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 4200, W_SF: 1, A: 12.34, A_SF: -2 }), END);
        const device = new SunSpecDevice(plant.link(), 1);
        assert.equal(device.map, undefined);
        const sample = await device.read(INVERTER);
        assert.equal(sample.model.values.W, 4200);
        assert.equal(sample.model.values.A, 12.34);
        assert.deepEqual(sample.key, INVERTER);
        assert.equal(sample.definition, officialModels.get(103));
        const before = asked();
        await device.read(INVERTER);
        assert.equal(asked() - before, 1, "one request a poll");
        assert.equal(walks(), 1);
    });

    it("shares one walk among reads that come together", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 1, W_SF: 0 }), model(160, { module: [{}] }), END);
        const device = new SunSpecDevice(plant.link(), 1);
        await Promise.all([device.read(INVERTER), device.read({ device: 0, id: 160, ordinal: 0 })]);
        assert.equal(walks(), 1);
    });

    it("follows registers that moved by one when the common model grew from 65 to 66", async () => {
        plant.put(1, BASE, MARKER, common("S1", 65), model(103, { W: 100, W_SF: 0 }), END);
        const device = new SunSpecDevice(plant.link(), 1);
        await device.read(INVERTER);
        plant.put(1, BASE, MARKER, common("S1", 66), model(103, { W: 200, W_SF: 0 }), END);
        assert.equal((await device.read(INVERTER)).model.values.W, 200);
        assert.equal(walks(), 2);
    });

    it("follows a length that changes at night", async () => {
        const chain = (ports: number) => [MARKER, common("S1"), model(714, { Prt: Array.from({ length: ports }, () => ({})) }), model(103, { W: ports, W_SF: 0 }), END];
        plant.put(1, BASE, ...chain(3));
        const dc = { device: 0, id: 714, ordinal: 0 };
        const device = new SunSpecDevice(plant.link(), 1);
        assert.equal((await device.read(dc)).model.length, 18 + 3 * 25);
        plant.put(1, BASE, ...chain(1));
        const night = await device.read(dc);
        assert.equal(night.model.length, 18 + 25);
        assert.equal((night.model.values.Prt as unknown[]).length, 1);
        assert.equal((await device.read(INVERTER)).model.values.W, 1);
    });

    it("walks again after a reconnect", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 1, W_SF: 0 }), END);
        const device = new SunSpecDevice(plant.link(), 1);
        await device.read(INVERTER);
        plant.put(1, BASE, MARKER, common("S2"), model(103, { W: 2, W_SF: 0 }), END);
        device.invalidate();
        await device.read(INVERTER);
        assert.equal(walks(), 2);
        assert.equal(device.map!.devices[0]!.identity?.serial, "S2");
    });

    it("notices another serial number when the common model is read", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103), END);
        const device = new SunSpecDevice(plant.link(), 1);
        await device.walk();
        plant.put(1, BASE, MARKER, common("S2"), model(103), END);
        const sample = await device.read({ device: 0, id: 1, ordinal: 0 });
        assert.equal(sample.model.values.SN, "S2");
        assert.equal(device.map!.devices[0]!.identity?.serial, "S2");
        assert.equal(walks(), 2);
    });

    it("walks again on exception 2, but not more than once a minute", async () => {
        let now = 0;
        const clock: Clock = { ...systemClock, monotonic: () => now };
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 5, W_SF: 0 }), END);
        const device = new SunSpecDevice(plant.link(), 1, clock);
        await device.walk();
        plant.put(1, 0, MARKER, common("S1"), model(103, { W: 6, W_SF: 0 }), END);
        await assert.rejects(device.read(INVERTER), { code: "MODBUS_EXCEPTION", exception: 2 });
        now = 60_000;
        assert.equal((await device.read(INVERTER)).model.values.W, 6);
        assert.equal(device.map!.base, 0);
    });

    it("says of a device it knows that it refuses, is silent or has changed, not that SunSpec was never switched on", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103), END);
        const device = new SunSpecDevice(plant.link({ timeoutMs: 50 }), 1);
        await device.walk();
        const why = async (behaviour: Behaviour) => {
            plant.server.otherwise = behaviour;
            const error = await device.walk().then(() => assert.fail("found"), (reason: unknown) => reason as WattError);
            assert.equal(error.code, "SUNSPEC_NOT_FOUND");
            return error.message;
        };
        assert.match(await why(faults.exception(4)), /^Unit 1 was read before and refuses now: Unit 1 failed while answering \(exception 4, holding \d+\+\d\)\.$/);
        assert.equal(await why(faults.silent), "Unit 1 was read before and does not answer now: check its power and its network.");
        plant.put(1, 100);
        assert.match(await why(faults.right), /^Unit 1 was read before and has no SunSpec map now: /);
    });

    it("does not walk for exceptions that are about something else", async () => {
        let now = 0;
        plant.put(1, BASE, MARKER, common("S1"), model(103), END);
        const device = new SunSpecDevice(plant.link(), 1, { ...systemClock, monotonic: () => now });
        await device.walk();
        now = 60_000;
        plant.server.script(faults.exception(4));
        await assert.rejects(device.read(INVERTER), { exception: 4 });
        assert.equal(walks(), 1);
    });

    it("walks again once a day", async () => {
        let now = 0;
        plant.put(1, BASE, MARKER, common("S1"), model(103), END);
        const device = new SunSpecDevice(plant.link(), 1, { ...systemClock, monotonic: () => now });
        await device.read(INVERTER);
        now = 86_399_999;
        await device.read(INVERTER);
        assert.equal(walks(), 1);
        now = 86_400_000;
        await device.read(INVERTER);
        assert.equal(walks(), 2);
    });

    it("finds a model again that a lost answer hid from the walk", async () => {
        let now = 0;
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 5, W_SF: 0 }), END);
        const device = new SunSpecDevice(plant.link({ timeoutMs: 300 }), 1, { ...systemClock, monotonic: () => now });
        plant.server.script(faults.right, faults.right, faults.silent, faults.silent);
        await assert.rejects(device.read(INVERTER), { code: "SUNSPEC_MODEL_GONE", message: /^Unit 1 has no model 103 any more/ });
        assert.equal(device.map!.end, "silent");
        await assert.rejects(device.read(INVERTER), { code: "SUNSPEC_MODEL_GONE" });
        now = 60_000;
        assert.equal((await device.read(INVERTER)).model.values.W, 5);
    });

    it("refuses a model without definition", async () => {
        const device = new SunSpecDevice(plant.link(), 1);
        await assert.rejects(device.read({ device: 0, id: 999, ordinal: 0 }), { code: "SUNSPEC_UNKNOWN_MODEL" });
        assert.equal(asked(), 0);
    });

    it("passes a timeout on and keeps the map", async () => {
        plant.put(1, BASE, MARKER, common("S1"), model(103, { W: 5, W_SF: 0 }), END);
        const device = new SunSpecDevice(plant.link({ timeoutMs: 300 }), 1);
        await device.walk();
        plant.server.script(faults.silent);
        await assert.rejects(device.read(INVERTER), { code: "MODBUS_TIMEOUT" });
        assert.equal(walks(), 1);
    });

    describe("with a model longer than one read", () => {
        const halves = { maxRegisters: 64 };
        const power = (W: number, sf: number) => [MARKER, common("S1"), model(701, { W, W_SF: sf, V_SF: -1, LNV: 230.1 }), END];

        it("reads its factors again in the same pass", async () => {
            plant.put(1, BASE, ...power(4200, 0));
            const device = new SunSpecDevice(plant.link(halves), 1);
            await device.walk();
            const before = asked();
            const { model: ac } = await device.read(AC);
            assert.equal(ac.values.W, 4200);
            assert.equal(ac.values.LNV, 230.1);
            assert.equal(asked() - before, 4);
        });

        for (const maxRegisters of [64, 8]) {
            it(`never mixes a value and a factor of two moments, reading ${maxRegisters} registers at once`, async () => {
                const member = plant.link({ maxRegisters });
                let requests = 0;
                let seen: number;
                do {
                    requests++;
                    plant.put(1, BASE, ...power(4200, 0));
                    const device = new SunSpecDevice(member, 1);
                    await device.walk();
                    seen = 0;
                    plant.server.otherwise = (request, peer) => {
                        faults.right(request, peer);
                        if (++seen === requests) plant.put(1, BASE, ...power(655.1, -1));
                    };
                    const { model: ac } = await device.read(AC);
                    plant.server.otherwise = faults.right;
                    assert.ok([4200, 655.1].includes(ac.values.W as number), `it changes after request ${requests}`);
                    assert.deepEqual(ac.bad, {});
                } while (seen >= requests);
                assert.ok(requests > 4, "it changed after each request of a pass");
            });
        }

        it("leaves out what hangs on a factor that keeps changing", async () => {
            plant.put(1, BASE, ...power(4200, 0));
            const device = new SunSpecDevice(plant.link(halves), 1);
            await device.walk();
            let n = 0;
            plant.server.otherwise = (request, peer) => {
                faults.right(request, peer);
                plant.put(1, BASE, ...power(4200, n++ % 2 === 0 ? 1 : 0));
            };
            const { model: ac } = await device.read(AC);
            assert.equal(ac.values.W, undefined);
            assert.equal(ac.bad.W, "sf");
            assert.equal(ac.values.LNV, 230.1);
        });
    });

    it("reads from a device that refuses cut points, at any limit of the link", async () => {
        const curve = { ActPt: 3, Pt: [{ V: 90, Var: 44 }, { V: 98, Var: 0 }, { V: 110, Var: -44 }] };
        const values = { V_SF: -2, DeptRef_SF: -2, RspTms_SF: 0, Crv: [curve, curve, curve] };
        const ac = { W: 4200, W_SF: 0, LNV: 230.1, V_SF: -1, MnAlrmInfo: "all is well" };
        plant.put(1, BASE, MARKER, common("S1"), model(701, ac), model(705, values), END);
        plant.refuseCuts(1, BASE);
        for (const maxRegisters of [125, 64, 33, 32]) {
            const device = new SunSpecDevice(plant.link({ maxRegisters }), 1);
            const first = await device.read(AC);
            assert.equal(first.model.values.MnAlrmInfo, "all is well");
            const volts = await device.read({ device: 0, id: 705, ordinal: 0 });
            assert.deepEqual(volts.model.values.Crv, values.Crv);
            assert.deepEqual(volts.model.warnings, []);
            const before = asked();
            await device.read({ device: 0, id: 705, ordinal: 0 });
            const once = maxRegisters >= 62 ? 1 : 3;
            assert.equal(asked() - before, once, "the counts of the pass before are used");
        }
    });
});
