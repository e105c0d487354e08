import assert from "node:assert/strict";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import fc from "fast-check";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { helper } from "../node-red.js";
import { InfluxStandIn } from "./influx-stand-in.js";
import { NodeRig, reading } from "./node-rig.js";

type Caught = Record<string, unknown> & { error: { message: string; code: string } };

describe("wl-write", () => {
    const rig = new NodeRig();
    let server: InfluxStandIn;
    before(() => rig.start());
    after(() => rig.stop());
    beforeEach(async () => {
        server = await new InfluxStandIn(1).start();
    });
    afterEach(async () => {
        await rig.unload();
        await server.stop();
    });

    /** Until the stand-in holds so many values: two for a reading with one point, for quality is one. */
    async function stored(count: number): Promise<void> {
        const outbox = rig.influxNode.outbox(rig.store)!;
        while (server.stored.size < count) {
            const news = new Promise<void>((resolve) => {
                const end = outbox.onChange(() => {
                    end();
                    resolve();
                });
            });
            await outbox.spool.flush();
            if (server.stored.size < count) await news;
        }
    }

    /** Sends a reading and resolves once it is kept, without waiting for the spool's second. */
    async function keep(message: object): Promise<ReadingMessage> {
        const kept = rig.next<ReadingMessage>("kept");
        rig.send("write", message);
        // The node takes the message in a later turn.
        await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
        await rig.store.spool().flush();
        return kept;
    }

    it("keeps readings in the local series and passes them on when that is done", async () => {
        await rig.load();
        const message = { ...reading(1), extra: { kept: true } };
        const completed = rig.next("completed");
        const kept = await keep(message);
        await completed;
        assert.deepEqual({ ...kept, _msgid: "" }, { ...message, _msgid: "" });
        const latest = rig.store.series.latest().find(({ device }) => device === "inv1");
        assert.deepEqual(latest?.values["ac_power_w"], 1);
        assert.equal((await rig.shows("write", /1 kept/)).fill, "green");
    });

    it("takes readings of any node by topic and payload", async () => {
        await rig.load();
        const kept = await keep({ topic: "home/meter9", payload: { grid_power_w: -5 } });
        assert.equal(kept.reading.device, "meter9");
        assert.ok(Math.abs(kept.timestamp - Date.now()) < 5000);
    });

    it("tells the Catch node what is wrong with a message that is no reading", async () => {
        await rig.load();
        for (const bad of [{ payload: 5 }, { topic: "x", payload: { a: 1 } }, reading(1, { "Bad Name": 1 }), { ...reading(1), timestamp: 1000 }]) {
            const { error } = await rig.ask<Caught>("write", bad, "caught");
            assert.match(error.code, /^READING_INVALID$|^TIME_UNTRUSTED$/);
        }
    });

    it("tells why the series does not take a reading", async () => {
        await rig.load();
        const meta = { class: "meter", seq: 0, quality: "good" };
        for (const names of [{ site: "a/b", device: "c" }, { site: "a", device: "b\0" }, { site: "a", device: "\ud800" }]) {
            const { error } = await rig.ask<Caught>("write", { payload: { ac_power_w: 1 }, reading: { ...meta, ...names } }, "caught");
            assert.deepEqual([error.code, error.message.includes("site and device")], ["READING_INVALID", true], JSON.stringify(names));
        }
        const { error } = await rig.ask<Caught>("write", { ...reading(1), timestamp: Date.UTC(2025, 0, 1) }, "caught");
        assert.equal(error.code, "READING_TOO_OLD");
    });

    it("hears with a code when the store cannot keep what waits, and once when it can again", async () => {
        const folder = path.join(await rig.makeFolder(), "in-the-way");
        await rig.load({ ...rig.influx(server), store: { folder } }, rig.credentials(server));
        await rig.store.spool().ready;
        const points = path.join(folder, "spool", "points");
        await rm(points, { recursive: true });
        await writeFile(points, "a file");
        const caught = rig.next<Caught>("caught");
        await keep(reading(1));
        const { error } = await caught;
        assert.equal(error.code, "STORE_PROBLEM");
        assert.equal(error.message, "What waits for delivery (points) is in memory only: a file is where a folder should be (points).");
        await rm(points);
        await mkdir(points);
        await stored(2);
    });

    it("tells that another process has the folder, with each reading that is not kept", async () => {
        const folder = path.join(await rig.makeFolder(), "taken");
        await mkdir(folder, { recursive: true });
        const start = (await readFile(`/proc/${process.ppid}/stat`, "latin1")).split(") ")[1]!.split(" ")[19]!;
        await writeFile(path.join(folder, "series.db.owner"), JSON.stringify({ pid: process.ppid, start }));
        await rig.load({ store: { folder } });
        let { error } = await rig.ask<Caught>("write", reading(1), "caught");
        // The store's own error may still be on its way.
        while (error.code === "STORE_PROBLEM") ({ error } = await rig.ask<Caught>("write", reading(1), "caught"));
        assert.equal(error.code, "STORE_UNUSABLE");
        assert.match(error.message, new RegExp(`in use by process ${process.ppid}`));
    });

    for (const url of ["", "${WL_NOT_SET}"]) {
        it(`keeps readings locally while the URL of InfluxDB is ${url || "blank"}`, async () => {
            await rig.load({ influx: { url }, write: { influxdb: "influx" } });
            await keep(reading(1));
            assert.equal((await rig.shows("write", /^1 kept/)).fill, "green");
            assert.equal(rig.influxNode.outbox(rig.store), undefined);
        });
    }

    for (const dialect of [1, 2, 3] as const) {
        it(`delivers to InfluxDB ${dialect}`, async () => {
            await server.stop();
            server = await new InfluxStandIn(dialect).start();
            await rig.load(rig.influx(server), rig.credentials(server));
            for (let i = 0; i < 20; i += 1) rig.send("write", reading(i));
            await stored(40);
            assert.equal(server.stored.size, 40);
        });
    }

    it("shares one outbox between two writers of one InfluxDB", async () => {
        const second = { id: "write2", type: "wl-write", z: "tab", x: 0, y: 0, store: "store", influxdb: "influx", wires: [["kept"], ["outbox"]] };
        await rig.load(rig.influx(server), rig.credentials(server), [second]);
        await keep(reading(1));
        rig.send("write2", reading(2));
        await stored(4);
        assert.equal(server.writes.flatMap(({ lines }) => lines).length, 2);
    });

    it("closes within two seconds and loses nothing that came in", async () => {
        await rig.load(rig.influx(server), rig.credentials(server));
        await server.stop();
        for (let i = 0; i < 500; i += 1) rig.send("write", reading(i));
        const started = performance.now();
        await helper.setFlows(rig.flow({ ...rig.influx(server, { name: "again" }) }), "nodes", rig.credentials(server));
        assert.ok(performance.now() - started < 2000);
        await server.start();
        rig.influxNode.outbox(rig.store)!.probe();
        await stored(1000);
        assert.equal(server.stored.size, 1000);
    });

    it("says what is missing", async () => {
        await rig.load({ write: { store: "" } });
        assert.equal((await rig.shows("write", /./)).text, "choose a store");
        await rig.unload();
        await rig.load({ write: { influxdb: "influx" }, influx: { url: "not a url" } });
        assert.equal((await rig.shows("write", /./)).text, "check influxdb");
    });

    it("survives any settings", async () => {
        const field = fc.oneof(fc.string(), fc.integer(), fc.constantFrom(undefined, null, "${NOT_SET}", {}, [], { a: { b: 1 } }));
        const influx = fc.record({ url: field, version: field, database: field, ca: field, insecure: field, createDatabase: field });
        await fc.assert(
            fc.asyncProperty(influx, fc.record({ store: field, influxdb: field }), async (bad, write) => {
                try {
                    await rig.load({ influx: bad, write });
                } finally {
                    await rig.unload();
                }
            }),
            { numRuns: 20 },
        );
    });
});
