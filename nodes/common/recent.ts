/** What was set or asked for last: of at least half as many as `most` says, and never of more, so that a flood of names fills no memory. */
export class Recent<V> {
    private young = new Map<string, V>();
    private old = new Map<string, V>();

    constructor(private readonly most = 1000) {}

    get(key: string): V | undefined {
        const value = this.young.get(key) ?? this.old.get(key);
        if (value !== undefined && this.old.has(key)) this.set(key, value);
        return value;
    }

    /** Without taking it for used. */
    has(key: string): boolean {
        return this.young.has(key) || this.old.has(key);
    }

    set(key: string, value: V): void {
        this.old.delete(key);
        this.young.set(key, value);
        if (this.young.size * 2 < this.most) return;
        this.old = this.young;
        this.young = new Map();
    }

    delete(key: string): void {
        this.young.delete(key);
        this.old.delete(key);
    }

    get size(): number {
        return this.young.size + this.old.size;
    }
}
