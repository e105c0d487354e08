import { readdirSync } from "node:fs";
import path from "node:path";
import type { NodeAPI, NodeStatus } from "node-red";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { helper, makeDir, removeDir } from "../node-red.js";

export const SITE = { id: "site", type: "wl-site", siteId: "home" };

export interface FlowNode {
    id: string;
    [property: string]: unknown;
}

/** A node `reader` of any type in a real runtime, wired to `out`, with a Catch node wired to `caught`. Made once a describe. */
export abstract class ReaderRig {
    userDir = "";
    statuses: string[] = [];
    private watch: (() => void) | undefined;
    private forget: () => void = () => {};

    constructor(private readonly type: string) {
        before(async () => {
            this.userDir = await makeDir(`${type}-`);
            helper.settings({ userDir: this.userDir });
            await helper.startServer();
        });
        after(async () => {
            await helper.stopServer();
            helper.settings({});
            await removeDir(this.userDir);
        });
        afterEach(async () => {
            await helper.unload();
            this.forget();
            this.statuses = [];
            this.watch = undefined;
            for (const entry of readdirSync(this.userDir)) await removeDir(path.join(this.userDir, entry));
        });
    }

    protected flowOf(port: number, def: object, link: object): FlowNode[] {
        return [
            { id: "tab", type: "tab" },
            SITE,
            { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port, timeoutMs: 2000, ...link },
            { id: "reader", z: "tab", type: this.type, x: 0, y: 0, site: "site", link: "link", wires: [["out"]], ...def },
            { id: "out", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
            { id: "catch", z: "tab", type: "catch", x: 0, y: 0, wires: [["caught"]] },
            { id: "caught", z: "tab", type: "helper", x: 0, y: 0, wires: [] },
        ];
    }

    /** To be loaded with the node types. */
    protected record({ events }: NodeAPI): void {
        this.forget();
        const record = ({ id, status }: { id: string; status: NodeStatus }) => {
            if (id !== "reader") return;
            this.statuses.push(`${status.fill} ${status.text}`);
            this.watch?.();
        };
        events.on("node-status", record);
        this.forget = () => events.off("node-status", record);
    }

    /** The next message that fits. */
    next<M = ReadingMessage>(fits: (msg: M) => boolean = () => true, id = "out"): Promise<M> {
        // Node-RED passes over a listener when another one is taken away while it calls them: none is.
        return new Promise((resolve) => {
            helper.getNode(id).on("input", (msg) => {
                if (fits(msg as M)) resolve(msg as M);
            });
        });
    }

    /** Everything that reaches the Catch node from now on. */
    caught(): { error: { message: string; code?: string } }[] {
        const caught: { error: { message: string; code?: string } }[] = [];
        helper.getNode("caught").on("input", (msg) => caught.push(msg as never));
        return caught;
    }

    /** A status goes out once a second at most. */
    async shows(text: string): Promise<void> {
        while (!this.statuses.includes(text)) {
            await new Promise<void>((resolve) => {
                this.watch = resolve;
            });
        }
    }
}
