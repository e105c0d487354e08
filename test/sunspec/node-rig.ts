import { once } from "node:events";
import { readdirSync } from "node:fs";
import path from "node:path";
import type { NodeAPI, NodeStatus } from "node-red";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlSite from "../../dist/common/wl-site.js";
import wlModbusLink from "../../dist/modbus/wl-modbus-link.js";
import wlSunspec from "../../dist/sunspec/wl-sunspec.js";
import { type Behaviour, faults } from "../modbus/fault-server.js";
import { helper, makeDir, removeDir } from "../node-red.js";
import { BATTERY, INVERTER, METER, mppts, named, put } from "./devices.js";
import { SunSpecServer } from "./sunspec-server.js";

export const SITE = { id: "site", type: "wl-site", siteId: "home" };
export const TYPES = [wlSite, wlModbusLink, wlSunspec];

export interface FlowNode {
    id: string;
    [property: string]: unknown;
}

/** wl-sunspec in a real runtime, in front of a plant of three units: an inverter, a meter and a battery. Made once a describe. */
export class NodeRig {
    server!: SunSpecServer;
    userDir = "";
    statuses: string[] = [];
    private watch: (() => void) | undefined;
    private forget: () => void = () => {};

    constructor() {
        before(async () => {
            this.userDir = await makeDir("wl-sunspec-");
            helper.settings({ userDir: this.userDir });
            await helper.startServer();
        });
        after(async () => {
            await helper.stopServer();
            helper.settings({});
            await removeDir(this.userDir);
        });
        beforeEach(async () => {
            this.server = await SunSpecServer.start();
            put(this.server, 1, [named("INV"), [103, INVERTER], [160, mppts(2000, 2380)]]);
            put(this.server, 2, [named("GRID"), [203, METER]]);
            put(this.server, 3, [named("BAT"), [802, BATTERY]]);
        });
        afterEach(async () => {
            await helper.unload();
            this.forget();
            this.statuses = [];
            this.watch = undefined;
            await this.server.stop();
            for (const entry of readdirSync(this.userDir)) await removeDir(path.join(this.userDir, entry));
        });
    }

    flow(def: object = {}, link: object = {}): FlowNode[] {
        const { port } = this.server.server;
        return [
            { id: "tab", type: "tab" },
            SITE,
            { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port, timeoutMs: 2000, ...link },
            { id: "reader", z: "tab", type: "wl-sunspec", x: 0, y: 0, site: "site", link: "link", units: "1-3", period: 0.2, wires: [["out"]], ...def },
            { id: "out", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
            { id: "catch", z: "tab", type: "catch", x: 0, y: 0, wires: [["caught"]] },
            { id: "caught", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
        ];
    }

    load(def?: object, link?: object): Promise<void> {
        const recorder = ({ events }: NodeAPI) => {
            const record = ({ id, status }: { id: string; status: NodeStatus }) => {
                if (id !== "reader") return;
                this.statuses.push(`${status.fill} ${status.text}`);
                this.watch?.();
            };
            events.on("node-status", record);
            this.forget = () => events.off("node-status", record);
        };
        return helper.load([recorder, ...TYPES], this.flow(def, link));
    }

    /** The next message that fits. */
    next<M = ReadingMessage>(fits: (msg: M) => boolean = () => true, id = "out"): Promise<M> {
        // Node-RED passes over a listener when another one is taken away while it calls them: none is.
        return new Promise((resolve) => {
            helper.getNode(id).on("input", (msg) => {
                if (fits(msg as M)) resolve(msg as M);
            });
        });
    }

    /** Everything that reaches the Catch node from now on. */
    caught(): { error: { message: string; code?: string } }[] {
        const caught: { error: { message: string; code?: string } }[] = [];
        helper.getNode("caught").on("input", (msg) => caught.push(msg as never));
        return caught;
    }

    /** A status goes out once a second at most. */
    async shows(text: string): Promise<void> {
        while (!this.statuses.includes(text)) {
            await new Promise<void>((resolve) => {
                this.watch = resolve;
            });
        }
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
