import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as ask, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import fc from "fast-check";
import { Filer, TIMES, type Filing } from "../../dist/guardian/filer.js";
import { Filings } from "../../dist/guardian/filings.js";
import { ExternalSender } from "../../dist/guardian/external.js";
import { STAND_IN_MRV } from "../../dist/guardian/stand-in.js";
import { findPolicies, readPolicy } from "../../dist/guardian/policy.js";
import { parseProject, parseReport } from "../../dist/guardian/document.js";
import { AMS_ID_SCHEMA } from "../../dist/simulate/guardian-schema.js";
import { SIM_POLICY_ID } from "../../dist/simulate/guardian-server.js";
import { makeDir, removeDir } from "../node-red.js";
import { FACTS, fakeReport } from "./documents.js";
import { FastClock, Rig } from "./rig.js";

const FAST = { ...TIMES, readBackMs: 0, settleMs: 0, confirmMs: 0 };
const FILINGS: Filing[] = [
    { kind: "project", payload: FACTS, simulated: false },
    { kind: "report", report: fakeReport({ mwh: 160 }), projectRef: "urn:uuid:1" },
];

/** Values near to what Guardian says, and far from it. */
const words = fc.constantFrom<unknown>("approved_project", "Validated", "report", "project", "PUBLISH", "urn:uuid:1", "Project Participant", "MintToken", "Tag_1", "externalDataBlock", null, 0, -1, "", [], {}, true, AMS_ID_SCHEMA);
const keys = fc.constantFrom("id", "data", "schema", "document", "type", "option", "status", "credentialSubject", "verifiableCredential", "policyRoles", "field0", "filterValue", "message", "accessToken", "refreshToken", "login", "policyTag", "blockType", "__proto__", "hash", "0");
const { value: nearby } = fc.letrec((tie) => ({
    value: fc.oneof({ depthSize: "medium", withCrossShrink: true }, words, fc.array(tie("value"), { maxLength: 3 }), fc.dictionary(keys, tie("value"), { maxKeys: 5 })),
}));
const body = fc.oneof(nearby.map((value) => JSON.stringify(value)), fc.json(), fc.string(), fc.constantFrom("", "null", "[]", "{}", "[null]", "[[]]", "<html>"));
const status = fc.oneof({ weight: 6, arbitrary: fc.constant(200) }, { weight: 1, arbitrary: fc.constantFrom(201, 204, 301, 400, 401, 403, 404, 409, 413, 422, 429, 451, 500, 502, 503, 504) });

