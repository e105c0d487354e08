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
