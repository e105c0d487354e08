import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { parseFactors } from "../../dist/carbon/factor.js";
import { keyOf, mark, parseProject, parseReport, projectDocument, reportDocument } from "../../dist/guardian/document.js";
import { validate } from "../../dist/guardian/schema.js";
import { at, compare, mintOf, preflight } from "../../dist/guardian/twin.js";
import { calculate } from "../../dist/simulate/guardian-calculation.js";
import { BLOCKS } from "../../dist/simulate/guardian-policy.js";
import { AMS_ID_SCHEMA } from "../../dist/simulate/guardian-schema.js";
import { DAY, days, meterRecord, report as carbonReport, seal, START, steady } from "../carbon/rig.js";
import { nodeRedPath, root } from "../node-red.js";
import { FACTS, fakeReport, KEY } from "./documents.js";

type Json = Record<string, unknown>;
const Ajv = require(require.resolve("ajv", { paths: [nodeRedPath] })) as new (options: object) => { compile(schema: object): (value: unknown) => boolean };

/** A file of the real policy, where a folder with them is named by GUARDIAN_DATA or lies beside the repository; small fixtures are always here. */
const real = (name: string): Json | undefined => {
    const parent = path.join(root, "..");
    const beside = readdirSync(parent).map((found) => path.join(parent, found, "reference/data/guardian"));
    const file = [process.env["GUARDIAN_DATA"], ...beside].map((folder) => path.join(folder ?? "", "ams-i-d", name)).find((found) => existsSync(found));
    return file === undefined ? undefined : (JSON.parse(readFileSync(file, "utf8")) as Json);
};
const vectors = (JSON.parse(readFileSync(path.join(root, "test/fixtures/guardian/vectors.json"), "utf8")) as { vectors: Vector[] }).vectors;

interface Vector {
    name: string;
    mwh: number;
    om: number;
    bm: number;
    solar: boolean;
    first: boolean;
    leakage: number;
    factor: number;
    reduction: number;
    mint: number;
}

function documentOf({ mwh, om, bm, solar, first, leakage }: Pick<Vector, "mwh" | "om" | "bm" | "solar" | "first" | "leakage">): Json {
    const facts = parseProject({ ...FACTS, factor: { ...FACTS.factor, om, bm }, technology: solar ? "solar" : "other", creditingPeriod: { ...FACTS.creditingPeriod, first } });
    const document = projectDocument(facts, KEY);
    (document["H33"] as Json)["H40"] = mwh;
    document["H112"] = leakage;
    return document;
}

/** What a server makes of a document. */
function served(document: unknown): Json {
    const stored = structuredClone(document) as Json;
    calculate(stored);
    return stored;
}

