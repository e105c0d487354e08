import { fork } from "node:child_process";
import { once } from "node:events";
import { connectAsync } from "mqtt";
import path from "node:path";
import { esp32Schema } from "../../dist/esp32/config.js";
import { DeviceKeys } from "../../dist/esp32/keys.js";
import { Receiver } from "../../dist/esp32/receiver.js";
import { MqttLink, type MqttMessage } from "../../dist/mqtt/link.js";
import { Spool } from "../../dist/store/spool.js";
import { settings } from "../mqtt/rig.js";
import { makeDir, removeDir } from "../node-red.js";
import { Mosquitto } from "../services/mosquitto.js";
import type { Row } from "./row.js";

const DEVICES = 100;
const TOPICS = "wattledger/+/data";

/** What a process of its own publishes, QoS 1: `count` messages, from number `from` of each device on. */
interface Load {
    url: string;
    count: number;
    from: number;
}

/** What takes the messages, until it is closed. */
interface Sink {
    take: (message: MqttMessage) => Promise<void>;
    close: () => Promise<void>;
}

/** Of one way to take the messages. */
interface Taken {
    /** Messages a second, from the first one to the last one that was kept. */
    rate: number;
    /** Messages in a second of this process's CPU: the machine may have had other things to do. */
    byCpu: number;
}

/**
 * A backlog of QoS 1 from 100 devices waits at a real Mosquitto, as after an outage, and one link takes it: with the ingest of
 * wl-esp32, with the spool alone and with nothing behind it. What is counted is acknowledged, and with the first two that is on disk.
 */
export async function run(quick: boolean): Promise<Row[]> {
    const count = quick ? 5_000 : 200_000;
    const broker = await Mosquitto.start();
    const folder = await makeDir("wl-bench-");
    try {
        const nothing = await measure(broker.url, count, 0, { take: async () => undefined, close: async () => undefined });
        const spool = await measure(broker.url, count, 1, await openSpool(path.join(folder, "spool")));
        const ingest = await measure(broker.url, count, 2, await openIngest(path.join(folder, "ingest")));
        return [
            { name: "mqtt: durable messages of 100 devices through wl-esp32's ingest, QoS 1", value: ingest.rate, unit: "messages/s", target: ">= 20,000", pass: ingest.rate >= 20_000 },
            { name: "mqtt: the same, a second of CPU", value: ingest.byCpu, unit: "messages/s", target: ">= 20,000", pass: ingest.byCpu >= 20_000 },
            { name: "mqtt: durable messages into the spool alone, a second of CPU", value: spool.byCpu, unit: "messages/s", target: ">= 30,000", pass: spool.byCpu >= 30_000 },
            { name: "mqtt: messages that nothing keeps, a second of CPU", value: nothing.byCpu, unit: "messages/s", target: ">= 40,000", pass: nothing.byCpu >= 40_000 },
        ];
    } finally {
        await broker.stop();
        await removeDir(folder);
    }
}

async function openSpool(folder: string): Promise<Sink> {
    const spool = new Spool({ folder, commitMs: 0, commitEntries: 1 });
    await spool.ready;
    return {
        take: async ({ payload }) => {
            if ((await spool.append(`${payload.toString()}\n`, 1)) !== "disk") throw new Error("not on disk");
        },
        close: () => spool.close(),
    };
}

async function openIngest(folder: string): Promise<Sink> {
    const refused: string[] = [];
    const receiver = new Receiver({
        folder,
        site: "bench",
        zone: "UTC",
        config: esp32Schema.parse({}),
        keys: new DeviceKeys([]),
        onReading: () => undefined,
        onRefusal: ({ code }) => refused.push(code),
    });
    receiver.ingest.start();
    await receiver.ingest.ready;
    const subscription = receiver.subscription(() => undefined);
    return {
        take: (message) => subscription.onMessage(message),
        close: async () => {
            await receiver.ingest.close();
            if (refused.length > 0) throw new Error(`${refused.length} messages were refused: ${refused[0]}`);
        },
    };
}

async function measure(url: string, count: number, round: number, { take, close }: Sink): Promise<Taken> {
    let kept = 0;
    let done: (() => void) | undefined;
    const all = new Promise<void>((resolve) => (done = resolve));
    const onMessage = async (message: MqttMessage): Promise<void> => {
        await take(message);
        if (++kept === count) done?.();
    };
    const open = async (): Promise<MqttLink> => {
        const link = new MqttLink(settings(url, { version: 5, clientId: "wlbench" }));
        await new Promise<void>((resolve) => {
            link.join("bench", { topics: [TOPICS], qos: 1, onMessage }, ({ name }) => {
                if (name === "up") resolve();
            });
        });
        return link;
    };
    await (await open()).close(false);
    const load: Load = { url, count, from: 1 + round * Math.ceil(count / DEVICES) };
    await once(fork(__filename, [JSON.stringify(load)]), "exit");
    const [started, cpu] = [performance.now(), process.cpuUsage()];
    const link = await open();
    await all;
    const ms = performance.now() - started;
    const { user, system } = process.cpuUsage(cpu);
    await link.close(true);
    await close();
    return { rate: (count * 1e3) / ms, byCpu: (count * 1e6) / (user + system) };
}

async function publishAll({ url, count, from }: Load): Promise<void> {
    const client = await connectAsync(url, { clientId: "devices" });
    const IN_FLIGHT = 2_000;
    let next = 0;
    const lane = async (): Promise<void> => {
        while (next < count) {
            const n = next++;
            const [id, seq] = [`esp${n % DEVICES}`, from + Math.floor(n / DEVICES)];
            const body = `{"v":1,"id":"${id}","boot":1,"seq":${seq},"up":${seq * 1000},"ts":${1_795_000_000_000 + seq * 1000},"s":[{"up":${seq * 1000},"ac_power_w":${seq % 5000},"ac_energy_export_wh":${seq}}]}`;
            await client.publishAsync(`wattledger/${id}/data`, body, { qos: 1 });
        }
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
    await client.endAsync();
}

if (require.main === module) void publishAll(JSON.parse(process.argv[2]!) as Load);
