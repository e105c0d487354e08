import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { EnergyBook } from "../../dist/common/energy.js";
import type { WattError } from "../../dist/common/errors.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { UnitPoller } from "../../dist/modbus/poller.js";
import { UnitReader } from "../../dist/sunspec/unit-reader.js";
import { ManualClock } from "../common/manual-clock.js";
import { type Behaviour, faults } from "../modbus/fault-server.js";
import { addressOf, INVERTER, METER, type Models, mppts, named, put } from "./devices.js";
import { SunSpecServer } from "./sunspec-server.js";

const MODELS: Models = [named("P"), [203, METER]];

interface Options {
    slowPeriodMs?: number;
    heartbeatMs?: number;
    timeoutMs?: number;
}

/** A poller on a clock that the test moves, against a real server. */
class Bench {
    readonly clock = new ManualClock();
    readonly readings: ReadingMessage[] = [];
    readonly faults: WattError[] = [];
    recovered = 0;
    polls = 0;
    readonly poller: UnitPoller;
    private readonly events = new EventEmitter();
    private readonly stopping = new AbortController();
    private running: Promise<void> | undefined;

    constructor(
        readonly server: SunSpecServer,
        { timeoutMs, slowPeriodMs = 60_000, heartbeatMs = 60_000 }: Options = {},
    ) {
        const { clock } = this;
        const reader = new UnitReader(server.link(timeoutMs === undefined ? {} : { timeoutMs }), 1, {
            site: "home", deviceClass: "auto", meterPositive: "auto", batteryPositive: "discharge", fullModels: false, maxGapMs: 60_000,
            energy: new EnergyBook(clock), clock,
        });
        this.poller = new UnitPoller(
            reader,
            {
                groups: [{ name: "fast", periodMs: 5000 }, { name: "slow", periodMs: slowPeriodMs }],
                unidentified: "SUNSPEC_NOT_FOUND", heartbeatMs, clock, random: () => 0.5,
            },
            {
                onReading: (reading) => this.readings.push(reading),
                onFault: (error) => this.faults.push(error),
                onRecovered: () => this.recovered++,
                onPolled: () => {
                    this.polls++;
                    this.events.emit("polled");
                },
            },
        );
    }

    start(): void {
        this.running = this.poller.run(this.stopping.signal);
    }

    /** Moves the clock and waits for the poll that this starts. */
    async step(ms: number): Promise<void> {
        const polled = this.polled();
        this.clock.advance(ms);
        await polled;
        await this.idle();
    }

    async polled(): Promise<void> {
        await once(this.events, "polled");
    }

    /** Resolves when the poller sleeps until its next poll. */
    async idle(): Promise<void> {
        while (this.clock.waiting === 0) await new Promise(setImmediate);
    }

    async stop(): Promise<void> {
        this.stopping.abort();
        await this.running;
    }
}

