import type { ModbusReader } from "../modbus/transport.js";
import { type Counts, countsIn, HEADER_REGISTERS, type Layout, layoutOf } from "./layout.js";
import type { ModelDef } from "./model.js";

/** Registers from the model's ID register. */
export interface Span {
    start: number;
    size: number;
}

export interface ReadPlan {
    /** In the order to read them; together they cover the layout once. */
    reads: Span[];
    /** Scale factors that points of another read use, to be read again in the same pass. */
    factors: number[];
    /** Few spans that hold all of `factors`. */
    checks: Span[];
    /** True where one comparison behind the reads cannot cover all factors, and another goes before them. */
    checkBefore: boolean;
}

/** What a scale factor holds that is not implemented; the decoder leaves its points out. */
const NO_FACTOR = 0x8000;

const plans = new WeakMap<Layout, Map<number, ReadPlan>>();

/**
 * How to read a layout with at most `max` registers at once. Reads end between points and never within a sync group, because
 * devices refuse to cut them; only a point longer than `max` is cut.
 */
export function planReads(layout: Layout, max: number): ReadPlan {
    let known = plans.get(layout);
    if (!known) plans.set(layout, (known = new Map<number, ReadPlan>()));
    let plan = known.get(max);
    if (!plan) known.set(max, (plan = makePlan(layout, max)));
    return plan;
}

function makePlan(layout: Layout, max: number): ReadPlan {
    const reads = pack(atoms(layout), max);
    const readOf = (offset: number) => reads.findIndex((read) => offset >= read.start && offset < read.start + read.size);
    const apart = new Set<number>();
    for (const { offset, factorAt } of reads.length > 1 ? layout.slots : []) {
        if (factorAt !== undefined && readOf(offset) !== readOf(factorAt)) apart.add(factorAt);
    }
    const factors = [...apart].toSorted((a, b) => a - b);
    const homes = new Set(factors.map(readOf));
    // What is read first and compared last has held in between. That works when all factors are in one read.
    const first = homes.size === 1 ? reads.splice([...homes][0]!, 1) : [];
    return { reads: [...first, ...reads], factors, checks: cover(factors, max), checkBefore: homes.size > 1 };
}

/** What must not be cut: points and sync groups. */
function atoms({ slots, blocks }: Layout): Span[] {
    const spans: Span[] = [];
    let last = -1;
    for (const { offset, point, block } of slots) {
        const span = spans.at(-1);
        if (span && block === last && blocks[block]!.sync) span.size += point.size;
        else spans.push({ start: offset, size: point.size });
        last = block;
    }
    return spans;
}

function pack(spans: readonly Span[], max: number): Span[] {
    const reads: Span[] = [];
    for (const { start, size } of spans) {
        const read = reads.at(-1);
        if (read && read.size + size <= max) read.size += size;
        else for (let done = 0; done < size; done += max) reads.push({ start: start + done, size: Math.min(max, size - done) });
    }
    return reads;
}

function cover(offsets: readonly number[], max: number): Span[] {
    const spans: Span[] = [];
    for (const offset of offsets) {
        const span = spans.at(-1);
        if (span && offset + 1 - span.start <= max) span.size = offset + 1 - span.start;
        else spans.push({ start: offset, size: 1 });
    }
    return spans;
}

/** A model as a walk found it. */
export interface Place {
    unit: number;
    /** Wire address of the model's ID register. */
    address: number;
    /** L as the walk found it. */
    length: number;
}

export interface ReadOptions {
    /** What an earlier pass returned: the reads then fit the device's layout at once. */
    counts?: Counts;
    /** Asks a unit too that is being left alone after failures. */
    probe?: boolean;
    signal?: AbortSignal;
}

/** So often the reads are planned anew when the counts in a model show another layout than expected. */
const MAX_PLANS = 3;

/**
 * Reads a model in one pass: its bytes from ID to the last point that the definition knows. Where several reads are needed,
 * the scale factors that reach across them are read again; if one changed in between the pass is repeated once, and a factor
 * that changes again is returned as not implemented, so that its points are bad instead of wrong.
 * @throws ModbusError
 */
export async function readModel(reader: ModbusReader, model: ModelDef, place: Place, options: ReadOptions = {}): Promise<{ bytes: Buffer; counts: Counts }> {
    const planFor = (counts: Counts) => {
        const layout = layoutOf(model, place.length, HEADER_REGISTERS + place.length, counts);
        return { plan: planReads(layout, reader.maxRegisters), end: layout.end };
    };
    let { plan, end } = planFor(options.counts ?? {});
    for (let attempt = 1; ; attempt++) {
        const bytes = await new Pass(reader, place, options, plan, end).run();
        const counts = countsIn(model, bytes);
        const next = planFor(counts);
        if (attempt === MAX_PLANS || sameReads(plan, next.plan)) return { bytes, counts };
        ({ plan, end } = next);
    }
}

function sameReads(a: ReadPlan, b: ReadPlan): boolean {
    return a.reads.length === b.reads.length && a.reads.every((read, i) => read.start === b.reads[i]!.start && read.size === b.reads[i]!.size);
}

class Pass {
    private readonly bytes: Buffer;

    constructor(
        private readonly reader: ModbusReader,
        private readonly place: Place,
        private readonly options: ReadOptions,
        private readonly plan: ReadPlan,
        end: number,
    ) {
        this.bytes = Buffer.alloc(end * 2);
    }

    async run(): Promise<Buffer> {
        const { reads, checks } = this.plan;
        if (checks.length === 0) return this.readAll(reads, this.bytes);
        if ((await this.attempt()).length === 0) return this.bytes;
        for (const factor of await this.attempt()) this.bytes.writeUInt16BE(NO_FACTOR, factor * 2);
        return this.bytes;
    }

    /** Fills the bytes. @returns The factors that changed meanwhile. */
    private async attempt(): Promise<number[]> {
        const { reads, factors, checks, checkBefore } = this.plan;
        const before = checkBefore ? await this.readAll(checks) : undefined;
        await this.readAll(reads, this.bytes);
        const after = await this.readAll(checks);
        return factors.filter((factor) => {
            const value = this.bytes.readUInt16BE(factor * 2);
            return after.readUInt16BE(factor * 2) !== value || (before && before.readUInt16BE(factor * 2) !== value);
        });
    }

    private async readAll(spans: readonly Span[], into?: Buffer): Promise<Buffer> {
        const target = into ?? Buffer.alloc(spans.length === 0 ? 0 : this.bytes.length);
        const { unit, address } = this.place;
        const { probe = false, signal } = this.options;
        for (const { start, size } of spans) {
            const data = await this.reader.read({ unit, table: "holding", address: address + start, quantity: size, probe, ...(signal && { signal }) });
            data.copy(target, start * 2);
        }
        return target;
    }
}
