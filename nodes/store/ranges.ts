/** Half-open [from, to). */
export type Range = [from: number, to: number];

/** A set of entry numbers as sorted, disjoint, non-touching ranges. */
export class Ranges {
    constructor(private ranges: Range[] = []) {}

    add(from: number, to: number): void {
        if (to <= from) return;
        const apart: Range[] = [];
        for (const [a, b] of this.ranges) {
            if (b < from || a > to) apart.push([a, b]);
            else [from, to] = [Math.min(a, from), Math.max(b, to)];
        }
        const at = apart.findIndex(([a]) => a > from);
        apart.splice(at < 0 ? apart.length : at, 0, [from, to]);
        this.ranges = apart;
    }

    remove(from: number, to: number): void {
        if (to <= from) return;
        this.ranges = this.ranges.flatMap(([a, b]): Range[] => {
            const left: Range = [a, Math.min(b, from)];
            const right: Range = [Math.max(a, to), b];
            return [left, right].filter(([x, y]) => x < y);
        });
    }

    /** The first stretch within [from, to) that is not in the set. */
    gap(from: number, to: number): Range | undefined {
        for (const [a, b] of this.ranges) {
            if (b <= from) continue;
            if (a > from) return from < to ? [from, Math.min(a, to)] : undefined;
            from = b;
        }
        return from < to ? [from, to] : undefined;
    }

    /** How many of [from, to) are in the set. */
    covered(from: number, to: number): number {
        return this.ranges.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b, to) - Math.max(a, from)), 0);
    }

    /** Number after the highest in the set; 0 when empty. */
    get end(): number {
        return this.ranges.at(-1)?.[1] ?? 0;
    }

    get size(): number {
        return this.ranges.length;
    }

    toJSON(): Range[] {
        return this.ranges;
    }
}
