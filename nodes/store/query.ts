import { z } from "zod";
import { choiceField, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { createReading, type PointValue } from "../common/reading.js";
import { unitOf } from "../common/units.js";
import type { InfluxRow } from "./influxql.js";
import type { Latest, Resolution, Rollup, Series } from "./series.js";
import { fittingResolution, parseWindow, type Window } from "./window.js";

/** Rows in one answer; beyond it the newest of each device are given. */
const MAX_ROWS = 50_000;

/** What a Date can hold (ECMAScript, Time Values). */
const MAX_TIME_MS = 8.64e15;

const listField = z.preprocess(
    (value) => (typeof value === "string" ? value.split(",").map((part) => part.trim()).filter(Boolean) : (value ?? [])),
    z.array(z.string({ error: "must be names" }), { error: "must be names, separated by commas" }),
);
const timeField = z.union([z.number(), z.string(), z.date()], { error: "must be ms since 1970 or an ISO date" }).transform((value, context) => {
    const time = typeof value === "number" ? value : Date.parse(String(value));
    if (Math.abs(time) <= MAX_TIME_MS) return time;
    context.addIssue({ code: "custom", message: "must be ms since 1970 or an ISO date" });
    return z.NEVER;
});

/** What to read from the series; `from` and `to` (ms or ISO) win over `window`. */
export const querySchema = z.object({
    what: choiceField(["range", "latest"], "range"),
    devices: listField,
    points: listField,
    window: textField("last 24 h"),
    from: timeField.optional(),
    to: timeField.optional(),
    resolution: choiceField(["auto", "raw", "minute", "hour", "day"], "auto"),
    statistic: choiceField(["auto", "mean", "min", "max", "last"], "auto"),
    format: choiceField(["chart", "table", "readings"], "chart"),
});
export type Query = z.output<typeof querySchema>;
export type Format = Query["format"];

/** What to read from InfluxDB by a text of one's own, and the values of the names in it. */
export const influxQuerySchema = querySchema.extend({
    influxql: textField(""),
    params: z.record(z.string(), z.union([z.string(), z.number()])).default({}),
});

/** A chart's point: x in ms UTC, y the value, series its name. */
export interface ChartPoint {
    x: number;
    y: number;
    series: string;
}

interface Row {
    site: string;
    device: string;
    class: string;
    t: number;
    values: Record<string, PointValue>;
}

/** The stretch of time a query means. */
export function windowOf(query: Query, now: number, zone: string): Window {
    const window = query.from === undefined ? parseWindow(query.window, now, zone) : { from: query.from, to: now + 1 };
    const { from, to } = { ...window, ...(query.to !== undefined && { to: query.to }) };
    if (from >= to) throw new WattError("QUERY_INVALID", "The window ends before it starts.");
    return { from, to };
}

/**
 * Reads the series and shapes the answer. `cut` tells that a device has more rows than were read.
 * @throws WattError QUERY_INVALID
 */
export async function querySeries(
    series: Pick<Series, "latest" | "query" | "rollups">,
    query: Query,
    now: number,
    zone: string,
): Promise<{ payload: unknown[]; cut: boolean }> {
    const devices = series.latest().filter((device) => isMeant(device, query.devices));
    const rows: Row[] = [];
    let cut = false;
    if (query.what === "latest") {
        for (const device of devices) rows.push({ ...device, values: pick(device.values, query.points) });
    } else {
        const window = windowOf(query, now, zone);
        const resolution = query.resolution === "auto" ? fittingResolution(window) : query.resolution;
        const limit = Math.ceil(MAX_ROWS / Math.max(1, devices.length));
        for (const device of devices) {
            const found = await rowsOf(series, device, query, { ...window, resolution, limit });
            cut ||= found.length >= limit;
            rows.push(...found);
        }
    }
    const filled = rows.filter(({ values }) => Object.keys(values).length > 0).toSorted((a, b) => a.t - b.t);
    return { payload: shape(filled, query.format, devices.length > 1), cut };
}

async function rowsOf(
    series: Pick<Series, "query" | "rollups">,
    { site, device, class: kind }: Latest,
    query: Query,
    { resolution, ...range }: Window & { resolution: Resolution | "raw"; limit: number },
): Promise<Row[]> {
    const ask = { site, device, ...range, ...(query.points.length > 0 && { points: query.points }) };
    if (resolution === "raw") {
        return (await series.query(ask)).map(({ t, values }) => ({ site, device, class: kind, t, values }));
    }
    return (await series.rollups(resolution, ask)).map(({ t, values }) => {
        const chosen = Object.entries(values).flatMap(([point, rollup]) => {
            const value = statistic(point, rollup, query.statistic);
            return value === undefined ? [] : [[point, value] as const];
        });
        return { site, device, class: kind, t, values: Object.fromEntries(chosen) };
    });
}

/** A counter is what it was last, a measurement its mean. */
function statistic(point: string, rollup: Rollup, wanted: Query["statistic"]): PointValue | undefined {
    if (wanted !== "auto") return rollup[wanted];
    return unitOf(point)?.endsWith("h") ? rollup.last : (rollup.mean ?? rollup.last);
}

/** Devices by `<site>/<device>` or by `<device>`; none named means all. */
function isMeant({ site, device }: Latest, names: string[]): boolean {
    return names.length === 0 || names.includes(device) || names.includes(`${site}/${device}`);
}

function pick(values: Record<string, PointValue>, points: string[]): Record<string, PointValue> {
    return points.length === 0 ? values : Object.fromEntries(Object.entries(values).filter(([point]) => points.includes(point)));
}

function shape(rows: Row[], format: Format, several: boolean): unknown[] {
    if (format === "table") return rows.map(({ site, device, t, values }) => ({ time: t, site, device, ...values }));
    if (format === "readings") {
        return rows.map(({ site, device, class: kind, t, values }) => createReading({ site, device, class: kind, seq: 0, quality: "good" }, t, values));
    }
    return rows.flatMap(({ device, t, values }) =>
        Object.entries(values).flatMap(([point, y]): ChartPoint[] =>
            typeof y === "number" ? [{ x: t, y, series: several ? `${device} ${point}` : point }] : [],
        ),
    );
}

/** Rows of InfluxQL as a table or a chart: each number a point, named by its column and the tags beside it. */
export function shapeInflux(rows: InfluxRow[], format: Format): unknown[] {
    if (format === "table") return rows;
    if (format === "readings") throw new WattError("QUERY_INVALID", "InfluxQL gives rows: choose the format chart or table.");
    return rows.flatMap((row): ChartPoint[] => {
        const { time, ...columns } = row;
        const entries = Object.entries(columns);
        const tags = entries.flatMap(([, value]) => (typeof value === "string" ? [value] : []));
        const numbers = entries.filter((entry): entry is [string, number] => typeof entry[1] === "number");
        return numbers.map(([column, y]) => ({ x: Number(time), y, series: [...tags, column].join(" ") }));
    });
}
