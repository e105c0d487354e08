import type { GroupDef, ModelDef, PointDef } from "./model.js";

/** One point at its place in a model as a device lays it out. */
export interface Slot {
    readonly point: PointDef;
    /** Registers from the model's ID register. */
    readonly offset: number;
    /** Index into `Layout.blocks`. */
    readonly block: number;
    /** Constant scale factor, 0 without one; NaN where the factor is a point that lies beyond the device's length. */
    readonly exponent: number;
    /** Where the scale factor is a point: its registers from the model's ID register. */
    readonly factorAt: number | undefined;
}

/** One occurrence of a group. The first is the model itself. */
export interface Block {
    readonly name: string;
    readonly sync: boolean;
    readonly parent: number;
    /** Position among its repetitions; undefined for a group that is there once. */
    readonly index: number | undefined;
    /** `module[0].`, empty for the model itself: prefix of its points' paths. */
    readonly path: string;
}

/** Where every point of a model lies for one length and one set of counts. */
export interface Layout {
    readonly slots: readonly Slot[];
    readonly blocks: readonly Block[];
    /** Registers from ID up to the end of the last point. */
    readonly end: number;
    /** What of the device's length and counts does not fit together. */
    readonly warnings: readonly string[];
}

/** Values of the points that count a model's groups, where the device gives them. */
export type Counts = Readonly<Record<string, number>>;

/** Registers of ID and L, which L does not count. */
export const HEADER_REGISTERS = 2;
const NOT_COUNTED = 0xffff;
/** Layouts kept a model: a device has one; a few more where several devices share a definition. */
const MAX_CACHED = 16;

interface Compiled {
    /** Points that count groups, with their offsets. */
    readonly counters: readonly { name: string; offset: number }[];
    readonly layouts: Map<string, Layout>;
}

const compiled = new WeakMap<ModelDef, Compiled>();

/**
 * The layout of a model, compiled once and kept. Repetitions follow from the length; where a count point says otherwise the
 * length is right. What does not fill a whole repetition is left out with a warning.
 * @param length L of the device, registers behind ID and L.
 * @param available Registers at hand, ID and L included; no slot reaches beyond.
 * @param counts Needed for models whose groups repeat within repeating groups; see `countsIn`.
 */
export function layoutOf(model: ModelDef, length: number, available: number, counts: Counts): Layout {
    const { layouts, counters } = compile(model);
    const total = HEADER_REGISTERS + length;
    const limit = Math.min(total, available);
    let key = `${length}:${limit}`;
    for (const { name } of counters) key += `:${counts[name] ?? ""}`;
    const known = layouts.get(key);
    if (known) return known;
    if (layouts.size >= MAX_CACHED) layouts.clear();
    const layout = new LayoutBuilder(model, total, limit, counts).build();
    layouts.set(key, layout);
    return layout;
}

/** The counts that the bytes of a model hold; a count that is not implemented or not among the bytes is left out. */
export function countsIn(model: ModelDef, bytes: Buffer): Counts {
    const counts: Record<string, number> = {};
    for (const { name, offset } of compile(model).counters) {
        const value = offset * 2 + 2 <= bytes.length ? bytes.readUInt16BE(offset * 2) : NOT_COUNTED;
        if (value !== NOT_COUNTED) counts[name] = value;
    }
    return counts;
}

function compile(model: ModelDef): Compiled {
    const known = compiled.get(model);
    if (known) return known;
    const names = new Set(countNames(model));
    const counters: { name: string; offset: number }[] = [];
    let offset = 0;
    for (const point of model.points) {
        if (names.has(point.name)) counters.push({ name: point.name, offset });
        offset += point.size;
    }
    const entry = { counters, layouts: new Map<string, Layout>() };
    compiled.set(model, entry);
    return entry;
}

function countNames(group: GroupDef): string[] {
    return group.groups.flatMap((child) => [...(child.count === undefined || child.count === "L" ? [] : [child.count]), ...countNames(child)]);
}

