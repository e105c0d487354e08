import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import fc from "fast-check";
import { capsuleEntry, capsuleLines, type CapsuleSummary, compareSamples, statementOf, type Verdict, verifyCapsule } from "../../dist/carbon/capsule.js";
import type { CapsuleTerms, RawSample, Recompute } from "../../dist/carbon/recompute.js";
import { WattError } from "../../dist/common/errors.js";
import type { JsonObject } from "../../dist/store/canonical-json.js";
import { Frontier, leafHash } from "../../dist/store/merkle.js";

const { privateKey, publicKey } = generateKeyPairSync("ed25519");
const key = publicKey.export({ type: "spki", format: "der" }).subarray(12).toString("base64");

const TERMS: CapsuleTerms = {
    project: "p1",
    period: { from: 1000, to: 9000 },
    code: { name: "wattledger", version: "1.0.0" },
    meters: [{ meter: "home/grid" }, { meter: "home/pv" }],
    opening: {},
    keys: [{ meter: "home/grid", key, from: 0, to: 8000 }],
    factor: { om: 0.7, source: "doc" },
    settings: { maxGapMs: 5 },
};

/** A small engine: what each meter counted, and the time without samples. */
const engine: Recompute = (terms) => {
    if (terms.settings["maxGapMs"] === undefined) throw new WattError("TERMS", "The settings name no longest gap.");
    const wh = new Map<string, { first: RawSample; last: RawSample }>();
    return {
        add: (sample) => {
            const known = wh.get(sample.meter);
            wh.set(sample.meter, { first: known?.first ?? sample, last: sample });
        },
        finish: () => ({
            gaps: [{ meter: "home/pv", from: 3000, to: 4000, reason: "gap" }],
            report: Object.fromEntries([...wh].map(([meter, { first, last }]) => [meter, (last.exportWh ?? 0) - (first.exportWh ?? 0)])),
        }),
    };
};

function signed(sample: RawSample): RawSample {
    return { ...sample, signature: sign(null, Buffer.from(statementOf(sample)), privateKey).toString("base64") };
}

const SAMPLES: RawSample[] = [
    ...[1, 2, 3].map((i) => signed({ meter: "home/grid", at: i * 2000, exportWh: i * 100, importWh: 7, origin: "measured", since: 0, boot: 1, seq: i, values: { ac_power_w: 1.5 } })),
    ...[1, 2].map((i): RawSample => ({ meter: "home/pv", at: i * 2500, exportWh: i * 10, origin: "estimated", since: 1, serial: "é1" })),
];

function build(samples: readonly RawSample[] = SAMPLES, terms = TERMS): { text: string; summary: CapsuleSummary } {
    const lines: string[] = [];
    const run = capsuleLines(terms, samples, engine);
    for (;;) {
        const step = run.next();
        if (step.done) return { text: lines.map((line) => `${line}\n`).join(""), summary: step.value };
        lines.push(step.value!);
    }
}

/** The verdict on bytes that arrive in pieces. */
function judge(bytes: Buffer | string, piece = 1000, recompute = engine): Promise<Verdict> {
    const all = Buffer.from(bytes);
    async function* pieces(): AsyncGenerator<Buffer> {
        for (let at = 0; at < all.length; at += piece) yield await Promise.resolve(all.subarray(at, at + piece));
    }
    return verifyCapsule(pieces(), recompute);
}

const failed = (verdict: Verdict) => verdict.findings.filter(({ ok }) => !ok).map(({ check }) => check);

