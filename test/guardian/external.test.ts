import assert from "node:assert/strict";
import { createHttpClient } from "../../dist/common/http.js";
import { GuardianClient } from "../../dist/guardian/client.js";
import { privateKeyOf } from "../../dist/common/ed25519.js";
import { ExternalSender, parseFields, type ExternalSettings } from "../../dist/guardian/external.js";
import { STAND_IN_MRV } from "../../dist/guardian/stand-in.js";
import { TIMES } from "../../dist/guardian/filer.js";
import { Filings } from "../../dist/guardian/filings.js";
import { parseGuardianFault, PROFILES, SIM_POLICY_ID, type GuardianSimOptions, type GuardianSimulator } from "../../dist/simulate/guardian-server.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir } from "../node-red.js";
import { fakeReport } from "./documents.js";
import { Reaper } from "./reaper.js";
import { codeOf, FastClock, PASSWORD, Rig } from "./rig.js";

const FIELDS = { field0: "{period.to}", field1: "{figures.egMWh}", field2: "{period.from}/{period.to}" };
const SETTINGS: ExternalSettings = { config: STAND_IN_MRV, fields: FIELDS, blockTag: "", gridTag: "mrv_grid" };
const report = (month = 0, more: object = {}) => ({ ...fakeReport({ mwh: 160, month }), ...more });

