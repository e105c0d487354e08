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
type Handle = (request: IncomingMessage, response: ServerResponse, below: string) => void;

const mounted = new WeakMap<HttpApp, Map<string, Handle>>();

/**
 * Serves all methods of `path`, and what lies below it, at the server that Node-RED's HTTP nodes belong to. It comes before everything
 * else there: what Node-RED's own parsers have read has lost the bytes that are signed, and took up to 5 MB first. The returned function ends it.
 * @param path Below the root of Node-RED's HTTP nodes.
 * @throws WattError PATH_TAKEN
 */
export function mount(app: HttpApp, path: string, handle: Handle): () => void {
    const root = rootOf(app);
    let paths = mounted.get(root);
    if (!paths) {
        mounted.set(root, (paths = new Map()));
        putFirst(root, serve(paths));
    }
    const full = `${app.path()}/${path}`.replaceAll(/\/{2,}/g, "/").replace(/\/$/, "");
    if (paths.has(full)) throw new WattError("PATH_TAKEN", `Another node takes ${full} already: give this one a path of its own.`);
    paths.set(full, handle);
    return () => void paths.delete(full);
}

function serve(paths: ReadonlyMap<string, Handle>): Middleware {
    return function wattledgerDevices(request, response, next) {
        const [path = ""] = (request.url ?? "").split("?", 1);
        let start: string | undefined;
        for (const known of paths.keys()) {
            if ((path === known || path.startsWith(`${known}/`)) && known.length > (start?.length ?? 0)) start = known;
        }
        if (start === undefined) next();
        else paths.get(start)!(request, response, path.slice(start.length + 1));
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
