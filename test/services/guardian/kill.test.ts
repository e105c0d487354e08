import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Filer, TIMES } from "../../../dist/guardian/filer.js";
import { Filings } from "../../../dist/guardian/filings.js";
import { readPolicy } from "../../../dist/guardian/policy.js";
import { SIM_POLICY_ID } from "../../../dist/simulate/guardian-server.js";
import { FACTS } from "../../guardian/documents.js";
import { FastClock, Rig } from "../../guardian/rig.js";
import { makeDir, removeDir } from "../../node-red.js";

describe("a filing killed with SIGKILL", function () {
    this.timeout(180_000);
    const rig = new Rig();
    let folder: string;
    before(async () => {
        folder = await makeDir("wl-kill-");
    });
    after(async () => {
        await rig.close();
        await removeDir(folder);
    });

    it("at any request, carried out but unanswered, is at Guardian once after a restart", async () => {
        let onRequest = (_line: string): void => undefined;
        const simulator = await rig.simulator({ onRequest: (line) => onRequest(line) });
        const clock = new FastClock();
        const client = rig.client(simulator, {}, { clock });
        const { fingerprint } = await readPolicy(client, SIM_POLICY_ID);
        const filings = await Filings.open(folder);
        await new Filer(client, filings, { policyId: SIM_POLICY_ID, fingerprint, rounding: "nearest" }, TIMES, clock).file({ kind: "project", payload: FACTS, simulated: false });
        await filings.close();
        simulator.approveAll();
        const sent = () => simulator.policy.state.documents.filter(({ type }) => type === "report_form").length;

        /** Runs the program; kills it as its nth request has been carried out, before the answer is on its way. */
        const run = async (month: number, killAt: number): Promise<{ killed: boolean; state: string }> => {
            const child = spawn(process.execPath, [path.join(__dirname, "kill-child.js"), simulator.url, SIM_POLICY_ID, fingerprint, folder, String(month)], { stdio: ["ignore", "pipe", "inherit"] });
            let state = "";
            let seen = 0;
            let killed = false;
            child.stdout.on("data", (text) => (state += String(text)));
            onRequest = () => {
                if (seen++ !== killAt) return;
                killed = true;
                child.kill("SIGKILL");
            };
            await once(child, "exit");
            onRequest = () => undefined;
            return { killed, state: state.trim() };
        };

        for (let nth = 0; ; nth++) {
            const before = sent();
            const { killed } = await run(nth, nth);
            assert.ok(sent() - before <= 1);
            let state = "";
            for (let i = 0; i < 8 && !/FILED|ALREADY/.test(state); i++) {
                if (i > 0) await sleep(400);
                ({ state } = await run(nth, Infinity));
            }
            assert.match(state, /FILED|ALREADY/, `request ${nth}`);
            assert.equal(sent() - before, 1, `request ${nth}`);
            if (!killed) {
                assert.ok(nth > 10);
                break;
            }
        }
    });
});
