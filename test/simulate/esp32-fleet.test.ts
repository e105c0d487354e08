import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import fc from "fast-check";
import { isSigned } from "../../dist/carbon/capsule.js";
import { sampleOf } from "../../dist/carbon/settlement.js";
import { createHttpClient } from "../../dist/common/http.js";
import type { PointValue, ReadingMessage } from "../../dist/common/reading.js";
import { StateFile } from "../../dist/common/statefile.js";
import { Esp32Fleet, FLEET_FAULTS, type FleetConfig, type FleetFault, parseFleetFault } from "../../dist/simulate/esp32-fleet.js";
import { SolarMeter } from "../../dist/simulate/esp32-meter.js";
import { type HttpAuth, httpTransport, mqttTransport, type Transport } from "../../dist/simulate/esp32-sender.js";
import { IngestRig } from "../esp32/rig.js";
import { makeDir, removeDir } from "../node-red.js";

const SECRET = "s".repeat(40);
const HOUR = 3_600_000;

describe("simulated ESP32 meters", () => {
    const client = createHttpClient();
    let rig: IngestRig;
    let folder: string;
    let stop: AbortController;
    let ended: Promise<unknown>;
    let statuses: string[];
    let truths: Record<string, PointValue>[];
    let errors: Error[];
    const watchers = new Set<() => void>();

    beforeEach(async () => {
        rig = new IngestRig();
        rig.keys = [{ device: "sim-*", secret: SECRET }];
        await rig.open();
        folder = await makeDir("wl-fleet-");
        [statuses, truths, errors] = [[], [], []];
        ended = Promise.resolve();
        stop = new AbortController();
    });
    afterEach(async () => {
        stop.abort();
        await ended;
        await rig.close();
        await removeDir(folder);
    });
    after(() => client.close());

    const happened = (act: () => void) => {
        act();
        for (const look of watchers) look();
    };
    /** Once something has come true by what happened. */
    const until = async (isTrue: () => boolean) => {
        while (!isTrue()) {
            await new Promise<void>((resolve) => {
                const look = () => {
                    watchers.delete(look);
                    resolve();
                };
                watchers.add(look);
            });
        }
    };
    const http = (auth: HttpAuth = "hmac", secret = SECRET) => httpTransport(client, () => rig.url, auth, secret);

    function fleetOf(config: Partial<FleetConfig> = {}, transport: Transport = http()): Esp32Fleet {
        const all = { site: "home", seed: 3, latitude: 33.6, longitude: -7.6, ratedPowerW: 9000, devices: 2, prefix: "sim-", intervalMs: 10_000, batch: 1, historyMs: HOUR, speed: 1e6, signWith: "", ...config };
        const events = { onStatus: (kind: string, text: string) => happened(() => statuses.push(`${kind} ${text}`)), onError: (error: Error) => errors.push(error), onTruth: ({ payload }: ReadingMessage) => truths.push(payload) };
        return new Esp32Fleet(all, transport, events, new StateFile(path.join(folder, "fleet.json")));
    }

    function start(fleet: Esp32Fleet): void {
        ended = fleet.run(stop.signal).catch((error: unknown) => assert.ok(stop.signal.aborted, String(error)));
    }

    /** What a device's meter shows at the times of its readings, counted from the first one on. */
    function check(device: string, index: number, count: number): void {
        const own = rig.readings.filter(({ reading }) => reading.device === device).toSorted((a, b) => a.timestamp - b.timestamp).slice(0, count);
        assert.equal(own.length, count, device);
        const first = own[0]!;
        const meter = new SolarMeter({ seed: 3, latitude: 33.6, longitude: -7.6, ratedW: 4500 }, index, { at: first.timestamp, exportWh: first.payload["ac_energy_export_wh"] as number, importWh: 0 });
        for (const [i, { timestamp, payload, reading }] of own.entries()) {
            assert.equal(timestamp, first.timestamp + i * 10_000);
            assert.equal(reading.simulated, true);
            assert.equal(reading.class, "meter");
            const { values } = meter.sample(timestamp);
            for (const point of ["ac_power_w", "irradiance_poa_w_m2", "module_temperature_c"]) assert.equal(payload[point], values[point], `${point} ${i}`);
            // The counter began between two whole Wh.
            assert.ok(Math.abs((payload["ac_energy_export_wh"] as number) - values["ac_energy_export_wh"]!) <= 1, `${i}`);
        }
    }

    for (const auth of ["bearer", "hmac"] as const) {
        it(`make up for the past with the times of the measurements, with a key as ${auth}`, async () => {
            start(fleetOf({}, http(auth)));
            await rig.read(720);
            check("sim-1", 0, 360);
            check("sim-2", 1, 360);
            assert.deepEqual(rig.refusals, []);
        });
    }

    it("send nothing that is taken with a wrong key, say so, and lose nothing", async () => {
        const fleet = fleetOf({ devices: 1 }, http("hmac", "wrong"));
        start(fleet);
        await until(() => statuses.includes("warn 1: HTTP 401"));
        stop.abort();
        await ended;
        assert.equal(rig.readings.length, 0);
        fleet.close(false);
        stop = new AbortController();
        start(fleetOf({ devices: 1 }));
        await rig.read(360);
    });

    it("sign each sample so that it stands as evidence, and say in it that it is simulated", async () => {
        const fleet = fleetOf({ signWith: "a secret", historyMs: HOUR / 6 });
        start(fleet);
        await rig.read(120);
        for (const message of rig.readings) {
            const sample = sampleOf(message, Date.now());
            assert.ok(typeof sample === "object" && sample.origin === "simulated");
            assert.ok(isSigned(sample, fleet.keys[message.reading.device]!));
            assert.ok(!isSigned({ ...sample, exportWh: sample.exportWh! + 1 }, fleet.keys[message.reading.device]!));
            assert.ok(!isSigned({ ...sample, origin: "measured" }, fleet.keys[message.reading.device]!));
        }
        assert.deepEqual(fleetOf({ signWith: "a secret" }).keys, fleet.keys);
        assert.notDeepEqual(fleetOf({ signWith: "another" }).keys, fleet.keys);
    });

    for (const fault of ["duplicate", "reorder", "replay", "forged", "twin", "truncated", "oversize"] satisfies FleetFault[]) {
        it(`are taken once each and as they are, whatever comes beside them: ${fault}`, async () => {
            const fleet = fleetOf({ historyMs: 2 * HOUR }, http("bearer"));
            fleet.command({ fault, device: 1 });
            start(fleet);
            await rig.read(1440);
            stop.abort();
            await ended;
            const keys = rig.readings.map(({ timestamp, reading }) => `${reading.device} ${timestamp}`);
            assert.equal(new Set(keys).size, keys.length, "twice");
            check("sim-1", 0, 720);
            check("sim-2", 1, 720);
            const codes = new Set(rig.refusals.map(({ code }) => code));
            const expected = { forged: ["KEY_WRONG"], twin: ["DEVICE_TWICE"], truncated: ["PAYLOAD_INVALID"], oversize: ["BODY_TOO_LARGE"] } as Partial<Record<FleetFault, string[]>>;
            assert.deepEqual([...codes], expected[fault] ?? []);
            assert.ok(rig.refusals.every(({ device }) => device === undefined || device === "sim-1"));
        });
    }

    it("that are offline keep what they measure, and send it with its times", async () => {
        const fleet = fleetOf();
        fleet.command({ fault: "offline", device: 2 });
        start(fleet);
        await rig.read(360);
        assert.ok(rig.readings.every(({ reading }) => reading.device === "sim-1"));
        assert.ok(statuses.some((status) => status === "warn 2: offline"));
        fleet.command("clear");
        await rig.read(720);
        check("sim-2", 1, 360);
    });

    for (const fault of ["noclock", "misdated"] as const) {
        it(`are dated by what they counted since their start: ${fault}`, async () => {
            const fleet = fleetOf({ devices: 1 });
            fleet.command(fault);
            start(fleet);
            const readings = (await rig.read(360)).slice(0, 360);
            const [first, last] = [readings[0]!.timestamp, readings.at(-1)!.timestamp];
            assert.ok(Math.abs(last - first - 359 * 10_000) < 10_000);
            assert.ok(Math.abs(Date.now() - last) < 60_000);
        });
    }

    it("count on after a restart: no sample is missing, none is another one, and the start is counted", async () => {
        let left = 2;
        const real = http();
        const breaking: Transport = { send: async (...args) => (left-- > 0 ? real.send(...args) : { kind: "again", reason: "unplugged" }) };
        const fleet = fleetOf({ historyMs: HOUR / 2 }, breaking);
        start(fleet);
        await rig.read(200);
        await until(() => statuses.some((status) => status.endsWith("unplugged")));
        stop.abort();
        await ended;
        fleet.close(false);
        assert.equal(rig.readings.length, 200);
        const boots = new Set(rig.readings.map(({ reading }) => reading.boot));
        stop = new AbortController();
        start(fleetOf({ historyMs: HOUR / 2 }));
        await rig.read(360);
        for (const { reading } of rig.readings) boots.add(reading.boot);
        check("sim-1", 0, 180);
        check("sim-2", 1, 180);
        assert.ok(boots.size === 2);
        assert.deepEqual(errors, []);
    });

    it("start again and count anew on demand, as devices do", async () => {
        const fleet = fleetOf({ devices: 1, historyMs: HOUR / 6 });
        fleet.command("counters");
        fleet.command({ fault: "reboot" });
        start(fleet);
        await rig.read(60);
        assert.ok((rig.readings[0]!.payload["ac_energy_export_wh"] as number) < 100);
        assert.equal(truths.at(-1)!["messages_refused"], 0);
        assert.ok((truths.at(-1)!["samples"] as number) >= 60);
    });

    it("repeat a message as it was until it is answered, after the pause they are asked for", async () => {
        const bodies: string[] = [];
        const answers = [503, 429, 503, 200];
        const server = createServer((request, response) => {
            const chunks: Buffer[] = [];
            request.on("data", (chunk: Buffer) => chunks.push(chunk));
            request.on("end", () => {
                happened(() => bodies.push(Buffer.concat(chunks).toString()));
                response.writeHead(answers[bodies.length - 1] ?? 200, { "retry-after": "0" }).end();
            });
        });
        await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
        start(fleetOf({ devices: 1, historyMs: HOUR / 6 }, httpTransport(client, () => `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, "none", "")));
        await until(() => bodies.length >= 4);
        stop.abort();
        await ended;
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
        assert.equal(new Set(bodies.slice(0, 4)).size, 1);
        assert.ok(statuses.includes("warn 1: HTTP 503") && statuses.includes("warn 1: HTTP 429"));
    });

    it("publish below their names, and keep a message that the broker did not acknowledge", async () => {
        const published: [string, string][] = [];
        let isUp = false;
        const transport = mqttTransport((topic, body) => {
            if (!isUp) {
                isUp = true;
                return Promise.reject(Object.assign(new Error("no connection"), { code: "MQTT_CLOSED" }));
            }
            happened(() => published.push([topic, body.toString()]));
            return Promise.resolve();
        }, "wattledger");
        start(fleetOf({ devices: 1, historyMs: HOUR / 6 }, transport));
        await until(() => published.length > 0);
        const [topic, body] = published[0]!;
        assert.equal(topic, "wattledger/sim-1/data");
        const { id, seq, sim, s } = JSON.parse(body) as { id: string; seq: number; sim: boolean; s: object[] };
        assert.deepEqual([id, seq, sim, s.length], ["sim-1", 0, true, 60]);
        assert.ok(statuses.includes("warn 1: not connected"));
    });

    it("understand their faults, and say what they understand", () => {
        const fleet = fleetOf();
        for (const fault of [...FLEET_FAULTS, "clear"]) fleet.command(fault);
        assert.throws(() => fleet.command("blue"), { code: "SIM_FAULT", message: /offline.*clear/ });
        assert.throws(() => fleet.command({ fault: "offline", device: 0 }), { code: "SIM_FAULT" });
        fc.assert(
            fc.property(fc.anything(), (payload) => {
                try {
                    parseFleetFault(payload);
                } catch (error) {
                    assert.equal((error as { code?: string }).code, "SIM_FAULT");
                }
            }),
        );
    });
});
