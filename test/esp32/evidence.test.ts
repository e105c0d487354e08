import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { Readable } from "node:stream";
import { Book } from "../../dist/carbon/book.js";
import { capsuleLines, isSigned, statementOf, verifyCapsule } from "../../dist/carbon/capsule.js";
import { recomputeReport } from "../../dist/carbon/evidence.js";
import { sampleOf } from "../../dist/carbon/settlement.js";
import { ManualClock } from "../common/manual-clock.js";
import { bookRules, DAY, HOUR, meterRecord, START, steady } from "../carbon/rig.js";
import { makeDir, removeDir } from "../node-red.js";
import { IngestRig } from "./rig.js";

describe("the signature of a device", () => {
    it("goes from the message through ingest into the evidence of a report, where any changed value shows", async () => {
        const rig = new IngestRig();
        const folder = await makeDir("wl-esp32-");
        const { publicKey, privateKey } = generateKeyPairSync("ed25519");
        const key = publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("base64");
        const record = meterRecord({ meter: "home/esp1", key });
        const clock = new ManualClock(START);
        const book = await Book.open({ folder, rules: bookRules({ meters: [record] }), clock });
        try {
            await rig.open();
            // What a device with a clock sends: several samples a message, each signed with the message's number.
            const measured = steady(START, START + DAY + HOUR, 100_000, 500, { meter: "home/esp1" });
            for (let from = 0, seq = 1; from < measured.length; from += 100, seq++) {
                const s = measured.slice(from, from + 100).map((sample) => {
                    const said = statementOf({ ...sample, boot: 7, seq });
                    const { at, exportWh, importWh } = sample;
                    return { ts: at, ac_energy_export_wh: exportWh, ac_energy_import_wh: importWh, sig: sign(null, Buffer.from(said), privateKey).toString("base64") };
                });
                const { status, body } = await rig.post({ v: 1, id: "esp1", boot: 7, seq, up: 1000, class: "meter", s });
                assert.deepEqual([status, body["accepted"]], [200, s.length]);
            }
            const readings = await rig.read(measured.length);
            const samples = readings.map((reading) => {
                const sample = sampleOf(reading, Date.now());
                if (typeof sample === "string") assert.fail(sample);
                return sample;
            });
            assert.ok(samples.every((sample) => isSigned(sample, key)));
            assert.ok(!isSigned({ ...samples[5]!, exportWh: samples[5]!.exportWh! + 1 }, key));
            assert.ok(!isSigned({ ...samples[5]!, seq: 2 }, key));

            const kept = samples.map((sample) => book.add(sample));
            clock.advance(200);
            await Promise.all(kept);
            clock.set(START + DAY + 2 * HOUR);
            await book.check();
            const evidence = book.evidence(1);
            // A pause in the making of a long one is no line.
            const lines = [...capsuleLines(evidence.terms, evidence.samples, recomputeReport)].filter((line) => line !== undefined);
            const { ok, findings } = await verifyCapsule(Readable.from([Buffer.from(`${lines.join("\n")}\n`)]), recomputeReport);
            assert.ok(ok, JSON.stringify(findings));
            assert.match(findings.find(({ check }) => check === "signatures")!.text, new RegExp(`^${lines.length - 3} device signatures are valid`));
        } finally {
            await book.close();
            await rig.close();
            await removeDir(folder);
        }
    });
});
