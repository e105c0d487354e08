import type { KeyObject } from "node:crypto";
import { z } from "zod";
import { Backoff } from "../common/backoff.js";
import { systemClock, type Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { createReading, type PointValue, type ReadingMessage } from "../common/reading.js";
import { LenientState } from "../common/statefile.js";
import type { StatusKind } from "../common/status.js";
import { type MeterConfig, type MeterSample, type MeterState, SolarMeter } from "./esp32-meter.js";
import { buildEnvelope, deviceKey, type Envelope, publicKey, type Transport } from "./esp32-sender.js";

/**
 * What can go wrong. With the device: `offline` (no Wi-Fi; it keeps its samples), `noclock` (it tells no time), `misdated` (a wrong one),
 * `reboot`, `counters` (they start again at zero). With its messages: `duplicate`, `reorder`. Beside them come messages that must not be
 * taken: `replay` (its first one again), `forged`, `twin` (another device under its name), `truncated`, `oversize`.
 */
export const FLEET_FAULTS = ["offline", "noclock", "misdated", "reboot", "counters", "duplicate", "reorder", "replay", "forged", "twin", "truncated", "oversize"] as const;
export type FleetFault = (typeof FLEET_FAULTS)[number];

export interface FleetConfig extends Omit<MeterConfig, "ratedW"> {
    /** Of the readings: what is signed begins with it. */
    site: string;
    /** AC rating of all meters' plants together, W. */
    ratedPowerW: number;
    devices: number;
    /** Names are this and a number from 1. */
    prefix: string;
    intervalMs: number;
    /** Samples a message, at least; 100 at most. */
    batch: number;
    /** A new fleet begins so long ago. */
    historyMs: number;
    /** How fast that is made up for: ms of the fleet a ms. */
    speed: number;
    /** Each device signs its samples with a key that follows from this; blank for none. */
    signWith: string;
}

export interface FleetEvents {
    onStatus(kind: StatusKind, text: string): void;
    onError(error: Error): void;
    /** What is true of all devices together, once a second at most, after something was sent. */
    onTruth(reading: ReadingMessage): void;
}

interface Device {
    index: number;
    name: string;
    meter: SolarMeter;
    /** As of the last message that was kept: where a restart goes on. */
    kept: MeterState;
    boot: number;
    seq: number;
    /** ms UTC. */
    started: number;
    key: KeyObject | undefined;
    /** A message whose outcome is open, and the meter as it was after it: it is repeated as it is. */
    pending: Envelope | undefined;
    held: Envelope | undefined;
    first: Envelope | undefined;
    twinSeq: number;
    backoff: Backoff;
    /** Monotonic ms. */
    retryAt: number;
    trouble: string | undefined;
    power: number;
}

const meterSchema = z.object({ at: z.number(), exportWh: z.number().min(0), importWh: z.number().min(0) });
const savedSchema = z.object({ boot: z.number().int().min(0), meters: z.array(meterSchema) });

/** Most samples a message: what a small device can hold. */
const MAX_BATCH = 100;
/** Messages on their way at once. */
const MAX_SENDING = 8;
/** A device that was not served for longer does not make up for it, ms. */
const LONGEST_GAP_MS = 7 * 86_400_000;
const SAVE_EVERY_MS = 30_000;
/** Pause between two rounds while the past is made up for, and at most. */
const SHORT_PAUSE_MS = 100;
const LONG_PAUSE_MS = 1000;
/** More than any receiver takes. */
const OVERSIZE_BYTES = 80_000;
const DAY_MS = 86_400_000;

const faultSchema = z.object({ fault: z.enum([...FLEET_FAULTS, "clear"]), device: z.int().min(1).optional() });

/** @throws WattError SIM_FAULT naming what is understood. */
export function parseFleetFault(payload: unknown): z.output<typeof faultSchema> {
    const result = faultSchema.safeParse(typeof payload === "string" ? { fault: payload } : payload);
    if (result.success) return result.data;
    throw new WattError("SIM_FAULT", `Not a fault: msg.payload takes {fault: "${FLEET_FAULTS.join('" | "')}" | "clear", device: 1..n}, such as {fault: "offline", device: 1}.`);
}

/**
 * Meters with an ESP32 each. A sample is a function of its time, so a device that could not send makes its samples when it can: that is
 * its buffer. Each message says that it is simulated.
 */
export class Esp32Fleet {
    private readonly devices: Device[];
    private readonly faults = new Map<number | undefined, FleetFault>();
    private readonly count = { kept: 0, refused: 0, samples: 0 };
    private told = { answered: 0, at: -Infinity };
    private truths = 0;
    private saved = -Infinity;
    private readonly store: LenientState;

    constructor(
        private readonly config: FleetConfig,
        private readonly transport: Transport,
        private readonly events: FleetEvents,
        file: ConstructorParameters<typeof LenientState>[0],
        private readonly clock: Clock = systemClock,
        private readonly random: () => number = Math.random,
    ) {
        this.store = new LenientState(file, (error) => events.onError(error));
        const now = clock.now();
        const saved = savedSchema.safeParse(this.store.load());
        // Counts on where the state was lost, too.
        const boot = Math.max(saved.success ? saved.data.boot + 1 : 0, Math.floor(now / 1000));
        this.devices = Array.from({ length: config.devices }, (_, i) => this.device(i, boot, now, saved.success ? saved.data.meters[i] : undefined));
        this.save();
    }

    /** Public keys in base64 by the device's name; none where they do not sign. */
    get keys(): Record<string, string> {
        return Object.fromEntries(this.devices.flatMap(({ name, key }) => (key ? [[name, publicKey(key)]] : [])));
    }

    /** Sends what is due, for ever; rejects when aborted. */
    async run(signal: AbortSignal): Promise<void> {
        const from = Math.min(...this.devices.map(({ kept }) => kept.at));
        const began = this.clock.monotonic();
        for (;;) {
            const now = this.clock.now();
            const until = Math.min(now, from + (this.clock.monotonic() - began) * this.config.speed);
            await this.serveAll(until, signal);
            signal.throwIfAborted();
            this.tell(now, until === now);
            if (this.clock.monotonic() - this.saved > SAVE_EVERY_MS) this.save();
            this.showStatus(now);
            await this.clock.sleep(Math.min(Math.max(this.nextMs(), SHORT_PAUSE_MS), LONG_PAUSE_MS), signal);
        }
    }

    /** @throws WattError SIM_FAULT for a payload that is none. */
    command(payload: unknown): void {
        const { fault, device } = parseFleetFault(payload);
        if (fault === "clear") {
            if (device === undefined) this.faults.clear();
            else this.faults.delete(device);
        } else if (fault === "reboot" || fault === "counters") {
            for (const hit of this.devices.filter(({ index }) => device === undefined || index === device)) this.strike(hit, fault);
        } else this.faults.set(device, fault);
        this.showStatus(this.clock.now());
    }

    close(removed: boolean): void {
        if (removed) this.store.remove();
        else this.save();
    }

    private device(i: number, boot: number, now: number, saved: MeterState | undefined): Device {
        const { intervalMs, historyMs, devices, ratedPowerW, prefix, signWith, ...place } = this.config;
        const oldest = now - Math.max(historyMs, saved ? LONGEST_GAP_MS : 0);
        const grid = (ms: number) => Math.floor(ms / intervalMs) * intervalMs;
        const ratedW = ratedPowerW / devices;
        const age = Math.max(0, now - historyMs - Date.UTC(2024, 0, 1)) / 3_600_000;
        const fresh = { at: grid(now - historyMs), exportWh: Math.floor(ratedW * 0.15 * age), importWh: Math.floor(ratedW * 0.0003 * age) };
        const state = saved && saved.at <= now && saved.at >= oldest ? { ...saved, at: grid(saved.at) } : saved ? { ...saved, at: grid(oldest) } : fresh;
        const name = `${prefix}${i + 1}`;
        return {
            index: i + 1,
            name,
            meter: new SolarMeter({ ...place, ratedW }, i, { ...state }),
            kept: { ...state },
            boot,
            seq: 0,
            started: state.at,
            key: signWith === "" ? undefined : deviceKey(signWith, name),
            pending: undefined,
            held: undefined,
            first: undefined,
            twinSeq: 0,
            backoff: new Backoff({ base: 500, cap: 30_000, random: this.random }),
            retryAt: -Infinity,
            trouble: undefined,
            power: 0,
        };
    }

    private strike(device: Device, fault: "reboot" | "counters"): void {
        if (fault === "counters") Object.assign(device.meter.state, { exportWh: 0, importWh: 0 });
        else Object.assign(device, { boot: device.boot + 1, seq: 0, started: device.meter.state.at });
        this.save();
    }

    /** Until something is due, ms. */
    private nextMs(): number {
        const [now, monotonic] = [this.clock.now(), this.clock.monotonic()];
        const { intervalMs, batch } = this.config;
        return Math.min(...this.devices.map(({ pending, retryAt, meter }) => Math.max(retryAt - monotonic, pending ? 0 : meter.state.at + intervalMs * batch - now)));
    }

    private faultOf({ index }: Device): FleetFault | undefined {
        return this.faults.get(index) ?? this.faults.get(undefined);
    }

    private async serveAll(until: number, signal: AbortSignal): Promise<void> {
        const waiting = [...this.devices];
        const worker = async () => {
            for (let device = waiting.pop(); device; device = waiting.pop()) await this.serve(device, until, signal);
        };
        await Promise.all(Array.from({ length: MAX_SENDING }, worker));
    }

    /** Sends what a device has up to `until`, in order, until something does not get through. */
    private async serve(device: Device, until: number, signal: AbortSignal): Promise<void> {
        const fault = this.faultOf(device);
        if (fault === "offline" || device.retryAt > this.clock.monotonic()) return;
        while (!signal.aborted) {
            const envelope = (device.pending ??= this.next(device, until, fault));
            if (!envelope) return;
            if (fault === "reorder" && !device.held && envelope !== device.first && envelope.seq === device.seq - 1) {
                device.held = envelope;
                device.pending = this.next(device, until, fault);
                if (!device.pending) return;
                continue;
            }
            const { kind, reason, afterMs } = await this.transport.send(envelope, { signal });
            if (kind === "again") {
                device.trouble = reason;
                device.retryAt = this.clock.monotonic() + (afterMs ?? device.backoff.next());
                return;
            }
            device.trouble = kind === "refused" ? reason : undefined;
            device.backoff.reset();
            this.count[kind]++;
            device.pending = device.held;
            device.held = undefined;
            if (!device.pending) device.kept = { ...device.meter.state };
            if (kind === "kept") device.first ??= envelope;
            await this.disturb(device, envelope, fault, signal);
        }
    }

    /** The next message, where enough samples are due. */
    private next(device: Device, until: number, fault: FleetFault | undefined): Envelope | undefined {
        const { intervalMs, batch, site } = this.config;
        const due = Math.floor((until - device.meter.state.at) / intervalMs);
        if (due < batch) return undefined;
        const samples: MeterSample[] = [];
        while (samples.length < Math.min(due, MAX_BATCH)) samples.push(device.meter.sample(device.meter.state.at + intervalMs));
        device.power = samples.at(-1)!.values["ac_power_w"]!;
        this.count.samples += samples.length;
        const seq = device.seq++;
        const now = this.clock.now();
        const wrong = seq % 2 === 0 ? 2 * DAY_MS : -device.started;
        const clockOffset = fault === "noclock" ? undefined : fault === "misdated" ? wrong : 0;
        return buildEnvelope({ site, device: device.name, boot: device.boot, seq, started: device.started, now, samples, key: device.key, clockOffset });
    }

    /** Sends beside a true message what must not be taken for one. */
    private async disturb(device: Device, envelope: Envelope, fault: FleetFault | undefined, signal: AbortSignal): Promise<void> {
        const { body } = envelope;
        const changed = Buffer.from(body.toString().replace(/"ac_energy_export_wh":(\d+)/, (_, wh) => `"ac_energy_export_wh":${Number(wh) + 1_000_000}`));
        const extra: Envelope | undefined = {
            duplicate: envelope,
            replay: device.first,
            forged: { ...envelope, body: changed },
            twin: { ...envelope, seq: device.twinSeq, body: Buffer.from(changed.toString().replace(/"seq":\d+/, `"seq":${device.twinSeq}`)) },
            truncated: { ...envelope, body: body.subarray(0, body.length >> 1) },
            oversize: { ...envelope, body: Buffer.concat([body, Buffer.alloc(OVERSIZE_BYTES, " ")]) },
        }[fault as string];
        if (!extra) return;
        if (fault === "twin") device.twinSeq++;
        await this.transport.send(extra, { isForged: fault === "forged", signal });
    }

    private tell(now: number, isPresent: boolean): void {
        const answered = this.count.kept + this.count.refused;
        const monotonic = this.clock.monotonic();
        if (answered === this.told.answered || (!isPresent && monotonic - this.told.at < LONG_PAUSE_MS)) return;
        this.told = { answered, at: monotonic };
        const { site, seed } = this.config;
        const meta = { site, device: `SIM${seed}-ESP32`, class: "plant", seq: this.truths++, quality: "good", simulated: true } as const;
        this.events.onTruth(createReading(meta, now, this.truth()));
    }

    private truth(): Record<string, PointValue> {
        const sum = (value: (device: Device) => number) => this.devices.reduce((total, device) => total + value(device), 0);
        return {
            ac_power_w: Math.round(sum(({ power }) => power) * 10) / 10,
            ac_energy_export_wh: sum(({ meter }) => Math.floor(meter.state.exportWh)),
            ac_energy_import_wh: sum(({ meter }) => Math.floor(meter.state.importWh)),
            samples: this.count.samples,
            messages_kept: this.count.kept,
            messages_refused: this.count.refused,
            messages_open: sum(({ pending, held }) => (pending ? 1 : 0) + (held ? 1 : 0)),
            fleet_time: new Date(Math.min(...this.devices.map(({ meter }) => meter.state.at))).toISOString(),
        };
    }

    private showStatus(now: number): void {
        const troubled = this.devices.filter(({ trouble }) => trouble !== undefined);
        const [[index, fault] = []] = this.faults;
        const behind = now - Math.min(...this.devices.map(({ meter }) => meter.state.at)) - this.config.intervalMs * this.config.batch;
        if (troubled.length > 0) this.events.onStatus("warn", `${troubled.length}: ${troubled[0]!.trouble}`);
        else if (fault) this.events.onStatus("warn", index === undefined ? `all: ${fault}` : `${index}: ${fault}`);
        else if (behind > 2 * LONG_PAUSE_MS + this.config.intervalMs) this.events.onStatus("busy", `${ago(behind)} behind`);
        else this.events.onStatus("ok", `${this.devices.length} sending`);
    }

    private save(): void {
        this.saved = this.clock.monotonic();
        this.store.save({ boot: Math.max(...this.devices.map(({ boot }) => boot)), meters: this.devices.map(({ kept }) => kept) });
    }
}

function ago(ms: number): string {
    const hours = ms / 3_600_000;
    return hours >= 48 ? `${Math.round(hours / 24)} d` : hours >= 1 ? `${Math.round(hours)} h` : `${Math.ceil(ms / 60_000)} min`;
}
