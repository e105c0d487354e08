import path from "node:path";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { configure, parseConfig, textField } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import { Store } from "./store.js";

const schema = z.object({ folder: textField("wattledger") });

export interface StoreNode extends Node {
    /** Undefined while the settings are unusable. */
    store?: Store;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-store", function (this: StoreNode, def: NodeDef) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            const { folder } = parseConfig(schema, def);
            const store = new Store({ folder: path.resolve(RED.settings.userDir ?? ".", folder) });
            this.store = store;
            new Lifecycle(this).onClose(() => store.close());
        });
    });
};