describe("the compatibility mode for external data blocks", function () {
    this.timeout(30_000);
    const rig = new Rig();
    const open: Filings[] = [];
    let folder: string;
    let clock: FastClock;

    beforeEach(async () => {
        folder = await makeDir("wl-external-");
        clock = new FastClock();
    });
    afterEach(async () => {
        for (const filings of open.splice(0)) await filings.close();
        await rig.close();
        await removeDir(folder);
    });

    async function bench(settings: Partial<ExternalSettings> = {}, options: Partial<GuardianSimOptions> = {}): Promise<{ simulator: GuardianSimulator; sender: ExternalSender }> {
        const simulator = await rig.simulator(options);
        return { simulator, sender: await senderTo(simulator.url, settings) };
    }

    async function senderTo(url: string, settings: Partial<ExternalSettings> = {}): Promise<ExternalSender> {
        const filings = await Filings.open(folder);
        open.push(filings);
        return new ExternalSender(rig.client({ url }, {}, { clock, timeoutMs: 400 }), filings, { ...SETTINGS, ...settings }, TIMES, clock);
    }

    it("shows in a dry run the signed credential, and sends nothing", async () => {
        const { simulator, sender } = await bench();
        const { ok, violations, reason, document } = await sender.preview(report());
        assert.deepEqual([ok, violations, reason], [true, [], ""]);
        assert.equal(document?.credentialSubject[0]?.["field1"], String(report().figures.egMWh));
        assert.equal(document?.credentialSubject[0]?.["field2"], "2026-01-01T00:00:00.000Z/2026-02-01T00:00:00.000Z");
        assert.match(document?.proof.jws ?? "", /^eyJ.+\.\..{86}$/);
        assert.deepEqual([simulator.count.external, simulator.external], [0, []]);
    });

    for (const profile of PROFILES) {
        it(`is filed in ${profile} only because a grid shows it, with a signature that is verified there`, async () => {
            const { simulator, sender } = await bench({}, { profile });
            const first = await sender.send(report());
            assert.deepEqual([first.state, first.reason, first.stage, first.differences], ["FILED", "", "Received", []]);
            assert.equal((await sender.send(report())).state, "ALREADY");
            assert.deepEqual(await sender.resume(), []);
            assert.deepEqual(simulator.external.map(({ signature, document }) => [signature, document["id"]]), [[1, first.document?.["id"]]]);
        });
    }

    it("is never filed where nothing can be read back, and not sent again but by a person", async () => {
        const { simulator, sender } = await bench({ gridTag: "", blockTag: "mrv_data" });
        assert.match((await sender.preview(report())).reason, /cannot be proved/);
        for (let i = 0; i < 3; i++) {
            const { state, reason } = await sender.send(report());
            assert.equal(state, "UNKNOWN");
            assert.match(reason, /says yes to whatever it is given.* not sent again by itself/);
            clock.advance(3_600_000);
            assert.deepEqual(await sender.resume(), []);
        }
        assert.equal(sender.isBusy, false);
        assert.equal(simulator.external.length, 1);
        assert.equal((await sender.send(report(), undefined, true)).state, "UNKNOWN");
        assert.equal(simulator.external.length, 2);
        const [one, two] = simulator.external;
        assert.deepEqual(one?.document, two?.document, "the same bytes, so that Guardian can see it twice");
    });

    it("is unknown while the policy has it and shows it not, and filed when it does", async () => {
        const there = new ManualClock();
        const { simulator, sender } = await bench({}, { chainMs: 3000, clock: there });
        const first = await sender.send(report());
        assert.equal(first.state, "UNKNOWN");
        assert.match(first.reason, /the grid does not show it/);
        assert.equal(sender.isBusy, true);
        there.advance(3000);
        assert.deepEqual((await sender.resume()).map(({ state }) => state), ["FILED"]);
        assert.equal(simulator.count.external, 1);
    });

    it("refuses a policy that has no such block: AMS-I.D drops what comes this way", async () => {
        for (const blockTag of ["", "add_report_bnt"]) {
            const { simulator, sender } = await bench({ config: { ...STAND_IN_MRV, policyId: SIM_POLICY_ID, policyTag: "Tag_1758892814008" }, blockTag });
            const { state, reason } = await sender.send(report());
            assert.equal(state, "REFUSED");
            assert.match(reason, /use guardian-report/);
            assert.equal(simulator.count.external, 0);
            for (const filings of open.splice(0)) await filings.close();
        }
    });

    for (const [what, settings, more, words] of [
        ["a block that is another", { blockTag: "mrv_grid" }, {}, /is a interfaceDocumentsSourceBlock, which never hears/],
        ["a block that is not there", { blockTag: "mrv_date" }, {}, /is not in the policy/],
        ["the file of another policy", { config: { ...STAND_IN_MRV, policyTag: "Tag_2" } }, {}, /not the one that the MRV configuration is of/],
        ["a report that is not ready", {}, { ready: false, refusals: [{ code: "X", text: "Not yet." }] }, /is not ready: Not yet/],
        ["a field without a value", { fields: { field0: "x" } }, {}, /field1 is a field of the policy's schema and has no value/],
        ["what the report does not have", { fields: { ...FIELDS, field0: "{figures.wind}" } }, {}, /asks for \{figures.wind\}/],
        ["a part of the report that is no text", { fields: { ...FIELDS, field0: "{figures}" } }, {}, /asks for \{figures\}/],
        ["a number that is none", {}, { figures: { ...report().figures, egMWh: NaN } }, /asks for \{figures.egMWh\}/],
        ["a value that cannot be signed", { fields: { ...FIELDS, field0: "a\nb" } }, {}, /control characters/],
    ] as [string, Partial<ExternalSettings>, object, RegExp][]) {
        it(`refuses ${what}`, async () => {
            const { simulator, sender } = await bench(settings);
            const preview = await sender.preview(report(0, more)).catch((error: unknown) => error as { violations: object[]; message: string });
            const result = await sender.send(report(0, more)).catch((error: unknown) => ({ state: "REFUSED", reason: (error as Error).message }));
            assert.equal(result.state, "REFUSED");
            assert.match(result.reason, words);
            assert.ok(!("ok" in preview) || !preview.ok);
            assert.equal(simulator.count.external, 0);
        });
    }

    it("says that Guardian keeps it as invalid, where another key has signed", async () => {
        const { sender } = await bench({ config: { ...STAND_IN_MRV, key: privateKeyOf(Buffer.alloc(32, 7)) } });
        const { state, reason } = await sender.send(report());
        assert.equal(state, "FILED");
        assert.match(reason, /wrong signature or form/);
    });

    it("notices that something else is kept than was sent", async () => {
        const { simulator, sender } = await bench();
        await sender.send(report());
        const [kept] = simulator.external;
        (kept!.document["credentialSubject"] as Record<string, unknown>[])[0]!["field1"] = "999";
        const [changed] = await sender.resume();
        assert.match(changed?.reason ?? "", /something else than was sent: credentialSubject/);
    });

    it("is not sent where an earlier installation did", async () => {
        const { simulator, sender } = await bench();
        await sender.send(report());
        for (const filings of open.splice(0)) await filings.close();
        await removeDir(folder);
        clock.advance(3_600_000);
        const { state, reason, differences } = await (await senderTo(simulator.url)).send(report());
        assert.deepEqual([state, reason, differences, simulator.count.external], ["ALREADY", "", [], 1]);
    });

    it("claims a period once, whatever values come later", async () => {
        const { simulator, sender } = await bench();
        await sender.send(report());
        const later = await sender.send(report(0, { figures: { ...report().figures, egMWh: 1 } }));
        assert.equal(later.state, "REFUSED");
        assert.match(later.reason, /other values/);
        assert.equal(simulator.count.external, 1);
    });

    it("waits with what cannot be sent now, and sends it once when it can", async () => {
        const { simulator, sender } = await bench();
        simulator.fault(parseGuardianFault({ fault: "status", on: "POST /external", status: 429 }));
        assert.equal((await sender.send(report())).state, "WAITING");
        simulator.fault(parseGuardianFault({ fault: "status", on: "GET mrv_grid", status: 403 }));
        const [blind] = await sender.resume();
        assert.match(blind?.reason ?? "", /Not sent: the grid cannot be asked/);
        simulator.fault(parseGuardianFault("clear"));
        assert.deepEqual((await sender.resume()).map(({ state }) => state), ["FILED"]);
        simulator.fault(parseGuardianFault("reset"));
        assert.equal(await codeOf(sender.send(report(1))), "HTTP_FAILED");
        assert.equal(sender.isBusy, true);
        simulator.fault(parseGuardianFault("clear"));
        assert.deepEqual((await sender.resume()).map(({ state }) => state), ["FILED"]);
        assert.equal(sender.isBusy, false);
        assert.equal(simulator.external.length, 2);
    });

    it("says that an old Guardian has no address for one block", async () => {
        const { simulator, sender } = await bench({ blockTag: "mrv_data" });
        simulator.fault(parseGuardianFault({ fault: "status", on: "POST /external", status: 404, message: "Cannot POST" }));
        const { state, reason } = await sender.send(report());
        assert.equal(state, "REFUSED");
        assert.match(reason, /Cannot POST/);
    });

    for (const fault of ["reset", "reset-after", "hang", "hang-after", "status", "null", "garbage", "truncate"] as const) {
        it(`is sent once though the answer is lost by ${fault}`, async () => {
            const { simulator, sender } = await bench();
            simulator.fault(parseGuardianFault({ fault, on: "POST /external", times: 1 }));
            const first = await sender.send(report());
            for (let i = 0; i < 3; i++) {
                clock.advance(3_600_000);
                await sender.resume();
            }
            const last = await sender.send(report());
            const arrived = !["reset", "hang", "status"].includes(fault);
            assert.equal(simulator.external.length, arrived ? 1 : 0);
            assert.deepEqual([first.state, last.state], arrived ? ["FILED", "ALREADY"] : ["UNKNOWN", "UNKNOWN"]);
            if (!arrived) assert.equal((await sender.send(report(), undefined, true)).state, "FILED");
            assert.equal(simulator.external.length, 1);
        });
    }

    for (const after of [false, true]) {
        it(`is sent at most once though killed ${after ? "after" : "before"} each request and each write`, async () => {
            const simulator = await rig.simulator();
            for (let nth = 0; ; nth++) {
                const life = new Reaper(nth, after);
                const before = simulator.count.external;
                const plain = createHttpClient();
                const filings = await Filings.open(folder);
                const client = new GuardianClient({ url: simulator.url, loginBy: "username", username: "pp", password: PASSWORD }, { http: life.http(plain), clock, random: () => 0 });
                await new ExternalSender(client, life.filings(filings), SETTINGS, TIMES, clock).send(report(nth)).catch((error: unknown) => {
                    if (!life.dead) throw error;
                });
                plain.close();
                await filings.close();
                const next = await senderTo(simulator.url);
                await next.resume();
                const { state } = await next.send(report(nth));
                const sent = simulator.count.external - before;
                assert.ok(sent <= 1, `point ${nth}`);
                assert.equal(state === "ALREADY" || state === "FILED", sent === 1, `point ${nth}: ${state}`);
                for (const found of open.splice(0)) await found.close();
                if (!life.dead) {
                    assert.ok(nth > 10, `only ${nth} points`);
                    break;
                }
            }
        });
    }

    it("signs nothing simulated for a Guardian that is none of ours, and claims each time of a meter there once", async () => {
        const simulator = await rig.simulator();
        const sender = await senderTo(await rig.disguised(simulator));
        const simulated = report(0, { simulated: true });
        const { ok, document } = await sender.preview(simulated);
        assert.deepEqual([ok, document], [false, undefined]);
        const refused = await sender.send(simulated);
        assert.equal(refused.state, "REFUSED");
        assert.match(refused.reason, /simulated/);
        assert.equal(simulator.count.external, 0);
        assert.equal((await sender.send(report())).state, "FILED");
        assert.match((await sender.send(report(0, { key: "ab".repeat(32) }))).reason, /has a report for part of this time/);
        assert.equal(simulator.count.external, 1);
    });

    it("takes fields as a JSON object of texts only", () => {
        assert.deepEqual(parseFields('{"a": "b"}'), { a: "b" });
        for (const wrong of ["", "{", "[]", "{}", "null", '{"a": 1}', '["a"]']) assert.throws(() => parseFields(wrong), { code: "CONFIG_INVALID" });
    });
});
