import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from "node:child_process";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { createInterface, type Interface } from "node:readline";
import fc from "fast-check";
import { isSigned } from "../../../dist/carbon/capsule.js";
import { sampleOf } from "../../../dist/carbon/settlement.js";
import { publicKey } from "../../../dist/simulate/esp32-sender.js";
import { IngestRig, KEY, PATH } from "../../esp32/rig.js";
import { makeDir, makeUserDir, type NodeRed, removeDir, root, startNodeRed } from "../../node-red.js";

const SKETCH = path.join(root, "examples/esp32/WattLedgerMeter");
const HERE = path.join(root, "test/services/esp32");
const RING = 50;
const BATCH = 10;
const MINUTE = 60_000;

interface Message {
    boot: number;
    seq: number;
    mac: string;
    body: string;
}

/** The sketch's protocol as a program of its own: what the ESP32 does beside Wi-Fi and sensors. */
class Device {
    private readonly child: ChildProcessWithoutNullStreams;
    private readonly lines: AsyncIterator<string>;
    private readonly reader: Interface;
    count = 0;
    dropped = 0;
    notBefore = 0;

    constructor(
        program: string,
        private readonly key?: KeyObject,
    ) {
        this.child = spawn(program);
        this.reader = createInterface({ input: this.child.stdout });
        this.lines = this.reader[Symbol.asyncIterator]();
    }

    /** Starts, and counts the start. */
    begin(boot: number, { estimated = false, site = "home", name = "esp1", at = PATH, secret = KEY } = {}): Promise<Message | undefined> {
        return this.ask(`begin ${boot} ${site} ${name} ${at} ${secret} ${estimated ? 1 : 0} ${this.key ? 1 : 0}`);
    }

    add(up: number, { at = 0, power = -1234.56, voltage = "nan", exported = 1000 + up / MINUTE, imported = 7 }: { at?: number; power?: number | string; voltage?: string; exported?: number | string; imported?: number } = {}): Promise<Message | undefined> {
        return this.ask(`add ${up} ${at} ${power} ${voltage} ${exported} ${imported}`);
    }

    next(up: number, now = 0): Promise<Message | undefined> {
        return this.ask(`next ${up} ${now}`);
    }

    async answer(up: number, status: number, retry = -1, random = 0): Promise<void> {
        await this.ask(`answer ${up} ${status} ${retry} ${random}`);
    }

    async stop(): Promise<void> {
        const exited = once(this.child, "exit");
        this.child.stdin.end();
        this.reader.close();
        assert.deepEqual(await exited, [0, null]);
    }

    private async ask(line: string): Promise<Message | undefined> {
        this.child.stdin.write(`${line}\n`);
        for (;;) {
            const { value, done } = (await this.lines.next()) as { value: string; done?: boolean };
            assert.ok(!done, `the program ended at: ${line}`);
            const [kind, ...rest] = value.split(" ");
            if (kind === "sign") {
                this.child.stdin.write(`${sign(null, Buffer.from(rest.join(" ")), this.key!).toString("hex")}\n`);
            } else if (kind === "message") {
                const [boot, seq, mac, ...body] = rest;
                return { boot: Number(boot), seq: Number(seq), mac: mac!, body: body.join(" ") };
            } else {
                [this.count, this.dropped, this.notBefore] = rest.map(Number) as [number, number, number];
                return undefined;
            }
        }
    }
}

function headersOf({ boot, seq, mac }: Message, device = "esp1"): Record<string, string> {
    return { "content-type": "application/json", "x-wl-device": device, "x-wl-boot": String(boot), "x-wl-seq": String(seq), "x-wl-signature": mac };
}

