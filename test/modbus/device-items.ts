import { PointMaps } from "../../dist/common/pointmaps.js";
import { parseModbusMap } from "../../dist/modbus/map.js";
import { costOf, type LinkCost, type PlanOptions, type Range, type ReadItem } from "../../dist/modbus/plan.js";
import type { Table } from "../../dist/modbus/transport.js";

/** Wire addresses of values of one size, or [first, count] for neighbours. */
type Addresses = readonly (number | readonly [number, number])[];

function values(table: Table, size: number, addresses: Addresses): ReadItem[] {
    return addresses.flatMap((one) => {
        const [first, count] = typeof one === "number" ? [one, 1] : one;
        return Array.from({ length: count }, (_, i) => ({ table, address: first + i * size, size }));
    });
}

/** An Eastron SDM630's 52 floats: per phase, totals, energies, distortion. */
export const SDM630_ITEMS: readonly ReadItem[] = values("input", 2, [[0, 18], 52, 56, [60, 2], 66, [70, 5], [234, 3], 248, [342, 20]]);

/** A Huawei SUN2000 with two strings, its battery and its meter, 91 numbers (wlcrs/huawei-solar-lib at 873c1b3). */
export const SUN2000_ITEMS: readonly ReadItem[] = [
    ...values("holding", 1, [32000, 32002, [32008, 3], [32016, 4], [32066, 6], [32084, 7], [32176, 8], [32190, 2]]),
    ...values("holding", 2, [32003, 32064, [32072, 6], [32091, 3], [32106, 7], [32172, 2]]),
    ...values("holding", 1, [37000, [37003, 2], 37006, 37014, [37021, 2], 37025, 37100, [37117, 2], 37125, 37138]),
    ...values("holding", 2, [37001, [37007, 2], [37015, 2], [37046, 2], [37066, 2], [37101, 8], [37119, 3], [37126, 6]]),
];

/** A Sungrow hybrid inverter with battery and meter, 71 numbers (mkaiser/Sungrow-SHx-Inverter-Modbus-Home-Assistant at 63beec6). */
export const SUNGROW_ITEMS: readonly ReadItem[] = [
    ...values("input", 1, [[4999, 2], 5002, 5007, [5010, 6], [5018, 3], 5034, [5114, 2], 5241, [5621, 2], 5627, 5630, [5634, 2], 5638, [5722, 3], [5740, 6]]),
    ...values("input", 2, [4951, 5003, 5016, 5032, 5213, [5600, 4], 5725]),
    ...values("input", 1, [[12999, 3], 13004, 13011, 13016, 13019, [13022, 4], [13030, 3], 13035, 13039, 13044]),
    ...values("input", 2, [13002, 13005, 13007, 13009, 13012, 13017, 13026, 13033, 13036, 13040, 13045]),
];

interface Device {
    name: string;
    items: readonly ReadItem[];
    rules: Omit<PlanOptions, "cost">;
}

/** Point sets that other projects read, with any gap, and a Huawei as short as its maker wants it read. */
export const POINT_SETS: readonly Device[] = [
    { name: "SDM630, 52 points", items: SDM630_ITEMS, rules: { gaps: "allow" } },
    { name: "Huawei SUN2000, 91 points", items: SUN2000_ITEMS, rules: { gaps: "allow" } },
    { name: "Huawei SUN2000, 91 points, 64 registers a read", items: SUN2000_ITEMS, rules: { gaps: "allow", maxRegisters: 64 } },
    { name: "Sungrow SH, 71 points", items: SUNGROW_ITEMS, rules: { gaps: "allow" } },
];

/** How the shipped maps want their devices read; without a map's limits on gaps as well, since those leave little choice. */
export function shippedDevices(): Device[] {
    const maps = new PointMaps();
    const ids = maps.list().map(({ id }) => id);
    return ids.filter((id) => !id.startsWith("sunspec-")).flatMap((id) => {
        const { items, maxRegisters, gaps, readable, forbidden } = maps.load(id, parseModbusMap);
        return [
            { name: id, items, rules: { maxRegisters, gaps, readable, forbidden } },
            { name: `${id} with any gap`, items, rules: { maxRegisters, gaps: "allow" as const } },
        ];
    });
}

/** 10 bits a character, as these devices are delivered. */
export const LINK_COSTS: Record<string, LinkCost> = {
    "RTU 9600": costOf({ kind: "rtu", baud: 9_600, characterBits: 10, turnaroundMs: 20 }),
    "RTU 19200": costOf({ kind: "rtu", baud: 19_200, characterBits: 10, turnaroundMs: 20 }),
    "RTU 9600, quick device": costOf({ kind: "rtu", baud: 9_600, characterBits: 10, turnaroundMs: 5 }),
    "TCP 60 ms": costOf({ kind: "tcp", turnaroundMs: 60 }),
};

/** The least time of one cycle, found over addresses instead of items; for items that do not overlap. */
export function leastTime(items: readonly ReadItem[], { maxRegisters = 125, gaps, readable = [], forbidden = [] }: Omit<PlanOptions, "cost">, { requestMs, registerMs }: LinkCost): number {
    let total = 0;
    for (const table of new Set(items.map((item) => item.table))) {
        const own = items.filter((item) => item.table === table);
        const isIn = (ranges: readonly Range[], at: number) => ranges.some((range) => (range.table ?? table) === table && at >= range.address && at < range.address + range.size);
        const mayRead = (at: number) => isIn(own, at) || (!isIn(forbidden, at) && (gaps === "allow" || (gaps === "declared" && isIn(readable, at))));
        const known = new Map<number, number>();
        /** Of everything that begins at `from` or later. */
        const rest = (from: number): number => {
            const starts = own.map(({ address }) => address).filter((address) => address >= from);
            if (starts.length === 0) return 0;
            const start = Math.min(...starts);
            const before = known.get(start);
            if (before !== undefined) return before;
            let least = Infinity;
            for (let end = start + 1; end <= start + maxRegisters && mayRead(end - 1); end++) {
                if (own.some(({ address, size }) => address < end && address + size > end)) continue;
                if (!own.some(({ address, size }) => address + size === end)) continue;
                least = Math.min(least, requestMs + registerMs * (end - start) + rest(end));
            }
            known.set(start, least);
            return least;
        };
        total += rest(0);
    }
    return total;
}
