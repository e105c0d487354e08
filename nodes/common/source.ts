import type { Node, NodeAPI } from "node-red";
import type { WattError } from "./errors.js";
import type { Lifecycle } from "./lifecycle.js";
import { PointMaps } from "./pointmaps.js";
import { userFolder } from "./statefile.js";
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

const maps = new Map<string | undefined, PointMaps>();

/** The point maps that come with the package and the user's, the same for all nodes. */
export function mapsOf(RED: NodeAPI): PointMaps {
    const folder = userFolder(RED, "pointmaps");
    let known = maps.get(folder);
    if (!known) maps.set(folder, (known = new PointMaps(folder)));
    return known;
}
