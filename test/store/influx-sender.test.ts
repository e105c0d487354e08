import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { WattError } from "../../dist/common/errors.js";
import { createHttpClient, type HttpClient } from "../../dist/common/http.js";
import type { Outcome, SpoolRecord } from "../../dist/store/delivery.js";
import type { InfluxTarget } from "../../dist/store/influx-dialect.js";
import { InfluxSender, type SenderOptions } from "../../dist/store/influx-sender.js";
import { InfluxStandIn, type Answer } from "./influx-stand-in.js";

const T = Date.UTC(2026, 5, 1);
const never = new AbortController().signal;

/** Records as the spool hands them out: each a gzip member of its own, lines ended. */
function records(...groups: string[][]): SpoolRecord[] {
    let seq = 0;
    return groups.map((group) => {
        const record = { seq, count: group.length, body: gzipSync(group.map((line) => `${line}\n`).join("")) };
        seq += group.length;
        return record;
    });
}

function lines(count: number, from = 0): string[] {
    return Array.from({ length: count }, (_, i) => `inverter,device=inv1,site=home quality="good",ac_power_w=${from + i} ${T + from + i}`);
}

const CONFLICT = `inverter,device=inv2,site=home quality="good",ac_power_w="off" ${T}`;

function reply(answer: Answer): (response: ServerResponse) => void {
    return (response) => {
        response.writeHead(answer.status, answer.headers).end(typeof answer.body === "object" ? JSON.stringify(answer.body) : answer.body);
    };
}

