import type { Node, NodeStatus } from "node-red";

/** What a status means, so that a colour always says the same: green works, yellow waits or is doubtful, red needs a person. */
export type StatusKind = "ok" | "busy" | "warn" | "error" | "idle";

const LOOK: Record<StatusKind, NodeStatus> = {
    ok: { fill: "green", shape: "dot" },
    busy: { fill: "blue", shape: "ring" },
    warn: { fill: "yellow", shape: "ring" },
    error: { fill: "red", shape: "ring" },
    idle: { fill: "grey", shape: "ring" },
};

/** Shows a status when it changed, and at most once a second: every status goes to each open editor. */
export class Status {
    private shown = "";
    private lastAt = -Infinity;
    private pending: NodeJS.Timeout | undefined;
    private closed = false;

    constructor(
        private readonly node: Pick<Node, "status">,
        private readonly minIntervalMs = 1000,
    ) {}

    set(kind: StatusKind, text: string): void {
        if (this.closed) return;
        clearTimeout(this.pending);
        this.pending = undefined;
        const key = `${kind}:${text}`;
        if (key === this.shown) return;
        const wait = this.lastAt + this.minIntervalMs - performance.now();
        if (wait > 0) {
            this.pending = setTimeout(() => this.set(kind, text), wait);
            this.pending.unref();
            return;
        }
        this.shown = key;
        this.lastAt = performance.now();
        this.node.status({ ...LOOK[kind], text });
    }

    /** Called when the node closes: what still runs must not overwrite the status of the node that takes its place. */
    close(): void {
        this.closed = true;
        clearTimeout(this.pending);
    }
}
