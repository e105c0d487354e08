import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { parse } from "yaml";
import { Filer, TIMES } from "../../dist/guardian/filer.js";
import { Filings } from "../../dist/guardian/filings.js";
import { findPolicies } from "../../dist/guardian/policy.js";
import { GUARDIAN_FAULTS, parseGuardianFault, PROFILES, SIM_POLICY_ID, type Exchange } from "../../dist/simulate/guardian-server.js";
import { makeDir, removeDir, root } from "../node-red.js";
import { breaches, contract } from "./contract.js";
import { FACTS, fakeReport } from "./documents.js";
import { FastClock, PASSWORD, Rig } from "./rig.js";

type Json = Record<string, unknown>;

/** Guardian's own contract, where a folder with it is named by GUARDIAN_DATA or lies beside the repository. */
function swagger(version: string): Json | undefined {
    const parent = path.join(root, "..");
    const beside = readdirSync(parent).map((found) => path.join(parent, found, "reference/data/guardian"));
    const file = [process.env["GUARDIAN_DATA"], ...beside].map((folder) => path.join(folder ?? "", `swagger-${version}.yaml`)).find((found) => existsSync(found));
    return file === undefined ? undefined : (parse(readFileSync(file, "utf8")) as Json);
}

/** What a section names, such as `paths./accounts/login.post`: keys may hold slashes, but no dots. */
const sectionOf = (whole: Json, section: string) => section.split(".").reduce<unknown>((part, key) => (part as Json | undefined)?.[key], whole) as Json | undefined;

