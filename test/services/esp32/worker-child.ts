/**
 * A process that takes what ESP32 devices send over MQTT and keeps it, to be killed at any moment. Argument: JSON of `WorkerOptions`.
 * It says `up` once it is subscribed, and `kept` for the first message that is on disk.
 */
import path from "node:path";
import { esp32Schema } from "../../../dist/esp32/config.js";
import { DeviceKeys } from "../../../dist/esp32/keys.js";
import { Receiver } from "../../../dist/esp32/receiver.js";
import { MqttLink } from "../../../dist/mqtt/link.js";
import { settings } from "../../mqtt/rig.js";

export interface WorkerOptions {
    folder: string;
    url: string;
    clientId: string;
    version: 4 | 5;
    share?: string;
}

/** Where a worker keeps its messages. */
export function spoolOf(folder: string): string {
    return path.join(folder, "ingest");
}

/** Keeps everything, and hands nothing on: what is on disk can be counted afterwards. */
export async function startWorker({ folder, url, clientId, version, share = "" }: WorkerOptions, onKept: () => void): Promise<() => Promise<void>> {
    const receiver = new Receiver({
        folder: spoolOf(folder),
        site: "home",
        zone: "UTC",
        config: esp32Schema.parse({ share }),
        keys: new DeviceKeys([]),
        onReading: () => undefined,
        onRefusal: ({ code, reason }) => console.error(`refused: ${code} ${reason}`),
        onWarning: (error) => console.error(error.message),
    });
    const link = new MqttLink(settings(url, { clientId, version }));
    const subscription = receiver.subscription(() => undefined);
    await new Promise<void>((resolve) => {
        link.join("worker", {
            ...subscription,
            onMessage: async (message) => {
                await subscription.onMessage(message);
                onKept();
            },
        }, ({ name }) => {
            if (name === "up") resolve();
        });
    });
    return async () => {
        await link.close(false);
        await receiver.ingest.close();
    };
}

async function main(options: WorkerOptions): Promise<void> {
    let told = false;
    const stop = await startWorker(options, () => {
        if (!told) process.stdout.write("kept\n");
        told = true;
    });
    process.stdout.write("up\n");
    process.once("SIGTERM", () => void stop());
}

if (require.main === module) {
    main(JSON.parse(process.argv[2]!) as WorkerOptions).catch((error: unknown) => {
        console.error(error);
        process.exitCode = 1;
    });
}
