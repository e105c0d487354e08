import { rm } from "node:fs/promises";
import { promisify } from "node:util";
import { crc32, gunzip } from "node:zlib";
import { isClockSet, systemClock, type Clock } from "../common/clock.js";
import { errorText, WattError } from "../common/errors.js";
import type { BadReason, PointValue, ReadingMessage, ReadingMeta } from "../common/reading.js";
import type { StatusKind } from "../common/status.js";
import { qualityOf } from "../common/totals.js";
import { isPointName, LIMITS, unitOf } from "../common/units.js";
import type { SpoolRecord } from "../store/delivery.js";
import type { Files } from "../store/files.js";
import { type Kept, Spool } from "../store/spool.js";
import { Devices } from "./devices.js";
import { type DataEntry, decodeEntry, encodeEntry, type Entry, messageOf, type StoredReading } from "./entry.js";
import { Feed, type FeedOptions } from "./feed.js";
import type { Sender } from "./keys.js";
import { DEFAULT_LIMITS, type Limits, Rates } from "./limits.js";
import { isDeviceName, LONGEST_NAME } from "./names.js";
import type { Arrival, Decoded, Decoder, DeviceSample } from "./preset.js";
import { instantOf, sampleTime } from "./time.js";

const expand = promisify(gunzip);

/** What became of a message whose data are on disk. */
export interface Receipt {
    /** Readings kept. */
    accepted: number;
    /** Messages that were kept before. */
    duplicates: number;
    /** Samples that may be old, without a time that can be true. */
    stale: number;
    /** Values without a time that a later one of the same message took the place of. */
    undated: number;
}

/** A message that was not taken, without any secret of its. */
export interface Refusal {
    code: string;
    reason: string;
    /** As far as it is known. */
    device?: string;
    via: Arrival["via"];
    /** ms UTC. */
    at: number;
}

/** What is shown of a device that sends, or tries to. */
export interface SeenDevice {
    device: string;
    via: Arrival["via"];
    /** Of its last message, ms UTC. */
    at: number;
    /** Messages. */
    kept: number;
    refused: number;
    /** Code of the last refusal, while nothing was kept since. */
    problem?: string;
    /** Names of values that were passed over for want of a unit. */
    unmapped?: string[];
}

export interface IngestOptions {
    /** Of this node alone. */
    folder: string;
    site: string;
    /** Of devices that do not say what they are. */
    deviceClass?: string;
    limits?: Partial<Limits>;
    /** True for a device with a key of its own: the installer named it, so it is no part of the limit of devices. */
    isListed?: (device: string) => boolean;
    /** Messages wait so long for others to be written together, ms; 0 writes at once what came while the disk was busy. */
    commitMs?: number;
    maxBytes?: number;
    /** The state of all devices is written again after so many entries. */
    stateEntries?: number;
    /** Between attempts to write while the disk takes nothing, ms. */
    retryMs?: number;
    clock?: Clock;
    files?: Files;
    /** In the order of their arrival, once they are on disk. */
    onReading(message: ReadingMessage): void;
    /** Resolves when the readings handed on so far are safe with who took them; rejects while they are not. */
    settled?: () => Promise<void>;
    onRefusal?(refusal: Refusal): void;
    onWarning?(error: WattError): void;
}

const STATE_ENTRIES = 20_000;
/** It is written after this time, too, ms: the last of a device that is silent must not keep all that came since. */
const STATE_MS = 86_400_000;
const STATE_LINE_DEVICES = 500;
/** The places of the flow and of the devices' state are written at most so often, ms. */
const CURSOR_MS = 10_000;
/** So many readings may wait for the flow. */
const MOST_WAITING = 100_000;
/** Of so many messages none waits for others. */
const COMMIT_ENTRIES = 1000;
/** Names that only tried to send, to be shown beside the devices. */
const MOST_UNKNOWN = 100;
/** Where the spool's cursor of the devices' state is. */
const STATE = "devices";

