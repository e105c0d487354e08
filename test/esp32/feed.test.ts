import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import path from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { Feed } from "../../dist/esp32/feed.js";
import { Spool } from "../../dist/store/spool.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir } from "../node-red.js";

const expand = promisify(gunzip);

describe("the feed of a flow", () => {
    let folder: string;
    let clock: ManualClock;
    let spool: Spool;
    let feed: Feed;
    /** What the flow was given. */
    let given: string[];
    let settled: () => Promise<void>;
    let told: () => void;

    beforeEach(async () => {
        folder = await makeDir("wl-feed-");
        clock = new ManualClock();
        settled = () => Promise.resolve();
        told = () => undefined;
        given = [];
        await open();
    });
    afterEach(async () => {
        await close();
        await removeDir(folder);
    });

    async function open(): Promise<void> {
        spool = new Spool({ folder: path.join(folder, "spool"), commitEntries: 1, cursorMs: 1000, keepAll: true, clock });
        await spool.ready;
        feed = new Feed(spool, {
            clock,
            settled: () => settled(),
            hand: async (records, isCurrent) => {
                const lines = (await expand(Buffer.concat(records.map(({ body }) => body)))).toString().trim().split("\n");
                if (isCurrent()) given.push(...lines);
                told();
            },
        });
    }

    async function close(): Promise<void> {
        feed.close();
        await spool.close();
        await spool.ended;
    }

    const add = async (...lines: string[]) => {
        for (const line of lines) await spool.append(`${line}\n`, 1);
    };
    /** Resolves once the flow was given so many. */
    const until = async (count: number) => {
        while (given.length < count) await new Promise<void>((resolve) => (told = resolve));
        // The feed takes note of it.
        for (let i = 0; i < 5; i++) await setImmediate();
    };

    it("gives everything in order, from before the start too", async () => {
        await add("a", "b");
        feed.start();
        await until(2);
        await add("c");
        await until(3);
        assert.deepEqual(given, ["a", "b", "c"]);
        assert.equal(feed.waiting, 0);
    });

    it("gives nothing while the flow is stopped, and then the last seconds once more", async () => {
        feed.start();
        await add("old");
        await until(1);
        clock.advance(5000);
        await add("late");
        await until(2);
        feed.stop();
        await add("gap");
        await setImmediate();
        assert.deepEqual(given.splice(0), ["old", "late"]);
        assert.equal(feed.waiting, 1);
        feed.start();
        await until(2);
        assert.deepEqual(given, ["late", "gap"]);
    });

    it("gives them once more however long the flow was stopped", async () => {
        feed.start();
        await add("late");
        await until(1);
        feed.stop();
        clock.advance(60_000);
        given.length = 0;
        feed.start();
        await until(1);
        assert.deepEqual(given, ["late"]);
    });

    it("gives the last seconds once more after a restart", async () => {
        feed.start();
        await add("old");
        await until(1);
        clock.advance(5000);
        await add("late");
        await until(2);
        await close();
        given.length = 0;
        await open();
        feed.start();
        await until(1);
        assert.deepEqual(given, ["late"]);
    });

    it("gives everything once more as long as it is not safe with who took it", async () => {
        settled = () => Promise.reject(new Error("the disk takes nothing"));
        feed.start();
        await add("a", "b");
        await until(2);
        clock.advance(60_000);
        await close();
        given.length = 0;
        settled = () => Promise.resolve();
        await open();
        feed.start();
        await until(2);
        assert.deepEqual(given, ["a", "b"]);
    });
});
