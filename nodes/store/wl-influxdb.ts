import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { adminRoute } from "../common/admin.js";
import { booleanField, choiceField, configure, isPresent, parseConfig, textField, resolveEnv } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { InfluxConnection, type InfluxSettings } from "./influx-connection.js";
import type { Outbox } from "./outbox.js";
import type { Store } from "./store.js";

const schema = () =>
    z.object({
        url: textField("").refine((url) => url === "" || isPlainUrl(url), "must look like http://192.168.1.10:8086, without user or password"),
        version: choiceField(["auto", "1", "2", "3"], "auto"),
        database: textField(),
        org: textField(""),
        retentionPolicy: textField(""),
        createDatabase: booleanField(false),
        insecure: booleanField(false),
        ca: textField(""),
        username: textField(""),
        password: textField(""),
        token: textField(""),
    })
    .transform(({ createDatabase, insecure, ca, ...target }): InfluxSettings => {
        return { target, createDatabase, tls: { rejectUnauthorized: !insecure, ...(ca && { ca }) } };
    });

interface Credentials {
    username?: string;
    password?: string;
    token?: string;
}

export interface InfluxNode extends Node<Credentials> {
    /** By node id. Node-RED hands this node's errors on to the flows of its users. */
    users: Record<string, Node>;
    /** Undefined without a URL, and while the settings are unusable. */
    connection?: InfluxConnection;
    /** The outbox between a store and this InfluxDB, undefined without a URL. @throws WattError CONFIG_MISSING while the settings are unusable */
    outbox(store: Store): Outbox | undefined;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType<InfluxNode, NodeDef, object, Credentials>(
        "wl-influxdb",
        function (this: InfluxNode, def: NodeDef) {
            RED.nodes.createNode(this, def);
            const lifecycle = new Lifecycle(this);
            const watched = new Set<Outbox>();
            let unused = false;
            this.users = {};
            this.outbox = (store) => {
                if (unused) return undefined;
                if (!this.connection) throw new WattError("CONFIG_MISSING", "check influxdb");
                const outbox = this.connection.outbox(store, `influxdb-${this.id}`);
                if (!watched.has(outbox)) watchOutbox(this, outbox);
                watched.add(outbox);
                return outbox;
            };
            configure(this, () => {
                const settings = parseConfig(schema(), { ...def, ...this.credentials });
                // One flow serves with and without InfluxDB: its URL may come from an environment variable that is not set.
                unused = settings.target.url === "";
                if (unused) return;
                if (!settings.tls.rejectUnauthorized) this.warn("The certificate of InfluxDB is not checked: anyone on the way can read and change the points.");
                const connection = new InfluxConnection(settings);
                this.connection = connection;
                lifecycle.onClose((removed) => connection.close(removed && !isPresent(RED, this.id)));
            });
        },
        { credentials: { username: { type: "text" }, password: { type: "password" }, token: { type: "password" } } },
    );

    adminRoute(RED, "/wattledger/influxdb/test", "wl-influxdb", async (body, gone) => {
        // The dialog never gets a stored secret; it sends a mark for "unchanged".
        const stored = (RED.nodes.getCredentials(String(body["id"])) ?? {}) as Record<string, unknown>;
        for (const key of ["password", "token"]) if (body[key] === "__PWRD__") body[key] = stored[key];
        return { version: await test(resolveEnv(RED, body), gone) };
    });
};

/** The version that answers. @throws WattError with what keeps points from being written */
async function test(def: unknown, gone: AbortSignal): Promise<string> {
    const settings = parseConfig(schema(), def);
    if (settings.target.url === "") throw new WattError("CONFIG_INVALID", "Check the settings: url must not be empty.");
    const connection = new InfluxConnection(settings);
    try {
        const outcome = await connection.check(AbortSignal.any([gone, AbortSignal.timeout(10_000)]));
        if (outcome.kind !== "delivered") throw new WattError("INFLUX_REFUSED", outcome.reason);
        return outcome.server?.version || `${outcome.server?.dialect}.x`;
    } finally {
        await connection.close();
    }
}

/** One line when the way to InfluxDB is lost, with what to do, and one when it is back. */
function watchOutbox(node: Node, outbox: Outbox): void {
    let lost: string | undefined;
    let deliveredBefore = 0;
    outbox.onChange(() => {
        const { state, reason = "no answer", delivered } = outbox.stats();
        if (state === "waiting" || state === "paused") {
            if (lost !== state) node.error(new WattError(state === "paused" ? "INFLUX_PAUSED" : "INFLUX_DOWN", `Points wait in the store. ${reason}`), {});
            lost = state;
            deliveredBefore = delivered;
        } else if (lost !== undefined && delivered > deliveredBefore) {
            lost = undefined;
            node.log("InfluxDB takes points again.");
        }
    });
}

/** A password in the URL would be stored in the flow, readable by all. */
function isPlainUrl(url: string): boolean {
    if (!/^https?:\/\//i.test(url) || !URL.canParse(url)) return false;
    const { username, password, search } = new URL(url);
    return `${username}${password}${search}` === "";
}
