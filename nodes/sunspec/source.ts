import { Backoff } from "../common/backoff.js";
import { WattError } from "../common/errors.js";
import { reportOptions } from "../modbus/fields.js";
import type { LinkState } from "../modbus/link.js";
import { PolledUnits, type SourceOptions } from "../modbus/polled-units.js";
import { asWattError } from "../modbus/poller.js";
import type { ModbusReader } from "../modbus/transport.js";
import type { ClassSources } from "./class-maps.js";
import { type SunSpecConfig, unitsOf } from "./config.js";
import { type DeviceMap, discover, USUAL_UNIT_IDS } from "./discover.js";
import { UnitReader } from "./unit-reader.js";

/** Units that did not answer a search may be asleep; they are looked for again after this long, ms. */
const SEARCH_AGAIN_MS = 30 * 60_000;
const SEARCH_BACKOFF = { base: 5_000, cap: 300_000 };

/** Everything a wl-sunspec node does: finds the units behind a link, polls them, and tells what they say. */
export class SunSpecSource {
    private readonly units: PolledUnits<UnitReader>;
    private readonly names = new Map<string, number>();
    private searchFault = false;
    private wake: () => void = () => {};

    constructor(private readonly options: SourceOptions & { config: SunSpecConfig; sources?: () => ClassSources }) {
        const { config } = options;
        const groups = [
            { name: "fast", periodMs: config.period },
            { name: "slow", periodMs: Math.max(config.period, config.slowPeriod) },
        ];
        this.units = new PolledUnits(options, { groups, unidentified: "SUNSPEC_NOT_FOUND" }, reportOptions(config), "searching");
    }

    /** Works until aborted; resolves then. */
    run(reader: ModbusReader, signal: AbortSignal): Promise<void> {
        const units = unitsOf(this.options.config);
        return this.units.run(async () => {
            if (units) await Promise.all(units.map((unit) => this.poll(reader, unit, signal)));
            else await this.search(reader, signal);
        });
    }

    /** Polls every unit now; resolves when all have been. */
    async pollNow(signal: AbortSignal): Promise<void> {
        this.wake();
        await this.units.pollNow(signal);
    }

    /** To be told of every change of the link. */
    linkChanged(state: Pick<LinkState, "name">): void {
        if (this.units.linkChanged(state)) this.wake();
    }

    /** Asks the usual units until one shows a device, and later for those that were silent. */
    private async search(reader: ModbusReader, signal: AbortSignal): Promise<void> {
        const backoff = new Backoff({ ...SEARCH_BACKOFF, ...(this.options.random && { random: this.options.random }) });
        const polls: Promise<void>[] = [];
        let units = USUAL_UNIT_IDS;
        while (!signal.aborted) {
            const { found, missed } = await this.discover(reader, units, signal);
            // The neighbour of a sleeper that woke up may be read already.
            for (const { unit } of found) if (!this.units.get(unit)) polls.push(this.poll(reader, unit, signal));
            units = missed;
            const known = this.units.size > 0;
            if (known && units.length === 0) break;
            await this.rest(known ? SEARCH_AGAIN_MS : backoff.next(), signal);
        }
        await Promise.all(polls);
    }

    private async discover(reader: ModbusReader, units: readonly number[], signal: AbortSignal): Promise<{ found: readonly DeviceMap[]; missed: readonly number[] }> {
        const { listener } = this.options;
        try {
            const { found, missed } = await discover(reader, units, { clock: this.units.clock, signal, neighbours: true });
            if (found.length === 0 && this.units.size === 0) {
                const why = missed[0]?.error;
                throw new WattError("SUNSPEC_NOT_FOUND", `No SunSpec device at units ${units.join(", ")}. ${why?.message ?? ""}`, { cause: why });
            }
            this.searchFault = false;
            return { found, missed: missed.map(({ unit }) => unit) };
        } catch (error) {
            const none = { found: [], missed: units };
            if (signal.aborted || this.units.size > 0) return none;
            const fault = asWattError(error, "SUNSPEC_FAILED");
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
        await this.units.clock.sleep(ms, AbortSignal.any([signal, woken.signal])).catch(() => {});
    }

    private poll(reader: ModbusReader, unit: number, signal: AbortSignal): Promise<void> {
        const { config, site } = this.options;
        const { devices } = config;
        const { energy, maxGapMs, clock } = this.units;
        const unitReader = new UnitReader(reader, unit, {
            ...config,
            ...(devices.length > 0 && { chosen: devices.filter((row) => row.unit === unit) }),
            site,
            maxGapMs,
            energy,
            sources: this.options.sources,
            claim: (name) => this.claim(name, unit),
            clock,
        });
        return this.units.poll(unit, unitReader, signal);
    }

    /** Two units may show the same serial number; the first to come has the plain name for as long as it shows it. */
    private claim(name: string, unit: number): string {
        const owner = this.names.get(name) ?? unit;
        const held = owner !== unit && this.units.get(owner)?.devices.some((device) => device.name === name);
        if (held) return `${name}-u${unit}`;
        this.names.set(name, unit);
        return name;
    }
}
