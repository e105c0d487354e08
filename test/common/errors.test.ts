import assert from "node:assert/strict";
import { errorCode, errorText, toError, WattError } from "../../dist/common/errors.js";

describe("errors", () => {
    it("speak to a person wherever Node-RED shows them", () => {
        const error = new WattError("PROBE_LOST", "The probe is gone: plug it in.");
        assert.equal(`${String(error)}|${errorText(error)}|${error.code}`, "The probe is gone: plug it in.|The probe is gone: plug it in.|PROBE_LOST");
    });

    const thrown: [unknown, string][] = [
        [new RangeError("too far"), "too far"],
        ["a text", "a text"],
        [undefined, "undefined"],
        [null, "null"],
        [5n, "5"],
        [Symbol("s"), "Symbol(s)"],
        [{ message: "from a library", config: { token: "secret" } }, "from a library"],
        [{ token: "secret" }, "Unknown error."],
        [Object.create(null), "Unknown error."],
        [{ toString: 5 }, "Unknown error."],
    ];
    for (const [value, text] of thrown) {
        it(`of any kind have a text: ${text}`, () => {
            assert.equal(errorText(value), text);
            assert.ok(toError(value) instanceof Error);
        });
    }

    it("keep a system error's code", () => {
        assert.equal(errorCode(Object.assign(new Error("x"), { code: "ENOENT" })), "ENOENT");
        for (const value of [undefined, null, "x", { code: 5 }]) assert.equal(errorCode(value), undefined);
    });
});
