import { once } from "node:events";
import type { NodeAPI } from "node-red";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlSite from "../../dist/common/wl-site.js";
import wlModbusLink from "../../dist/modbus/wl-modbus-link.js";
import wlSunspec from "../../dist/sunspec/wl-sunspec.js";
import { type Behaviour, faults } from "../modbus/fault-server.js";
import { type FlowNode, ReaderRig } from "../modbus/reader-rig.js";
import { helper } from "../node-red.js";
import { BATTERY, INVERTER, METER, mppts, named, put } from "./devices.js";
import { SunSpecServer } from "./sunspec-server.js";

export const TYPES = [wlSite, wlModbusLink, wlSunspec];

/** wl-sunspec in a real runtime, in front of a plant of three units: an inverter, a meter and a battery. Made once a describe. */
export class NodeRig extends ReaderRig {
    server!: SunSpecServer;

    constructor() {
        super("wl-sunspec");
        beforeEach(async () => {
            this.server = await SunSpecServer.start();
            put(this.server, 1, [named("INV"), [103, INVERTER], [160, mppts(2000, 2380)]]);
            put(this.server, 2, [named("GRID"), [203, METER]]);
            put(this.server, 3, [named("BAT"), [802, BATTERY]]);
        });
        afterEach(() => this.server.stop());
    }

    flow(def: object = {}, link: object = {}): FlowNode[] {
        return this.flowOf(this.server.server.port, { units: "1-3", period: 0.2, ...def }, link);
    }

    load(def?: object, link?: object): Promise<void> {
        return helper.load([(RED: NodeAPI) => this.record(RED), ...TYPES], this.flow(def, link));
    }

    /** Resolves when the server has seen every connection end. */
    async disconnected(): Promise<void> {
        while (this.server.server.live.size > 0) await once(this.server.server, "disconnection");
    }

    /** Answers for absent units as a good gateway does. */
    refuseAbsent(): void {
        const answer: Behaviour = (asked, peer) => (this.server.units.has(asked.unit) ? faults.right : faults.exception(0x0b))(asked, peer);
        this.server.server.otherwise = answer;
    }
}

export const of = (device: string) => (msg: ReadingMessage) => msg.reading.device === device;
