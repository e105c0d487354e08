import type { Node, NodeAPI, NodeDef } from "node-red";
import type { z } from "zod";
import { adminRoute } from "../common/admin.js";
import { configure, parseConfig, resolveEnv } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { LinkMember, LinkState } from "./link.js";
import { type DeviceNeeds, endpointName, linkSchema, sharedLink, tryConnect, withNeeds } from "./links.js";
import { listPorts } from "./serial.js";

type LinkConfig = z.output<typeof linkSchema>;

export interface ModbusLinkNode extends Node {
    /** By node id. Node-RED hands this node's errors and status on to the flows of its users. */
    users: Record<string, Node>;
    /** `192.168.1.20:502`; empty while the settings are unusable. */
    endpoint(): string;
    /**
     * Joins the link; the first user connects it. `onState` hears every change, the present state is the reader's `state`.
     * @param needs Where the user's device needs more time than the settings give.
     * @throws WattError CONFIG_MISSING while the settings are unusable.
     */
    register(user: Node, onState?: (state: LinkState) => void, needs?: DeviceNeeds): LinkMember;
    /** Leaves the link; the last user disconnects it. Resolves when the connection is closed. */
    deregister(user: Node): Promise<void>;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-modbus-link", function (this: ModbusLinkNode, def: NodeDef) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        const listeners = new Map<string, (state: LinkState) => void>();
        let settings: LinkConfig | undefined;
        let member: LinkMember | undefined;
        /** Of users with needs of their own. */
        const own = new Map<string, LinkMember>();
        const leave = async () => {
            const left = [...own.values(), ...(member ? [member] : [])];
            member = undefined;
            own.clear();
            await Promise.all(left.map((one) => one.leave()));
        };
        const join = (config: LinkConfig) =>
            sharedLink(config).join(config, {
                onState: (state) => {
                    lifecycle.status.set(state.kind, state.text);
                    for (const listener of listeners.values()) listener(state);
                },
                onLost: (error) => this.error(error, {}),
                onBack: () => this.log(`${endpointName(config)} answers again.`),
            });

        this.users = {};
        this.endpoint = () => (settings ? endpointName(settings) : "");
        this.register = (user, onState, needs) => {
            if (!settings) throw new WattError("CONFIG_MISSING", "check modbus-link");
            this.users[user.id] = user;
            if (onState) listeners.set(user.id, onState);
            member ??= join(settings);
            if (!needs) return member;
            const reader = sharedLink(settings).join(withNeeds(settings, needs));
            own.set(user.id, reader);
            return reader;
        };
        this.deregister = async (user) => {
            delete this.users[user.id];
            listeners.delete(user.id);
            const left = own.get(user.id);
            own.delete(user.id);
            await left?.leave();
            if (Object.keys(this.users).length === 0) await leave();
        };
        lifecycle.onClose(leave);
        configure(this, () => {
            settings = parseConfig(linkSchema, def);
        });
    });

    adminRoute(RED, "/wattledger/modbus/test", "wl-modbus-link", async (def) => {
        const settings = parseConfig(linkSchema, resolveEnv(RED, def));
        return { ms: await tryConnect(settings, settings), transport: settings.transport };
    });
    adminRoute(RED, "/wattledger/modbus/ports", "wl-modbus-link", async () => ({ ports: await listPorts() }));
};
