import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { compileFunction } from "node:vm";
import { root } from "../node-red.js";

interface FlowNode {
    id: string;
    type: string;
    func?: string;
    z?: string;
    links?: string[];
    scope?: string[];
    wires?: string[][];
    [key: string]: unknown;
}
const flow = JSON.parse(readFileSync(path.join(root, "dist/flows/carbon.json"), "utf8")) as FlowNode[];
const ENV: Record<string, string> = { WL_SAMPLE_S: "300", WL_SITE: "demo", WL_SITE_NAME: "Demo", WL_LATITUDE: "33", WL_LONGITUDE: "-7", WL_RATED_POWER_W: "500000", WL_FACTORS: '[{"om":0.729,"bm":0.326,"source":"a study","vintage":"2021"}]' };

/** A function node as Node-RED runs it, with a clock of our own. */
class FunctionNode {
    now = Date.UTC(2026, 5, 1, 12);
    private readonly kept = new Map<string, unknown>();
    private readonly run: (...given: unknown[]) => unknown;

    readonly said: string[] = [];

    constructor(id: string, private readonly more: Record<string, string> = {}) {
        this.run = compileFunction(flow.find((node) => node.id === id)!.func!, ["msg", "context", "env", "Date", "node"]) as typeof this.run;
    }

    send(msg: object): unknown {
        const context = { get: (key: string) => this.kept.get(key), set: (key: string, value: unknown) => void this.kept.set(key, value) };
        const date = Object.assign(function () {
            return new Date(Date.UTC(2026, 5, 1));
        }, { now: () => this.now, parse: (text: string) => Date.parse(text) });
        return this.run(msg, context, { get: (name: string) => this.more[name] ?? ENV[name] }, date, { error: (text: string) => void this.said.push(text) });
    }
}

interface Panel {
    title: string;
    level: string;
    state: string;
    rows: [string, string][];
    problems: string[];
    next?: string;
    verdict?: { ok?: boolean; busy?: boolean };
}

class Page extends FunctionNode {
    constructor() {
        super("carbon-state");
    }

    show() {
        const [tiles, panel, deductions, intervals, devices, asked] = this.send({ topic: "tick" }) as [{ payload: { id: string; value: string; note: string }[] }, { payload: Panel }, { payload: { lines: object[] } }, { payload: { n: number }[] }, { payload: { device: string; level: string; state: string; quality: string }[] }, { command: object } | null];
        return { tiles: Object.fromEntries(tiles.payload.map((tile) => [tile.id, tile])), panel: panel.payload, deductions: deductions.payload, intervals: intervals.payload, devices: devices.payload, asked };
    }
}

const report = {
    number: 3,
    period: { from: "2026-05-30T00:00:00Z", to: "2026-05-31T00:00:00Z", fromMs: Date.UTC(2026, 4, 30), toMs: Date.UTC(2026, 4, 31) },
    simulated: true,
    factor: { om: 0.729, bm: 0.326, wOm: 0.75, wBm: 0.25, sourced: false },
    figures: { grossExportWh: 2_000_000, egMWh: 1.591724, reductionT: 1.000001, credits: 1, capacityFactor: 0.166, coverage: 0.98, points: 432 },
    meters: [{}, {}, {}],
    lines: [{ code: "import", meter: "demo/a", direction: "import", wh: -1000, beforeWh: 2_000_000, afterWh: 1_999_000, basis: "taken from the grid" }],
    refusals: [],
};
const policy = { name: "AMS-I.D", status: "PUBLISH" };

