import assert from "node:assert/strict";
import { createHttpClient } from "../../../dist/common/http.js";
import { GuardianClient } from "../../../dist/guardian/client.js";
import { Filer, TIMES, type Filing } from "../../../dist/guardian/filer.js";
import { Filings } from "../../../dist/guardian/filings.js";
import { readPolicy } from "../../../dist/guardian/policy.js";
import { parseGuardianFault, SIM_POLICY_ID, type GuardianSimulator, type Profile } from "../../../dist/simulate/guardian-server.js";
import { makeDir, removeDir } from "../../node-red.js";
import { FACTS, fakeReport } from "../../guardian/documents.js";
import { Reaper } from "../../guardian/reaper.js";
import { FastClock, PASSWORD, Rig } from "../../guardian/rig.js";

describe("a document is filed exactly once", function () {
    this.timeout(120_000);
    const rig = new Rig();
    let folder: string;
    let clock: FastClock;
    let simulator: GuardianSimulator;
    let fingerprint: string;
    let count = 0;

    async function begin(profile: Profile): Promise<void> {
        simulator = await rig.simulator({ profile });
        const client = rig.client(simulator, {}, { clock });
        ({ fingerprint } = await readPolicy(client, SIM_POLICY_ID));
        const filings = await Filings.open(folder);
        try {
            const filer = new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, TIMES, clock);
            assert.equal((await filer.file({ kind: "project", payload: FACTS, simulated: false })).state, "FILED");
        } finally {
            await filings.close();
        }
        simulator.approveAll();
    }

    beforeEach(async () => {
        folder = await makeDir("wl-once-");
        clock = new FastClock();
    });
    afterEach(async () => {
        await rig.close();
        await removeDir(folder);
    });

    /** Another period each time, so that one stand-in serves many runs. */
    const next = (): Filing => ({ kind: "report", report: fakeReport({ mwh: 160, month: count++ }) });
    const sent = () => simulator.policy.state.documents.filter(({ type }) => type === "report_form").length;

    /** One life of the program; `life` may end it anywhere. */
    async function live(life: Reaper | undefined, work: (filer: Filer) => Promise<unknown>): Promise<void> {
        const filings = await Filings.open(folder);
        const plain = createHttpClient();
        const http = life ? life.http(plain) : plain;
        const watched = life ? life.filings(filings) : filings;
        const client = new GuardianClient({ url: simulator.url, loginBy: "username", username: "pp", password: PASSWORD }, { http, clock, random: () => 0, timeoutMs: 100 });
        try {
            await work(new Filer(client, watched, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, TIMES, clock));
        } catch (error) {
            if (!life?.dead) throw error;
        } finally {
            plain.close();
            await filings.close();
        }
    }

    /** Starts again and again, hours apart, until it is filed. */
    async function settle(filing: Filing): Promise<boolean> {
        for (let start = 0; start < 6; start++) {
            const states: string[] = [];
            await live(undefined, async (filer) => {
                await filer.resume();
                states.push((await filer.file(filing)).state);
            });
            if (states.some((state) => state === "FILED" || state === "ALREADY")) return true;
            clock.advance(TIMES.settleMs / 2);
        }
        return false;
    }

    for (const profile of ["g220", "g3x"] as const) {
        for (const after of [false, true]) {
            it(`killed ${after ? "after" : "before"} each request and each write (${profile})`, async () => {
                await begin(profile);
                for (let nth = 0; ; nth++) {
                    const [filing, before] = [next(), sent()];
                    const life = new Reaper(nth, after);
                    await live(life, (filer) => filer.file(filing));
                    assert.ok(sent() - before <= 1);
                    assert.ok(await settle(filing), `point ${nth}`);
                    assert.equal(sent() - before, 1, `point ${nth}`);
                    if (!life.dead) {
                        assert.ok(nth > 14, `only ${nth} points`);
                        break;
                    }
                }
            });
        }
    }

    for (const fault of ["reset", "reset-after", "hang", "hang-after", "status", "null", "garbage", "truncate"] as const) {
        it(`though any one request meets ${fault}`, async () => {
            await begin("g3x");
            for (let nth = 0; nth < 18; nth++) {
                const [filing, before] = [next(), sent()];
                simulator.fault(parseGuardianFault({ fault, skip: nth, times: 1 }));
                await live(undefined, (filer) => filer.file(filing).catch(() => undefined));
                assert.ok(sent() - before <= 1, `request ${nth}`);
                simulator.fault(parseGuardianFault("clear"));
                assert.ok(await settle(filing), `request ${nth}`);
                assert.equal(sent() - before, 1, `request ${nth}`);
            }
        });
    }

    for (const fault of ["reset-after", "hang-after", "garbage"] as const) {
        it(`though every answer to the form is lost by ${fault}, and the program is killed while it looks`, async () => {
            await begin("g3x");
            for (const nth of [10, 11, 12, 14]) {
                const [filing, before] = [next(), sent()];
                simulator.fault(parseGuardianFault({ fault, on: "POST add_report_bnt" }));
                await live(new Reaper(nth, true), (filer) => filer.file(filing));
                assert.ok(await settle(filing), `point ${nth}`);
                assert.equal(sent() - before, 1);
                simulator.fault(parseGuardianFault("clear"));
            }
        });
    }

    it("and sent again only when it had its time, and two looks did not find it", async () => {
        await begin("g3x");
        const [filing, before] = [next(), sent()];
        simulator.fault(parseGuardianFault({ fault: "reset", on: "POST add_report_bnt", times: 1 }));
        const states: string[] = [];
        const posts: number[] = [];
        await live(undefined, async (filer) => {
            states.push((await filer.file(filing)).state);
            for (const ms of [TIMES.settleMs / 2, TIMES.settleMs / 2, TIMES.confirmMs / 2, TIMES.confirmMs / 2]) {
                clock.advance(ms);
                states.push((await filer.file(filing)).state);
                posts.push(sent() - before);
            }
        });
        assert.deepEqual(states, ["UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN", "FILED"]);
        assert.deepEqual(posts, [0, 0, 0, 1]);
    });
});