describe("the local twin of AMS-I.D", () => {
    for (const vector of vectors) {
        it(`computes: ${vector.name}`, () => {
            const document = documentOf(vector);
            const { computed, mint } = preflight(document, AMS_ID_SCHEMA, "nearest");
            assert.ok(computed);
            assert.ok(Math.abs(computed.factor - vector.factor) <= 1e-12);
            assert.ok(Math.abs(computed.reductionT - vector.reduction) <= 1e-12);
            assert.equal(mint, vector.mint);
            assert.deepEqual(compare(document, computed, served(document)), []);
        });
    }

    it("and the stand-in, written apart, agree to 1e-9 on any figures", () => {
        const figure = fc.double({ min: 0, max: 1e6, noNaN: true });
        const factor = fc.double({ min: 0, max: 3, noNaN: true });
        fc.assert(
            fc.property(figure, factor, factor, fc.boolean(), fc.boolean(), figure, (mwh, om, bm, solar, first, leakage) => {
                const document = documentOf({ mwh, om, bm, solar, first, leakage });
                const { computed } = preflight(document, AMS_ID_SCHEMA, "nearest");
                assert.ok(computed);
                assert.deepEqual(compare(document, computed, served(document)), []);
            }),
        );
    });

    it("takes a whole document and gives what it computes", () => {
        assert.deepEqual(preflight(documentOf({ mwh: 100, om: 0.729, bm: 0.326, solar: true, first: true, leakage: 0 }), AMS_ID_SCHEMA, "floor").violations, []);
    });

    const whole = documentOf({ mwh: 100, om: 0.729, bm: 0.326, solar: true, first: true, leakage: 0 });
    /** Dotted paths to every leaf. */
    const leaves = (value: unknown, at_ = ""): string[] =>
        typeof value === "object" && value !== null ? Object.entries(value).flatMap(([key, item]) => leaves(item, at_ === "" ? key : `${at_}.${key}`)) : [at_];
    const change = (where: string, to: unknown): Json => {
        const copy = structuredClone(whole);
        const cut = where.lastIndexOf(".");
        const holder = (cut < 0 ? copy : at(copy, where.slice(0, cut))) as Json;
        if (to === undefined) delete holder[where.slice(cut + 1)];
        else holder[where.slice(cut + 1)] = to;
        return copy;
    };

    it("refuses NaN, infinities, null and a number as text in any number", () => {
        const numbers = leaves(whole).filter((where) => typeof at(whole, where) === "number" && !where.includes("coordinates"));
        assert.ok(numbers.length > 15);
        for (const where of numbers) {
            for (const wrong of [NaN, Infinity, -Infinity, "1", null]) assert.equal(preflight(change(where, wrong), AMS_ID_SCHEMA, "nearest").ok, false, `${where} = ${String(wrong)}`);
        }
    });

    it("refuses any document whose loss the policy would not survive, or take for a figure of 0", () => {
        const reference = served(whole);
        for (const where of ["H33", "H81", "H112", "H33.H40", "H33.tool_07", "H33.tool_07.field2", "H33.tool_07.field2.field0", "H33.tool_07.field4", "H33.tool_07.field5", "H33.tool_07.field5.field0", "H81.power_density", "H81.H82", "H81.H109", "field0"]) {
            assert.equal(preflight(change(where, undefined), AMS_ID_SCHEMA, "nearest").ok, false, where);
        }
        for (const where of leaves(whole)) {
            const cut = change(where, undefined);
            if (!preflight(cut, AMS_ID_SCHEMA, "nearest").ok) continue;
            assert.equal(at(served(cut), "H113.H114"), at(reference, "H113.H114"), `${where} may be missing only where nothing depends on it`);
        }
    });

    it("refuses what the schema does not name, at any level", () => {
        for (const where of ["extra", "field0.extra", "H33.extra", "H33.tool_07.extra", "H33.tool_07.field5.extra", "H81.extra", "H81.power_density.extra"]) {
            const { violations } = preflight(change(where, 1), AMS_ID_SCHEMA, "nearest");
            assert.deepEqual(violations, [{ path: where, problem: "is not in the schema" }]);
        }
    });

    it("refuses claims below nothing, and leakage that raises them", () => {
        for (const where of ["H33.H40", "H112", "H33.tool_07.field2.field0"]) assert.equal(preflight(change(where, -1), AMS_ID_SCHEMA, "nearest").ok, false, where);
    });

    it("refuses the fields of a biogas policy that the form's preset names", () => {
        const body = { field1: "1", field6: "0.5", field17: "x", field21: "1", field22: "1", field26: "1", field27: "0.81", field28: "Tool 06" };
        assert.ok(preflight(body, AMS_ID_SCHEMA, "nearest").violations.length > 8);
    });

    it("never throws, whatever it is given", () => {
        fc.assert(fc.property(fc.anything(), (value) => assert.equal(preflight(value, AMS_ID_SCHEMA, "nearest").ok, false)));
        fc.assert(fc.property(fc.anything(), fc.anything(), (schema, value) => void validate(schema, value)));
    });

    it("rounds as the policy does", () => {
        assert.deepEqual([0.49, 0.5, 0.6, -0.4, 62.9].map((t) => mintOf(t, "nearest")), [0, 1, 1, 0, 63]);
        assert.deepEqual([0.9, 1, 1.0000001].map((t) => mintOf(t, "floor")), [0, 1, 1]);
        assert.deepEqual([0.1, 1, 1.0000001].map((t) => mintOf(t, "ceiling")), [1, 1, 2]);
    });

    it("finds any figure that the server has otherwise, and any input that it has changed", () => {
        const { computed } = preflight(whole, AMS_ID_SCHEMA, "nearest");
        assert.ok(computed);
        for (const where of [...leaves(whole), "H113.H114", "H33.H34", "H33.H37", "H81.H85"]) {
            const stored = served(whole);
            const cut = where.lastIndexOf(".");
            const holder = (cut < 0 ? stored : at(stored, where.slice(0, cut))) as Json;
            const value = holder[where.slice(cut + 1)];
            holder[where.slice(cut + 1)] = typeof value === "number" ? value + 2e-9 * Math.max(1, Math.abs(value)) : "other";
            assert.ok(compare(whole, computed, stored).length > 0, where);
        }
    });
});

