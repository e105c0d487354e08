import assert from "node:assert/strict";
import fc from "fast-check";
import { deviceNames, serialOf, slug } from "../../dist/sunspec/naming.js";

describe("device names", () => {
    const names = (...identities: (object | undefined)[]) => deviceNames({ unit: 3, devices: identities.map((identity) => ({ identity, models: [] })) });

    it("are maker and serial number", () => {
        assert.deepEqual(names({ manufacturer: "SolarEdge ", model: "SE10K", serial: "7E1234AB" }), ["solaredge-7e1234ab"]);
        assert.deepEqual(names({ manufacturer: "ABB / FIMER", serial: "#1 2" }), ["abb-fimer-1-2"]);
    });

    it("are maker, model and unit where no serial number is given", () => {
        for (const serial of [undefined, "", "0", "00000000", "N/A", "unknown", "----", "0x0000"]) {
            assert.deepEqual(names({ manufacturer: "Acme", model: "X 1", ...(serial !== undefined && { serial }) }), ["acme-x-1-u3"], serial);
        }
        assert.deepEqual(names(undefined, undefined), ["sunspec-u3", "sunspec-u3-2"]);
        assert.equal(serialOf({ serial: "0012" }), "0012");
    });

    it("differ within a unit", () => {
        const same = { manufacturer: "A", serial: "1" };
        assert.deepEqual(names(same, { ...same, model: "meter" }, same), ["a-1", "a-1-2", "a-1-3"]);
    });

    it("fit a topic, a tag and a file name, whatever a device says", () => {
        fc.assert(fc.property(fc.string({ unit: "binary" }), fc.string(), (manufacturer, serial) => {
            for (const name of names({ manufacturer, serial })) assert.match(name, /^[a-z0-9_][a-z0-9._-]*$/);
            assert.match(slug(manufacturer), /^[a-z0-9_][a-z0-9._-]*$/);
        }));
    });
});
