/**
 * An error a person can act on. Node-RED hands `code` on to the Catch node with the message.
 * `message` says what is wrong and what to do; it never holds a secret.
 */
export class WattError extends Error {
    override readonly name: string = "WattError";
    /** Stable, upper-case identifier such as `MODBUS_TIMEOUT`. */
    readonly code: string;

    constructor(code: string, message: string, options?: { cause?: unknown }) {
        super(message, options);
        this.code = code;
    }

    /** What Node-RED shows in the log and on the Catch path: the message alone, the class says nothing to a person. */
    override toString(): string {
        return this.message;
    }
}

/** The message of anything that was thrown. */
export function errorText(error: unknown): string {
    return toError(error).message;
}

/** The `code` of a WattError or of a Node.js system error, else undefined. */
export function errorCode(error: unknown): string | undefined {
    const code = (error as { code?: unknown } | null | undefined)?.code;
    return typeof code === "string" ? code : undefined;
}

/** Anything that was thrown as an Error; some libraries throw plain objects, of which only the message goes on. */
export function toError(error: unknown): Error {
    if (error instanceof Error) return error;
    if (typeof error !== "object" || error === null) return new Error(String(error));
    const { message } = error as { message?: unknown };
    return new Error(typeof message === "string" ? message : "Unknown error.");
}
