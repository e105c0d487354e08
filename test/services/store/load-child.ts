/*
 * A process that keeps a growing load and says what is kept: on stdout `spool N` once entry N is on disk and `series N` once
 * sample N is committed. It runs until it is killed. Entries are line protocol: `load n=<N>i <t0+N>`.
 */
import { writeSync } from "node:fs";
import path from "node:path";
import { createHttpClient } from "../../../dist/common/http.js";
import { InfluxSender } from "../../../dist/store/influx-sender.js";
import { Outbox } from "../../../dist/store/outbox.js";
import { Series } from "../../../dist/store/series.js";
import { Spool } from "../../../dist/store/spool.js";
import type { Load } from "./load.js";

const { folder, t0, from, target } = JSON.parse(process.argv[2]!) as Load;
const spool = new Spool({ folder: path.join(folder, "spool"), commitMs: 5, commitEntries: 200, segmentBytes: 64 * 1024, cursorMs: 500 });
const series = new Series({ folder, commitMs: 50 });

function say(line: string): void {
    writeSync(1, `${line}\n`);
}

async function keep(): Promise<void> {
    await Promise.all([spool.ready, series.ready]);
    if (target) {
        const sender = new InfluxSender({ http: createHttpClient(), target, timeoutMs: 5000 });
        const outbox = new Outbox(spool, "influx", sender.deliver, { batchEntries: 1000, backoff: { base: 50, cap: 500 } });
        outbox.probe();
    }
    for (let n = from; ; n += 100) {
        const kept = await Promise.all(
            Array.from({ length: 100 }, (_, i) => {
                series.append({ timestamp: t0 + n + i, payload: { n_w: n + i }, reading: { site: "home", device: "load", class: "load" } });
                return spool.append(`load n=${n + i}i ${t0 + n + i}`, 1);
            }),
        );
        if (kept.some((where) => where !== "disk")) throw new Error(spool.stats().reason);
        say(`spool ${n + 99}`);
        await series.flush();
        if (series.stats().buffered > 0) throw new Error(series.stats().reason);
        say(`series ${n + 99}`);
    }
}

keep().catch((error: unknown) => {
    say(`failed ${String(error)}`);
    process.exit(1);
});
