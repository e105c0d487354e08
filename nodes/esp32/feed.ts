import { setImmediate } from "node:timers/promises";
import type { Clock } from "../common/clock.js";
import type { SpoolRecord } from "../store/delivery.js";
import type { Spool } from "../store/spool.js";

export interface FeedOptions {
    clock: Clock;
    /** Hands entries on; `isCurrent` turns false when they are not wanted any more. */
    hand(records: SpoolRecord[], isCurrent: () => boolean): Promise<void>;
    /** Resolves when what was handed on is safe where it went: before that, its place is not given up. */
    settled?: (() => Promise<void>) | undefined;
}

/** Where the spool's cursor is. */
const NAME = "flow";
/** What was handed on is done after so long, ms: a node that takes it needs some time, and may be made anew in the middle of it. */
const HOLD_MS = 5000;
/** Handed on at a time, so that others get their turn. */
const BATCH = { entries: 200, bytes: 256 * 1024 };
/** After a disk that cannot be read, ms. */
const RETRY_MS = 2000;

/**
 * Hands a spool's entries to the flow, in order. Nodes take messages without a receipt, and lose those that come while they are made
 * anew; so the flow gets everything of the last seconds once more after each deploy, restart and crash.
 */
export class Feed {
    /** Number of the next entry to be handed on. */
    private next: number;
    /** Ends of what was handed on lately, and when. */
    private readonly handed: { to: number; at: number }[] = [];
    /** Counts starts and stops: what an earlier run still has to say is not heard. */
    private round = 0;
    private isOn = false;
    private isPumping = false;
    private cancelSettle: (() => void) | undefined;
    private cancelRetry: (() => void) | undefined;
    private readonly unlisten: () => void;

    /** @param spool Ready. */
    constructor(
        private readonly spool: Spool,
        private readonly options: FeedOptions,
    ) {
        const cursor = spool.cursor(NAME);
        if (options.settled) cursor.beforeSave = options.settled;
        this.next = cursor.done.end;
        this.unlisten = spool.onChange(() => this.pump());
    }

    /** Entries that were not handed on yet. */
    get waiting(): number {
        return Math.max(0, this.spool.end - this.next);
    }

    /** The flow runs: hands on what is not known to have arrived. */
    start(): void {
        this.stop();
        this.isOn = true;
        this.next = this.spool.cursor(NAME).done.end;
        this.pump();
    }

    /** Nodes of the flow are about to stop: what they have not had long enough is not done, however long they stay away. */
    stop(): void {
        this.round++;
        this.isOn = false;
        this.cancelRetry?.();
        this.cancelSettle?.();
        this.cancelSettle = undefined;
        this.handed.length = 0;
    }

    close(): void {
        this.stop();
        this.unlisten();
    }

    private pump(): void {
        if (!this.isOn || this.isPumping || this.waiting === 0) return;
        this.isPumping = true;
        const { round } = this;
        this.run(() => round === this.round).then(
            () => {
                this.isPumping = false;
                // Something may have come, or a new run begun, in the meantime.
                this.pump();
            },
            () => {
                this.isPumping = false;
                if (this.isOn) this.cancelRetry = this.options.clock.after(RETRY_MS, () => this.pump());
            },
        );
    }

    private async run(isCurrent: () => boolean): Promise<void> {
        while (isCurrent() && this.waiting > 0) {
            const { records, to } = await this.spool.read(this.next, { ...BATCH, until: this.spool.end });
            if (!isCurrent()) return;
            await this.options.hand(records, isCurrent);
            if (!isCurrent()) return;
            this.next = to;
            this.handed.push({ to, at: this.options.clock.monotonic() });
            this.settle();
            await setImmediate();
        }
    }

    /** Gives up the place of what was handed on long enough ago. */
    private settle(): void {
        const { clock } = this.options;
        const due = this.handed.findIndex(({ at }) => at > clock.monotonic() - HOLD_MS);
        const done = this.handed.splice(0, due < 0 ? this.handed.length : due);
        const last = done.at(-1);
        if (last) this.spool.acknowledge(this.spool.cursor(NAME), 0, last.to);
        const [first] = this.handed;
        if (!first || this.cancelSettle) return;
        this.cancelSettle = clock.after(first.at + HOLD_MS - clock.monotonic(), () => {
            this.cancelSettle = undefined;
            this.settle();
        });
    }
}
