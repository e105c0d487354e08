/** Files one report and says what became of it; the test kills it where it likes. */
import { createHttpClient } from "../../../dist/common/http.js";
import { GuardianClient } from "../../../dist/guardian/client.js";
import { Filer, TIMES } from "../../../dist/guardian/filer.js";
import { Filings } from "../../../dist/guardian/filings.js";
import { fakeReport } from "../../guardian/documents.js";
import { PASSWORD } from "../../guardian/rig.js";

const [, , url = "", policyId = "", fingerprint = "", folder = "", month = "0"] = process.argv;

async function main(): Promise<void> {
    const http = createHttpClient();
    const client = new GuardianClient({ url, loginBy: "username", username: "pp", password: PASSWORD }, { http, random: () => 0 });
    const filings = await Filings.open(folder);
    const filer = new Filer(client, filings, { policyId, fingerprint, rounding: "nearest" }, { ...TIMES, settleMs: 500, confirmMs: 200, pollMs: [20, 50], readBackMs: 2000 });
    const { state } = await filer.file({ kind: "report", report: fakeReport({ mwh: 160, month: Number(month) }) });
    process.stdout.write(`${state}\n`);
    await filings.close();
    http.close();
}

main().catch((error: unknown) => {
    process.stderr.write(`${String(error)}\n`);
    process.exitCode = 1;
});