describe("InfluxDB sender", () => {
    let http: HttpClient;
    const standIns: InfluxStandIn[] = [];

    beforeEach(() => {
        http = createHttpClient();
    });
    afterEach(async () => {
        http.close();
        await Promise.all(standIns.splice(0).map((server) => server.stop()));
    });

    async function standIn(dialect: 1 | 2 | 3): Promise<InfluxStandIn> {
        const server = await new InfluxStandIn(dialect).start();
        standIns.push(server);
        return server;
    }

    function target(server: InfluxStandIn, more: Partial<InfluxTarget> = {}): InfluxTarget {
        const { url, database, org, username, password, token } = server;
        const who = server.dialect === 1 ? { username, password } : { token };
        return { url, version: "auto", database, org, retentionPolicy: "", ...who, ...more };
    }

    function sender(server: InfluxStandIn, more: Partial<InfluxTarget> = {}, options: Partial<SenderOptions> = {}): InfluxSender {
        return new InfluxSender({ http, target: target(server, more), timeoutMs: 5000, ...options });
    }

    async function refused(outcome: Promise<Outcome>): Promise<string[]> {
        const done = await outcome;
        assert.equal(done.kind, "delivered", JSON.stringify(done));
        return done.kind === "delivered" ? (done.rejected ?? []).map(({ entry }) => entry) : [];
    }

    for (const dialect of [1, 2, 3] as const) {
        describe(`InfluxDB ${dialect}.x`, () => {
            it("delivers stored members as they are, found by itself or told", async () => {
                const server = await standIn(dialect);
                for (const version of ["auto", String(dialect)] as InfluxTarget["version"][]) {
                    const batch = records(lines(3), lines(2, 3));
                    assert.deepEqual(await sender(server, { version }).deliver(batch, never), { kind: "delivered" });
                    assert.deepEqual(server.writes.at(-1)!.lines, lines(5));
                }
                assert.equal(server.stored.size, 10);
            });

            it("keeps the path of the URL", async () => {
                const server = await standIn(dialect);
                const outcome = await sender(server, { url: `${server.url}/behind/a/proxy/`, version: `${dialect}` }).deliver(records(lines(1)), never);
                assert.equal(outcome.kind, "pause");
                assert.match(server.writes[0]!.path, /^\/behind\/a\/proxy\/\w/);
            });

            it("quarantines only the lines that conflict with the type of a field", async () => {
                const server = await standIn(dialect);
                const one = sender(server);
                await one.deliver(records(lines(1)), never);
                server.writes.length = 0;
                assert.deepEqual(await refused(one.deliver(records([...lines(400), CONFLICT], [CONFLICT.replace("inv2", "inv3"), ...lines(99, 400)]), never)), [
                    CONFLICT,
                    CONFLICT.replace("inv2", "inv3"),
                ]);
                assert.equal(server.stored.size, 2 * 499);
                assert.ok(server.writes.length <= 3, `took ${server.writes.length} requests`);
            });

            it("quarantines only the malformed lines, with the reason", async () => {
                const server = await standIn(dialect);
                const bad = "inverter,device=inv1 v=?? 17";
                const outcome = await sender(server).deliver(records([...lines(50), bad, ...lines(50, 50)]), never);
                assert.equal(outcome.kind, "delivered");
                const { rejected = [] } = outcome as { rejected?: { entry: string; reason: string }[] };
                assert.deepEqual(rejected.map(({ entry }) => entry), [bad]);
                assert.match(rejected[0]!.reason, /a float/);
                assert.equal(server.stored.size, 200);
            });

            it("parts good lines from bad, whatever the mixture", async function () {
                this.timeout(20_000);
                const server = await standIn(dialect);
                server.malformed = (line) => line.includes("garbage");
                const one = sender(server);
                await one.deliver(records(lines(1)), never);
                const kind = fc.constantFrom("good", "good", "good", "conflict", "malformed");
                await fc.assert(
                    fc.asyncProperty(fc.array(kind, { minLength: 1, maxLength: 60 }), fc.nat(59), async (kinds, cut) => {
                        server.stored.clear();
                        const all = kinds.map((which, i) => {
                            if (which === "good") return `inverter,device=d${i},site=home ac_power_w=${i} ${T}`;
                            return which === "conflict" ? `inverter,device=d${i},site=home ac_power_w="x" ${T}` : `garbage ${i} ${T}`;
                        });
                        const batch = records(all.slice(0, cut), all.slice(cut)).filter(({ count }) => count > 0);
                        const entries = await refused(one.deliver(batch, never));
                        assert.deepEqual(entries.toSorted(), all.filter((_, i) => kinds[i] !== "good").toSorted());
                        assert.equal(server.stored.size, kinds.filter((which) => which === "good").length);
                    }),
                    { numRuns: 40 },
                );
            });

            it("pauses and says what to do when it is not let in", async () => {
                const server = await standIn(dialect);
                const wrong = { token: "wr0ng", password: "wr0ng" };
                const outcome = await sender(server, dialect === 1 ? { password: wrong.password } : { token: wrong.token }).deliver(records(lines(1)), never);
                assert.equal(outcome.kind, "pause");
                assert.match((outcome as { reason: string }).reason, dialect === 1 ? /check user and password/ : /check the token/);
                server.script = [reply({ status: 403 })];
                assert.match(((await sender(server).deliver(records(lines(1)), never)) as { reason: string }).reason, /write access to (database|bucket) "plant"/);
                assert.equal(server.stored.size, 0);
            });

            it("splits what is too large, and cuts a single record itself", async () => {
                const server = await standIn(dialect);
                server.maxLines = 10;
                assert.equal((await sender(server).deliver(records(lines(8), lines(8, 8)), never)).kind, "split");
                assert.deepEqual(await sender(server).deliver(records(lines(100)), never), { kind: "delivered" });
                assert.equal(server.stored.size, 200);
                server.maxLines = 0;
                assert.deepEqual(await refused(sender(server).deliver(records(lines(2)), never)), lines(2));
            });

            it("tells the dialog's test what is wrong, and writes nothing", async () => {
                const server = await standIn(dialect);
                const good = await sender(server).check(never);
                assert.equal(good.kind, "delivered");
                assert.deepEqual(good.server, { dialect, version: server.version.replace("v", "") });
                assert.equal((await sender(server, { token: "x", password: "x" }).check(never)).kind, "pause");
                if (dialect !== 3) assert.equal((await sender(server, { database: "other" }).check(never)).kind, "pause");
                server.script = [reply({ status: 400, body: { error: "invalid database name" } })];
                assert.match(((await sender(server).check(never)) as { reason: string }).reason, /invalid database name/);
                assert.equal(server.stored.size, 0);
            });
        });
    }

    it("writes every member to an InfluxDB 3 that reads only the first", async () => {
        const server = await standIn(3);
        for (const version of ["3.0.3", "3.7.0", "3.8.0", "3.10.0"]) {
            server.version = version;
            for (const told of ["auto", "3"] as const) {
                server.stored.clear();
                await sender(server, { version: told }).deliver(records(lines(3), lines(3, 3), lines(3, 6)), never);
                assert.equal(server.stored.size, 18, `${version} ${told}`);
            }
        }
    });

    it("creates a missing database of 1.x when asked to, else pauses", async () => {
        const server = await standIn(1);
        const other = { database: "other" };
        const outcome = await sender(server, other).deliver(records(lines(1)), never);
        assert.match((outcome as { reason: string }).reason, /create database "other"/);
        const createDatabase = async (): Promise<void> => {
            server.database = "other";
        };
        assert.deepEqual(await sender(server, other, { createDatabase }).deliver(records(lines(1)), never), { kind: "delivered" });
        const refuse = (): Promise<void> => Promise.reject(new WattError("INFLUX_REFUSED", "only an admin may create it."));
        assert.deepEqual(await sender(server, { database: "third" }, { createDatabase: refuse }).deliver(records(lines(1)), never), {
            kind: "pause",
            reason: "No database: only an admin may create it.",
        });
        server.script = [reply({ status: 500, body: { error: "retention policy not found: short" } })];
        assert.match(((await sender(server, { ...other, retentionPolicy: "short" }).deliver(records(lines(1)), never)) as { reason: string }).reason, /^No retention policy: create "short"/);
        assert.equal(server.writes.at(-1)!.query["rp"], "short");
    });

    it("waits as long as the server asks, at most an hour", async () => {
        const server = await standIn(2);
        const clock = { now: () => T, monotonic: () => 0, sleep: () => Promise.resolve(), after: () => () => undefined };
        const answers: [Answer, number | undefined][] = [
            [{ status: 429, headers: { "Retry-After": "7" } }, 7000],
            [{ status: 503, headers: { "Retry-After": new Date(T + 90_000).toUTCString() } }, 90_000],
            [{ status: 503, headers: { "Retry-After": "999999" } }, 3_600_000],
            [{ status: 503, headers: { "Retry-After": "soon" } }, undefined],
            [{ status: 500, body: { message: "timeout" } }, undefined],
            [{ status: 408 }, undefined],
        ];
        for (const [answer, afterMs] of answers) {
            server.script = [reply(answer)];
            const outcome = await sender(server, {}, { clock }).deliver(records(lines(1)), never);
            assert.equal(outcome.kind, "retry", `${answer.status}`);
            assert.equal((outcome as { afterMs?: number }).afterMs, afterMs);
            assert.match((outcome as { reason: string }).reason, new RegExp(`${answer.status}`));
        }
    });

    it("takes a server that dies, hangs or drips for an outage, by the deadline", async () => {
        const server = await standIn(1);
        const one = sender(server, {}, { timeoutMs: 250 });
        const timers: NodeJS.Timeout[] = [];
        const faults: ((response: ServerResponse) => void)[] = [
            (response) => response.socket!.destroy(),
            (response) => response.socket!.resetAndDestroy(),
            (response) => {
                response.writeHead(400, { "Content-Length": 1000 }).write("{");
                setImmediate(() => response.socket!.destroy());
            },
            () => undefined,
            (response) => {
                response.writeHead(500, { "Content-Length": 1000 });
                timers.push(setInterval(() => response.write("x"), 50));
            },
        ];
        for (const fault of faults) {
            server.script = [fault];
            const started = performance.now();
            const outcome = await one.deliver(records(lines(1)), never);
            assert.equal(outcome.kind, "retry", String(fault));
            assert.ok(performance.now() - started < 2000);
        }
        for (const timer of timers) clearInterval(timer);
        await server.stop();
        assert.match(((await one.deliver(records(lines(1)), never)) as { reason: string }).reason, /cannot be reached/);
    });

    it("gives up at once when it is told to", async () => {
        const server = await standIn(1);
        const controller = new AbortController();
        server.script = [() => controller.abort()];
        assert.equal((await sender(server).deliver(records(lines(1)), controller.signal)).kind, "retry");
    });

    it("stores once what is sent twice because the acknowledgement was lost", async () => {
        for (const dialect of [1, 2, 3] as const) {
            const server = await standIn(dialect);
            const one = sender(server);
            await one.deliver(records(lines(100)), never);
            server.script = [(response) => response.socket!.destroy()];
            assert.equal((await one.deliver(records(lines(100)), never)).kind, "retry");
            assert.deepEqual(await one.deliver(records(lines(100)), never), { kind: "delivered" });
            assert.equal(server.stored.size, 200);
        }
    });

    it("never takes the answer of something else for a stored or refused point", async () => {
        const server = await standIn(1);
        const page = "<html><body>Please log in</body></html>";
        for (const answer of [
            { status: 200, body: page, headers: { "Content-Type": "text/html" } },
            { status: 302, headers: { Location: "http://portal/" } },
            { status: 405 },
            { status: 415, body: page },
            { status: 402, body: "pay" },
        ]) {
            server.script = [reply(answer)];
            assert.equal((await sender(server, { version: "1" }).deliver(records(lines(3)), never)).kind, "pause", `${answer.status}`);
        }
        // A refusal in unknown words that hits every line means the request.
        server.script = Array.from({ length: 1000 }, () => reply({ status: 400, body: "bad request" }));
        for (const count of [1, 500]) {
            const before = server.writes.length;
            const outcome = await sender(server).deliver(records(lines(count)), never);
            assert.equal(outcome.kind, "pause");
            assert.match((outcome as { reason: string }).reason, /bad request/);
            assert.ok(server.writes.length - before < 60);
        }
        // In unknown words, but only because of some lines: those lines.
        const picky = (response: ServerResponse, write: { lines: string[] }): void =>
            reply(write.lines.some((line) => line.includes("w=7 ") || line.includes("w=0 ")) ? { status: 400, body: "we do not like this" } : { status: 204 })(response);
        server.script = Array.from({ length: 1000 }, () => picky);
        assert.deepEqual((await refused(sender(server).deliver(records(lines(64)), never))).toSorted(), [lines(1)[0], lines(1, 7)[0]]);
    });

    it("takes an answer without end for no InfluxDB's, and refuses no point for it", async () => {
        const page = Buffer.alloc(1024 * 1024, "<p>");
        const portal = createServer((request, response) => {
            request.resume();
            const more = (): void => {
                while (response.write(page));
            };
            response.writeHead(400).on("drain", more);
            more();
        }).listen(0, "127.0.0.1");
        await once(portal, "listening");
        const url = `http://127.0.0.1:${(portal.address() as AddressInfo).port}`;
        try {
            for (const version of ["auto", "1"] as const) {
                for (const batch of [records(lines(1)), records(lines(2), lines(1, 2))]) {
                    const outcome = await new InfluxSender({ http, target: { url, version, database: "plant", org: "", retentionPolicy: "" } }).deliver(batch, never);
                    assert.equal(outcome.kind, "pause", JSON.stringify(outcome));
                    assert.match((outcome as { reason: string }).reason, /^Not InfluxDB/);
                }
            }
        } finally {
            portal.close();
            portal.closeAllConnections();
        }
    });

    it("says where a redirect belongs, also while it looks who answers", async () => {
        const server = await standIn(1);
        const portal = createServer((_request, response) => void response.writeHead(301, { Location: "https://influx/" }).end()).listen(0, "127.0.0.1");
        await once(portal, "listening");
        try {
            const url = `http://127.0.0.1:${(portal.address() as AddressInfo).port}`;
            const outcome = await sender(server, { url }).deliver(records(lines(1)), never);
            assert.match((outcome as { reason: string }).reason, /^Redirected \(301\)/);
        } finally {
            portal.close();
            portal.closeAllConnections();
        }
    });

    it("asks again who the server is after a pause", async () => {
        const server = await standIn(1);
        const one = sender(server, { token: "s3cret-token" });
        assert.equal((await one.deliver(records(lines(1)), never)).kind, "pause");
        const upgraded = await standIn(2);
        await server.stop();
        Object.assign((one as unknown as { options: SenderOptions }).options.target, { url: upgraded.url });
        assert.deepEqual(await one.deliver(records(lines(1)), never), { kind: "delivered" });
    });

    it("says so when no InfluxDB answers", async () => {
        const server = await standIn(1);
        server.version = "";
        const { url } = server;
        const outcome = await new InfluxSender({ http, target: { ...target(server), url: `${url}/nothing` } }).deliver(records(lines(1)), never);
        assert.match((outcome as { reason: string }).reason, /^Not InfluxDB \(404\)/);
    });

    it("lets no secret out, whatever the server echoes", async () => {
        const secret = fc.stringMatching(/^[A-Za-z0-9_=-]{8,40}$/);
        for (const dialect of [1, 2, 3] as const) {
            const server = await standIn(dialect);
            await fc.assert(
                fc.asyncProperty(secret, secret, fc.constantFrom(400, 401, 403, 404, 422, 429, 500, 418), fc.boolean(), async (token, password, status, json) => {
                    const echo = (response: ServerResponse, write: { headers: object; lines: string[] }): void => {
                        const words = `partial write: ${JSON.stringify(write.headers)} ${token} ${password} dropped=${write.lines.length}`;
                        reply({ status, body: json ? { error: words, message: words } : words })(response);
                    };
                    server.script = Array.from({ length: 60 }, () => echo);
                    const who = dialect === 1 ? { username: "writer", password } : { token, password };
                    const outcome = await sender(server, { version: `${dialect}`, ...who }).deliver(records(lines(2)), never);
                    const said = JSON.stringify(outcome);
                    for (const hidden of [token, password, Buffer.from(`writer:${password}`).toString("base64")]) {
                        if (dialect !== 1 || hidden !== token) assert.ok(!said.includes(hidden), said);
                    }
                }),
                { numRuns: 60 },
            );
        }
    });
});
