import { type EventEmitter, once } from "node:events";
import type { Node, NodeAPI, NodeStatus } from "node-red";
import wlSite from "../../dist/common/wl-site.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlInfluxdb, { type InfluxNode } from "../../dist/store/wl-influxdb.js";
import wlQuery from "../../dist/store/wl-query.js";
import wlStore, { type StoreNode } from "../../dist/store/wl-store.js";
import wlWrite from "../../dist/store/wl-write.js";
import { helper, makeDir, removeDir } from "../node-red.js";
import type { InfluxStandIn } from "./influx-stand-in.js";

/** A Node-RED with a store, an InfluxDB, a writer and a query, and eyes on what they show and send. */
export class NodeRig {
    private folder = "";
    private readonly shown = new Map<string, NodeStatus>();
    private readonly waiting = new Set<() => void>();
    private readonly record = ({ id, status }: { id: string; status: NodeStatus }): void => {
        this.shown.set(id, status);
        for (const wake of this.waiting) wake();
    };
    private events: EventEmitter | undefined;
    readonly types = [
        (RED: NodeAPI): void => {
            this.events = RED.events;
            RED.events.off("node-status", this.record);
            RED.events.on("node-status", this.record);
        },
        wlSite,
        wlStore,
        wlInfluxdb,
        wlWrite,
        wlQuery,
    ];

    start(): Promise<void> {
        return helper.startServer();
    }

    /** Each test has a store of its own. */
    async unload(): Promise<void> {
        await helper.unload();
        this.events?.off("node-status", this.record);
        this.shown.clear();
        await removeDir(this.folder);
        this.folder = "";
    }

    /** The folder of this test's store; what a test puts there before `load` belongs to the same test. */
    async makeFolder(): Promise<string> {
        this.folder ||= await makeDir("wl-store-");
        return this.folder;
    }

    stop(): Promise<void> {
        return helper.stopServer();
    }

    /** A whole flow; what is given here is added to the nodes of that id. */
    flow(more: Record<string, object> = {}): object[] {
        const place = { z: "tab", x: 0, y: 0 };
        return [
            { id: "tab", type: "tab" },
            { id: "store", type: "wl-store", folder: this.folder },
            { id: "influx", type: "wl-influxdb", url: "http://127.0.0.1:1", database: "plant", org: "watt" },
            { id: "write", type: "wl-write", ...place, store: "store", influxdb: "", wires: [["kept"], ["outbox"]] },
            { id: "query", type: "wl-query", ...place, store: "store", source: "store", wires: [["answer"]] },
            ...["kept", "outbox", "answer", "caught", "completed"].map((id) => ({ id, type: "helper", ...place })),
            { id: "catch", type: "catch", ...place, wires: [["caught"]] },
            { id: "complete", type: "complete", ...place, scope: ["write"], wires: [["completed"]] },
        ].map((node) => ({ ...node, ...more[node.id] }));
    }

    /** The settings that reach a stand-in. */
    influx(server: InfluxStandIn, more: object = {}): Record<string, object> {
        const { url, database, org } = server;
        return { influx: { url, database, org, ...more }, write: { influxdb: "influx" } };
    }

    credentials(server: InfluxStandIn): Record<string, object> {
        const { username, password, token } = server;
        return { influx: server.dialect === 1 ? { username, password } : { token } };
    }

    /** @param others Nodes beside those of the flow. */
    async load(more: Record<string, object> = {}, credentials: Record<string, object> = {}, others: object[] = []): Promise<void> {
        await this.makeFolder();
        await helper.load(this.types, [...this.flow(more), ...others], credentials);
    }

    /** The status of a node once it matches. */
    async shows(id: string, pattern: RegExp): Promise<NodeStatus> {
        for (;;) {
            const status = this.shown.get(id);
            if (pattern.test(status?.text ?? "")) return status!;
            await new Promise<void>((resolve) => {
                const wake = (): void => {
                    this.waiting.delete(wake);
                    resolve();
                };
                this.waiting.add(wake);
            });
        }
    }

    /** The next message that reaches a helper node. */
    async next<M = Record<string, unknown>>(id: string): Promise<M> {
        return ((await once(helper.getNode<Node & EventEmitter>(id), "input")) as [M])[0];
    }

    send(id: string, msg: object): void {
        helper.getNode(id).receive(msg as Record<string, unknown>);
    }

    /** Sends and resolves with what arrives at a helper node. */
    async ask<M = Record<string, unknown>>(id: string, msg: object, at: string): Promise<M> {
        const answer = this.next<M>(at);
        this.send(id, msg);
        return answer;
    }

    get store(): NonNullable<StoreNode["store"]> {
        return helper.getNode<StoreNode>("store").store!;
    }

    get influxNode(): InfluxNode {
        return helper.getNode<InfluxNode>("influx");
    }

    async post(route: string, body: object): Promise<{ status: number; body: unknown }> {
        return helper.request().post(route).send(body);
    }

    logged(pattern: RegExp): number {
        return helper.log().args.filter(([{ msg }]) => pattern.test(msg instanceof Error ? msg.message : String(msg))).length;
    }
}

/** A reading as our sources send it. */
export function reading(i: number, values: ReadingMessage["payload"] = { ac_power_w: i }): ReadingMessage {
    return {
        topic: "home/inv1",
        payload: values,
        timestamp: Date.now() - 1000 + i,
        reading: { site: "home", device: "inv1", class: "inverter", seq: i, quality: "good" },
    };
}