describe("the stand-in keeps to Guardian's contract", () => {
    const rig = new Rig();
    let folder: string;
    beforeEach(async () => {
        folder = await makeDir("wl-contract-");
    });
    afterEach(async () => {
        await rig.close();
        await removeDir(folder);
    });

    for (const version of ["2.14.2", "2.20.0"]) {
        const published = swagger(version);
        if (!published) continue;
        it(`as ${version} publishes it, but where the contract says why not`, () => {
            const typeOf = (schema: unknown) => (schema as { type?: string } | undefined)?.type;
            for (const [name, { section, differs, schema }] of Object.entries(contract.schemas)) {
                const stated = sectionOf(published, section[version] ?? "");
                assert.ok(stated, `${name} in ${version}`);
                if (differs === undefined) assert.deepEqual(stated, schema, name);
                const [theirs, ours] = [stated["properties"] as Json, (schema["properties"] ?? {}) as Json];
                for (const key of Object.keys(ours).filter((found) => found in theirs)) {
                    const type = typeOf(ours[key]);
                    assert.ok(type === typeOf(theirs[key]) || (differs !== undefined && Array.isArray(type)), `${name}.${key}`);
                }
            }
            let count = 0;
            for (const [route, { section, differs, open, responses }] of Object.entries(contract.routes)) {
                if (section?.[version] === undefined) {
                    assert.ok(differs !== undefined, route);
                    continue;
                }
                const operation = sectionOf(published, section[version]);
                assert.ok(operation, `${route} in ${version}`);
                count++;
                assert.equal(operation["security"] === undefined, open === true, `${route} asks for a session`);
                for (const status of Object.keys(operation["responses"] as Json)) assert.ok(status in responses || differs !== undefined, `${route} ${status}`);
                assert.ok("200" in responses);
            }
            assert.ok(count >= 10, `${count} routes`);
        });
    }

    for (const profile of PROFILES) {
        it(`in every exchange of a project and a report in ${profile}, and so does the client`, async () => {
            const exchanges: Exchange[] = [];
            const simulator = await rig.simulator({ profile, onRequest: (_, exchange) => exchanges.push(structuredClone(exchange)) });
            const clock = new FastClock();
            const client = rig.client(simulator, {}, { clock });
            const [found] = await findPolicies(client);
            const filings = await Filings.open(folder);
            try {
                const filer = new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint: found?.fingerprint ?? "", rounding: "nearest" }, TIMES, clock);
                await filer.file({ kind: "project", payload: FACTS, simulated: true });
                simulator.approveAll();
                await filer.file({ kind: "report", report: fakeReport({ mwh: 160 }) });
                simulator.approveAll();
                await filer.resume();
            } finally {
                await filings.close();
            }
            assert.ok(exchanges.length > 30);
            assert.deepEqual(exchanges.flatMap(breaches), []);
            // What the policy's form takes: the document without what the server sets and computes, and the validated project.
            const [posted, ...more] = exchanges.filter(({ method, path: where }) => method === "POST" && where.includes("add_report_bnt"));
            assert.ok(posted);
            const { document, ref, ...rest } = posted.request as { document: Json; ref: string };
            const project = simulator.policy.state.documents.find(({ type }) => type === "approved_project")?.document as { credentialSubject: Json[] };
            assert.deepEqual([more, rest, ref, Object.keys(document)], [[], {}, project.credentialSubject[0]?.["id"], ["field0", "H33", "H81", "H112"]]);

            // The check is worth nothing where it does not notice: each part of the contract that is broken must be seen.
            const good = exchanges.filter(({ path: where }) => !where.startsWith("/mirror"));
            const one = (route: RegExp) => structuredClone(good.find(({ method, path: where, status }) => status < 300 && route.test(`${method} ${where}`)) as Exchange);
            const broken: [RegExp, (exchange: Exchange) => object][] = [
                [/POST .*login/, (exchange) => ({ request: { ...(exchange.request as object), password: 5 } })],
                [/POST .*login/, (exchange) => ({ request: { password: (exchange.request as Json)["password"] } })],
                [/POST .*login/, () => ({ response: { username: "pp", role: "USER", accessToken: "x" } })],
                [/POST .*access-token/, () => ({ request: undefined })],
                [/POST .*access-token/, () => ({ response: { accessToken: null } })],
                [/POST .*access-token/, ({ status }) => ({ status: status === 200 ? 201 : 200 })],
                [/GET .policies\?/, () => ({ authorization: undefined })],
                [/GET .policies\?/, () => ({ headers: {} })],
                [/GET .policies\?/, ({ path: where }) => ({ path: `${where}&filter=x` })],
                [/GET .policies\?/, ({ response }) => ({ response: (response as Json[]).map((policy) => ({ ...policy, policyTag: undefined })).map((policy) => JSON.parse(JSON.stringify(policy)) as unknown) })],
                [/GET .policies\/\w+$/, ({ response }) => ({ response: { ...(response as object), userRoles: "PP" } })],
                [/GET .*add_report_bnt\/blocks/, ({ response }) => ({ response: { ...(response as object), id: 7 } })],
                [/GET .*report_grid_pp\/blocks/, ({ response }) => ({ response: { ...(response as object), data: "none" } })],
                [/GET .*tag\/tokens_grid$/, () => ({ response: {} })],
                [/POST .*add_report_bnt/, () => ({ request: [1] })],
                [/POST .*add_report_bnt/, () => ({ status: 202 })],
                [/POST .*add_report_bnt/, () => ({ method: "PUT" })],
                [/POST .*add_report_bnt/, ({ path: where }) => ({ path: `${where}/now` })],
                [/POST .*add_report_bnt/, () => ({ status: profile === "g220" ? 422 : 500, response: profile === "g220" ? { statusCode: 422, message: "x" } : { text: "x" } })],
            ];
            for (const [route, change] of broken) {
                const exchange = one(route);
                assert.notDeepEqual(breaches({ ...exchange, ...change(exchange) }), [], `${String(route)} ${String(change)}`);
            }
        });
    }

    it("or the test that uses it fails", async () => {
        const other = new Rig();
        const simulator = await other.simulator();
        const { policy } = simulator;
        const show = policy.show.bind(policy);
        policy.show = (user, tag) => ({ ...show(user, tag), id: 5 });
        await other.client(simulator).block(SIM_POLICY_ID, "report_grid_pp");
        await assert.rejects(other.close(), /id must be string/);
    });

    it("in what goes on beside it: sessions, pages, tags, the tree, /external", async () => {
        const simulator = await rig.simulator();
        const client = rig.client(simulator);
        const token = await client.session.token();
        const get = async (where: string, bearer = token) => {
            const response = await fetch(simulator.url + where, { headers: { Authorization: `Bearer ${bearer}` } });
            return { status: response.status, total: response.headers.get("x-total-count"), body: (await response.json()) as unknown };
        };
        assert.deepEqual(await get("/accounts/session", "bad"), { status: 200, total: null, body: null });
        assert.deepEqual(await get("/policies", "bad"), { status: 401, total: null, body: { statusCode: 401, message: "Unauthorized" } });
        const page = await get("/policies?pageIndex=1&pageSize=1");
        assert.deepEqual([page.status, page.total, (page.body as { name: string }[]).map(({ name }) => name)], [200, "2", ["MRV stand-in"]]);
        const tree = (await get(`/policies/${SIM_POLICY_ID}/blocks`)).body as { blocks: ({ tag: string } | null)[] };
        const shown = tree.blocks.flatMap((block) => block?.tag ?? []);
        assert.ok(shown.includes("add_report_bnt") && !shown.includes("sr_approve_report_btn") && tree.blocks.includes(null));
        const tag = (await get(`/policies/${SIM_POLICY_ID}/tag/sr_approve_report_btn`)).body as { id: string };
        assert.match(tag.id, /^[0-9a-f-]{36}$/);
        assert.equal((await get(`/policies/${SIM_POLICY_ID}/blocks/${tag.id}`)).status, 422);
        assert.equal((await get("/policies/unknown")).status, 404);
        const external = await fetch(`${simulator.url}/external/${SIM_POLICY_ID}/add_report_bnt`, { method: "POST", body: JSON.stringify({ owner: "did:x", policyTag: "y", document: {} }) });
        assert.deepEqual([external.status, await external.json()], [200, true]);
        assert.equal(simulator.count.reports, 0);
    });

    it("takes a report without a project, and the same twice, as Guardian does: the client must know better", async () => {
        const simulator = await rig.simulator({ chainMs: 0 });
        const client = rig.client(simulator, {}, { clock: new FastClock() });
        const { projectDocument, parseProject } = await import("../../dist/guardian/document.js");
        const document = projectDocument(parseProject(FACTS), "ab".repeat(32));
        for (let i = 0; i < 2; i++) {
            await client.act(SIM_POLICY_ID, "add_report_bnt", { document, ref: null });
            while ((await client.grid(SIM_POLICY_ID, "report_grid_pp")).length <= i) await new Promise((resolve) => setImmediate(resolve));
        }
        await assert.rejects(client.act(SIM_POLICY_ID, "add_report_bnt", { document, ref: "urn:uuid:nowhere" }), { code: "GUARDIAN_REFUSED" });
        await assert.rejects(client.act(SIM_POLICY_ID, "add_report_bnt", { document: { ...document, H112: "0" }, ref: null }), { code: "GUARDIAN_REFUSED" });
        await assert.rejects(client.act(SIM_POLICY_ID, "add_report_bnt", { document: { ...document, field0: "x".repeat(2_000_000) }, ref: null }), { code: "GUARDIAN_REFUSED" });
    });

    it("lets registry and verifier act by their buttons", async () => {
        const simulator = await rig.simulator();
        const [sr, pp, vvb] = ["sr", "pp", "vvb"].map((username) => rig.client(simulator, { username }));
        const { projectDocument, parseProject } = await import("../../dist/guardian/document.js");
        const document = projectDocument(parseProject(FACTS), "ab".repeat(32));
        const first = async (client: typeof sr, grid: string, type: string) => {
            for (;;) {
                const found = (await client!.grid(SIM_POLICY_ID, grid)).find((known) => known.type === type);
                if (found) return found;
            }
        };
        const press = async (client: typeof sr, tag: string, shown: object, status: string) => client!.act(SIM_POLICY_ID, tag, { document: { ...shown, option: { status } }, tag: "Button_0" });
        await pp!.act(SIM_POLICY_ID, "add_project_bnt", { document, ref: null });
        await press(sr, "sr_validate_project_btn", await first(sr, "project_grid_sr", "project"), "Validated");
        const approved = await first(pp, "project_grid_pp_2", "approved_project");
        await pp!.act(SIM_POLICY_ID, "add_report_bnt", { document, ref: approved });
        const report = await first(pp, "report_grid_pp", "report");
        const { options } = (await pp!.block(SIM_POLICY_ID, "assign_vvb")) as { options: { value: string }[] };
        await pp!.act(SIM_POLICY_ID, "assign_vvb", { ...report, assignedTo: options[0]?.value });
        await press(vvb, "approve_report_btn", await first(vvb, "report_grid_vvb", "report"), "Verified");
        await press(sr, "sr_approve_report_btn", await first(sr, "report_grid_sr", "approved_report"), "Minted");
        const mint = await first(pp, "tokens_grid", "mint");
        assert.match(JSON.stringify(mint.document), /"type":"MintToken"/);
        assert.equal((await first(pp, "report_grid_pp", "report")).option?.status, "Verified", "the participant's list never says minted");
    });

    it("understands every fault it names, and refuses others", async () => {
        for (const fault of GUARDIAN_FAULTS) assert.equal(parseGuardianFault(fault).fault, fault);
        for (const wrong of ["", "explode", { fault: "slow", ms: -1 }, null, 5]) assert.throws(() => parseGuardianFault(wrong), { code: "SIM_FAULT" });
    });

    it("keeps its documents over a restart", async () => {
        let saved: unknown;
        const file = { load: () => structuredClone(saved), save: (state: unknown) => (saved = structuredClone(state)) };
        const simulator = await rig.simulator({ file });
        const { projectDocument, parseProject } = await import("../../dist/guardian/document.js");
        await rig.client(simulator).act(SIM_POLICY_ID, "add_project_bnt", { document: projectDocument(parseProject(FACTS), "ab".repeat(32)), ref: null });
        const again = await rig.simulator({ file, password: PASSWORD });
        assert.ok(again.policy.state.documents.some(({ type }) => type === "project_form"));
    });
});
