import assert from "node:assert/strict";
import type { ChartPoint } from "../../../dist/store/query.js";
import { NodeRig, reading } from "../../store/node-rig.js";
import { Influxd } from "../influxd.js";

describe("wl-write and wl-query with InfluxDB 1.x", function () {
    this.timeout(30_000);
    const rig = new NodeRig();
    let influxd: Influxd;
    before(async () => {
        influxd = await Influxd.start({ auth: true });
        await influxd.query("CREATE USER writer WITH PASSWORD 'it\\'s' WITH ALL PRIVILEGES");
        await rig.start();
    });
    after(async () => {
        await rig.stop();
        await influxd.stop();
    });
    afterEach(() => rig.unload());

    it("create the database, deliver, and read back for a chart and a table", async () => {
        const influxql = 'SELECT mean("ac_power_w") AS ac_power_w FROM "inverter" WHERE "device" = $device AND time >= $from AND time < $to GROUP BY "device"';
        await rig.load(
            {
                influx: { url: influxd.url, database: "made here", createDatabase: true },
                write: { influxdb: "influx" },
                query: { source: "influxdb", influxdb: "influx", influxql, window: "last 1 h" },
            },
            { influx: { username: "writer", password: "it's" } },
        );
        for (let i = 0; i < 100; i += 1) rig.send("write", reading(i));
        await rig.shows("write", /100 kept, 0 waiting/);

        const chart = await rig.ask<{ payload: ChartPoint[]; action: string }>("query", { query: { params: { device: "inv1" } } }, "answer");
        assert.deepEqual(chart.payload.map(({ y, series }) => [y, series]), [[49.5, "inv1 ac_power_w"]]);
        assert.equal(chart.action, "replace");
        const table = await rig.ask<{ payload: { time: number }[] }>("query", { query: { params: { device: "inv1" }, format: "table" } }, "answer");
        assert.deepEqual(table.payload, [{ time: table.payload[0]!.time, device: "inv1", ac_power_w: 49.5 }]);
        const none = await rig.ask<{ payload: object[] }>("query", { query: { params: { device: "' OR 1=1 --" } } }, "answer");
        assert.deepEqual(none.payload, []);

        const wrong = { query: { influxql: 'DROP DATABASE "made here"' } };
        assert.equal((await rig.ask<{ error: { code: string } }>("query", wrong, "caught")).error.code, "INFLUX_READ_ONLY");
    });
});
