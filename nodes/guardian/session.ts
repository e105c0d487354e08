import { createCipheriv, createDecipheriv, randomBytes, scrypt } from "node:crypto";
import { promisify } from "node:util";
import { Backoff } from "../common/backoff.js";
import { systemClock, type Clock } from "../common/clock.js";
import type { HttpClient, HttpResponse } from "../common/http.js";
import { GuardianError, needsPerson, readAnswer } from "./answer.js";

export interface Account {
    /** Base of the API, such as `https://guardianservice.app/api/v1`. */
    url: string;
    /** `username` is Guardian's own login, `email` that of the managed service. */
    loginBy: "username" | "email";
    username: string;
    password: string;
    /** The managed service asks for it; open source knows none. */
    tenantId?: string;
}

/** Where the refresh token outlives a restart: a StateFile will do. */
export interface SessionFile {
    load(): unknown;
    save(state: unknown): void;
}

export interface SessionOptions {
    http: HttpClient;
    file?: SessionFile;
    clock?: Clock;
    random?: () => number;
    /** An answer within this time, ms; 15 s. */
    timeoutMs?: number;
    /** Hears every answer, for what its headers say. */
    onAnswer?: (response: HttpResponse) => void;
    /** Gives up what is under way. */
    signal?: AbortSignal;
}

/** `person` waits for one: the error says for what. */
export type SessionState = "new" | "ready" | "person" | "failed";

const TIMEOUT_MS = 15_000;
/** Share of an access token's life after which it is renewed. */
const RENEW_AT = 0.6;
/** Life taken for a token that does not tell, ms; half of Guardian's default. */
const UNKNOWN_LIFE_MS = 30_000;
/** How long a refusal that needs a person is believed before the account is tried again, ms. */
const ASK_AGAIN_MS = 15 * 60_000;
/** A session that held this long was no fight with another client of the account, ms. */
const CALM_MS = 5 * 60_000;

const deriveKey = promisify(scrypt) as (password: string, salt: string, length: number) => Promise<Buffer>;

/**
 * One login of one account. Up to 3.x a second login ends the first's refresh token, so it is kept across restarts, sealed with
 * the password; access tokens are renewed in time, once for all who ask.
 */
export class Session {
    state: SessionState = "new";
    private readonly clock: Clock;
    private readonly logins: Backoff;
    private access: { token: string; renewAt: number } | undefined;
    private refreshToken: string | undefined;
    private loaded = false;
    private renewing: Promise<string> | undefined;
    private blocked: { error: unknown; until: number } | undefined;
    private nextLoginAt = -Infinity;
    private lastLoginAt = -Infinity;

    constructor(
        private readonly account: Account,
        private readonly options: SessionOptions,
    ) {
        this.clock = options.clock ?? systemClock;
        this.logins = new Backoff({ base: 5000, cap: 10 * 60_000, ...(options.random && { random: options.random }) });
    }

    /** A valid access token. @throws GuardianError, HttpError */
    token(): Promise<string> {
        if (this.access && this.clock.monotonic() < this.access.renewAt) return Promise.resolve(this.access.token);
        return (this.renewing ??= this.renew().finally(() => {
            this.renewing = undefined;
        }));
    }

    /** Says that Guardian no longer takes `token`; the next one is fetched. */
    reject(token: string): void {
        if (this.access?.token === token) this.access = undefined;
    }

    private async renew(): Promise<string> {
        if (this.blocked && this.clock.monotonic() < this.blocked.until) throw this.blocked.error;
        try {
            await this.load();
            const token = (await this.refresh()) ?? (await this.login());
            this.state = "ready";
            this.blocked = undefined;
            return token;
        } catch (error) {
            this.state = needsPerson(error) ? "person" : "failed";
            if (needsPerson(error)) this.blocked = { error, until: this.clock.monotonic() + ASK_AGAIN_MS };
            throw error;
        }
    }

    /** An access token for the refresh token at hand; undefined when there is none or it is no longer known. */
    private async refresh(): Promise<string | undefined> {
        if (this.refreshToken === undefined) return undefined;
        try {
            const { body, skewMs } = await this.post("/accounts/access-token", { refreshToken: this.refreshToken });
            const { accessToken } = (body ?? {}) as { accessToken?: unknown };
            if (typeof accessToken === "string" && accessToken !== "") return this.accept(accessToken, skewMs);
        } catch (error) {
            const { code } = error as { code?: string };
            if (code !== "GUARDIAN_UNAUTHORIZED" && code !== "GUARDIAN_NOT_FOUND" && code !== "GUARDIAN_REFUSED") throw error;
        }
        this.refreshToken = undefined;
        return undefined;
    }

