import type { Deadband } from "../common/report.js";
import type { BlockReaderOptions } from "./block-reader.js";
import type { DeviceNeeds } from "./links.js";
import type { MapItem, ModbusMap } from "./map.js";
import type { LinkCost } from "./plan.js";
import type { PollGroup } from "./poller.js";

/** Of a group whose map states none, ms. */
const DEFAULT_PERIOD_MS = 5_000;

/** What of a map is planned and read together. */
export interface ReadGroup extends PollGroup {
    /** The map's groups in it. */
    names: string[];
    items: MapItem[];
}

/**
 * The fastest groups as one, each slower one by itself, the fastest first; groups without points are left out.
 * @param periods By group, ms, instead of the map's.
 */
export function readGroups({ groups, items }: Pick<ModbusMap, "groups" | "items">, periods: Readonly<Record<string, number>>): ReadGroup[] {
    const all = groups.map(({ name, everyMs = DEFAULT_PERIOD_MS }) => {
        const periodMs = Object.hasOwn(periods, name) ? periods[name]! : everyMs;
        return { name, names: [name], periodMs, items: items.filter((item) => item.group === name) };
    });
    const sorted = all.filter((group) => group.items.length > 0).toSorted((a, b) => a.periodMs - b.periodMs);
    const fast = sorted.filter(({ periodMs }) => periodMs === sorted[0]!.periodMs);
    const names = fast.map(({ name }) => name);
    return [
        { name: names.join("+"), names, periodMs: fast[0]!.periodMs, items: items.filter(({ group }) => names.includes(group)) },
        ...sorted.slice(fast.length),
    ];
}

/** Which points have a deadband of their own. */
export function deadbandsOf({ points }: Pick<ModbusMap, "points">): Map<string, Deadband> {
    return new Map(points.flatMap(({ name, deadband }) => (deadband ? [[name, deadband] as const] : [])));
}

/** How a map wants to be read over a link. */
export function planOptionsOf({ maxRegisters, gaps, readable, forbidden, barriers }: ModbusMap, cost: LinkCost): BlockReaderOptions {
    return { maxRegisters, gaps, readable, forbidden, barriers, cost };
}

export function needsOf({ timeoutMs = 0, minIntervalMs, connectPauseMs }: ModbusMap): DeviceNeeds {
    return { timeoutMs, gapMs: minIntervalMs, connectPauseMs };
}
