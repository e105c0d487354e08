import type { ReadingMessage, ReadingMeta } from "../common/reading.js";
import type { DeviceState } from "./replay.js";

/** A reading as it waits in the spool. */
export type StoredReading = [timestamp: number, payload: ReadingMessage["payload"], meta: ReadingMeta];

/** What one message of one device gave. */
export interface DataEntry {
    device: string;
    boot?: number;
    seq?: number;
    /** Check sum of what was measured, 32 bits. */
    sum?: number;
    simulated?: boolean;
    readings: StoredReading[];
}

/** A line of the ingest spool: data, the state of some devices, or a device that begins anew. */
export type Entry = DataEntry | { state: DeviceState[] } | { forget: string };

/** One line of JSON. */
export function encodeEntry(entry: Entry): string {
    return `${JSON.stringify(entry)}\n`;
}

/** What `encodeEntry` wrote; undefined for what another version of this program wrote. */
export function decodeEntry(line: string): Entry | undefined {
    const entry = JSON.parse(line) as Entry;
    return "readings" in entry || "state" in entry || "forget" in entry ? entry : undefined;
}

/** A reading as it goes to the flow. */
export function messageOf([timestamp, payload, reading]: StoredReading): ReadingMessage {
    return { topic: `${reading.site}/${reading.device}`, payload, timestamp, reading };
}
