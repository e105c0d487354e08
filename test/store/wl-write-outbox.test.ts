import assert from "node:assert/strict";
import { readdir, rm } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import path from "node:path";
import { inspect } from "node:util";
import type { ReadingMessage } from "../../dist/common/reading.js";
import type { OutboxStats } from "../../dist/store/outbox.js";
import type { Quarantined } from "../../dist/store/quarantine.js";
import { helper } from "../node-red.js";
import { InfluxStandIn, type Write } from "./influx-stand-in.js";
import { NodeRig, reading } from "./node-rig.js";

type Caught = Record<string, unknown> & { error: { message: string; code: string } };

describe("wl-write and its outbox", () => {
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

    it("keeps readings through an outage, says so once, and delivers them in order after it", async () => {
        await rig.load(rig.influx(server), rig.credentials(server));
        await keep(reading(0));
        await stored(2);
        await server.stop();
        let errors = 0;
        helper.getNode("caught").on("input", () => {
            errors += 1;
        });
        const caught = rig.next<Caught>("caught");
        for (let i = 1; i <= 10; i += 1) rig.send("write", reading(i));
        const { error } = await caught;
        assert.equal(error.code, "INFLUX_DOWN");
        assert.match(error.message, /Points wait in the store\. 127\.0\.0\.1:\d+ cannot be reached/);
        assert.equal((await rig.shows("write", /down, \d+ waiting/)).fill, "yellow");
        const stats = await rig.ask<{ payload: OutboxStats }>("write", { outbox: "stats" }, "outbox");
        assert.ok(stats.payload.pendingPoints > 0);
        server.writes.length = 0;
        await server.start();
        rig.influxNode.outbox(rig.store)!.probe();
        await stored(22);
        const times = server.writes.flatMap(({ lines }) => lines.map((line) => Number(line.split(" ").at(-1))));
        assert.deepEqual(times, times.toSorted((a, b) => a - b));
        assert.equal((await rig.shows("write", /kept, 0 waiting/)).fill, "green");
        assert.equal(errors, 1);
        assert.equal(rig.logged(/takes points again/), 1);
    });

    it("tells once with a code that points are lost", async () => {
        const folder = path.join(await rig.makeFolder(), "lost");
        await rig.load({ ...rig.influx(server), store: { folder } }, rig.credentials(server));
        await server.stop();
        const down = rig.next<Caught>("caught");
        await keep(reading(1));
        await down;
        await rig.shows("write", /down, 1 waiting/);
        const points = path.join(folder, "spool", "points");
        for (const name of await readdir(points)) if (name.endsWith(".seg")) await rm(path.join(points, name));
        const lost = rig.next<Caught>("caught");
        rig.influxNode.outbox(rig.store)!.probe();
        const { error } = await lost;
        assert.equal(error.code, "POINTS_LOST");
        assert.match(error.message, /so far: 1 damaged/);
        assert.equal((await rig.shows("write", /1 lost/)).fill, "red");
        rig.send("write", reading(2));
        // A new outage is more urgent than an old loss, and a deploy takes note of the loss.
        await rig.shows("write", /down, 1 waiting/);
        await helper.setFlows(rig.flow({ ...rig.influx(server), store: { folder }, write: { influxdb: "influx", name: "seen" } }), "nodes", rig.credentials(server));
        await rig.shows("write", /down, 1 waiting/);
    });

    it("pauses on a refused login without losing anything, and goes on once it is corrected", async () => {
        const wrong = { influx: { username: server.username, password: "wrong" } };
        await rig.load(rig.influx(server), wrong);
        rig.send("write", reading(1));
        const { error } = await rig.next<Caught>("caught");
        assert.equal(error.code, "INFLUX_PAUSED");
        assert.match(error.message, /check user and password in wl-influxdb/);
        assert.deepEqual(await rig.shows("write", /login refused/), { fill: "red", shape: "ring", text: "login refused" });
        await helper.setFlows(rig.flow({ ...rig.influx(server, { name: "corrected" }) }), "nodes", rig.credentials(server));
        await stored(2);
    });

    it("keeps the place of an InfluxDB that is disabled, and forgets that of one that is deleted", async () => {
        await server.stop();
        await rig.load(rig.influx(server), rig.credentials(server));
        await keep(reading(1));
        const without = { write: { influxdb: "" } };
        const places = (): string[] => Object.keys(rig.store.health().outboxes);
        await helper.setFlows(rig.flow({ ...without, influx: { ...rig.influx(server)["influx"], d: true } }), "nodes");
        assert.deepEqual(places(), ["influxdb-influx"]);
        await helper.setFlows(rig.flow(rig.influx(server)), "nodes", rig.credentials(server));
        await rig.shows("write", /1 waiting/);
        await helper.setFlows(rig.flow(without).filter((node) => (node as { id: string }).id !== "influx"), "nodes");
        assert.deepEqual(places(), []);
    });

    it("never looks well while the certificate is not checked", async () => {
        await rig.load(rig.influx(server, { insecure: true }), rig.credentials(server));
        assert.equal((await rig.shows("write", /./)).text, "TLS not checked");
    });

    it("sets refused points aside, tells so, and lets a flow or the dialog handle them", async () => {
        await rig.load(rig.influx(server), rig.credentials(server));
        await keep(reading(0, { ac_power_w: 1 }));
        await stored(2);
        const event = rig.next<{ payload: OutboxStats }>("outbox");
        rig.send("write", reading(1, { ac_power_w: "off" }));
        rig.send("write", reading(2, { ac_power_w: 2 }));
        assert.equal((await event).payload.quarantined, 1);
        assert.equal((await rig.shows("write", /refused/)).text, "1 refused");
        assert.equal(server.stored.size, 4);
        const { payload } = await rig.ask<{ payload: Quarantined[] }>("write", { outbox: "quarantine" }, "outbox");
        assert.match(payload[0]!.entry, /ac_power_w="off"/);
        assert.match(payload[0]!.reason, /field type conflict/);
        assert.deepEqual((await rig.post("/wattledger/write/outbox", { id: "write", command: "quarantine" })).body, payload);
        const exported = await rig.ask<{ payload: string }>("write", { outbox: "export" }, "outbox");
        assert.equal((JSON.parse(exported.payload) as Quarantined).entry, payload[0]!.entry);
        await rig.ask("write", { outbox: "discard" }, "outbox");
        assert.deepEqual((await rig.post("/wattledger/write/outbox", { id: "write", command: "quarantine" })).body, []);
        const { error } = await rig.ask<Caught>("write", { outbox: "explode" }, "caught");
        assert.equal(error.code, "OUTBOX_COMMAND");
        for (const id of ["nowhere", { toString: 1 }]) {
            const answer = await rig.post("/wattledger/write/outbox", { id, command: "retry" });
            assert.equal(answer.status, 400);
            assert.ok((answer.body as { message?: string }).message, JSON.stringify(id));
        }
    });

    it("lets no secret into errors, log or status", async () => {
        const canary = "canary-8f3a2b";
        server.password = canary;
        server.script = Array.from({ length: 20 }, () => (response: ServerResponse, write: Write) => {
            response.writeHead(500).end(JSON.stringify({ error: JSON.stringify(write.headers) }));
        });
        await rig.load(rig.influx(server), { influx: { username: server.username, password: canary, token: "" } });
        rig.send("write", reading(1));
        const caught = await rig.next<Caught>("caught");
        assert.match(caught.error.message, /InfluxDB answers 500.*authorization/);
        const said = [caught, helper.log().args, await rig.shows("write", /waiting/)].map((what) => inspect(what, { depth: 20 })).join("\n");
        assert.ok(!said.includes(canary) && !said.includes(Buffer.from(`${server.username}:${canary}`).toString("base64")));
    });
});
