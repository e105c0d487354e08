import assert from "node:assert/strict";
import fc from "fast-check";
import type { Deliver, Outcome } from "../../dist/store/delivery.js";
import { Outbox } from "../../dist/store/outbox.js";
import { Spool } from "../../dist/store/spool.js";
import { ManualClock } from "../common/manual-clock.js";
import { FaultyFiles, type Fault } from "./faulty-files.js";
import { entriesOf, makeFolder, removeFolders, until } from "./kit.js";

/** What may happen to a spool and its outbox. */
type Command =
    | { kind: "append"; sizes: number[] }
    | { kind: "receiver"; mood: "takes" | "retries" | "pauses" | "splits" | "refuses odd" | "stores, then loses the answer" }
    | { kind: "disk"; after: number; fault: Fault; lasting: boolean }
    | { kind: "heal" }
    | { kind: "wait"; ms: number }
    | { kind: "restart" }
    | { kind: "crash"; part: number };

const command: fc.Arbitrary<Command> = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant("append" as const), sizes: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }) }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("receiver" as const), mood: fc.constantFrom("takes", "retries", "pauses", "splits", "refuses odd", "stores, then loses the answer") }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("disk" as const), after: fc.nat(25), fault: fc.constantFrom<Fault>("ENOSPC", "EIO", "EROFS", "short"), lasting: fc.boolean() }) },
    { weight: 2, arbitrary: fc.constant({ kind: "heal" as const }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("wait" as const), ms: fc.constantFrom(1000, 5000, 61_000) }) },
    { weight: 1, arbitrary: fc.constant({ kind: "restart" as const }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("crash" as const), part: fc.double({ min: 0, max: 1, noNaN: true }) }) },
);

/** The real thing beside what a person would expect of it: everything kept on disk arrives, or is counted as lost. */
class Bench {
    private readonly clock = new ManualClock();
    private files = new FaultyFiles();
    private spool!: Spool;
    private outbox!: Outbox;
    private mood: Extract<Command, { kind: "receiver" }>["mood"] = "takes";
    private appended = 0;
    private readonly kept = new Set<number>();
    private readonly arrived = new Set<number>();
    private readonly seen = new Set<number>();
    /** Entries in the order in which the receiver first looked at them. */
    private readonly order: number[] = [];
    /** In memory when the process ended: not promised. */
    private readonly perished = new Set<number>();

    constructor(
        private readonly folder: string,
        private readonly live: boolean,
    ) {}

    async open(): Promise<void> {
        this.spool = new Spool({ folder: this.folder, files: this.files, clock: this.clock, commitEntries: 1, segmentBytes: 400, memoryBytes: 5000 });
        this.outbox = new Outbox(this.spool, "receiver", this.deliver, { clock: this.clock, random: () => 1, batchEntries: 30, live: this.live });
        await this.spool.ready;
    }

    async run(step: Command): Promise<void> {
        if (step.kind === "append") await Promise.all(step.sizes.map((size) => this.append(size)));
        else if (step.kind === "receiver") this.mood = step.mood;
        else if (step.kind === "disk") this.breakDisk(step);
        else if (step.kind === "heal") this.files.fault = () => undefined;
        else if (step.kind === "wait") this.clock.advance(step.ms);
        else await this.restart(step);
        await this.settle();
    }

    /** Mends everything and lets it come to rest. */
    async finish(): Promise<void> {
        this.mood = "takes";
        this.files.fault = () => undefined;
        for (let i = 0; i < 100 && (this.outbox.stats().state !== "idle" || this.spool.stats().state !== "disk"); i++) {
            this.clock.advance(61_000);
            await this.spool.flush();
            await this.settle();
        }
        assert.deepEqual([this.outbox.stats().state, this.outbox.stats().pendingPoints, this.spool.stats().state], ["idle", 0, "disk"]);
        for (const { entry } of await this.outbox.quarantine.list()) this.arrived.add(Number(entry));
        this.check();
        await this.close();
    }

    async close(): Promise<void> {
        await this.outbox.close();
        await this.spool.close();
    }

    private check(): void {
        const lost = [...this.kept].filter((entry) => !this.arrived.has(entry) && !this.perished.has(entry));
        const { damaged = 0, version = 0, ...dropped } = this.outbox.stats().dropped;
        const counted = Object.values(dropped).reduce((sum, n) => sum + n, 0);
        assert.ok(lost.length <= counted, `lost ${lost.join()}, but counted ${JSON.stringify(dropped)}`);
        assert.deepEqual([damaged, version], [0, 0]);
        for (const entry of this.arrived) assert.ok(entry < this.appended, `${entry} was never appended`);
        if (!this.live) assert.deepEqual(this.order, this.order.toSorted((a, b) => a - b));
    }

    private async append(size: number): Promise<void> {
        const first = this.appended;
        this.appended += size;
        const numbers = Array.from({ length: size }, (_, i) => first + i);
        const where = await this.spool.append(numbers.join("\n"), size);
        for (const number of numbers) {
            this.kept.add(number);
            if (where === "memory") this.perished.add(number);
        }
    }

    private breakDisk({ after, fault, lasting }: Extract<Command, { kind: "disk" }>): void {
        let left = after;
        this.files.fault = () => {
            left--;
            return left < 0 && (lasting || left === -1) ? fault : undefined;
        };
    }

    private async restart(step: Command): Promise<void> {
        if (step.kind === "crash") this.files.kill();
        await this.close();
        if (step.kind === "crash") await this.files.powerCut(step.part);
        this.files = new FaultyFiles();
        await this.open();
    }

    /** Until nothing moves without the clock. */
    private async settle(): Promise<void> {
        await until(this.outbox, () => {
            const { state, pendingPoints } = this.outbox.stats();
            return state === "waiting" || state === "paused" || (state === "idle" && pendingPoints === 0);
        });
    }

    private readonly deliver: Deliver = async (records): Promise<Outcome> => {
        // A real receiver takes time.
        await new Promise(setImmediate);
        const entries = entriesOf(records).map(Number);
        if (this.mood === "retries") return { kind: "retry", reason: "busy" };
        if (this.mood === "pauses") return { kind: "pause", reason: "wrong token" };
        if (this.mood === "splits" && records.length > 1) return { kind: "split", reason: "too large" };
        const refused = this.mood === "refuses odd" ? entries.filter((entry) => entry % 2 === 1) : [];
        for (const entry of entries) {
            if (!this.seen.has(entry)) this.order.push(entry);
            this.seen.add(entry);
            if (!refused.includes(entry)) this.arrived.add(entry);
        }
        if (this.mood === "stores, then loses the answer") return { kind: "retry", reason: "connection reset" };
        return { kind: "delivered", rejected: refused.map((entry) => ({ entry: String(entry), reason: "odd" })) };
    };
}

describe("store: spool and outbox against a model", () => {
    afterEach(removeFolders);

    for (const live of [false, true]) {
        it(`whatever fails and whenever it restarts, what was kept arrives or is counted (${live ? "live beside backlog" : "strict order"})`, async () => {
            await fc.assert(
                fc.asyncProperty(fc.array(command, { maxLength: 25 }), async (commands) => {
                    const bench = new Bench(await makeFolder(), live);
                    await bench.open();
                    for (const step of commands) await bench.run(step);
                    await bench.finish();
                }),
                { numRuns: Number(process.env["FC_RUNS"] ?? 50) },
            );
        });
    }
});
