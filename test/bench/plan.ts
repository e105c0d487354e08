import { planReads, type ReadItem } from "../../dist/modbus/plan.js";
import { leastTime, LINK_COSTS, POINT_SETS, shippedDevices } from "../modbus/device-items.js";
import type { Row } from "./row.js";

/** How long planning takes, and how much of a cycle it saves: beside the least time there is, and beside reading neighbours alone. */
export function run(quick = false): Promise<Row[]> {
    const cost = LINK_COSTS["TCP 60 ms"]!;
    const points: ReadItem[] = Array.from({ length: 1_000 }, (_, i) => ({ table: "holding", address: i * 3, size: 1 + (i % 2) }));
    const planMs = median(() => planReads(points, { gaps: "allow", cost }), quick ? 5 : 50);
    const dense: ReadItem[] = points.map((_, i) => ({ table: "coil", address: i, size: 1 }));
    const denseMs = median(() => planReads(dense, { gaps: "allow", cost }), quick ? 3 : 20);
    let worst = 1;
    let saved = 0;
    for (const { items, rules } of shippedDevices()) {
        for (const link of Object.values(LINK_COSTS)) {
            const { ms } = planReads(items, { ...rules, cost: link });
            worst = Math.max(worst, ms / leastTime(items, rules, link));
            saved = Math.max(saved, planReads(items, { ...rules, gaps: "never", cost: link }).ms / ms);
        }
    }
    const sets = POINT_SETS.map(({ name, items, rules }) => {
        const ratios = Object.values(LINK_COSTS).map((link) => planReads(items, { ...rules, cost: link }).ms / leastTime(items, rules, link));
        const ratio = Math.max(...ratios);
        return { name: `planned cycle beside the optimum: ${name}, worst of ${ratios.length} links`, value: ratio, unit: "x", target: "<= 1.01", pass: ratio <= 1.01 };
    });
    return Promise.resolve([
        ...sets,
        { name: "planning 1,000 points, registers", value: planMs, unit: "ms", target: "<= 20", pass: planMs <= 20 },
        { name: "planning 1,000 points, bits that all fit in one read", value: denseMs, unit: "ms", target: "<= 20", pass: denseMs <= 20 },
        { name: "planned cycle beside the optimum, worst of all shipped maps on 4 links", value: worst, unit: "x", target: "<= 1.01", pass: worst <= 1.01 },
        { name: "neighbours alone beside the planned cycle, most of all", value: saved, unit: "x", target: "", pass: true },
    ]);
}

/** ms. */
function median(task: () => unknown, rounds: number): number {
    const times = Array.from({ length: rounds }, () => {
        const before = performance.now();
        task();
        return performance.now() - before;
    });
    return times.toSorted((a, b) => a - b)[Math.floor(rounds / 2)]!;
}
