import { WattError } from "../common/errors.js";
import type { ReadingMessage } from "../common/reading.js";

/** Longest site, device or class, bytes; InfluxDB refuses a whole series key above 65,535 (1.x models.MaxKeyLength). */
const MAX_NAME_BYTES = 1024;
/** Longest text value, bytes (InfluxDB 1.x line protocol reference, "Data types"). */
const MAX_TEXT_BYTES = 65_535;
/** Times are int64 nanoseconds in every InfluxDB: 2262-04-11 in ms. */
const MAX_TIME_MS = 9_223_372_036_854;

/** Names that InfluxDB or this schema has already taken: `time` is reserved, a column is a tag or a field and never both. */
const TAKEN = new Set(["time", "site", "device", "quality", "bad", "simulated"]);

/** What line protocol has no way to write, or InfluxDB versions read differently: backslash and control characters. */
const UNWRITABLE_NAME = /[\\\p{Cc}]|%(?=[0-9A-F]{2})/gu;
const UNWRITABLE_TEXT = /\p{Cc}|%(?=[0-9A-F]{2})/gu;

/** Enough for any plant; a flow that invents device names without end must not grow the cache without end. */
const CACHE_LIMIT = 10_000;

/**
 * Writes readings as line protocol, one line each, without a line end (InfluxDB line protocol reference):
 * measurement = class, tags device and site, fields = the points, `quality`, and where they apply `bad` ("point:reason …") and
 * `simulated`; time in ms. A number is always a float and a state always a string, so a field never changes its type.
 * Characters that line protocol cannot carry become `%XX`, so that two names never merge and a name never ends a line.
 */
export class LineEncoder {
    /** By device; two sites with a device of one name take turns. */
    private readonly prefixes = new Map<string, { kind: string; site: string; prefix: string }>();
    private readonly keys = new Map<string, string>();

    /** @throws WattError READING_INVALID when a name or text is too long or the time is beyond what InfluxDB stores. */
    encode(message: ReadingMessage): string {
        const { reading, payload, timestamp } = message;
        if (!(timestamp >= 0 && timestamp <= MAX_TIME_MS)) throw invalid("msg.timestamp must lie between 1970 and 2262");
        let line = `${this.prefix(reading.class, reading.device, reading.site)} quality="${text(reading.quality)}"`;
        for (const point in payload) {
            const value = payload[point];
            if (typeof value === "string") line += `,${this.key(point)}="${text(value)}"`;
            else if (Number.isFinite(value)) line += `,${this.key(point)}=${value}`;
        }
        if (reading.bad) line += `,bad="${text(badText(reading.bad))}"`;
        if (reading.simulated) line += ",simulated=true";
        return `${line} ${timestamp}`;
    }

    private prefix(kind: string, device: string, site: string): string {
        const known = this.prefixes.get(device);
        if (known?.kind === kind && known.site === site) return known.prefix;
        // A line that begins with # is a comment, dropped without a word.
        const measurement = name(kind, "class").replace(/^#/, "%23").replace(/[, ]/g, "\\$&");
        const prefix = `${measurement},device=${tag(name(device, "device"))},site=${tag(name(site, "site"))}`;
        remember(this.prefixes, device, { kind, site, prefix });
        return prefix;
    }

    private key(point: string): string {
        let key = this.keys.get(point);
        if (key === undefined) {
            key = tag(name(TAKEN.has(point) ? `${point}_` : point, "point name"));
            remember(this.keys, point, key);
        }
        return key;
    }
}

function remember<T>(cache: Map<string, T>, id: string, value: T): void {
    if (cache.size >= CACHE_LIMIT) cache.clear();
    cache.set(id, value);
}

function badText(bad: Record<string, string>): string {
    return Object.entries(bad)
        .map(([point, reason]) => `${point}:${reason}`)
        .join(" ");
}

function name(value: string, what: string): string {
    return wellFormed(value, MAX_NAME_BYTES, what).replace(UNWRITABLE_NAME, percent);
}

function tag(value: string): string {
    return value.replace(/[,= ]/g, "\\$&");
}

function text(value: string): string {
    // Most texts are a short state.
    if (/^[\w ]{0,64}$/.test(value)) return value;
    return wellFormed(value, MAX_TEXT_BYTES, "text").replace(UNWRITABLE_TEXT, percent).replace(/["\\]/g, "\\$&");
}

/** As UTF-8 will carry it: half a surrogate pair becomes U+FFFD. */
function wellFormed(value: string, maxBytes: number, what: string): string {
    const bytes = Buffer.from(value);
    if (bytes.length > maxBytes) throw invalid(`the ${what} must not be longer than ${maxBytes} bytes`);
    return bytes.toString();
}

function percent(character: string): string {
    return `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`;
}

function invalid(what: string): WattError {
    return new WattError("READING_INVALID", `Not a reading: ${what}.`);
}