/** Registers of one occurrence of a group; `counted` gives how often the groups in it repeat. */
export function sizeOf(group: GroupDef, counted: (name: string) => number): number {
    let size = 0;
    for (const point of group.points) size += point.size;
    for (const child of group.groups) size += sizeOf(child, counted) * (child.count === undefined ? 1 : counted(child.count));
    return size;
}

class LayoutBuilder {
    private readonly slots: Slot[] = [];
    private readonly blocks: Block[] = [];
    private readonly warnings: string[] = [];
    private readonly counts: Record<string, number>;
    /** Offset of the next point; stays at `limit` once a point did not fit. */
    private at = 0;
    private end = 0;
    private readonly top = new Map<string, number>();

    constructor(
        private readonly model: ModelDef,
        private readonly total: number,
        private readonly limit: number,
        counts: Counts,
    ) {
        this.counts = { ...counts };
    }

    build(): Layout {
        // Named factors are looked up before the points behind them are placed, so the top level is measured first.
        let offset = 0;
        for (const point of this.model.points) {
            if (offset + point.size <= this.limit) this.top.set(point.name, offset);
            offset += point.size;
        }
        this.place(this.model, -1, undefined);
        return { slots: this.slots, blocks: this.blocks, end: this.end, warnings: this.warnings };
    }

    private place(group: GroupDef, parent: number, index: number | undefined): void {
        const block = this.blocks.length;
        const prefix = parent < 0 ? "" : `${this.blocks[parent]!.path}${group.name}${index === undefined ? "" : `[${index}]`}.`;
        this.blocks.push({ name: group.name, sync: group.sync, parent, index, path: prefix });
        const own = new Map<string, number>();
        let offset = this.at;
        for (const point of group.points) {
            own.set(point.name, offset);
            offset += point.size;
        }
        for (const point of group.points) {
            if (this.at + point.size > this.limit) {
                this.at = this.limit;
                return;
            }
            this.slots.push({ point, offset: this.at, block, ...this.factor(point, own) });
            this.at += point.size;
            this.end = this.at;
        }
        for (const child of group.groups) {
            const times = child.count === undefined ? undefined : this.repetitions(child, parent < 0);
            if (times === undefined) this.place(child, block, undefined);
            for (let i = 0; i < (times ?? 0) && this.at < this.limit; i++) this.place(child, block, i);
        }
    }

    /** Own group first, then the model's top level. */
    private factor({ sf = 0 }: PointDef, own: ReadonlyMap<string, number>): Pick<Slot, "exponent" | "factorAt"> {
        if (typeof sf === "number") return { exponent: sf, factorAt: undefined };
        const factorAt = own.get(sf) ?? this.top.get(sf);
        return factorAt === undefined || factorAt >= this.limit ? { exponent: NaN, factorAt: undefined } : { exponent: NaN, factorAt };
    }

    private repetitions(group: GroupDef, outermost: boolean): number {
        if (!outermost) return this.counts[group.count!] ?? 0;
        const rest = Math.max(0, this.total - this.at);
        const said = this.counts[group.count!];
        if (!this.deriveInner(group, rest, said)) return 0;
        const each = sizeOf(group, (name) => this.counts[name] ?? 0);
        const times = each === 0 ? 0 : Math.floor(rest / each);
        const left = each === 0 ? rest : rest % each;
        if (left > 0) this.warnings.push(`${left} registers do not fill another ${group.name} of ${each}.`);
        if (said !== undefined && said !== times) this.warnings.push(`${group.count} says ${said} ${group.name}, the length ${times}.`);
        return times;
    }

    /**
     * Where the count of the inner groups is not given, it follows from the length and the outer count.
     * @returns False where that is not given either: the group cannot be laid out.
     */
    private deriveInner(group: GroupDef, rest: number, outer: number | undefined): boolean {
        const [name] = countNames(group);
        if (name === undefined || this.counts[name] !== undefined) return true;
        this.warnings.push(`${name} is not given.`);
        if (!outer) return false;
        const fixed = sizeOf(group, () => 0);
        const one = sizeOf(group, () => 1) - fixed;
        this.counts[name] = Math.max(0, Math.floor((Math.floor(rest / outer) - fixed) / one));
        return true;
    }
}
