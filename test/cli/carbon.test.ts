import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { Book } from "../../dist/carbon/book.js";
import { carbon } from "../../dist/cli/carbon.js";
import { acquireLock } from "../../dist/store/lock.js";
import { bookRules, DAY, HOUR, START, steady } from "../carbon/rig.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir, root } from "../node-red.js";

/** As the origin ships it, with samples far apart, so that a month is few of them. */
const ORIGIN = {
    guardian: { base_url: "https://guardianservice.app/api/v1", username: "your_username", password: "hush-hush", tenant_id: "your_tenant_id" },
    ams_id_policy: { policy_id: "68d69341152381fe552b21ec", policy_tag: "Tag_1758892814008", project_schema_id: "#a", monitoring_report_schema_id: "#b" },
    aggregation: { interval_hours: 24, min_data_points: 10, check_interval_minutes: 60 },
    esp32: { data_interval_seconds: 3600, mrv_sender_url: "http://localhost:3005" },
};

describe("cli/carbon", function () {
    this.timeout(60_000);
    let folder: string;

    beforeEach(async () => {
        folder = await makeDir("wl-cli-");
    });
    afterEach(() => removeDir(folder));

    async function run(...args: string[]): Promise<{ code: number; text: string; lines: string[] }> {
        const lines: string[] = [];
        const code = await carbon(args, (line) => lines.push(line));
        return { code, text: lines.join("\n"), lines };
    }

    async function config(changes: object): Promise<string> {
        const file = path.join(folder, "ams_config.json");
        await writeFile(file, JSON.stringify({ ...ORIGIN, ...changes }));
        return file;
    }

    it("goes all the way from devices to the mint that was predicted, and leaves nothing behind", async () => {
        const { status, stdout, stderr } = spawnSync(process.execPath, [path.join(root, "dist/cli/wattledger.js"), "carbon", "--test", "--config", await config({})], { encoding: "utf8", env: { ...process.env, TMPDIR: folder } });
        assert.deepEqual([status, stderr], [0, ""], stdout);
        assert.deepEqual(stdout.match(/^(ok|FAIL) +(\w+ ?\w*)/gm)?.map((step) => step.replace(/ +/, " ").trim()), ["ok configuration", "ok Guardian", "ok devices", "ok aggregation", "ok evidence", "ok project", "ok dry run", "ok report", "ok mint"]);
        const [, predicted] = /predicted mint (\d+)/.exec(stdout)!;
        assert.ok(Number(predicted) >= 10);
        assert.match(stdout, new RegExp(`minted: ${predicted} credits, as predicted`));
        for (const figure of ["MWh net", "tCO2e, ", "capacity factor", "data collection rate 100.0 %", "coverage", "import (import of trial/esp32-1)", "carried to the next report"]) assert.ok(stdout.includes(figure), figure);
        for (const key of ["base_url", "username", "password", "tenant_id", "policy_id", "policy_tag", "project_schema_id", "monitoring_report_schema_id", "data_interval_seconds", "mrv_sender_url"]) assert.match(stdout, new RegExp(`^ +${key} (was not read:|belongs in|is) ?`, "m"));
        assert.doesNotMatch(stdout, /hush/);
        assert.match(stdout, /\nPASSED\n$/);
        // The same month gives the same capsule, to the byte.
        const rootOf = (text: string) => /root ([0-9a-f]{64})/.exec(text)![1];
        assert.equal(rootOf((await run("--test", "--config", await config({}))).text), rootOf(stdout));
        assert.deepEqual(await readdir(folder), ["ams_config.json"]);
    });

    it("fails where too little comes together, and says at which step", async () => {
        const { code, lines } = await run("--test", "--config", await config({ aggregation: { min_data_points: 1000 } }));
        assert.equal(code, 1);
        assert.match(lines.at(-1)!, /^FAILED at aggregation$/);
    });

    it("shows what would be filed of the trial, with the file's own factor", async () => {
        const factors = [{ om: 0.6, bm: 0.4, source: "a study", vintage: "2020", fileSha256: "ab".repeat(32) }];
        const { code, text } = await run("--dry-run", "--config", await config({ factors, project: { id: "ignored", organisation: "Sunny Field" } }));
        assert.equal(code, 0, text);
        assert.match(text, /MWh x 0\.5(5|49999\d*) t/);
        assert.match(text, /"field9": "Sunny Field"/);
        const document = JSON.parse(/^document +(\{.*\n\})$/ms.exec(text)![1]!) as { H33: { H40: number } };
        assert.equal(document.H33.H40, Number(/([\d.]+) MWh claimed/.exec(text)![1]));
        assert.match(text, /^mint +\d+ predicted$/m);
        assert.match(text, /SIMULATED energy/);
        assert.match(text, /NOTHING FILED; it could be$/);
    });

    it("shows what a book has come to, and leaves it as it is", async () => {
        const clock = new ManualClock(START);
        const book = await Book.open({ folder: path.join(folder, "carbon"), rules: bookRules({ calendar: "month" }), clock });
        const kept = steady(START, START + 2 * DAY + HOUR, 100_000).map((sample) => book.add(sample));
        clock.advance(200);
        await Promise.all(kept);
        clock.set(START + 2 * DAY + HOUR);
        await book.check();
        await book.close();
        const file = path.join(folder, "carbon/carbon-p.db");
        const before = [await readFile(file), (await readdir(path.dirname(file))).join()];

        const unfactored = await run("--dry-run", "--store", folder);
        assert.equal(unfactored.code, 1);
        assert.match(unfactored.text, /refused +No emission factor/);

        const factors = [{ om: 0.729, bm: 0.326, source: "a study", vintage: "2021", fileSha256: "ab".repeat(32) }];
        const { code, text } = await run("--dry-run", "--store", folder, "--config", await config({ factors }));
        assert.equal(code, 0, text);
        assert.match(text, /energy 4\.800 MWh exported/);
        assert.match(text, /^mint +3 predicted$/m);
        assert.match(text, /facts are placeholders/);
        assert.doesNotMatch(text, /SIMULATED/);
        assert.deepEqual([await readFile(file), (await readdir(path.dirname(file))).join()], before);

        await cp(file, path.join(folder, "carbon/carbon-q.db"));
        assert.match((await run("--dry-run", "--store", folder)).text, /books of p, q: name one/);
        const lock = await acquireLock(`${file}.owner`);
        const busy = await run("--dry-run", "--store", folder, "--config", await config({ project: { id: "p" } }));
        await lock.release();
        assert.deepEqual([busy.code, /is in use: stop Node-RED first/.test(busy.text)], [2, true], busy.text);
    });

    const refusals: [string[], RegExp][] = [
        [[], /Give --test or --dry-run/],
        [["--test", "--dry-run"], /Give --test or --dry-run/],
        [["--test", "--store", "x"], /--store goes with --dry-run/],
        [["--test", "--config", "/nowhere.json"], /no such file/],
        [["--test", "--config", path.join(root, "README.md")], /no JSON/],
        [["--dry-run", "--store", path.join(root, "nodes")], /no book of a wl-ams-id/],
        [["--more"], /Unknown option/],
    ];
    for (const [args, said] of refusals) {
        it(`tries nothing with ${args.join(" ") || "nothing"}`, async () => {
            const { code, text } = await run(...args);
            assert.equal(code, 2);
            assert.match(text, said);
        });
    }
});