describe("the carbon page's state", () => {
    let page: Page;
    beforeEach(() => {
        page = new Page();
    });

    it("shows what it does not know as a dash, never as 0", () => {
        const { tiles, panel, asked } = page.show();
        for (const id of ["energy", "reduction", "credits", "claimed", "pending", "capacity", "rate", "coverage"]) assert.equal(tiles[id]!.value, "–", id);
        assert.deepEqual([panel.title, panel.state, asked], ["No report yet", "waiting for whole tonnes", null]);
    });

    it("reckons total, reduction and collection rate from what is claimed and pending", () => {
        page.send({ topic: "status", payload: { claimedWh: 8_000_000, pendingWh: 1_500_000, credits: 5, reports: 3, waiting: 0 } });
        page.send({ topic: "demo/report", payload: report, evidence: { root: "ab" } });
        const { tiles, deductions } = page.show();
        assert.deepEqual(["energy", "reduction", "credits", "claimed", "pending"].map((id) => tiles[id]!.value), ["9.500", "5.968", "5", "8,000,000", "1,500,000"]);
        assert.deepEqual(["capacity", "rate", "coverage"].map((id) => tiles[id]!.value), ["16.6", "50.0", "98.0"]);
        assert.match(tiles["rate"]!.note, /432 of 864 samples/);
        assert.match(tiles["reduction"]!.note, /not fully sourced/);
        assert.equal(deductions.lines.length, 1);
    });

    it("tells a report that could be filed from one that would be refused, and why", () => {
        page.send({ payload: report, evidence: { root: "ab" } });
        assert.equal(page.show().panel.level, "doubt");
        page.send({ payload: { kind: "report", state: "DRY-RUN", ok: true, mint: 1, violations: [], policy } });
        const filed = page.show().panel;
        assert.deepEqual([filed.level, filed.rows.find(([name]) => name === "Credits")?.[1]], ["good", "1, the policy would mint 1"]);
        page.send({ payload: { kind: "report", state: "DRY-RUN", ok: false, violations: [{ path: "H112", problem: "is missing" }], policy } });
        const refused = page.show().panel;
        assert.deepEqual([refused.level, refused.problems], ["bad", ["H112 is missing"]]);
        page.send({ topic: "preview", payload: { ...report, refusals: [{ code: "BELOW_MINIMUM", text: "0 t so far" }, { code: "METER_SILENT", text: "No sample of a" }] } });
        const { next, problems } = page.show().panel;
        assert.deepEqual([next, problems.at(-1)], ["0 t so far", "Next report: No sample of a"]);
    });

    it("asks once more for a report that has no dry run: after a restart, or where Guardian gave no answer", () => {
        page.send({ topic: "status", payload: { claimedWh: 1, pendingWh: 0, credits: 1, reports: 7, waiting: 0 } });
        assert.equal(page.show().asked, null);
        page.now += 11_000;
        assert.deepEqual(page.show().asked?.command, { report: 7 });
        page.now += 2000;
        assert.equal(page.show().asked, null);
        page.send({ topic: "report", payload: { ...report, number: 7 } });
        page.send({ payload: { kind: "report", ok: true, mint: 1, violations: [], policy } });
        page.now += 60_000;
        assert.equal(page.show().asked, null);
        assert.equal(page.show().panel.title, "Report 7");
    });

    it("has the last report verified, and shows an error instead of waiting for ever", () => {
        assert.equal(page.send({ topic: "ask verify" }), undefined);
        page.send({ payload: report, evidence: { root: "ab" } });
        const asked = page.send({ topic: "ask verify" }) as (object | null)[];
        assert.deepEqual(asked.at(-1), { topic: "verify", command: { verify: 3 } });
        assert.equal(page.show().panel.verdict?.busy, true);
        page.send({ topic: "verify", error: { message: "3.capsule is not there", source: { name: "ams-id" } } });
        assert.equal(page.show().panel.verdict, undefined);
        assert.deepEqual(page.show().panel.problems, ["ams-id: 3.capsule is not there"]);
        page.send({ topic: "verify", payload: { ok: false, findings: [] } });
        assert.equal(page.show().panel.verdict?.ok, false);
    });

    it("shows each device as it was heard last, and one that fell silent", () => {
        const read = (device: string, at: number, w: number) => page.send({ timestamp: at, payload: { ac_power_w: w }, reading: { site: "demo", device, class: "meter", seq: 1, quality: "good", simulated: true } });
        read("sim-10", page.now, -25_000);
        read("sim-9", page.now, 100);
        read("sim-9", page.now - 60_000, -7000);
        assert.deepEqual(page.show().devices.map(({ device, state, level }) => [device, state, level]), [["sim-9", "0.1 kW in", "good"], ["sim-10", "25.0 kW out", "good"]]);
        page.now += 2.6 * 300_000;
        assert.deepEqual(page.show().devices.map(({ level }) => level), ["bad", "bad"]);
    });

    it("keeps the last two weeks of intervals, each once", () => {
        for (let number = 1; number <= 20; number++) {
            for (let again = 0; again < 2; again++) page.send({ interval: {}, payload: { number, from: "2026-05-30T12:00:00Z", netWh: number * 1000, coverage: 1, points: 100, excludedWh: 0 } });
        }
        assert.deepEqual(page.show().intervals.map(({ n }) => n), Array.from({ length: 14 }, (_, i) => 20 - i));
    });

    it("knows intervals and devices again after a restart, and prefers what it heard since", () => {
        const interval = (number: number) => ({ number, from: "2026-05-30T00:00:00Z", netWh: 1, coverage: 1, points: 1, excludedWh: 0 });
        page.send({ interval: {}, payload: interval(3) });
        page.send({ topic: "intervals", payload: [interval(1), interval(2)] });
        assert.deepEqual(page.show().intervals.map(({ n }) => n), [3, 2, 1]);
        const reading = (device: string) => ({ site: "demo", device, class: "meter", seq: 1, quality: "good" });
        page.send({ timestamp: page.now, payload: { ac_power_w: -5000 }, reading: reading("a") });
        const old = page.now - 3_600_000;
        page.send({ topic: "latest", payload: ["a", "b"].map((device) => ({ payload: { ac_power_w: 1 }, timestamp: old, reading: reading(device) })) });
        assert.deepEqual(page.show().devices.map(({ device, state }) => [device, state]), [["a", "5.0 kW out"], ["b", "silent"]]);
    });
});

