import type { Learned } from "./block-reader.js";
import { deviceNameOf, type ModbusConfig, unitsOf } from "./config.js";
import { reportOptions } from "./fields.js";
import type { LinkMember, LinkState } from "./link.js";
import type { ModbusMap } from "./map.js";
import { MapUnit } from "./map-unit.js";
import { PolledUnits, type SourceOptions } from "./polled-units.js";
import { deadbandsOf, type ReadGroup, readGroups } from "./read-groups.js";

/** Everything a wl-modbus node does: reads units by a map, and tells what they say. */
export class ModbusSource {
    private readonly groups: readonly ReadGroup[];
    private readonly units: PolledUnits<MapUnit>;

    constructor(private readonly options: SourceOptions & { config: ModbusConfig; map: ModbusMap }) {
        const { config, map } = options;
        this.groups = readGroups(map, config.periods);
        const wrong = "MODBUS_WRONG_DEVICE";
        this.units = new PolledUnits(options, { groups: this.groups, unidentified: wrong, news: wrong }, { ...reportOptions(config), deadbands: deadbandsOf(map) }, "identifying");
    }

    /** Works until aborted; resolves then. */
    run(reader: LinkMember, signal: AbortSignal): Promise<void> {
        const { config, map, site } = this.options;
        const { rawValues } = config;
        const { energy, maxGapMs, clock } = this.units;
        const units = unitsOf(config, map);
        return this.units.run(async () => {
            const polls = units.map((unit) => {
                const name = deviceNameOf(config, map, unit, units.length);
                const mapUnit = new MapUnit(reader, unit, { map, groups: this.groups, cost: reader.cost, site, name, rawValues, maxGapMs, energy, clock });
                return this.units.poll(unit, mapUnit, signal);
            });
            await Promise.all(polls);
        });
    }

    /** Polls every unit now; resolves when all have been. */
    pollNow(signal: AbortSignal): Promise<void> {
        return this.units.pollNow(signal);
    }

    /** What a unit has taught since the start. */
    learned(unit: number): Learned | undefined {
        return this.units.get(unit)?.learned;
    }

    /** To be told of every change of the link. */
    linkChanged(state: Pick<LinkState, "name">): void {
        this.units.linkChanged(state);
    }
}
