import type { Node } from "node-red";
import type { WattError } from "./errors.js";
import type { Lifecycle } from "./lifecycle.js";
import type { StatusKind } from "./status.js";

/** What a source of readings tells its node. */
export interface SourceListener {
    onMessage(message: object): void;
    onStatus(kind: StatusKind, text: string): void;
    /** Once an outage. */
    onFault(error: WattError): void;
    onRecovered(text: string): void;
    onWarning(error: WattError): void;
}

/** The node as the listener of its source. */
export function listenerOf(node: Node, lifecycle: Lifecycle): SourceListener {
    return {
        onMessage: (message) => node.send(message as never),
        onStatus: (kind, text) => lifecycle.status.set(kind, text),
        onFault: (error) => node.error(error, {}),
        onRecovered: (text) => node.log(text),
        onWarning: (error) => node.warn(error),
    };
}
