import path from "node:path";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configNode, configure, isPresent, parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { siteOf } from "../common/wl-site.js";
import type { MqttState } from "../mqtt/link.js";
import type { MqttLinkNode } from "../mqtt/wl-mqtt-link.js";
import type { StoreNode } from "../store/wl-store.js";
import { addKey, esp32Schema, keysOf, parseSecrets } from "./config.js";
import { mount } from "./mount.js";
import { Receiver } from "./receiver.js";

interface Credentials {
    /** JSON: secrets by device. */
    keys?: string;
}

interface Esp32Def extends NodeDef {
    site: string;
    store: string;
    link?: string;
}

interface Esp32Node extends Node<Credentials> {
    /** Undefined while the settings are unusable. */
    receiver?: Receiver;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType<Esp32Node, Esp32Def, object, Credentials>(
        "wl-esp32",
        function (this: Esp32Node, def: Esp32Def) {
            RED.nodes.createNode(this, def);
            const lifecycle = new Lifecycle(this);
            configure(this, () => {
                const config = parseConfig(esp32Schema, def);
                const { siteId, zone } = siteOf(RED, def);
                const storeNode = configNode<StoreNode>(RED, def.store, "wl-store");
                lifecycle.join(storeNode);
                const { store } = storeNode;
                if (!store) throw new WattError("CONFIG_MISSING", "check store");
                const { keys, missing } = keysOf(config, parseSecrets(this.credentials?.keys));
                if (missing.length > 0) this.warn(`No key is stored for ${missing.join(", ")}: make one in the dialog, and deploy.`);
                // Without HTTP nothing else can come in.
                const link = def.link || !config.http ? configNode<MqttLinkNode>(RED, def.link, "wl-mqtt-link") : undefined;
                const receiver = new Receiver({
                    folder: path.join(store.options.folder, "ingest", this.id),
                    site: siteId,
                    zone,
                    config,
                    keys,
                    onReading: (message) => this.send([message, null]),
                    settled: () => store.series.settled(),
                    onRefusal: (refusal) => this.send([null, { topic: `${siteId}/refused`, payload: refusal, timestamp: refusal.at }]),
                    onWarning: (error) => this.warn(error),
                });
                this.receiver = receiver;
                lifecycle.onClose((removed) => receiver.ingest.close(removed && !isPresent(RED, this.id)));
                lifecycle.run(() => receiver.ingest.ready);

                // A deploy of other nodes stops and starts the flow too.
                const begin = () => receiver.ingest.start();
                const pause = () => receiver.ingest.stop();
                RED.events.on("flows:started", begin).on("flows:stopping", pause);
                lifecycle.onClose(() => void RED.events.off("flows:started", begin).off("flows:stopping", pause));
                if (config.http) lifecycle.onClose(mount(RED.httpNode, config.path, receiver.door.paths, receiver.door.handle));

                let broker: MqttState | undefined;
                const show = () => {
                    const { kind, text } = receiver.status(broker);
                    lifecycle.status.set(kind, text);
                };
                if (link) {
                    const join = () => void link.register(this, receiver.subscription(() => lifecycle.run(async () => join())), (state) => {
                        broker = state;
                        show();
                    });
                    lifecycle.onClose((removed) => {
                        receiver.leave();
                        return link.deregister(this, removed);
                    });
                    join();
                }
                const timer = setInterval(show, 1000);
                lifecycle.onClose(() => clearInterval(timer));
                show();
            });
        },
        { credentials: { keys: { type: "password" } } },
    );

    const receiverOf = (id: unknown): Receiver => {
        const { receiver } = (RED.nodes.getNode(String(id)) as Esp32Node | null) ?? {};
        if (!receiver) throw new WattError("CONFIG_MISSING", "Deploy this node first.");
        return receiver;
    };
    adminRoute(RED, "/wattledger/ingest/devices", "wl-esp32", async ({ id }) => receiverOf(id).look());
    adminRoute(RED, "/wattledger/ingest/forget", "wl-esp32", async ({ id, device }) => {
        await receiverOf(id).ingest.forget(String(device));
        return {};
    });
    /** The only time that a key is told. */
    adminRoute(RED, "/wattledger/ingest/key", "wl-esp32", async ({ id, device, listed }) => {
        const stored = (RED.nodes.getCredentials(String(id)) ?? {}) as Credentials;
        const { name, secret, keys } = addKey(stored.keys, device, listed);
        await RED.nodes.addCredentials(String(id), { ...stored, keys });
        return { device: name, secret };
    });
};
