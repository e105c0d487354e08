import path from "node:path";
import { WattError } from "../common/errors.js";
import { canonicalJson } from "../store/canonical-json.js";
import { parseVerifierKey, verifyEntry } from "../store/checkpoint.js";
import { ensureFolder, readText, replaceFile, syncFolder, systemFiles, writeAll, type Files } from "../store/files.js";
import type { Ledger } from "../store/ledger.js";
import { capsuleEntry, capsuleLines, type CapsuleSummary } from "./capsule.js";
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
    { terms, samples }: { terms: CapsuleTerms; samples: Iterable<RawSample> },
    recompute: Recompute,
    ledger: Ledger,
    files: Files = systemFiles,
): Promise<Evidence> {
    const file = path.join(folder, `${report.project.id.replaceAll(/[^A-Za-z0-9_.-]/g, "_")}-${report.number}.capsule`);
    const proofFile = `${file}.tlog-proof`;
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

function isProof(entry: string, proof: string | undefined, verifierKey: string): boolean {
    try {
        return proof !== undefined && verifyEntry(entry, proof, parseVerifierKey(verifierKey)).index >= 0;
    } catch {
        return false;
    }
}

/** Writes the lines to a file that is there as a whole or not at all. */
async function writeCapsule(files: Files, file: string, lines: Generator<string, CapsuleSummary>, check: (summary: CapsuleSummary) => void): Promise<CapsuleSummary> {
    const next = `${file}.tmp`;
    try {
        const handle = await files.open(next, "w");
        let summary: CapsuleSummary | undefined;
        try {
            let position = 0;
            while (!summary) {
                let text = "";
                while (text.length < CHUNK_BYTES) {
                    const step = lines.next();
                    if (step.done) {
                        summary = step.value;
                        break;
                    }
                    text += `${step.value}\n`;
                }
                if (text !== "") position += await writeAll(handle, [Buffer.from(text)], position);
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
