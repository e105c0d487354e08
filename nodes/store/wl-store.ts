import path from "node:path";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { configure, numberField, parseConfig, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { SiteNode } from "../common/wl-site.js";
import { shareStore, type Store } from "./store.js";

const schema = () =>
    z.object({
        folder: textField("wattledger"),
        commitS: numberField({ min: 1, max: 3600, default: 10 }),
        rawDays: numberField({ min: 1, max: 3650, default: 7, integer: true }),
        minuteDays: numberField({ min: 1, max: 3650, default: 60, integer: true }),
        hourDays: numberField({ min: 1, max: 36_500, default: 730, integer: true }),
        dayDays: numberField({ min: 1, max: 36_500, default: 7300, integer: true }),
        spoolMb: numberField({ min: 8, max: 1_000_000, default: 512 }),
        spoolDays: numberField({ min: 1, max: 3650, default: 30 }),
    });

export interface StoreNode extends Node {
    /** By node id. Node-RED hands this node's errors on to the flows of its users. */
    users: Record<string, Node>;
    /** Undefined while the settings are unusable. */
    store?: Store;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-store", function (this: StoreNode, def: NodeDef & { site?: string }) {
        RED.nodes.createNode(this, def);
        this.users = {};
        configure(this, () => {
            const config = parseConfig(schema(), def);
            const site = def.site ? (RED.nodes.getNode(def.site) as SiteNode | null)?.site : undefined;
            const { store, release } = shareStore({
                folder: path.resolve(RED.settings.userDir ?? "", config.folder),
                commitMs: config.commitS * 1000,
                retention: { raw: config.rawDays, minute: config.minuteDays, hour: config.hourDays, day: config.dayDays },
                zone: site?.zone ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
                spool: { maxBytes: config.spoolMb * 1e6, maxAgeMs: config.spoolDays * 86_400_000 },
            });
            this.store = store;
            const lifecycle = new Lifecycle(this);
            lifecycle.onClose(release);
            lifecycle.onClose(reportProblems(this, store));
        });
    });
};

/** One error when something goes wrong, to the log or the users' Catch, and one line when it is well again. */
function reportProblems(node: Node, store: Store): () => void {
    let known: string[] = [];
    return store.onChange(() => {
        const { problems } = store.health();
        for (const problem of problems) if (!known.includes(problem)) node.error(new WattError("STORE_PROBLEM", `${problem}.`), {});
        if (known.length > 0 && problems.length === 0) node.log("The store is well again.");
        known = problems;
    });
}
