import { emptySample, type Sample } from "../common/sample.js";
import type { MapItem, MapPoint, ModbusMap } from "./map.js";

/** Decodes the polls of one device by its map, and remembers what it needs to catch answers that cannot be true. */
export class MapDecoder {
    private readonly last = new Map<MapPoint, { value: number; at: number }>();
    private readonly proof: ReadonlySet<MapPoint>;
    /** Counters that were always zero so far. */
    private uncounted: readonly MapPoint[];
    /** Those that had counted. */
    private readonly counted = new Set<MapPoint>();

    constructor(map: ModbusMap) {
        this.proof = new Set(map.proof);
        this.uncounted = map.points.filter(({ kind }) => kind === "counter");
    }

    /**
     * The points of one poll: all items that were read in it, with their data or why there is none.
     *
     * An answer is not believed, and all of the poll's points are bad with `decode`, when a point of the map's `proof` is out of
     * its valid range, or when all registers are zero and a point of `proof`, or a counter that had counted, is among them: then
     * the device is starting or stopping, or a gateway sent an older or shifted answer, and values that look possible are wrong too.
     * @param at Monotonic ms.
     */
    decode(read: ReadonlyMap<MapItem, Buffer | Error>, at: number): Sample {
        const into = emptySample();
        let isZero = true;
        for (const [item, data] of read) {
            if (data instanceof Error) {
                for (const { name } of item.points) into.bad[name] = "comm";
                continue;
            }
            isZero &&= data.every((byte) => byte === 0);
            for (const point of item.points) point.decode(data, into);
        }
        if (!this.isBelieved(read, into, isZero)) return disbelieved(read, into);
        if (this.uncounted.length > 0) this.count(into);
        for (const { points } of read.keys()) {
            for (const point of points) if (point.maxStepPerMs !== undefined) this.checkStep(point, point.maxStepPerMs, into, at);
        }
        return into;
    }

    private isBelieved(read: ReadonlyMap<MapItem, unknown>, { bad }: Sample, isZero: boolean): boolean {
        for (const point of this.proof) {
            const reason = bad[point.name];
            if (reason !== undefined && reason !== "missing" && reason !== "comm") return false;
        }
        if (!isZero) return true;
        return ![...read].some(([{ points }, data]) => points.some((point) => this.proof.has(point) || (Buffer.isBuffer(data) && this.counted.has(point))));
    }

    private count({ counters }: Sample): void {
        this.uncounted = this.uncounted.filter((point) => {
            const counts = (counters[point.name]?.wh ?? 0) > 0;
            if (counts) this.counted.add(point);
            return !counts;
        });
    }

    /** What is allowed grows with the time since the last good value, so a true jump is believed before long. */
    private checkStep(point: MapPoint, perMs: number, { values, bad }: Sample, at: number): void {
        const value = values[point.name];
        if (typeof value !== "number") return;
        const last = this.last.get(point);
        if (last && Math.abs(value - last.value) > perMs * Math.max(1, at - last.at)) {
            delete values[point.name];
            bad[point.name] = "range";
        } else this.last.set(point, { value, at });
    }
}

function disbelieved(read: ReadonlyMap<MapItem, Buffer | Error>, { bad }: Sample): Sample {
    const into = emptySample();
    for (const { points } of read.keys()) for (const { name } of points) into.bad[name] = bad[name] === "comm" ? "comm" : "decode";
    return into;
}
