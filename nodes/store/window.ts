import { DateTime } from "luxon";
import { localDay } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import type { Resolution } from "./series.js";

/** Half-open, ms UTC. */
export interface Window {
    from: number;
    to: number;
}

const HOUR_MS = 3_600_000;
const LENGTHS: Record<string, number> = { min: 60_000, h: HOUR_MS, d: 24 * HOUR_MS, w: 168 * HOUR_MS };

/**
 * A stretch of time in words: `today`, `yesterday`, `this week` (from Monday), `this month`, `this year`, all by the calendar of
 * `zone`, or `last 24 h` in min, h, d (24 h) or w up to now.
 * @throws WattError QUERY_INVALID
 */
export function parseWindow(text: string, now: number, zone: string): Window {
    const words = text.trim().toLowerCase().replace(/\s+/g, " ");
    const day = localDay(now, zone);
    if (words === "today") return { from: day.start, to: day.end };
    if (words === "yesterday") return { from: localDay(day.start - 1, zone).start, to: day.start };
    const calendar = /^this (week|month|year)$/.exec(words)?.[1] as "week" | "month" | "year" | undefined;
    if (calendar) {
        const start = DateTime.fromMillis(now, { zone }).startOf(calendar);
        return { from: start.toMillis(), to: start.plus({ [calendar]: 1 }).toMillis() };
    }
    const [, count, unit] = /^last (\d{1,6}) ?(min|h|d|w)/.exec(words) ?? [];
    if (count && unit) return { from: now - Number(count) * LENGTHS[unit]!, to: now + 1 };
    throw new WattError("QUERY_INVALID", `The window "${text.slice(0, 50)}" must be today, yesterday, this week, this month, this year, or such as "last 24 h".`);
}

/** Fine enough to see the shape, and at most some 1,500 values a point. */
export function fittingResolution({ from, to }: Window): Resolution | "raw" {
    const hours = (to - from) / HOUR_MS;
    if (hours <= 1.1) return "raw";
    // A local day may have 25 h.
    if (hours <= 26) return "minute";
    return hours <= 62 * 24 ? "hour" : "day";
}