/** Folders that a slow disk has not given back yet. */
const leaving = new Map<string, Promise<void>>();

/** Refusals that end by themselves: the same message is taken later. */
const PASSING = new Set(["RATE_LIMITED", "STORE_DOWN", "STORE_UNSURE", "STORE_BUSY", "CLOCK_NOT_SET"]);

/** True for a refusal of a message that is to be sent again. */
export function isPassing({ code }: WattError): boolean {
    return PASSING.has(code);
}

/**
 * Takes what devices send, whichever way it came: limits, then sender, form, time, number, values; an answer only once it is on disk,
 * and then to the flow, in order, again after a crash until it was handed on.
 */
export class Ingest {
    /** Rejects with a WattError where the folder cannot be used. */
    readonly ready: Promise<void>;
    readonly limits: Limits;
    /** Messages refused since the start. */
    refused = 0;
    private readonly spool: Spool;
    private readonly devices: Devices;
    private readonly rates: Rates;
    private readonly clock: Clock;
    private readonly listed = new Map<string, SeenDevice>();
    private feed: Feed | undefined;
    private isOpen = false;
    private isFlowing = false;
    /** Kept in memory only, until the disk takes writes again. */
    private limbo: DataEntry[] = [];
    private sinceState = 0;
    private stateAt: number;
    /** Everything before this entry is in the last state that was begun. */
    private stateFrom = 0;
    private isStating = false;

    constructor(private readonly options: IngestOptions) {
        const { folder, limits, commitMs = 0, maxBytes = 64 * 1024 * 1024, retryMs = 2000, clock = systemClock, files } = options;
        this.clock = clock;
        this.limits = { ...DEFAULT_LIMITS, ...limits };
        this.devices = new Devices({ most: this.limits.devices, isListed: options.isListed ?? (() => false) }, (error) => options.onWarning?.(error));
        this.rates = new Rates(this.limits);
        this.stateAt = clock.monotonic();
        this.spool = new Spool({ folder, commitMs, commitEntries: commitMs > 0 ? COMMIT_ENTRIES : 1, maxBytes, keepAll: true, retryMs, cursorMs: CURSOR_MS, clock, after: leaving.get(folder), ...(files && { files }) });
        this.spool.onChange(() => this.spoolChanged());
        this.ready = this.open();
        this.ready.catch(() => undefined);
    }

    /** The flow runs: hands readings on to it, those of the last seconds once more. */
    start(): void {
        this.isFlowing = true;
        this.feed?.start();
    }

    /** Nodes of the flow are about to stop: nothing is handed on until the next start. */
    stop(): void {
        this.isFlowing = false;
        this.feed?.stop();
    }

    /**
     * Resolves once all that a message holds is on disk.
     * @throws WattError PAYLOAD_INVALID, BODY_TOO_LARGE, DEVICE_FORBIDDEN, REPLAYED, DEVICE_TWICE, TOO_MANY_DEVICES, RATE_LIMITED,
     * CLOCK_NOT_SET, STORE_DOWN, STORE_BUSY; STORE_UNSURE when the disk failed while it was written; INTERNAL
     */
    async take(decoder: Decoder, arrival: Arrival, sender: Sender): Promise<Receipt> {
        if (!this.isOpen) await this.ready;
        const found: Decoded[] = [];
        try {
            this.checkStore();
            found.push(...this.decode(decoder, arrival));
            return await this.admit(found, arrival, sender);
        } catch (error) {
            throw this.refuse(error, arrival, found[0]?.device ?? sender.device);
        }
    }

    /** Counts and tells a message that was refused, here or before it came so far; what was thrown, as a WattError. */
    refuse(error: unknown, { via, at }: Pick<Arrival, "via" | "at">, device?: string): WattError {
        const known = error instanceof WattError ? error : new WattError("INTERNAL", `The message could not be taken: ${errorText(error)}`, { cause: error });
        this.refused++;
        const name = device?.slice(0, LONGEST_NAME);
        const seen = name === undefined ? undefined : this.see(name, via, at);
        if (seen) {
            seen.refused++;
            if (!isPassing(known)) seen.problem = known.code;
        }
        this.options.onRefusal?.({ code: known.code, reason: known.message, ...(name !== undefined && { device: name }), via, at });
        return known;
    }

