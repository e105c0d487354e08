import path from "node:path";
import { parseArgs } from "node:util";
import { judgeCapsule } from "../carbon/capsule-file.js";
import { recomputeReport } from "../carbon/evidence.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { parseVerifierKey, type VerifierKey } from "../store/checkpoint.js";
import { readText, systemFiles } from "../store/files.js";
import { auditLedger } from "../store/ledger.js";

/** 0 verified, 1 refuted, 2 nothing could be judged. */
export type ExitCode = 0 | 1 | 2;

export const VERIFY_HELP = `wattledger verify-report CAPSULE [--root HEX] [--key KEY] [--proof FILE]
  Makes the report in a capsule again from its raw samples, offline, and says what holds.
  --root HEX     the root that was filed with the report, 64 hex digits
  --key KEY      the ledger's verifier key, or a file that holds it: the capsule must be in the ledger
  --proof FILE   the ledger's proof; CAPSULE.tlog-proof

wattledger verify-ledger FOLDER --key KEY
  Recomputes a ledger from its files and compares it with its signed checkpoint.

Exit code: 0 all holds, 1 something does not, 2 nothing could be judged.`;

/** What a command prints, line by line. */
export type Print = (line: string) => void;

/** `wattledger verify-report`. */
export function verifyReport(args: readonly string[], print: Print): Promise<ExitCode> {
    return judged(print, async () => {
        const { file, options } = readArguments(args, "CAPSULE", ["root", "key", "proof"]);
        const { root, key, proof } = options;
        if (root !== undefined && !/^[0-9a-f]{64}$/i.test(root)) throw usage("--root takes 64 hex digits.");
        if (proof !== undefined && key === undefined) throw usage("--proof needs --key.");
        const verifier = key === undefined ? undefined : await readKey(key);
        const { ok: isHeld, findings, summary } = await judgeCapsule(file, recomputeReport, { root, verifier, proofFile: proof });
        print(`capsule     ${path.basename(file)}`);
        if (summary) {
            const { name, version } = summary.terms.code;
            print(`project     ${oneLine(summary.project)}`);
            print(`period      ${instant(summary.period.from)} to ${instant(summary.period.to)}, half-open`);
            print(`made by     ${oneLine(name)} ${oneLine(version)}`);
            for (const line of claim(summary.outcome.report)) print(line);
        }
        for (const { check, ok, text } of findings) print(`${ok ? "ok  " : "FAIL"}  ${check.padEnd(10)}  ${oneLine(text)}`);
        if (summary && root === undefined && !verifier) print("note  not shown: that this capsule is the one that was filed; give --root, or --key of the ledger");
        return isHeld ? 0 : 1;
    });
}

/** `wattledger verify-ledger`. */
export function verifyLedger(args: readonly string[], print: Print): Promise<ExitCode> {
    return judged(print, async () => {
        const { file: folder, options } = readArguments(args, "FOLDER", ["key"]);
        if (options["key"] === undefined) throw usage("verify-ledger needs --key.");
        const verifier = await readKey(options["key"]);
        try {
            const { size, checkpoint } = await auditLedger(folder, verifier);
            print(`ok    ledger      ${checkpoint.origin}: all ${checkpoint.size} entries are those that were signed, root ${checkpoint.root.toString("hex")}`);
            if (size > checkpoint.size) print(`note  ${size - checkpoint.size} entries came after the last checkpoint and are not signed yet`);
            return 0;
        } catch (error) {
            if (!["LEDGER_DAMAGED", "SIGNATURE_INVALID"].includes(errorCode(error) ?? "")) throw error;
            print(`FAIL  ledger      ${errorText(error)}`);
            return 1;
        }
    });
}

/** What the report claims, where it is one of ours. */
function claim(report: Record<string, unknown>): string[] {
    const { figures, simulated, ready } = report as { figures?: { claimedWh?: unknown; credits?: unknown }; simulated?: unknown; ready?: unknown };
    if (typeof figures?.claimedWh !== "number" || typeof figures.credits !== "number") return [];
    const lines = [`claim       ${figures.credits} t CO2e from ${figures.claimedWh} Wh`];
    if (simulated === true) lines.push("            with SIMULATED energy: it must not be filed");
    if (ready === false) lines.push("            not ready for filing");
    return lines;
}

async function judged(print: Print, judge: () => Promise<ExitCode>): Promise<ExitCode> {
    let code: ExitCode;
    try {
        code = await judge();
    } catch (error) {
        const isExpected = error instanceof WattError || typeof (error as { errno?: unknown }).errno === "number";
        print(isExpected ? errorText(error) : `Not judged: ${errorText(error)}`);
        if (errorCode(error) === "USAGE") print(VERIFY_HELP);
        code = 2;
    }
    print(["VERIFIED", "REFUTED", "NOT JUDGED"][code]!);
    return code;
}

function readArguments(args: readonly string[], what: string, names: readonly string[]): { file: string; options: Partial<Record<string, string>> } {
    try {
        const options = Object.fromEntries(names.map((name) => [name, { type: "string" as const }]));
        const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
        const [file, ...more] = positionals;
        if (file === undefined || more.length > 0) throw new TypeError(`Give one ${what}.`);
        return { file, options: values };
    } catch (error) {
        throw usage(errorText(error));
    }
}

/** A key as it is written, or the file that holds it. */
async function readKey(text: string): Promise<VerifierKey> {
    return parseVerifierKey(text.includes("+") ? text : ((await readText(systemFiles, text)) ?? text));
}

function usage(text: string): WattError {
    return new WattError("USAGE", text);
}

function instant(at: number): string {
    const date = new Date(at);
    return Number.isNaN(date.getTime()) ? String(at) : date.toISOString();
}

/** A text of a stranger without what a terminal would act on. */
function oneLine(text: string): string {
    return text.replace(/\p{Cc}/gu, " ").slice(0, 500);
}
