import type { LinkCost, ReadItem } from "../../dist/modbus/plan.js";
import { costOf } from "../../dist/modbus/plan.js";
import type { Table } from "../../dist/modbus/transport.js";

/** Wire addresses of values of one size, or [first, count] for neighbours. */
type Addresses = readonly (number | readonly [number, number])[];

function values(table: Table, size: number, addresses: Addresses): ReadItem[] {
    return addresses.flatMap((one) => {
        const [first, count] = typeof one === "number" ? [one, 1] : one;
        return Array.from({ length: count }, (_, i) => ({ table, address: first + i * size, size }));
    });
}

/** What is read of well-known devices, without their names. */
export const DEVICE_ITEMS: Record<string, { maxRegisters: number; items: ReadItem[] }> = {
    /** 52 floats: per phase, totals, energies, distortion. */
    "Eastron SDM630": { maxRegisters: 125, items: values("input", 2, [[0, 18], 52, 56, [60, 2], 66, [70, 5], [234, 3], 248, [342, 20]]) },
    "Huawei SUN2000": {
        maxRegisters: 64,
        items: [
            ...values("holding", 1, [[32016, 48], [32066, 6], [32084, 4], 32089, 37000, 37004, 37100, 37760]),
            ...values("holding", 2, [32064, 32072, 32074, 32076, 32080, 32082, 32106, 32114, 37001, 37101, 37113, 37119, 37765]),
        ],
    },
    "Sungrow hybrid": {
        maxRegisters: 125,
        items: [
            ...values("input", 1, [4999, 5000, 5002, 5007, [5010, 4], [5018, 3], 5034, 5241, 12999, 13019, [13022, 3]]),
            ...values("input", 2, [5003, 5016, 5032, 13007, 13009, 13033, 13036, 13045]),
            ...values("holding", 1, [13049, 13050, 13051, 13057, 13058, 13073]),
        ],
    },
    "Growatt MIN TL-X": {
        maxRegisters: 125,
        items: [...values("input", 1, [3000, 3003, 3004, 3025, 3026]), ...values("input", 2, [3001, 3005, 3049, 3051]), ...values("holding", 1, [30000])],
    },
};

/** 10 bits a character, as these devices are delivered. */
export const LINK_COSTS: Record<string, LinkCost> = {
    "RTU 9600": costOf({ kind: "rtu", baud: 9_600, characterBits: 10, turnaroundMs: 20 }),
    "RTU 19200": costOf({ kind: "rtu", baud: 19_200, characterBits: 10, turnaroundMs: 20 }),
    "RTU 9600, quick device": costOf({ kind: "rtu", baud: 9_600, characterBits: 10, turnaroundMs: 5 }),
    "TCP 60 ms": costOf({ kind: "tcp", turnaroundMs: 60 }),
};

/** The least time of one cycle, found over addresses instead of items; for items that do not overlap, gaps allowed. */
export function leastTime(items: readonly ReadItem[], maxRegisters: number, { requestMs, registerMs }: LinkCost): number {
    let total = 0;
    for (const table of new Set(items.map((item) => item.table))) {
        const own = items.filter((item) => item.table === table);
        const known = new Map<number, number>();
        /** Of everything that begins at `from` or later. */
        const rest = (from: number): number => {
            const starts = own.map(({ address }) => address).filter((address) => address >= from);
            if (starts.length === 0) return 0;
            const start = Math.min(...starts);
            const before = known.get(start);
            if (before !== undefined) return before;
            let least = Infinity;
            for (let end = start + 1; end <= start + maxRegisters; end++) {
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
