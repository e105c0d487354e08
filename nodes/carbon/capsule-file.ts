import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { Breaks } from "../common/turns.js";
import { canonicalJson } from "../store/canonical-json.js";
import { parseVerifierKey, verifyEntry, type VerifierKey } from "../store/checkpoint.js";
import { ensureFolder, readText, replaceFile, syncFolder, systemFiles, writeAll, type Files } from "../store/files.js";
import type { Ledger } from "../store/ledger.js";
import { capsuleEntry, capsuleLines, type CapsuleSummary, type Finding, type Verdict, verifyCapsule } from "./capsule.js";
import { outcomeOf } from "./evidence.js";
import type { CapsuleTerms, RawSample, Recompute } from "./recompute.js";
import type { Report } from "./report.js";

/** Lines are written so many bytes at once, and the event loop turns between. */
const CHUNK_BYTES = 32 * 1024;

/** Where the evidence of a report lies. */
export interface Evidence extends Omit<CapsuleSummary, "outcome"> {
    file: string;
    /** C2SP proof that the ledger holds `capsuleEntry`, beside the file. */
    proofFile: string;
    /** Key of the ledger's verifiers. */
    verifierKey: string;
}

/**
 * Writes the capsule of a recorded report and enters it in the ledger; doing it again changes nothing.
 * @throws WattError EVIDENCE_DIFFERS when the raw samples do not give the report; what the ledger throws; file system errors as they are
 */
export async function keepEvidence(
    folder: string,
    report: Report,
    { terms, samples }: { terms: CapsuleTerms; samples: Iterable<RawSample | undefined> },
    recompute: Recompute,
    ledger: Ledger,
    files: Files = systemFiles,
): Promise<Evidence> {
    const file = capsuleFile(folder, report.project.id, report.number);
    const proofFile = proofOf(file);
    await ensureFolder(files, folder);
    const { outcome: _outcome, ...summary } = await writeCapsule(files, file, capsuleLines(terms, samples, recompute), ({ outcome: made }) => {
        if (canonicalJson(made) === canonicalJson(outcomeOf(report))) return;
        throw new WattError("EVIDENCE_DIFFERS", `The raw samples of report ${report.number} do not give the same report again: keep the book and tell the makers of this software.`);
    });
    const entry = capsuleEntry(summary);
    const verifierKey = await ledger.verifierKey();
    if (!isProof(entry, await readText(files, proofFile), verifierKey)) {
        // The checkpoint brings the commit forward.
        const [index] = await Promise.all([ledger.append(entry), ledger.checkpoint()]);
        await replaceFile(files, proofFile, await ledger.proof(index));
    }
    return { ...summary, file, proofFile, verifierKey };
}

/** Where the capsule of a project's report lies. */
export function capsuleFile(folder: string, project: string, number: number): string {
    return path.join(folder, `${project.replaceAll(/[^A-Za-z0-9_.-]/g, "_")}-${number}.capsule`);
}

function proofOf(file: string): string {
    return `${file}.tlog-proof`;
}

/** What a capsule is held to beside itself. */
export interface Anchors {
    /** The root that was filed, hex. */
    root?: string | undefined;
    /** The key of the ledger that must hold it. */
    verifier?: VerifierKey | undefined;
    /** The ledger's proof; beside the capsule where not named. */
    proofFile?: string | undefined;
}

/** Judges a capsule file, and whether it is the one that was filed and is in the ledger. @throws file system errors as they are */
export async function judgeCapsule(file: string, recompute: Recompute, { root, verifier, proofFile = proofOf(file) }: Anchors = {}): Promise<Verdict> {
    const proof = verifier && (await readFile(proofFile, "utf8"));
    const { findings, summary } = await verifyCapsule(createReadStream(file), recompute);
    if (summary && root !== undefined) {
        const ok = summary.root === root.toLowerCase();
        findings.push({ check: "filed", ok, text: ok ? "The root is the one that was filed." : `The root is not the one that was filed, ${root}.` });
    }
    if (summary && proof !== undefined) findings.push(ledgerFinding(capsuleEntry(summary), proof, verifier!));
    return { ok: findings.every(({ ok }) => ok), findings, ...(summary && { summary }) };
}

function ledgerFinding(entry: string, proof: string, verifier: VerifierKey): Finding {
    try {
        const { origin, index, size } = verifyEntry(entry, proof, verifier);
        return { check: "ledger", ok: true, text: `The capsule is entry ${index} of ${origin}, which signed its ${size} entries.` };
    } catch (error) {
        return { check: "ledger", ok: false, text: errorText(error) };
    }
}

function isProof(entry: string, proof: string | undefined, verifierKey: string): boolean {
    try {
        return proof !== undefined && verifyEntry(entry, proof, parseVerifierKey(verifierKey)).index >= 0;
    } catch {
        return false;
    }
}

/** The evidence of a project's reports in one folder and one ledger. */
export class EvidenceKeeper {
    constructor(
        private readonly folder: string,
        /** Opened on first use. */
        private readonly ledger: () => Ledger,
        private readonly recompute: Recompute,
    ) {}

    keep(report: Report, raw: { terms: CapsuleTerms; samples: Iterable<RawSample | undefined> }): Promise<Evidence> {
        return keepEvidence(this.folder, report, raw, this.recompute, this.ledger());
    }

    /** Judges what was kept of a report, as a stranger would. @throws WattError EVIDENCE_MISSING */
    async verify(project: string, number: number): Promise<{ ok: boolean; root?: string; findings: Finding[] }> {
        const file = capsuleFile(this.folder, project, number);
        try {
            const verifier = parseVerifierKey(await this.ledger().verifierKey());
            const { ok, findings, summary } = await judgeCapsule(file, this.recompute, { verifier });
            return { ok, ...(summary && { root: summary.root }), findings };
        } catch (error) {
            if (errorCode(error) !== "ENOENT") throw error;
            throw new WattError("EVIDENCE_MISSING", `${path.basename(file)} or its proof is not in ${this.folder}: put it back from a backup.`);
        }
    }
}

/** Writes the lines to a file that is there as a whole or not at all. */
async function writeCapsule(files: Files, file: string, lines: Generator<string | undefined, CapsuleSummary>, check: (summary: CapsuleSummary) => void): Promise<CapsuleSummary> {
    const next = `${file}.tmp`;
    try {
        const handle = await files.open(next, "w");
        let summary: CapsuleSummary | undefined;
        try {
            let position = 0;
            const breaks = new Breaks();
            while (!summary) {
                let text = "";
                while (text.length < CHUNK_BYTES) {
                    const step = lines.next();
                    if (step.done) {
                        summary = step.value;
                        break;
                    }
                    if (step.value === undefined) break;
                    text += `${step.value}\n`;
                }
                if (text !== "") position += await writeAll(handle, [Buffer.from(text)], position);
                await breaks.take();
            }
            check(summary);
            await handle.datasync();
        } finally {
            await handle.close();
        }
        await files.rename(next, file);
        await syncFolder(files, path.dirname(file));
        return summary;
    } catch (error) {
        await files.unlink(next).catch(() => undefined);
        throw error;
    }
}
