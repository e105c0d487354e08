import { setMaxListeners } from "node:events";
import type { Node, NodeMessageInFlow } from "node-red";
import { errorText, toError } from "./errors.js";
import { Status } from "./status.js";

export type Send = (msg: object | (object | object[] | null)[]) => void;
export type Handler<M> = (msg: M, send: Send, signal: AbortSignal) => Promise<void> | void;

/**
 * The only place where promises meet Node-RED. A rejected async listener ends the whole Node-RED process, so handlers and
 * background tasks are started here, and what they reject with goes to the Catch path instead.
 */
export class Lifecycle {
    readonly status: Status;
    private readonly controller = new AbortController();
    private readonly running = new Set<Promise<void>>();
    private readonly closers: ((removed: boolean) => Promise<void> | void)[] = [];

    /** @param closeWithinMs Close resolves by then, whatever still hangs: a deploy waits for us at most 2 s. */
    constructor(
        private readonly node: Node,
        private readonly closeWithinMs = 1900,
    ) {
        this.status = new Status(node);
        // One listener a running task is no leak.
        setMaxListeners(0, this.signal);
        node.on("close", (removed: boolean, done: () => void) => {
            this.close(removed).then(done, done);
        });
    }

    /** Aborted when the node closes. */
    get signal(): AbortSignal {
        return this.controller.signal;
    }

    /** Calls `handle` for every message and `done` once it has settled. */
    onInput<M extends object = NodeMessageInFlow>(handle: Handler<M>): void {
        this.node.on("input", (msg, send, done) => {
            this.track(
                () => handle(msg as unknown as M, send as Send, this.signal),
                (error) => {
                    try {
                        if (error === undefined) done();
                        else done(toError(error));
                    } catch (broken) {
                        // Node-RED copies the message for Catch and Complete, which throws where one of its properties does.
                        this.node.error(toError(broken), {});
                    }
                },
            );
        });
    }

    /** Starts background work; a rejection that is not our own abort is reported on the node. */
    run(task: (signal: AbortSignal) => Promise<void>): void {
        this.track(
            () => task(this.signal),
            (error) => {
                if (error !== undefined && !this.signal.aborted) this.node.error(toError(error), {});
            },
        );
    }

    /** Makes this node's flow hear of a config node's errors, until close. */
    join(owner: { users: Record<string, Node> }): void {
        owner.users[this.node.id] = this.node;
        this.onClose(() => void delete owner.users[this.node.id]);
    }

    /** Adds work for close, run in reverse order after the abort; `removed` is true when the node was deleted or disabled. */
    onClose(closer: (removed: boolean) => Promise<void> | void): void {
        this.closers.push(closer);
    }

    /** Adds one promise to a task's own: a burst has thousands under way. */
    private track(task: () => Promise<void> | void, ended: (error?: unknown) => void): void {
        const running = settled(task).then(
            () => {
                this.running.delete(running);
                ended();
            },
            (error: unknown) => {
                this.running.delete(running);
                ended(error ?? new Error("unknown"));
            },
        );
        this.running.add(running);
    }

    private async close(removed: boolean): Promise<void> {
        this.controller.abort(new Error("the node is closing"));
        this.status.close();
        let timer: NodeJS.Timeout | undefined;
        const deadline = new Promise<"late">((resolve) => {
            timer = setTimeout(() => resolve("late"), this.closeWithinMs);
        });
        if ((await Promise.race([this.drain(removed), deadline])) === "late") {
            this.node.warn("Closing took too long; something it was waiting for did not answer.");
        }
        clearTimeout(timer);
    }

    private async drain(removed: boolean): Promise<void> {
        for (const closer of this.closers.toReversed()) {
            try {
                await closer(removed);
            } catch (error) {
                this.node.warn(`Closing: ${errorText(error)}`);
            }
        }
        await Promise.allSettled(this.running);
    }
}

function settled(task: () => Promise<void> | void): Promise<void> {
    try {
        return Promise.resolve(task());
    } catch (error) {
        return Promise.reject(toError(error));
    }
}