    /** Lets a device begin anew, with any start and number. */
    async forget(device: string): Promise<void> {
        await this.ready;
        this.devices.forget(device);
        this.listed.delete(device);
        const kept = await this.spool.append(encodeEntry({ forget: device }), 1);
        if (kept !== "disk") throw this.down();
    }

    /** Devices that sent or tried to, the last one first. */
    seen(): SeenDevice[] {
        return [...this.listed.values()].toReversed();
    }

    /** In at most 20 characters, what needs a person first. */
    status(): { kind: StatusKind; text: string } {
        const { state } = this.spool.stats();
        if (state === "failed") return { kind: "error", text: "store unusable" };
        if (state === "memory") return { kind: "error", text: "disk fails" };
        const all = [...this.listed.values()];
        const [sending, troubled] = [all.filter(({ kept }) => kept > 0).length, all.filter(({ problem }) => problem !== undefined).length];
        const text = `${sending} device${sending === 1 ? "" : "s"}`;
        if (troubled > 0) return { kind: "warn", text: `${troubled}/${all.length} refused` };
        if (sending > 0) return { kind: "ok", text };
        return this.refused > 0 ? { kind: "warn", text: `${Math.min(this.refused, 99_999)} refused` } : { kind: "idle", text: "no device yet" };
    }

    /**
     * What the flow may not have taken is handed on at the next start.
     * @param isGone There will be none: the folder is removed.
     */
    async close(isGone = false): Promise<void> {
        this.isOpen = false;
        const { folder } = this.options;
        const ended = this.spool.ended.finally(() => {
            if (leaving.get(folder) === ended) leaving.delete(folder);
        });
        leaving.set(folder, ended);
        this.feed?.close();
        await this.spool.flush();
        await this.spool.close();
        if (isGone) await rm(folder, { recursive: true, force: true });
    }

    // --- admission

    private checkStore(): void {
        if (this.spool.stats().state !== "disk") throw this.down();
        if ((this.feed?.waiting ?? 0) > MOST_WAITING) throw new WattError("STORE_BUSY", "The flow is not done with what came before. Send it again later.");
    }

    private down(): WattError {
        const { reason = "it is closing" } = this.spool.stats();
        return new WattError("STORE_DOWN", `Nothing can be kept just now: ${reason.replace(/\.$/, "")}. Keep the data and send it again.`);
    }

    private decode(decoder: Decoder, arrival: Arrival): Decoded[] {
        const { bodyBytes, samples } = this.limits;
        const { body } = arrival;
        if (body.length > bodyBytes) throw new WattError("BODY_TOO_LARGE", `The message has more than ${bodyBytes} bytes: send fewer samples at a time.`);
        const found = byDevice(understood(decoder, arrival));
        const count = found.reduce((sum, { samples: list }) => sum + list.length, 0);
        if (count > samples) throw new WattError("PAYLOAD_INVALID", `The message has more than ${samples} samples: send fewer at a time.`);
        return found;
    }

