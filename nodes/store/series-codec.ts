import { deflateRawSync, inflateRawSync } from "node:zlib";
import type { PointValue } from "../common/reading.js";

/** Values of one device at one time. */
export interface RawRow {
    /** Sample time, ms UTC. */
    t: number;
    values: Record<string, PointValue>;
}

/** A point over one bucket. Texts carry only `count` and `last`. */
export interface Rollup {
    /** Samples in it. */
    count: number;
    last: PointValue;
    min?: number;
    max?: number;
    sum?: number;
    mean?: number;
}

export interface RollupRow {
    /** Start of the bucket, ms UTC. */
    t: number;
    values: Record<string, Rollup>;
}

/** The point names of one device; a stored value names its point by the place in this list. */
export class Names {
    private readonly places = new Map<string, number>();

    constructor(readonly list: string[] = []) {
        for (const [place, name] of list.entries()) this.places.set(name, place);
    }

    /** The place of a name, or undefined for a new one. */
    placeOf(name: string): number | undefined {
        return this.places.get(name);
    }

    add(name: string): number {
        this.places.set(name, this.list.length);
        return this.list.push(name) - 1;
    }
}

/** Samples of one device as one value of the database: `[[ms after t0, …], place, [value, …], …]`, null where a sample has no value. */
export function encodeSamples(rows: RawRow[], t0: number, names: Names): Buffer {
    const columns: (PointValue | null)[][] = [];
    for (const [i, { values }] of rows.entries()) {
        for (const name in values) {
            const place = names.placeOf(name);
            if (place !== undefined) (columns[place] ??= Array.from<null>({ length: rows.length }).fill(null))[i] = values[name]!;
        }
    }
    const packed: unknown[] = [rows.map(({ t }) => t - t0)];
    for (const [place, column] of columns.entries()) if (column) packed.push(place, column);
    return pack(packed);
}

export function decodeSamples(blob: Uint8Array, t0: number, names: Names): RawRow[] {
    const [times, ...columns] = unpack(blob) as [number[], ...(number | (PointValue | null)[])[]];
    const rows: RawRow[] = times.map((t) => ({ t: t0 + t, values: {} }));
    for (let c = 0; c < columns.length; c += 2) {
        const name = names.list[columns[c] as number];
        if (name === undefined) continue;
        for (const [i, value] of (columns[c + 1] as (PointValue | null)[]).entries()) {
            if (value !== null) rows[i]!.values[name] = value;
        }
    }
    return rows;
}

/** A bucket: by place `[count, last]`, and `min, max, sum` behind it unless all samples are the same number; 0 where there is nothing. */
export function encodeRollups(values: Record<string, Rollup>, names: Names): Buffer {
    const packed: unknown[] = [];
    for (const [name, { count, last, min, max, sum }] of Object.entries(values)) {
        const place = names.placeOf(name);
        if (place === undefined) continue;
        const isSteady = sum === undefined || (min === last && max === last);
        packed[place] = isSteady ? [count, last] : [count, last, min, max, sum];
    }
    return pack(Array.from(packed, (entry) => entry ?? 0));
}

export function decodeRollups(blob: Uint8Array, names: Names): Record<string, Rollup> {
    const values: Record<string, Rollup> = {};
    for (const [place, entry] of (unpack(blob) as (0 | [number, PointValue, number?, number?, number?])[]).entries()) {
        const name = names.list[place];
        if (entry === 0 || name === undefined) continue;
        const [count, last, min, max, sum] = entry;
        if (typeof last === "string" && sum === undefined) values[name] = { count, last };
        else values[name] = withMean({ count, last, min: min ?? (last as number), max: max ?? (last as number), sum: sum ?? count * (last as number) });
    }
    return values;
}

/** Rolls samples up; they must be in the order of time and hold each time once. */
export function aggregate(rows: RawRow[]): Record<string, Rollup> {
    const total: Record<string, Rollup> = {};
    for (const { values } of rows) {
        for (const [name, value] of Object.entries(values)) {
            add(total, name, typeof value === "number" ? { count: 1, last: value, min: value, max: value, sum: value } : { count: 1, last: value });
        }
    }
    return withMeans(total);
}

/** Buckets, in the order of time, as one. */
export function combine(buckets: Record<string, Rollup>[]): Record<string, Rollup> {
    const total: Record<string, Rollup> = {};
    for (const bucket of buckets) {
        for (const [name, one] of Object.entries(bucket)) add(total, name, { ...one });
    }
    return withMeans(total);
}

function add(total: Record<string, Rollup>, name: string, one: Rollup): void {
    const all = total[name];
    total[name] = all ? merge(all, one) : one;
}

function withMeans(total: Record<string, Rollup>): Record<string, Rollup> {
    for (const one of Object.values(total)) withMean(one);
    return total;
}

/** Statistics are of numbers alone; where a point has been a text as well, that shows in `last` only. */
function merge(all: Rollup, one: Rollup): Rollup {
    all.last = one.last;
    if (all.sum === undefined && one.sum !== undefined) return one;
    if (one.sum === undefined && all.sum !== undefined) return all;
    all.count += one.count;
    if (all.sum !== undefined && one.sum !== undefined) {
        all.sum += one.sum;
        all.min = Math.min(all.min!, one.min!);
        all.max = Math.max(all.max!, one.max!);
    }
    return all;
}

function withMean(one: Rollup): Rollup {
    if (one.sum !== undefined) one.mean = one.sum / one.count;
    return one;
}

/** Level 1 deflate: of a chunk of ten samples nothing better is smaller by a page. */
function pack(content: unknown): Buffer {
    return deflateRawSync(JSON.stringify(content), { level: 1 });
}

function unpack(blob: Uint8Array): unknown {
    return JSON.parse(inflateRawSync(blob).toString());
}
