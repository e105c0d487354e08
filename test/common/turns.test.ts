import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { within } from "../../dist/common/clock.js";
import { Turns } from "../../dist/common/turns.js";
import { ManualClock } from "./manual-clock.js";

describe("turns", () => {
    it("are taken one after the other, in the order in which they came, also behind one that fails", async () => {
        const turns = new Turns();
        const seen: string[] = [];
        const job = (name: string) => async () => {
            seen.push(`${name} begins`);
            await setImmediate();
            seen.push(`${name} ends`);
            if (name === "b") throw new Error("b fails");
            return name;
        };
        const settled = await Promise.allSettled(["a", "b", "c"].map((name) => turns.take(job(name))));
        assert.deepEqual(seen, ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
        assert.deepEqual(settled.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    });
});

describe("work within a time", () => {
    it("is waited for until it settles, however it does, and leaves no timer", async () => {
        const clock = new ManualClock();
        await within(clock, 1000, Promise.resolve("done"));
        await within(clock, 1000, Promise.reject(new Error("failed")));
        assert.equal(clock.waiting, 0);
    });

    it("is waited for no longer than that", async () => {
        const clock = new ManualClock();
        let isOver = false;
        const waiting = within(clock, 1000, new Promise(() => undefined)).then(() => (isOver = true));
        clock.advance(999);
        await setImmediate();
        assert.equal(isOver, false);
        clock.advance(1);
        await waiting;
    });
});
