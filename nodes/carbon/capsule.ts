import { z } from "zod";
import { errorText, WattError } from "../common/errors.js";
import { canonicalJson, parseCanonicalJson, type Json, type JsonObject } from "../store/canonical-json.js";
import { isSignedBy, parseBase64 } from "../store/checkpoint.js";
import { Frontier, leafHash } from "../store/merkle.js";
import type { MeterSample } from "./settlement.js";
import type { CapsuleOutcome, CapsuleTerms, RawSample, Recomputation, Recompute } from "./recompute.js";

/*
 * A capsule is a text of lines, each canonical JSON (RFC 8785) and a line feed:
 *   {"format":"wattledger.capsule/1","terms":{...}}
 *   one line a raw sample, in the order of `compareSamples`
 *   {"gaps":[...],"report":{...}}
 *   {"root":"<hex>","samples":<count>}
 * The root is that of the RFC 6962 tree over all lines but the last. Nothing in it depends on where or when it is written.
 */
const FORMAT = "wattledger.capsule/1";
/** No line is longer; beyond it a file is no capsule. */
const MAX_LINE_BYTES = 256 * 1024 * 1024;

const object = z.record(z.string(), z.json());
const wh = z.number().int().nonnegative().optional();
const instant = z.number().int().nonnegative();
const sampleSchema = z.strictObject({
    meter: z.string().min(1),
    at: instant,
    exportWh: wh,
    importWh: wh,
    serial: z.string().optional(),
    origin: z.enum(["measured", "estimated", "doubtful", "simulated"]),
    values: z.record(z.string(), z.number()).optional(),
    since: instant,
    boot: instant.optional(),
    seq: instant.optional(),
    signature: z.string().optional(),
});
const termsSchema = z.strictObject({
    project: z.string().min(1),
    period: z.strictObject({ from: instant, to: instant }).refine(({ from, to }) => from < to, "a period ends after it begins"),
    code: z.strictObject({ name: z.string(), version: z.string() }),
    meters: z.array(object),
    opening: object,
    keys: z.array(z.strictObject({ meter: z.string(), key: z.string(), from: z.number(), to: z.number() })),
    factor: object,
    settings: object,
});
const headSchema = z.strictObject({ format: z.literal(FORMAT), terms: termsSchema });
const outcomeSchema = z.strictObject({ gaps: z.array(object), report: object });
const endSchema = z.strictObject({ root: z.string().regex(/^[0-9a-f]{64}$/), samples: instant });

/** What stands for a capsule elsewhere. */
export interface CapsuleSummary {
    project: string;
    period: { from: number; to: number };
    /** Root of the tree over its lines, hex: it goes into the report that is filed. */
    root: string;
    samples: number;
    outcome: CapsuleOutcome;
}

/** What a device signs of a sample with its Ed25519 key: the canonical JSON of its registers and where and when they were read, UTF-8. */
export function statementOf({ meter, at, exportWh, importWh, serial, origin, boot, seq }: MeterSample): string {
    return canonicalJson(defined({ meter, at, exportWh, importWh, serial, origin, boot, seq }));
}

/** True for a sample that bears the signature of this device, whose public key is 32 bytes in base64. */
export function isSigned(sample: MeterSample, key: string): boolean {
    return sample.signature !== undefined && isSignedBy(key, statementOf(sample), sample.signature);
}

/** The order of samples in a capsule: meter in UTF-16 order, time, then their lines. */
export function compareSamples(a: RawSample, b: RawSample): number {
    if (a.meter !== b.meter) return a.meter < b.meter ? -1 : 1;
    if (a.at !== b.at) return a.at - b.at;
    const [x, y] = [lineOf(a), lineOf(b)];
    return x === y ? 0 : x < y ? -1 : 1;
}

/**
 * The lines of a capsule, each without its line feed; equal samples are written once. Returns what it holds.
 * @param samples In the order of `compareSamples`; undefined, a pause for whoever has other things to do, is handed on.
 * @throws WattError CAPSULE_ORDER; CAPSULE_INVALID for terms or samples that no capsule can hold; what the engine throws
 */
