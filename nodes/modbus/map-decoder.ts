import { emptySample, type Sample } from "../common/sample.js";
import { type Answer, offsetOf } from "./block-reader.js";
import type { MapItem, MapPoint, ModbusMap } from "./map.js";
import { isBits } from "./pdu.js";

/** What was read of a map's items. */
export type MapAnswers = readonly Answer<MapItem>[];

/** Decodes the polls of one device by its map, and remembers what it needs to catch answers that cannot be true. */
export class MapDecoder {
    private readonly last = new Map<MapPoint, { value: number; at: number }>();
    private readonly proof: ReadonlySet<MapPoint>;
    private readonly hasSteps: boolean;
    /** Counters that were always zero so far. */
    private uncounted: readonly MapPoint[];
    /** Those that had counted. */
    private readonly counted = new Set<MapPoint>();

    constructor(map: ModbusMap) {
        this.proof = new Set(map.proof);
        this.hasSteps = map.points.some(({ maxStepPerMs }) => maxStepPerMs !== undefined);
        this.uncounted = map.points.filter(({ kind }) => kind === "counter");
    }

    /**
     * The points of one poll.
     *
     * An answer is not believed, and all of the poll's points are bad with `decode`, when a point of the map's `proof` is out of
     * its valid range or an empty text, or when all registers are zero and a point of `proof`, or a counter that had counted, is among them: then
     * the device is starting or stopping, or a gateway sent an older or shifted answer, and values that look possible are wrong too.
     * @param at Monotonic ms.
     */
    decode(answers: MapAnswers, at: number): Sample {
        const into = emptySample();
        let isZero = true;
        for (const { items, address, data } of answers) {
            if (data instanceof Error) {
                for (const { points } of items) for (const { name } of points) into.bad[name] = "comm";
                continue;
            }
            for (const item of items) {
                const offset = offsetOf({ address }, item);
                isZero &&= isBlank(item, data, offset);
                for (const point of item.points) point.decode(data, into, offset);
            }
        }
        if (!this.isBelieved(answers, into, isZero)) return disbelieved(answers, into);
        if (this.uncounted.length > 0) this.count(into);
        if (this.hasSteps) for (const point of pointsOf(answers)) if (point.maxStepPerMs !== undefined) this.checkStep(point, point.maxStepPerMs, into, at);
        return into;
    }

    private isBelieved(answers: MapAnswers, { bad }: Sample, isZero: boolean): boolean {
        for (const point of this.proof) {
            const reason = bad[point.name];
            if (reason !== undefined && reason !== "comm" && (reason !== "missing" || point.kind === "text")) return false;
        }
        if (!isZero) return true;
        return !answers.some(({ items, data }) => items.some(({ points }) => points.some((point) => this.proof.has(point) || (Buffer.isBuffer(data) && this.counted.has(point)))));
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

function disbelieved(answers: MapAnswers, { bad }: Sample): Sample {
    const into = emptySample();
    for (const { name } of pointsOf(answers)) into.bad[name] = bad[name] === "comm" ? "comm" : "decode";
    return into;
}

export function pointsOf(answers: MapAnswers): MapPoint[] {
    return answers.flatMap(({ items }) => items.flatMap(({ points }) => points));
}

/** Whether an item that begins at `offset` holds zeros alone. */
export function isBlank({ table, size }: MapItem, data: Buffer, offset: number): boolean {
    const ofBits = isBits(table);
    const end = offset + size * (ofBits ? 1 : 2);
    for (let at = offset; at < end; at++) if (ofBits ? (data[at >> 3]! >> (at & 7)) & 1 : data[at] !== 0) return false;
    return true;
}