    private async admit(found: Decoded[], arrival: Arrival, sender: Sender): Promise<Receipt> {
        const receipt: Receipt = { accepted: 0, duplicates: 0, stale: 0, undated: 0 };
        const entries: DataEntry[] = [];
        const repeated: Promise<Kept>[] = [];
        for (const decoded of found) {
            const { device } = decoded;
            this.checkSender(decoded, sender);
            // Of a broker a message is taken when there is room for it, and it keeps the others.
            const wait = arrival.via === "http" ? this.rates.take(device, this.clock.monotonic()) : 0;
            if (wait > 0) throw new RateLimited(device, wait);
            const { boot, seq } = messageNumber(decoded, sender);
            const sum = boot === undefined ? 0 : sumOf(decoded);
            const admission = this.devices.admit(device, boot, seq, sum);
            if (admission.kind === "duplicate") {
                receipt.duplicates++;
                if (admission.kept) repeated.push(admission.kept);
                continue;
            }
            const simulated = this.devices.isSimulated(device, decoded.simulated === true);
            const base = { boot, seq: seq ?? this.devices.count(device), simulated };
            const readings = this.readings(decoded, arrival, base, receipt);
            receipt.accepted += readings.length;
            if (readings.length === 0 && boot === undefined) continue;
            entries.push({ device, ...(boot !== undefined && seq !== undefined && { boot, seq, sum }), ...(simulated && { simulated }), readings });
        }
        this.devices.checkRoom(entries);
        const isKept = entries.length === 0 || (await this.keep(entries)) === "disk";
        const before = await Promise.all(repeated);
        if (!isKept || (before.includes("memory") && this.spool.stats().state !== "disk")) {
            throw new WattError("STORE_UNSURE", `${this.down().message} Send it under the same number: it may be kept yet.`);
        }
        const kept = new Set(entries.flatMap(({ device, readings }) => (readings.length > 0 ? [device] : [])));
        for (const decoded of found) this.note(decoded, arrival, kept.has(decoded.device));
        return receipt;
    }

    private checkSender({ device, samples }: Decoded, sender: Sender): void {
        for (const name of [device, ...samples.map((sample) => sample.device)]) {
            if (!isDeviceName(name)) throw new WattError("PAYLOAD_INVALID", `A device's name has 1 to ${LONGEST_NAME} characters, none of them /, + or #.`);
        }
        if (!sender.maySend(device)) throw new WattError("DEVICE_FORBIDDEN", `${device} does not belong to the key of ${sender.name}: each device sends with its own.`);
        const other = samples.find((sample) => sample.device !== device && !sample.device.startsWith(`${device}-`) && !sender.maySend(sample.device));
        if (other) throw new WattError("DEVICE_FORBIDDEN", `${other.device} does not belong to ${device}, which sent it.`);
    }

    private readings({ samples, up }: Decoded, arrival: Arrival, { boot, seq, simulated }: { boot: number | undefined; seq: number; simulated: boolean }, receipt: Receipt): StoredReading[] {
        const readings: StoredReading[] = [];
        /** The reading of a device that has no time but that of its arrival: there is one of them. */
        const arrived = new Map<string, StoredReading>();
        const instants = new Map<string, Set<string>>();
        for (const sample of samples) instants.set(sample.device, (instants.get(sample.device) ?? new Set()).add(instantOf(sample)));
        for (const sample of samples) {
            const time = sampleTime(sample, up, arrival, instants.get(sample.device)!.size > 1);
            if (!time) {
                receipt.stale++;
                continue;
            }
            if (time.source !== "device" && !isClockSet(arrival.at)) {
                throw new WattError("CLOCK_NOT_SET", "The clock of this computer is not set yet, and the message has no time of its own. Keep the data and send it again.");
            }
            const { values, bad } = checked(sample);
            const before = time.source === "arrival" && sample.signature === undefined ? arrived.get(sample.device) : undefined;
            if (before) {
                receipt.undated += Object.keys(values).filter((point) => point in before[1]).length;
                before[1] = { ...before[1], ...values };
                if (Object.keys(bad).length > 0) before[2].bad = { ...before[2].bad, ...bad };
                before[2].quality = qualityOf({ values: before[1], bad: before[2].bad ?? {} });
                continue;
            }
            const meta: ReadingMeta = {
                site: this.options.site,
                device: sample.device,
                class: sample.class ?? this.options.deviceClass ?? "generic",
                seq,
                quality: qualityOf({ values, bad }),
                ...(Object.keys(bad).length > 0 && { bad }),
                ...(simulated && { simulated }),
                ...(boot !== undefined && { boot }),
                ...(sample.signature !== undefined && { signature: sample.signature }),
                time: time.source,
            };
            const reading: StoredReading = [time.at, values, meta];
            readings.push(reading);
            if (time.source === "arrival") arrived.set(sample.device, reading);
        }
        return readings;
    }

