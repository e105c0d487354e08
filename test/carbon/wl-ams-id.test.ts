import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { type EventEmitter, once } from "node:events";
import { rm } from "node:fs/promises";
import type { Node } from "node-red";
import { rulesOf } from "../../dist/carbon/aggregator.js";
import type { BookStats } from "../../dist/carbon/book.js";
import type { Evidence } from "../../dist/carbon/capsule-file.js";
import { verifyReport } from "../../dist/cli/verify.js";
import type { Adjustment, Interval } from "../../dist/carbon/interval.js";
import type { Report } from "../../dist/carbon/report.js";
import wlAmsId from "../../dist/carbon/wl-ams-id.js";
import wlSite from "../../dist/common/wl-site.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import wlStore from "../../dist/store/wl-store.js";
import { helper, makeDir, removeDir } from "../node-red.js";
import { DAY, FACTOR, HOUR, MINUTE } from "./rig.js";

const place = { z: "tab", x: 0, y: 0 };
/** Midnight UTC, two whole days ago. */
const START = Math.floor(Date.now() / DAY) * DAY - 2 * DAY;
const METER = { meter: "plant/m1", ratedW: 1e6, from: START - 30 * DAY, mpeExport: 0.005, mpeImport: 0.005, calibrations: [{ at: START - 30 * DAY, until: START + 30 * DAY }] };