describe("carbon/capsule", () => {
    it("verifies, whatever pieces it comes in, and says what it holds", async () => {
        const { text, summary } = build();
        for (const piece of [1, 7, 1000, 1e6]) {
            const verdict = await judge(text, piece);
            assert.deepEqual(failed(verdict), []);
            assert.deepEqual(verdict.summary, { ...summary, terms: TERMS });
        }
        assert.deepEqual(summary.outcome.report, { "home/grid": 200, "home/pv": 10 });
        const tree = new Frontier();
        for (const line of text.split("\n").slice(0, -2)) tree.add(leafHash(line));
        assert.equal(summary.root, tree.root().toString("hex"));
        assert.equal(capsuleEntry(summary), `{"capsule":"${summary.root}","format":"wattledger.capsule/1","period":{"from":1000,"to":9000},"project":"p1"}`);
    });

    it("is the same to the byte whatever the order and however often samples came, and wherever keys stand", () => {
        const { text } = build();
        fc.assert(
            fc.property(fc.shuffledSubarray([...SAMPLES, ...SAMPLES], { minLength: 10 }), (samples) => {
                const turned = samples.map((sample) => Object.fromEntries(Object.entries(sample).toReversed()) as unknown as RawSample);
                assert.equal(build(turned.toSorted(compareSamples)).text, text);
            }),
        );
        assert.throws(() => build(SAMPLES.toReversed()), { code: "CAPSULE_ORDER" });
    });

    it("holds without samples", async () => {
        assert.deepEqual(failed(await judge(build([]).text)), []);
    });

    it("gives another verdict when any byte is flipped, left out or put in", async () => {
        const { text, summary } = build();
        const bytes = Buffer.from(text);
        const isSame = (verdict: Verdict) => verdict.ok && verdict.summary?.root === summary.root;
        for (let at = 0; at < bytes.length; at++) {
            const flipped = Buffer.from(bytes);
            flipped[at]! ^= 1 << at % 8;
            const verdict = await judge(flipped);
            assert.ok(!verdict.ok, `byte ${at} flipped`);
            assert.ok(!isSame(await judge(Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]))), `byte ${at} left out`);
            if (at % 5 === 0) assert.ok(!isSame(await judge(Buffer.concat([bytes.subarray(0, at), Buffer.from([at % 256]), bytes.subarray(at)]))), `byte put in at ${at}`);
        }
        for (const more of ["\n", " ", "{}\n", "\u0000"]) assert.ok(!(await judge(text + more)).ok);
    });

    it("gives another root or verdict when any field is changed and everything is reckoned anew", async () => {
        const { summary } = build();
        const lines = build().text.split("\n").slice(0, -3).map((line) => JSON.parse(line) as JsonObject);
        let mutants = 0;
        for (const [i, line] of lines.entries()) {
            for (const path of paths(line)) {
                const changed = structuredClone(line);
                if (!mutate(changed, path)) continue;
                mutants++;
                const all = lines.map((other, j) => (i === j ? changed : other));
                let forged: string;
                try {
                    forged = build(all.slice(1) as unknown as RawSample[], (all[0] as { terms: unknown }).terms as CapsuleTerms).text;
                } catch {
                    continue;
                }
                const verdict = await judge(forged);
                assert.notEqual(verdict.summary?.root, summary.root, `line ${i} ${path.join("/")}`);
                if (i > 0 && line["signature"] !== undefined && !["since", "meter", "values"].includes(path[0]!)) assert.deepEqual(failed(verdict), ["signatures"], `line ${i} ${path.join("/")}`);
            }
        }
        assert.ok(mutants > 40, String(mutants));
    });

    it("wants a device's signature on each measured sample of a meter with a key", async () => {
        const { signature: _signature, ...bare } = SAMPLES[0]!;
        assert.deepEqual(failed(await judge(build([bare, ...SAMPLES.slice(1)]).text)), ["signatures"]);
        assert.deepEqual(failed(await judge(build([{ ...bare, origin: "doubtful" }, ...SAMPLES.slice(1)]).text)), []);
        assert.match((await judge(build(SAMPLES, { ...TERMS, keys: [] }).text)).findings[2]!.text, /No device key is named.* 3 of meters without a key/);
        assert.equal((await judge(build([], { ...TERMS, keys: [{ meter: "a", key: "AAAA", from: 0, to: 1 }] }).text)).ok, false);
    });

    it("tells where a report differs from what the samples give", async () => {
        const cheat: Recompute = (terms) => {
            const run = engine(terms);
            return { ...run, finish: () => ({ ...run.finish(), report: { ...run.finish().report, "home/grid": 201 } }) };
        };
        const verdict = await judge(build().text, 1000, cheat);
        assert.deepEqual(failed(verdict), ["report"]);
        assert.match(verdict.findings[3]!.text, /\/report\/home\/grid states 200, the samples give 201/);
    });

    it("says why the engine refuses the terms", async () => {
        const lines = [...(() => build().text.split("\n"))()];
        const tree = new Frontier();
        lines[0] = lines[0]!.replace('{"maxGapMs":5}', "{}");
        for (const line of lines.slice(0, -2)) tree.add(leafHash(line));
        lines[lines.length - 2] = `{"root":"${tree.root().toString("hex")}","samples":5}`;
        const verdict = await judge(lines.join("\n"));
        assert.deepEqual(failed(verdict), ["report"]);
        assert.match(verdict.findings[3]!.text, /The settings name no longest gap/);
    });

    it("refuses to write what no capsule can hold", () => {
        for (const change of [{ exportWh: 1.5 }, { exportWh: -1 }, { at: Number.NaN }, { importWh: 2 ** 53 }, { origin: "guessed" }, { more: 1 }]) {
            assert.throws(() => build([{ ...SAMPLES[0]!, ...change } as RawSample]), { code: "CAPSULE_INVALID" });
        }
        assert.throws(() => build([], { ...TERMS, period: { from: 2, to: 2 } }), { code: "CAPSULE_INVALID" });
    });

    it("judges garbage without an error of its own", async () => {
        await fc.assert(
            fc.asyncProperty(fc.oneof(fc.uint8Array(), fc.string(), fc.json().map((text) => `${text}\n`)), async (garbage) => {
                const verdict = await judge(Buffer.from(garbage as string));
                assert.deepEqual(failed(verdict), ["form"]);
            }),
        );
    });
});

/** Where the leaves of a value are. */
function paths(value: unknown, at: string[] = []): string[][] {
    if (typeof value !== "object" || value === null) return [at];
    return Object.entries(value).flatMap(([name, item]) => paths(item, [...at, name]));
}

/** Changes one leaf to another value of its kind. */
function mutate(value: JsonObject, path: readonly string[]): boolean {
    let place = value as Record<string, unknown>;
    for (const name of path.slice(0, -1)) place = place[name] as Record<string, unknown>;
    const name = path.at(-1)!;
    const old = place[name];
    if (typeof old === "number") place[name] = old + 1;
    else if (typeof old === "string" && name !== "format") place[name] = name === "origin" ? (old === "measured" ? "doubtful" : "measured") : `${old}x`;
    else return false;
    return true;
}
