import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { Store } from "../../../dist/store/store.js";
import { makeDir, removeDir, root, start } from "../../node-red.js";
import { Influxd } from "../influxd.js";

const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WL|INFLUX)_/.test(name)));
const login = { INFLUX_USERNAME: "plant", INFLUX_PASSWORD: "canary-sunshine" };

describe("npm start with a real InfluxDB", () => {
    let influxd: Influxd;
    let userDir: string;

    before(async () => {
        influxd = await Influxd.start({ auth: true });
        await influxd.query(`CREATE USER plant WITH PASSWORD '${login.INFLUX_PASSWORD}' WITH ALL PRIVILEGES`);
        userDir = await makeDir("wl-demo-influx-");
        // The system's client takes its login from here.
        Object.assign(process.env, login);
    });
    after(async () => {
        for (const name of Object.keys(login)) delete process.env[name];
        await influxd.stop();
        await removeDir(userDir);
    });

    it("shows the same numbers through the system's influx client as through the local series", async () => {
        const args = ["--user-dir", userDir, "--port", "0", "--influx", influxd.url, "--check", "6"];
        const demo = start([path.join(root, "flows/start.mjs"), ...args], userDir, { ...clean, ...login });
        assert.deepEqual(await once(demo.process, "exit"), [0, null], demo.log());
        const summary = JSON.parse(/^\{$.*^\}$/ms.exec(demo.log())![0]) as { devices: Record<string, { class: string; readings: number; influx: number }> };
        assert.equal(Object.keys(summary.devices).length, 7);

        const store = new Store({ folder: path.join(userDir, "wattledger") });
        try {
            await store.series.ready;
            for (const [device, { class: kind, readings, influx }] of Object.entries(summary.devices)) {
                assert.ok(readings > 0 && influx === readings, device);
                const rows = new Map((await store.series.query({ site: "demo", device, from: 0, to: Date.now() })).map(({ t, values }) => [t, values]));
                const csv = await influxd.cli("wattledger", `SELECT * FROM "${kind}" WHERE device = '${device}' AND site = 'demo'`);
                const [columns = [], ...lines] = csv.trim().split("\n").map((line) => line.split(","));
                assert.ok(lines.length >= readings, device);
                for (const line of lines) {
                    const cells = Object.fromEntries(columns.map((name, i) => [name, line[i]]));
                    const values = Object.entries(rows.get(Number(cells["time"])) ?? {}).filter(([, value]) => typeof value === "number");
                    assert.ok(values.length > 0, `${device} at ${cells["time"]}`);
                    for (const [point, value] of values) assert.equal(Number(cells[point]), value, `${device} ${point}`);
                }
            }
        } finally {
            await store.close();
        }
    });

    it("leaves the password in no file and no line of its output", () => {
        for (const entry of readdirSync(userDir, { recursive: true, withFileTypes: true })) {
            if (entry.isFile()) assert.ok(!readFileSync(path.join(entry.parentPath, entry.name)).includes(login.INFLUX_PASSWORD), entry.name);
        }
    });
});
