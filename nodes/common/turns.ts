/** Runs jobs one after the other, in the order in which they came; one that fails holds up none behind it. */
export class Turns {
    private last: Promise<unknown> = Promise.resolve();

    /** Settles as the job does. */
    take<T>(job: () => Promise<T>): Promise<T> {
        const turn = this.last.then(job);
        this.last = turn.catch(() => undefined);
        return turn;
    }
}

/** Settles once the event loop has turned. */
export function nextTurn(): Promise<void> {
    return new Promise((resolve) => {
        setImmediate(resolve);
    });
}

/** Lets the event loop turn within a long piece of work. */
export class Breaks {
    private since = performance.now();

    /** @param ms How long the loop may be held. */
    constructor(private readonly ms = 10) {}

    /** To be awaited between small steps; most return at once. */
    async take(): Promise<void> {
        if (performance.now() - this.since < this.ms) return;
        await nextTurn();
        this.since = performance.now();
    }
}