describe("the monitoring report", () => {
    const approved = () => ({ ...served(projectDocument(parseProject(FACTS), KEY)), "@context": ["schema:x"], id: "urn:uuid:1", type: "x", policyId: "p", ref: "r", guardianVersion: "3" });

    it("is made of the validated project with the report's figures, and passes", () => {
        const report = fakeReport({ mwh: 160 });
        const document = reportDocument(report, approved(), AMS_ID_SCHEMA, KEY, "ab".repeat(32));
        const { ok, violations, computed, mint } = preflight(document, AMS_ID_SCHEMA, "nearest", report);
        assert.deepEqual([ok, violations], [true, []]);
        assert.equal(computed?.reductionT, report.figures.reductionT);
        assert.equal(mint, report.figures.credits);
        assert.equal(keyOf(document), KEY);
        assert.match(String(at(document, "field0.field27")), /evidence=abab/);
        assert.deepEqual(at(document, "field0.field23"), [{ field0: "2026-01-01", field1: "2026-01-31" }]);
    });

    it("names no person where the form does not ask for one", () => {
        const document = reportDocument(fakeReport({ mwh: 160 }), approved(), AMS_ID_SCHEMA, KEY);
        for (const cell of ["field10", "field11", "field14", "field15"]) assert.equal(at(document, `field0.${cell}`), undefined);
        const strict = structuredClone(AMS_ID_SCHEMA) as { properties: { field0: { required?: string[] } } };
        strict.properties.field0.required = ["field15"];
        assert.equal(at(reportDocument(fakeReport({ mwh: 160 }), approved(), strict, KEY), "field0.field15"), FACTS.email);
    });

    it("is refused where the policy would mint more than the report has, or weigh the margins otherwise", () => {
        const report = fakeReport({ mwh: 160 });
        const document = reportDocument(report, approved(), AMS_ID_SCHEMA, KEY);
        const fewer = { ...report, figures: { ...report.figures, credits: report.figures.credits - 1 } };
        assert.match(preflight(document, AMS_ID_SCHEMA, "nearest", fewer).violations[0]?.problem ?? "", /would mint/);
        const half = { ...report, factor: { ...report.factor!, wOm: 0.5, wBm: 0.5 } };
        assert.equal(preflight(document, AMS_ID_SCHEMA, "nearest", half).ok, false);
        const unready = { ...report, ready: false, refusals: [{ code: "X", text: "Not yet." }] };
        assert.equal(preflight(document, AMS_ID_SCHEMA, "nearest", unready).ok, false);
    });

    it("is filed as wl-ams-id makes it: what is ready passes, and mints its whole tonnes", () => {
        const meter = meterRecord();
        let count = 0;
        fc.assert(
            fc.property(fc.integer({ min: 60_000, max: 900_000 }), fc.integer({ min: 100_000, max: 1_200_000 }), fc.integer({ min: 0, max: 900_000 }), (watts, om, bm) => {
                const factors = parseFactors({ om: om / 1e6, bm: bm / 1e6, source: "a study", vintage: "2021", fileSha256: "ab".repeat(32) });
                const made = carbonReport(seal(steady(START, START + 2 * DAY, watts, 1000), [meter], START, days(START, 2)), [meter], { factors });
                if (!made.ready) return;
                count++;
                const report = parseReport(JSON.parse(JSON.stringify(made)));
                const project = served(projectDocument(parseProject({ ...FACTS, factor: { ...FACTS.factor, om: om / 1e6, bm: bm / 1e6 } }), KEY));
                const document = reportDocument(report, project, AMS_ID_SCHEMA, KEY);
                for (const rounding of ["nearest", "floor"] as const) {
                    const { violations, mint } = preflight(document, AMS_ID_SCHEMA, rounding, report);
                    assert.deepEqual([violations, mint], [[], made.figures.credits]);
                }
                const up = preflight(document, AMS_ID_SCHEMA, "ceiling", report);
                assert.equal(up.ok, up.mint === made.figures.credits);
            }),
            { numRuns: 25 },
        );
        assert.ok(count > 5);
    });

    it("keeps the factor that was validated with the project, unless it is fixed afterwards", () => {
        const report = fakeReport({ mwh: 160 });
        const other = { ...report, factor: { ...report.factor!, om: 0.8 } };
        assert.throws(() => reportDocument(other, approved(), AMS_ID_SCHEMA, KEY), { code: "GUARDIAN_FACTOR" });
        const later = { ...other, factor: { ...other.factor, kind: "ex-post" as const } };
        assert.equal(at(reportDocument(later, approved(), AMS_ID_SCHEMA, KEY), "H33.tool_07.field2.field0"), 0.8);
    });

    it("carries its key where it can be read back", () => {
        assert.equal(keyOf({ field0: { field27: mark(KEY, { a: "b" }) } }), KEY);
        for (const other of [undefined, {}, { field0: { field27: "example" } }, { field0: { field27: `key=${KEY}0` } }]) assert.equal(keyOf(other), undefined);
    });
});