describe("wl-ams-id", () => {
    let folder: string;
    before(() => helper.startServer());
    after(() => helper.stopServer());
    beforeEach(async () => {
        folder = await makeDir("wl-carbon-");
    });
    afterEach(async () => {
        await helper.unload();
        await removeDir(folder);
    });

    function flow(more: object = {}): object[] {
        return [
            { id: "tab", type: "tab" },
            { id: "site", type: "wl-site", siteId: "plant", name: "Plant", ratedPowerW: 1e6 },
            { id: "store", type: "wl-store", folder },
            { id: "ams", type: "wl-ams-id", ...place, site: "site", store: "store", meters: JSON.stringify([METER]), factors: JSON.stringify([FACTOR]), calendar: "interval", ...more, wires: [["interval"], ["report"], ["adjustment"], ["answer"]] },
            ...["interval", "report", "adjustment", "answer", "caught"].map((id) => ({ id, type: "helper", ...place })),
            { id: "catch", type: "catch", ...place, wires: [["caught"]] },
        ];
    }

    const load = (more: object = {}) => helper.load([wlSite, wlStore, wlAmsId], flow(more));
    const next = async <T>(id: string) => ((await once(helper.getNode<Node & EventEmitter>(id), "input")) as [T])[0];
    const send = (msg: object) => helper.getNode("ams").receive(msg as Record<string, unknown>);

    function reading(at: number, wh: number, more: object = {}): ReadingMessage {
        return { topic: "plant/m1", payload: { ac_energy_export_wh: wh, ac_energy_import_wh: 0, ac_power_w: -1000 }, timestamp: at, reading: { site: "plant", device: "m1", class: "meter", seq: 0, quality: "good", ...more } };
    }

    async function ask<T>(command: unknown): Promise<T> {
        const answer = next<{ payload: T }>("answer");
        send({ command });
        return (await answer).payload;
    }

    async function give(from: number, to: number, more: object = {}): Promise<void> {
        for (let at = from; at <= to; at += 5 * MINUTE) send(reading(at, ((at - START) / HOUR) * 100_000, more));
        await ask("status");
    }

    it("seals what is due, sends interval and report once, and goes on after a restart without repeating them", async () => {
        await load();
        await give(START, START + DAY + HOUR);
        const interval = next<{ payload: Record<string, unknown>; interval: Interval }>("interval");
        const report = next<{ payload: Report; topic: string; evidence: Evidence }>("report");
        const answer = next<{ payload: BookStats }>("answer");
        send({ command: "check" });
        assert.equal((await interval).payload["exportWh"], 2_400_000);
        assert.equal((await interval).interval.meters[0]!.hours.length, 24);
        const { payload, topic, evidence } = await report;
        assert.deepEqual(await ask<{ ok: boolean; root: string }>({ verify: 1 }).then(({ ok, root }) => [ok, root]), [true, evidence.root]);
        assert.equal(await verifyReport([evidence.file, "--root", evidence.root, "--key", evidence.verifierKey], () => undefined), 0);
        assert.equal(topic, "plant/report");
        assert.deepEqual([payload.ready, payload.figures.credits, payload.simulated, payload.format], [true, 1, false, "wattledger.ams-i-d.report/1"]);
        assert.match(payload.software, /^@wattledger\/node-red-energy \d/);
        await answer;

        await helper.unload();
        await load();
        const adjustment = next<{ payload: Adjustment }>("adjustment");
        const repeats: unknown[] = [];
        helper.getNode<Node & EventEmitter>("interval").on("input", (msg) => repeats.push(msg));
        helper.getNode<Node & EventEmitter>("report").on("input", (msg) => repeats.push(msg));
        send(reading(START + HOUR + MINUTE, 1));
        await ask("check");
        // A register that shows less for a minute: a reset and back, so what lies around it is not claimed any more.
        assert.ok((await adjustment).payload.exportWh < 0);
        assert.ok(repeats.every((msg) => (msg as { interval?: Interval; payload: Report }).interval?.number !== 1 && (msg as { payload: Report }).payload.number !== 1), "sent again");
    });

    it("never lets simulated or estimated energy into a claim, and marks all of a trial", async () => {
        await load();
        await give(START, START + DAY + HOUR, { simulated: true });
        const interval = next<{ payload: Record<string, unknown>; interval: Interval }>("interval");
        await ask("check");
        const { exportWh, points, excludedWh, simulated } = (await interval).payload;
        assert.deepEqual([exportWh, points, excludedWh, simulated], [0, 0, 2_400_000, false]);
        await helper.unload();
        await removeDir(folder);

        await load({ allowSimulated: true });
        await give(START, START + DAY + HOUR, { simulated: true });
        const report = next<{ payload: Report }>("report");
        await ask("check");
        assert.equal((await report).payload.simulated, true);
        await helper.unload();
        await removeDir(folder);

        await load();
        await give(START, START + DAY + HOUR, { quality: "uncertain", bad: { ac_energy_export_wh: "estimated" } });
        const estimated = next<{ payload: Record<string, unknown>; interval: Interval }>("interval");
        await ask("check");
        assert.deepEqual((await estimated).interval.meters[0]!.excludedExport, { estimated: 2_400_000 });
    });

    it("counts what a device with a key measured with its signature only, and proves it", async () => {
        const { privateKey, publicKey } = generateKeyPairSync("ed25519");
        const key = publicKey.export({ type: "spki", format: "der" }).subarray(12).toString("base64");
        await load({ meters: JSON.stringify([{ ...METER, key }]) });
        for (let at = START, seq = 0; at <= START + DAY + HOUR; at += 5 * MINUTE, seq++) {
            const exportWh = Math.floor(((at - START) / HOUR) * 100_000);
            const statement = `{"at":${at},"boot":3,"exportWh":${exportWh},"importWh":0,"meter":"plant/m1","origin":"measured","seq":${seq}}`;
            // Half an hour is signed by nobody.
            const signature = seq < 100 || seq >= 106 ? sign(null, Buffer.from(statement), privateKey).toString("base64") : "AAAA";
            send(reading(at, exportWh, { boot: 3, seq, signature }));
        }
        await ask("status");
        const report = next<{ payload: Report; evidence: Evidence }>("report");
        await ask("check");
        const { payload, evidence } = await report;
        assert.equal(payload.lines.find(({ code }) => code === "doubtful")?.wh, -58_333);
        const lines: string[] = [];
        assert.equal(await verifyReport([evidence.file], (line) => lines.push(line)), 0);
        assert.ok(lines.some((line) => /^ok {4}signatures {2}\d+ device signatures are valid\.$/.test(line)), lines.join("\n"));
        await rm(evidence.file);
        const caught = next<{ error: { message: string } }>("caught");
        send({ command: { verify: 1 } });
        assert.match((await caught).error.message, /plant-1\.capsule or its proof is not in .*: put it back from a backup/);
    });

    it("previews without recording, with what is refused", async () => {
        await load({ factors: "" });
        assert.equal(await ask("preview"), null);
        await give(START, START + DAY + HOUR);
        await ask("check");
        const { format, refusals } = await ask<Report>("preview");
        assert.equal(format, "wattledger.ams-i-d.preview/1");
        assert.deepEqual(refusals.map(({ code }) => code), ["METER_SILENT", "FACTOR_MISSING"]);
        assert.equal((await ask<BookStats>("status")).reports, 0);
    });

    it("takes an invoice, and the acceptance of late data by a person", async () => {
        await load();
        await ask({ invoice: { from: START, to: START + DAY, exportWh: 2_000_000, source: "invoice 7" } });
        await give(START, START + DAY + HOUR);
        const report = next<{ payload: Report }>("report");
        await ask("check");
        const { payload } = await report;
        assert.equal(payload.lines.find(({ code }) => code === "invoice")?.wh, -400_000);
        assert.deepEqual(await ask({ report: 1 }), JSON.parse(JSON.stringify(payload)));
        assert.equal(await ask({ report: 2 }), null);
        const all = (await ask<{ number: number }[]>({ intervals: 5 })).map(({ number }) => number);
        assert.deepEqual(all, all.map((_, i) => i + 1));
        assert.deepEqual((await ask<{ number: number }[]>({ intervals: 1 })).map(({ number }) => number), all.slice(-1));
        const caught = next<{ error: { code: string } }>("caught");
        send({ command: { accept: [1], by: "someone" } });
        assert.equal((await caught).error.code, "ADJUSTMENT_UNKNOWN");
    });

    it("says what is wrong with a command, a clock and the settings, and passes over what is no meter", async () => {
        await load();
        await ask("status");
        for (const [msg, code] of [
            [{ command: "file" }, "COMMAND_INVALID"],
            [reading(Date.now() + HOUR, 1), "SAMPLE_REFUSED"],
            [reading(0, 1), "SAMPLE_REFUSED"],
            [{ payload: 7 }, "READING_INVALID"],
        ] as const) {
            const caught = next<{ error: { code: string } }>("caught");
            send(msg);
            assert.equal((await caught).error.code, code);
        }
        send({ topic: "plant/weather", payload: { irradiance_poa_w_m2: 1 } });
        assert.equal((await ask<BookStats>("status")).pendingWh, 0);
        await helper.unload();
        for (const bad of [{ meters: "[]" }, { meters: "x" }, { factors: '[{"om":1}]' }, { intervalHours: "no" }, { intervalHours: "5", calendar: "month" }]) {
            await load(bad);
            const { error } = await next<{ error: { code?: string; message: string } }>("caught");
            assert.match(error.message, /settings/);
            await helper.unload();
        }
    });

    it("takes a day, 10 points, a check every hour and whole months where nothing is set", () => {
        const site = { siteId: "p", name: "", zone: "UTC", latitude: 0, longitude: 0, currency: "EUR", ratedPowerW: 1e6 };
        const { intervalMs, minPoints, checkMs, graceMs, calendar, minTonnes, factors, acceptsUnsourced, allowSimulated } = rulesOf({ meters: '[{"meter":"p/m","ratedW":1}]' }, site, "0");
        assert.deepEqual({ intervalMs, minPoints, checkMs, graceMs, calendar, minTonnes, factors, acceptsUnsourced, allowSimulated }, { intervalMs: DAY, minPoints: 10, checkMs: HOUR, graceMs: HOUR, calendar: "month", minTonnes: 1, factors: [], acceptsUnsourced: false, allowSimulated: false });
    });

    it("imports interval, points and check from the origin's ams_config.json, and no secret", async () => {
        await load();
        const config = {
            guardian: { base_url: "https://example.org", username: "u", password: "hush-hush", tenant_id: "t" },
            ams_id_policy: { policy_id: "p", policy_tag: "Tag" },
            aggregation: { interval_hours: 12, min_data_points: 20, check_interval_minutes: 30 },
            esp32: { data_interval_seconds: 300 },
        };
        const post = (text: string) => helper.request().post("/wattledger/ams-id/import").send({ text });
        const { status, body } = (await post(JSON.stringify(config))) as { status: number; body: { fields: object; notes: string[] } };
        assert.equal(status, 200);
        assert.deepEqual(body.fields, { intervalHours: 12, minPoints: 20, checkMinutes: 30 });
        assert.doesNotMatch(JSON.stringify(body), /hush/);
        assert.ok(body.notes.some((note) => /password was not read/.test(note)));
        assert.equal(((await post("no json")) as { status: number }).status, 400);
    });
});