    private async keep(entries: DataEntry[]): Promise<Kept> {
        const kept = this.spool.append(entries.map(encodeEntry).join(""), entries.length);
        for (const entry of entries) this.devices.claim(entry, kept);
        this.sinceState += entries.length;
        try {
            const where = await kept;
            if (where === "disk") for (const entry of entries) this.devices.settle(entry, true);
            else this.limbo.push(...entries);
            return where;
        } catch (error) {
            for (const entry of entries) this.devices.settle(entry, false);
            throw new WattError("STORE_DOWN", `Nothing can be kept just now: ${errorText(error)}`, { cause: error });
        }
    }

    // --- what is shown

    private see(device: string, via: Arrival["via"], at: number): SeenDevice {
        const seen = this.listed.get(device) ?? { device, via, at, kept: 0, refused: 0 };
        this.listed.delete(device);
        if (this.listed.size >= this.limits.devices + MOST_UNKNOWN) this.unlist();
        this.listed.set(device, seen);
        return Object.assign(seen, { via, at });
    }

    /** The longest silent one goes, one that never sent anything first. */
    private unlist(): void {
        let oldest: string | undefined;
        for (const { device, kept } of this.listed.values()) {
            oldest ??= device;
            if (kept > 0) continue;
            oldest = device;
            break;
        }
        if (oldest !== undefined) this.listed.delete(oldest);
    }

    private note({ device, unmapped }: Decoded, { via, at }: Arrival, isKept: boolean): void {
        const seen = this.see(device, via, at);
        if (unmapped) seen.unmapped = unmapped;
        if (!isKept) return;
        seen.kept++;
        delete seen.problem;
    }

    // --- the spool

    private async open(): Promise<void> {
        try {
            await this.spool.ready;
            await this.restore();
        } catch (error) {
            throw new WattError("STORE_DOWN", `Nothing can be kept: ${errorText(error)}`, { cause: error });
        }
        this.isOpen = true;
        this.feed = new Feed(this.spool, { clock: this.clock, hand: this.hand, settled: this.options.settled });
        if (this.isFlowing) this.feed.start();
    }

    /** Learns from the spool what each device has sent. */
    private async restore(): Promise<void> {
        const { spool } = this;
        const cursor = spool.cursor(STATE);
        for (let at = cursor.done.end; at < spool.end; ) {
            const batch = await spool.read(at, { until: spool.end, entries: 5000, bytes: 1024 * 1024 });
            for (const entry of await entriesOf(batch.records)) this.devices.restore(entry);
            if (batch.to === at) break;
            at = batch.to;
        }
        this.stateFrom = cursor.done.end;
        this.sinceState = spool.end - this.stateFrom;
    }

    private spoolChanged(): void {
        if (this.spool.stats().state !== "disk") return;
        for (const entry of this.limbo.splice(0)) this.devices.settle(entry, true);
        if (this.isOpen && !this.isStating && this.sinceState > 0 && this.isStateDue()) this.writeState();
    }

    private isStateDue(): boolean {
        return this.sinceState >= (this.options.stateEntries ?? STATE_ENTRIES) || this.clock.monotonic() - this.stateAt >= STATE_MS;
    }

    /**
     * Writes the state of all devices behind the data. What stands before the last state that was begun is no longer needed: when this one is on
     * disk all of it has been settled.
     */
    private writeState(): void {
        const { spool } = this;
        const passed = this.stateFrom;
        const states = this.devices.states();
        const lines: string[] = [];
        for (let i = 0; i < states.length; i += STATE_LINE_DEVICES) lines.push(encodeEntry({ state: states.slice(i, i + STATE_LINE_DEVICES) }));
        this.stateFrom = spool.end;
        this.sinceState = 0;
        this.stateAt = this.clock.monotonic();
        if (lines.length === 0) return;
        this.isStating = true;
        spool.append(lines.join(""), lines.length).then(
            (kept) => {
                this.isStating = false;
                if (kept === "disk") spool.acknowledge(spool.cursor(STATE), 0, passed);
            },
            () => {
                this.isStating = false;
            },
        );
    }

