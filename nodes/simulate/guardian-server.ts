import { createHmac, generateKeyPairSync, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import { systemClock, type Clock } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { SIMULATED_HEADER, STAND_IN_ACCOUNT } from "../common/simulated.js";
import { EXTERNAL_BLOCKS, EXTERNAL_POLICY, receive, type ExternalDocument } from "./guardian-external.js";
import { EngineError, OWNER, PolicyEngine, PP, TOKEN_ID, VVB, type PolicyState, type Rounding, type SimUser } from "./guardian-policy.js";

/**
 * Versions of Guardian: `g220` (2.20: unavailable blocks answer 200 and null, no sync-events), `g3x` (3.x: 422, sync-events, one
 * refresh token an account), `g2026` (several refresh tokens of 30 days), `mgs` (the managed service: as 3.x, with tenant id).
 */
export const PROFILES = ["g220", "g3x", "g2026", "mgs"] as const;
export type Profile = (typeof PROFILES)[number];

/**
 * What goes wrong with a request: `reset` and `hang` before anything is done, `reset-after` and `hang-after` once it is done,
 * `status` an error in its place, `null`, `garbage` and `truncate` in place of the answer, `slow`, `stale` an old answer.
 */
const WIRE = ["reset", "reset-after", "hang", "hang-after", "status", "null", "garbage", "truncate", "slow", "stale"] as const;
/** What goes wrong in the policy or with the account. */
const INNER = ["jam", "miscalculate", "alter", "over-mint", "mfa", "terms", "password", "sign-out"] as const;
export const GUARDIAN_FAULTS = [...WIRE, ...INNER] as const;

const faultSchema = z.union([
    z.object({ fault: z.literal("clear") }),
    z.object({
        fault: z.enum(GUARDIAN_FAULTS),
        /** Words that method and path hold, such as `POST add_report_bnt`; every request without them. */
        on: z.string().default(""),
        /** Requests it hits; all without it. */
        times: z.int().min(1).optional(),
        /** Requests it lets through first. */
        skip: z.int().min(0).default(0),
        /** What `status` answers. */
        status: z.int().min(400).max(599).default(503),
        message: z.string().default("Service is not available"),
        retryAfter: z.string().optional(),
        /** How late `slow` answers. */
        ms: z.number().min(0).max(120_000).default(3000),
    }),
]);
export type GuardianFault = z.output<typeof faultSchema>;

/** @throws WattError SIM_FAULT naming what is understood */
export function parseGuardianFault(payload: unknown): GuardianFault {
    const result = faultSchema.safeParse(typeof payload === "string" ? { fault: payload } : payload);
    if (result.success) return result.data;
    throw new WattError("SIM_FAULT", `Not a fault: msg.payload takes {fault: "${GUARDIAN_FAULTS.join('" | "')}" | "clear", on, times, skip, status, ms}, such as {fault: "reset-after", on: "add_report_bnt", times: 1}.`);
}

export interface GuardianSimOptions {
    host: string;
    /** 0 takes any free port. */
    port: number;
    profile: Profile;
    rounding: Rounding;
    seed: number;
    /** Password of every account; the user names are `sr`, `pp` and `vvb`. */
    password: string;
    /** Registry and verifier say yes to all that is filed, that long after it, ms; never without it. */
    approveAfterMs?: number | undefined;
    /** The policy's chain of blocks runs that long after the answer. */
    chainMs?: number;
    /** The participant's profile is approved from the start. */
    isReady?: boolean;
    clock?: Clock;
    /** Outlives a restart. */
    file?: { load(): unknown; save(state: unknown): void };
    /** Called after each request, with method, path and status as one line. */
    onRequest?: (line: string, exchange: Exchange) => void;
}

/** A request, and what was answered before a fault of the wire spoiled it. */
export interface Exchange {
    profile: Profile;
    method: string;
    /** Below the base of the API, with its query. */
    path: string;
    authorization: string | undefined;
    request: unknown;
    status: number;
    headers: Record<string, string>;
    response: unknown;
    /** The answer is a fault's, not Guardian's. */
    isFault: boolean;
}

export const SIM_POLICY_ID = "68d6c0ffee000000000000a1";
export const SIM_TENANT_ID = STAND_IN_ACCOUNT.tenantId;
const POLICY_TAG = "Tag_1758892814008";
const ACCESS_LIFE_MS = 60_000;
const MAX_BODY = 1024 * 1024;
const YEAR_MS = 365 * 86_400_000;

interface Refresh {
    token: string;
    username: string;
    expiresAt: number;
}

interface Answer {
    status: number;
    body: unknown;
    headers?: Record<string, string>;
}

/** A Guardian of its own kind on a port of this machine: real HTTP, real tokens, the AMS-I.D policy, and its faults. */
export class GuardianSimulator {
    readonly count = { requests: 0, reports: 0, projects: 0, external: 0 };
    /** What came to /external and was heard. */
    readonly external: ExternalDocument[] = [];
    private readonly clock: Clock;
    private readonly server: Server;
    private readonly faults: Exclude<GuardianFault, { fault: "clear" }>[] = [];
    private readonly refreshTokens: Refresh[] = [];
    private readonly last = new Map<string, Answer>();
    private readonly timers = new Set<() => void>();
    private readonly signing = randomBytes(32);
    private engine: PolicyEngine | undefined;

    constructor(private readonly options: GuardianSimOptions) {
        this.clock = options.clock ?? systemClock;
        this.server = createServer((request, response) => {
            this.serve(request, response).catch(() => response.destroy());
        });
    }

    /** Base of the API; once started. */
    get url(): string {
        return `${this.origin}/api/v1`;
    }

    /** Stands for Hedera's mirror node. */
    get mirrorUrl(): string {
        return `${this.origin}/mirror/api/v1`;
    }

    /** @throws WattError SIM_NOT_READY before it has started */
    get policy(): PolicyEngine {
        if (!this.engine) throw new WattError("SIM_NOT_READY", "The stand-in has not started yet.");
        return this.engine;
    }

    /** @throws WattError SIM_PORT */
    async start(): Promise<void> {
        const saved = this.options.file?.load() as { policy?: PolicyState; refresh?: Refresh[]; external?: ExternalDocument[] } | undefined;
        const { seed, rounding, profile } = this.options;
        this.engine = new PolicyEngine({
            seed,
            rounding,
            policyId: SIM_POLICY_ID,
            now: () => this.clock.now(),
            key: generateKeyPairSync("ed25519").privateKey,
            ...(profile !== "g220" && { guardianVersion: profile === "g2026" ? "3.5.0" : "3.3.0-rc" }),
            ...(saved?.policy && { state: saved.policy }),
        });
        this.refreshTokens.push(...(saved?.refresh ?? []));
        this.external.push(...(saved?.external ?? []));
        if (!saved?.policy) this.seedUsers();
        await new Promise<void>((resolve, reject) => {
            this.server.on("error", (error) => reject(new WattError("SIM_PORT", `The stand-in cannot listen on ${this.options.host}:${this.options.port} (${errorCode(error) ?? errorText(error)}): choose another port.`)));
            this.server.listen(this.options.port, this.options.host, resolve);
        });
    }

    async close(): Promise<void> {
        for (const cancel of this.timers) cancel();
        this.server.closeAllConnections();
        await new Promise<void>((resolve) => {
            this.server.close(() => resolve());
        });
    }

    /** Begins or ends a fault. */
    fault(wanted: GuardianFault): void {
        if (wanted.fault === "clear") this.faults.length = 0;
        else this.faults.push(wanted);
        const has = (name: string) => this.faults.some(({ fault }) => fault === name);
        this.policy.faults = { jam: has("jam"), miscalculate: has("miscalculate"), alter: has("alter"), overMint: has("over-mint") };
        if (wanted.fault === "sign-out") this.refreshTokens.length = 0;
    }

    get activeFaults(): string[] {
        return this.faults.map(({ fault }) => fault);
    }

    /** Registry and verifier say yes to everything that waits. */
    approveAll(): void {
        this.policy.approveAll();
        this.save();
    }

    private seedUsers(): void {
        this.policy.user("sr", OWNER);
        const pp = this.policy.user("pp", PP);
        const vvb = this.policy.user("vvb", VVB);
        if (this.options.isReady === false) return;
        for (const [user, tag, name] of [[pp, "create_pp_profile", "Stand-in participant"], [vvb, "create_new_vvb", "Stand-in verifier"]] as const) {
            this.policy.act(user, tag, { document: { field0: name }, ref: null });
        }
        this.policy.approveAll();
    }

    private get origin(): string {
        const { address, port } = this.server.address() as AddressInfo;
        return `http://${address.includes(":") ? `[${address}]` : address}:${port}`;
    }

    private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
        const line = `${request.method} ${decodeURIComponent(request.url ?? "")}`;
        this.count.requests++;
        const fault = this.wireFault(line);
        const body = await readBody(request);
        if (fault?.fault === "reset") return void request.socket.resetAndDestroy();
        if (fault?.fault === "hang") return;
        const known = this.last.get(line);
        const answer =
            fault?.fault === "status"
                ? { status: fault.status, body: { statusCode: fault.status, message: fault.message }, ...(fault.retryAfter !== undefined && { headers: { "Retry-After": fault.retryAfter } }) }
                : fault?.fault === "stale" && known
                  ? known
                  : this.answer(request.method ?? "", request.url ?? "", request.headers.authorization, body);
        if (request.method === "GET" && fault?.fault !== "stale") this.last.set(line, structuredClone(answer));
        this.options.onRequest?.(`${line} ${answer.status}`, {
            profile: this.options.profile,
            method: request.method ?? "",
            path: (request.url ?? "").replace(/^\/api\/v1/, ""),
            authorization: request.headers.authorization,
            request: body,
            status: answer.status,
            headers: answer.headers ?? {},
            response: answer.body,
            isFault: fault?.fault === "status",
        });
        if (fault?.fault === "reset-after") return void request.socket.resetAndDestroy();
        if (fault?.fault === "hang-after") return;
        if (fault?.fault === "slow") await this.clock.sleep(fault.ms);
        let text = answer.body === undefined ? "" : JSON.stringify(answer.body);
        if (fault?.fault === "null") text = "null";
        if (fault?.fault === "garbage") text = "<html><body>Bad gateway</body></html>";
        response.writeHead(answer.status, {
            "Content-Type": "application/json; charset=utf-8",
            Date: new Date(this.clock.now()).toUTCString(),
            [SIMULATED_HEADER]: "guardian",
            "Content-Length": Buffer.byteLength(text),
            ...answer.headers,
        });
        if (fault?.fault === "truncate") {
            response.write(text.slice(0, text.length / 2), () => request.socket.destroy());
            return;
        }
        response.end(text);
    }

    private wireFault(line: string): Exclude<GuardianFault, { fault: "clear" }> | undefined {
        const found = this.faults.find(({ fault, on }) => (WIRE as readonly string[]).includes(fault) && on.split(" ").every((word) => line.includes(word)));
        if (!found) return undefined;
        if (found.skip > 0) {
            found.skip--;
            return undefined;
        }
        if (found.times !== undefined && --found.times === 0) this.faults.splice(this.faults.indexOf(found), 1);
        return found;
    }

    private answer(method: string, url: string, authorization: string | undefined, body: unknown): Answer {
        const { pathname, searchParams } = new URL(url, "http://stand-in");
        if (body === "too large") return failure(413, "request entity too large");
        if (pathname.startsWith("/mirror/api/v1/")) return this.mirror(pathname.slice("/mirror/api/v1".length));
        if (!pathname.startsWith("/api/v1/")) return failure(404, `Cannot ${method} ${pathname}`);
        const path = decodeURIComponent(pathname.slice("/api/v1".length));
        const input = (body ?? {}) as Record<string, unknown>;
        if (method === "POST" && path.startsWith("/accounts/")) return this.accounts(path, input);
        // Takes everything from anyone and says yes, before anything is done and whether or not a block hears it.
        if (method === "POST" && path.startsWith("/external")) return this.outside(path, input);
        const user = this.bearer(authorization);
        if (path === "/accounts/session") return { status: 200, body: user ? { username: user.username, did: user.did, role: user.role } : null };
        if (!user) return failure(401, "Unauthorized");
        if (this.faults.some(({ fault }) => fault === "terms")) return failure(451, "Terms of Service are not accepted");
        if (path === "/policies" && method === "GET") return this.policies(user, searchParams);
        const [, id, rest = ""] = /^\/policies\/([^/]+)(\/.*)?$/.exec(path) ?? [];
        if (id === undefined) return failure(404, `Cannot ${method} ${path}`);
        if (id === EXTERNAL_POLICY.id) return this.externalRoute(method, rest);
        if (id !== SIM_POLICY_ID) return failure(404, "The policy does not exist");
        try {
            return this.policyRoute(user, method, rest, input);
        } catch (error) {
            if (!(error instanceof EngineError)) return failure(500, errorText(error));
            return this.refusal(error);
        }
    }

    private outside(path: string, input: Record<string, unknown>): Answer {
        this.count.external++;
        const [, id, tag] = /^\/external\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
        const isHeard = id === undefined ? input["policyTag"] === EXTERNAL_POLICY.policyTag : id === EXTERNAL_POLICY.id && tag === "mrv_data";
        if (isHeard) this.in(this.options.chainMs ?? 0, () => void this.external.push(receive(input, this.clock.now())));
        return { status: 200, body: true };
    }

    private externalRoute(method: string, rest: string): Answer {
        if (method === "GET" && rest === "") return { status: 200, body: EXTERNAL_POLICY };
        const [, tag = "", tail = ""] = /^\/tag\/([^/]+)(\/blocks)?$/.exec(rest) ?? [];
        const blockType = Object.hasOwn(EXTERNAL_BLOCKS, tag) ? EXTERNAL_BLOCKS[tag as keyof typeof EXTERNAL_BLOCKS] : undefined;
        if (method !== "GET" || blockType === undefined) return failure(404, "The policy does not exist, or is not published, or tag was not registered in policy");
        if (tail === "") return { status: 200, body: { id: `${EXTERNAL_POLICY.id}-${tag}` } };
        if (blockType === "externalDataBlock") return this.refusal(new EngineError("unavailable", "Block Unavailable"));
        return { status: 200, body: { id: `${EXTERNAL_POLICY.id}-${tag}`, blockType, isActive: true, uiMetaData: {}, data: structuredClone(this.external), blocks: [], commonAddons: [] } };
    }

    private refusal({ kind, message }: EngineError): Answer {
        const isOld = this.options.profile === "g220";
        if (kind === "unavailable") return isOld ? { status: 200, body: null } : failure(422, message);
        if (kind === "invalid") return failure(isOld ? 500 : 422, message);
        return failure(kind === "notfound" ? 404 : 403, message);
    }

    private policyRoute(user: SimUser, method: string, rest: string, input: Record<string, unknown>): Answer {
        if (rest === "" && method === "GET") return { status: 200, body: this.summary(user) };
        if (rest === "/blocks" && method === "GET") return { status: 200, body: this.policy.tree(user) };
        const [, kind, name = "", tail = ""] = /^\/(tag|blocks)\/([^/]+)(\/.*)?$/.exec(rest) ?? [];
        const tag = kind === "tag" ? name : (this.policy.tagOf(name) ?? "");
        if (!this.policy.isKnown(tag)) throw new EngineError("notfound", "The policy does not exist, or is not published, or tag was not registered in policy");
        // Not a matter of roles in any version read: a tag resolves where its block is not available.
        if (kind === "tag" && tail === "" && method === "GET") return { status: 200, body: { id: this.policy.blockId(tag) } };
        const isBlock = kind === "tag" ? tail === "/blocks" : tail === "";
        if (isBlock && method === "GET") return { status: 200, body: this.policy.show(user, tag) };
        const isSync = this.options.profile !== "g220" && tail.endsWith("/sync-events");
        if ((!isBlock && !isSync) || method !== "POST") return failure(404, `Cannot ${method} ${rest}`);
        const { answer, later } = this.policy.act(user, tag, input);
        if (tag === "add_report_bnt") this.count.reports++;
        if (tag === "add_project_bnt") this.count.projects++;
        if (isSync) later?.();
        else if (later) this.in(this.options.chainMs ?? 0, later);
        this.save();
        if (this.options.approveAfterMs !== undefined) this.in((this.options.chainMs ?? 0) + this.options.approveAfterMs, () => this.policy.approveAll());
        return { status: 200, body: isSync ? { response: answer, result: answer } : answer };
    }

    private in(ms: number, task: () => void): void {
        const cancel = this.clock.after(ms, () => {
            this.timers.delete(cancel);
            task();
            this.save();
        });
        this.timers.add(cancel);
    }

    private accounts(path: string, input: Record<string, unknown>): Answer {
        const { profile, password } = this.options;
        const isManaged = profile === "mgs";
        if (path === "/accounts/access-token") return this.accessToken(String(input["refreshToken"]));
        if (path !== "/accounts/login" && !(isManaged && path === "/accounts/loginByEmail")) return failure(404, `Cannot POST ${path}`);
        const isMail = path.endsWith("ByEmail");
        const name = String(isMail ? input["email"] : input["username"]).replace(/@.*$/, "");
        const given = String(input["password"]);
        const isRight = given.length === password.length && timingSafeEqual(Buffer.from(given), Buffer.from(password));
        if (this.faults.some(({ fault }) => fault === "password")) return failure(401, "UNSUPPORTED_PASSWORD_TYPE");
        if (!isRight || !["sr", "pp", "vvb"].includes(name)) return failure(401, "Unauthorized");
        if (isManaged && !isMail && input["tenantId"] !== SIM_TENANT_ID) return failure(401, "Unauthorized");
        if (this.faults.some(({ fault }) => fault === "mfa")) return failure(401, "MFA code is required");
        // Up to 3.x there is one refresh token an account, so this ends the session of whoever was in.
        if (profile !== "g2026") this.refreshTokens.splice(0, this.refreshTokens.length, ...this.refreshTokens.filter(({ username }) => username !== name));
        const token = randomBytes(24).toString("base64url");
        this.refreshTokens.push({ token, username: name, expiresAt: this.clock.now() + (profile === "g2026" ? 30 * 86_400_000 : YEAR_MS) });
        this.save();
        const user = this.policy.user(name);
        const found = { username: name, did: user.did, role: user.role === OWNER ? "STANDARD_REGISTRY" : "USER", refreshToken: token };
        return { status: 200, body: isMail ? { success: true, login: found } : found };
    }

    private accessToken(refreshToken: string): Answer {
        const found = this.refreshTokens.find(({ token, expiresAt }) => token === refreshToken && expiresAt > this.clock.now());
        if (!found) return failure(401, "Unauthorized");
        return { status: this.options.profile === "g2026" ? 200 : 201, body: { accessToken: this.jwt(found.username, found.token) } };
    }

    /** Ends by the claim `expireAt`, ms; there is no `exp`. */
    private jwt(username: string, session: string): string {
        const now = this.clock.now();
        const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
        const head = `${part({ alg: "HS256", typ: "JWT" })}.${part({ username, session, expireAt: now + ACCESS_LIFE_MS, iat: Math.floor(now / 1000) })}`;
        return `${head}.${this.signature(head)}`;
    }

    private signature(head: string): string {
        return createHmac("sha256", this.signing).update(head).digest("base64url");
    }

    private bearer(authorization = ""): SimUser | undefined {
        const [head, claims, signature] = authorization.replace(/^Bearer /, "").split(".");
        if (signature === undefined || this.signature(`${head}.${claims}`) !== signature) return undefined;
        const { username, session, expireAt } = JSON.parse(Buffer.from(claims ?? "", "base64url").toString()) as { username: string; session: string; expireAt: number };
        const isKnown = this.refreshTokens.some(({ token }) => token === session) || !this.faults.some(({ fault }) => fault === "sign-out");
        return expireAt > this.clock.now() && isKnown ? this.policy.user(username) : undefined;
    }

    private summary(user: SimUser): Record<string, unknown> {
        const { profile, rounding } = this.options;
        return {
            id: SIM_POLICY_ID,
            name: "AMS-I.D stand-in",
            description: "AMS-I.D",
            status: "PUBLISH",
            version: "1.0.0",
            codeVersion: "1.5.1",
            policyTag: POLICY_TAG,
            topicId: "0.0.4839201",
            instanceTopicId: "0.0.4839202",
            projectSchema: "#161f2947-f16c-4601-9c4c-3545f286a55c",
            policyRoles: [PP, VVB],
            userRoles: user.role === OWNER ? ["Administrator"] : [user.role],
            userRole: user.role === OWNER ? "Administrator" : user.role,
            tools: [{ name: "Tool 03" }, { name: "Tool 07" }, { name: "Tool 10" }],
            // The tree of blocks is its owner's to see.
            ...(user.role === OWNER && { config: { blockType: "interfaceContainerBlock", children: [{ blockType: "mintDocumentBlock", tag: "mintToken", rule: "H113.H114", tokenId: TOKEN_ID, ...(profile === "g2026" && { rounding }) }] } }),
        };
    }

    private policies(user: SimUser, query: URLSearchParams): Answer {
        const all = [this.summary(user), EXTERNAL_POLICY];
        const size = Number(query.get("pageSize") ?? 100);
        const start = Number(query.get("pageIndex") ?? 0) * size;
        return { status: 200, body: all.slice(start, start + size), headers: { "X-Total-Count": String(all.length) } };
    }

    /** Supply and serials of the token, as Hedera's mirror node tells them. */
    private mirror(path: string): Answer {
        const { minted } = this.policy.state;
        const supply = Object.values(minted).reduce((sum, amount) => sum + amount, 0);
        if (path === `/tokens/${TOKEN_ID}`) return { status: 200, body: { token_id: TOKEN_ID, type: "NON_FUNGIBLE_UNIQUE", decimals: "0", total_supply: String(supply) } };
        if (path !== `/tokens/${TOKEN_ID}/nfts`) return failure(404, "Not found");
        const nfts = Object.entries(minted).flatMap(([messageId, amount]) => Array.from({ length: amount }, () => ({ metadata: Buffer.from(messageId).toString("base64"), deleted: false })));
        return { status: 200, body: { nfts: nfts.map((nft, i) => ({ ...nft, serial_number: i + 1 })), links: { next: null } } };
    }

    private save(): void {
        this.options.file?.save({ policy: this.policy.state, refresh: this.refreshTokens, external: this.external });
    }
}

function failure(status: number, message: string): Answer {
    return { status, body: { statusCode: status, message } };
}

async function readBody(request: IncomingMessage): Promise<unknown> {
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of request as AsyncIterable<Buffer>) {
        size += part.length;
        if (size <= MAX_BODY) parts.push(part);
    }
    if (size > MAX_BODY) return "too large";
    try {
        return JSON.parse(Buffer.concat(parts).toString("utf8")) as unknown;
    } catch {
        return undefined;
    }
}
