import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { WattError } from "../../dist/common/errors.js";
import { createHttpClient, type HttpClient } from "../../dist/common/http.js";
import { GuardianClient } from "../../dist/guardian/client.js";
import { Session, tokenExpiry } from "../../dist/guardian/session.js";
import { parseGuardianFault, PROFILES } from "../../dist/simulate/guardian-server.js";
import { SIM_POLICY_ID } from "../../dist/simulate/guardian-server.js";
import { ManualClock } from "../common/manual-clock.js";
import { codeOf, FastClock, MemoryFile, PASSWORD, Rig } from "./rig.js";

describe("the session with Guardian", () => {
    const rig = new Rig();
    afterEach(() => rig.close());

    for (const profile of PROFILES) {
        it(`signs in to ${profile} and lists policies`, async () => {
            const client = rig.client(await rig.simulator({ profile }));
            assert.deepEqual((await client.policies()).map(({ name }) => name), ["AMS-I.D stand-in", "MRV stand-in"]);
            assert.equal(client.sessionState, "ready");
            assert.equal(client.simulated, true);
        });
    }

    it("signs in by e-mail where the managed service takes it", async () => {
        const simulator = await rig.simulator({ profile: "mgs" });
        const client = rig.client(simulator, { loginBy: "email", username: "pp@example.org" });
        assert.equal((await client.policies()).length, 2);
    });

    it("needs the tenant id there", async () => {
        const client = rig.client(await rig.simulator({ profile: "mgs" }), { tenantId: "" });
        assert.equal(await codeOf(client.policies()), "GUARDIAN_LOGIN");
        assert.equal(client.sessionState, "person");
    });

    for (const [fault, code] of [["mfa", "GUARDIAN_MFA"], ["terms", "GUARDIAN_TERMS"], ["password", "GUARDIAN_PASSWORD"]] as const) {
        it(`tells ${code} apart`, async () => {
            const simulator = await rig.simulator();
            simulator.fault({ fault, on: "", skip: 0, status: 503, message: "", ms: 0 });
            assert.equal(await codeOf(rig.client(simulator).policies()), code);
        });
    }

    it("asks a refused login again only after a quarter of an hour, for a person must act first", async () => {
        const clock = new ManualClock();
        const simulator = await rig.simulator({ clock });
        const client = rig.client(simulator, { password: "wrong" }, { clock });
        for (let i = 0; i < 5; i++) assert.equal(await codeOf(client.policies()), "GUARDIAN_LOGIN");
        assert.equal(simulator.count.requests, 1);
        clock.advance(15 * 60_000);
        assert.equal(await codeOf(client.policies()), "GUARDIAN_LOGIN");
        assert.equal(simulator.count.requests, 2);
    });

    it("shows password and tokens in no error", async () => {
        const simulator = await rig.simulator();
        const secret = "correct-horse-battery";
        const error: unknown = await rig.client(simulator, { password: secret }).policies().catch((reason: unknown) => reason);
        assert.ok(!inspect(error, { depth: 10, showHidden: true }).includes(secret));
    });

    it("logs in once for many who ask at the same time", async () => {
        const lines: string[] = [];
        const client = rig.client(await rig.simulator({ onRequest: (line) => lines.push(line) }));
        await Promise.all(Array.from({ length: 10 }, () => client.policies()));
        assert.equal(lines.filter((line) => line.includes("/accounts/login")).length, 1);
        assert.equal(lines.filter((line) => line.includes("/access-token")).length, 1);
    });

    it("asks one thing at a time, and waits as long as it is told to", async () => {
        const simulator = await rig.simulator();
        const plain = createHttpClient();
        const clock = new FastClock();
        let [now, most] = [0, 0];
        const http: HttpClient = {
            request: async (request) => {
                most = Math.max(most, ++now);
                return plain.request(request).finally(() => now--);
            },
            close: () => plain.close(),
        };
        const client = new GuardianClient({ url: simulator.url, loginBy: "username", username: "pp", password: PASSWORD }, { http, clock, random: () => 0 });
        try {
            await Promise.all(Array.from({ length: 8 }, () => client.policies()));
            assert.equal(most, 1);
            simulator.fault(parseGuardianFault({ fault: "status", status: 503, retryAfter: "20", on: "GET /policies", times: 2 }));
            const before = clock.monotonic();
            assert.equal((await client.policies()).length, 2);
            assert.ok(clock.monotonic() - before >= 40_000, "two times the 20 s that were asked for");
        } finally {
            client.close();
        }
    });

    it("renews the access token before it ends, though the clocks differ by an hour", async () => {
        const [here, there] = [new ManualClock(), new ManualClock()];
        there.set(here.now() + 3_600_000);
        const lines: string[] = [];
        const client = rig.client(await rig.simulator({ clock: there, onRequest: (line) => lines.push(line) }), {}, { clock: here });
        for (let i = 0; i < 20; i++) {
            await client.policies();
            for (const clock of [here, there]) clock.advance(10_000);
        }
        assert.equal(lines.filter((line) => line.endsWith(" 401")).length, 0);
        assert.equal(lines.filter((line) => line.includes("/accounts/login")).length, 1);
        assert.equal(lines.filter((line) => line.includes("/access-token")).length, 5);
    });

    it("logs in once more when the session was ended, in the middle of its work", async () => {
        const lines: string[] = [];
        const simulator = await rig.simulator({ onRequest: (line) => lines.push(line) });
        const client = rig.client(simulator);
        await client.policies();
        simulator.fault(parseGuardianFault("sign-out"));
        simulator.fault(parseGuardianFault("clear"));
        const [first, second] = await Promise.all([client.policies(), client.policies()]);
        assert.deepEqual([first.length, second.length], [2, 2]);
        assert.equal(lines.filter((line) => line.includes("/accounts/login")).length, 1, "the access token outlives its session");
        client.session.reject(await client.session.token());
        assert.equal((await client.policies()).length, 2);
        assert.equal(lines.filter((line) => line.includes("/accounts/login")).length, 2);
    });

    it("sees a second factor in a login that is answered without a session", async () => {
        for (const [body, code] of [
            [{ username: "pp", mfaRequired: true }, "GUARDIAN_MFA"],
            [{ login: { otpToken: "x" } }, "GUARDIAN_MFA"],
            [{ username: "pp" }, "GUARDIAN_GARBAGE"],
        ] as const) {
            const server = createServer((request, response) => {
                request.resume();
                response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(body));
            });
            server.listen(0, "127.0.0.1");
            await once(server, "listening");
            const client = rig.client({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1` });
            assert.equal(await codeOf(client.policies()), code);
            assert.equal(client.sessionState, code === "GUARDIAN_MFA" ? "person" : "failed");
            server.closeAllConnections();
            server.close();
        }
    });

    it("takes up the session after a restart, without a login", async () => {
        const lines: string[] = [];
        const simulator = await rig.simulator({ onRequest: (line) => lines.push(line) });
        const file = new MemoryFile();
        await rig.client(simulator, {}, { file }).policies();
        await rig.client(simulator, {}, { file }).policies();
        assert.equal(lines.filter((line) => line.includes("/accounts/login")).length, 1);
    });

    it("keeps nothing that is of use without the password", async () => {
        const simulator = await rig.simulator();
        const file = new MemoryFile();
        await rig.client(simulator, {}, { file }).policies();
        const [refresh] = (simulator as unknown as { refreshTokens: { token: string }[] }).refreshTokens;
        assert.ok(refresh);
        const kept = JSON.stringify(file.state);
        assert.ok(!kept.includes(refresh.token) && !kept.includes(PASSWORD));
        assert.ok(!Buffer.from(kept, "base64").includes(refresh.token));
    });

    it("begins anew when the file is damaged or of another account", async () => {
        const simulator = await rig.simulator();
        for (const state of [{ session: "AAAA" }, { session: 5 }, [], "x", { session: Buffer.alloc(80).toString("base64") }]) {
            const file = new MemoryFile();
            file.state = state;
            assert.equal((await rig.client(simulator, {}, { file }).policies()).length, 2);
        }
    });

    it("works on a disk that takes no file and gives none", async () => {
        const broken = (): never => {
            throw new WattError("STATE_UNSAVED", "The disk is read-only.");
        };
        const client = rig.client(await rig.simulator(), {}, { file: { load: broken, save: broken } });
        assert.equal((await client.policies()).length, 2);
    });

    it("does not fight with another client of the account: it logs in ever less often", async () => {
        const clock = new ManualClock();
        const lines: string[] = [];
        const { url } = await rig.simulator({ clock, onRequest: (line) => lines.push(line) });
        const http = createHttpClient();
        const sessions = [1, 2].map(() => new Session({ url, loginBy: "username", username: "pp", password: PASSWORD }, { http, clock, random: () => 1 }));
        const codes = new Set<string>();
        for (let i = 0; i < 100; i++) {
            for (const session of sessions) codes.add(await codeOf(session.token()));
            clock.advance(36_000);
        }
        http.close();
        assert.deepEqual([...codes].toSorted(), ["GUARDIAN_BUSY", "none"]);
        const logins = lines.filter((line) => line.includes("/accounts/login")).length;
        assert.ok(logins > 10 && logins < 40, `${logins} logins in an hour`);
    });

    it("knows a server that is none", async () => {
        const server = createServer((_, response) => response.end("<html>Welcome</html>"));
        server.listen(0, "127.0.0.1");
        await once(server, "listening");
        try {
            const client = rig.client({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1` });
            assert.equal(await codeOf(client.policies()), "GUARDIAN_GARBAGE");
            assert.equal(client.simulated, false);
        } finally {
            server.closeAllConnections();
            server.close();
        }
    });

    it("reads when a token ends", () => {
        const token = (claims: object) => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.y`;
        assert.equal(tokenExpiry(token({ expireAt: 1_795_257_600_000 })), 1_795_257_600_000);
        assert.equal(tokenExpiry(token({ exp: 1_795_257_600 })), 1_795_257_600_000);
        assert.equal(tokenExpiry(token({ iat: 1 })), undefined);
        assert.equal(tokenExpiry("garbage"), undefined);
    });

    for (const profile of PROFILES) {
        it(`sees in ${profile} that a block is not there for the account`, async () => {
            const client = rig.client(await rig.simulator({ profile, isReady: false }));
            assert.equal(await codeOf(client.block(SIM_POLICY_ID, "add_report_bnt")), "GUARDIAN_UNAVAILABLE");
            assert.equal(await codeOf(client.act(SIM_POLICY_ID, "add_report_bnt", { document: {}, ref: null })), "GUARDIAN_UNAVAILABLE");
            assert.equal(await client.hasTag(SIM_POLICY_ID, "add_report_bnt"), true);
            assert.equal(await client.hasTag(SIM_POLICY_ID, "no_such_tag"), false);
        });
    }
});
