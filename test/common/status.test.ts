import assert from "node:assert/strict";
import { Status } from "../../dist/common/status.js";
import { ManualClock } from "./manual-clock.js";

describe("status", () => {
    /** What the node was told, in order. */
    function record() {
        const texts: (string | undefined)[] = [];
        const clock = new ManualClock();
        const status = new Status({ status: (value) => void texts.push(typeof value === "string" ? value : value.text) }, clock);
        return { status, texts, clock };
    }

    it("is sent once while it stays the same", () => {
        const { status, texts, clock } = record();
        for (let i = 0; i < 5; i++) status.set("ok", "running");
        clock.advance(1000);
        status.set("warn", "running");
        assert.deepEqual(texts, ["running", "running"]);
    });

    it("of a flood is the first at once and then, within a second, the last", () => {
        const { status, texts, clock } = record();
        for (let i = 0; i <= 1000; i++) status.set("ok", `${i}`);
        clock.advance(999);
        assert.deepEqual(texts, ["0"]);
        clock.advance(1);
        assert.deepEqual(texts, ["0", "1000"]);
    });

    it("that went back to what is shown is not sent again", () => {
        const { status, texts, clock } = record();
        status.set("ok", "up");
        status.set("error", "down");
        status.set("ok", "up");
        clock.advance(5000);
        assert.deepEqual(texts, ["up"]);
    });

    it("of a closed node says nothing more, waiting or new, and holds no timer", () => {
        const { status, texts, clock } = record();
        status.set("ok", "up");
        status.set("error", "waiting");
        status.close();
        status.set("error", "late");
        assert.equal(clock.waiting, 0);
        clock.advance(5000);
        assert.deepEqual(texts, ["up"]);
    });
});