    private async login(): Promise<string> {
        const now = this.clock.monotonic();
        if (now < this.nextLoginAt) {
            throw new GuardianError("GUARDIAN_BUSY", "The session of the account was ended again: does another program use the same account? Give each its own.", {
                afterMs: this.nextLoginAt - now,
            });
        }
        this.lastLoginAt = now;
        this.nextLoginAt = now + this.logins.next();
        const { username, password, tenantId, loginBy } = this.account;
        const body = { ...(loginBy === "email" ? { email: username, password } : { username, password }), ...(tenantId && { tenantId }) };
        const { body: answer } = await this.post(loginBy === "email" ? "/accounts/loginByEmail" : "/accounts/login", body).catch((error: unknown) => {
            throw refusedLogin(error);
        });
        const { login, ...top } = (answer ?? {}) as Record<string, unknown>;
        const { refreshToken } = { ...top, ...(login as object | undefined) } as { refreshToken?: unknown };
        if (typeof refreshToken !== "string" || refreshToken === "") throw withoutToken({ ...top, ...(login as object | undefined) });
        this.refreshToken = refreshToken;
        await this.save(refreshToken);
        const token = await this.refresh();
        if (token === undefined) throw new GuardianError("GUARDIAN_BUSY", "Guardian gave a session and does not know it.");
        return token;
    }

    private accept(token: string, skewMs: number): string {
        if (this.clock.monotonic() - this.lastLoginAt > CALM_MS) this.logins.reset();
        const now = this.clock.now();
        const expiresAt = tokenExpiry(token);
        const life = expiresAt === undefined ? UNKNOWN_LIFE_MS : expiresAt - skewMs - now;
        this.access = { token, renewAt: this.clock.monotonic() + Math.max(1000, life * RENEW_AT) };
        return token;
    }

    private async post(path: string, body: object): Promise<{ body: unknown; skewMs: number }> {
        const { http, onAnswer, signal } = this.options;
        const headers = { "Content-Type": "application/json" };
        const response = await http.request({ method: "POST", url: this.account.url + path, body, headers, timeoutMs: this.options.timeoutMs ?? TIMEOUT_MS, ...(signal && { signal }) });
        onAnswer?.(response);
        const serverTime = Date.parse(response.headers["date"] ?? "");
        const now = this.clock.now();
        return { body: readAnswer(response, now), skewMs: Number.isNaN(serverTime) ? 0 : serverTime - now };
    }

    private async load(): Promise<void> {
        if (this.loaded) return;
        this.loaded = true;
        let saved: unknown;
        try {
            saved = this.options.file?.load();
        } catch {
            // A damaged file is set aside; the next login writes another.
        }
        this.refreshToken = await unseal(saved, this.account);
    }

    private async save(refreshToken: string): Promise<void> {
        const { file } = this.options;
        if (!file) return;
        const sealed = await seal(refreshToken, this.account);
        try {
            file.save(sealed);
        } catch {
            // A disk that takes no file costs a login at the next start, no more.
        }
    }
}

/** A login that is refused needs a person, unlike a session that has ended. */
function refusedLogin(error: unknown): unknown {
    const { code } = error as { code?: string };
    const isRefused = code === "GUARDIAN_UNAUTHORIZED" || code === "GUARDIAN_FORBIDDEN" || code === "GUARDIAN_REFUSED";
    if (isRefused) return new GuardianError("GUARDIAN_LOGIN", "Guardian refuses the login: check user, password and, for the managed service, the tenant id.");
    return code === "GUARDIAN_NOT_FOUND" ? new GuardianError("GUARDIAN_LOGIN", "Guardian has no such way to log in: check the address, and whether to log in by user name or e-mail.") : error;
}

function withoutToken(answer: Record<string, unknown>): GuardianError {
    const asksMore = Object.keys(answer).some((key) => /mfa|otp|2fa|factor/i.test(key));
    if (asksMore) return new GuardianError("GUARDIAN_MFA", "The account asks for a second factor, which no machine has: use an account without one.");
    return new GuardianError("GUARDIAN_GARBAGE", "The login gave no session: check that the address is a Guardian's API.");
}

/** When a token ends, ms UTC: Guardian's own claim `expireAt` in ms, else the registered `exp` in s. */
export function tokenExpiry(token: string): number | undefined {
    try {
        const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8")) as { expireAt?: unknown; exp?: unknown };
        const expiry = claims.expireAt === undefined ? Number(claims.exp) * 1000 : Number(claims.expireAt);
        return Number.isFinite(expiry) ? expiry : undefined;
    } catch {
        return undefined;
    }
}

const context = ({ url, username, tenantId = "" }: Account) => JSON.stringify(["wattledger-guardian", url, username, tenantId]);

/** The password is in Node-RED's credential store alone, and without it the file is of no use to anyone. */
async function seal(refreshToken: string, account: Account): Promise<object> {
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", await deriveKey(account.password, context(account), 32), iv);
    const data = Buffer.concat([cipher.update(refreshToken, "utf8"), cipher.final()]);
    return { session: Buffer.concat([iv, cipher.getAuthTag(), data]).toString("base64") };
}

/** Undefined for anything that is not ours: another account, a changed password, a damaged file. */
async function unseal(saved: unknown, account: Account): Promise<string | undefined> {
    const { session } = (saved ?? {}) as { session?: unknown };
    if (typeof session !== "string") return undefined;
    try {
        const bytes = Buffer.from(session, "base64");
        const decipher = createDecipheriv("aes-256-gcm", await deriveKey(account.password, context(account), 32), bytes.subarray(0, 12));
        decipher.setAuthTag(bytes.subarray(12, 28));
        return Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]).toString("utf8");
    } catch {
        return undefined;
    }
}
