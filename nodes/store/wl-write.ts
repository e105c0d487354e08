import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configNode, configure } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { InfluxNode } from "./wl-influxdb.js";
import type { StoreNode } from "./wl-store.js";
import { pointsLost, Writer } from "./writer.js";

export interface WriteNode extends Node {
    /** Undefined while the settings are unusable. */
    writer?: Writer;
}

interface WriteDef extends NodeDef {
    store: string;
    influxdb: string;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-write", function (this: WriteNode, def: WriteDef) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const storeNode = configNode<StoreNode>(RED, def.store, "wl-store");
            lifecycle.join(storeNode);
            const { store } = storeNode;
            if (!store) throw new WattError("CONFIG_MISSING", "check store");
            const influx = def.influxdb ? configNode<InfluxNode>(RED, def.influxdb, "wl-influxdb") : undefined;
            const outbox = influx?.outbox(store);
            if (influx) lifecycle.join(influx);
            const writer = new Writer({ store, ...(outbox && { outbox, isUnsafe: influx?.connection?.settings.tls.rejectUnauthorized === false }) });
            this.writer = writer;

            let told = "";
            let lost = 0;
            let isLossTold = false;
            const show = (): void => {
                const { kind, text } = writer.status();
                lifecycle.status.set(kind, text);
                if (!outbox) return;
                const stats = outbox.stats();
                if (stats.state === "opening" || stats.state === "closed") return;
                const lostNow = writer.lost(stats);
                const isLosing = lostNow > lost;
                if (isLosing && !isLossTold) this.error(pointsLost(stats), {});
                isLossTold = stats.state !== "idle" && (isLossTold || isLosing);
                lost = lostNow;
                const now = `${writer.state} ${lost} ${stats.quarantined}`;
                if (told !== "" && told !== now) this.send([null, { topic: "outbox", payload: stats }]);
                told = now;
            };
            show();
            const timer = setInterval(show, 1000);
            lifecycle.onClose(() => clearInterval(timer));
            if (outbox) {
                lifecycle.onClose(outbox.onChange(show));
                lifecycle.onClose(() => outbox.spool.flush());
            }
            lifecycle.onInput<{ outbox?: unknown }>((msg, send, signal) => {
                if (msg.outbox === undefined) return writer.write(msg, signal).then((reading) => send([reading, null]));
                return writer.command(msg.outbox).then((payload) => send([null, Object.assign(msg, { payload })]));
            });
        });
    });

    adminRoute(RED, "/wattledger/write/outbox", "wl-write", ({ id, command }) => {
        const { writer } = (RED.nodes.getNode(String(id)) as WriteNode | null) ?? {};
        return writer ? writer.command(command) : Promise.reject(new WattError("OUTBOX_COMMAND", "Deploy this node first."));
    });
};
