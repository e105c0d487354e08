import type { IncomingMessage } from "node:http";
import { promisify } from "node:util";
import { gunzip, inflate, type ZlibOptions } from "node:zlib";
import type { Clock } from "../common/clock.js";
import { errorCode, WattError } from "../common/errors.js";

const DECODERS: Record<string, ((body: Buffer, options: ZlibOptions) => Promise<Buffer>) | undefined> = {
    gzip: promisify(gunzip),
    "x-gzip": promisify(gunzip),
    deflate: promisify(inflate),
};

/**
 * Reads a request's body as it was sent.
 * @param ms It must be here by then, however slowly it comes.
 * @throws WattError BODY_TOO_LARGE, BODY_SLOW, BODY_CUT
 */
export function readBody(request: IncomingMessage, limit: number, ms: number, clock: Clock): Promise<Buffer> {
    return new Promise((resolve, reject) => {
        const chunks: Buffer[] = [];
        let size = 0;
        const end = (error?: WattError): void => {
            cancel();
            request.off("data", take).off("end", done).off("error", cut).off("close", cut);
            // What still comes is read and dropped, so that the answer gets through.
            if (error) request.on("error", () => undefined).resume();
            if (error) reject(error);
            else resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
        };
        const take = (chunk: Buffer): void => {
            size += chunk.length;
            if (size > limit) end(tooLarge(limit));
            else chunks.push(chunk);
        };
        const done = (): void => end();
        const cut = (): void => end(new WattError("BODY_CUT", "The connection ended within the message."));
        const cancel = clock.after(ms, () => end(new WattError("BODY_SLOW", `The message was not here after ${Math.round(ms / 1000)} s.`)));
        if (Number(request.headers["content-length"]) > limit) end(tooLarge(limit));
        else request.on("data", take).on("end", done).on("error", cut).on("close", cut);
    });
}

/**
 * A body without its compression.
 * @param encoding Of the header Content-Encoding.
 * @throws WattError ENCODING_UNKNOWN, BODY_TOO_LARGE, PAYLOAD_INVALID
 */
export async function decompress(body: Buffer, encoding: string, limit: number): Promise<Buffer> {
    const name = encoding.trim().toLowerCase();
    if (name === "" || name === "identity") return body;
    const decode = Object.hasOwn(DECODERS, name) ? DECODERS[name] : undefined;
    if (!decode) throw new WattError("ENCODING_UNKNOWN", "The message is compressed in a way that is not known: send it as it is, or with gzip or deflate.");
    try {
        return await decode(body, { maxOutputLength: limit });
    } catch (error) {
        if (errorCode(error) === "ERR_BUFFER_TOO_LARGE") throw tooLarge(limit);
        throw new WattError("PAYLOAD_INVALID", `The message is not ${name}, as its header says.`, { cause: error });
    }
}

function tooLarge(limit: number): WattError {
    return new WattError("BODY_TOO_LARGE", `The message has more than ${limit} bytes: send fewer samples at a time.`);
}
