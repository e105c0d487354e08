import assert from "node:assert/strict";
import { STAND_IN_ACCOUNT } from "../../dist/common/simulated.js";
import { Desk, errorStatus, statusOf } from "../../dist/guardian/desk.js";
import type { Filing } from "../../dist/guardian/filer.js";
import { parseGuardianFault, SIM_POLICY_ID } from "../../dist/simulate/guardian-server.js";
import { makeDir, removeDir } from "../node-red.js";
import { FACTS, fakeReport } from "./documents.js";
import { FastClock, Rig } from "./rig.js";

const PROJECT: Filing = { kind: "project", payload: FACTS, simulated: true };
const REPORT: Filing = { kind: "report", report: fakeReport({ mwh: 160, simulated: true }) };
const FORM = "GET tag/add_report_bnt/blocks";

describe("what a person is told", function () {
    this.timeout(20_000);
    const rig = new Rig();
    let folder: string;
    let desk: Desk;

    beforeEach(async () => {
        folder = await makeDir("wl-desk-");
    });
    afterEach(async () => {
        await desk.close();
        await rig.close();
        await removeDir(folder);
    });

    for (const [fault, kind, text, tells] of [
        [{ fault: "garbage" }, "error", "is no Guardian", /check that the address is a Guardian's API/],
        [{ fault: "null", on: FORM }, "error", "jammed", /its role is another, an earlier step is open, or the step is stuck/],
        [{ fault: "status", status: 422, message: "Block Unavailable", on: FORM }, "error", "jammed", /or the step is stuck/],
        [{ fault: "status", status: 422, message: "Invalid relationships", on: "POST add_report_bnt" }, "error", "refused", /refuses the document: Invalid relationships/],
        [{ fault: "status", status: 500, message: '[{"instancePath":"/H112"}]', on: "POST add_report_bnt" }, "error", "refused", /refuses the document/],
        [{ fault: "status", status: 451 }, "error", "accept the terms", /sign in to the Guardian portal once and accept/],
        [{ fault: "status", status: 403 }, "error", "not permitted", /check its role in the policy/],
        [{ fault: "status", status: 429, retryAfter: "60" }, "warn", "no answer yet", /fewer requests/],
        [{ fault: "status", status: 503, retryAfter: "60" }, "warn", "no answer yet", /answers 503/],
        [{ fault: "status", status: 429, on: "POST add_report_bnt" }, "warn", "waiting to send", /fewer requests/],
        [{ fault: "status", status: 503, on: "POST add_report_bnt" }, "warn", "sent, not seen yet", /the answer is lost: Guardian answers 503/],
        [{ fault: "reset-after", on: "POST add_report_bnt" }, "ok", "awaits verification", /^$/],
        [{ fault: "reset" }, "warn", "no answer yet", /connection to .* broke/],
        [{ fault: "jam" }, "error", "jammed", /The registry must restart the policy's step; then send the document again with msg.retry/],
        [{ fault: "miscalculate" }, "error", "filed, but differs", /other figures than were sent: H113.H114/],
    ] as const) {
        it(`when Guardian answers with ${JSON.stringify(fault)}: ${text}`, async () => {
            const simulator = await rig.simulator();
            const settings = { isStandIn: true, url: simulator.url, loginBy: "username", ...STAND_IN_ACCOUNT, policyId: "", fingerprint: "", rounding: "nearest", mirrorUrl: "" } as const;
            const clock = new FastClock();
            desk = new Desk(settings, folder, "desk", clock);
            const { signal } = new AbortController();
            assert.equal((await desk.file(PROJECT, signal)).state, "FILED");
            simulator.approveAll();
            simulator.fault(parseGuardianFault(fault));
            const [shown, reason] = await desk.file(REPORT, signal).then(
                (result) => [statusOf(result), result.reason] as const,
                (error: unknown) => [errorStatus(error), (error as Error).message] as const,
            );
            assert.deepEqual(shown, [kind, text]);
            assert.ok(text.length <= 20);
            assert.match(reason, tells);

            // Nothing is lost of it and nothing is there twice, once all is well.
            simulator.fault(parseGuardianFault("clear"));
            simulator.policy.user("pp").steps["new_report"] = 0;
            let state = "";
            for (let i = 0; i < 4 && !/FILED|ALREADY/.test(state); i++) {
                clock.advance(3_600_000);
                ({ state } = await desk.file(REPORT, signal, true));
            }
            assert.match(state, /FILED|ALREADY/);
            assert.equal((await desk.client.grid(SIM_POLICY_ID, "report_grid_pp")).length, 1);
        });
    }
});
