import { errorCode, WattError } from "../common/errors.js";
import { retryAfterMs, type HttpResponse } from "../common/http.js";

/** Longest text of a server that goes into an error. */
const MAX_TEXT = 300;
/** Longest wait that a server may ask for, ms. */
const MAX_WAIT_MS = 15 * 60_000;

/**
 * What Guardian said no with: `GUARDIAN_LOGIN` wrong account · `GUARDIAN_MFA` a second factor is asked for · `GUARDIAN_TERMS` terms
 * to be accepted · `GUARDIAN_PASSWORD` the password must be changed · `GUARDIAN_UNAUTHORIZED` · `GUARDIAN_FORBIDDEN` ·
 * `GUARDIAN_NOT_FOUND` · `GUARDIAN_UNAVAILABLE` the block is not there for this user now · `GUARDIAN_REFUSED` the document is wrong ·
 * `GUARDIAN_BUSY` later · `GUARDIAN_GARBAGE` no Guardian answers so.
 */
export class GuardianError extends WattError {
    override readonly name = "GuardianError";
    /** True when Guardian may have acted on the request all the same. */
    readonly mayHaveActed: boolean;
    /** How long to wait, where the server said so, ms. */
    readonly afterMs?: number;

    constructor(code: string, message: string, options: { mayHaveActed?: boolean; afterMs?: number | undefined; cause?: unknown } = {}) {
        super(code, message, options);
        this.mayHaveActed = options.mayHaveActed ?? false;
        if (options.afterMs !== undefined) this.afterMs = options.afterMs;
    }
}

/** Nothing was sent, so nothing can have happened. */
const NEVER_SENT = new Set(["HTTP_URL", "HTTP_UNREACHABLE", "HTTP_TLS"]);
/** Codes after which only a person can help. */
const NEEDS_PERSON = new Set(["GUARDIAN_LOGIN", "GUARDIAN_MFA", "GUARDIAN_TERMS", "GUARDIAN_PASSWORD", "GUARDIAN_FORBIDDEN"]);

/** True when the request that failed so may have been carried out; for anything unforeseen too. */
export function mayHaveActed(error: unknown): boolean {
    if (error instanceof GuardianError) return error.mayHaveActed;
    return !NEVER_SENT.has(errorCode(error) ?? "");
}

/** True for a failure that asking again does not cure. */
export function needsPerson(error: unknown): boolean {
    return NEEDS_PERSON.has(errorCode(error) ?? "");
}

/**
 * The JSON of a good answer, null where the body is empty.
 * @throws GuardianError for all else, told apart by status and words: 3.x answers 422 for "not now" and for "never" alike.
 */
export function readAnswer(response: HttpResponse, nowMs: number): unknown {
    const { status } = response;
    const body = parse(response.text);
    if (status >= 200 && status < 300) {
        if (body !== undefined) return body;
        throw new GuardianError("GUARDIAN_GARBAGE", "The answer is no JSON: check that the address is a Guardian's API, such as https://guardianservice.app/api/v1.", { mayHaveActed: true });
    }
    const text = messageOf(body);
    const special = specialCase(status, text);
    if (special) throw special;
    const afterMs = retryAfterMs(response.headers["retry-after"], nowMs, MAX_WAIT_MS);
    if (status === 429) throw new GuardianError("GUARDIAN_BUSY", "Guardian asks for fewer requests.", { afterMs });
    const said = text ? `: ${text}` : ".";
    // The gateway of 3.x turns every error of the engine into 422, timeouts too, so without known words nothing is certain.
    if (status >= 500 || status === 422 || status === 408) {
        throw new GuardianError("GUARDIAN_BUSY", `Guardian answers ${status}${said}`, { mayHaveActed: true, afterMs });
    }
    throw new GuardianError("GUARDIAN_GARBAGE", `Guardian answers ${status}${said}`, { mayHaveActed: true });
}

/** Answers whose meaning is certain, and that nothing was done. */
function specialCase(status: number, text: string): GuardianError | undefined {
    if (/block unavailable/i.test(text)) return unavailable();
    if (status === 451) return new GuardianError("GUARDIAN_TERMS", "The terms of service are not accepted: sign in to the Guardian portal once and accept them.");
    if (/UNSUPPORTED_PASSWORD_TYPE/.test(text)) {
        return new GuardianError("GUARDIAN_PASSWORD", "Guardian no longer takes this kind of password: change it in the Guardian portal, then here.");
    }
    if ([400, 401, 403, 428].includes(status) && /\b(mfa|otp|2fa)\b|(two|multi|second)[- ]?factor|one[- ]?time (pass|code)/i.test(text)) {
        return new GuardianError("GUARDIAN_MFA", "The account asks for a second factor, which no machine has: use an account without one.");
    }
    if (status === 401) return new GuardianError("GUARDIAN_UNAUTHORIZED", "Guardian does not know the session.");
    if (status === 403) return new GuardianError("GUARDIAN_FORBIDDEN", "The account may not do this: check its role in the policy.");
    if (status === 404) return new GuardianError("GUARDIAN_NOT_FOUND", `Guardian does not have it${text ? `: ${text}` : "."}`);
    if (status === 400 || status === 413 || isRefusal(status, text)) return new GuardianError("GUARDIAN_REFUSED", `Guardian refuses the document: ${text || status}`);
    return undefined;
}

/** The block exists, but not for this user's role or step. */
export function unavailable(): GuardianError {
    return new GuardianError("GUARDIAN_UNAVAILABLE", "Guardian does not offer this step to the account now: its role is another, an earlier step is open, or the step is stuck.");
}

/** The engine's own words for a document that it did not take: ajv's errors, or an unknown `ref`. */
function isRefusal(status: number, text: string): boolean {
    return (status === 422 || status === 500) && /"(instancePath|schemaPath|keyword)"|Invalid relationships|must (be|have|match|NOT have)/i.test(text);
}

function parse(text: string): unknown {
    if (text.trim() === "") return null;
    try {
        return JSON.parse(text);
    } catch {
        return undefined;
    }
}

/** Nest's `{statusCode, message}` or the documented `{code, message}`; a list of messages is joined. */
function messageOf(body: unknown): string {
    const { message, error } = (body ?? {}) as { message?: unknown; error?: unknown };
    const found = message ?? error ?? (typeof body === "string" ? body : undefined);
    if (found === undefined) return "";
    return (typeof found === "string" ? found : JSON.stringify(found)).slice(0, MAX_TEXT);
}