describe("polling a SunSpec unit", () => {
    let server: SunSpecServer;
    let bench: Bench;
    const begin = async (options: Options = {}, models: Models | undefined = MODELS) => {
        if (models) put(server, 1, models);
        bench = new Bench(server, options);
        bench.start();
        await bench.idle();
    };
    beforeEach(async () => {
        server = await SunSpecServer.start();
    });
    afterEach(async () => {
        await bench.stop();
        await server.stop();
    });

    it("spreads the first poll and then keeps its period", async () => {
        await begin();
        bench.clock.advance(999);
        await bench.idle();
        assert.equal(server.server.asked.length, 0, "half of the spread of 2 s");
        await bench.step(1);
        const stamps = [bench.clock.monotonic()];
        for (let i = 0; i < 3; i++) {
            await bench.step(5000);
            stamps.push(bench.clock.monotonic());
        }
        assert.deepEqual(stamps, [1000, 6000, 11_000, 16_000]);
        assert.deepEqual(bench.readings.map(({ timestamp }) => timestamp - bench.clock.now()), [-15_000, -10_000, -5000, 0]);
        assert.equal(bench.poller.overruns, 0);
    });

    it("skips and counts the ticks that a slow poll covers, and queues nothing", async () => {
        await begin();
        await bench.step(1000);
        let answer: (() => void) | undefined;
        server.server.script((_asked, { right, send }) => {
            answer = () => send(right);
        });
        const asked = server.server.nextRequest();
        bench.clock.advance(5000);
        await asked;
        bench.clock.advance(17_500);
        assert.equal(bench.polls, 1, "still the one that hangs");
        const polled = bench.polled();
        answer!();
        await polled;
        await bench.idle();
        assert.equal(bench.poller.overruns, 3);
        assert.equal(bench.poller.late, true);
        const requests = server.server.asked.length;
        await bench.step(2500);
        assert.equal(bench.clock.monotonic(), 26_000, "back on its ticks");
        assert.equal(server.server.asked.length, requests + 1);
        assert.equal(bench.poller.late, false);
    });

    it("reads the slow group in its own period", async () => {
        const models: Models = [named("S"), [103, INVERTER], [124, { ChaState: 40, ChaState_SF: 0 }]];
        await begin({ slowPeriodMs: 12_000 }, models);
        const slow = () => server.server.asked.filter(({ address }) => address === addressOf(models, 124) && bench.polls > 0).length;
        await bench.step(1000);
        server.server.asked.length = 0;
        const seen: number[] = [];
        for (let i = 0; i < 6; i++) {
            await bench.step(5000);
            seen.push(slow());
        }
        assert.deepEqual(seen, [0, 0, 1, 1, 1, 2]);
    });

    it("tells of an outage once, of each heartbeat, and of the return once", async () => {
        await begin({ heartbeatMs: 20_000, timeoutMs: 50 });
        await bench.step(1000);
        assert.equal(bench.readings.length, 1);
        server.units.clear();
        const qualities = () => bench.readings.map(({ reading }) => reading.quality).join(" ");
        await bench.step(5000);
        assert.equal(qualities(), "good", "one missed answer is a mishap");
        assert.equal(bench.faults.length, 0);
        // The link leaves the silent unit alone for now, by its own clock.
        await bench.step(5000);
        assert.equal(bench.poller.state, "ok", "nothing was sent, so nothing is known");
        await bench.poller.pollNow(new AbortController().signal);
        assert.equal(bench.poller.state, "lost");
        assert.equal(qualities(), "good bad");
        assert.deepEqual(bench.faults.map(({ code }) => code), ["SUNSPEC_NOT_FOUND"]);
        assert.deepEqual(bench.readings.at(-1)?.payload, {});
        assert.equal(bench.readings.at(-1)?.reading.bad?.["ac_power_w"], "comm");
        for (let i = 0; i < 4; i++) await bench.step(5000);
        assert.equal(qualities(), "good bad bad", "a heartbeat");
        assert.equal(bench.faults.length, 1);

        put(server, 1, MODELS);
        bench.poller.reconnected();
        await bench.step(5000);
        assert.equal(qualities(), "good bad bad good");
        assert.deepEqual([bench.recovered, bench.faults.length], [1, 1]);
        await bench.step(5000);
        assert.equal(bench.recovered, 1);
    });

    it("asks a unit that is not there less and less often", async () => {
        await begin({}, undefined);
        server.server.otherwise = faults.exception(0x0b);
        const rounds: number[] = [];
        for (let i = 0; i < 60; i++) {
            server.server.asked.length = 0;
            await bench.step(i === 0 ? 1000 : 5000);
            if (server.server.asked.length > 0) rounds.push(i);
        }
        assert.equal(bench.faults.length, 1);
        assert.match(bench.faults[0]!.message, /No SunSpec at unit 1/);
        const gaps = rounds.slice(1).map((round, i) => round - rounds[i]!);
        assert.ok(rounds.length < 12, `asked in rounds ${rounds.join()}`);
        assert.ok(gaps.at(-1)! > gaps[0]!);
        server.server.asked.length = 0;
        await bench.poller.pollNow(new AbortController().signal);
        assert.ok(server.server.asked.length > 0, "a person who asks is served at once");
    });

    it("reports a model that is refused once, and when it is read again", async () => {
        const models: Models = [named("P"), [103, INVERTER], [160, mppts(5)]];
        await begin({}, models);
        await bench.step(1000);
        const refuse: Behaviour = (asked, peer) => (asked.address === addressOf(models, 160) ? faults.exception(4) : faults.right)(asked, peer);
        server.server.otherwise = refuse;
        await bench.step(5000);
        await bench.step(5000);
        assert.deepEqual([bench.faults.map(({ code }) => code), bench.poller.state], [["MODBUS_EXCEPTION"], "partly"]);
        server.server.otherwise = faults.right;
        await bench.step(5000);
        assert.deepEqual([bench.recovered, bench.poller.state], [1, "ok"]);
        assert.equal(bench.readings.length, 4);
    });

    it("polls once when asked twice", async () => {
        await begin();
        const { signal } = new AbortController();
        await Promise.all([bench.poller.pollNow(signal), bench.poller.pollNow(signal)]);
        assert.equal(bench.readings.length, 1);
    });

    it("ends at once, also in the middle of a poll", async () => {
        await begin();
        server.server.otherwise = faults.silent;
        const asked = server.server.nextRequest();
        bench.clock.advance(1000);
        await asked;
        await bench.stop();
        assert.deepEqual([bench.readings, bench.faults], [[], []]);
        assert.equal(bench.clock.waiting, 0);
    });
});
