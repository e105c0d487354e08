import type { Node, NodeStatus } from "node-red";
import { systemClock, type Clock } from "./clock.js";

/** What a status means, so that a colour always says the same: green works, yellow waits or is doubtful, red needs a person. */
export type StatusKind = "ok" | "busy" | "warn" | "error" | "idle";

const LOOK: Record<StatusKind, NodeStatus> = {
    ok: { fill: "green", shape: "dot" },
    busy: { fill: "blue", shape: "ring" },
    warn: { fill: "yellow", shape: "ring" },
    error: { fill: "red", shape: "ring" },
    idle: { fill: "grey", shape: "ring" },
};

/** A status is shown at most so often. */
const INTERVAL_MS = 1000;

/** Shows a status when it changed, and at most once a second: every status goes to each open editor. */
export class Status {
    private shown = "";
    private lastAt = -Infinity;
    private cancel: () => void = () => undefined;
    private closed = false;

    constructor(
        private readonly node: Pick<Node, "status">,
        private readonly clock: Clock = systemClock,
    ) {}

    set(kind: StatusKind, text: string): void {
        if (this.closed) return;
        this.cancel();
        const key = `${kind}:${text}`;
        if (key === this.shown) return;
        const wait = this.lastAt + INTERVAL_MS - this.clock.monotonic();
        if (wait > 0) {
            this.cancel = this.clock.after(wait, () => this.set(kind, text));
            return;
        }
        this.shown = key;
        this.lastAt = this.clock.monotonic();
        this.node.status({ ...LOOK[kind], text });
    }

    /** Called when the node closes: what still runs must not overwrite the status of the node that takes its place. */
    close(): void {
        this.closed = true;
        this.cancel();
    }
}
