import { readFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { type AmsConfig, readAmsConfig } from "../carbon/ams-config.js";
import { judgeCapsule } from "../carbon/capsule-file.js";
import { recomputeReport } from "../carbon/evidence.js";
import type { Factor } from "../carbon/factor.js";
import type { Report } from "../carbon/report.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import type { FilingResult, Preview } from "../guardian/filer.js";
import { parseVerifierKey } from "../store/checkpoint.js";
import { previewOf } from "./kept-book.js";
import { PERIOD, SITE, Trial } from "./trial.js";
import type { ExitCode, Print } from "./verify.js";

const CARBON_HELP = `wattledger carbon --test [--config FILE]
  The whole way in ${PERIOD.name}, in seconds: simulated ESP32 devices, aggregation, evidence, project and report filed with a stand-in
  for Guardian on this machine, approved, minted. Nothing leaves the machine, nothing stays on it.

wattledger carbon --dry-run [--config FILE] [--store FOLDER]
  What would be filed, and what the policy would make of it; files nothing.
  --config FILE    an ams_config.json; it may hold "meters", "factors" and "project" as wl-ams-id and wl-guardian-project take them
  --store FOLDER   the folder of a wl-store, with the book of a wl-ams-id; without it the trial's month is shown

Exit code: 0 it works, or could be filed; 1 it does not, or would be refused; 2 nothing was tried.`;

/** Without a record of one's own: no file stands behind it, which a trial says and a report would refuse. */
const TRIAL_FACTOR = { om: 0.729, bm: 0.326, source: "UNFCCC IFI default grid factors 2021; TOOL07 default build margin", vintage: "2021" };
const EMPTY: AmsConfig = { fields: {}, guardian: {}, elsewhere: [], notes: [] };
/** Where the file names none, s. */
const SAMPLE_S = 300;
const LEAST_SAMPLE_S = 60;

/** `wattledger carbon --test` and `--dry-run`. */
export async function carbon(args: readonly string[], print: Print): Promise<ExitCode> {
    try {
        const { test, "dry-run": isDry, config: file, store } = readArguments(args);
        if (test === isDry) throw new WattError("USAGE", "Give --test or --dry-run.");
        if (test && store !== undefined) throw new WattError("USAGE", "--store goes with --dry-run.");
        const config = file === undefined ? EMPTY : readAmsConfig(await readFile(file, "utf8"));
        return test ? await runTest(config, file, print) : await dryRun(config, file, store, print);
    } catch (error) {
        print(errorText(error));
        if (errorCode(error) === "USAGE") print(`\n${CARBON_HELP}`);
        return 2;
    }
}

function readArguments(args: readonly string[]) {
    try {
        const flag = { type: "boolean", default: false } as const;
        const text = { type: "string" } as const;
        return parseArgs({ args: [...args], options: { test: flag, "dry-run": flag, config: text, store: text } }).values;
    } catch (error) {
        throw new WattError("USAGE", errorText(error));
    }
}

/** Each step prints what it found; the first that fails is the last. */
async function runTest(config: AmsConfig, file: string | undefined, print: Print): Promise<ExitCode> {
    print(`WattLedger carbon workflow test: ${PERIOD.name} in accelerated time, a stand-in for Guardian on this machine`);
    const { signal } = new AbortController();
    let failed = "";
    const step = async <T>(name: string, work: () => Promise<[result: T, ...lines: string[]]>): Promise<T> => {
        try {
            const [result, first = "", ...more] = await work();
            print(`ok    ${name.padEnd(13)}  ${first}`);
            for (const line of more) print(`${" ".repeat(21)}${line}`);
            return result;
        } catch (error) {
            failed = name;
            print(`FAIL  ${name.padEnd(13)}  ${errorText(error)}`);
            throw error;
        }
    };
    const trial = await Trial.begin();
    const { desk, simulator } = trial;
    try {
        const settings = await step("configuration", () => Promise.resolve([trialSettings(config, trial), ...describe(config, file)]));
        await step("Guardian", async () => {
            const [policy, ...others] = await desk.find(signal);
            demand(policy?.fingerprint !== undefined && others.length === 0, "The stand-in does not offer its policy.");
            return [policy, `signed in as Project Participant; policy "${policy!.name}" found by its forms, fingerprint ${policy!.fingerprint!.slice(0, 12)}`];
        });
        const sampleS = sampleSeconds(config);
        const { intervals, reports, warnings } = await step("devices", async () => {
            const outcome = await trial.measure(settings, sampleS);
            return [outcome, `${trial.devices.length} simulated ESP32: ${count(outcome.samples)} numbered samples, each signed with the device's Ed25519 key`];
        });
        const { report, evidence } = await step("aggregation", () => {
            const last = reports.at(-1);
            demand(last !== undefined && last.report.ready, `No report was made. ${warnings[0]?.message ?? "Less than a tonne came together."}`);
            return Promise.resolve([last!, `${intervals.length} intervals sealed, ${reports.length} report`, ...figures(last!.report, sampleS)]);
        });
        await step("evidence", async () => {
            const anchors = { root: evidence.root, verifier: parseVerifierKey(evidence.verifierKey) };
            const { ok, findings } = await judgeCapsule(evidence.file, recomputeReport, anchors);
            demand(ok, findings.filter((finding) => !finding.ok).map(({ text }) => text).join(" "));
            return [undefined, `capsule of ${count(evidence.samples)} samples, root ${evidence.root}`, `verified offline from its bytes: ${findings.map(({ check }) => check).join(", ")}`];
        });
        const subject = { kind: "report", report, evidence: evidence.root } as const;
        await step("project", async () => {
            const project = { kind: "project", payload: projectFacts(config, report), simulated: true } as const;
            const { computed, mint } = accepted(await desk.preview(project, signal));
            const filed = demandState(await desk.file(project, signal), "FILED", "Waiting for Validation");
            simulator.approveAll();
            const { stage } = demandState(await desk.file(project, signal), "ALREADY", "Validated");
            return [undefined, `accepted by the local twin (${tonnes(computed!.reductionT)} a year, ${mint} credits), filed and read back: ${filed.stage}, then ${stage}`];
        });
        const predicted = await step("dry run", async () => {
            const { mint, computed } = accepted(await desk.preview(subject, signal));
            demand(mint === report.figures.credits, `The policy would mint ${mint}, the report has ${report.figures.credits} whole tonnes.`);
            return [mint!, `document fits the policy's form; predicted reduction ${tonnes(computed!.reductionT)}, predicted mint ${mint}`];
        });
        await step("report", async () => {
            const filed = demandState(await desk.file(subject, signal), "FILED", "Waiting for Verification");
            const again = demandState(await desk.file(subject, signal), "ALREADY", "Waiting for Verification");
            demand(again.differences.length === 0, "What Guardian stored is not what was sent.");
            demand(simulator.count.reports === 1, `${simulator.count.reports} reports are at the stand-in.`);
            return [undefined, `filed once and read back with equal figures: ${filed.stage}`];
        });
        await step("mint", async () => {
            simulator.approveAll();
            const { stage, minted } = demandState(await desk.file(subject, signal), "ALREADY", "Minted");
            demand(minted === predicted, `${minted} were minted, ${predicted} predicted.`);
            return [undefined, `verified and ${stage.toLowerCase()}: ${minted} credits, as predicted; ${count(report.figures.carriedOutWh)} Wh carried to the next report`];
        });
    } catch (error) {
        if (failed === "") throw error;
    } finally {
        await trial.close();
    }
    print(failed === "" ? "PASSED" : `FAILED at ${failed}`);
    return failed === "" ? 0 : 1;
}

async function dryRun(config: AmsConfig, file: string | undefined, store: string | undefined, print: Print): Promise<ExitCode> {
    const trial = await Trial.begin();
    const { signal } = new AbortController();
    try {
        const [first, ...more] = describe(config, file);
        print(`settings    ${first}`);
        for (const line of more) print(`            ${line}`);
        const sampleS = sampleSeconds(config);
        const report = store === undefined ? await trialReport(trial, config, sampleS) : await previewOf(store, config, trial.folder);
        print(`data        ${store === undefined ? `${PERIOD.name}, simulated` : store}`);
        print(`period      ${report.period.from} to ${report.period.to}, half-open, intervals ${report.period.intervals.join(" to ")}`);
        for (const line of figures(report, sampleS)) print(`            ${line}`);
        if (report.simulated) print("note        with SIMULATED energy: it can go to the stand-in only");
        for (const { text } of report.refusals) print(`refused     ${text}`);
        if (!report.factor) return 1;
        const project = { kind: "project", payload: projectFacts(config, report), simulated: true } as const;
        if (config.project === undefined) print('note        the project\'s facts are placeholders: add "project" to the settings');
        demandState(await trial.desk.file(project, signal), "FILED", "Waiting for Validation");
        trial.simulator.approveAll();
        const { ok, violations, computed, mint, document } = await trial.desk.preview({ kind: "report", report }, signal);
        for (const { path: cell, problem } of violations) print(`refused     ${cell || "The document"} ${problem}`);
        if (computed) print(`policy      EG ${computed.egMWh} MWh x ${computed.factor} t/MWh = ${computed.baselineT} t, reduction ${computed.reductionT} t`);
        print(`mint        ${mint === undefined ? "nothing" : `${mint} predicted`}`);
        print(`document    ${JSON.stringify(document, null, 2)}`);
        print(ok ? "NOTHING FILED; it could be" : "NOTHING FILED; it would be refused");
        return ok ? 0 : 1;
    } finally {
        await trial.close();
    }
}

async function trialReport(trial: Trial, config: AmsConfig, sampleS: number): Promise<Report> {
    const { reports, warnings } = await trial.measure(trialSettings(config, trial), sampleS);
    const last = reports.at(-1);
    if (!last) throw warnings[0] ?? new WattError("TRIAL_FAILED", "No report was made: less than a tonne came together.");
    return last.report;
}

/** The dialog's fields for the trial: of the file what can be told without its devices. */
function trialSettings({ fields }: AmsConfig, { devices }: Trial): object {
    const factors = fields.factors ?? JSON.stringify([TRIAL_FACTOR]);
    const { intervalHours = 24 } = fields;
    return { ...fields, meters: JSON.stringify(devices.map(({ meter }) => meter)), factors, acceptsUnsourced: true, allowSimulated: true, calendar: 24 % intervalHours === 0 ? "month" : "interval" };
}

function sampleSeconds({ sampleS = SAMPLE_S }: AmsConfig): number {
    return Math.max(LEAST_SAMPLE_S, sampleS);
}

function describe({ fields, elsewhere, notes, sampleS, project }: AmsConfig, file: string | undefined): string[] {
    const { intervalHours = 24, minPoints = 10, checkMinutes = 60, meters, factors } = fields;
    const own = Object.entries({ meters, factors, project }).flatMap(([name, value]) => (value === undefined ? [] : [name]));
    const sampled = sampleS === undefined || sampleS >= LEAST_SAMPLE_S ? `${sampleS ?? SAMPLE_S} s` : `${sampleS} s (${LEAST_SAMPLE_S} s here)`;
    return [
        `interval ${intervalHours} h, at least ${minPoints} points, check every ${checkMinutes} min, a sample every ${sampled}`,
        file === undefined ? "the defaults; --config reads an ams_config.json" : [`from ${path.basename(file)}`, ...own].join(", "),
        ...elsewhere,
        ...notes,
    ];
}

/** Energy, reduction and rates of a period, and each deduction. */
function figures(report: Report, sampleS: number): string[] {
    const { figures: all, factor, lines, meters, period } = report;
    const expected = (meters.length * (period.toMs - period.fromMs)) / 1000 / sampleS;
    const percent = (ratio: number) => `${(100 * ratio).toFixed(1)} %`;
    return [
        `energy ${mwh(all.grossExportWh)} MWh exported, ${mwh(all.netWh)} MWh net, ${all.egMWh} MWh claimed, ${count(all.carriedOutWh)} Wh carried on`,
        `emission reduction ${tonnes(all.reductionT)}, ${all.credits} credits${factor ? `; factor ${factor.wOm} x ${factor.om} + ${factor.wBm} x ${factor.bm} t/MWh${factor.sourced ? "" : ", not fully sourced"}` : ""}`,
        `capacity factor ${percent(all.capacityFactor)}, data collection rate ${percent(Math.min(1, all.points / expected))}, coverage ${percent(all.coverage)}`,
        ...lines.filter(({ wh }) => wh !== 0).map(({ code, direction, wh, basis, meter }) => `${code} (${direction}${meter === undefined ? "" : ` of ${meter}`}) ${count(wh)} Wh: ${basis}`),
    ];
}

/** What the file says of the project, or placeholders that make it one of this report; flows/carbon/project.js has the same. */
function projectFacts({ project }: AmsConfig, { factor, project: { id }, period, figures: { egMWh } }: Report): unknown {
    const { om, bm, wOm, source, vintage } = factor as Factor;
    const year = new Date(period.fromMs).getUTCFullYear();
    return {
        summary: "A photovoltaic plant that delivers to the grid",
        organisation: "Not stated",
        email: "office@example.org",
        country: "Morocco",
        latitude: 33.57,
        longitude: -7.59,
        startDate: `${year}-01-01`,
        creditingPeriod: { from: `${year}-01-01`, to: `${year + 6}-12-31`, first: wOm !== 0.25 },
        technology: wOm === 0.75 ? "solar" : "other",
        yearlyMWh: Math.max(1, egMWh * 12),
        factor: { om, bm, source: source || "not stated", vintage: /^\d{4}/.test(vintage) ? vintage : String(year) },
        ...(project as object | undefined),
        id: id.replaceAll(/[^A-Za-z0-9_.-]/g, "_") || SITE.siteId,
    };
}

function demand(isSo: boolean, text: string): void {
    if (!isSo) throw new WattError("TRIAL_FAILED", text);
}

function accepted(preview: Preview): Preview {
    demand(preview.ok, preview.violations.map(({ path: cell, problem }) => `${cell || "The document"} ${problem}`).join("; "));
    return preview;
}

function demandState(result: FilingResult, state: string, stage: string): FilingResult {
    demand(result.state === state && result.stage === stage, `It is ${result.state}, ${result.stage || "nowhere"}, and should be ${state}, ${stage}. ${result.reason}`);
    return result;
}

function mwh(wh: number): string {
    return (wh / 1e6).toFixed(3);
}

function tonnes(t: number): string {
    return `${t.toFixed(3)} tCO2e`;
}

function count(n: number): string {
    return n.toLocaleString("en-US");
}
