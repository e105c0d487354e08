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

/** How the shipped maps want their devices read; without a map's limits on gaps as well, since those leave little choice. */
export function shippedDevices(): { name: string; items: readonly ReadItem[]; rules: Omit<PlanOptions, "cost"> }[] {
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
