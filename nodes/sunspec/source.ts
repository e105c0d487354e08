import { Backoff } from "../common/backoff.js";
import { type Clock, systemClock } from "../common/clock.js";
import { EnergyBook } from "../common/energy.js";
import { WattError } from "../common/errors.js";
import type { ReadingMessage } from "../common/reading.js";
import { Reporter } from "../common/report.js";
import type { StateFile } from "../common/statefile.js";
import type { StatusKind } from "../common/status.js";
import type { LinkState } from "../modbus/link.js";
import type { ModbusReader } from "../modbus/transport.js";
import { type SunSpecConfig, unitsOf } from "./config.js";
import { type DeviceMap, discover, USUAL_UNIT_IDS } from "./discover.js";
import { asWattError, UnitPoller, type UnitState } from "./poller.js";
import { UnitReader } from "./unit-reader.js";

export interface SourceListener {
    onMessage(message: object): void;
    onStatus(kind: StatusKind, text: string): void;
    /** Once an outage. */
    onFault(error: WattError): void;
    onRecovered(text: string): void;
    onWarning(error: WattError): void;
}

export interface SourceOptions {
    config: SunSpecConfig;
    site: string;
    listener: SourceListener;
    /** Where energy totals are kept across a restart; without it they begin at the device's counters again. */
    stateFile?: StateFile;
    clock?: Clock;
    random?: () => number;
}

/** Units that did not answer a search may be asleep; they are looked for again after this long, ms. */
const SEARCH_AGAIN_MS = 30 * 60_000;
const SEARCH_BACKOFF = { base: 5_000, cap: 300_000 };
const SAVE_EVERY_MS = 10 * 60_000;
/** Shorter than any real silence of a healthy device, and longer than a missed poll. */
const MIN_GAP_MS = 60_000;

/** Everything a wl-sunspec node does: finds the units behind a link, polls them, and tells what they say. */
export class SunSpecSource {
    private readonly clock: Clock;
    private readonly pollers = new Map<number, UnitPoller>();
    private readonly energy: EnergyBook;
    private readonly reporter: Reporter;
    private readonly names = new Map<string, number>();
    /** Inverters by name: whether they sleep. */
    private readonly resting = new Map<string, boolean>();
    private saveAt: number;
    private unsaved = false;
    private wasDown = false;
    private searchFault = false;
    private wake: () => void = () => {};

    constructor(private readonly options: SourceOptions) {
        const { config } = options;
        this.clock = options.clock ?? systemClock;
        this.energy = new EnergyBook(this.clock);
        this.reporter = new Reporter({ ...config, deadbandPct: config.deadband, heartbeatMs: config.heartbeat });
        this.saveAt = this.clock.monotonic() + SAVE_EVERY_MS;
    }

    /** Works until aborted; resolves then. */
    async run(reader: ModbusReader, signal: AbortSignal): Promise<void> {
        this.restore();
        this.options.listener.onStatus("busy", "searching");
        const units = unitsOf(this.options.config);
        if (units) await Promise.all(units.map((unit) => this.add(reader, unit).run(signal)));
        else await this.search(reader, signal);
        this.save();
    }

    /** Polls every unit now; resolves when all have been. */
    async pollNow(signal: AbortSignal): Promise<void> {
        this.wake();
        await Promise.all([...this.pollers.values()].map((poller) => poller.pollNow(signal)));
    }

    /** To be told of every change of the link. */
    linkChanged({ name }: Pick<LinkState, "name">): void {
        if (name === "down") this.wasDown = true;
        // A connection that was given back while idle is no reason to doubt the devices.
        if (name !== "up" || !this.wasDown) return;
        this.wasDown = false;
        for (const poller of this.pollers.values()) poller.reconnected();
        this.wake();
    }

    /** Asks the usual units until one shows a device, and later for those that were silent. */
    private async search(reader: ModbusReader, signal: AbortSignal): Promise<void> {
        const backoff = new Backoff({ ...SEARCH_BACKOFF, ...(this.options.random && { random: this.options.random }) });
        const polls: Promise<void>[] = [];
        let units = USUAL_UNIT_IDS;
        while (!signal.aborted) {
            const { found, missed } = await this.discover(reader, units, signal);
            // The neighbour of a sleeper that woke up may be read already.
            for (const { unit } of found) if (!this.pollers.has(unit)) polls.push(this.add(reader, unit).run(signal));
            units = missed;
            const known = this.pollers.size > 0;
            if (known && units.length === 0) break;
            await this.rest(known ? SEARCH_AGAIN_MS : backoff.next(), signal);
        }
        await Promise.all(polls);
    }

    private async discover(reader: ModbusReader, units: readonly number[], signal: AbortSignal): Promise<{ found: readonly DeviceMap[]; missed: readonly number[] }> {
        const { listener } = this.options;
        try {
            const { found, missed } = await discover(reader, units, { clock: this.clock, signal, neighbours: true });
            if (found.length === 0 && this.pollers.size === 0) {
                const why = missed[0]?.error;
                throw new WattError("SUNSPEC_NOT_FOUND", `No SunSpec device at units ${units.join(", ")}. ${why?.message ?? ""}`, { cause: why });
            }
            this.searchFault = false;
            return { found, missed: missed.map(({ unit }) => unit) };
        } catch (error) {
            const none = { found: [], missed: units };
            if (signal.aborted || this.pollers.size > 0) return none;
            const fault = asWattError(error);
            const lost = fault.code === "MODBUS_CLOSED";
            listener.onStatus("error", lost ? "no connection" : "no device found");
            // A lost connection is told of by the link.
            if (!this.searchFault && !lost) listener.onFault(fault);
            this.searchFault = !lost;
            return none;
        }
    }

