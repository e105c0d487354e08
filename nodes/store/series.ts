import type { PointValue, ReadingMessage } from "../common/reading.js";

/** What the series keeps of a reading; a ReadingMessage fits. */
export type Sample = Pick<ReadingMessage, "payload" | "timestamp"> & { reading: Pick<ReadingMessage["reading"], "site" | "device" | "class"> };

/** Width of a row: as measured, or rolled up over a minute, an hour (UTC) or a local day of the site. */
export type Resolution = "raw" | "minute" | "hour" | "day";

/** A point over one bucket. Texts carry only `last` and `count`. */
export interface Rollup {
    count: number;
    last: PointValue;
    min?: number;
    max?: number;
    sum?: number;
    mean?: number;
}

export interface SeriesQuery {
    site: string;
    device: string;
    /** Only these points; all when absent. */
    points?: string[];
    /** ms UTC, inclusive. */
    from: number;
    /** ms UTC, exclusive. */
    to: number;
    /** Newest so many rows; 10,000 unless told. */
    limit?: number;
}

export interface RawRow {
    /** Sample time, ms UTC. */
    t: number;
    values: Record<string, PointValue>;
}

export interface RollupRow {
    /** Start of the bucket, ms UTC. */
    t: number;
    values: Record<string, Rollup>;
}

/** The newest value of every point of one device. */
export interface Latest {
    site: string;
    device: string;
    class: string;
    /** Time of the newest sample, ms UTC. */
    t: number;
    values: Record<string, PointValue>;
}

/** Local time series. */
export class Series {
    private readonly rows = new Map<string, { sample: Sample; at: Map<number, Record<string, PointValue>> }>();
    private readonly newest = new Map<string, Latest>();

    /**
     * Takes a sample into the next commit. The same (site, device, point, time) again replaces the value.
     * False when its time cannot be kept: before the clock was set, or older than the raw data that is kept.
     */
    append(sample: Sample): boolean {
        const { site, device, class: kind } = sample.reading;
        const key = `${site}/${device}`;
        const entry = this.rows.get(key) ?? { sample, at: new Map<number, Record<string, PointValue>>() };
        this.rows.set(key, entry);
        entry.at.set(sample.timestamp, { ...entry.at.get(sample.timestamp), ...sample.payload });
        const latest = this.newest.get(key);
        if (!latest || latest.t <= sample.timestamp) {
            this.newest.set(key, { site, device, class: kind, t: sample.timestamp, values: { ...latest?.values, ...sample.payload } });
        }
        return true;
    }

    /** Samples in [from, to), oldest first. */
    async query(query: SeriesQuery): Promise<RawRow[]> {
        const entry = this.rows.get(`${query.site}/${query.device}`);
        return [...(entry?.at ?? [])]
            .filter(([t]) => t >= query.from && t < query.to)
            .map(([t, values]) => ({ t, values }))
            .toSorted((a, b) => a.t - b.t)
            .slice(-(query.limit ?? 10_000));
    }

    /** Buckets that start in [from, to), oldest first; the open bucket included. */
    async rollups(_resolution: Exclude<Resolution, "raw">, _query: SeriesQuery): Promise<RollupRow[]> {
        return [];
    }

    /** Newest values of every device, from memory. */
    latest(): Latest[] {
        return [...this.newest.values()];
    }

    /** Commits what waits. */
    async flush(): Promise<void> {}

    async close(): Promise<void> {
        await this.flush();
    }
}
