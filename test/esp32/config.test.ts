import assert from "node:assert/strict";
import fc from "fast-check";
import { addKey, keysOf, parseSecrets } from "../../dist/esp32/config.js";
import { deviceName } from "../../dist/esp32/values.js";

describe("the keys of wl-esp32", () => {
    it("are made for whatever a device may be called", () => {
        const device = fc.string({ unit: "binary", maxLength: 70 });
        const property = fc.property(fc.oneof(device, fc.constantFrom("My inverter", "__proto__")), (name) => {
            let usable: string;
            try {
                usable = deviceName(name);
            } catch {
                return;
            }
            const { name: made, secret, keys } = addKey(undefined, name);
            assert.equal(made, usable);
            assert.equal(keysOf({ devices: [{ device: made }], anonymous: false }, parseSecrets(keys)).keys.bearer(secret).device, made.endsWith("*") ? undefined : made);
        });
        fc.assert(property, { examples: [["My inverter"], ["__proto__"]] });
    });

    it("are none for what no device is called", () => {
        for (const name of ["", " ", "shed/1", "a#b", "a+b", "a\nb", "x".repeat(70), undefined, {}]) assert.throws(() => addKey("", name), { code: "CONFIG_INVALID" });
    });

    it("stay while their devices are listed", () => {
        const one = addKey(undefined, "one").keys;
        const both = addKey(one, "two", ["one"]).keys;
        assert.deepEqual(Object.keys(parseSecrets(both)), ["one", "two"]);
        assert.equal(parseSecrets(both)["one"], parseSecrets(one)["one"]);
        assert.deepEqual(Object.keys(parseSecrets(addKey(both, "three", ["two"]).keys)), ["two", "three"]);
        assert.deepEqual(Object.keys(parseSecrets(addKey(both, "three").keys)), ["one", "two", "three"]);
        assert.notEqual(parseSecrets(addKey(one, "one").keys)["one"], parseSecrets(one)["one"]);
    });
});
