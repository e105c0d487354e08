import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { EnergyBook } from "../../dist/common/energy.js";
import { StateFile } from "../../dist/common/statefile.js";
import { makeDir, removeDir } from "../node-red.js";
import { ManualClock } from "./manual-clock.js";

describe("state file", () => {
    let dir: string;
    let file: string;
    beforeEach(async () => {
        dir = await makeDir("wl-state-");
        file = path.join(dir, "new", "folder", "state.json");
    });
    afterEach(() => removeDir(dir));

    it("gives back what was saved, and leaves no other file", () => {
        const state = new StateFile(file);
        assert.equal(state.load(), undefined);
        state.save({ a: 1 });
        state.save({ a: 2 });
        assert.deepEqual(new StateFile(file).load(), { a: 2 });
        assert.deepEqual(readdirSync(path.dirname(file)), ["state.json"]);
    });

    it("sets a damaged file aside and says so, once", () => {
        const state = new StateFile(file);
        state.save({ a: 1 });
        writeFileSync(file, '{"a":');
        assert.throws(() => state.load(), { code: "STATE_DAMAGED", message: /set aside/ });
        assert.equal(readFileSync(`${file}.damaged`, "utf8"), '{"a":');
        assert.ok(!existsSync(file));
        assert.equal(state.load(), undefined);
    });

    it("says when the folder takes no file, and keeps the old one", () => {
        writeFileSync(path.join(dir, "file"), "");
        assert.throws(() => new StateFile(path.join(dir, "file", "x.json")).save({}), { code: "STATE_UNSAVED" });
        assert.throws(() => new StateFile(dir).load(), { code: "STATE_DAMAGED" });
    });

    it("holds the totals of an energy book", () => {
        const clock = new ManualClock();
        const book = new EnergyBook(clock);
        book.counter("d/a_wh").add({ wh: 1000, at: clock.monotonic(), serial: "S" });
        book.counter("d/a_wh").add({ wh: 4, at: clock.monotonic(), serial: "S" });
        book.counter("d/never_wh");
        book.integral("d/p_w").add({ w: 3600, at: clock.monotonic() }, 60_000);
        clock.advance(1000);
        book.integral("d/p_w").add({ w: 3600, at: clock.monotonic() }, 60_000);
        const state = new StateFile(file);
        state.save(book.state());

        clock.advance(60_000);
        const next = new EnergyBook(clock);
        assert.ok(next.restore(state.load()));
        assert.deepEqual(next.counter("d/a_wh").add({ wh: 10, at: clock.monotonic(), serial: "S" }), { totalWh: 1010 });
        assert.deepEqual(next.integral("d/p_w").state, { positiveWh: 1, negativeWh: 0 });
        assert.ok(new EnergyBook(clock).restore(JSON.parse(JSON.stringify(next.state()))));
        for (const garbage of [undefined, null, 1, "x", {}, { counters: 1, integrals: {} }, { counters: { a: {} }, integrals: {} }]) {
            assert.equal(new EnergyBook(clock).restore(garbage), false);
        }
    });

    it("is usable again after a start without a clock", () => {
        const clock = new ManualClock(0);
        const first = new EnergyBook(new ManualClock());
        first.counter("k").add({ wh: 5, at: 0 });
        const second = new EnergyBook(clock);
        second.restore(JSON.parse(JSON.stringify(first.state())));
        const third = new EnergyBook(clock);
        assert.ok(third.restore(JSON.parse(JSON.stringify(second.state()))));
        assert.deepEqual(third.counter("k").add({ wh: 9, at: 0 }), { totalWh: 9 });
    });
});