export function* capsuleLines(terms: CapsuleTerms, samples: Iterable<RawSample | undefined>, recompute: Recompute): Generator<string | undefined, CapsuleSummary> {
    const tree = new Frontier();
    const add = (line: string) => {
        tree.add(leafHash(line));
        return line;
    };
    const head = { format: FORMAT, terms };
    check(headSchema, head, "The terms");
    yield add(canonicalJson(head));
    const run = recompute(terms);
    let last: RawSample | undefined;
    for (const sample of samples) {
        if (!sample) {
            yield undefined;
            continue;
        }
        const order = last ? compareSamples(last, sample) : -1;
        if (order === 0) continue;
        if (order > 0) throw new WattError("CAPSULE_ORDER", `The sample of ${sample.meter} at ${sample.at} comes after a later one: sort them first.`);
        check(sampleSchema, sample, "A sample");
        yield add(lineOf(sample));
        run.add(sample);
        last = sample;
    }
    const outcome = run.finish();
    const count = tree.size - 1;
    yield add(canonicalJson(outcome));
    const root = tree.root().toString("hex");
    yield canonicalJson({ root, samples: count });
    return { project: terms.project, period: terms.period, root, samples: count, outcome };
}

/** What a ledger keeps of a capsule. */
export function capsuleEntry({ project, period, root }: Pick<CapsuleSummary, "project" | "period" | "root">): string {
    return canonicalJson({ capsule: root, format: FORMAT, period, project });
}

/** One thing that was looked at. */
export interface Finding {
    check: "form" | "root" | "signatures" | "report" | "filed" | "ledger";
    ok: boolean;
    /** A sentence for a person. */
    text: string;
}

export interface Verdict {
    ok: boolean;
    findings: Finding[];
    /** What the capsule holds; absent when its form is broken. */
    summary?: CapsuleSummary & { terms: CapsuleTerms };
}

/**
 * Checks a capsule from its bytes alone: its form to the byte, the tree, the devices' signatures, and the report, which is made again
 * from the raw samples. Memory does not grow with the samples beyond what the engine keeps.
 */
export async function verifyCapsule(bytes: AsyncIterable<Buffer>, recompute: Recompute): Promise<Verdict> {
    const checker = new Checker(recompute);
    try {
        for await (const line of splitLines(bytes)) checker.take(line);
        return checker.finish();
    } catch (error) {
        if (!(error instanceof WattError) || error.code !== "CAPSULE_INVALID") throw error;
        return { ok: false, findings: [{ check: "form", ok: false, text: error.message }] };
    }
}

/** Reads line after line; the last two are known only when the text ends. */
class Checker {
    private readonly tree = new Frontier();
    private terms: CapsuleTerms | undefined;
    private run: Recomputation | undefined;
    private refusal: string | undefined;
    private readonly signatures = { valid: 0, missing: 0, wrong: 0, unchecked: 0 };
    private last: RawSample | undefined;
    private held: { bytes: Buffer; text: string }[] = [];
    private lines = 0;

    constructor(private readonly recompute: Recompute) {}

    take(bytes: Buffer): void {
        const text = decode(bytes);
        this.lines++;
        if (!this.terms) return this.head(bytes, text);
        this.held.push({ bytes, text });
        if (this.held.length > 2) this.sample(this.held.shift()!);
    }

    private head(bytes: Buffer, text: string): void {
        const { terms } = parse(headSchema, text, "The first line") as unknown as { terms: CapsuleTerms };
        this.terms = terms;
        this.tree.add(leafHash(bytes));
        const wrong = terms.keys.find(({ key }) => parseBase64(key)?.length !== 32);
        if (wrong) throw invalid(`The key of ${wrong.meter} is not an Ed25519 key in base64.`);
        this.attempt(() => {
            this.run = this.recompute(terms);
        });
    }

    private sample({ bytes, text }: { bytes: Buffer; text: string }): void {
        const sample: RawSample = parse(sampleSchema, text, `Line ${this.lines - 2}`);
        if (this.last && compareSamples(this.last, sample) >= 0) throw invalid(`Line ${this.lines - 2} is out of order.`);
        this.last = sample;
        this.tree.add(leafHash(bytes));
        this.signature(sample);
        this.attempt(() => this.run?.add(sample));
    }

    private signature(sample: RawSample): void {
        const { meter, at, signature, origin } = sample;
        const device = this.terms!.keys.find((entry) => entry.meter === meter && entry.from <= at && at < entry.to);
        if (!device) this.signatures.unchecked += signature === undefined ? 0 : 1;
        else if (signature === undefined) this.signatures.missing += origin === "measured" ? 1 : 0;
        else this.signatures[isSigned(sample, device.key) ? "valid" : "wrong"]++;
    }

    finish(): Verdict {
        const [outcomeLine, endLine] = this.held;
        if (!this.terms || !outcomeLine || !endLine) throw invalid("The capsule ends too early.");
        const outcome = parse(outcomeSchema, outcomeLine.text, "The line before the last") as unknown as CapsuleOutcome;
        const end = parse(endSchema, endLine.text, "The last line");
        const count = this.tree.size - 1;
        this.tree.add(leafHash(outcomeLine.bytes));
        const root = this.tree.root().toString("hex");
        const findings = [
            { check: "form", ok: true, text: `${count} raw samples, every line in canonical form and in order.` },
            this.rootFinding(root, end, count),
            this.signatureFinding(),
            this.reportFinding(outcomeLine.text),
        ] satisfies Finding[];
        const { project, period } = this.terms;
        return { ok: findings.every(({ ok }) => ok), findings, summary: { project, period, root, samples: count, outcome, terms: this.terms } };
    }