describe("the schema check", () => {
    /** The same words as Guardian's schemas use, against ajv, which Guardian uses. */
    const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });

    it("says as ajv does of any document", () => {
        const check = ajv.compile(AMS_ID_SCHEMA);
        const seed = documentOf({ mwh: 1, om: 1, bm: 1, solar: true, first: true, leakage: 0 });
        const full = { ...served(seed), "@context": ["x"], type: "x", id: "y" };
        assert.equal(check(full), true);
        const paths = Object.keys(flat(full));
        fc.assert(
            fc.property(fc.constantFrom(...paths), fc.oneof(fc.constant(undefined), fc.jsonValue()), (where, value) => {
                const copy = structuredClone(full);
                const cut = where.lastIndexOf(".");
                const holder = (cut < 0 ? copy : at(copy, where.slice(0, cut))) as Json;
                if (value === undefined) delete holder[where.slice(cut + 1)];
                else holder[where.slice(cut + 1)] = value;
                const sent = JSON.parse(JSON.stringify(copy)) as Json;
                const ours = validate(AMS_ID_SCHEMA, sent).filter(({ problem }) => !/^must be a (date|email)/.test(problem));
                assert.equal(ours.length === 0, check(sent), `${where} = ${JSON.stringify(value)}`);
            }),
            { numRuns: 300 },
        );
    });

    for (const schema of [
        { type: ["string", "null"] },
        { type: "integer", minimum: 2, maximum: 5 },
        { type: "array", items: { type: "number" }, minItems: 1, maxItems: 2 },
        { type: "string", minLength: 2, maxLength: 3, pattern: "^a" },
        { oneOf: [{ type: "string" }, { type: "array", items: { type: "string" } }] },
        { anyOf: [{ const: 1 }, { enum: ["a", null] }], not: { const: null } },
        // Parsed: a literal with "then" looks like a promise.
        JSON.parse(`{"type":"object","properties":{"a":{"const":"Yes"}},"if":{"properties":{"a":{"const":"Yes"}},"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`) as object,
        { allOf: [{ type: "object" }, { additionalProperties: { type: "number" } }] },
        { type: "object", properties: { x: { $ref: "#/definitions/n" } }, definitions: { n: { type: "number" } } },
    ]) {
        it(`says as ajv does of ${JSON.stringify(schema)}`, () => {
            const check = ajv.compile(schema);
            const word = fc.constantFrom<unknown>(0, 1, 3, 7, 2.5, "a", "aa", "abcd", "Yes", "No", null, true, [1], ["a"], [1, 2, 3], [], {}, { a: "Yes" }, { a: "Yes", b: 1 }, { c: 1 }, { x: 1 }, { x: "1" });
            fc.assert(fc.property(word, (value) => assert.equal(validate(schema, value).length === 0, check(value), JSON.stringify(value))));
        });
    }

    it("knows dates, times and mail addresses", () => {
        const is = (format: string, text: string) => validate({ type: "string", format }, text).length === 0;
        assert.deepEqual(["2026-02-28", "2026-02-29", "2024-02-29", "2026-1-1", "x"].map((text) => is("date", text)), [true, false, true, false, false]);
        assert.deepEqual(["2026-02-28T00:00:00Z", "2026-02-28T24:30:00Z", "2026-02-28T00:00:00+01:00", "2026-02-28"].map((text) => is("date-time", text)), [true, false, true, false]);
        assert.deepEqual(["a@b.org", "a.b@c-d.org", "a@", "@b", "a b@c.org", "a..b@c.org"].map((text) => is("email", text)), [true, true, false, false, false, false]);
    });

    it("passes nothing that it cannot check", () => {
        assert.equal(validate({ contains: {} }, []).length, 1);
        assert.equal(validate({ $ref: "#nowhere" }, 1).length, 1);
        assert.equal(validate({ type: "string", format: "moon-phase" }, "full").length, 1);
        const endless = { $id: "#a", properties: { a: { $ref: "#a" } }, allOf: [{ $ref: "#a" }] };
        assert.ok(validate(endless, {}).length > 0);
    });

    it("finds a part by its id or its key, and lets the server's own properties be missing", () => {
        const part = { $id: "#p&1.0.0", type: "object", properties: { "@context": {}, type: {}, from: { type: "string", format: "date" } }, required: ["@context", "type", "from"], additionalProperties: false };
        const schema = { type: "object", properties: { a: { $ref: "#p&1.0.0" } }, $defs: { "#p&1.0.0": part } };
        assert.deepEqual(validate(schema, { a: { from: "2026-01-01" } }, { serverSets: true }), []);
        assert.equal(validate(schema, { a: { from: "2026-01-01" } }).length, 2);
        assert.equal(validate(schema, { a: {} }, { serverSets: true }).length, 1);
    });
});

