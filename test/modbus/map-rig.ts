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

export const TYPES = [wlSite, wlModbusLink, wlModbus];
export const SITE = { id: "site", type: "wl-site", siteId: "home" };

/** A small meter with a scale register, labels, a counter and a group that is read seldom. */
export const METER_MAP = `
schema: pointmap/1
id: test-meter
class: meter
vendor: Acme
models: [M1]
source: {doc: invented for tests, verified: document, date: 2026-11-21}
protocol: modbus
defaults:
  table: holding
  gaps: declared
  readable: [[0, 39]]
  atomic: [[4, 5]]
  unit_ids: [1]
identify:
  - {address: 30, type: uint16, is: [1648, 1649]}
proof: [ac_frequency_hz]
groups:
  fast: {every: 200ms}
  slow: {every: 400ms}
points:
  ac_voltage_l1_v: {address: 0, type: uint16, unit: V, scale: 0.1, valid: [0, 500]}
  ac_frequency_hz: {address: 1, type: uint16, unit: Hz, scale: 0.01, valid: [45, 65]}
  ac_power_w: {address: 2, type: int32, unit: W, sign: export_positive, max_step: {per: 1s, by: 100000}}
  ac_current_l1_a: {address: 4, type: uint16, unit: A, scale: {register: 5, rule: multiply_pow10}}
  state: {address: 6, type: uint16, enum: {0: idle, 1: running}}
  alarms: {address: 7, type: uint16, bits: {0: overvoltage, 3: phase_loss}}
  ac_energy_import_wh: {address: 10, type: uint32, unit: kWh, group: slow}
  cabinet_temperature_c: {address: 20, type: int16, unit: °C, scale: 0.1, invalid: [0x7fff], group: slow}
`;

/** The registers of that meter while it exports 2.5 kW. */
export function meterWords(): Map<number, number> {
    const words = new Map(Array.from({ length: 40 }, (_, address) => [address, 0]));
    for (const [address, word] of [[0, 2312], [1, 4998], [3, 2500], [4, 108], [5, 0xffff], [6, 1], [7, 9], [11, 7], [20, 415], [30, 1648]] as const) words.set(address, word);
    return words;
}

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
            this.forget();
            this.statuses = [];
            this.permissions = [];
            this.watch = undefined;
            this.web?.closeAllConnections();
            this.web?.close();
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

    /** The next message that fits. */
    async next<M = ReadingMessage>(fits: (msg: M) => boolean = () => true, id = "out"): Promise<M> {
        for (;;) {
            const [msg] = (await once(helper.getNode(id), "input")) as [M];
            if (fits(msg)) return msg;
        }
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
