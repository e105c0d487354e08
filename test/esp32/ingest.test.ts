import assert from "node:assert/strict";
import { createHmac, createHash } from "node:crypto";
import { connect } from "node:net";
import { gzipSync, deflateSync } from "node:zlib";
import fc from "fast-check";
import { systemClock } from "../../dist/common/clock.js";
import { parseConfig } from "../../dist/common/config.js";
import { WattError } from "../../dist/common/errors.js";
import { LIMITS, unitOf } from "../../dist/common/units.js";
import { esp32Schema } from "../../dist/esp32/config.js";
import { BROKER, DeviceKeys, hmacOf } from "../../dist/esp32/keys.js";
import type { Preset } from "../../dist/esp32/preset.js";
import { emoncms } from "../../dist/esp32/presets/emoncms.js";
import { mapping } from "../../dist/esp32/presets/mapping.js";
import { native } from "../../dist/esp32/presets/native.js";
import { Receiver, type ToldRefusal } from "../../dist/esp32/receiver.js";
import { makeDir, removeDir } from "../node-red.js";
import { FaultyFiles } from "../store/faulty-files.js";
import { envelope, IngestRig, KEY, PATH } from "./rig.js";

const TS = Date.now() - 60_000;

const emoncmsDecoder = () => emoncms.createDecoder({ prefix: "", zone: "UTC" });

function signedHeaders(request: Parameters<typeof hmacOf>[1]): Record<string, string> {
    return { "x-wl-device": "esp1", "x-wl-boot": String(request.boot), "x-wl-seq": String(request.seq), "x-wl-signature": hmacOf(KEY, request), "content-type": "application/x-www-form-urlencoded" };
}

