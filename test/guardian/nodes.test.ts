import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { NodeAPI } from "node-red";
import wlGuardian, { type GuardianNode } from "../../dist/guardian/wl-guardian.js";
import wlExternal from "../../dist/guardian/wl-guardian-external.js";
import wlProject from "../../dist/guardian/wl-guardian-project.js";
import wlReport from "../../dist/guardian/wl-guardian-report.js";
import wlSim from "../../dist/simulate/wl-sim-guardian.js";
import { helper, makeDir, removeDir, root } from "../node-red.js";
import { FACTS, fakeReport } from "./documents.js";

interface Result {
    payload: { state: string; stage: string; reason: string; ok?: boolean; mint?: number; minted?: number; document?: object; violations?: object[] };
}

/** Set by Node-RED; the helper's has no folder of its own. */
function inFolder(folder: string, register: (RED: NodeAPI) => void): (RED: NodeAPI) => void {
    return (RED) => register(Object.assign(Object.create(RED) as NodeAPI, { settings: Object.assign(Object.create(RED.settings) as object, { userDir: folder }) }));
}

describe("the Guardian nodes", function () {
    this.timeout(20_000);
    let folder: string;
    let port: number;

    before(() => helper.startServer());
    after(() => helper.stopServer());
    beforeEach(async () => {
        folder = await makeDir("wl-guardian-");
        const probe = createServer().listen(0, "127.0.0.1");
        await once(probe, "listening");
        ({ port } = probe.address() as AddressInfo);
        probe.close();
        await once(probe, "close");
    });
    afterEach(async () => {
        await helper.unload();
        await removeDir(folder);
    });

    async function load({ sim = {}, config = {}, report = {}, credentials = {} }: { sim?: object; config?: object; report?: object; credentials?: object } = {}): Promise<void> {
        await helper.load(
            [wlGuardian, wlProject, wlReport, wlSim].map((register) => inFolder(folder, register)),
            [
                { id: "flow", type: "tab" },
                { id: "sim", z: "flow", type: "wl-sim-guardian", port: String(port), wires: [["requests"]], ...sim },
                { id: "conf", type: "wl-guardian", server: "stand-in", url: `http://127.0.0.1:${port}/api/v1`, ...config },
                { id: "project", z: "flow", type: "wl-guardian-project", guardian: "conf", mode: "file", wires: [["results"], ["changes"]] },
                { id: "report", z: "flow", type: "wl-guardian-report", guardian: "conf", mode: "file", wires: [["results"], ["changes"]], ...report },
                { id: "dry", z: "flow", type: "wl-guardian-report", guardian: "conf", wires: [["results"], []] },
                { id: "all", z: "flow", type: "catch", scope: null, uncaught: false, x: 0, y: 0, wires: [["caught"]] },
                ...["requests", "results", "changes", "caught"].map((id) => ({ id, z: "flow", type: "helper" })),
            ],
            { conf: credentials },
        );
    }

    async function next<T = Result>(id: string): Promise<T> {
        const [msg] = (await once(helper.getNode(id), "input")) as [T];
        return msg;
    }

    async function ask(id: string, msg: Record<string, unknown>): Promise<Result["payload"]> {
        const answer = next("results");
        helper.getNode(id).receive(msg);
        return (await answer).payload;
    }

    async function shown(id: string, text: RegExp): Promise<void> {
        const node = helper.getNode(id) as unknown as { status: { args: [{ text?: string }][] } };
        for (let i = 0; i < 400; i++) {
            if (node.status.args.some(([status]) => text.test(status.text ?? ""))) return;
            await new Promise((resolve) => setTimeout(resolve, 10));
        }
        assert.fail(`${id} never showed ${String(text)}: ${JSON.stringify(node.status.args)}`);
    }

    it("take a project and a report from message to token, each once", async () => {
        await load();
        await shown("sim", /0 filed/);
        const project = { payload: FACTS, simulated: true };
        assert.equal((await ask("project", structuredClone(project))).state, "FILED");
        assert.equal((await ask("project", structuredClone(project))).state, "ALREADY");
        helper.getNode("sim").receive({ payload: "approve" });
        const report = { payload: fakeReport({ mwh: 160, simulated: true }), evidence: { root: "ab".repeat(32) } };

        const dry = await ask("dry", structuredClone(report));
        assert.deepEqual([dry.state, dry.ok, dry.mint, dry.violations], ["DRY-RUN", true, 100, []]);
        assert.match(JSON.stringify(dry.document), /evidence=abab/);
        const request = next<{ payload: string }>("requests");
        const filed = await ask("report", structuredClone(report));
        assert.match((await request).payload, /POST .*\/tag\/add_report_bnt\/blocks 200/);
        assert.deepEqual([filed.state, filed.stage, filed.reason], ["FILED", "Waiting for Verification", ""]);
        helper.getNode("sim").receive({ payload: "approve" });
        const again = await ask("report", structuredClone(report));
        assert.deepEqual([again.state, again.stage, again.minted], ["ALREADY", "Minted", 100]);
        await shown("dry", /dry run: 100 t/);
        await shown("report", /minted/);
    });

    it("tell of a change that comes by itself", async () => {
        await load({ sim: { approveS: "0.2" } });
        await shown("sim", /0 filed/);
        const changed = next("changes");
        assert.equal((await ask("project", { payload: FACTS, simulated: true })).state, "FILED");
        assert.equal((await changed).payload.stage, "Validated");
    });

    it("tell on the Catch path what keeps a document from being filed", async () => {
        await load();
        await shown("sim", /0 filed/);
        for (const [msg, code] of [
            [{ payload: { ...fakeReport({ mwh: 160 }), figures: { egMWh: "160" } } }, "CONFIG_INVALID"],
            [{ payload: "garbage" }, "CONFIG_INVALID"],
            [{ payload: fakeReport({ mwh: 160, simulated: true }) }, "GUARDIAN_PROJECT"],
        ] as const) {
            const caught = next<{ error: { code: string } }>("caught");
            helper.getNode("report").receive(msg);
            assert.equal((await caught).error.code, code);
        }
        await shown("report", /no valid project/);
    });

    it("ask for a policy that was agreed to, and for the right server", async () => {
        await load({ config: { server: "guardian", policyId: "" }, credentials: { username: "pp", password: "stand-in" } });
        await shown("sim", /0 filed/);
        const caught = next<{ error: { code: string } }>("caught");
        helper.getNode("project").receive({ payload: FACTS });
        assert.equal((await caught).error.code, "GUARDIAN_UNPINNED");
        const { desk } = helper.getNode<GuardianNode>("conf");
        const [found] = (await desk?.find(new AbortController().signal)) ?? [];
        assert.equal(found?.name, "AMS-I.D stand-in");
    });

    it("close at once while a Guardian hangs", async () => {
        await load({ sim: { fault: "hang" } });
        await shown("sim", /hang/);
        helper.getNode("project").receive({ payload: FACTS, simulated: true });
        await new Promise((resolve) => setTimeout(resolve, 100));
        const start = performance.now();
        await helper.unload();
        assert.ok(performance.now() - start < 1800, `${performance.now() - start} ms`);
    });

    for (const config of [{ url: "nowhere" }, { url: "http://user:pw@host/api" }, { server: "guardian" }, { fingerprint: "x", url: "http://127.0.0.1:1/api/v1" }]) {
        it(`show that ${JSON.stringify(config)} is wrong, and stay up`, async () => {
            await load({ config });
            assert.equal(helper.getNode<GuardianNode>("conf").desk, undefined);
            await shown("report", /check guardian/);
        });
    }

    it("send to an external data block as the example has it", async () => {
        const file = path.join(root, "examples/carbon/03 Send a report to an external data block.json");
        const flow = (JSON.parse(readFileSync(file, "utf8").replaceAll("3010", String(port))) as { id: string; type: string; payload?: string }[]).map((node) =>
            node.type === "debug" || node.type === "inject" || node.type === "comment" ? { ...node, type: "helper" } : node,
        );
        await helper.load([wlGuardian, wlExternal, wlSim].map((register) => inFolder(folder, register)), flow);
        await shown("wlextsims0000000", /0 filed/);
        const payload = JSON.parse(flow.find(({ id }) => id === "wlextindr0000000")?.payload ?? "") as unknown;
        let result = next("wlextdbg10000000");
        helper.getNode("wlextdryr0000000").receive({ payload: structuredClone(payload) });
        assert.deepEqual([(await result).payload.state, (await result).payload.violations], ["DRY-RUN", []]);
        await shown("wlextdryr0000000", /dry run: signed/);
        for (const state of ["FILED", "ALREADY"]) {
            result = next("wlextdbg20000000");
            helper.getNode("wlextsend0000000").receive({ payload: structuredClone(payload) });
            assert.equal((await result).payload.state, state);
        }
        await shown("wlextsend0000000", /received/);
    });

    it("ask for the file that signs, and refuse one that is none", async () => {
        const account = { username: "pp", password: "stand-in" };
        for (const [mrv, text] of [[undefined, /add MRV file/], ["{}", /check settings/]] as const) {
            await helper.load(
                [wlGuardian, wlExternal].map((register) => inFolder(folder, register)),
                [
                    { id: "flow", type: "tab" },
                    { id: "conf", type: "wl-guardian", server: "guardian", url: "http://127.0.0.1:1/api/v1" },
                    { id: "external", z: "flow", type: "wl-guardian-external", guardian: "conf", fields: '{"field0": "{key}"}', wires: [[], []] },
                ],
                { conf: account, ...(mrv !== undefined && { external: { mrv } }) },
            );
            await shown("external", text);
            await helper.unload();
        }
    });

    it("work as the example has them", async () => {
        const file = path.join(root, "examples/carbon/02 File a report with Guardian.json");
        const flow = (JSON.parse(readFileSync(file, "utf8").replaceAll("3010", String(port))) as { id: string; type: string; payload?: string }[]).map((node) =>
            node.type === "debug" || node.type === "inject" || node.type === "comment" ? { ...node, type: "helper" } : node,
        );
        await helper.load([wlGuardian, wlProject, wlReport, wlSim].map((register) => inFolder(folder, register)), flow);
        await shown("wlguardiansims", /0 filed/);
        const payloadOf = (id: string) => JSON.parse(flow.find((node) => node.id === id)?.payload ?? "") as unknown;
        let result = next("wlguardiandbg1");
        helper.getNode("wlguardianproj").receive({ payload: payloadOf("wlguardianinpr"), simulated: true });
        assert.equal((await result).payload.state, "FILED");
        helper.getNode("wlguardiansims").receive({ payload: "approve" });
        result = next("wlguardiandbg2");
        helper.getNode("wlguardiandryr").receive({ payload: payloadOf("wlguardianindr") });
        assert.deepEqual((await result).payload.violations, []);
        result = next("wlguardiandbg3");
        helper.getNode("wlguardianrepo").receive({ payload: payloadOf("wlguardianinrp") });
        assert.equal((await result).payload.state, "FILED");
    });
});
