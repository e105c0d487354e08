import assert from "node:assert/strict";
import { parseConfig } from "../../dist/common/config.js";
import { parseUnits } from "../../dist/modbus/fields.js";
import { sunspecSchema, unitsOf } from "../../dist/sunspec/config.js";

describe("wl-sunspec settings", () => {
    it("take units as a list with ranges", () => {
        assert.deepEqual(parseUnits("3, 1,10-12, 11"), [1, 3, 10, 11, 12]);
        assert.deepEqual(parseUnits(" 247 "), [247]);
        assert.deepEqual(parseUnits("0-255")?.length, 256);
        for (const text of ["", " ", "auto", "Auto"]) assert.equal(parseUnits(text), undefined);
        for (const text of ["x", "1;2", "256", "5-3", "1-", "-3", "1,,2", "1.5"]) assert.throws(() => parseUnits(text), /takes unit ids/, text);
    });

    it("have defaults that read all that is found", () => {
        const config = parseConfig(sunspecSchema, {});
        assert.deepEqual(config, {
            devices: [], deviceClass: "auto", period: 5000, slowPeriod: 60_000, meterPositive: "auto", batteryPositive: "discharge",
            fullModels: false, perPoint: false, byException: false, deadband: 0.5, heartbeat: 60_000,
        });
        assert.equal(unitsOf(config), undefined);
    });

    it("name what is wrong", () => {
        const says = (def: object, pattern: RegExp) => assert.throws(() => parseConfig(sunspecSchema, def), { code: "CONFIG_INVALID", message: pattern });
        says({ units: "one" }, /units takes unit ids/);
        says({ period: "0.1" }, /period must be a number from 0.2/);
        says({ devices: [{ unit: 1, device: 0, name: "a/b" }] }, /devices\.0\.name takes letters/);
        says({ devices: [{ unit: 1, device: 0, name: "roof" }, { unit: 2, device: 0, name: "roof" }] }, /devices must have names that differ/);
        says({ devices: "all" }, /devices must be a list/);
        says({ deviceClass: "toaster" }, /deviceClass must be one of/);
    });

    it("ask the units of chosen devices only", () => {
        const devices = [{ unit: "7", device: 0 }, { unit: 7, device: 1 }, { unit: 3, device: 0, name: "roof" }];
        assert.deepEqual(unitsOf(parseConfig(sunspecSchema, { units: "1-5", devices })), [7, 3]);
    });
});
