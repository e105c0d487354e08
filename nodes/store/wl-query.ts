import type { Node, NodeAPI, NodeDef } from "node-red";
import { systemClock } from "../common/clock.js";
import { configNode, configure, parseConfig } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { siteOf } from "../common/wl-site.js";
import type { InfluxParams } from "./influxql.js";
import { influxQuerySchema, querySchema, querySeries, shapeInflux, windowOf, type Query } from "./query.js";
import type { InfluxNode } from "./wl-influxdb.js";
import type { StoreNode } from "./wl-store.js";

interface QueryDef extends NodeDef {
    source: string;
    site: string;
    store: string;
    influxdb: string;
    influxql: string;
}

interface QueryMessage {
    /** Any field of the dialog, for this message. */
    query?: object;
    payload?: unknown;
    action?: string;
}

/** What one message asks for: the dialog's fields, and over them those of `msg.query`. */
type Ask = (msg: QueryMessage, signal: AbortSignal) => Promise<{ payload: unknown[]; format: Query["format"]; cut?: boolean }>;

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-query", function (this: Node, def: QueryDef) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            parseConfig(querySchema, def);
            const ask = def.source === "influxdb" ? askInflux(RED, def) : askStore(RED, def, lifecycle);
            lifecycle.onInput<QueryMessage>(async (msg, send, signal) => {
                lifecycle.status.set("busy", "reading");
                try {
                    const { payload, format, cut } = await ask(msg, signal);
                    lifecycle.status.set(cut ? "warn" : "ok", cut ? "cut: narrow window" : `${payload.length} ${format === "chart" ? "points" : "rows"}`);
                    // A chart shows this answer instead of adding it to the one before.
                    send(Object.assign(msg, { payload }, format === "chart" && { action: "replace" }));
                } catch (error) {
                    lifecycle.status.set("error", "failed");
                    throw error;
                }
            });
        });
    });
};

function askStore(RED: NodeAPI, def: QueryDef, lifecycle: Lifecycle): Ask {
    const storeNode = configNode<StoreNode>(RED, def.store, "wl-store");
    lifecycle.join(storeNode);
    const { store } = storeNode;
    if (!store) throw new WattError("CONFIG_MISSING", "check store");
    const zone = zoneOf(RED, def) ?? store.options.zone ?? "system";
    return async (msg) => {
        const query = parseConfig(querySchema, { ...def, ...msg.query });
        return { ...(await querySeries(store.series, query, systemClock.now(), zone)), format: query.format };
    };
}

/** In InfluxQL `$from` and `$to` are the window; `msg.query.params` holds what else the text names. */
function askInflux(RED: NodeAPI, def: QueryDef): Ask {
    const { connection } = configNode<InfluxNode>(RED, def.influxdb, "wl-influxdb");
    if (!connection) throw new WattError("CONFIG_MISSING", "check influxdb");
    const zone = zoneOf(RED, def) ?? "system";
    return async (msg, signal) => {
        const query = parseConfig(influxQuerySchema, { ...def, ...msg.query });
        const { from, to } = windowOf(query, systemClock.now(), zone);
        const params: InfluxParams = { from: new Date(from).toISOString(), to: new Date(to).toISOString(), ...query.params };
        return { payload: shapeInflux(await connection.influxql.query(query.influxql, params, signal), query.format), format: query.format };
    };
}

function zoneOf(RED: NodeAPI, def: QueryDef): string | undefined {
    return def.site ? siteOf(RED, def).zone : undefined;
}
