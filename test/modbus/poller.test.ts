import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { WattError } from "../../dist/common/errors.js";
import type { LinkMember } from "../../dist/modbus/link.js";
import { type PolledUnit, type PollGroup, type PollSample, UnitPoller } from "../../dist/modbus/poller.js";
import { ManualClock } from "../common/manual-clock.js";
import { holding, Rig } from "./rig.js";

/** A unit that reads one register a group, the group's place in the alphabet. */
class Registers implements PolledUnit {
    identified = false;
    /** Undefined takes the unit for the right one. */
    stranger: WattError | undefined;
    readonly polls: string[] = [];

    constructor(private readonly member: LinkMember) {}

    async poll(groups: ReadonlySet<string>): Promise<PollSample> {
        if (!this.identified) {
            await this.member.read(holding(1, 1, 1));
            if (this.stranger) throw this.stranger;
            this.identified = true;
        }
        for (const name of groups) await this.member.read(holding(1, name.charCodeAt(0), 1));
        this.polls.push([...groups].join(""));
        return { readings: [], fault: undefined };
    }

    lost(): [] {
        return [];
    }

    invalidate(): void {
        this.identified = false;
    }
}

describe("polling a unit in groups", () => {
    let rig: Rig;
    let clock: ManualClock;
    let unit: Registers;
    let poller: UnitPoller;
    let running: Promise<void>;
    let stopping: AbortController;
    const events = new EventEmitter();
    const told: string[] = [];

    beforeEach(async () => {
        rig = await Rig.start();
        clock = new ManualClock();
        stopping = new AbortController();
        told.length = 0;
    });
    afterEach(async () => {
        stopping.abort();
        await running;
        await rig.link.leave(member);
        await rig.stop();
    });

    let member: LinkMember;
    async function begin(groups: PollGroup[]): Promise<void> {
        member = rig.join();
        unit = new Registers(member);
        poller = new UnitPoller(
            unit,
            { groups, unidentified: "WRONG", heartbeatMs: 60_000, clock, random: () => 0.5 },
            {
                onReading: () => told.push("reading"),
                onFault: ({ code }) => told.push(code),
                onRecovered: () => told.push("back"),
                onPolled: () => events.emit("polled"),
            },
        );
        await rig.in("up");
        running = poller.run(stopping.signal);
        // Half of the spread over the first period.
        await ticks(1, 500);
    }

    async function asleep(): Promise<void> {
        while (clock.waiting === 0) await new Promise(setImmediate);
    }

    async function ticks(count: number, ms = 1000): Promise<void> {
        for (let i = 0; i < count; i++) {
            const polled = once(events, "polled");
            clock.advance(ms);
            await polled;
            await asleep();
        }
    }

    it("reads the fast ones at every tick and at most one slow one, the longest waiting first", async () => {
        await begin([
            { name: "s", periodMs: 5000 },
            { name: "f", periodMs: 1000 },
            { name: "g", periodMs: 1000 },
            { name: "t", periodMs: 4000 },
            { name: "u", periodMs: 60_000 },
        ]);
        await ticks(11);
        assert.deepEqual(unit.polls, ["fgs", "fgt", "fgu", "fg", "fg", "fgs", "fgt", "fg", "fg", "fg", "fgs", "fgt"]);
        assert.equal(poller.overruns, 0);
    });

    it("skips and counts what the slow ones cannot have, and starves none", async () => {
        await begin(["r", "s", "t", "u"].map((name) => ({ name, periodMs: 2000 })).concat({ name: "f", periodMs: 1000 }));
        await ticks(39);
        const counts = ["r", "s", "t", "u"].map((name) => unit.polls.filter((groups) => groups.includes(name)).length);
        assert.ok(counts.every((count) => count >= 9 && count <= 11), counts.join());
        assert.equal(unit.polls.filter((groups) => groups.includes("f")).length, 40);
        assert.ok(poller.overruns >= 36 && poller.overruns <= 44, `${poller.overruns} of the other 40 polls`);
    });

    it("tells nothing of a poll that was given up for the close", async () => {
        await begin([{ name: "f", periodMs: 1000 }]);
        unit.poll = () => {
            // The fast part was read, and the rest is missing.
            stopping.abort();
            return Promise.resolve({ readings: [{} as never], fault: new WattError("MODBUS_ABORTED", "given up") });
        };
        clock.advance(1000);
        await running;
        assert.deepEqual(told, []);
    });

    it("keeps the ticks of the slow ones when polls begin a little late", async () => {
        await begin([
            { name: "f", periodMs: 1000 },
            { name: "s", periodMs: 2000 },
        ]);
        await ticks(1, 1003);
        await ticks(1, 999);
        await ticks(2, 1000);
        assert.deepEqual(unit.polls, ["fs", "f", "fs", "f", "fs"]);
    });

    it("tells once that it is the wrong unit, asks it less and less often, and at once when a person asks", async () => {
        await begin([{ name: "f", periodMs: 1000 }]);
        unit.stranger = new WattError("WRONG", "another device");
        poller.reconnected();
        const rounds: number[] = [];
        for (let i = 0; i < 120; i++) {
            const asked = rig.server.asked.length;
            await ticks(1);
            if (rig.server.asked.length > asked) rounds.push(i);
        }
        assert.deepEqual([told, poller.state], [["WRONG"], "lost"]);
        assert.ok(rounds.length > 2 && rounds.length < 15, `asked in rounds ${rounds.join()}`);
        unit.stranger = undefined;
        await poller.pollNow(stopping.signal);
        assert.deepEqual([told, poller.state, unit.polls.at(-1)], [["WRONG", "back"], "ok", "f"]);
    });
});