describe("the stand-in's policy", () => {
    const sample = real("sample-vp.dry-run.json");
    const blocks = real("blocks.ams-i-d.json") as unknown as Json[] | undefined;
    const form = real("project-and-report.schema.reconstructed.json");

    it("computes the sample of a real dry run from its inputs: reduction 0, amount 0", () => {
        const own = JSON.parse(readFileSync(path.join(root, "test/fixtures/guardian/dry-run-results.json"), "utf8")) as { inputs: Json; results: Json };
        const stored = served(own.inputs);
        for (const [where, value] of Object.entries(own.results)) assert.equal(at(stored, where), value, where);
    });

    if (sample) {
        it("computes every figure of the real document itself, which its schema takes", () => {
            const credential = at(sample, "vp.verifiableCredential.0.credentialSubject.0") as Json;
            assert.deepEqual(validate(AMS_ID_SCHEMA, credential), []);
            assert.deepEqual(served(credential), credential);
        });
    }
    if (blocks) {
        it("has the real policy's tags, types, roles, schemas and statuses", () => {
            for (const { tag, blockType, permissions, schema, values = {} } of BLOCKS) {
                const found: Json | undefined = blocks.find((block) => block["tag"] === tag);
                assert.ok(found, tag);
                assert.deepEqual([found["blockType"], found["permissions"]], [blockType, permissions], tag);
                if (schema !== undefined) assert.equal(found["schema"], schema, tag);
                for (const [button, status] of Object.entries(values)) {
                    if (status === "Revoked") continue;
                    const press: Json | undefined = (found["buttons"] as Json[]).find((known) => known["tag"] === button);
                    assert.equal(press?.["value"], status, `${tag} ${button}`);
                }
            }
        });
    }
    if (form) {
        it("has the form that was read off the real document", () => {
            const names = (schema: unknown): unknown => {
                const { properties, items, enum: choices, type } = schema as Json;
                if (items) return { items: names(items) };
                return properties ? Object.fromEntries(Object.entries(properties as Json).map(([key, part]) => [key, names(part)])) : { type, choices };
            };
            assert.deepEqual(names(AMS_ID_SCHEMA), names(form));
        });
    }
});

function flat(value: unknown, prefix = ""): Record<string, unknown> {
    if (typeof value !== "object" || value === null) return { [prefix]: value };
    return Object.assign(prefix === "" ? {} : { [prefix]: value }, ...Object.entries(value).map(([key, item]) => flat(item, prefix === "" ? key : `${prefix}.${key}`))) as Record<string, unknown>;
}
