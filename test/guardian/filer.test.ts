import assert from "node:assert/strict";
import { createHttpClient } from "../../dist/common/http.js";
import type { GuardianClient } from "../../dist/guardian/client.js";
import { statusOf } from "../../dist/guardian/desk.js";
import { Filer, TIMES, type FilerSettings, type Filing, type FilingResult } from "../../dist/guardian/filer.js";
import { Filings, shareFilings } from "../../dist/guardian/filings.js";
import { findPolicies, readPolicy } from "../../dist/guardian/policy.js";
import { parseGuardianFault, PROFILES, SIM_POLICY_ID, type GuardianSimOptions, type GuardianSimulator } from "../../dist/simulate/guardian-server.js";
import { makeDir, removeDir } from "../node-red.js";
import { FACTS, fakeReport } from "./documents.js";
import { codeOf, FastClock, Rig } from "./rig.js";

const PROJECT: Filing = { kind: "project", payload: FACTS, simulated: false };
const report = (mwh = 160, month = 0, more: object = {}): Filing => ({ kind: "report", report: fakeReport({ mwh, month, ...more }) });

describe("filing with Guardian", function () {
    this.timeout(30_000);
    const rig = new Rig();
    const open: Filings[] = [];
    let folder: string;
    let clock: FastClock;

    beforeEach(async () => {
        folder = await makeDir("wl-filings-");
        clock = new FastClock();
    });
    afterEach(async () => {
        for (const filings of open.splice(0)) await filings.close();
        await rig.close();
        await removeDir(folder);
    });

    interface Bench {
        simulator: GuardianSimulator;
        client: GuardianClient;
        filings: Filings;
        filer: Filer;
    }

    async function bench(options: Partial<GuardianSimOptions> = {}, settings: Partial<FilerSettings> = {}): Promise<Bench> {
        const simulator = await rig.simulator(options);
        const client = rig.client(simulator, {}, { clock, timeoutMs: 400 });
        const { fingerprint } = await readPolicy(client, SIM_POLICY_ID);
        const filings = await Filings.open(folder);
        open.push(filings);
        return { simulator, client, filings, filer: new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest", ...settings }, TIMES, clock) };
    }

    /** A bench whose project is validated. */
    async function withProject(options: Partial<GuardianSimOptions> = {}, settings: Partial<FilerSettings> = {}): Promise<Bench> {
        const made = await bench(options, settings);
        assert.equal((await made.filer.file(PROJECT)).state, "FILED");
        made.simulator.approveAll();
        return made;
    }

    const filed = ({ simulator }: Bench, type: string) => simulator.policy.state.documents.filter((found) => found.type === type).length;

    for (const profile of PROFILES) {
        it(`takes a project and a report from form to token in ${profile}`, async () => {
            const made = await bench({ profile });
            const { filer, simulator } = made;
            const project = await filer.file(PROJECT);
            assert.deepEqual([project.state, project.stage, project.differences], ["FILED", "Waiting for Validation", []]);
            simulator.approveAll();
            const [validated] = await filer.resume();
            assert.equal(validated?.stage, "Validated");

            const first = await filer.file(report());
            assert.deepEqual([first.state, first.stage, first.mint, first.reason], ["FILED", "Waiting for Verification", 100, ""]);
            assert.ok(first.stored?.subject.startsWith("urn:uuid:"));
            assert.equal((await filer.file(report())).state, "ALREADY");
            simulator.approveAll();
            const results = await filer.resume();
            assert.deepEqual(results.map(({ stage, minted, reason }) => [stage, minted, reason]), [["Minted", 100, ""]]);
            assert.deepEqual(await filer.resume(), []);
            assert.deepEqual([filed(made, "report_form"), filed(made, "project_form")], [1, 1]);
        });
    }

    it("shows in a dry run what would be filed and minted, and files nothing", async () => {
        const made = await withProject({}, {});
        const before = made.simulator.policy.state.documents.length;
        const unpinned = new Filer(made.client, made.filings, { policyId: SIM_POLICY_ID, fingerprint: "", rounding: "nearest" }, TIMES, clock);
        for (const filer of [made.filer, unpinned]) {
            const preview = await filer.preview(report());
            assert.deepEqual([preview.ok, preview.mint, preview.violations], [true, 100, []]);
            assert.ok(Math.abs((preview.computed?.reductionT ?? 0) - 100) < 1e-6);
            assert.equal((await filer.preview(PROJECT)).ok, true);
        }
        assert.equal(made.simulator.policy.state.documents.length, before);
        assert.equal(made.filer.rows().length, 1);
    });

    it("files nothing before a person has agreed to the policy", async () => {
        const { filer, simulator } = await bench({}, { fingerprint: "" });
        assert.equal(await codeOf(filer.file(PROJECT)), "GUARDIAN_UNPINNED");
        assert.equal(simulator.count.projects, 0);
    });

    it("stops when the policy is no longer what was agreed to", async () => {
        const { filer, simulator } = await bench({}, { fingerprint: "ab".repeat(32) });
        assert.equal(await codeOf(filer.file(PROJECT)), "GUARDIAN_DRIFT");
        assert.equal(simulator.count.projects, 0);
    });

    it("notices any change of the policy on which a filing depends, and none in what each import gives anew", async () => {
        const { client, filer, simulator } = await bench();
        const { policy } = simulator;
        const inner = simulator as unknown as { summary: (user: object) => Record<string, unknown> };
        const [summary, schema] = [inner.summary.bind(simulator), policy.schemaOf.bind(policy)];
        const agreed = (await readPolicy(client, SIM_POLICY_ID)).fingerprint;
        const set = (object: object, keys: string[], value: unknown): object => {
            const copy = structuredClone(object) as Record<string, unknown>;
            const holder = keys.slice(0, -1).reduce((part, key) => part[key] as Record<string, unknown>, copy);
            if (value === undefined) delete holder[keys.at(-1)!];
            else holder[keys.at(-1)!] = value;
            return copy;
        };
        const drifts: [string, string[], unknown][] = [
            ["policy", ["version"], "1.0.1"],
            ["policy", ["policyTag"], "Tag_2"],
            ["policy", ["policyRoles"], ["Project Participant"]],
            ["policy", ["tools"], [{ name: "Tool 03" }]],
            ["policy", ["config"], { rule: "H113.H114 * 2" }],
            ["form", ["required"], ["@context", "type", "field0", "H33", "H81"]],
            ["form", ["properties", "H33", "properties", "H35", "enum"], ["Greenfield power plants."]],
            ["form", ["properties", "H112", "type"], "string"],
            ["form", ["properties", "H33", "properties", "H40"], undefined],
        ];
        for (const [what, keys, value] of drifts) {
            inner.summary = (user) => (what === "policy" ? set(summary(user), keys, value) : summary(user)) as Record<string, unknown>;
            policy.schemaOf = (tag) => (what === "form" ? set(schema(tag), keys, value) : schema(tag));
            assert.equal(await codeOf(filer.file(PROJECT)), "GUARDIAN_DRIFT", keys.join("."));
        }
        assert.equal(simulator.count.projects, 0);
        inner.summary = (user) => ({ ...summary(user), topicId: "0.0.9", description: "Another text", uuid: "new", userRole: "Project Participant" });
        policy.schemaOf = (tag) => set(schema(tag), ["$id"], "#another");
        assert.equal((await readPolicy(client, SIM_POLICY_ID)).fingerprint, agreed);
        assert.deepEqual((await filer.resume()).map(({ state }) => state), ["FILED"], "and what was stopped by the drift goes on");
    });

    it("finds the policy beside others that the account may not look into", async () => {
        const { client, simulator } = await bench();
        simulator.fault(parseGuardianFault({ fault: "status", status: 403, on: "GET 68d6c0ffee000000000000a2" }));
        assert.deepEqual((await findPolicies(client)).map(({ id }) => id), [SIM_POLICY_ID]);
    });

    it("finds the policy by its forms, grids and role, under any name", async () => {
        const { client, simulator } = await bench();
        const [found, ...more] = await findPolicies(client);
        assert.deepEqual([found?.id, found?.name, more], [SIM_POLICY_ID, "AMS-I.D stand-in", []]);
        assert.match(found?.fingerprint ?? "", /^[0-9a-f]{64}$/);
        assert.deepEqual(await findPolicies(client), [found]);
        const fresh = rig.client(await rig.simulator({ isReady: false, seed: 2 }), {}, { clock });
        const [early] = await findPolicies(fresh);
        assert.equal(early?.fingerprint, undefined);
        assert.match(early?.problem ?? "", /does not offer this step/);
        assert.equal(simulator.count.projects, 0);
    });

    it("says no to what the policy would stumble over, and sends nothing", async () => {
        const { filer, simulator } = await withProject();
        const { report: good } = report() as { report: ReturnType<typeof fakeReport> };
        const wrong = [
            { ...good, ready: false, refusals: [{ code: "X", text: "Not yet." }] },
            { ...good, figures: { ...good.figures, egMWh: NaN } },
            { ...good, figures: { ...good.figures, leakageT: -1 } },
            { ...good, figures: { ...good.figures, credits: 99 } },
            { ...good, factor: { ...good.factor!, om: Infinity } },
            { ...good, factor: { ...good.factor!, om: 0.8 } },
        ];
        for (const bad of wrong) assert.equal((await filer.file({ kind: "report", report: bad })).state, "REFUSED");
        assert.equal(simulator.count.reports, 0);
        assert.equal((await filer.file(report())).state, "FILED");
    });

    it("claims a period once, whatever figures come later", async () => {
        const made = await withProject();
        assert.equal((await made.filer.file(report(160))).state, "FILED");
        const { report: other } = report(160) as { report: ReturnType<typeof fakeReport> };
        const changed = { ...other, figures: { ...other.figures, egMWh: other.figures.egMWh * 2 } };
        assert.match((await made.filer.file({ kind: "report", report: changed })).reason, /other figures/);
        assert.equal(filed(made, "report_form"), 1);
    });

    it("tells of a form that is stuck, and of an account that is not let in", async () => {
        const { filer, simulator } = await withProject();
        simulator.fault(parseGuardianFault("jam"));
        const jammed = await filer.file(report());
        assert.equal(jammed.state, "JAMMED");
        assert.match(jammed.reason, /restart/);
        for (let i = 0; i < 3; i++) {
            clock.advance(3_600_000);
            await filer.resume();
        }
        assert.equal((await filer.file(report())).state, "JAMMED");
        assert.equal((await filer.file(report(170, 1))).state, "JAMMED");
        assert.equal(simulator.count.reports, 1);

        simulator.fault(parseGuardianFault("clear"));
        simulator.policy.user("pp").steps["new_report"] = 0;
        assert.equal((await filer.file(report())).state, "JAMMED", "only a person lets it go again");
        filer.release(jammed.key);
        assert.equal((await filer.file(report())).state, "FILED");
    });

    it("keeps what cannot be sent, and sends it when it can", async () => {
        const made = await withProject();
        made.simulator.fault(parseGuardianFault({ fault: "status", on: "POST add_report_bnt", status: 429 }));
        assert.equal((await made.filer.file(report())).state, "WAITING");
        made.simulator.fault(parseGuardianFault("clear"));
        const [result] = await made.filer.resume();
        assert.equal(result?.state, "FILED");
        assert.equal(made.simulator.count.reports, 1);
    });

    it("keeps a report until its project is validated, and until Guardian answers", async () => {
        const made = await bench();
        assert.equal(await codeOf(made.filer.file(report())), "GUARDIAN_PROJECT");
        await made.filer.file(PROJECT);
        assert.deepEqual(await made.filer.resume(), []);
        assert.equal(made.filer.isBusy, true);
        made.simulator.approveAll();
        const results = await made.filer.resume();
        assert.deepEqual(results.map(({ kind, state, stage }) => [kind, state, stage]), [["project", "FILED", "Validated"], ["report", "FILED", "Waiting for Verification"]]);
        made.simulator.fault(parseGuardianFault("reset"));
        assert.equal(await codeOf(made.filer.file(report(160, 1))), "HTTP_FAILED");
        made.simulator.fault(parseGuardianFault("clear"));
        assert.deepEqual((await made.filer.resume()).map(({ state }) => state), ["FILED"]);
        assert.equal(made.filer.isBusy, false);
        assert.deepEqual([made.simulator.count.projects, made.simulator.count.reports], [1, 2]);
    });

    it("finds a document that an earlier installation filed", async () => {
        const made = await withProject();
        await made.filer.file(report());
        for (const filings of open.splice(0)) await filings.close();
        await removeDir(folder);
        const filings = await Filings.open(folder);
        open.push(filings);
        const { fingerprint } = await readPolicy(made.client, SIM_POLICY_ID);
        const fresh = new Filer(made.client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, TIMES, clock);
        assert.equal((await fresh.file(report())).state, "ALREADY");
        assert.equal(made.simulator.count.reports, 1);
    });

    it("is not deceived by the list's filter, which may hide what is there", async () => {
        const made = await withProject();
        made.simulator.fault(parseGuardianFault({ fault: "hang-after", on: "POST add_report_bnt", times: 1 }));
        made.simulator.policy.user("pp").filterValue = "urn:uuid:another-project";
        assert.equal((await made.filer.file(report())).state, "FILED");
        assert.equal(made.simulator.count.reports, 1);
    });

    it("does not send again because of a list that is old", async () => {
        const made = await withProject();
        await made.filer.preview(report());
        await made.client.grid(SIM_POLICY_ID, "report_grid_pp");
        made.simulator.fault(parseGuardianFault({ fault: "hang-after", on: "POST add_report_bnt", times: 1 }));
        made.simulator.fault(parseGuardianFault({ fault: "stale", on: "GET report_grid_pp" }));
        assert.equal((await made.filer.file(report())).state, "UNKNOWN");
        clock.advance(TIMES.settleMs);
        await made.filer.resume();
        made.simulator.fault(parseGuardianFault("clear"));
        clock.advance(TIMES.confirmMs);
        const [result] = await made.filer.resume();
        assert.equal(result?.state, "FILED");
        assert.equal(made.simulator.count.reports, 1);
    });

    for (const fault of ["reset", "reset-after", "hang-after", "status", "null", "garbage", "truncate"] as const) {
        it(`sends once though the answer to the form is lost by ${fault}`, async () => {
            const made = await withProject();
            made.simulator.fault(parseGuardianFault({ fault, on: "POST add_report_bnt", times: 1 }));
            await made.filer.file(report());
            assert.ok(filed(made, "report_form") <= 1);
            const states: string[] = [];
            for (const ms of [TIMES.settleMs, TIMES.confirmMs]) {
                clock.advance(ms);
                await made.filer.resume();
                states.push((await made.filer.file(report())).state);
            }
            assert.equal(states.at(-1), "ALREADY");
            assert.equal(filed(made, "report_form"), 1);
        });
    }

    for (const fault of ["miscalculate", "alter"]) {
        it(`notices a server that does ${fault}`, async () => {
            const { filer, simulator } = await withProject();
            simulator.fault(parseGuardianFault(fault));
            const { state, differences, reason } = await filer.file(report());
            assert.equal(state, "FILED");
            assert.ok(differences.length > 0);
            assert.match(reason, /other figures/);
        });
    }

    it("notices that more was minted than was due, by the network's own count", async () => {
        const http = createHttpClient();
        try {
            const simulator = await rig.simulator();
            const made = await withProjectOn(simulator, { mirror: { url: simulator.mirrorUrl, http } });
            await made.file(report());
            simulator.fault(parseGuardianFault("over-mint"));
            simulator.approveAll();
            const result = (await made.resume()).find(({ kind }) => kind === "report");
            assert.deepEqual([result?.stage, result?.minted], ["Minted", 100]);
            assert.match(result?.reason ?? "", /200 serials .* too many/);
        } finally {
            http.close();
        }
    });

    it("follows a report that the verifier rejects, with what was said", async () => {
        const { filer, simulator } = await withProject();
        const { key } = await filer.file(report());
        const vvb = rig.client(simulator, { username: "vvb" }, { clock });
        const pp = rig.client(simulator, {}, { clock });
        const [shown] = await pp.grid(SIM_POLICY_ID, "report_grid_pp");
        const { options } = (await pp.block(SIM_POLICY_ID, "assign_vvb")) as { options: { value: string }[] };
        await pp.act(SIM_POLICY_ID, "assign_vvb", { ...shown, assignedTo: options[0]?.value });
        const [assigned] = await vvb.grid(SIM_POLICY_ID, "report_grid_vvb");
        await vvb.act(SIM_POLICY_ID, "approve_report_btn", { document: { ...assigned, option: { status: "REJECTED", comment: "The meter was moved" } }, tag: "Button_1" });
        const [result] = (await filer.resume()).filter((found) => found.key === key);
        assert.deepEqual([result?.state, result?.stage], ["FILED", "REJECTED"]);
        assert.match(result?.reason ?? "", /The verifier said no \(REJECTED\): The meter was moved/);
        assert.deepEqual(statusOf(result!), ["error", "rejected"]);
        assert.deepEqual(await filer.resume(), [], "nothing more comes");
        assert.equal((await filer.file(report())).state, "ALREADY");
        assert.equal(simulator.count.reports, 1);
    });

    it("files no report of a project that was revoked", async () => {
        const { filer, simulator } = await withProject();
        for (const document of simulator.policy.state.documents) if (document.type === "approved_project") document.option.status = "Revoked";
        assert.equal(await codeOf(filer.file(report())), "GUARDIAN_PROJECT");
        assert.equal(simulator.count.reports, 0);
    });

    it("alarms where the policy rounds otherwise than was set, so that more is minted than there are whole tonnes", async () => {
        const { filer, simulator } = await withProject({ rounding: "ceiling" });
        assert.equal((await filer.file(report())).mint, 100);
        simulator.approveAll();
        const result = (await filer.resume()).find(({ kind }) => kind === "report");
        assert.deepEqual([result?.stage, result?.minted], ["Minted", 101]);
        assert.match(result?.reason ?? "", /Guardian minted 101 where 100 were to be expected/);
        assert.equal(statusOf(result!)[0], "warn");
    });

    it("alarms where a mint is not complete on the network, or was made twice", async () => {
        const http = createHttpClient();
        try {
            const simulator = await rig.simulator();
            const filer = await withProjectOn(simulator, { mirror: { url: simulator.mirrorUrl, http } });
            await filer.file(report());
            simulator.approveAll();
            const { state } = simulator.policy;
            const mint = state.documents.find(({ type }) => type === "mint")!;
            state.minted[mint.messageId] = 60;
            const result = (await filer.resume()).find(({ kind }) => kind === "report");
            assert.match(result?.reason ?? "", /60 serials .* the mint is not complete/);
            state.minted[mint.messageId] = 100;
            state.documents.push({ ...structuredClone(mint), id: "again", messageId: "1.2" });
            state.minted["1.2"] = 100;
            const again = await filer.file(report());
            assert.equal(again.minted, 200);
            assert.match(again.reason, /minted 2 times.*minted 200 where 100/);
        } finally {
            http.close();
        }
    });

    async function withProjectOn(simulator: GuardianSimulator, settings: Partial<FilerSettings>): Promise<Filer> {
        const client = rig.client(simulator, {}, { clock, timeoutMs: 400 });
        const { fingerprint } = await readPolicy(client, SIM_POLICY_ID);
        const filings = await Filings.open(folder);
        open.push(filings);
        const filer = new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest", ...settings }, TIMES, clock);
        await filer.file(PROJECT);
        simulator.approveAll();
        return filer;
    }

    describe("at a Guardian that is none of ours", () => {
        async function disguised(simulator: GuardianSimulator): Promise<Filer> {
            return withProjectOnUrl(simulator, await rig.disguised(simulator));
        }

        async function withProjectOnUrl(simulator: GuardianSimulator, url: string): Promise<Filer> {
            return withProjectOn(Object.create(simulator, { url: { value: url } }) as GuardianSimulator, {});
        }

        it("no simulated data is filed", async () => {
            const simulator = await rig.simulator();
            const filer = await disguised(simulator);
            for (const filing of [report(160, 0, { simulated: true }), { ...PROJECT, payload: { ...FACTS, id: "other" }, simulated: true } as Filing]) {
                const result = await filer.file(filing);
                assert.equal(result.state, "REFUSED");
                assert.match(result.reason, /simulated/);
                assert.equal((await filer.preview(filing)).ok, false);
            }
            assert.equal(simulator.count.reports, 0);
            assert.equal((await filer.file(report())).state, "FILED");
        });

        it("no time of a meter is claimed by two reports", async () => {
            const simulator = await rig.simulator();
            const filer = await disguised(simulator);
            assert.equal((await filer.file(report(160, 0, { meters: ["a", "b"] }))).state, "FILED");
            const again = await filer.file(report(170, 0, { meters: ["b"] }));
            assert.equal(again.state, "REFUSED");
            assert.match(again.reason, /Meter b has a report/);
            assert.equal((await filer.file(report(170, 1, { meters: ["b"] }))).state, "FILED");
            assert.equal(simulator.count.reports, 2);
        });
    });

    it("lets simulated data go to the stand-in", async () => {
        const { filer } = await withProject();
        assert.equal((await filer.file(report(160, 0, { simulated: true }))).state, "FILED");
    });

    it("shares one file between nodes, and gives it back after the last", async () => {
        const [one, two] = [shareFilings(folder), shareFilings(folder)];
        assert.equal(await one.filings, await two.filings);
        await one.release();
        assert.deepEqual((await two.filings).all("x"), []);
        const left = two.release();
        const next = shareFilings(folder);
        assert.deepEqual((await next.filings).all("x"), [], "opens once the one before has closed");
        await left;
        await next.release();
        const filings = await Filings.open(folder);
        const locked = shareFilings(folder);
        await assert.rejects(locked.filings, { code: "STORE_LOCKED" });
        await locked.release();
        await filings.close();
    });

    it("files one document once when many messages ask for it at the same time, on two nodes", async () => {
        const made = await withProject();
        const { fingerprint } = await readPolicy(made.client, SIM_POLICY_ID);
        const other = new Filer(rig.client(made.simulator, {}, { clock }), made.filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, TIMES, clock);
        const results: FilingResult[] = await Promise.all([made.filer, other, made.filer, other].map((filer) => filer.file(report())));
        assert.equal(made.simulator.count.reports, 1);
        assert.ok(results.some(({ state }) => state === "FILED"));
        assert.ok(results.every(({ state }) => ["FILED", "ALREADY", "UNKNOWN"].includes(state)), results.map(({ state }) => state).join());
    });
});
