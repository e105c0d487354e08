import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { ReadingMessage } from "../../dist/common/reading.js";
import { HttpDoor, type HttpDoorOptions } from "../../dist/esp32/http.js";
import { Ingest, type IngestOptions, type Refusal } from "../../dist/esp32/ingest.js";
import { type DeviceKey, DeviceKeys } from "../../dist/esp32/keys.js";
import { native } from "../../dist/esp32/presets/native.js";
import { makeDir, removeDir } from "../node-red.js";

export const PATH = "/wattledger/esp32";
export const KEY = "k".repeat(43);

/** Ingest behind a real HTTP server, in a folder of its own, that can be closed and opened again. */
export class IngestRig {
    /** What the flow was given, without what it was given again after a new start. */
    readings: ReadingMessage[] = [];
    /** How much that was. */
    again = 0;
    refusals: Refusal[] = [];
    warnings: string[] = [];
    ingest!: Ingest;
    keys: DeviceKey[] = [{ device: "esp1", secret: KEY }];
    allowsAnonymous = false;
    private server: Server | undefined;
    private folder = "";
    private readonly waiting = new Set<() => void>();

    async open(options: Partial<IngestOptions> = {}, door: Partial<HttpDoorOptions> = {}): Promise<void> {
        this.folder ||= await makeDir("wl-esp32-");
        const before = new Set(this.readings.map(identity));
        this.ingest = new Ingest({
            folder: path.join(this.folder, "ingest"),
            site: "home",
            commitMs: 1,
            isListed: (device) => this.keys.some((key) => key.device === device),
            ...options,
            onReading: (message) => {
                if (before.delete(identity(message))) this.again++;
                else this.readings.push(message);
                for (const look of this.waiting) look();
            },
            onRefusal: (refusal) => this.refusals.push(refusal),
            onWarning: (error) => this.warnings.push(error.code),
        });
        this.ingest.start();
        await this.ingest.ready;
        const decoder = native.createDecoder({ prefix: "", zone: "UTC" });
        const http = new HttpDoor({ ingest: this.ingest, keys: new DeviceKeys(this.keys, this.allowsAnonymous), decoder, below: {}, ...door });
        this.server = createServer((request, response) => http.handle(request, response, request.url!.split("?")[0]!.slice(PATH.length + 1)));
        await new Promise<void>((resolve) => this.server!.listen(0, "127.0.0.1", resolve));
    }

    /** Ends it; what it kept stays. */
    async shut(): Promise<void> {
        const { server } = this;
        this.server = undefined;
        server?.closeAllConnections();
        await new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)));
        await this.ingest?.close();
    }

    async close(): Promise<void> {
        await this.shut();
        await removeDir(this.folder);
    }

    get port(): number {
        return (this.server!.address() as AddressInfo).port;
    }

    get url(): string {
        return `http://127.0.0.1:${this.port}${PATH}`;
    }

    /** Posts an envelope as esp1, with its key unless told otherwise. */
    async post(body: object | string | Buffer, headers: Record<string, string> = { authorization: `Bearer ${KEY}` }): Promise<{ status: number; body: Record<string, unknown>; headers: Headers }> {
        const bytes = typeof body === "string" || Buffer.isBuffer(body) ? body : JSON.stringify(body);
        const response = await fetch(this.url, { method: "POST", body: bytes as never, headers });
        return { status: response.status, body: (await response.json()) as Record<string, unknown>, headers: response.headers };
    }

    /** Once so many readings have reached the flow. */
    async read(count: number): Promise<ReadingMessage[]> {
        while (this.readings.length < count) {
            await new Promise<void>((resolve) => {
                const look = (): void => {
                    this.waiting.delete(look);
                    resolve();
                };
                this.waiting.add(look);
            });
        }
        return this.readings;
    }
}

function identity({ topic, timestamp, payload, reading }: ReadingMessage): string {
    return JSON.stringify([topic, timestamp, payload, reading.boot, reading.seq]);
}

/** An envelope of esp1. */
export function envelope(seq: number, more: object = {}): Record<string, unknown> {
    return { v: 1, id: "esp1", boot: 3, seq, up: 100_000, s: [{ up: 100_000, ac_power_w: seq }], ...more };
}