describe("ingest over HTTP", () => {
    let rig: IngestRig;
    beforeEach(() => {
        rig = new IngestRig();
    });
    afterEach(() => rig.close());

    it("keeps what a device posts and hands it on as a reading", async () => {
        await rig.open();
        const { status, body } = await rig.post(envelope(7, { class: "meter", ts: TS, s: [{ ac_power_w: 12.5, ac_energy_export_wh: 1000, state: "on", ac_voltage_v: null }] }));
        assert.deepEqual([status, body], [200, { ok: true, accepted: 1, duplicates: 0, stale: 0, undated: 0 }]);
        const [reading] = await rig.read(1);
        assert.deepEqual(reading, {
            topic: "home/esp1",
            payload: { ac_power_w: 12.5, ac_energy_export_wh: 1000, state: "on" },
            timestamp: TS,
            reading: { site: "home", device: "esp1", class: "meter", seq: 7, quality: "good", boot: 3, time: "device" },
        });
    });

    it("dates buffered samples by what the device counted", async () => {
        await rig.open();
        const before = Date.now();
        await rig.post(envelope(1, { up: 90_000, s: [{ up: 30_000, ac_power_w: 1 }, { up: 60_000, ac_power_w: 2 }, { up: 90_000, ac_power_w: 3 }] }));
        const after = Date.now();
        const times = (await rig.read(3)).map(({ timestamp }) => timestamp);
        for (const [i, age] of [60_000, 30_000, 0].entries()) assert.ok(times[i]! >= before - age && times[i]! <= after - age);
        assert.ok(rig.readings.every(({ reading }) => reading.time === "uptime" && reading.quality === "good"));
    });

    it("dates what was buffered by a clock that is wrong by how far it went on until it was sent", async () => {
        const now = Date.now();
        const clock = { ...systemClock, now: () => now };
        await rig.open({ clock }, { clock });
        const [ahead, unset] = [now + 6 * 60_000, 50_000];
        for (const [i, sent] of [ahead, unset].entries()) {
            const s = [40_000, 20_000, 0].map((age) => ({ ts: sent - age, ac_power_w: age }));
            assert.deepEqual((await rig.post({ ...envelope(i + 1), up: undefined, ts: sent, s })).body, { ok: true, accepted: 3, duplicates: 0, stale: 0, undated: 0 });
            const read = (await rig.read((i + 1) * 3)).slice(i * 3);
            assert.deepEqual(read.map(({ timestamp, reading }) => [timestamp, reading.time]), [40_000, 20_000, 0].map((age) => [now - age, "age"]));
        }
    });

    it("gives samples of a clock that is wrong none of the arrival's time, and says so, unless they were measured together", async () => {
        const now = Date.now();
        const clock = { ...systemClock, now: () => now };
        await rig.open({ clock }, { clock });
        const post = async (seq: number, s: object[], more: object = {}) => {
            const { body } = await rig.post({ ...envelope(seq), up: undefined, s, ...more });
            return [body["accepted"], body["stale"], body["undated"]];
        };
        const at = (ts: number) => [0, 1000, 2000].map((more) => ({ ts: ts + more, ac_power_w: more }));
        assert.deepEqual(await post(1, at(now + 6 * 60_000)), [0, 3, 0]);
        assert.deepEqual(await post(2, at(5000)), [0, 3, 0]);
        // The clock was set between two samples.
        assert.deepEqual(await post(3, [{ ts: 5000, ac_power_w: 1 }, { ts: now - 1000, ac_power_w: 2 }], { ts: now }), [1, 1, 0]);
        assert.deepEqual(await post(4, [{ up: 0, ac_power_w: 3 }], { up: 500 * 86_400_000 }), [0, 1, 0]);
        assert.deepEqual(await post(5, [{ ts: 5000, ac_power_w: 4 }]), [1, 0, 0]);
        assert.deepEqual(await post(6, [{ ts: 5000, ac_power_w: 5 }, { ts: 5000, ac_voltage_v: 230 }]), [1, 0, 0]);
        // An envelope's clock that is wrong is no time of its samples.
        assert.deepEqual(await post(7, [{ up: 500, ac_power_w: 6 }, { ac_power_w: 7 }], { up: 1500, ts: 5000 }), [2, 0, 0]);
        const read = await rig.read(5);
        assert.deepEqual(read.map(({ timestamp, payload }) => [now - timestamp, payload]), [
            [1000, { ac_power_w: 2 }],
            [0, { ac_power_w: 4 }],
            [0, { ac_power_w: 5, ac_voltage_v: 230 }],
            [1000, { ac_power_w: 6 }],
            [0, { ac_power_w: 7 }],
        ]);
    });

    it("gives nothing of a list by a clock that was not set the arrival's time either, whichever the preset", async () => {
        await rig.open();
        const options = { prefix: "", zone: "UTC", mapping: { time: "t", points: [{ path: "w", point: "ac_power_w" }] } };
        const take = async (preset: Preset, body: string, query?: Record<string, string>) => {
            const { accepted, stale, undated } = await rig.ingest.take(preset.createDecoder(options), { via: "http", device: "esp1", topic: "", body: Buffer.from(body), retained: false, at: Date.now(), ...(query && { query }) }, BROKER);
            return [accepted, stale, undated];
        };
        assert.deepEqual(await take(mapping, '[{"t":5,"w":1},{"t":6,"w":2},{"t":"1970-01-01T00:00:07","w":3}]'), [0, 3, 0]);
        assert.deepEqual(await take(mapping, '[{"t":5,"w":1}]'), [1, 0, 0]);
        assert.deepEqual(await take(emoncms, '[[5,"n",{"solar_power":1}],[6,"n",{"solar_power":2}]]', { time: "0" }), [0, 2, 0]);
    });

    it("acknowledges a blind retry and keeps it once, also after a restart", async () => {
        await rig.open();
        const message = envelope(1);
        assert.equal((await rig.post(message)).body["accepted"], 1);
        // Sent later, and it says so.
        assert.deepEqual((await rig.post({ ...message, up: 130_000 })).body, { ok: true, accepted: 0, duplicates: 1, stale: 0, undated: 0 });
        await rig.read(1);
        await rig.shut();
        await rig.open();
        assert.equal((await rig.post(message)).body["duplicates"], 1);
        assert.equal((await rig.post(envelope(2))).body["accepted"], 1);
        await rig.read(2);
        assert.deepEqual(rig.readings.map(({ payload }) => payload["ac_power_w"]), [1, 2]);
    });

    it("refuses a replay of an older start, and says what to do when it counts on", async () => {
        await rig.open();
        await rig.post(envelope(1, { boot: 4 }));
        const codes: unknown[] = [];
        for (const seq of [100, 101, 102]) {
            const { status, body } = await rig.post(envelope(seq, { boot: 3 }));
            assert.equal(status, 409);
            codes.push(body["error"]);
        }
        assert.deepEqual(codes, ["REPLAYED", "REPLAYED", "DEVICE_TWICE"]);
        assert.deepEqual(rig.warnings, ["DEVICE_TWICE"]);
        await rig.ingest.forget("esp1");
        assert.equal((await rig.post(envelope(103, { boot: 3 }))).status, 200);
        await rig.shut();
        await rig.open();
        assert.equal((await rig.post(envelope(104, { boot: 3 }))).status, 200);
    });

    it("tells two devices under one name by the same number with another content", async () => {
        await rig.open();
        await rig.post(envelope(1));
        const { status, body } = await rig.post(envelope(1, { s: [{ ac_power_w: 99 }] }));
        assert.deepEqual([status, body["error"]], [409, "DEVICE_TWICE"]);
        assert.match(String(body["message"]), /name and a key of its own/);
    });

    it("knows an honest repeat whose envelope tells the time of the repeat, and another device by the time of a sample", async () => {
        await rig.open();
        const message = envelope(1, { s: [{ ac_power_w: 1 }], ts: TS });
        assert.equal((await rig.post(message)).body["accepted"], 1);
        assert.equal((await rig.post({ ...message, ts: TS + 5000, up: 105_000 })).body["duplicates"], 1);
        const told = (ts: number) => rig.post(envelope(2, { ts: TS, s: [{ ts, ac_power_w: 0 }] }));
        assert.equal((await told(TS)).status, 200);
        assert.equal((await told(TS + 1)).body["error"], "DEVICE_TWICE");
    });

    it("takes the right key only, and lets no device send as another", async () => {
        rig.keys.push({ device: "esp2", secret: "other-key" }, { device: "emon-*", secret: "family-key" });
        await rig.open();
        const cases: [object, Record<string, string>, number, string][] = [
            [envelope(1), {}, 401, "KEY_MISSING"],
            [envelope(1), { authorization: "Bearer wrong" }, 401, "KEY_WRONG"],
            [envelope(1), { authorization: "Bearer other-key" }, 403, "DEVICE_FORBIDDEN"],
            [{ ...envelope(1), id: "emon-1" }, { authorization: "Bearer other-key" }, 403, "DEVICE_FORBIDDEN"],
            [{ ...envelope(1), id: "esp3" }, { authorization: "Bearer family-key" }, 403, "DEVICE_FORBIDDEN"],
        ];
        for (const [body, headers, status, code] of cases) {
            const answer = await rig.post(body, headers);
            assert.deepEqual([answer.status, answer.body["error"]], [status, code]);
        }
        assert.equal((await rig.post({ ...envelope(1), id: "emon-1" }, { authorization: "Bearer family-key" })).status, 200);
        const basic = Buffer.from(`esp1:${KEY}`).toString("base64");
        assert.equal((await rig.post(envelope(1), { authorization: `Basic ${basic}` })).status, 200);
        assert.deepEqual(rig.ingest.seen().find(({ device }) => device === "esp3")?.problem, "DEVICE_FORBIDDEN");
        assert.doesNotMatch(JSON.stringify(rig.refusals), /wrong|other-key|family-key/);
    });

    it("takes who has no key where that is allowed, but not under the name of a device with a key", async () => {
        rig.allowsAnonymous = true;
        await rig.open();
        assert.equal((await rig.post({ ...envelope(1), id: "free" }, {})).status, 200);
        assert.equal((await rig.post(envelope(1), {})).status, 403);
    });

    it("takes a signed request, and none whose path, number, body or signature is another", async () => {
        await rig.open();
        const body = Buffer.from(JSON.stringify({ ...envelope(5) }));
        const request = { method: "POST", path: PATH, boot: 3, seq: 5, body };
        const signed = (mac: string, more: object = {}) => ({ "x-wl-device": "esp1", "x-wl-boot": "3", "x-wl-seq": "5", "x-wl-signature": mac, ...more });
        // As a sketch makes it.
        const text = `POST|${PATH}|3|5|${createHash("sha256").update(body).digest("hex")}`;
        const mac = createHmac("sha256", KEY).update(text).digest("hex");
        assert.equal(mac, hmacOf(KEY, request));
        for (const changes of [{ method: "GET" }, { path: "/other" }, { boot: 4 }, { seq: 6 }, { body: Buffer.concat([body, Buffer.from(" ")]) }]) {
            assert.equal((await rig.post(body, signed(hmacOf(KEY, { ...request, ...changes })))).status, 401);
        }
        assert.equal((await rig.post(body, signed(mac, { "x-wl-seq": "6" }))).status, 401);
        assert.equal((await rig.post(body, signed(mac.slice(1)))).status, 401);
        assert.equal((await rig.post(body, signed(mac, { "x-wl-boot": "x" }))).status, 400);
        assert.equal((await rig.post(body, signed(mac, { "x-wl-device": "esp9" }))).status, 401);
        assert.equal((await rig.post(body, signed(mac))).status, 200);
        assert.equal((await rig.post(body, signed(mac))).body["duplicates"], 1);
        // Signed, but of another number than it says inside.
        const other = Buffer.from(JSON.stringify(envelope(9)));
        assert.equal((await rig.post(other, signed(hmacOf(KEY, { ...request, body: other })))).status, 400);
    });

    it("takes no signed request with a query, which the signature does not hold", async () => {
        await rig.open({}, { below: { "input/post": emoncmsDecoder() } });
        const body = Buffer.from("fulljson={\"solar_power\":120}&node=esp1");
        const headers = signedHeaders({ method: "POST", path: `${PATH}/input/post`, boot: 3, seq: 5, body });
        const send = (query: string) => fetch(`${rig.url}/input/post${query}`, { method: "POST", body, headers });
        for (const query of [`?fulljson=${encodeURIComponent('{"solar_power":9999}')}`, "?cb=1", "?time=1"]) {
            const answer = await send(query);
            assert.equal(answer.status, 400);
            assert.match(await answer.text(), /has no query/);
        }
        assert.equal((await send("")).status, 200);
        assert.deepEqual((await rig.read(1)).map(({ payload }) => payload), [{ solar_power_w: 120 }]);
    });

    it("knows a signed bulk again, whatever came in it and whenever it comes", async () => {
        let now = Date.now();
        const clock = { ...systemClock, now: () => now };
        await rig.open({ clock }, { clock, below: { "input/bulk": emoncmsDecoder() } });
        const body = Buffer.from('data=[[0,"esp1",{"solar_power":1}],[10,"esp1",{"solar_power":2}],[20,"esp1",{"solar_power":3}]]&sentat=20');
        const headers = signedHeaders({ method: "POST", path: `${PATH}/input/bulk`, boot: 3, seq: 5, body });
        for (let i = 0; i < 3; i++) {
            assert.equal((await fetch(`${rig.url}/input/bulk`, { method: "POST", body, headers })).status, 200);
            now += 5000;
        }
        await rig.read(3);
        assert.deepEqual([rig.readings.map(({ payload }) => payload["solar_power_w"]), rig.warnings], [[1, 2, 3], []]);
    });

    it("counts a message once for the rate of a device, however many entries it has", async () => {
        await rig.open({ limits: { ratePerS: 0.001, burst: 2 } }, { below: { "input/bulk": emoncmsDecoder() } });
        const body = `data=${JSON.stringify(Array.from({ length: 6 }, (_, i) => [i, "esp1", { solar_power: i }]))}`;
        const send = () => fetch(`${rig.url}/input/bulk`, { method: "POST", body, headers: { authorization: `Bearer ${KEY}` } });
        assert.deepEqual([(await send()).status, (await send()).status, (await send()).status], [200, 200, 429]);
    });

    it("holds the keys and levels of an object wherever in the message it stands", async () => {
        await rig.open({}, { below: { "input/post": emoncmsDecoder() } });
        const keys = (count: number) => Array.from({ length: count }, (_, i) => `power${i}`);
        const texts = [JSON.stringify(Object.fromEntries(keys(201).map((key) => [key, 1]))), keys(201).map((key) => `${key}:1`).join(","), `{"power":${'{"a":'.repeat(5)}1${"}".repeat(6)}`];
        for (const text of texts) {
            const answer = await fetch(`${rig.url}/input/post`, { method: "POST", body: `node=esp1&fulljson=${encodeURIComponent(text)}`, headers: { authorization: `Bearer ${KEY}` } });
            assert.equal(answer.status, 400);
            assert.match(await answer.text(), /more than 200|deeper than 5/);
        }
    });

    it("has room for a device with a key, however many names came without one, and keeps no name of what it refused", async () => {
        rig.allowsAnonymous = true;
        let now = Date.now();
        const clock = { ...systemClock, now: () => now };
        await rig.open({ limits: { devices: 3 }, clock }, { clock });
        const free = (id: string) => rig.post({ ...envelope(1), id }, {});
        // Refused for its point's name, and for want of a time.
        for (let i = 0; i < 5; i++) assert.equal((await rig.post({ id: `bad${i}`, s: [{ x_w: 1, X: 1 }] }, {})).status, 400);
        now = 5000;
        for (let i = 0; i < 5; i++) assert.equal((await free(`early${i}`)).status, 503);
        now = Date.now();
        for (const id of ["a", "b", "c"]) assert.equal((await free(id)).status, 200);
        assert.deepEqual([(await free("d")).body["error"], (await free("a")).body["duplicates"]], ["TOO_MANY_DEVICES", 1]);
        assert.equal((await rig.post(envelope(1))).status, 200);
        await rig.ingest.forget("b");
        assert.deepEqual([(await free("d")).status, (await free("e")).status], [200, 403]);
        await rig.shut();
        await rig.open({ limits: { devices: 3 } });
        assert.deepEqual([(await free("e")).status, (await rig.post(envelope(2))).status], [403, 200]);
    });

    it("counts what it kept of a device, and clears its problem by nothing else", async () => {
        await rig.open();
        const seen = () => rig.ingest.seen().find(({ device }) => device === "esp1");
        await rig.post(envelope(1));
        await rig.post(envelope(1, { s: [{ ac_power_w: 99 }] }));
        await rig.post(envelope(1));
        const stale = { via: "mqtt" as const, topic: "wattledger/esp1/data", body: Buffer.from(JSON.stringify(envelope(2))), retained: true, at: Date.now() };
        const { accepted } = await rig.ingest.take(native.createDecoder({ prefix: "", zone: "UTC" }), stale, BROKER);
        assert.deepEqual([accepted, seen()?.kept, seen()?.problem, seen()?.refused], [0, 1, "DEVICE_TWICE", 1]);
        assert.deepEqual(rig.ingest.status(), { kind: "warn", text: "1/1 refused" });
        await rig.post(envelope(3));
        assert.deepEqual([seen()?.kept, seen()?.problem], [2, undefined]);
    });

    it("reads gzip and deflate, and no bomb", async () => {
        await rig.open({ limits: { bodyBytes: 4096 } });
        const headers = { authorization: `Bearer ${KEY}` };
        assert.equal((await rig.post(gzipSync(JSON.stringify(envelope(1))), { ...headers, "content-encoding": "gzip" })).status, 200);
        assert.equal((await rig.post(deflateSync(JSON.stringify(envelope(2))), { ...headers, "content-encoding": "deflate" })).status, 200);
        assert.equal((await rig.post(gzipSync(Buffer.alloc(5_000_000, 0x20)), { ...headers, "content-encoding": "gzip" })).status, 413);
        assert.equal((await rig.post(JSON.stringify(envelope(3)), { ...headers, "content-encoding": "gzip" })).status, 400);
        assert.equal((await rig.post(JSON.stringify(envelope(3)), { ...headers, "content-encoding": "br" })).status, 415);
    });

    it("keeps to its limits", async () => {
        await rig.open({ limits: { bodyBytes: 20_000, ratePerS: 0.001, burst: 8 } });
        const sample = { ac_power_w: 1, up: 1 };
        const nested = (levels: number) => `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
        const cases: [string | object, number][] = [
            [Buffer.alloc(20_001, 0x20).toString(), 413],
            [envelope(1, { s: Array.from({ length: 501 }, () => sample) }), 400],
            [envelope(1, { s: [Object.fromEntries(Array.from({ length: 201 }, (_, i) => [`p${i}_w`, 1]))] }), 400],
            [nested(6), 400],
            ["[".repeat(10_000), 400],
            [envelope(1, { s: Array.from({ length: 500 }, () => sample) }), 200],
        ];
        for (const [body, status] of cases) assert.equal((await rig.post(body)).status, status);
        for (let seq = 2; seq <= 8; seq++) assert.equal((await rig.post(envelope(seq))).status, 200);
        const { status, headers } = await rig.post(envelope(9));
        assert.equal(status, 429);
        assert.equal(headers.get("retry-after"), "1000");
    });

    it("slows down who tries keys", async () => {
        await rig.open();
        const statuses: number[] = [];
        for (let i = 0; i < 25; i++) statuses.push((await rig.post({ ...envelope(1), id: `new${i}` }, { authorization: `Bearer ${i}` })).status);
        assert.deepEqual([statuses[0], statuses.at(-1)], [401, 429]);
        // Who is slowed down is counted, and neither told nor shown.
        const told = statuses.filter((status) => status === 401).length;
        assert.deepEqual([rig.ingest.refused, rig.refusals.length, rig.ingest.seen().length], [25, told, told]);
        assert.equal((await rig.post(envelope(1))).status, 200);
    });

    it("ends a body that drips, without keeping anything of it", async () => {
        await rig.open({}, { bodyMs: 50 });
        const socket = connect(rig.port, "127.0.0.1");
        socket.write(`POST ${PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${KEY}\r\nContent-Length: 500\r\n\r\n{"v":1,`);
        let answer = "";
        for await (const chunk of socket.setEncoding("utf8")) answer += String(chunk);
        assert.match(answer, /^HTTP\/1\.1 408 [\s\S]*BODY_SLOW/);
    });

    it("answers 503 while the disk takes nothing, and takes the same again when it does", async () => {
        const files = new FaultyFiles();
        await rig.open({ files, retryMs: 10 });
        assert.equal((await rig.post(envelope(1))).status, 200);
        files.fault = (operation) => (operation.startsWith("handle.writev") || operation === "handle.datasync" ? "ENOSPC" : undefined);
        // Of the first the disk may have anything.
        for (const [seq, expected] of [[2, 500], [2, 503], [3, 503]] as const) {
            const { status, headers, body } = await rig.post(envelope(seq));
            assert.equal(status, expected);
            assert.ok(Number(headers.get("retry-after")) > 0);
            assert.match(String(body["message"]), /disk is full/);
        }
        assert.deepEqual(rig.ingest.status(), { kind: "error", text: "disk fails" });
        files.fault = () => undefined;
        let again = await rig.post(envelope(2));
        while (again.status === 503) again = await rig.post(envelope(2));
        assert.deepEqual([again.status, again.body["duplicates"]], [200, 1]);
        assert.equal((await rig.post(envelope(3))).body["accepted"], 1);
        await rig.read(3);
        await rig.shut();
        // Read back from the disk itself: each is there.
        await rig.open();
        for (const seq of [1, 2, 3]) assert.equal((await rig.post(envelope(seq))).body["duplicates"], 1);
    });

    it("never makes a real device of one that said it was simulated", async () => {
        await rig.open();
        await rig.post(envelope(1, { sim: true }));
        await rig.post(envelope(2));
        await rig.read(2);
        await rig.shut();
        await rig.open();
        await rig.post(envelope(3, { sim: false }));
        assert.deepEqual((await rig.read(3)).map(({ reading }) => reading.simulated), [true, true, true]);
    });

    it("takes nothing that it cannot date while this computer's clock is not set", async () => {
        let now = 5000;
        await rig.open({ clock: { ...systemClock, now: () => now } }, { clock: { ...systemClock, now: () => now } });
        for (const message of [envelope(1), envelope(1, { ts: TS })]) {
            const { status, body, headers } = await rig.post(message);
            assert.deepEqual([status, body["error"], Number(headers.get("retry-after")) > 0], [503, "CLOCK_NOT_SET", true]);
        }
        now = Date.now();
        assert.equal((await rig.post(envelope(1))).body["accepted"], 1);
    });

    it("leaves out what cannot be true, with its reason", async () => {
        await rig.open();
        await rig.post(envelope(1, { s: [{ ac_power_w: 5, ac_frequency_hz: 5000 }] }));
        const [reading] = await rig.read(1);
        assert.deepEqual([reading!.payload, reading!.reading.bad, reading!.reading.quality], [{ ac_power_w: 5 }, { ac_frequency_hz: "range" }, "uncertain"]);
    });

    it("says what is wrong with a message", async () => {
        await rig.open();
        const cases: [string | object, RegExp][] = [
            ["", /no JSON/],
            ["[]", /must be an object/],
            [envelope(1, { v: 2 }), /v must be 1/],
            [envelope(1, { id: undefined }), /name, is missing/],
            [envelope(1, { id: "a/b" }), /none of them \//],
            [envelope(1, { id: "a+b" }), /none of them \//],
            [envelope(1, { boot: undefined }), /belong together/],
            [envelope(1, { seq: 1.5 }), /whole number/],
            [envelope(1, { s: [{ Power: 1 }] }), /snake_case/],
            [envelope(1, { s: [{ ac_power_w: "1" }] }), /must be a number/],
            [envelope(1, { s: [] }), /list of samples/],
        ];
        for (const [body, pattern] of cases) {
            const { status, body: answer } = await rig.post(body);
            assert.equal(status, 400);
            assert.match(String(answer["message"]), pattern);
        }
        assert.equal((await fetch(rig.url)).status, 405);
    });

    it("forgets no number over restarts, however often the state of the devices is written and what stood before it removed", async () => {
        await rig.open({ stateEntries: 5 });
        const post = (seq: number, boot: number) => rig.post(envelope(seq, { boot }));
        for (let seq = 1; seq <= 12; seq++) assert.equal((await post(seq, 3)).body["accepted"], 1);
        for (let life = 0; life < 4; life++) {
            await rig.shut();
            await rig.open({ stateEntries: 5 });
            for (let seq = 1; seq <= 12; seq++) assert.equal((await post(seq, 3 + life)).body["duplicates"], 1);
            assert.equal((await post(100, 2)).status, 409);
            for (let seq = 12; seq >= 1; seq--) assert.equal((await post(seq, 4 + life)).body["accepted"], 1);
        }
        await rig.read(60);
        assert.equal(rig.readings.length, 60);
    });

    it("hands on again after a crash what was not handed on, and remembers every number", async () => {
        const files = new FaultyFiles();
        await rig.open({ files });
        const posts = Array.from({ length: 200 }, (_, i) => rig.post(envelope(i, { ts: TS + i, s: [{ ac_power_w: i }] })));
        const taken = (await Promise.all(posts)).flatMap(({ status }, seq) => (status === 200 ? [seq] : []));
        files.kill();
        await files.powerCut(0.3);
        await rig.shut();
        const before = rig.readings.splice(0);
        await rig.open();
        for (const seq of taken) assert.equal((await rig.post(envelope(seq, { ts: TS + seq, s: [{ ac_power_w: seq }] }))).body["accepted"], 0);
        await rig.post(envelope(1000, { s: [{ ac_power_w: 1000 }] }));
        while (rig.readings.at(-1)?.payload["ac_power_w"] !== 1000) await rig.read(rig.readings.length + 1);
        const identities = new Set([...before, ...rig.readings].map(({ timestamp, payload }) => `${timestamp} ${payload["ac_power_w"]}`));
        for (const seq of taken) assert.ok(identities.has(`${TS + seq} ${seq}`));
        assert.equal(identities.size, taken.length + 1);
    });
});

describe("ingest over MQTT", () => {
    it("binds a device to its topic", async () => {
        const rig = new IngestRig();
        try {
            await rig.open();
            const decoder = native.createDecoder({ prefix: "plant", zone: "UTC" });
            const take = (topic: string, message: object) => rig.ingest.take(decoder, { via: "mqtt", topic, body: Buffer.from(JSON.stringify(message)), retained: false, at: Date.now() }, BROKER);
            assert.equal((await take("plant/esp1/data", envelope(1))).accepted, 1);
            await assert.rejects(take("plant/esp2/data", envelope(2)), { code: "PAYLOAD_INVALID" });
            await assert.rejects(take("other/esp1/data", envelope(2)), { code: "PAYLOAD_INVALID" });
            assert.equal((await take("plant/esp2/data", { ...envelope(2), id: undefined })).accepted, 1);
        } finally {
            await rig.close();
        }
    });
});

describe("a message of a broker", () => {
    it("is acknowledged when it is on disk or never will be, and not while the disk takes nothing", async () => {
        const folder = await makeDir("wl-esp32-");
        const files = new FaultyFiles();
        const codes: string[] = [];
        const receiver = new Receiver({
            folder,
            site: "home",
            zone: "UTC",
            config: parseConfig(esp32Schema, {}),
            keys: new DeviceKeys([]),
            files,
            onReading: () => undefined,
            onRefusal: ({ code }) => codes.push(code),
        });
        try {
            await receiver.ingest.ready;
            const subscription = receiver.subscription(() => undefined);
            const send = (payload: string | Buffer) => subscription.onMessage({ topic: "wattledger/esp1/data", payload: Buffer.from(payload), retain: false, qos: 1 });
            await send(JSON.stringify(envelope(1)));
            await send("garbage");
            files.fault = (operation) => (operation.startsWith("handle.writev") ? "ENOSPC" : undefined);
            await assert.rejects(send(JSON.stringify(envelope(2))), { code: "STORE_UNSURE" });
            await assert.rejects(send(JSON.stringify(envelope(3))), { code: "STORE_DOWN" });
            // What is wrong for good is not sent again.
            files.fault = () => undefined;
            assert.deepEqual(codes, ["PAYLOAD_INVALID", "STORE_UNSURE", "STORE_DOWN"]);
        } finally {
            await receiver.ingest.close();
            await removeDir(folder);
        }
    });
});

describe("refusals", () => {
    it("are few however many names there are, and the next one says how many were left out", async () => {
        const folder = await makeDir("wl-esp32-");
        let now = 0;
        const refusals: ToldRefusal[] = [];
        const receiver = new Receiver({
            folder,
            site: "home",
            zone: "UTC",
            config: parseConfig(esp32Schema, {}),
            keys: new DeviceKeys([]),
            clock: { ...systemClock, monotonic: () => now },
            onReading: () => undefined,
            onRefusal: (refusal) => refusals.push(refusal),
        });
        try {
            await receiver.ingest.ready;
            const forge = (i: number) => receiver.ingest.refuse(new WattError("KEY_MISSING", "A key is needed."), { via: "http", at: 0 }, `dev${i}`);
            for (let i = 0; i < 1000; i++) forge(i);
            assert.deepEqual([refusals.length, refusals.some(({ omitted }) => omitted !== undefined)], [20, false]);
            now = 1000;
            forge(1000);
            forge(1001);
            assert.deepEqual([refusals.length, refusals.at(-1)!.omitted], [21, 980]);
        } finally {
            await receiver.ingest.close();
            await removeDir(folder);
        }
    });
});

describe("ingest of anything", () => {
    it("takes every message for what it is or refuses it, and neither throws nor keeps anything else", async function () {
        this.timeout(20_000);
        const rig = new IngestRig();
        try {
            await rig.open({ limits: { ratePerS: 1e6, burst: 1e6 } });
            const decoder = native.createDecoder({ prefix: "", zone: "UTC" });
            const valid = fc.record({ v: fc.constant(1), id: fc.constantFrom("esp1", "esp2"), boot: fc.nat(3), seq: fc.nat(100), up: fc.nat(), s: fc.array(fc.record({ ac_power_w: fc.oneof(fc.double(), fc.constant(null)), ts: fc.oneof(fc.nat(), fc.constant(TS)) }), { minLength: 1, maxLength: 3 }) });
            const cut = fc.tuple(valid, fc.nat(400)).map(([message, at]) => Buffer.from(JSON.stringify(message)).subarray(0, at));
            const flipped = fc.tuple(valid, fc.nat(400), fc.nat(255)).map(([message, at, byte]) => {
                const bytes = Buffer.from(JSON.stringify(message));
                bytes[at % bytes.length] = byte;
                return bytes;
            });
            const bodies = fc.oneof(
                valid.map((message) => Buffer.from(JSON.stringify(message))),
                cut,
                flipped,
                fc.json().map((text) => Buffer.from(text)),
                fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
            );
            await fc.assert(
                fc.asyncProperty(bodies, async (body) => {
                    const before = rig.readings.length;
                    let accepted = 0;
                    try {
                        ({ accepted } = await rig.ingest.take(decoder, { via: "http", body, retained: false, at: Date.now() }, BROKER));
                    } catch (error) {
                        assert.match((error as { code: string }).code, /^(PAYLOAD_INVALID|REPLAYED|DEVICE_TWICE)$/);
                    }
                    await rig.read(before + accepted);
                    assert.equal(rig.readings.length, before + accepted);
                    for (const { timestamp, payload } of rig.readings.slice(before)) {
                        assert.ok(timestamp > Date.UTC(2024, 0) && timestamp <= Date.now() + 300_000);
                        for (const [point, value] of Object.entries(payload)) {
                            const [low, high] = (typeof value === "number" && LIMITS[unitOf(point)!]) || [-Infinity, Infinity];
                            assert.ok(typeof value === "string" || (value >= low && value <= high));
                        }
                    }
                }),
                { numRuns: 500 },
            );
        } finally {
            await rig.close();
        }
    });
});
