import assert from "node:assert/strict";
import fc from "fast-check";
import { z } from "zod";
import { booleanField, choiceField, numberField, parseConfig, textField, zoneField } from "../../dist/common/config.js";

const schema = z.object({
    host: textField(),
    name: textField("unnamed"),
    port: numberField({ min: 1, max: 65535, default: 502, integer: true }),
    scale: numberField({ min: -10, max: 10, default: 1 }),
    active: booleanField(true),
    mode: choiceField(["poll", "push"], "poll"),
    zone: zoneField("UTC"),
});
const defaults = { host: "h", name: "unnamed", port: 502, scale: 1, active: true, mode: "poll", zone: "UTC" };
const parse = (def: unknown) => parseConfig(schema, def);

describe("config", () => {
    for (const blank of [undefined, null, "", "  ", "${WL_NOT_SET}"]) {
        it(`takes the default for ${JSON.stringify(blank)}`, () => {
            const def = Object.fromEntries(Object.keys(defaults).map((key) => [key, blank]));
            assert.deepEqual(parse({ ...def, host: "h" }), defaults);
        });
    }

    it("reads the text that environment variables carry", () => {
        const def = { host: " plc.local ", name: 5, port: "1502", scale: " -2.5 ", active: "off", mode: "push", zone: "Europe/Berlin" };
        const expected = { host: "plc.local", name: "5", port: 1502, scale: -2.5, active: false, mode: "push", zone: "Europe/Berlin" };
        assert.deepEqual(parse(def), expected);
    });

    for (const [text, value] of [["true", true], ["TRUE", true], ["1", true], [1, true], ["yes", true], [" on ", true], ["false", false], ["0", false], [0, false], ["No", false]] as const) {
        it(`takes ${JSON.stringify(text)} for ${value}`, () => assert.equal(parse({ host: "h", active: text }).active, value));
    }

    const faults: [object, string][] = [
        [{ host: "" }, "host must not be empty"],
        [{ host: {} }, "host must be a text"],
        [{ port: 0 }, "port must be a whole number from 1 to 65535"],
        [{ port: 502.5 }, "port must be a whole number from 1 to 65535"],
        [{ port: "502 tcp" }, "port must be a whole number from 1 to 65535"],
        [{ port: [] }, "port must be a whole number from 1 to 65535"],
        [{ port: true }, "port must be a whole number from 1 to 65535"],
        [{ scale: "Infinity" }, "scale must be a number from -10 to 10"],
        [{ scale: NaN }, "scale must be a number from -10 to 10"],
        [{ active: "maybe" }, "active must be true or false"],
        [{ active: 2 }, "active must be true or false"],
        [{ mode: "pull" }, "mode must be one of poll, push"],
        [{ zone: "Mars/Olympus" }, "zone must be a time zone such as Europe/Berlin"],
        [{ port: "x", mode: "y" }, "port must be a whole number from 1 to 65535; mode must be one of poll, push"],
    ];
    for (const [def, text] of faults) {
        it(`says of ${JSON.stringify(def)}: ${text}`, () => {
            assert.throws(() => parse({ host: "h", ...def }), { code: "CONFIG_INVALID", message: `Check the settings: ${text}.` });
        });
    }

    it("of any garbage is taken whole or refused by name, and the error repeats no value", () => {
        const canary = "canary-93bc";
        const any = fc.anything({ values: [fc.boolean(), fc.double(), fc.string(), fc.constant(null), fc.constant(canary)] });
        fc.assert(
            fc.property(fc.oneof(any, fc.record(Object.fromEntries(Object.keys(defaults).map((key) => [key, any])), { requiredKeys: [] })), (def) => {
                try {
                    const { host, port, scale, active, mode, zone } = parse(def);
                    assert.ok(host !== "" && Number.isInteger(port) && port >= 1 && port <= 65535 && Math.abs(scale) <= 10);
                    assert.ok(typeof active === "boolean" && (mode === "poll" || mode === "push") && zone !== "");
                } catch (error) {
                    const { code, message } = error as { code?: string; message: string };
                    assert.equal(code, "CONFIG_INVALID", message);
                    assert.ok(!message.includes(canary));
                }
            }),
            { numRuns: 2000 },
        );
    });
});