describe("the sketch of a meter with an ESP32", () => {
    let folder: string;
    let program: string;
    let rig: IngestRig;
    let devices: Device[];

    before(async () => {
        folder = await makeDir("wl-sketch-");
        program = path.join(folder, "device");
        execFileSync("gcc", ["-std=c99", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", `-DWL_RING=${RING}`, `-DWL_BATCH=${BATCH}`, `-I${SKETCH}`, "-o", program, path.join(HERE, "device.c"), "-lmbedcrypto", "-lm"]);
    });
    after(() => removeDir(folder));
    beforeEach(async () => {
        devices = [];
        rig = new IngestRig();
        await rig.open();
    });
    afterEach(async () => {
        await Promise.all(devices.map((device) => device.stop()));
        await rig.close();
    });

    const made = (key?: KeyObject): Device => {
        const device = new Device(program, key);
        devices.push(device);
        return device;
    };
    /** Posts what the device wants to send, and tells it the answer. */
    const send = async (device: Device, up: number, now = 0): Promise<{ status: number; message: Message; body: Record<string, unknown> } | undefined> => {
        const message = await device.next(up, now);
        if (!message) return undefined;
        const { status, body, headers } = await rig.post(message.body, headersOf(message));
        await device.answer(up, status, headers.has("retry-after") ? Number(headers.get("retry-after")) : -1);
        return { status, message, body };
    };

    it("is C++ that fits the ESP32 core, with and without a signature", () => {
        const source = readFileSync(path.join(SKETCH, "WattLedgerMeter.ino"), "utf8");
        assert.match(source, /#define SIGN 0\n/);
        assert.match(source, /#define ESTIMATED true\n/);
        for (const signs of ["0", "1"]) {
            const file = path.join(folder, `sketch${signs}.cpp`);
            writeFileSync(file, source.replace("#define SIGN 0", `#define SIGN ${signs}`));
            execFileSync("g++", ["-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-include", path.join(HERE, "arduino/Arduino.h"), `-I${path.join(HERE, "arduino")}`, `-I${SKETCH}`, file]);
        }
    });

    it("sends bytes that are taken with its key, dated by its clock, and forgets them once they are on disk", async () => {
        const device = made();
        await device.begin(1);
        const now = Date.now() - 10 * MINUTE;
        for (let i = 1; i <= 25; i++) await device.add(i * MINUTE);
        const sent = [];
        for (let i = 0; i < 3; i++) sent.push(await send(device, 26 * MINUTE, now));
        assert.deepEqual(sent.map((found) => [found!.status, found!.message.seq, found!.body["accepted"]]), [[200, 0, 10], [200, 1, 10], [200, 2, 5]]);
        assert.equal(await device.next(26 * MINUTE, now), undefined);
        assert.deepEqual([device.count, device.dropped], [0, 0]);
        const readings = await rig.read(25);
        for (const [i, { timestamp, payload, reading }] of readings.entries()) {
            assert.equal(timestamp, now - (25 - i) * MINUTE);
            assert.deepEqual(payload, { ac_power_w: -1234.6, ac_energy_export_wh: 1001 + i, ac_energy_import_wh: 7 });
            assert.deepEqual([reading.device, reading.class, reading.boot, reading.quality], ["esp1", "meter", 1, "good"]);
        }
    });

    it("is dated right without a clock, by what it counted since its start", async () => {
        const device = made();
        await device.begin(1);
        for (let i = 1; i <= 3; i++) await device.add(2 ** 32 + i * MINUTE, { exported: i });
        const before = Date.now();
        assert.equal((await send(device, 2 ** 32 + 4 * MINUTE))!.status, 200);
        const after = Date.now();
        const readings = await rig.read(3);
        for (const [i, { timestamp }] of readings.entries()) assert.ok(timestamp >= before - (3 - i) * MINUTE && timestamp <= after - (3 - i) * MINUTE);
    });

    it("says that it only reckons, and nothing of it is claimed", async () => {
        const device = made();
        await device.begin(1, { estimated: true });
        await device.add(MINUTE);
        assert.equal((await send(device, MINUTE, Date.now()))!.status, 200);
        const [message] = await rig.read(1);
        assert.equal(message!.reading.bad!["ac_energy_export_wh"], "estimated");
        const sample = sampleOf(message!, Date.now());
        assert.ok(typeof sample === "object" && sample.origin === "estimated");
    });

    for (const estimated of [false, true]) {
        it(`signs each sample so that it stands as evidence, ${estimated ? "reckoned" : "measured"}`, async () => {
            const { privateKey } = generateKeyPairSync("ed25519");
            const device = made(privateKey);
            await device.begin(4, { estimated });
            for (let i = 1; i <= 12; i++) await device.add(i * MINUTE, { voltage: "231.5" });
            for (let i = 0; i < 2; i++) assert.equal((await send(device, 13 * MINUTE, Date.now()))!.status, 200);
            const readings = await rig.read(12);
            assert.equal(new Set(readings.map(({ reading }) => reading.signature)).size, 12);
            for (const message of readings) {
                const sample = sampleOf(message, Date.now());
                assert.ok(typeof sample === "object" && isSigned(sample, publicKey(privateKey)));
                assert.equal(sample.origin, estimated ? "estimated" : "measured");
                assert.ok(!isSigned({ ...sample, exportWh: sample.exportWh! + 1 }, publicKey(privateKey)));
            }
        });
    }

    it("repeats a message when no answer came, as it was but for the time since its start, and it is kept once", async () => {
        const device = made();
        await device.begin(1);
        await device.add(MINUTE, { at: Date.now() - MINUTE });
        const first = (await device.next(2 * MINUTE, Date.now()))!;
        const taken = await rig.post(first.body, headersOf(first));
        assert.equal(taken.body["accepted"], 1);
        await device.answer(2 * MINUTE, -11);
        await device.add(3 * MINUTE, { at: Date.now() });
        assert.equal(await device.next(2 * MINUTE + 500, Date.now()), undefined, "before its pause is over");
        const again = await send(device, 4 * MINUTE, Date.now());
        assert.deepEqual(JSON.parse(again!.message.body), { ...(JSON.parse(first.body) as object), up: 4 * MINUTE });
        assert.deepEqual([again!.status, again!.body["duplicates"]], [200, 1]);
        assert.equal((await send(device, 4 * MINUTE, Date.now()))!.body["accepted"], 1);
        assert.equal((await rig.read(2)).length, 2);
    });

    it("waits as long as it is asked to, and sends what was not taken in a new message", async () => {
        const device = made();
        await device.begin(1);
        await device.add(MINUTE);
        assert.equal((await device.next(MINUTE))!.seq, 0);
        for (const [i, status] of [429, 503].entries()) {
            const up = (i + 2) * 10 * MINUTE;
            await device.answer(up, status, 120, 999);
            assert.equal(device.notBefore, up + 120_999);
            assert.equal(await device.next(up + 120_998), undefined);
            assert.equal((await device.next(up + 120_999))!.seq, i + 1);
        }
        assert.deepEqual([device.count, device.dropped], [1, 0]);
        await device.answer(MINUTE, 503, 999_999);
        assert.ok(device.notBefore <= MINUTE + 60 * MINUTE, "no longer than an hour");
    });

    it("waits longer after each failure, up to minutes, and takes another chance each time", async () => {
        const device = made();
        await device.begin(1);
        await device.add(MINUTE);
        const waits = [];
        for (let i = 0, up = 0; i < 12; i++, up = device.notBefore) {
            await device.next(up);
            await device.answer(up, 0, -1, 500);
            waits.push(device.notBefore - up);
        }
        assert.deepEqual(waits, [1500, 2500, 4500, 8500, 16_500, 32_500, 64_500, 128_500, 256_500, 256_500, 256_500, 256_500]);
    });

    it("keeps the newest samples of a long outage, and counts those that it gave up", async () => {
        const device = made();
        await device.begin(1);
        await device.add(MINUTE);
        const lost = (await device.next(MINUTE))!;
        await device.answer(MINUTE, 0);
        for (let i = 2; i <= RING + 20; i++) await device.add(i * MINUTE);
        assert.deepEqual([device.count, device.dropped], [RING, 20]);
        const up = 100 * MINUTE;
        const now = Date.now();
        const again = await send(device, up, now);
        assert.deepEqual(JSON.parse(again!.message.body), { ...(JSON.parse(lost.body) as object), up });
        for (let i = 0; i < RING / BATCH; i++) assert.equal((await send(device, up, now))!.body["accepted"], BATCH);
        assert.equal(await device.next(up, now), undefined);
        const readings = await rig.read(RING + 1);
        // It had no clock when it was first sent: what dates it is how long it has been up since.
        assert.ok(Math.abs(readings[0]!.timestamp - (now - 99 * MINUTE)) < MINUTE);
        assert.deepEqual(readings.slice(1).map(({ payload }) => payload["ac_energy_export_wh"]), Array.from({ length: RING }, (_, i) => 1021 + i));
    });

    it("keeps its samples while its key is wrong, and gives up what never will be taken", async () => {
        const device = made();
        await device.begin(1, { secret: "wrong" });
        await device.add(MINUTE);
        assert.equal((await send(device, MINUTE))!.status, 401);
        assert.equal(device.count, 1);
        assert.ok(device.notBefore >= 2 * MINUTE);
        await device.next(10 * MINUTE);
        await device.answer(10 * MINUTE, 400);
        assert.deepEqual([device.count, device.dropped], [0, 1]);
    });

    it("sends less at once to who finds it too much", async () => {
        const device = made();
        await device.begin(1);
        for (let i = 1; i <= BATCH; i++) await device.add(i * MINUTE);
        const sizes = [];
        for (let i = 0; i < 5; i++) {
            const message = (await device.next(20 * MINUTE))!;
            sizes.push((JSON.parse(message.body) as { s: object[] }).s.length);
            await device.answer(20 * MINUTE, 413);
        }
        assert.deepEqual(sizes, [10, 5, 2, 1, 1]);
        assert.deepEqual([device.count, device.dropped], [BATCH - 2, 2]);
    });

    it("counts its starts: what comes after a restart is taken, what was from before is not", async () => {
        const device = made();
        await device.begin(1);
        await device.add(MINUTE);
        const old = (await device.next(MINUTE))!;
        await device.begin(2);
        await device.add(MINUTE, { exported: 5 });
        assert.equal((await send(device, MINUTE))!.status, 200);
        assert.equal((await rig.post(old.body, headersOf(old))).status, 409);
        const changed = old.body.replace('"ac_energy_export_wh":1001', '"ac_energy_export_wh":9001');
        assert.notEqual(changed, old.body);
        assert.equal((await rig.post(changed, headersOf(old))).status, 401);
    });

    it("writes whole messages whatever is measured, within its buffer", async () => {
        const { privateKey } = generateKeyPairSync("ed25519");
        const sample = fc.record({ power: fc.oneof(fc.float().map(String), fc.constantFrom("nan", "inf", "-inf", "3.4e38")), voltage: fc.oneof(fc.float().map(String), fc.constant("nan")), exported: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), at: fc.integer({ min: 0, max: 4e12 }) });
        const device = made(privateKey);
        await fc.assert(
            fc.asyncProperty(fc.array(sample, { minLength: 1, maxLength: 30 }), async (samples) => {
                await device.begin(4_294_967_295, { name: "d".repeat(63), site: "s".repeat(63) });
                for (const [i, { power, voltage, exported, at }] of samples.entries()) await device.add(i, { power, voltage, exported: String(exported), at });
                let left = samples.length;
                for (let message = await device.next(2 ** 40, 0); message; message = await device.next(2 ** 40, 0)) {
                    const { s } = JSON.parse(message.body) as { s: object[] };
                    assert.ok(s.length > 0 && s.length <= BATCH);
                    left -= s.length;
                    await device.answer(2 ** 40, 200);
                }
                assert.equal(left, 0);
            }),
            { numRuns: 30 },
        );
    });
});

describe("the sketch and a Node-RED", () => {
    let userDir: string;
    let nodeRed: NodeRed;
    let folder: string;

    before(async () => {
        folder = await makeDir("wl-sketch-");
        userDir = await makeUserDir();
        const place = { z: "tab", x: 0, y: 0 };
        nodeRed = await startNodeRed({
            userDir,
            flows: [
                { id: "tab", type: "tab" },
                { id: "site", type: "wl-site", siteId: "home" },
                { id: "store", type: "wl-store", folder: "data" },
                { id: "esp", type: "wl-esp32", ...place, site: "site", store: "store", devices: [{ device: "esp1" }], wires: [["told"], []] },
                { id: "told", type: "function", ...place, func: "node.warn(`TOLD ${msg.topic} ${msg.timestamp} ${JSON.stringify(msg.payload)}`);", wires: [] },
            ],
            credentials: { esp: { keys: JSON.stringify({ esp1: KEY }) } },
        });
    });
    after(async () => {
        await nodeRed.stop();
        await removeDir(userDir);
        await removeDir(folder);
    });

    it("agree: the bytes of the sketch come out as a reading, with the settings that it ships with", async () => {
        const program = path.join(folder, "device");
        execFileSync("gcc", ["-std=c99", "-D_DEFAULT_SOURCE", "-O2", "-Wall", "-Werror", `-I${SKETCH}`, "-o", program, path.join(HERE, "device.c"), "-lmbedcrypto", "-lm"]);
        const device = new Device(program);
        await device.begin(1);
        const now = Date.now();
        for (let i = 1; i <= 20; i++) await device.add(i * MINUTE);
        const message = (await device.next(20 * MINUTE, now))!;
        const told = nodeRed.logged(new RegExp(`TOLD home/esp1 ${now} \\{"ac_power_w":-1234.6,"ac_energy_export_wh":1020,"ac_energy_import_wh":7\\}`));
        const response = await fetch(`${nodeRed.url}${PATH}`, { method: "POST", body: message.body, headers: headersOf(message) });
        assert.equal(response.status, 200, await response.text());
        await told;
        await device.answer(20 * MINUTE, response.status);
        assert.equal(device.count, 0);
        await device.stop();
    });
});
