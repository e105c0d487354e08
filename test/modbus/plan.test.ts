import assert from "node:assert/strict";
import fc from "fast-check";
import { WattError } from "../../dist/common/errors.js";
import { explainCut, explainLearned } from "../../dist/modbus/explain.js";
import { costOf, planReads, type Plan, type PlanOptions, type Range, type ReadItem } from "../../dist/modbus/plan.js";
import type { Table } from "../../dist/modbus/transport.js";
import { leastTime, LINK_COSTS, POINT_SETS, SDM630_ITEMS, shippedDevices, SUN2000_ITEMS, SUNGROW_ITEMS } from "./device-items.js";

const SPACE = 30;

function item(address: number, size = 1, table: Table = "holding"): ReadItem {
    return { table, address, size };
}

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

    it("reads an SDM630 as calculated by hand", () => {
        const figures = (link: string, gaps: PlanOptions["gaps"]) => {
            const { blocks, registers, ms } = planReads(SDM630_ITEMS, { gaps, cost: LINK_COSTS[link]! });
            return [blocks.length, registers, Math.round(ms)];
        };
        assert.deepEqual(figures("RTU 9600", "allow"), [3, 136, 406]);
        assert.deepEqual(figures("RTU 9600", "never"), [9, 104, 584]);
        assert.deepEqual(figures("TCP 60 ms", "allow"), [3, 136, 183]);
        assert.deepEqual(figures("TCP 60 ms", "never"), [9, 104, 542]);
    });

    it("reads a Sungrow and a Huawei as calculated by hand", () => {
        const figures = (set: readonly ReadItem[], link: string, gaps: PlanOptions["gaps"]) => {
            const { blocks, registers, ms } = planReads(set, { gaps, cost: LINK_COSTS[link]! });
            return [blocks.length, registers, Math.floor(ms)];
        };
        assert.deepEqual([SUNGROW_ITEMS.length, SUN2000_ITEMS.length], [71, 91]);
        assert.deepEqual(figures(SUNGROW_ITEMS, "RTU 9600", "allow"), [8, 154, 647]);
        assert.deepEqual(figures(SUNGROW_ITEMS, "RTU 9600", "never"), [23, 92, 1130]);
        assert.deepEqual(figures(SUN2000_ITEMS, "TCP 60 ms", "allow"), [4, 249, 244]);
        assert.deepEqual(figures(SUN2000_ITEMS, "RTU 9600", "allow"), [6, 185, 630]);
    });

    for (const [link, cost] of Object.entries(LINK_COSTS)) {
        it(`reads every device of a shipped map or a known point set over ${link} in the least time`, () => {
            const devices = [...POINT_SETS, ...shippedDevices()];
            assert.ok(devices.length >= 64);
            for (const { name, items: all, rules } of devices) {
                const { ms } = planReads(all, { ...rules, cost });
                const least = leastTime(all, rules, cost);
                assert.ok(ms <= least * 1.01 && ms >= least - 1e-6, `${name}: ${ms} ms instead of ${least}`);
            }
        });
    }

    it("weighs a gap against a request as a link's speed says", () => {
        const breakEven = (cost: { requestMs: number; registerMs: number }) => Math.floor(cost.requestMs / cost.registerMs);
        assert.deepEqual(Object.values(LINK_COSTS).map(breakEven), [19, 29, 12, 3000]);
        // 11 bits a character: 13 of them and twice 3.5 silent ones at 9600 baud.
        const { requestMs, registerMs } = costOf({ kind: "rtu", turnaroundMs: 5, gapMs: 3 });
        assert.ok(Math.abs(requestMs - (8 + (20 * 11_000) / 9_600)) < 1e-9 && Math.abs(registerMs - 22_000 / 9_600) < 1e-9);
        const fast = costOf({ kind: "rtu", baud: 115_200, turnaroundMs: 0 });
        assert.ok(Math.abs(fast.requestMs - (3.5 + (13 * 11_000) / 115_200)) < 1e-9, "silence does not shrink above 19,200 baud");
        assert.deepEqual(costOf({ kind: "rtutcp" }), costOf({ kind: "rtu", baud: 9_600 }), "a serial server is as slow as its line");
    });

    it("says why each request ends", () => {
        const base = { gaps: "allow", cost: { requestMs: 40, registerMs: 2 } } as const;
        const cuts = (all: ReadItem[], rules: Partial<PlanOptions>) => planReads(all, { ...base, ...rules }).blocks.map(({ cut }) => cut);
        const apart = [item(0), item(10)];
        assert.deepEqual(cuts([item(0), item(1, 1, "input")], {}), ["table", undefined]);
        assert.deepEqual(cuts(apart, { maxRegisters: 10 }), ["limit", undefined]);
        assert.deepEqual(cuts([item(0), item(22)], {}), ["gap", undefined]);
        assert.deepEqual(cuts(apart, { forbidden: [{ address: 5, size: 1 }] }), ["forbidden", undefined]);
        assert.deepEqual(cuts(apart, { barriers: [{ address: 5, size: 1 }] }), ["forbidden", undefined]);
        assert.deepEqual(cuts(apart, { gaps: "never" }), ["never", undefined]);
        assert.deepEqual(cuts(apart, { gaps: "declared", readable: [{ address: 0, size: 9 }] }), ["undeclared", undefined]);
        assert.deepEqual(cuts(apart, { holes: [{ address: 5, size: 1 }] }), ["hole", undefined]);
        assert.deepEqual(cuts([item(0), item(1)], { holes: [{ address: 1, size: 0 }] }), ["hole", undefined]);
        assert.deepEqual(cuts([item(0, 4), item(2, 4)], { holes: [{ address: 0, size: 6 }] }), ["hole", undefined]);
        assert.deepEqual(cuts(apart, { gaps: "declared", readable: [{ address: 0, size: 5 }, { address: 5, size: 10 }] }), [undefined], "ranges that touch are one");
        assert.deepEqual(cuts(apart, { forbidden: [{ table: "input", address: 5, size: 1 }] }), [undefined], "another table's");
    });

    it("tells a person what was learned, and how", () => {
        const refusal = { code: "MODBUS_EXCEPTION" as const, message: "Refused (exception 2).", exception: 2 };
        const hole = (address: number, size: number) => ({ ...item(address, size), asked: item(address, size), refusal, retryAt: 0, waitMs: 0 });
        const notes = explainLearned(
            { holes: [hole(8, 1), hole(10, 4), hole(20, 0)], maxRegisters: 50, maxBits: 100, tooManyRegisters: { size: 51, isRefused: true }, tooManyBits: { size: 200, isRefused: false } },
            ({ address }) => (address === 10 ? ["a_w", "b_w"] : []),
        );
        assert.deepEqual(notes, [
            "holding 8 is left out: Refused (exception 2).",
            "holding 10..13 (a_w, b_w) is left out: Refused (exception 2).",
            "No read reaches across holding 20: Refused (exception 2).",
            "At most 50 registers are read at once: a read of 51 was refused, shorter ones were answered.",
            "At most 100 bits are read at once: a read of 200 was not answered, shorter ones were answered.",
        ]);
    });

    it("tells a person why, with addresses", () => {
        const why = (all: ReadItem[], rules: Partial<PlanOptions>) => {
            const { blocks } = planReads(all, { gaps: "allow", cost: { requestMs: 40, registerMs: 2 }, ...rules });
            return blocks.map((block, i) => explainCut(block, blocks[i + 1]));
        };
        const apart = [item(0, 2), item(10)];
        const sentences = [
            why([item(7, 3, "coil"), item(0)], {}),
            why(apart, { maxRegisters: 10 }),
            why([item(0, 2), item(60)], {}),
            why(apart, { forbidden: [{ address: 5, size: 1 }] }),
            why(apart, { gaps: "never" }),
            why([item(0, 2, "coil"), item(3, 1, "coil")], { gaps: "declared" }),
            why(apart, { holes: [{ address: 5, size: 1 }] }),
        ];
        const expected = [/holding instead of coil/, /longer than one request may be/, /registers 2\.\.59 .*longer than another request/, /registers 2\.\.9 .*must not/, /does not let registers 2\.\.9/, /bits 2 are declared/, /refused.* 10:/];
        for (const [i, [first, last, ...more]] of sentences.entries()) {
            assert.match(first!, expected[i]!);
            assert.equal(last, "");
            assert.deepEqual(more, []);
        }
    });

    it("names every item that no read can hold, and says what to do", () => {
        const faulty = (all: ReadItem[], rules: Partial<PlanOptions> = {}) => {
            let message = "";
            assert.throws(
                () => planReads(all, { gaps: "allow", cost: { requestMs: 40, registerMs: 2 }, ...rules }),
                (error: unknown) => {
                    assert.ok(error instanceof WattError && error.code === "MODBUS_PLAN");
                    ({ message } = error);
                    return true;
                },
            );
            return message;
        };
        assert.match(faulty([{ ...item(5, 90), name: "serial" }, item(0)], { maxRegisters: 80 }), /"serial" \(holding 5\+90\).*80 registers/);
        assert.match(faulty([item(0, 126)]), /125 registers/);
        assert.match(faulty([item(0, 2001, "coil")], { maxBits: 5_000 }), /2000 bits/);
        assert.match(faulty([item(5)], { forbidden: [{ address: 5, size: 2 }] }), /forbidden/);
        assert.match(faulty([item(65_535, 2)]), /0\.\.65535/);
        assert.match(faulty([item(-1)]), /0\.\.65535/);
        assert.match(faulty([item(1.5)]), /0\.\.65535/);
        assert.match(faulty([item(0, 0)]), /size/);
        assert.match(faulty([item(0, 1, "file" as Table)]), /none of the tables/);
        const torn = faulty([item(0, 60), item(59, 60), item(118, 60)], { maxRegisters: 120, barriers: [{ address: 59, size: 1 }, { address: 118, size: 1 }] });
        assert.match(torn, /holding 118\+60.*only once/);
        assert.equal(faulty(Array.from({ length: 20 }, (_, i) => item(-1 - i))).match(/And 15 more/)?.length, 1);
    });

    it("plans 1,000 points whatever their order", () => {
        const all = Array.from({ length: 1_000 }, (_, i) => item((i * 7919) % 4_000, 1 + (i % 3)));
        const cost = { requestMs: 40, registerMs: 2 };
        const plan = planReads(all, { gaps: "allow", cost });
        assert.deepEqual(hullsOf(planReads(all.toReversed(), { gaps: "allow", cost })), hullsOf(plan));
        assert.equal(plan.blocks.flatMap((block) => block.items).length, 1_000);
    });
});