describe("a Guardian that answers anything", function () {
    this.timeout(30_000);
    const rig = new Rig();
    let server: Server;
    let folder: string;
    let answers: { status: number; body: string }[] = [];
    let count = 0;

    before(async () => {
        folder = await makeDir("wl-garbage-");
        server = createServer((request, response) => {
            request.resume();
            // Login and session work, so that the garbage gets further.
            const isLogin = request.url?.startsWith("/accounts");
            const answer = isLogin ? { status: 200, body: '{"refreshToken":"r","accessToken":"a.e30.c"}' } : (answers[count++ % answers.length] ?? { status: 200, body: "" });
            response.writeHead(answer.status, { "Content-Type": "application/json" }).end(answer.status === 204 ? "" : answer.body);
        });
        server.listen(0, "127.0.0.1");
        await once(server, "listening");
    });
    after(async () => {
        server.closeAllConnections();
        server.close();
        await rig.close();
        await removeDir(folder);
    });

    const isOurs = (error: unknown) => /^(GUARDIAN|HTTP|CONFIG|JSON)_/.test(String((error as { code?: unknown }).code));

    it("is told so in words, never by a crash, and nothing counts as filed", async () => {
        const clock = new FastClock();
        const client = rig.client({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }, {}, { clock });
        const filings = await Filings.open(folder);
        const filer = new Filer(client, filings, { policyId: "p", fingerprint: "ab".repeat(32), rounding: "nearest" }, FAST, clock);
        const external = new ExternalSender(client, filings, { config: STAND_IN_MRV, fields: { field0: "{key}", field1: "x", field2: "y" }, blockTag: "mrv_data", gridTag: "mrv_grid" }, FAST, clock);
        const outside = fakeReport({ mwh: 170, month: 1 });
        const unpinned = new Filer(client, filings, { policyId: "p", fingerprint: "", rounding: "nearest" }, FAST, clock);
        try {
            await fc.assert(
                fc.asyncProperty(fc.array(fc.record({ status, body }), { minLength: 1, maxLength: 6 }), fc.constantFrom(...FILINGS), async (some, filing) => {
                    answers = some;
                    count = 0;
                    for (const work of [() => filer.file(filing), () => unpinned.preview(filing), () => findPolicies(client), () => filer.resume(), () => external.preview(outside), () => external.send(outside), () => external.resume()]) {
                        const result = await work().catch((error: unknown) => {
                            if (!isOurs(error)) throw error;
                        });
                        assert.notEqual((result as { state?: string } | undefined)?.state, "FILED");
                    }
                }),
                { numRuns: 30 },
            );
        } finally {
            await filings.close();
        }
    });

    it("with one part of an answer changed", async () => {
        const simulator = await rig.simulator();
        let left = Infinity;
        let pick = 0;
        let value: unknown;
        const proxy = createServer((request, response) => {
            const { method = "", url = "", headers } = request;
            // A client that has given up takes its request with it.
            request.on("error", () => onward.destroy());
            const onward = ask(new URL(url, simulator.url), { method, headers }, (answer) => {
                const parts: Buffer[] = [];
                answer.on("data", (part: Buffer) => parts.push(part));
                answer.on("end", () => {
                    const text = Buffer.concat(parts).toString();
                    const isHit = !url.includes("/accounts/") && left-- === 0;
                    const { "content-length": _length, ...kept } = answer.headers;
                    response.writeHead(answer.statusCode ?? 500, kept).end(isHit ? changed(text, pick, value) : text);
                });
            });
            onward.on("error", () => response.destroy());
            request.pipe(onward);
        });
        proxy.listen(0, "127.0.0.1");
        await once(proxy, "listening");
        const dir = await makeDir("wl-garbage-");
        const filings = await Filings.open(dir);
        try {
            const clock = new FastClock();
            const client = rig.client({ url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}/api/v1` }, {}, { clock });
            const { fingerprint } = await readPolicy(client, SIM_POLICY_ID);
            const filer = new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, { ...TIMES, readBackMs: 100 }, clock);
            await filer.file({ kind: "project", payload: FACTS, simulated: false });
            simulator.approveAll();
            let month = 0;
            await fc.assert(
                fc.asyncProperty(fc.nat(16), fc.nat(), nearby, async (nth, which, wrong) => {
                    const filing: Filing = { kind: "report", report: fakeReport({ mwh: 160, month: month++ }) };
                    const before = simulator.count.reports;
                    [left, pick, value] = [nth, which, wrong];
                    for (const work of [() => filer.file(filing), () => filer.preview(filing)]) {
                        await work().catch((error: unknown) => {
                            if (!isOurs(error)) throw error;
                        });
                    }
                    left = Infinity;
                    assert.match((await filer.file(filing)).state, /^(FILED|ALREADY)$/);
                    assert.equal(simulator.count.reports - before, 1);
                }),
                { numRuns: 10 },
            );
        } finally {
            await filings.close();
            await removeDir(dir);
            proxy.closeAllConnections();
            proxy.close();
        }
    });

    it("nor do messages of any form throw anything else", () => {
        fc.assert(
            fc.property(fc.oneof(fc.anything(), nearby), (payload) => {
                for (const parse of [parseProject, parseReport]) {
                    assert.throws(() => parse(payload), { code: "CONFIG_INVALID" });
                }
            }),
        );
        const good = JSON.parse(JSON.stringify(fakeReport({ mwh: 1 }))) as Record<string, unknown>;
        assert.deepEqual(parseReport(good), good);
        fc.assert(fc.property(fc.constantFrom("format", "key", "project", "period", "simulated", "ready", "refusals", "figures", "meters"), (key) => assert.throws(() => parseReport({ ...good, [key]: undefined }), { code: "CONFIG_INVALID" })));
    });
});

/** JSON with one of its parts replaced. */
function changed(text: string, pick: number, value: unknown): string {
    const whole = JSON.parse(text === "" ? "null" : text) as unknown;
    const places: [Record<string, unknown>, string][] = [];
    const visit = (part: unknown): void => {
        if (typeof part !== "object" || part === null) return;
        for (const key of Object.keys(part)) {
            places.push([part as Record<string, unknown>, key]);
            visit((part as Record<string, unknown>)[key]);
        }
    };
    visit(whole);
    const place = places[pick % places.length];
    if (!place) return JSON.stringify(value);
    place[0][place[1]] = value;
    return JSON.stringify(whole);
}