describe("the carbon flow", () => {
    it("has a check made once the past has come, and no more often than every 15 s", () => {
        const due = new FunctionNode("carbon-due");
        const at = (ms: number) => due.send({ payload: { fleet_time: new Date(due.now - ms).toISOString() } });
        assert.equal(at(3_600_000), null);
        assert.deepEqual(at(300_000), { topic: "check", command: "check" });
        assert.equal(at(300_000), null);
        due.now += 15_000;
        assert.notEqual(at(300_000), null);
    });

    it("files the simulated project with the reports' factor, marked so that no real registry takes it", () => {
        const { payload, simulated } = new FunctionNode("carbon-project").send({}) as { payload: { id: string; factor: object }; simulated: boolean };
        assert.deepEqual([simulated, payload.id, payload.factor], [true, "demo", { om: 0.729, bm: 0.326, source: "a study", vintage: "2021" }]);
    });

    it("takes a single factor and parts of the project, and says which of them it cannot read", () => {
        const project = (env: Record<string, string>) => {
            const node = new FunctionNode("carbon-project", env);
            const sent = node.send({}) as { payload: { factor: object; country: string; organisation: string } } | undefined;
            return { payload: sent?.payload, said: node.said.join() };
        };
        const { payload } = project({ WL_FACTORS: '{"om":0.5,"bm":0.4}', WL_PROJECT: '{"country":"Spain"}' });
        assert.deepEqual([payload?.factor, payload?.country, payload?.organisation], [{ om: 0.5, bm: 0.4, source: "not stated", vintage: "2026" }, "Spain", "Demo"]);
        for (const text of ["[]", "5", "[null]", "no json"]) assert.match(project({ WL_FACTORS: text }).said, /^WL_FACTORS must be a list of emission factors/, text);
        for (const text of ["5", "[1]", "null", "{no json"]) assert.match(project({ WL_PROJECT: text }).said, /^WL_PROJECT must be an object in JSON/, text);
    });

    it("files nothing with a real Guardian: the only node in file mode gets that project alone", () => {
        assert.deepEqual(flow.filter((node) => node["mode"] === "file").map(({ id }) => id), ["carbon-project-file"]);
        assert.deepEqual(flow.filter(({ wires }) => wires?.flat().includes("carbon-project-file")).map(({ id }) => id), ["carbon-project"]);
    });

    it("refers to nothing outside itself, names the versions it needs, and carries no secret", () => {
        const ids = new Set(flow.map(({ id }) => id));
        assert.equal(ids.size, flow.length);
        for (const { id, wires, z, links, scope } of flow) {
            for (const to of [...(wires?.flat() ?? []), ...(links ?? []), ...(scope ?? []), ...(z === undefined ? [] : [z])]) assert.ok(ids.has(to), `${id} -> ${to}`);
        }
        const { version, devDependencies } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { version: string; devDependencies: Record<string, string> };
        const { modules } = flow.find(({ type }) => type === "global-config") as unknown as { modules: object };
        assert.deepEqual(modules, { "@wattledger/node-red-energy": version, "@flowfuse/node-red-dashboard": devDependencies["@flowfuse/node-red-dashboard"] });
        const text = JSON.stringify(flow);
        assert.doesNotMatch(text, /"(password|token|username|credentials)":/);
        assert.deepEqual([...new Set(text.match(/\b\d+\.\d+\.\d+\.\d+\b/g))], ["127.0.0.1"]);
    });
});
