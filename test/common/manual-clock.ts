import type { Clock } from "../../dist/common/clock.js";

interface Task {
    at: number;
    run: () => void;
}

/** A clock that stands until the test moves it; timers fire in order as it passes them. */
export class ManualClock implements Clock {
    private tasks: Task[] = [];
    private elapsed = 0;

    constructor(private start = Date.UTC(2026, 5, 1)) {}

    /** Sets the wall clock, as NTP or a person does; durations do not notice. */
    set(now: number): void {
        this.start = now - this.elapsed;
    }

    now(): number {
        return this.start + this.elapsed;
    }

    monotonic(): number {
        return this.elapsed;
    }

    sleep(ms: number, signal?: AbortSignal): Promise<void> {
        return new Promise((resolve, reject) => {
            const cancel = this.after(ms, () => {
                signal?.removeEventListener("abort", giveUp);
                resolve();
            });
            const giveUp = () => {
                cancel();
                reject(signal?.reason as Error);
            };
            if (signal?.aborted) giveUp();
            else signal?.addEventListener("abort", giveUp);
        });
    }

    after(ms: number, run: () => void): () => void {
        const task = { at: this.elapsed + Math.max(0, ms), run };
        this.tasks.push(task);
        return () => {
            this.tasks = this.tasks.filter((other) => other !== task);
        };
    }

    /** Timers that wait. */
    get waiting(): number {
        return this.tasks.length;
    }

    /** Moves on by `ms`; a timer set by another one fires too when it falls due on the way. */
    advance(ms: number): void {
        const end = this.elapsed + ms;
        for (;;) {
            const due = this.tasks.filter(({ at }) => at <= end).toSorted((a, b) => a.at - b.at)[0];
            if (!due) break;
            this.tasks = this.tasks.filter((other) => other !== due);
            this.elapsed = Math.max(this.elapsed, due.at);
            due.run();
        }
        this.elapsed = end;
    }
}
