/**
 * A process that keeps readings and delivers them, to be killed at any moment. Argument: JSON of `ChildOptions`.
 * It says `starts <i>` before reading i is handed in for the first time, and `kept <i>` once all readings below i are kept.
 */
import { createReading, type ReadingMessage } from "../../../dist/common/reading.js";
import { InfluxConnection } from "../../../dist/store/influx-connection.js";
import { Store } from "../../../dist/store/store.js";
import { Writer } from "../../../dist/store/writer.js";

export interface ChildOptions {
    folder: string;
    url: string;
    database: string;
    /** `write` goes on for ever, `drain` ends when all is delivered. */
    mode: "write" | "drain";
    from: number;
}

const START_MS = Date.UTC(2026, 5, 1);

/** Reading number i: what is stored of it can be told from its time alone. */
export function numbered(i: number): ReadingMessage {
    const meta = { site: "home", device: `inv${i % 7}`, class: "inverter", seq: i, quality: "good" } as const;
    return createReading(meta, START_MS + i, { ac_power_w: i * 1.5, ac_energy_export_wh: i });
}

export function numberOf(timestamp: number): number {
    return timestamp - START_MS;
}

async function main({ folder, url, database, mode, from }: ChildOptions): Promise<void> {
    const store = new Store({ folder });
    const target = { url, database, version: "auto", org: "", retentionPolicy: "" } as const;
    const connection = new InfluxConnection({ target, tls: {}, createDatabase: false });
    const outbox = connection.outbox(store, "influxdb");
    const writer = new Writer({ store, outbox });
    const { signal } = new AbortController();
    if (mode === "drain") {
        const timer = setInterval(() => outbox.probe(), 100);
        while (outbox.stats().state === "opening" || outbox.stats().pendingPoints > 0) {
            await new Promise<void>((resolve) => {
                const end = outbox.onChange(() => {
                    end();
                    resolve();
                });
            });
        }
        clearInterval(timer);
        const { dropped, state, reason } = outbox.stats();
        if (Object.keys(dropped).length > 0 || state === "paused") throw new Error(`${state} ${reason}, given up: ${JSON.stringify(dropped)}`);
        await connection.close();
        await store.close();
        return;
    }
    for (let next = from; ; next += 500) {
        process.stdout.write(`starts ${next + 500}\n`);
        await Promise.all(Array.from({ length: 500 }, (_, i) => writer.write(numbered(next + i), signal)));
        process.stdout.write(`kept ${next + 500}\n`);
    }
}

if (require.main === module) {
    main(JSON.parse(process.argv[2]!) as ChildOptions).catch((error: unknown) => {
        console.error(error);
        process.exitCode = 1;
    });
}
