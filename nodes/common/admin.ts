import type { NodeAPI } from "node-red";
import { errorCode, errorText } from "./errors.js";

/**
 * The route behind a dialog's button (`WattLedger.post`), for those who may edit nodes of that type. What `answer` resolves with
 * goes back as JSON, what it rejects with as `code` and `message`.
 */
export function adminRoute(RED: NodeAPI, path: string, type: string, answer: (body: Record<string, unknown>, gone: AbortSignal) => Promise<unknown>): void {
    RED.httpAdmin.post(path, RED.auth.needsPermission(`${type}.write`), (request, response) => {
        const gone = new AbortController();
        response.on("close", () => gone.abort());
        const ask = async (): Promise<unknown> => answer({ ...(request.body as object | undefined) }, gone.signal);
        ask().then(
            (found) => response.json(found),
            (error: unknown) => response.status(400).json({ code: errorCode(error), message: errorText(error) }),
        );
    });
}
