import { type Clock, systemClock } from "../common/clock.js";
import { EnergyBook } from "../common/energy.js";
import { WattError } from "../common/errors.js";
import type { ReadingMessage } from "../common/reading.js";
import { Reporter, type ReportOptions } from "../common/report.js";
import type { SourceListener } from "../common/source.js";
import { LenientState, type StateFile } from "../common/statefile.js";
import type { StatusKind } from "../common/status.js";
import type { LinkState } from "./link.js";
import { type PolledUnit, type PollOptions, UnitPoller, type UnitState } from "./poller.js";

/** What every source of polled units is given. */
export interface SourceOptions {
    site: string;
    listener: SourceListener;
    /** Where energy totals are kept across a restart; without it they begin at the device's counters again. */
    stateFile?: StateFile;
    clock?: Clock;
    random?: () => number;
}

const SAVE_EVERY_MS = 10 * 60_000;
/** Shorter than any real silence of a healthy device, and longer than a missed poll. */
const MIN_GAP_MS = 60_000;

/** A unit of a source. */
export interface SourceUnit extends PolledUnit {
    /** Its devices; none while they are not known. */
    readonly devices: readonly { name: string }[];
    /** Of its points, how many could be read. */
    readonly coverage?: { read: number; total: number } | undefined;
    /** Why it gives no reading, where more is known than that it does not answer. */
    readonly trouble?: string | undefined;
}

/** The units of one source: their pollers, what is reported of them, their energy totals across a restart, the status. */
export class PolledUnits<U extends SourceUnit> {
    readonly energy: EnergyBook;
    readonly clock: Clock;
    /** Power further apart than this is not integrated, ms. */
    readonly maxGapMs: number;
    private readonly pollers = new Map<number, UnitPoller<U>>();
    private readonly reporter: Reporter;
    /** Inverters by name: whether they sleep. */
    private readonly resting = new Map<string, boolean>();
    private saveAt: number;
    private readonly store: LenientState;
    private wasDown = false;

    /** @param busy The status until the first unit was asked. */
    constructor(
        private readonly options: SourceOptions,
        private readonly polling: Pick<PollOptions, "groups" | "unidentified" | "news">,
        private readonly report: ReportOptions,
        private readonly busy: string,
    ) {
        this.clock = options.clock ?? systemClock;
        this.energy = new EnergyBook(this.clock);
        this.reporter = new Reporter(report);
        this.maxGapMs = Math.max(MIN_GAP_MS, 3 * Math.min(...polling.groups.map(({ periodMs }) => periodMs)));
        this.saveAt = this.clock.monotonic() + SAVE_EVERY_MS;
        this.store = new LenientState(options.stateFile, (error) => options.listener.onWarning(error));
    }

    get size(): number {
        return this.pollers.size;
    }

    get(unit: number): U | undefined {
        return this.pollers.get(unit)?.unit;
    }

    /** Does `work`, with the energy totals restored before it and saved after it. */
    async run(work: () => Promise<void>): Promise<void> {
        this.restore();
        this.options.listener.onStatus("busy", this.busy);
        await work();
        this.save();
    }

    /** Polls a unit until aborted; resolves then. */
    poll(id: number, unit: U, signal: AbortSignal): Promise<void> {
        const { listener, random } = this.options;
        const poller = new UnitPoller(
            unit,
            { ...this.polling, heartbeatMs: this.report.heartbeatMs, clock: this.clock, ...(random && { random }) },
            {
                onReading: (reading) => this.tell(reading),
                onFault: (error) => listener.onFault(error),
                onRecovered: () => listener.onRecovered(`Unit ${id} answers again.`),
                onPolled: () => this.polled(),
            },
        );
        this.pollers.set(id, poller);
        return poller.run(signal);
    }

    /** Polls every unit now; resolves when all have been. */
    async pollNow(signal: AbortSignal): Promise<void> {
        await Promise.all([...this.pollers.values()].map((poller) => poller.pollNow(signal)));
    }

    /** To be told of every change of the link. @returns true when it is back after an outage. */
    linkChanged({ name }: Pick<LinkState, "name">): boolean {
        if (name === "down") this.wasDown = true;
        // A connection that was given back while idle is no reason to doubt the devices.
        if (name !== "up" || !this.wasDown) return false;
        this.wasDown = false;
        for (const poller of this.pollers.values()) poller.reconnected();
        return true;
    }

    private tell(reading: ReadingMessage): void {
        const { device, class: kind } = reading.reading;
        if (kind === "inverter") this.resting.set(device, isAsleep(reading));
        for (const message of this.reporter.take(reading, this.clock.monotonic())) this.options.listener.onMessage(message);
    }

    private polled(): void {
        const { kind, text } = summarise(this.pollers.values(), this.resting, this.busy);
        if (this.wasDown) this.options.listener.onStatus("error", "no connection");
        else this.options.listener.onStatus(kind, text);
        if (this.clock.monotonic() >= this.saveAt) this.save();
    }

    private restore(): void {
        const state = this.store.load();
        if (state === undefined || this.energy.restore(state)) return;
        this.options.listener.onWarning(new WattError("STATE_DAMAGED", "The stored energy totals make no sense: totals begin at the devices' counters again."));
    }

    private save(): void {
        this.saveAt = this.clock.monotonic() + SAVE_EVERY_MS;
        this.store.save(this.energy.state());
    }
}

/** What a status needs to know of a unit. */
export interface UnitSummary {
    state: UnitState;
    late: boolean;
    /** Polls skipped so far. */
    overruns: number;
    unit: Pick<SourceUnit, "devices" | "coverage" | "trouble">;
}

/**
 * The node's status in a few words.
 * @param resting Inverters by name: whether they sleep.
 * @param busy Until something is known.
 */
export function summarise(units: Iterable<UnitSummary>, resting: ReadonlyMap<string, boolean>, busy: string): { kind: StatusKind; text: string } {
    const found = { new: 0, ok: 0, partly: 0, lost: 0 };
    let [isLate, skipped, asleep, awake] = [false, 0, 0, 0];
    let coverage: SourceUnit["coverage"];
    let trouble: string | undefined;
    for (const { state, late, overruns, unit } of units) {
        found[state] += Math.max(1, unit.devices.length);
        isLate ||= late;
        skipped += overruns;
        if (state === "partly") coverage = unit.coverage;
        if (state === "lost") trouble ??= unit.trouble;
        for (const { name } of unit.devices) {
            const rests = resting.get(name);
            if (rests === true) asleep++;
            else if (rests === false) awake++;
        }
    }
    const total = found.ok + found.partly + found.lost;
    if (total === 0) return { kind: "busy", text: busy };
    if (found.lost === total && found.new === 0) return { kind: "error", text: trouble ?? "no answer" };
    const all = total + found.new;
    const devices = all === 1 ? "1 device" : `${all} devices`;
    // Units that were never asked yet: on a slow line that takes its time.
    if (found.new > 0 && found.ok === total) return { kind: "busy", text: `${found.ok} of ${devices}` };
    if (all === 1 && coverage) return { kind: "warn", text: `${coverage.read} of ${coverage.total} points` };
    if (found.ok < all) return { kind: "warn", text: `${found.ok} of ${devices}` };
    if (isLate) return { kind: "warn", text: `skipped polls: ${skipped}` };
    if (asleep > 0 && awake === 0) return { kind: "idle", text: `${devices}, night` };
    return { kind: "ok", text: devices };
}

function isAsleep({ payload }: ReadingMessage): boolean {
    return payload["ac_power_w"] === undefined || payload["state"] === "SLEEPING" || payload["state"] === "OFF";
}
