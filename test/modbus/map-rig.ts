import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { NodeAPI, NodeStatus } from "node-red";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlSite from "../../dist/common/wl-site.js";
import wlModbus from "../../dist/modbus/wl-modbus.js";
import wlModbusLink from "../../dist/modbus/wl-modbus-link.js";
import { helper, makeDir, removeDir } from "../node-red.js";
import { type Behaviour, FaultServer, faults } from "./fault-server.js";
import { METER_MAP, meterWords } from "./meter.js";

export const TYPES = [wlSite, wlModbusLink, wlModbus];
export const SITE = { id: "site", type: "wl-site", siteId: "home" };

export interface FlowNode {
    id: string;
    [property: string]: unknown;
}

/** wl-modbus in a real runtime, in front of a server that is a meter at unit 1. Made once a describe. */
export class MapRig {
    server!: FaultServer;
    readonly units = new Map<number, Map<number, number>>();
    userDir = "";
    statuses: string[] = [];
    permissions: string[] = [];
    private web: Server | undefined;
    private watch: (() => void) | undefined;
    private forget: () => void = () => {};

    constructor() {
        before(async () => {
            this.userDir = await makeDir("wl-modbus-");
            helper.settings({ userDir: this.userDir });
            await helper.startServer();
        });
        after(async () => {
            await helper.stopServer();
            helper.settings({});
            await removeDir(this.userDir);
        });
        beforeEach(async () => {
            this.units.clear();
            this.units.set(1, meterWords());
            this.server = await FaultServer.start();
            this.server.registers = (unit, address) => this.units.get(unit)?.get(address);
            const answer: Behaviour = (asked, peer) => (this.units.has(asked.unit) ? faults.right : faults.silent)(asked, peer);
            this.server.otherwise = answer;
        });
        afterEach(async () => {
            await helper.unload();
            this.stopListening();
            this.statuses = [];
            this.permissions = [];
            this.watch = undefined;
            await this.server.stop();
            for (const entry of readdirSync(this.userDir)) await removeDir(path.join(this.userDir, entry));
        });
    }

    flow(def: object = {}, link: object = {}): FlowNode[] {
        return [
            { id: "tab", type: "tab" },
            SITE,
            { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port: this.server.port, timeoutMs: 2000, ...link },
            { id: "reader", z: "tab", type: "wl-modbus", x: 0, y: 0, site: "site", link: "link", map: "paste", mapText: METER_MAP, wires: [["out"]], ...def },
            { id: "out", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
            { id: "catch", z: "tab", type: "catch", x: 0, y: 0, wires: [["caught"]] },
            { id: "caught", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
        ];
    }

    load(def?: object, link?: object, more: FlowNode[] = []): Promise<void> {
        return this.start([...this.flow(def, link), ...more]);
    }

    start(nodes: FlowNode[]): Promise<void> {
        this.stopListening();
        const recorder = (RED: NodeAPI) => {
            const record = ({ id, status }: { id: string; status: NodeStatus }) => {
                if (id !== "reader") return;
                this.statuses.push(`${status.fill} ${status.text}`);
                this.watch?.();
            };
            RED.events.on("node-status", record);
            this.forget = () => RED.events.off("node-status", record);
            // The helper serves no admin routes by itself.
            const { auth } = RED;
            RED.auth = {
                ...auth,
                needsPermission: (permission) => {
                    this.permissions.push(permission);
                    return auth.needsPermission(permission);
                },
            };
            this.web = createServer(RED.httpAdmin as RequestListener).listen(0, "127.0.0.1");
        };
        return helper.load([recorder, ...TYPES], nodes);
    }

    private stopListening(): void {
        this.forget();
        this.web?.closeAllConnections();
        this.web?.close();
        this.web = undefined;
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

    /** Asks one of the dialog's routes. */
    async post<T>(route: string, body: object): Promise<{ status: number; body: T & { message?: string; code?: string } }> {
        const { port } = this.web!.address() as AddressInfo;
        const response = await fetch(`http://127.0.0.1:${port}/wattledger/modbus/${route}`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify(body),
        });
        return { status: response.status, body: (await response.json()) as T & { message?: string; code?: string } };
    }

    /** Resolves when the server has seen every connection end. */
    async disconnected(): Promise<void> {
        while (this.server.live.size > 0) await once(this.server, "disconnection");
    }
}
