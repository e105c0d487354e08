import assert from "node:assert/strict";
import fc from "fast-check";
import { importAmsConfig, readAmsConfig } from "../../dist/carbon/ams-config.js";
import { WattError } from "../../dist/common/errors.js";

const read = (json: unknown) => readAmsConfig(JSON.stringify(json));
const METER = { meter: "p/m", ratedW: 1000 };
const FACTOR = { om: 0.729, bm: 0.326 };

describe("carbon/ams-config", () => {
    it("takes numbers and their texts, meters, factors and project as they stand there", () => {
        const config = read({ aggregation: { interval_hours: "12", min_data_points: 20 }, esp32: { data_interval_seconds: 300 }, meters: [METER], factors: FACTOR, project: { country: "Morocco" } });
        assert.deepEqual([config.fields.intervalHours, config.fields.minPoints, config.sampleS, config.project], [12, 20, 300, { country: "Morocco" }]);
        assert.deepEqual([JSON.parse(config.fields.meters!), JSON.parse(config.fields.factors!)], [[METER], FACTOR]);
        assert.deepEqual(config.notes, []);
        assert.deepEqual(read({ project: { country: "Spain" } }).project, { country: "Spain" });
    });

    const interval = /^interval_hours must be a number from \S+ to 744\.$/;
    const refusals: [string, RegExp][] = [
        ['"x"', /^This is no object in braces/],
        ["[1]", /^This is no object in braces/],
        ["null", /^This is no object in braces/],
        ["{}", /^This holds no settings/],
        ...['true', '[5,6]', '{"n":5}', 'null', '""', '"${HOURS}"', '"daily"', "1e300", "0", "-1"].map((value): [string, RegExp] => [`{"aggregation":{"interval_hours":${value}}}`, interval]),
        ['{"min_data_points":1.5}', /^min_data_points must be a whole number from 1 to 100000\.$/],
        ['{"check_interval_minutes":false}', /^check_interval_minutes must be a number from 0\.01 to 1440\.$/],
        ['{"data_interval_seconds":1e300}', /^data_interval_seconds must be a number from 1 to 3600\.$/],
        ['{"meters":5}', /meters must be a list of meters/],
        ['{"meters":[{"meter":"p/m"}]}', /meters\.0\.ratedW must be/],
        ['{"factors":{"__proto__":1}}', /factors\.0\.om must be the operating margin/],
        ['{"factors":[{"om":700,"bm":326}]}', /tCO2\/MWh, not g\/kWh/],
        ...["5", '"x"', "[]", "null"].map((value): [string, RegExp] => [`{"project":${value}}`, /^project must be an object, as wl-guardian-project takes it\.$/]),
    ];
    for (const [text, said] of refusals) {
        it(`refuses ${text}`, () => assert.throws(() => readAmsConfig(text), (error) => error instanceof WattError && said.test(error.message)));
    }

    it("refuses what is nested without end, wherever that is", () => {
        for (const [open, inner, close] of [['{"a":', "1", "}"], ["[", "", "]"]] as const) {
            const deep = open.repeat(20_000) + inner + close.repeat(20_000);
            for (const text of [`{"a":${deep}}`, `{"meters":${deep}}`, `{"project":{"details":${deep}}}`]) assert.throws(() => readAmsConfig(text), /nested deeper than 100 levels/);
        }
    });

    it("names each setting that is no text, or not known", () => {
        const { guardian, notes } = read({ guardian: { base_url: ["https://example.org"], username: { name: "u" }, password: null, tenant_id: "t" }, sensors: [1, 2], ams_id_policy: { policy_tag: { a: 1 } } });
        assert.deepEqual(guardian, { tenantId: "t" });
        assert.deepEqual(notes, [
            ...["base_url", "username", "password"].map((key) => `${key} was left out: it must be a text, in quotes.`),
            "sensors is not known here.",
            "policy_tag is not needed: the Guardian connection finds the policy by its forms.",
        ]);
    });

    it("takes any JSON or refuses it in words, in the dialog too", () => {
        const keys = fc.constantFrom("interval_hours", "min_data_points", "data_interval_seconds", "username", "meters", "factors", "project", "guardian", "__proto__", "x");
        const { value } = fc.letrec((tie) => ({
            value: fc.oneof({ depthSize: "small" }, fc.jsonValue({ maxDepth: 1 }), fc.dictionary(keys, tie("value"), { maxKeys: 5 })),
        }));
        fc.assert(fc.property(value, (json) => {
            try {
                const { fields } = importAmsConfig(JSON.stringify(json));
                for (const name of ["intervalHours", "minPoints", "checkMinutes"] as const) assert.ok(fields[name] === undefined || Number.isFinite(fields[name]), name);
            } catch (error) {
                assert.ok(error instanceof WattError, String(error));
            }
        }));
    });
});
