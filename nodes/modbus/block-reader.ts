import { type Clock, systemClock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { errorOf, type Hole, Holes, keyOf, type Refusal, refusalOf, type SizeFault, SizeLimit } from "./learned.js";
import { dataBytes, describe, isBits } from "./pdu.js";
import { type Block, contains, hits, overlaps, type Plan, planReads, type PlanOptions, type ReadItem, type Span, unreadable } from "./plan.js";
import { ModbusError, type ModbusReader, type ReadRequest, type Table } from "./transport.js";

export interface BlockReaderOptions extends Omit<PlanOptions, "holes"> {
    clock?: Clock;
}

/** What one read brought. */
export interface Answer<I extends ReadItem> {
    readonly items: readonly I[];
    /** Where the data begins; it holds all items. */
    readonly address: number;
    /** Big-endian words, or bits with the first in bit 0. */
    readonly data: Buffer | ModbusError;
}

/** Where an item begins in the data of its answer: a byte, of the tables coil and discrete a bit. */
export function offsetOf({ address }: Pick<Answer<ReadItem>, "address">, item: Span): number {
    return (item.address - address) * (isBits(item.table) ? 1 : 2);
}

/** What a unit taught. */
export interface Learned {
    holes: readonly Hole[];
    /** Most registers and bits that are asked for at once; Infinity where only the settings limit them. */
    maxRegisters: number;
    maxBits: number;
    /** Why these are limited. */
    tooManyRegisters?: SizeFault;
    tooManyBits?: SizeFault;
}

/**
 * The reads around what was learned: without the items that are refused, and no longer than the unit answers.
 * @throws WattError MODBUS_PLAN naming the items that no read can hold.
 */
export function planAround<I extends ReadItem>(items: readonly I[], limits: PlanOptions & { maxRegisters: number; maxBits: number }, { holes, maxRegisters, maxBits }: Learned): Plan<I> {
    const refused = new Set(holes.map(keyOf));
    const live = refused.size === 0 ? items : items.filter((item) => !refused.has(keyOf(item)));
    const rest = { ...limits, holes };
    const least = (ofBits: boolean) => live.reduce((most, { table, size }) => (isBits(table) === ofBits ? Math.max(most, size) : most), 1);
    try {
        return planReads(live, {
            ...rest,
            maxRegisters: Math.min(limits.maxRegisters, Math.max(maxRegisters, least(false))),
            maxBits: Math.min(limits.maxBits, Math.max(maxBits, least(true))),
        });
    } catch (error) {
        // What may be read only once can hold items together that a learned limit would tear apart.
        if (error instanceof WattError && (maxRegisters < Infinity || maxBits < Infinity)) return planReads(live, rest);
        throw error;
    }
}

/** How often a device that is busy is asked again, for one read and in one call, and after what pause at first, ms. */
const BUSY_TRIES = 4;
const BUSY_TRIES_A_CALL = 8;
const BUSY_PAUSE_MS = 50;
/** Reads of one call beyond the plan that look for what is refused. */
const MOST_SEARCHES = 32;
/** Values that are tried alone when a unit refuses everything. */
const MOST_PROBES = 3;

/**
 * Reads the values of one unit in the fewest reads, and learns what the unit cannot do: registers that it refuses (exceptions 2
 * and 3) and reads that are too long for it. What it refuses is found by bisection, remembered only when the unit answers
 * another read afterwards, left out of later reads, and tried again now and then.
 */
export class BlockReader<I extends ReadItem> {
    private readonly memory: Memory;
    private plans = new WeakMap<readonly I[], { version: string; plan: Plan<I> }>();
    private sifted = new WeakMap<readonly I[], Sifted<I>>();

    constructor(
        private readonly reader: ModbusReader,
        private readonly unit: number,
        private readonly options: BlockReaderOptions,
    ) {
        this.memory = new Memory(options.clock ?? systemClock);
    }

    get learned(): Learned {
        const { holes, registers, bits } = this.memory;
        return {
            holes: holes.all,
            maxRegisters: registers.max,
            maxBits: bits.max,
            ...(registers.fault && { tooManyRegisters: registers.fault }),
            ...(bits.fault && { tooManyBits: bits.fault }),
        };
    }

    /** Another device: nothing of what was learned holds. */
    forget(): void {
        this.memory.clear();
    }

    /** It may be another device or firmware now: what it refused is tried again in the next calls, one read each. */
    doubt(): void {
        this.memory.holes.doubt(this.memory.clock.monotonic());
    }

    /**
     * The reads that `read` makes when nothing goes wrong.
     * @throws WattError MODBUS_PLAN naming the items that no read can hold.
     */
    plan(items: readonly I[]): Plan<I> {
        const { registers, bits, holes } = this.memory;
        const version = `${this.reader.maxRegisters} ${registers.version} ${bits.version} ${holes.version}`;
        const known = this.plans.get(items);
        if (known?.version === version) return known.plan;
        const plan = this.planFor(items, registers.max, bits.max);
        this.plans.set(items, { version, plan });
        return plan;
    }

    /**
     * The reads that brought every item, each item once, or why it could not be read. Settles after a bounded number of reads;
     * the first one that gets no proper answer ends the call.
     * @throws WattError MODBUS_PLAN where items are torn apart by the limits.
     */
    async read(items: readonly I[], signal?: AbortSignal): Promise<readonly Answer<I>[]> {
        const pass = new Pass<I>(this.reader, this.unit, this.options, this.memory, signal);
        const { wanted, faults } = this.sift(items);
        for (const [item, fault] of faults) pass.give(item, new ModbusError("MODBUS_REQUEST", fault));
        await pass.run(wanted, () => this.plan(wanted), (size, table) => this.longer(wanted, size, table));
        return pass.answers();
    }

    /** Parts what can be read from what no read can hold, once a list. */
    private sift(items: readonly I[]): Sifted<I> {
        const { maxRegisters } = this.reader;
        const known = this.sifted.get(items);
        if (known?.maxRegisters === maxRegisters && known.length === items.length) return known;
        const limits = this.limits();
        const faults = items.flatMap((item): [I, string][] => {
            const fault = unreadable(item, limits);
            return fault === undefined ? [] : [[item, fault]];
        });
        const impossible = new Set(faults.map(([item]) => item));
        const wanted = faults.length === 0 ? items : items.filter((item) => !impossible.has(item));
        const sifted = { maxRegisters, length: items.length, wanted, faults };
        this.sifted.set(items, sifted);
        return sifted;
    }

    /** The plan with a learned limit lifted to `size`. */
    private longer(items: readonly I[], size: number, table: Table): Plan<I> {
        const { registers, bits } = this.memory;
        return isBits(table) ? this.planFor(items, registers.max, size) : this.planFor(items, size, bits.max);
    }

    private planFor(items: readonly I[], maxRegisters: number, maxBits: number): Plan<I> {
        return planAround(items, this.limits(), { holes: this.memory.holes.all, maxRegisters, maxBits });
    }

    private limits() {
        const { maxRegisters = Infinity, maxBits = Infinity } = this.options;
        return { ...this.options, maxRegisters: Math.min(maxRegisters, this.reader.maxRegisters), maxBits };
    }
}

interface Sifted<I> {
    maxRegisters: number;
    length: number;
    wanted: readonly I[];
    /** Why no read can hold these. */
    faults: [I, string][];
}

/** What is known of a unit beyond one call. */
class Memory {
    readonly holes = new Holes();
    registers = new SizeLimit();
    bits = new SizeLimit();
    /** A read that was answered, short if possible: asking it again shows whether the unit is there. */
    good: Span | undefined;
    /** A read that got no proper answer; the unit has not been heard since. */
    suspect: Suspect | undefined;
    /** The unit answered since a read last failed. */
    isHeard = true;
    /** Reads that got no proper answer when they were last made. */
    readonly failures = new Map<string, { span: Span; times: number }>();
    /** Where to go on when a unit refuses everything. */
    turn = 0;

    constructor(readonly clock: Clock) {}

    limit(table: Table): SizeLimit {
        return isBits(table) ? this.bits : this.registers;
    }

    failed(items: readonly Span[], error: ModbusError): void {
        const span = hull(items);
        this.suspect = { span, cutAt: middleOf(items), isOne: isOne(items), refusal: refusalOf(error) };
        const { times = 0 } = this.failures.get(keyOf(span)) ?? {};
        // While the unit is away its reads are not to blame.
        this.failures.set(keyOf(span), { span, times: this.isHeard ? times + 1 : Math.max(times, 1) });
        this.isHeard = false;
    }

    /** How often reads failed in a row that have something in common with this one. */
    failuresOf(span: Span): number {
        let most = 0;
        for (const failure of this.failures.values()) if (overlaps(failure.span, span)) most = Math.max(most, failure.times);
        return most;
    }

    /** Also a refusal is an answer. */
    answered(span: Span): void {
        this.isHeard = true;
        for (const [key, failure] of this.failures) if (contains(span, failure.span)) this.failures.delete(key);
    }

    clear(): void {
        this.holes.clear();
        this.registers = new SizeLimit();
        this.bits = new SizeLimit();
        this.good = undefined;
        this.suspect = undefined;
        this.failures.clear();
    }
}

interface Suspect {
    span: Span;
    /** Where it can be parted without cutting an item. */
    cutAt: number | undefined;
    isOne: boolean;
    refusal: Refusal;
}

/** One call of `read`. */
class Pass<I extends ReadItem> {
    private readonly given: Answer<I>[] = [];
    /** An item may have been given more than once: the last time counts. */
    private isMixed = false;
    private searches = MOST_SEARCHES;
    private retries = BUSY_TRIES_A_CALL;
    private isAnswered = false;
    /** Refused twice; known only once the unit answers something else after it. */
    private pending: { span: Span; asked: Span; refusal: Refusal }[] = [];

    constructor(
        private readonly reader: ModbusReader,
        private readonly unit: number,
        private readonly options: BlockReaderOptions,
        private readonly memory: Memory,
        private readonly signal: AbortSignal | undefined,
    ) {}

    /** Each item in one. */
    answers(): readonly Answer<I>[] {
        if (!this.isMixed) return this.given;
        const last = new Map(this.given.flatMap(({ items, address, data }) => items.map((item) => [item, { items: [item], address, data }])));
        return [...last.values()];
    }

    give(item: I, data: Buffer | ModbusError): void {
        this.isMixed = true;
        this.given.push({ items: [item], address: item.address, data });
    }

    async run(items: readonly I[], plan: () => Plan<I>, longer: (size: number, table: Table) => Plan<I>): Promise<void> {
        try {
            const { suspect, holes } = this.memory;
            if (suspect) await this.checkSuspect(suspect, items);
            const { blocks } = plan();
            if (holes.any) for (const item of items) this.giveHole(item);
            const refused: { items: I[]; error: ModbusError }[] = [];
            let clean = true;
            for (const block of this.inOrder(blocks)) {
                const error = await this.take(block.items);
                clean &&= error === undefined;
                if (error && isRefusal(error)) refused.push({ items: block.items, error });
            }
            if (refused.length > 0) await this.search(refused);
            if (this.pending.length > 0) await this.askAgain();
            if (this.isAnswered || blocks.length === 0) await this.recheck(items);
            if (this.isAnswered && clean) await this.tryLonger(longer);
        } catch (error) {
            if (!(error instanceof ModbusError)) throw error;
            const known = new Set(this.given.flatMap((answer) => answer.items));
            for (const item of items) if (!known.has(item) && !this.giveHole(item)) this.give(item, error);
        }
    }

    /** False where the item is none that the unit is known to refuse. */
    private giveHole(item: I): boolean {
        const hole = this.memory.holes.at(item);
        if (hole) this.give(item, errorOf(hole.refusal));
        return hole !== undefined;
    }

    /** A read got no proper answer: if the unit answers another one now, it was that read's own fault. */
    private async checkSuspect(suspect: Suspect, items: readonly I[]): Promise<void> {
        const { memory } = this;
        const other = this.besides(suspect.span, items);
        if (!other) return;
        const answer = await this.attempt(other);
        if (answer instanceof ModbusError && isNoAnswer(answer)) {
            if (UNANSWERED.has(answer.code)) {
                // Perhaps this one is never answered: next time without it.
                memory.good = undefined;
                memory.suspect = undefined;
            }
            throw answer;
        }
        memory.answered(other);
        memory.suspect = undefined;
        this.blame(suspect);
    }

    /** Something else to read, or at least something shorter. */
    private besides(span: Span, items: readonly I[]): Span | undefined {
        const { good, holes } = this.memory;
        const isOther = (one: Span) => !holes.at(one) && (one.size < span.size || !overlaps(one, span));
        if (good && isOther(good)) return good;
        const others = items.filter(isOther);
        return others[this.memory.turn++ % Math.max(1, others.length)];
    }

    private blame({ span, cutAt, isOne: isSingle, refusal }: Suspect): void {
        const { holes, failures } = this.memory;
        const limit = this.memory.limit(span.table);
        const { times = 0 } = failures.get(keyOf(span)) ?? {};
        if (!isSingle && limit.blames(span.size) === "new") limit.unanswered(span.size, this.now());
        else if (times < 2) return;
        else if (isSingle || cutAt === undefined) holes.add(span, span, refusal, this.now());
        else holes.add({ table: span.table, address: cutAt, size: 0 }, span, refusal, this.now());
        failures.delete(keyOf(span));
    }

    /** Reads items as one block. @returns The error that they have all got. */
    private async take(items: readonly I[]): Promise<ModbusError | undefined> {
        const span = hull(items);
        const answer = await this.ask(span, items);
        this.given.push({ items, address: span.address, data: answer });
        if (!(answer instanceof ModbusError)) return undefined;
        this.isMixed = true;
        return answer;
    }

    /** What failed last time comes last: nothing else waits for it. */
    private inOrder(blocks: readonly Block<I>[]): readonly Block<I>[] {
        const failures = (block: Block<I>) => this.memory.failuresOf({ ...block, size: block.quantity });
        return this.memory.failures.size === 0 ? blocks : blocks.toSorted((a, b) => failures(a) - failures(b));
    }

    private async search(refused: { items: I[]; error: ModbusError }[]): Promise<void> {
        const untried = refused.flatMap(({ items }) => items.filter((item) => !isSame(item, hull(items))));
        if (!this.isAnswered && !(await this.isThere(untried))) return;
        for (const { items } of refused) await this.bisect(items);
    }

    /** A unit that refuses everything may just be off or starting: is there anything that it answers? */
    private async isThere(items: readonly I[]): Promise<boolean> {
        await this.askAgain();
        for (let i = 0; i < Math.min(MOST_PROBES, items.length) && !this.isAnswered; i++) {
            await this.take([items[this.memory.turn++ % items.length]!]);
        }
        return this.isAnswered;
    }

    /** Repeats a read that worked before. */
    private async askAgain(): Promise<void> {
        const { good } = this.memory;
        if (!good) return;
        if ((await this.ask(good)) instanceof ModbusError) this.memory.good = undefined;
    }

    /** Finds what is refused among items that were refused as one block. */
    private async bisect(items: readonly I[]): Promise<void> {
        if (isOne(items)) {
            if (!this.maySearch()) return;
            const error = await this.take(items);
            if (error && isRefusal(error)) this.refuse(hull(items), error);
            return;
        }
        const middle = items.length >> 1;
        const halves = [items.slice(0, middle), items.slice(middle)];
        let whole = true;
        for (const half of halves) {
            if (!this.maySearch()) return;
            const error = await this.take(half);
            whole &&= error === undefined;
            if (error && isRefusal(error)) await this.bisect(half);
        }
        if (whole) await this.searchBetween(hull(halves[0]!), hull(halves[1]!), hull(items));
    }

    /** Both parts can be read, the whole cannot: what lies between is refused, or the length, or to read across some address. */
    private async searchBetween(left: Span, right: Span, whole: Span): Promise<void> {
        const end = left.address + left.size;
        const gap = { table: whole.table, address: end, size: right.address - end };
        if (gap.size > 0) {
            if (!this.maySearch()) return;
            const answer = await this.ask(gap);
            if (answer instanceof ModbusError) {
                if (isRefusal(answer)) this.refuse(gap, answer);
                return;
            }
        }
        const limit = this.memory.limit(whole.table);
        const blame = limit.blames(whole.size);
        if (blame === "known" || this.isBarrier(whole) || !this.maySearch()) return;
        const again = await this.ask(whole);
        if (!(again instanceof ModbusError) || !isRefusal(again)) return;
        if (blame === "new") limit.refused(whole.size, this.now());
        else this.refuse(gap.size < 0 ? whole : gap, again, whole);
    }

    private refuse(span: Span, error: ModbusError, asked = span): void {
        this.pending.push({ span, asked, refusal: refusalOf(error) });
    }

    private maySearch(): boolean {
        return this.searches-- > 0;
    }

    /** Tries a hole again that was left alone long enough, one a call. */
    private async recheck(items: readonly I[]): Promise<void> {
        const { holes } = this.memory;
        const hole = holes.due(this.now());
        if (!hole) return;
        holes.postpone(hole, this.now());
        const answer = await this.attempt(hole.asked);
        if (answer instanceof ModbusError) return;
        for (const item of items) if (holes.at(item) === hole) this.give(item, answer);
        holes.remove(hole);
    }

    /** A learned limit may have been a coincidence, or be lower than need be: one longer read finds out, when nothing depends on it. */
    private async tryLonger(longer: (size: number, table: Table) => Plan<I>): Promise<void> {
        for (const table of ["holding", "coil"] as const) {
            const limit = this.memory.limit(table);
            const size = limit.trial(this.now());
            if (size === undefined) continue;
            const spans = longer(size, table).blocks.map((block) => ({ table: block.table, address: block.address, size: block.quantity }));
            const trials = spans.filter((span) => this.memory.limit(span.table) === limit && span.size > limit.max && !this.isBarrier(span));
            const longest = trials.toSorted((a, b) => b.size - a.size)[0];
            const answer = longest && (await this.attempt(longest));
            if (answer instanceof ModbusError && !isRefusal(answer) && !UNANSWERED.has(answer.code)) continue;
            limit.tried(longest?.size, Buffer.isBuffer(answer), this.now());
        }
    }

    private isBarrier({ table, address, size }: Span): boolean {
        return hits(this.options.barriers, table, address, address + size);
    }

    /**
     * Reads, again if the device is busy.
     * @returns The data, or what the device says against this read.
     * @throws ModbusError that ends the call: there is no proper answer.
     */
    private async ask(span: Span, items?: readonly I[]): Promise<Buffer | ModbusError> {
        for (let attempt = 1; ; attempt++) {
            const answer = await this.attempt(span);
            if (!(answer instanceof ModbusError)) {
                this.answered(span);
                return answer;
            }
            if (items && UNANSWERED.has(answer.code)) this.memory.failed(items, answer);
            if (isNoAnswer(answer)) throw answer;
            this.memory.answered(span);
            if (!isBusy(answer) || attempt >= BUSY_TRIES || this.retries-- <= 0) return answer;
            await this.pause(BUSY_PAUSE_MS * 2 ** (attempt - 1));
        }
    }

    /** One read, and nothing learned from it. */
    private async attempt(span: Span): Promise<Buffer | ModbusError> {
        const { table, address, size } = span;
        const request: ReadRequest = { unit: this.unit, table, address, quantity: size };
        if (this.signal) request.signal = this.signal;
        try {
            const data = await this.reader.read(request);
            const bytes = dataBytes(request);
            if (data.length === bytes) return data;
            return new ModbusError("MODBUS_FRAME", `Unit ${this.unit} sent ${data.length} bytes instead of ${bytes} for ${describe(request)}.`);
        } catch (error) {
            if (error instanceof ModbusError) return error;
            throw error;
        }
    }

    private answered(span: Span): void {
        const { holes, good } = this.memory;
        this.isAnswered = true;
        this.memory.answered(span);
        this.memory.limit(span.table).answered(span.size);
        if ((!good || span.size <= good.size) && !this.isBarrier(span)) this.memory.good = span;
        for (const { span: refused, asked, refusal } of this.pending) holes.add(refused, asked, refusal, this.now());
        this.pending = [];
    }

    private async pause(ms: number): Promise<void> {
        try {
            await this.memory.clock.sleep(ms, this.signal);
        } catch (error) {
            throw new ModbusError("MODBUS_ABORTED", `The read of unit ${this.unit} was given up.`, { cause: error });
        }
    }

    private now(): number {
        return this.memory.clock.monotonic();
    }
}

/** Failures that the read itself can be the reason for. */
const UNANSWERED: ReadonlySet<string> = new Set(["MODBUS_TIMEOUT", "MODBUS_FRAME", "MODBUS_CLOSED"]);

/** Nothing that the unit says against this very read: the next one would fail the same way. */
function isNoAnswer({ code, unitOffline }: ModbusError): boolean {
    return unitOffline || (code !== "MODBUS_EXCEPTION" && code !== "MODBUS_REQUEST");
}

/** Illegal address, illegal quantity (V1.1b3 §7): the same read will not work later either. */
function isRefusal({ exception }: ModbusError): boolean {
    return exception === 2 || exception === 3;
}

/** Device failure, acknowledge, busy (V1.1b3 §7): the same read may work later. */
function isBusy({ exception }: ModbusError): boolean {
    return exception === 4 || exception === 5 || exception === 6;
}

function isSame(a: Span, b: Span): boolean {
    return a.table === b.table && a.address === b.address && a.size === b.size;
}

/** One of them holds all others: nothing to take apart. */
function isOne(items: readonly Span[]): boolean {
    const whole = hull(items);
    return items.some((item) => isSame(item, whole));
}

/** The address nearest the middle of items in order at which none of them is cut. */
function middleOf(items: readonly Span[]): number | undefined {
    const ends = items.map((_, i) => Math.max(...items.slice(0, i).map(({ address, size }) => address + size)));
    const cuts = items.flatMap(({ address }, i) => (i > 0 && ends[i]! <= address ? [i] : []));
    const middle = items.length / 2;
    const nearest = cuts.toSorted((a, b) => Math.abs(a - middle) - Math.abs(b - middle))[0];
    return nearest === undefined ? undefined : items[nearest]!.address;
}

function hull(items: readonly Span[]): Span {
    const start = Math.min(...items.map(({ address }) => address));
    const end = Math.max(...items.map(({ address, size }) => address + size));
    return { table: items[0]!.table, address: start, size: end - start };
}
