import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configure, isPresent, parseConfig, resolveEnv } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { type MqttHandle, MqttLink, type MqttState, type MqttSubscription, tryConnect } from "./link.js";
import { brokerName, isTls, settingsSchema } from "./settings.js";

interface Credentials {
    username?: string;
    password?: string;
    key?: string;
}

export interface MqttLinkNode extends Node<Credentials> {
    /** By node id. Node-RED hands this node's errors and status on to the flows of its users. */
    users: Record<string, Node>;
    /**
     * Joins the link, in the constructor of the user's node: the link connects when all are made. `onState` hears every change.
     * Without a subscription a user can publish only.
     * @throws WattError CONFIG_MISSING while the settings are unusable, CONFIG_INVALID for topics that are none
     */
    register(user: Node, subscription?: MqttSubscription, onState?: (state: MqttState) => void): MqttHandle;
    /**
     * Leaves the link. A node that is removed is unsubscribed and still gets what was on its way; one that a deploy makes anew keeps
     * its messages until it registers again.
     * @param removed As Node-RED's close event says.
     */
    deregister(user: Node, removed: boolean): Promise<void>;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType<MqttLinkNode, NodeDef, object, Credentials>(
        "wl-mqtt-link",
        function (this: MqttLinkNode, def: NodeDef) {
            RED.nodes.createNode(this, def);
            const lifecycle = new Lifecycle(this);
            let link: MqttLink | undefined;
            this.users = {};
            this.register = (user, subscription, onState) => {
                if (!link) throw new WattError("CONFIG_MISSING", "check mqtt-link");
                const handle = link.join(user.id, subscription, onState);
                this.users[user.id] = user;
                return handle;
            };
            this.deregister = async (user, removed) => {
                delete this.users[user.id];
                await link?.leave(user.id, removed);
            };
            configure(this, () => {
                const settings = parseConfig(settingsSchema(), { ...def, ...this.credentials });
                const broker = brokerName(settings.url);
                if (isTls(settings.url) && !settings.tls.verify) this.warn(`The certificate of ${broker} is not checked: anyone on the way can read and change the messages.`);
                const made = new MqttLink(settings, {
                    waitForStart: true,
                    onState: ({ kind, text }) => lifecycle.status.set(kind, text),
                    onLost: (error) => this.error(error, {}),
                    onBack: () => this.log(`${broker} is connected again.`),
                    onWarning: (text) => this.warn(text),
                });
                link = made;
                const start = () => made.start();
                RED.events.once("flows:started", start);
                lifecycle.onClose(async (removed) => {
                    RED.events.removeListener("flows:started", start);
                    await made.close(removed && !isPresent(RED, this.id));
                });
            });
        },
        { credentials: { username: { type: "text" }, password: { type: "password" }, key: { type: "password" } } },
    );

    adminRoute(RED, "/wattledger/mqtt/test", "wl-mqtt-link", async (body, gone) => {
        // The dialog never gets a stored secret; it sends a mark for "unchanged".
        const stored = (RED.nodes.getCredentials(String(body["id"])) ?? {}) as Record<string, unknown>;
        for (const name of ["password", "key"]) if (body[name] === "__PWRD__") body[name] = stored[name];
        return tryConnect(parseConfig(settingsSchema(), resolveEnv(RED, body)), gone);
    });
};
