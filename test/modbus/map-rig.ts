import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { NodeAPI } from "node-red";
import wlSite from "../../dist/common/wl-site.js";
import wlModbus from "../../dist/modbus/wl-modbus.js";
import wlModbusLink from "../../dist/modbus/wl-modbus-link.js";
import { helper } from "../node-red.js";
import { type Behaviour, FaultServer, faults } from "./fault-server.js";
import { METER_MAP, meterWords } from "./meter.js";
import { type FlowNode, ReaderRig } from "./reader-rig.js";

export const TYPES = [wlSite, wlModbusLink, wlModbus];

/** wl-modbus in a real runtime, in front of a server that is a meter at unit 1. Made once a describe. */
export class MapRig extends ReaderRig {
    server!: FaultServer;
    readonly units = new Map<number, Map<number, number>>();
    permissions: string[] = [];
    private web: Server | undefined;

    constructor() {
        super("wl-modbus");
        beforeEach(async () => {
            this.units.clear();
            this.units.set(1, meterWords());
            this.server = await FaultServer.start();
            this.server.registers = (unit, address) => this.units.get(unit)?.get(address);
            const answer: Behaviour = (asked, peer) => (this.units.has(asked.unit) ? faults.right : faults.silent)(asked, peer);
            this.server.otherwise = answer;
        });
        afterEach(async () => {
            this.stopListening();
            this.permissions = [];
            await this.server.stop();
        });
    }

    flow(def: object = {}, link: object = {}): FlowNode[] {
        return this.flowOf(this.server.port, { map: "paste", mapText: METER_MAP, ...def }, link);
    }

    load(def?: object, link?: object, more: FlowNode[] = []): Promise<void> {
        return this.start([...this.flow(def, link), ...more]);
    }

    start(nodes: FlowNode[]): Promise<void> {
        this.stopListening();
        const recorder = (RED: NodeAPI) => {
            this.record(RED);
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
        this.web?.closeAllConnections();
        this.web?.close();
        this.web = undefined;
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
