import type { PointValue, ReadingMessage } from "./reading.js";

/** When a number of a point has changed, instead of the report's own rule. */
export interface Deadband {
    /** Moved by more than this, in the point's unit. Where `pct` is given too, the wider of both counts. */
    abs?: number | undefined;
    /** Moved by more than this share of the largest seen, in %. */
    pct?: number | undefined;
    /** Sent after this time though it did not move, ms. */
    maxAgeMs?: number | undefined;
}

export interface ReportOptions {
    /** Sends one message a point instead of one a sample. */
    perPoint: boolean;
    /** Sends what changed only, and everything once a heartbeat. */
    byException: boolean;
    /** A number that moved by no more than this share, in %, of the largest seen of its point has not changed. */
    deadbandPct: number;
    heartbeatMs: number;
    /** By point. */
    deadbands?: ReadonlyMap<string, Deadband>;
}

/** One point of a sample, as charts and gauges take it. */
export interface PointMessage {
    /** `<site>/<device>/<point>` */
    topic: string;
    payload: PointValue;
    timestamp: number;
    reading: ReadingMessage["reading"];
}

interface Sent {
    at: number;
    quality: string;
    payload: Record<string, PointValue>;
}

/** Decides what of a source's samples becomes messages, and numbers them by device. */
export class Reporter {
    private readonly sent = new Map<string, Sent>();
    private readonly largest = new Map<string, number>();
    private readonly seq = new Map<string, number>();
    /** When points with a largest age were sent last. */
    private readonly toldAt = new Map<string, number>();

    constructor(private readonly options: ReportOptions) {}

    /**
     * The messages to send for a sample, each device's in `seq` order.
     * @param at Monotonic ms.
     */
    take(sample: ReadingMessage, at: number): (ReadingMessage | PointMessage)[] {
        const { byException, perPoint } = this.options;
        const changed = byException ? this.changes(sample, at) : perPoint ? Object.keys(sample.payload) : [];
        if (changed === undefined || (changed.length === 0 && perPoint)) return [];
        const seq = (this.seq.get(sample.topic) ?? 0) + 1;
        this.seq.set(sample.topic, seq);
        const reading = { ...sample.reading, seq };
        if (!perPoint) return [{ ...sample, reading }];
        const { topic, payload, timestamp } = sample;
        return changed.map((point) => ({ topic: `${topic}/${point}`, payload: payload[point]!, timestamp, reading }));
    }

    /** The points to send; undefined when there is nothing to say. */
    private changes(sample: ReadingMessage, at: number): string[] | undefined {
        const { topic, payload } = sample;
        const { quality, bad = {} } = sample.reading;
        const points = Object.keys(payload);
        const last = this.sent.get(topic);
        const moved = points.filter((point) => {
            const key = `${topic}/${point}`;
            const rule = this.options.deadbands?.get(point);
            return this.moved(key, rule, last?.payload[point], payload[point]!) || this.isOld(key, rule, at);
        });
        // Absent without a reason: not asked for this time, as slow values are by most polls.
        const lost = Object.keys(bad).filter((point) => !(point in payload));
        const gone = lost.some((point) => last && point in last.payload);
        const due = !last || at - last.at >= this.options.heartbeatMs || quality !== last.quality;
        if (!due && !gone && moved.length === 0) return undefined;
        const told = due || !this.options.perPoint ? points : moved;
        // What is not told is held against the value that was sent, so that a slow drift shows.
        const values = { ...last?.payload };
        for (const point of told) {
            values[point] = payload[point]!;
            if (this.options.deadbands?.get(point)?.maxAgeMs !== undefined) this.toldAt.set(`${topic}/${point}`, at);
        }
        for (const point of lost) delete values[point];
        this.sent.set(topic, told === points ? { at, quality, payload: values } : { ...last!, payload: values });
        return told;
    }

    private moved(key: string, rule: Deadband | undefined, last: PointValue | undefined, value: PointValue): boolean {
        if (typeof value !== "number") return value !== last;
        const largest = Math.max(this.largest.get(key) ?? 0, Math.abs(value));
        this.largest.set(key, largest);
        const pct = rule?.pct ?? (rule?.abs === undefined ? this.options.deadbandPct : 0);
        return typeof last !== "number" || Math.abs(value - last) > Math.max(rule?.abs ?? 0, (pct / 100) * largest);
    }

    private isOld(key: string, rule: Deadband | undefined, at: number): boolean {
        return rule?.maxAgeMs !== undefined && at - (this.toldAt.get(key) ?? -Infinity) >= rule.maxAgeMs;
    }
}
