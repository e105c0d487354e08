import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { Book } from "../../dist/carbon/book.js";
import { type Evidence, keepEvidence } from "../../dist/carbon/capsule-file.js";
import { recomputeReport } from "../../dist/carbon/evidence.js";
import { verifyLedger, verifyReport } from "../../dist/cli/verify.js";
import { Ledger } from "../../dist/store/ledger.js";
import { bookRules, DAY, HOUR, START, steady } from "../carbon/rig.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir, root } from "../node-red.js";

const cli = path.join(root, "dist/cli/wattledger.js");

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    return spawnSync(process.execPath, [cli, ...args], { encoding: "utf8" });
}

describe("cli/verify", () => {
    let made: string;
    let folder: string;
    let evidence: Evidence;
    let file: string;

    before(async () => {
        made = await makeDir("wl-cli-");
        const clock = new ManualClock(START);
        const book = await Book.open({ folder: made, rules: bookRules(), clock });
        const ledger = new Ledger({ folder: path.join(made, "ledger"), origin: "wattledger/p" });
        const kept = steady(START, START + 2 * DAY + HOUR, 100_000).map((sample) => book.add(sample));
        clock.advance(200);
        await Promise.all(kept);
        clock.set(START + 2 * DAY + HOUR);
        await book.check();
        for (const number of [1, 2]) evidence = await keepEvidence(path.join(made, "evidence"), book.reportOf(number)!, book.evidence(number), recomputeReport, ledger);
        // Once more after a crash: nothing changes.
        assert.deepEqual(await keepEvidence(path.join(made, "evidence"), book.reportOf(2)!, book.evidence(2), recomputeReport, ledger), evidence);
        assert.equal((await ledger.head()).size, 2);
        const differs = { ...book.reportOf(2)!, number: 3 };
        await assert.rejects(keepEvidence(path.join(made, "evidence"), differs, book.evidence(2), recomputeReport, ledger), { code: "EVIDENCE_DIFFERS" });
        await ledger.close();
        await book.close();
    });
    after(() => removeDir(made));
    beforeEach(async () => {
        folder = await makeDir("wl-cli-");
        await cp(made, folder, { recursive: true });
        file = path.join(folder, path.relative(made, evidence.file));
    });
    afterEach(() => removeDir(folder));

    async function judge(...args: string[]): Promise<{ code: number; lines: string[] }> {
        const lines: string[] = [];
        return { code: await verifyReport(args, (line) => lines.push(line)), lines };
    }

    it("verifies a report as a program, from nothing but the capsule, the proof beside it and a key", () => {
        const { status, stdout, stderr } = run("verify-report", file, "--key", evidence.verifierKey, "--root", evidence.root);
        assert.deepEqual([status, stderr], [0, ""], stdout);
        assert.match(stdout, /^claim {7}2 t CO2e from 3183447 Wh$/m);
        assert.deepEqual(stdout.match(/^(ok|FAIL|note) +\w+/gm), ["ok    form", "ok    root", "ok    signatures", "ok    report", "ok    filed", "ok    ledger"]);
        assert.match(stdout, /\nVERIFIED\n$/);
    });

    it("takes the key from a file, and says what is not shown without root and key", async () => {
        await writeFile(path.join(folder, "key.txt"), `${evidence.verifierKey}\n`);
        assert.equal((await judge(file, "--key", path.join(folder, "key.txt"))).code, 0);
        const { code, lines } = await judge(file);
        assert.equal(code, 0);
        assert.match(lines.at(-2)!, /^note {2}not shown/);
    });

    it("refutes another root, another ledger's key, a proof of another capsule, and changed bytes", async () => {
        assert.equal((await judge(file, "--root", "0".repeat(64))).code, 1);
        const other = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        assert.equal((await judge(file, "--key", other)).code, 1);
        assert.equal((await judge(file, "--key", evidence.verifierKey, "--proof", file.replace("-2.capsule", "-1.capsule.tlog-proof"))).code, 1);
        const bytes = await readFile(file);
        for (let at = 3; at < bytes.length; at += Math.ceil(bytes.length / 25)) {
            const flipped = Buffer.from(bytes);
            flipped[at]! ^= 2;
            await writeFile(file, flipped);
            const { code, lines } = await judge(file);
            assert.equal(code, 1, `byte ${at}`);
            assert.equal(lines.at(-1), "REFUTED");
        }
    });

    it("refutes a capsule with more energy in a sample", async () => {
        const text = await readFile(file, "utf8");
        const sample = text.split("\n").findLast((line) => line.startsWith('{"at"'))!;
        await writeFile(file, text.replace(sample, sample.replace(/"exportWh":(\d+)/, (_, wh: string) => `"exportWh":${Number(wh) + 1}`)));
        const { code, lines } = await judge(file, "--key", evidence.verifierKey);
        assert.equal(code, 1);
        assert.ok(lines.some((line) => line.startsWith("FAIL  root")));
    });

    it("judges nothing without a file, a proof, a usable key or with other words", async () => {
        await rm(`${file}.tlog-proof`);
        for (const args of [[], [file, file], [path.join(folder, "none")], [folder], [file, "--key", evidence.verifierKey], [file, "--key", "garbage"], [file, "--root", "xyz"], [file, "--proof", file], [file, "--more"]]) {
            const { code, lines } = await judge(...args);
            assert.deepEqual([code, lines.at(-1)], [2, "NOT JUDGED"], args.join(" "));
        }
        const { status, stderr } = run("verify-everything");
        assert.equal(status, 2);
        assert.match(stderr, /no command "verify-everything"/);
    });

    it("prints nothing that a terminal acts on, whatever a capsule holds", async () => {
        await writeFile(file, '{"format":"wattledger.capsule/1","terms":{"\\u001b[2J":1}}\n{}\n{}\n');
        const { code, lines } = await judge(file);
        assert.equal(code, 1);
        assert.doesNotMatch(lines.join(""), /\p{Cc}/u);
    });

    it("verifies a ledger from its files, and refutes it when what was signed is not what is there", async () => {
        const ledger = path.join(folder, "ledger");
        const { status, stdout } = run("verify-ledger", ledger, "--key", evidence.verifierKey);
        assert.equal(status, 0, stdout);
        assert.match(stdout, /^ok {4}ledger {6}wattledger\/p: all 2 entries/);
        const checkpoint = path.join(ledger, "checkpoint");
        await writeFile(checkpoint, (await readFile(checkpoint, "utf8")).replace("\n2\n", "\n1\n"));
        const lines: string[] = [];
        assert.equal(await verifyLedger([ledger, "--key", evidence.verifierKey], (line) => lines.push(line)), 1);
        assert.equal(await verifyLedger([folder, "--key", evidence.verifierKey], (line) => lines.push(line)), 2);
        assert.equal(await verifyLedger([ledger], (line) => lines.push(line)), 2);
    });

    it("starts the plant without a command", () => {
        const { status, stdout } = run("--help");
        assert.equal(status, 0);
        assert.match(stdout, /Usage: wattledger \[options\]/);
        assert.match(stdout, /verify-report/);
    });
});
