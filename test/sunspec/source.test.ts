import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { parseConfig } from "../../dist/common/config.js";
import type { WattError } from "../../dist/common/errors.js";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { StateFile } from "../../dist/common/statefile.js";
import { sunspecSchema } from "../../dist/sunspec/config.js";
import { SunSpecSource } from "../../dist/sunspec/source.js";
import { ManualClock } from "../common/manual-clock.js";
import { type Behaviour, faults } from "../modbus/fault-server.js";
import { makeDir, removeDir } from "../node-red.js";
import { INVERTER, METER, named, put } from "./devices.js";
import { SunSpecServer } from "./sunspec-server.js";

const MINUTE = 60_000;

describe("a source of SunSpec readings", () => {
    let server: SunSpecServer;
    let dir: string;
    let clock: ManualClock;
    let stop: () => Promise<void>;
    const heard = { messages: [] as ReadingMessage[], statuses: [] as string[], faults: [] as WattError[], warnings: [] as WattError[] };
    beforeEach(async () => {
        server = await SunSpecServer.start();
        const absent: Behaviour = (asked, peer) => (server.units.has(asked.unit) ? faults.right : faults.exception(0x0b))(asked, peer);
        server.server.otherwise = absent;
        dir = await makeDir("wl-source-");
        clock = new ManualClock();
        for (const list of Object.values(heard)) list.length = 0;
    });
    afterEach(async () => {
        await stop();
        await server.stop();
        await removeDir(dir);
    });

    function start(config: object, file = path.join(dir, "state.json")): SunSpecSource {
        const source = new SunSpecSource({
            config: parseConfig(sunspecSchema, config),
            site: "home",
            stateFile: new StateFile(file),
            clock,
            random: () => 0,
            listener: {
                onMessage: (message) => heard.messages.push(message as ReadingMessage),
                onStatus: (kind, text) => heard.statuses.push(`${kind} ${text}`),
                onFault: (error) => heard.faults.push(error),
                onRecovered: () => undefined,
                onWarning: (error) => heard.warnings.push(error),
            },
        });
        const stopping = new AbortController();
        const running = source.run(server.link(), stopping.signal);
        stop = async () => {
            stopping.abort();
            await running;
        };
        return source;
    }

    /** Resolves when everything that runs waits for the clock: `timers` of them. */
    async function idle(timers: number): Promise<void> {
        while (clock.waiting !== timers) await new Promise(setImmediate);
    }

    it("that finds nothing says so once, and looks again", async () => {
        start({});
        await idle(1);
        assert.deepEqual([heard.faults.map(({ code }) => code), heard.statuses.at(-1)], [["SUNSPEC_NOT_FOUND"], "error no device found"]);
        assert.match(heard.faults[0]!.message, /No SunSpec device at units 1, 2, 3, 71/);
        clock.advance(5000);
        await idle(1);
        assert.equal(heard.faults.length, 1);
        put(server, 1, [named("A"), [203, METER]]);
        clock.advance(10_000);
        await idle(2);
        assert.deepEqual(heard.messages.map(({ topic }) => topic), ["home/fronius-a"]);
        assert.equal(heard.statuses.at(-1), "ok 1 device");
    });

    it("looks for sleepers every half hour, and after a reconnect", async () => {
        put(server, 1, [named("A"), [203, METER]]);
        const source = start({ period: 3600 });
        await idle(2);
        put(server, 100, [named("B"), [103, INVERTER]]);
        clock.advance(30 * MINUTE);
        await idle(3);
        assert.deepEqual(heard.messages.map(({ topic }) => topic), ["home/fronius-a", "home/fronius-b"]);
        put(server, 126, [named("C"), [203, METER]]);
        source.linkChanged({ name: "up" });
        assert.equal(clock.waiting, 3, "a connection that was not lost is no news");
        source.linkChanged({ name: "down" });
        source.linkChanged({ name: "up" });
        await idle(4);
        assert.equal(heard.messages.at(-1)?.topic, "home/fronius-c");
    });

    it("looks again for the neighbour that slept, and reads a neighbour that was awake once", async () => {
        put(server, 3, [named("A"), [203, METER]]);
        start({ period: 3600 });
        await idle(2);
        put(server, 4, [named("B"), [203, METER]]);
        clock.advance(30 * MINUTE);
        await idle(3);
        put(server, 2, [named("C"), [203, METER]]);
        clock.advance(30 * MINUTE);
        await idle(4);
        clock.advance(60 * MINUTE);
        await idle(4);
        assert.deepEqual(heard.messages.map(({ topic }) => topic).toSorted(), ["a", "a", "a", "b", "b", "c", "c"].map((name) => `home/fronius-${name}`));
    });

    it("names two devices with one serial number apart", async () => {
        for (const unit of [1, 2]) put(server, unit, [named("SAME", "Acme", { DA: unit }), [203, METER]]);
        start({ units: "1, 2" });
        await idle(2);
        const [plain, other] = heard.messages.map(({ topic }) => topic).toSorted();
        assert.equal(plain, "home/acme-same");
        assert.match(other!, /^home\/acme-same-u[12]$/);
    });

    it("saves its totals every ten minutes, and warns once when it cannot", async () => {
        put(server, 1, [named("A"), [203, METER]]);
        writeFileSync(path.join(dir, "file"), "");
        start({ units: "1", period: 60 }, path.join(dir, "file", "state.json"));
        await idle(1);
        assert.deepEqual(heard.warnings.map(({ code }) => code), ["STATE_DAMAGED"], "told at the start");
        for (let i = 0; i < 25; i++) {
            clock.advance(MINUTE);
            await idle(1);
        }
        assert.deepEqual(heard.warnings.map(({ code }) => code), ["STATE_DAMAGED", "STATE_UNSAVED"]);
        assert.equal(heard.messages.length, 26, "readings go on");
    });

    it("warns when its totals make no sense, and counts anew", async () => {
        const file = path.join(dir, "state.json");
        writeFileSync(file, '{"counters":{"fronius-a/ac_energy_import_wh":7}}');
        put(server, 1, [named("A"), [203, METER]]);
        start({ units: "1" }, file);
        await idle(1);
        assert.deepEqual(heard.warnings.map(({ code }) => code), ["STATE_DAMAGED"]);
        assert.equal(heard.messages[0]?.payload["ac_energy_import_wh"], 7000);
    });

    it("keeps what it saved", async () => {
        const file = path.join(dir, "state.json");
        put(server, 1, [named("A"), [203, METER]]);
        start({ units: "1", period: 60 }, file);
        await idle(1);
        assert.equal(new StateFile(file).load(), undefined);
        clock.advance(10 * MINUTE);
        await idle(1);
        const state = new StateFile(file).load() as { counters: Record<string, { totalWh: number }> };
        assert.equal(state.counters["fronius-a/ac_energy_import_wh"]?.totalWh, 7000);
    });
});
