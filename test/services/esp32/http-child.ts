/**
 * A process that takes what devices post, to be killed at any moment. Arguments: its folder, and a file to which it adds a line for each
 * reading that it hands on. It says its port once it listens.
 */
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { HttpDoor } from "../../../dist/esp32/http.js";
import { Ingest } from "../../../dist/esp32/ingest.js";
import { DeviceKeys } from "../../../dist/esp32/keys.js";
import { native } from "../../../dist/esp32/presets/native.js";

async function main(folder: string, handed: string): Promise<void> {
    const ingest = new Ingest({
        folder,
        site: "home",
        onReading: ({ timestamp, payload, reading }) => appendFileSync(handed, `${reading.device} ${timestamp} ${payload["ac_power_w"]}\n`),
    });
    ingest.start();
    await ingest.ready;
    const door = new HttpDoor({ ingest, keys: new DeviceKeys([{ device: "esp*", secret: "key" }]), decoder: native.createDecoder({ prefix: "", zone: "UTC" }), below: {} });
    const server = createServer((request, response) => door.handle(request, response, ""));
    server.listen(0, "127.0.0.1", () => process.stdout.write(`${(server.address() as AddressInfo).port}\n`));
}

main(process.argv[2]!, process.argv[3]!).catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
});