    /** Hands readings to the flow. */
    private readonly hand: FeedOptions["hand"] = async (records, isCurrent) => {
        const entries = await entriesOf(records);
        if (!isCurrent()) return;
        for (const entry of entries) {
            if ("readings" in entry) for (const reading of entry.readings) this.options.onReading(messageOf(reading));
        }
    };
}

/** Too many messages of one device; `afterMs` tells when there may be another. */
export class RateLimited extends WattError {
    constructor(
        device: string,
        readonly afterMs: number,
    ) {
        super("RATE_LIMITED", `${device} sends too often: send several samples in one message, or raise the rate in the dialog of the node.`);
    }
}

/** @throws WattError PAYLOAD_INVALID, whatever the message does to the decoder */
function understood(decoder: Decoder, arrival: Arrival): Decoded[] {
    try {
        return decoder.decode(arrival);
    } catch (error) {
        throw error instanceof WattError ? error : new WattError("PAYLOAD_INVALID", "The message cannot be read.", { cause: error });
    }
}

/** What a message says of each device, one part for each: a bulk names one many times. */
function byDevice(found: readonly Decoded[]): Decoded[] {
    const parts = new Map<string, Decoded>();
    for (const decoded of found) {
        const part = parts.get(decoded.device);
        if (!part) parts.set(decoded.device, { ...decoded, samples: [...decoded.samples] });
        else {
            part.samples.push(...decoded.samples);
            if (decoded.unmapped) part.unmapped = decoded.unmapped;
        }
    }
    return [...parts.values()];
}

/** Check sum of what was measured. When it is sent is none of it: a device that repeats a message says anew how long it has been up. */
function sumOf({ samples }: Decoded): number {
    return crc32(JSON.stringify(samples.map(({ device, values, up, ts, isReckoned }) => [device, values, up ?? (isReckoned ? undefined : ts)])));
}

/** A message's number as it is signed, else as it says; both where both are there, and then they are the same. */
function messageNumber({ boot, seq }: Decoded, sender: Sender): { boot: number | undefined; seq: number | undefined } {
    if (sender.boot === undefined) return { boot, seq };
    if (boot !== undefined && (boot !== sender.boot || seq !== sender.seq)) throw new WattError("PAYLOAD_INVALID", "boot and seq of the message are not those of its signature.");
    return { boot: sender.boot, seq: sender.seq };
}

/** Values that can be true; of the others, why not. */
function checked(sample: DeviceSample): { values: Record<string, PointValue>; bad: Record<string, BadReason> } {
    const values: Record<string, PointValue> = {};
    const bad: Record<string, BadReason> = { ...sample.bad };
    for (const [point, value] of Object.entries(sample.values)) {
        if (!isPointName(point)) throw new WattError("PAYLOAD_INVALID", `Point name "${point.slice(0, 50)}" must be snake_case and end in its unit.`);
        if (typeof value === "string") {
            values[point] = value;
            continue;
        }
        const unit = unitOf(point);
        const range = unit && LIMITS[unit];
        if (!Number.isFinite(value)) bad[point] = "decode";
        else if (range && (value < range[0] || value > range[1])) bad[point] = "range";
        else values[point] = value;
    }
    return { values, bad };
}

async function entriesOf(records: SpoolRecord[]): Promise<Entry[]> {
    if (records.length === 0) return [];
    const text = (await expand(Buffer.concat(records.map(({ body }) => body)))).toString();
    return text.split("\n").flatMap((line) => (line === "" ? [] : (decodeEntry(line) ?? [])));
}