    private rootFinding(root: string, end: { root: string; samples: number }, count: number): Finding {
        const ok = end.root === root && end.samples === count;
        return { check: "root", ok, text: ok ? `The tree over all lines has the root ${root}.` : `The tree over all lines has the root ${root} and ${count} samples, not ${end.root} and ${end.samples}: the capsule was changed.` };
    }

    private signatureFinding(): Finding {
        const { valid, missing, wrong, unchecked } = this.signatures;
        const more = unchecked > 0 ? ` ${unchecked} of meters without a key are not checked.` : "";
        if (missing + wrong > 0) return { check: "signatures", ok: false, text: `${wrong} device signatures are wrong, ${missing} measured samples have none though their meter has a key.${more}` };
        if (this.terms!.keys.length === 0) return { check: "signatures", ok: true, text: `No device key is named: who measured the samples is not shown.${more}` };
        return { check: "signatures", ok: true, text: `${valid} device signatures are valid.${more}` };
    }

    private reportFinding(stated: string): Finding {
        let again: string | undefined;
        this.attempt(() => {
            again = canonicalJson(plain(this.run!.finish()));
        });
        if (again === undefined) return { check: "report", ok: false, text: `The report cannot be made from the capsule: ${this.refusal}` };
        const ok = again === stated;
        return { check: "report", ok, text: ok ? "The report, made again from the raw samples, is the same to the byte." : `The report, made again from the raw samples, differs: ${difference(JSON.parse(stated) as Json, JSON.parse(again) as Json)}.` };
    }

    /** What an engine cannot work with is a finding, not an end. */
    private attempt(job: () => void): void {
        if (this.refusal !== undefined) return;
        try {
            job();
        } catch (error) {
            this.refusal = errorText(error);
        }
    }
}

/** Where two values differ first, as a path with both. */
function difference(stated: Json, again: Json, path = ""): string {
    if (typeof stated === "object" && typeof again === "object" && stated && again) {
        for (const key of [...new Set([...Object.keys(stated), ...Object.keys(again)])].toSorted()) {
            const [a, b] = [(stated as JsonObject)[key], (again as JsonObject)[key]];
            if (a === undefined || b === undefined) return `${path}/${key} is ${a === undefined ? "missing" : "not made"}`;
            if (canonicalJson(a) !== canonicalJson(b)) return difference(a, b, `${path}/${key}`);
        }
    }
    const short = (value: Json) => canonicalJson(value).slice(0, 80);
    return `${path || "/"} states ${short(stated)}, the samples give ${short(again)}`;
}

async function* splitLines(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    let rest: Buffer[] = [];
    let length = 0;
    for await (const chunk of chunks) {
        let from = 0;
        for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
            yield rest.length === 0 ? chunk.subarray(from, at) : Buffer.concat([...rest, chunk.subarray(from, at)]);
            rest = [];
            length = 0;
            from = at + 1;
        }
        if (from < chunk.length) rest.push(chunk.subarray(from));
        length += chunk.length - from;
        if (length > MAX_LINE_BYTES) throw invalid("A line is far too long.");
    }
    if (rest.length > 0) throw invalid("The last line does not end.");
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Buffer): string {
    try {
        return utf8.decode(bytes);
    } catch {
        throw invalid("A line is not UTF-8.");
    }
}

function lineOf(sample: RawSample): string {
    return canonicalJson(defined(sample));
}

/** The members that are not undefined. */
function defined(value: object): Record<string, unknown> {
    const members: Record<string, unknown> = {};
    for (const [name, member] of Object.entries(value)) if (member !== undefined) members[name] = member;
    return members;
}

/** As JSON keeps it. */
function plain<T>(value: T): T {
    return JSON.parse(JSON.stringify(value)) as T;
}

function parse<T>(schema: z.ZodType<T>, text: string, what: string): T {
    let value: Json;
    try {
        value = parseCanonicalJson(text);
    } catch (error) {
        throw invalid(`${what} is not in canonical form. ${errorText(error)}`);
    }
    return check(schema, value, what);
}

function check<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    throw invalid(`${what} is not what a capsule holds there: ${issue!.path.join("/")} ${issue!.message}.`);
}

function invalid(text: string): WattError {
    return new WattError("CAPSULE_INVALID", text);
}
