import assert from "node:assert/strict";
import fc from "fast-check";
import { planReads, type Plan, type PlanOptions, type Range, type ReadItem } from "../../dist/modbus/plan.js";
import type { Table } from "../../dist/modbus/transport.js";

const SPACE = 30;

function range(): fc.Arbitrary<Range> {
    return fc.record({ address: fc.nat(SPACE), size: fc.integer({ min: 1, max: 6 }) });
}

const items = fc.array(
    fc.record({ table: fc.constantFrom<Table>("holding", "holding", "coil"), address: fc.nat(SPACE), size: fc.integer({ min: 1, max: 5 }) }),
    { minLength: 1, maxLength: 7 },
);

const options: fc.Arbitrary<PlanOptions> = fc.record({
    maxRegisters: fc.integer({ min: 5, max: 20 }),
    maxBits: fc.integer({ min: 5, max: 20 }),
    gaps: fc.constantFrom("never", "declared", "allow"),
    readable: fc.array(range(), { maxLength: 3 }),
    forbidden: fc.array(range(), { maxLength: 1 }),
    barriers: fc.array(range(), { maxLength: 1 }),
    holes: fc.array(fc.record({ address: fc.nat(SPACE), size: fc.nat(3) }), { maxLength: 2 }),
    cost: fc.record({ requestMs: fc.integer({ min: 0, max: 12 }), registerMs: fc.integer({ min: 0, max: 3 }) }),
});

interface Hull {
    table: Table;
    start: number;
    end: number;
}

function covers(ranges: readonly Range[] | undefined, register: number): boolean {
    return ranges!.some(({ address, size }) => register >= address && register < address + size);
}

/** May these registers be read as one, by the rules alone. */
function allowed({ table, start, end }: Hull, all: readonly ReadItem[], rules: PlanOptions): boolean {
    const own = all.filter((one) => one.table === table);
    const wanted = (register: number) => own.some(({ address, size }) => register >= address && register < address + size);
    const whole = (at: number) => own.some(({ address, size }) => at > address && at < address + size);
    if (end - start > (table === "coil" ? rules.maxBits! : rules.maxRegisters!)) return false;
    for (let register = start; register < end; register++) {
        if (covers(rules.forbidden, register)) return false;
        if (wanted(register)) continue;
        if (rules.gaps === "never" || covers(rules.barriers, register) || covers(rules.holes, register)) return false;
        if (rules.gaps === "declared" && !covers(rules.readable, register)) return false;
    }
    const isOne = own.some(({ address, size }) => address === start && address + size === end);
    if (!isOne && rules.holes!.some(({ address, size }) => size > 0 && address >= start && address + size <= end)) return false;
    return !rules.holes!.some(({ address, size }) => size === 0 && address > start && address < end && !whole(address));
}

function costs(hulls: readonly Hull[], { cost }: PlanOptions): number {
    return hulls.reduce((sum, { table, start, end }) => sum + cost.requestMs + (cost.registerMs / (table === "coil" ? 16 : 1)) * (end - start), 0);
}

/** No two blocks read what may be read once. */
function onceOnly(hulls: readonly Hull[], rules: PlanOptions): boolean {
    for (const table of ["holding", "coil"]) {
        for (let register = 0; register < SPACE + 10; register++) {
            if (!covers(rules.barriers, register)) continue;
            if (hulls.filter((hull) => hull.table === table && register >= hull.start && register < hull.end).length > 1) return false;
        }
    }
    return true;
}

/** The least cost over all partitions of the items into blocks, or Infinity. */
function bruteForce(all: readonly ReadItem[], rules: PlanOptions): number {
    let least = Infinity;
    const place = (index: number, hulls: Hull[]): void => {
        if (index === all.length) {
            if (hulls.every((hull) => allowed(hull, all, rules)) && onceOnly(hulls, rules)) least = Math.min(least, costs(hulls, rules));
            return;
        }
        const { table, address, size } = all[index]!;
        for (const [i, hull] of hulls.entries()) {
            if (hull.table !== table) continue;
            const larger = { table, start: Math.min(hull.start, address), end: Math.max(hull.end, address + size) };
            place(index + 1, hulls.with(i, larger));
        }
        place(index + 1, [...hulls, { table, start: address, end: address + size }]);
    };
    place(0, []);
    return least;
}

function hullsOf(plan: Plan<ReadItem>): Hull[] {
    return plan.blocks.map(({ table, address, quantity }) => ({ table, start: address, end: address + quantity }));
}

describe("request planner", () => {
    it("finds the cheapest of all partitions, and breaks no rule", () => {
        fc.assert(
            fc.property(items, options, (all, rules) => {
                const optimum = bruteForce(all, rules);
                if (optimum === Infinity) {
                    assert.throws(() => planReads(all, rules), { code: "MODBUS_PLAN" });
                    return;
                }
                const plan = planReads(all, rules);
                const hulls = hullsOf(plan);
                assert.ok(Math.abs(costs(hulls, rules) - optimum) < 1e-9, `costs ${costs(hulls, rules)} instead of ${optimum}`);
                assert.ok(Math.abs(plan.ms - optimum) < 1e-9);
                assert.ok(hulls.every((hull) => allowed(hull, all, rules)) && onceOnly(hulls, rules));
                const held = plan.blocks.flatMap((block) => block.items);
                assert.equal(held.length, all.length);
                assert.equal(new Set(held).size, all.length, "every item is in exactly one block");
                for (const block of plan.blocks) {
                    for (const { table, address, size } of block.items) {
                        assert.ok(table === block.table && address >= block.address && address + size <= block.address + block.quantity);
                    }
                }
            }),
            { numRuns: 3000 },
        );
    });
});
