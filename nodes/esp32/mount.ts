import type { IncomingMessage, ServerResponse } from "node:http";
import { WattError } from "../common/errors.js";

/** What is used of an Express application. */
export interface HttpApp {
    use(handler: Middleware): unknown;
    /** Where it is mounted, from the root. */
    path(): string;
    parent?: HttpApp;
    _router?: { stack: { handle: unknown }[] };
    router?: { stack: { handle: unknown }[] };
}

type Middleware = (request: IncomingMessage, response: ServerResponse, next: () => void) => void;
/** @param below What follows the path that was mounted. */
export type Handle = (request: IncomingMessage, response: ServerResponse, below: string) => void;

/** By full path. */
type Places = Map<string, { handle: Handle; below: string }>;

const mounted = new WeakMap<HttpApp, Places>();

/**
 * Serves all methods of `path`, and of each of `below`, at the server that Node-RED's HTTP nodes belong to. It comes before everything else
 * there: what Node-RED's own parsers have read has lost the bytes that are signed, and took up to 5 MB first. The returned function
 * ends it.
 * @param path Under the root of Node-RED's HTTP nodes.
 * @param below What follows it, without a slash at the front; "" is the path itself.
 * @throws WattError PATH_TAKEN, CONFIG_INVALID where Node-RED serves no HTTP nodes
 */
export function mount(app: HttpApp | undefined, path: string, below: readonly string[], handle: Handle): () => void {
    if (typeof app?.use !== "function") {
        throw new WattError("CONFIG_INVALID", "Node-RED serves no HTTP nodes here (httpNodeRoot is false in its settings): switch HTTP off in this node, or set a root.");
    }
    const root = rootOf(app);
    let places = mounted.get(root);
    if (!places) {
        mounted.set(root, (places = new Map()));
        putFirst(root, serve(places));
    }
    const known = places;
    const own = below.map((name) => ({ name, full: `${app.path()}/${path}/${name}`.replaceAll(/\/{2,}/g, "/").replace(/\/$/, "") }));
    const taken = own.find(({ full }) => known.has(full));
    if (taken) throw new WattError("PATH_TAKEN", `Another node takes ${taken.full} already: give this one a path of its own.`);
    for (const { name, full } of own) known.set(full, { handle, below: name });
    return () => {
        for (const { full } of own) known.delete(full);
    };
}

function serve(places: Places): Middleware {
    return function wattledgerDevices(request, response, next) {
        const [path = ""] = (request.url ?? "").split("?", 1);
        const place = places.get(path.endsWith("/") ? path.slice(0, -1) : path);
        if (place) place.handle(request, response, place.below);
        else next();
    };
}

function rootOf(app: HttpApp): HttpApp {
    return app.parent ? rootOf(app.parent) : app;
}

/** Express runs its handlers in the order of this list. */
function putFirst(app: HttpApp, handler: Middleware): void {
    app.use(handler);
    const { stack = [] } = app["_router"] ?? app.router ?? {};
    const index = stack.findIndex(({ handle }) => handle === handler);
    if (index > 0) stack.unshift(...stack.splice(index, 1));
}
