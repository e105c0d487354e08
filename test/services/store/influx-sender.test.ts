import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { createHttpClient, type HttpClient } from "../../../dist/common/http.js";
import { createReading } from "../../../dist/common/reading.js";
import type { Outcome, Rejected, SpoolRecord } from "../../../dist/store/delivery.js";
import type { InfluxTarget } from "../../../dist/store/influx-dialect.js";
import { InfluxSender, type SenderOptions } from "../../../dist/store/influx-sender.js";
import { InfluxQl } from "../../../dist/store/influxql.js";
import { LineEncoder } from "../../../dist/store/line-protocol.js";
import { decodePercent } from "../../store/line-parser.js";
import { Influxd } from "../influxd.js";

const T = Date.UTC(2026, 5, 1);
const never = new AbortController().signal;

function records(...groups: string[][]): SpoolRecord[] {
    return groups.map((group, seq) => ({ seq, count: group.length, body: gzipSync(group.map((line) => `${line}\n`).join("")) }));
}

function lines(count: number, from = 0): string[] {
    return Array.from({ length: count }, (_, i) => `inverter,device=inv1,site=home quality="good",ac_power_w=${from + i} ${T + from + i}`);
}

describe("InfluxDB sender and InfluxDB 1.x", function () {
    this.timeout(60_000);
    let influxd: Influxd;
    let http: HttpClient;

    before(async () => {
        influxd = await Influxd.start({ config: "  max-body-size = 100000" });
        http = createHttpClient();
    });
    after(async () => {
        http.close();
        await influxd.stop();
    });
    beforeEach(async () => {
        await influxd.query('DROP DATABASE "plant"');
        await influxd.query('CREATE DATABASE "plant"');
    });

    const target = (more: Partial<InfluxTarget> = {}): InfluxTarget => ({ url: influxd.url, version: "auto", database: "plant", org: "", retentionPolicy: "", ...more });
    const sender = (more: Partial<InfluxTarget> = {}, options: Partial<SenderOptions> = {}): InfluxSender => new InfluxSender({ http, target: target(more), ...options });

    async function count(): Promise<number> {
        const { results } = await influxd.query('SELECT count("quality") FROM "inverter"', "plant");
        return (results[0]?.series?.[0]?.values[0]?.[1] as number | undefined) ?? 0;
    }

    async function rejected(outcome: Promise<Outcome>): Promise<Rejected[]> {
        const done = await outcome;
        assert.equal(done.kind, "delivered", JSON.stringify(done));
        return done.kind === "delivered" ? (done.rejected ?? []) : [];
    }

    it("stores every member of a batch, as the influx client shows", async () => {
        assert.deepEqual(await sender().deliver(records(lines(3), lines(2, 3)), never), { kind: "delivered" });
        const csv = await influxd.cli("plant", 'SELECT "ac_power_w", "device", "site", "quality" FROM "inverter"');
        assert.deepEqual(csv.trim().split("\n"), [
            "name,time,ac_power_w,device,site,quality",
            ...[0, 1, 2, 3, 4].map((i) => `inverter,${T + i},${i},inv1,home,good`),
        ]);
    });

    it("gives back whatever names, texts and numbers were written", async () => {
        const nasty = fc.oneof(
            fc.string({ unit: fc.constantFrom("\\", ",", " ", "=", '"', "'", "\n", "\r", "\t", "\0", "%", "5", "C", "#", "é", "\u2028", "\u0085", "😀"), minLength: 1, maxLength: 10 }),
            fc.string({ unit: "grapheme", minLength: 1, maxLength: 10 }),
        );
        const value = fc.double({ noNaN: true, noDefaultInfinity: true });
        const samples = fc.sample(fc.record({ site: nasty, device: nasty, class: nasty, w: value, state: nasty }), 2000);
        const encoder = new LineEncoder();
        const encoded = samples.map(({ site, device, class: kind, w, state }, i) =>
            encoder.encode(createReading({ site, device, class: kind, seq: i, quality: "good" }, T + i, { ac_power_w: w, state })),
        );
        const one = sender();
        for (let i = 0; i < encoded.length; i += 100) assert.deepEqual(await one.deliver(records(encoded.slice(i, i + 100)), never), { kind: "delivered" });
        const { results } = await influxd.query('SELECT "ac_power_w", "state", "device", "site" FROM /.*/', "plant");
        const found = new Map<number, string>();
        for (const { name, values } of results[0]!.series!) {
            for (const [time, w, state, device, site] of values as [number, number, string, string, string][]) {
                found.set(time - T, JSON.stringify([decodePercent(name), decodePercent(site), decodePercent(device), w, decodePercent(state)]));
            }
        }
        assert.equal(found.size, samples.length);
        for (const [i, sample] of samples.entries()) {
            assert.equal(found.get(i), JSON.stringify([sample.class, sample.site, sample.device, sample.w + 0, sample.state]));
        }
    });

    it("quarantines conflicting points only, of many in few requests", async () => {
        const one = sender();
        await one.deliver(records(lines(1)), never);
        const bad = Array.from({ length: 200 }, (_, i) => `inverter,device=inv2,site=home quality="good",ac_power_w="off" ${T + i}`);
        const out = await rejected(one.deliver(records([...lines(300, 1), ...bad.slice(0, 100)], [...bad.slice(100), ...lines(300, 301)]), never));
        assert.deepEqual(out.map(({ entry }) => entry), bad);
        assert.match(out[0]!.reason, /field type conflict/);
        assert.equal(await count(), 601);
    });

    it("parts a batch whose own points conflict about a new field", async () => {
        const batch = [...lines(50), `inverter,device=inv2,site=home quality="good",ac_power_w="off" ${T}`, ...lines(50, 50)];
        const out = await rejected(sender().deliver(records(batch), never));
        const kept = await count();
        assert.equal(out.length + kept, 101);
        assert.ok(kept > 0 && out.length > 0);
    });

    it("quarantines unreadable points only", async () => {
        const bad = ["inverter,device=inv1 v= 1", "inverter,device=,site=home v=1 1", "no fields", `inverter v=1 ${"9".repeat(20)}`];
        const out = await rejected(sender().deliver(records([bad[0]!, ...lines(20), bad[1]!, bad[2]!], [bad[3]!, ...lines(20, 20)]), never));
        assert.deepEqual(out.map(({ entry }) => entry).toSorted(), bad.toSorted());
        assert.equal(await count(), 40);
    });

    it("quarantines points beyond the retention policy only", async () => {
        await influxd.query('CREATE RETENTION POLICY "short" ON "plant" DURATION 1h REPLICATION 1 DEFAULT');
        const now = Date.now();
        const fresh = Array.from({ length: 30 }, (_, i) => `inverter quality="good" ${now - i}`);
        const out = await rejected(sender({ retentionPolicy: "short" }).deliver(records([...lines(50), ...fresh]), never));
        assert.deepEqual(out.map(({ entry }) => entry).toSorted(), lines(50).toSorted());
        assert.equal(await count(), 30);
    });

    it("pauses for a missing database or policy, and creates the database when asked to", async () => {
        const other = { database: 'oth"er' };
        const outcome = await sender(other).deliver(records(lines(1)), never);
        assert.match((outcome as { reason: string }).reason, /^Database not found \(404\): create database/);
        const influxql = new InfluxQl({ target: target(other) });
        assert.deepEqual(await sender(other, { createDatabase: (signal) => influxql.createDatabase(signal) }).deliver(records(lines(1)), never), { kind: "delivered" });
        influxql.close();
        const policy = await sender({ retentionPolicy: "nope" }).deliver(records(lines(1)), never);
        assert.match((policy as { reason: string }).reason, /^No retention policy: create "nope"/);
        await influxd.query('DROP DATABASE "oth\\"er"');
    });

    it("pauses for a wrong login, and tells the dialog's test", async () => {
        const guarded = await Influxd.start({ auth: true });
        try {
            await guarded.query("CREATE USER writer WITH PASSWORD 'right' WITH ALL PRIVILEGES");
            const right = { url: guarded.url, username: "writer", password: "right" };
            const create = new InfluxQl({ target: target(right) });
            await create.createDatabase();
            create.close();
            assert.deepEqual(await sender(right).check(never), { kind: "delivered", server: { dialect: 1, version: "1.6.7~rc0" } });
            for (const wrong of [{ password: "wrong" }, { username: "", password: "" }]) {
                assert.match(((await sender({ ...right, ...wrong }).deliver(records(lines(1)), never)) as { reason: string }).reason, /^Login refused \(401\)/);
                assert.equal((await sender({ ...right, ...wrong }).check(never)).kind, "pause");
            }
            assert.match(((await sender({ ...right, database: "none" }).check(never)) as { reason: string }).reason, /^Database not found/);
            assert.deepEqual(await sender(right).deliver(records(lines(1)), never), { kind: "delivered" });
        } finally {
            await guarded.stop();
        }
    });

    it("cuts what is larger than the server takes", async () => {
        // Random text does not shrink: the limit is on what goes over the wire.
        const big = Array.from({ length: 8 }, (_, i) => `inverter quality="${randomBytes(20_000).toString("base64")}" ${T + i}`);
        assert.equal((await sender().deliver(records(big.slice(0, 4), big.slice(4)), never)).kind, "split");
        assert.deepEqual(await sender().deliver(records(big), never), { kind: "delivered" });
        assert.equal(await count(), 8);
    });

    it("answers queries with their parameters apart, and reads only", async () => {
        await sender().deliver(records(lines(10)), never);
        const influxql = new InfluxQl({ target: target() });
        try {
            const text = 'SELECT mean("ac_power_w") FROM "inverter" WHERE "device" = $device AND time >= $from AND time < $to GROUP BY "site"';
            const params = { device: "inv1", from: new Date(T + 2).toISOString(), to: new Date(T + 5).toISOString() };
            assert.deepEqual(await influxql.query(text, params), [{ time: T + 2, mean: 3, site: "home" }]);
            assert.deepEqual(await influxql.query(text, { ...params, device: "inv1' OR '1'='1" }), []);
            assert.deepEqual(await influxql.query("SHOW MEASUREMENTS"), [{ name: "inverter" }]);
            for (const bad of ['DROP DATABASE "plant"', "SELECT 1; DROP DATABASE plant", 'SELECT * INTO "x" FROM "inverter"', "", "-- SELECT\nDROP SERIES"]) {
                await assert.rejects(influxql.query(bad), { code: "INFLUX_READ_ONLY" });
            }
            await assert.rejects(influxql.query("SELECT nonsense"), { code: "INFLUX_QUERY" });
            assert.equal(await count(), 10);
        } finally {
            influxql.close();
        }
    });
});
