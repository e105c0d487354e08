import assert from "node:assert/strict";
import { summarise, type UnitSummary } from "../../dist/modbus/polled-units.js";

describe("the status of a source of units", () => {
    const unit = (state: UnitSummary["state"], more: Partial<UnitSummary["unit"]> = {}): UnitSummary => ({
        state, late: false, overruns: 0, unit: { devices: [{ name: "d" }], ...more },
    });
    const coverage = { read: 48, total: 52 };

    it("says of one device what is missing of it, and of several how many are well", () => {
        const cases: [UnitSummary[], string][] = [
            [[unit("new")], "busy identifying"],
            [[unit("ok", { coverage })], "ok 1 device"],
            [[unit("ok"), unit("new"), unit("new")], "busy 1 of 3 devices"],
            [[unit("ok"), unit("lost"), unit("new")], "warn 1 of 3 devices"],
            [[unit("partly", { coverage })], "warn 48 of 52 points"],
            [[unit("partly")], "warn 0 of 1 device"],
            [[unit("partly", { coverage }), unit("ok")], "warn 1 of 2 devices"],
            [[unit("lost")], "error no answer"],
            [[unit("lost", { trouble: "wrong device" })], "error wrong device"],
            [[unit("lost", { trouble: "wrong device" }), unit("ok")], "warn 1 of 2 devices"],
        ];
        for (const [units, expected] of cases) {
            const { kind, text } = summarise(units, new Map(), "identifying");
            assert.equal(`${kind} ${text}`, expected);
        }
    });
});
