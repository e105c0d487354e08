import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import type { InfluxTarget } from "../../../dist/store/influx-dialect.js";

/** What the child is told. */
export interface Load {
    folder: string;
    /** Time of entry 0, ms UTC; entry N is N ms later. */
    t0: number;
    /** Number of the first entry. */
    from: number;
    /** Where its outbox delivers to; nowhere without it. */
    target?: InfluxTarget;
}

/** Each life of the process counts from a million of its own, so that numbers it gave but never told of are not given twice. */
const LIFE = 1_000_000;

/** Load in a process that is killed and started again; what it said is kept is remembered across its lives. */
export class KillableLoad {
    readonly t0: number;
    /** Of each life: the number after the last that is on disk, as the process itself said. */
    readonly kept: { spool: number; series: number }[] = [];
    private child: ChildProcess | undefined;

    constructor(private readonly load: Omit<Load, "from" | "t0">) {
        // Of the last hours, so that the series takes it.
        this.t0 = Math.floor(Date.now() / 1000) * 1000 - 12 * 3_600_000;
    }

    /** Starts the process; resolves once it has kept something, to be killed at any instant from then on. */
    async start(): Promise<void> {
        const from = this.kept.length * LIFE;
        const kept = { spool: from, series: from };
        this.kept.push(kept);
        const load: Load = { ...this.load, t0: this.t0, from };
        const child = spawn(process.execPath, [path.join(__dirname, "load-child.js"), JSON.stringify(load)], { stdio: ["ignore", "pipe", "inherit"] });
        this.child = child;
        await new Promise<void>((resolve, reject) => {
            createInterface({ input: child.stdout }).on("line", (line) => {
                const [what, n] = line.split(" ");
                if (what === "failed") reject(new Error(line));
                else kept[what as "spool" | "series"] = Number(n) + 1;
                if (what === "series") resolve();
            });
            child.once("exit", () => reject(new Error("the load ended before it kept anything")));
        });
    }

    /** kill -9. Everything the process said before is known when it resolves. */
    async kill(): Promise<void> {
        const { child } = this;
        this.child = undefined;
        if (!child) return;
        child.kill("SIGKILL");
        await once(child, "close");
    }

    /** Every number that was said to be on disk. */
    *numbers(where: "spool" | "series"): Generator<number> {
        for (const [life, kept] of this.kept.entries()) for (let n = life * LIFE; n < kept[where]; n++) yield n;
    }
}
