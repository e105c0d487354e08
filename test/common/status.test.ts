import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { Status } from "../../dist/common/status.js";

describe("status", () => {
    /** What the node was told, in order; `shown` emits at each. */
    function record(minIntervalMs: number) {
        const texts: (string | undefined)[] = [];
        const shown = new EventEmitter();
        const status = new Status(
            {
                status(value) {
                    texts.push(typeof value === "string" ? value : value.text);
                    shown.emit("status");
                },
            },
            minIntervalMs,
        );
        return { status, texts, shown };
    }

    it("is sent once while it stays the same", () => {
        const { status, texts } = record(0);
        for (let i = 0; i < 5; i++) status.set("ok", "running");
        status.set("warn", "running");
        assert.deepEqual(texts, ["running", "running"]);
    });

    it("of a flood is the first at once and then the last", async () => {
        const { status, texts, shown } = record(30);
        const hold = setInterval(() => {}, 1000);
        for (let i = 0; i <= 1000; i++) status.set("ok", `${i}`);
        assert.deepEqual(texts, ["0"]);
        await once(shown, "status");
        clearInterval(hold);
        assert.deepEqual(texts, ["0", "1000"]);
    });

    it("that went back to what is shown is not sent again", async () => {
        const { status, texts } = record(20);
        status.set("ok", "up");
        status.set("error", "down");
        status.set("ok", "up");
        await new Promise((resolve) => setTimeout(resolve, 40));
        assert.deepEqual(texts, ["up"]);
    });

    it("of a closed node says nothing more, waiting or new", async () => {
        const { status, texts } = record(20);
        status.set("ok", "up");
        status.set("error", "waiting");
        status.close();
        status.set("error", "late");
        await new Promise((resolve) => setTimeout(resolve, 40));
        assert.deepEqual(texts, ["up"]);
    });
});