    private async rest(ms: number, signal: AbortSignal): Promise<void> {
        const woken = new AbortController();
        this.wake = () => woken.abort();
        await this.clock.sleep(ms, AbortSignal.any([signal, woken.signal])).catch(() => {});
    }

    private add(reader: ModbusReader, unit: number): UnitPoller {
        const { config, site, listener, random } = this.options;
        const { devices, period, slowPeriod, heartbeat } = config;
        const unitReader = new UnitReader(reader, unit, {
            ...config,
            ...(devices.length > 0 && { chosen: devices.filter((row) => row.unit === unit) }),
            site,
            maxGapMs: Math.max(MIN_GAP_MS, 3 * period),
            energy: this.energy,
            claim: (name) => this.claim(name, unit),
            clock: this.clock,
        });
        const poller = new UnitPoller(
            unitReader,
            { periodMs: period, slowPeriodMs: slowPeriod, heartbeatMs: heartbeat, clock: this.clock, ...(random && { random }) },
            {
                onReading: (reading) => this.tell(reading),
                onFault: (error) => listener.onFault(error),
                onRecovered: () => listener.onRecovered(`Unit ${unit} answers again.`),
                onPolled: () => this.polled(),
            },
        );
        this.pollers.set(unit, poller);
        return poller;
    }

    /** Two units may show the same serial number; the first to come has the plain name for as long as it shows it. */
    private claim(name: string, unit: number): string {
        const owner = this.names.get(name) ?? unit;
        const held = owner !== unit && this.pollers.get(owner)?.reader.devices.some((device) => device.name === name);
        if (held) return `${name}-u${unit}`;
        this.names.set(name, unit);
        return name;
    }

    private tell(reading: ReadingMessage): void {
        const { device, class: kind } = reading.reading;
        if (kind === "inverter") this.resting.set(device, isAsleep(reading));
        for (const message of this.reporter.take(reading, this.clock.monotonic())) this.options.listener.onMessage(message);
    }

    private polled(): void {
        const { kind, text } = summarise(this.pollers.values(), this.resting);
        if (this.wasDown) this.options.listener.onStatus("error", "no connection");
        else this.options.listener.onStatus(kind, text);
        if (this.clock.monotonic() >= this.saveAt) this.save();
    }

    private restore(): void {
        try {
            const state = this.options.stateFile?.load();
            if (state === undefined || this.energy.restore(state)) return;
            throw new WattError("STATE_DAMAGED", "The stored energy totals make no sense: totals begin at the devices' counters again.");
        } catch (error) {
            this.options.listener.onWarning(error as WattError);
        }
    }

    private save(): void {
        this.saveAt = this.clock.monotonic() + SAVE_EVERY_MS;
        try {
            this.options.stateFile?.save(this.energy.state());
            this.unsaved = false;
        } catch (error) {
            if (!this.unsaved) this.options.listener.onWarning(error as WattError);
            this.unsaved = true;
        }
    }
}

/** What a status needs to know of a unit. */
export interface UnitSummary {
    state: UnitState;
    late: boolean;
    /** Polls skipped so far. */
    overruns: number;
    /** Its devices; none while they are not known. */
    reader: { devices: readonly { name: string }[] };
}

/**
 * The node's status in a few words.
 * @param resting Inverters by name: whether they sleep.
 */
export function summarise(units: Iterable<UnitSummary>, resting: ReadonlyMap<string, boolean>): { kind: StatusKind; text: string } {
    const found = { new: 0, ok: 0, partly: 0, lost: 0 };
    let [isLate, skipped, asleep, awake] = [false, 0, 0, 0];
    for (const { state, late, overruns, reader } of units) {
        found[state] += Math.max(1, reader.devices.length);
        isLate ||= late;
        skipped += overruns;
        for (const { name } of reader.devices) {
            const rests = resting.get(name);
            if (rests === true) asleep++;
            else if (rests === false) awake++;
        }
    }
    const total = found.ok + found.partly + found.lost;
    if (total === 0) return { kind: "busy", text: "searching" };
    if (found.lost === total && found.new === 0) return { kind: "error", text: "no answer" };
    const devices = total === 1 ? "1 device" : `${total} devices`;
    if (found.ok < total) return { kind: "warn", text: `${found.ok} of ${devices}` };
    if (isLate) return { kind: "warn", text: `skipped polls: ${skipped}` };
    if (asleep > 0 && awake === 0) return { kind: "idle", text: `${devices}, night` };
    return { kind: "ok", text: devices };
}

function isAsleep({ payload }: ReadingMessage): boolean {
    return payload["ac_power_w"] === undefined || payload["state"] === "SLEEPING" || payload["state"] === "OFF";
}
