import path from "node:path";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configNode, configure } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { packageVersion } from "../common/version.js";
import { siteOf } from "../common/wl-site.js";
import type { StoreNode } from "../store/wl-store.js";
import { Aggregator, rulesOf, summaryOf } from "./aggregator.js";
import { importAmsConfig } from "./ams-config.js";
import { EvidenceKeeper } from "./capsule-file.js";
import { recomputeReport } from "./evidence.js";

interface AmsIdDef extends NodeDef {
    site: string;
    store: string;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-ams-id", function (this: Node, def: AmsIdDef) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const site = siteOf(RED, def);
            const storeNode = configNode<StoreNode>(RED, def.store, "wl-store");
            lifecycle.join(storeNode);
            const { store } = storeNode;
            if (!store) throw new WattError("CONFIG_MISSING", "check store");
            const { folder } = store.options;
            const topic = (what: string) => `${site.siteId}/${what}`;
            const aggregator = new Aggregator(folder, rulesOf(def, site, packageVersion()), {
                onInterval: (interval) => this.send([{ topic: topic("interval"), payload: summaryOf(interval), timestamp: interval.to, interval }]),
                onReport: (report, evidence) => this.send([null, { topic: topic("report"), payload: report, timestamp: report.period.toMs, evidence }]),
                onAdjustment: (adjustment) => this.send([null, null, { topic: topic("adjustment"), payload: adjustment, timestamp: adjustment.madeAt }]),
                onStatus: (kind, text) => lifecycle.status.set(kind, text),
                onWarning: (error) => this.warn(error),
            }, new EvidenceKeeper(path.join(folder, "carbon", "evidence"), () => store.ledger(`wattledger/${site.siteId}`), recomputeReport));
            lifecycle.onClose(() => aggregator.close());
            lifecycle.run((signal) => aggregator.run(signal));
            lifecycle.onInput<{ command?: unknown }>((msg, send) => {
                if (msg.command === undefined) return aggregator.take(msg);
                return aggregator.command(msg.command).then((payload) => send([null, null, null, Object.assign(msg, { payload })]));
            });
        });
    });

    adminRoute(RED, "/wattledger/ams-id/import", "wl-ams-id", ({ text }) => Promise.resolve(importAmsConfig(text)));
};
