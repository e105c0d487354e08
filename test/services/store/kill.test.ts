import assert from "node:assert/strict";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { InfluxTarget } from "../../../dist/store/influx-dialect.js";
import { createHttpClient } from "../../../dist/common/http.js";
import { InfluxSender } from "../../../dist/store/influx-sender.js";
import { Outbox } from "../../../dist/store/outbox.js";
import { Series } from "../../../dist/store/series.js";
import { Spool } from "../../../dist/store/spool.js";
import { makeFolder, readAll, removeFolders, until } from "../../store/kit.js";
import { Influxd } from "../influxd.js";
import { KillableLoad } from "./load.js";

const KILLS = 20;

describe("store: kill -9", function () {
    this.timeout(180_000);
    let load: KillableLoad | undefined;
    afterEach(async () => {
        await load?.kill();
        await removeFolders();
    });

    it(`${KILLS} times at any instant: what the process said is on disk is there, unaltered, once`, async () => {
        const folder = await makeFolder();
        load = new KillableLoad({ folder });
        for (let i = 0; i < KILLS; i++) {
            await load.start();
            await sleep(Math.random() * 150);
            await load.kill();
        }
        const spool = new Spool({ folder: path.join(folder, "spool") });
        const { entries, damaged, version } = await readAll(spool);
        assert.deepEqual([damaged, version], [0, 0]);
        assert.equal(new Set(entries).size, entries.length, "an entry is there twice");
        const found = new Set(entries);
        const { t0 } = load;
        for (const n of load.numbers("spool")) assert.ok(found.has(`load n=${n}i ${t0 + n}`), `entry ${n} is missing`);
        await spool.close();

        const series = new Series({ folder });
        await series.ready;
        assert.deepEqual([series.stats().state, series.stats().setAside], ["disk", undefined]);
        const rows = await series.query({ site: "home", device: "load", from: 0, to: 1e15, limit: Infinity });
        const values = new Map(rows.map(({ t, values: { n_w: n } }) => [t, n]));
        for (const n of load.numbers("series")) assert.equal(values.get(t0 + n), n);
        // Roll-ups hold each sample once, too.
        const minutes = await series.rollups("minute", { site: "home", device: "load", from: 0, to: 1e15 });
        assert.equal(minutes.reduce((sum, { values: { n_w: n } }) => sum + n!.count, 0), rows.length);
        await series.close();
    });

    it(`${KILLS} times, and InfluxDB 4 times: every point the process said is kept is in InfluxDB, none altered`, async () => {
        const influxd = await Influxd.start({ database: "load" });
        try {
            const folder = await makeFolder();
            const target: InfluxTarget = { url: influxd.url, version: "auto", database: "load", org: "", retentionPolicy: "" };
            load = new KillableLoad({ folder, target });
            for (let i = 0; i < KILLS; i++) {
                await load.start();
                await sleep(Math.random() * 150);
                if (i % 5 === 2) await influxd.kill();
                await sleep(Math.random() * 50);
                await load.kill();
                if (i % 5 === 2) await influxd.restart();
            }
            const spool = new Spool({ folder: path.join(folder, "spool") });
            const sender = new InfluxSender({ http: createHttpClient(), target });
            const outbox = new Outbox(spool, "influx", sender.deliver);
            await until(outbox, () => outbox.stats().state === "idle" && outbox.stats().pendingPoints === 0);
            assert.deepEqual([outbox.stats().dropped, outbox.stats().quarantined], [{}, 0]);
            await outbox.close();
            await spool.close();
            const { t0 } = load;
            const { results } = await influxd.query("SELECT n FROM load", "load");
            const stored = new Map((results[0]!.series![0]!.values as [number, number][]).map(([time, n]) => [time - t0, n]));
            for (const [at, n] of stored) assert.equal(at, n);
            for (const n of load.numbers("spool")) assert.ok(stored.has(n), `point ${n} is missing`);
        } finally {
            await influxd.stop();
        }
    });
});
