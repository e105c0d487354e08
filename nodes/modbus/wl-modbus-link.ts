import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { booleanField, configure, numberField, parseConfig, textField } from "../common/config.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { LinkMember, LinkState } from "./link.js";
import { sharedLink, tryConnect } from "./links.js";

const schema = z
    .object({
        host: textField().pipe(z.string().regex(/^[^\s/]+$/, "takes a host name or an IP address")),
        port: numberField({ min: 1, max: 65_535, default: 502, integer: true }),
        timeoutMs: numberField({ min: 50, max: 60_000, default: 1_000 }),
        gapMs: numberField({ min: 0, max: 10_000, default: 0 }),
        connectPauseMs: numberField({ min: 0, max: 30_000, default: 0 }),
        maxRegisters: numberField({ min: 1, max: 125, default: 125, integer: true }),
        idleCloseS: numberField({ min: 0, max: 86_400, default: 0 }),
        checkUnit: booleanField(true),
    })
    .transform(({ idleCloseS, ...rest }) => ({ ...rest, idleCloseMs: idleCloseS * 1_000 }));

export interface ModbusLinkNode extends Node {
    /** By node id. Node-RED hands this node's errors and status on to the flows of its users. */
    users: Record<string, Node>;
    /**
     * Joins the link; the first user connects it. `onState` hears every change, the present state is the reader's `state`.
     * @throws WattError CONFIG_MISSING while the settings are unusable.
     */
    register(user: Node, onState?: (state: LinkState) => void): LinkMember;
    /** Leaves the link; the last user disconnects it. Resolves when the connection is closed. */
    deregister(user: Node): Promise<void>;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-modbus-link", function (this: ModbusLinkNode, def: NodeDef) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        const listeners = new Map<string, (state: LinkState) => void>();
        let settings: z.output<typeof schema> | undefined;
        let member: LinkMember | undefined;
        const leave = async () => {
            const left = member;
            member = undefined;
            await left?.leave();
        };
        const join = (config: z.output<typeof schema>) =>
            sharedLink(config).join(config, {
                onState: (state) => {
                    lifecycle.status.set(state.kind, state.text);
                    for (const listener of listeners.values()) listener(state);
                },
                onLost: (error) => this.error(error, {}),
                onBack: () => this.log(`${config.host}:${config.port} answers again.`),
            });

        this.users = {};
        this.register = (user, onState) => {
            if (!settings) throw new WattError("CONFIG_MISSING", "check modbus-link");
            this.users[user.id] = user;
            if (onState) listeners.set(user.id, onState);
            return (member ??= join(settings));
        };
        this.deregister = async (user) => {
            delete this.users[user.id];
            listeners.delete(user.id);
            if (Object.keys(this.users).length === 0) await leave();
        };
        lifecycle.onClose(leave);
        configure(this, () => {
            settings = parseConfig(schema, def);
        });
    });

    RED.httpAdmin.post("/wl-modbus-link/test", RED.auth.needsPermission("wl-modbus-link.write"), (request, response) => {
        const resolved = Object.entries((request.body ?? {}) as object).map(([key, value]) => [key, fromEnv(RED, value)]);
        test(Object.fromEntries(resolved)).then(
            (ms) => response.json({ ms }),
            (error: unknown) => response.status(400).json({ code: errorCode(error), message: errorText(error) }),
        );
    });
};

async function test(def: unknown): Promise<number> {
    const settings = parseConfig(schema, def);
    return tryConnect(settings, settings);
}

/** The dialog sends fields as they were typed. */
function fromEnv(RED: NodeAPI, value: unknown): unknown {
    const isEnv = typeof value === "string" && value.includes("${");
    return isEnv ? RED.util.evaluateNodeProperty(value, "env", {} as Node, {}) : value;
}
