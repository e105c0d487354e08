import { WattError } from "../common/errors.js";
import { isBits, MAX_BITS, MAX_REGISTERS } from "./pdu.js";
import { frameGapMs } from "./rtu.js";
import { type Table, TABLES } from "./transport.js";

/** Neighbouring registers, or bits of the tables coil and discrete. */
export interface Span {
    table: Table;
    /** 0-based wire address, 0..65535. */
    address: number;
    size: number;
}

export function contains(outer: Span, inner: Span): boolean {
    return outer.table === inner.table && outer.address <= inner.address && outer.address + outer.size >= inner.address + inner.size;
}

export function overlaps(a: Span, b: Span): boolean {
    return a.table === b.table && a.address < b.address + b.size && b.address < a.address + a.size;
}

/** What is read as one and never cut: a value, a value with its scale register, registers that may only be read together. */
export interface ReadItem extends Span {
    /** For messages and the dialog. */
    name?: string;
}

/** Neighbouring registers or bits; without a table those of every table. */
export interface Range extends Omit<Span, "table"> {
    table?: Table;
}

/** What a read costs on a link: `requestMs` each, and `registerMs` for every register or 16 bits in it. */
export interface LinkCost {
    requestMs: number;
    registerMs: number;
}

export interface PlanOptions {
    /** Most registers of one read, of the device and of the link; 125 at most (V1.1b3 §6.3). */
    maxRegisters?: number;
    /** Most bits of one read, 2000 at most (V1.1b3 §6.1). */
    maxBits?: number;
    /** Whether registers that nobody asked for may be read where that is quicker: nowhere, within `readable`, or anywhere. */
    gaps: "never" | "declared" | "allow";
    readable?: readonly Range[];
    /** Never read: a device fails on them. An item in them is an error. */
    forbidden?: readonly Range[];
    /** Reading them has an effect, such as a reset: read only as an item's own, and once in a plan. */
    barriers?: readonly Range[];
    /** Found to be refused: not read in a gap, nor whole but by an item. One of size 0 forbids to read across its address. */
    holes?: readonly Range[];
    cost: LinkCost;
}

/**
 * Why a block ends where it does: the next one is of another `table` · together they are longer than the `limit` · the `gap`
 * takes longer than another request · something `forbidden` lies between · nothing between is asked for, and gaps are `never`
 * read or that one is `undeclared` · the device refused what lies between, a `hole`.
 */
export type Cut = "table" | "limit" | "gap" | "forbidden" | "never" | "undeclared" | "hole";

export interface Block<I extends ReadItem> {
    table: Table;
    address: number;
    quantity: number;
    /** What it holds whole, by address; every item is in one block. */
    items: I[];
    /** Estimated time on the link. */
    ms: number;
    /** Why the next block is another one; undefined at the last. */
    cut?: Cut;
}

export interface Plan<I extends ReadItem> {
    /** By table and address. */
    blocks: Block<I>[];
    registers: number;
    bits: number;
    /** Estimated time of reading all blocks once, ms. */
    ms: number;
}

/** How requests travel. */
export interface LinkKind {
    kind: "tcp" | "udp" | "rtu" | "rtutcp";
    /** Of the serial line, also of one behind a gateway. Without it RTU counts with 9600, all else with the network alone. */
    baud?: number;
    /** Of one character on the serial line. */
    characterBits?: number;
    /** From the end of a request to the beginning of its answer, ms. */
    turnaroundMs?: number;
    /** The silence that the link keeps between an answer and the next request, ms. */
    gapMs?: number;
}

/** A start bit, 8 data bits, parity or a second stop bit, and a stop bit (Modbus over Serial Line V1.02 §2.5.1). */
const CHARACTER_BITS = 11;
/** A read request and the frame around an answer's data: 8 + 5 characters (V1.1b3 §6.3, V1.02 §2.5.1). */
const FRAME_CHARACTERS = 13;
/** Of most meters from the factory. RTU over TCP ends on such a line too, and does not say how fast it is. */
const USUAL_BAUD = 9_600;
/** What a small device takes for a register over a network: little beside a request, but not nothing. */
const NETWORK_REGISTER_MS = 0.02;
/** Devices take 5 to 60 ms to answer; few are quicker. */
const TURNAROUND_MS = 20;

/** What reads cost on a kind of link. */
export function costOf({ kind, baud, characterBits = CHARACTER_BITS, turnaroundMs = TURNAROUND_MS, gapMs = 0 }: LinkKind): LinkCost {
    const serial = baud ?? (kind === "rtu" || kind === "rtutcp" ? USUAL_BAUD : undefined);
    if (serial === undefined) return { requestMs: turnaroundMs + gapMs, registerMs: NETWORK_REGISTER_MS };
    const characterMs = (1_000 * characterBits) / serial;
    return { requestMs: turnaroundMs + gapMs + FRAME_CHARACTERS * characterMs + 2 * frameGapMs(characterMs), registerMs: 2 * characterMs };
}

/** `"ac_power" (holding 100+2)`, for messages. */
export function nameOf({ name, table, address, size }: ReadItem): string {
    const place = `${table} ${address}+${size}`;
    return name === undefined ? place : `"${name}" (${place})`;
}

/** Why an item can be in no plan and what to do, or undefined where it can. */
export function unreadable(item: ReadItem, options: PlanOptions): string | undefined {
    const { table, address, size } = item;
    const most = mostOf(table, options);
    if (!TABLES.includes(table)) return `${nameOf(item)} is in none of the tables ${TABLES.join(", ")}.`;
    if (!Number.isInteger(size) || size < 1) return `${nameOf(item)} must have a whole size of at least 1.`;
    if (!Number.isInteger(address) || address < 0 || address + size > 0x10000) return `${nameOf(item)} is not within the addresses 0..65535.`;
    if (size > most) return `${nameOf(item)} is read as one and longer than the ${most} ${unitOf(table)} of one read: allow longer reads or take it apart.`;
    if (hits(options.forbidden, table, address, address + size)) return `${nameOf(item)} lies in a forbidden range: take it or the range out.`;
    return undefined;
}

function mostOf(table: Table, { maxRegisters = MAX_REGISTERS, maxBits = MAX_BITS }: PlanOptions): number {
    return isBits(table) ? Math.min(maxBits, MAX_BITS) : Math.min(maxRegisters, MAX_REGISTERS);
}

function unitOf(table: Table): string {
    return isBits(table) ? "bits" : "registers";
}

/**
 * The reads of one unit that take the least time and hold every item whole: exact, in O(n·k) for n items of which k fit in one
 * read. Items may overlap and repeat; a register is read twice only where the limit leaves no cheaper way.
 * @throws WattError MODBUS_PLAN naming the items that no read can hold.
 */
export function planReads<I extends ReadItem>(items: readonly I[], options: PlanOptions): Plan<I> {
    const faults = items.flatMap((item) => unreadable(item, options) ?? []);
    if (faults.length > 0) throw planError(faults);
    const blocks: Block<I>[] = [];
    for (const table of TABLES) {
        const last = blocks.at(-1);
        const own = items.filter((item) => item.table === table);
        if (own.length === 0) continue;
        if (last) last.cut = "table";
        blocks.push(...new TablePlanner(table, own, options).plan());
    }
    const sum = (value: (block: Block<I>) => number) => blocks.reduce((total, block) => total + value(block), 0);
    return {
        blocks,
        registers: sum(({ table, quantity }) => (isBits(table) ? 0 : quantity)),
        bits: sum(({ table, quantity }) => (isBits(table) ? quantity : 0)),
        ms: sum(({ ms }) => ms),
    };
}

const MOST_FAULTS = 5;

function planError(faults: readonly string[]): WattError {
    const more = faults.length > MOST_FAULTS ? ` And ${faults.length - MOST_FAULTS} more.` : "";
    return new WattError("MODBUS_PLAN", `${faults.slice(0, MOST_FAULTS).join(" ")}${more}`);
}

/** An item that lies in no other, with those that lie in it. */
interface Host<I> {
    start: number;
    end: number;
    items: I[];
}

class TablePlanner<I extends ReadItem> {
    private readonly hosts: Host<I>[] = [];
    private readonly most: number;
    private readonly registerMs: number;
    private readonly readable: { start: number; end: number }[];

    constructor(
        private readonly table: Table,
        items: readonly I[],
        private readonly options: PlanOptions,
    ) {
        this.most = mostOf(table, options);
        this.registerMs = options.cost.registerMs / (isBits(table) ? 16 : 1);
        for (const item of items.toSorted((a, b) => a.address - b.address || b.size - a.size)) {
            const host = this.hosts.at(-1);
            const end = item.address + item.size;
            if (host && end <= host.end) host.items.push(item);
            else this.hosts.push({ start: item.address, end, items: [item] });
        }
        this.readable = union(options.readable ?? [], table);
    }

    /**
     * Hosts are in order of their starts and of their ends alike. Then some best partition is one into runs of neighbours: of
     * two blocks that reach into each other, giving the first all hosts that lie in it whole makes neither longer. So
     * best[j] = min over i of best[i] + cost of the block of hosts i..j-1.
     */
    plan(): Block<I>[] {
        const { hosts } = this;
        const { requestMs } = this.options.cost;
        const walls = hosts.map((_, i) => this.wall(i));
        const joints = hosts.map((_, i) => this.mustJoin(i));
        const best = [0];
        const from = [0];
        for (let j = 1; j <= hosts.length; j++) {
            best[j] = Infinity;
            const { end } = hosts[j - 1]!;
            const beyond = this.lastHole(end);
            for (let i = j - 1; i >= 0; i--) {
                const { start } = hosts[i]!;
                const span = end - start;
                if (span > this.most || (start <= beyond && i < j - 1)) break;
                const cost = best[i]! + requestMs + this.registerMs * span;
                // Where it makes no difference, the longer block.
                if (!joints[i] && cost <= best[j]!) {
                    best[j] = cost;
                    from[j] = i;
                }
                if (walls[i]) break;
            }
            if (best[j] === Infinity) throw planError([this.tornApart(hosts[j - 1]!)]);
        }
        const blocks: Block<I>[] = [];
        for (let j = hosts.length; j > 0; j = from[j]!) {
            const block = this.block(from[j]!, j);
            const next = blocks[0];
            if (next) block.cut = walls[j] ?? this.choice(block, next);
            blocks.unshift(block);
        }
        return blocks;
    }

    private block(first: number, end: number): Block<I> {
        const held = this.hosts.slice(first, end);
        const address = held[0]!.start;
        const quantity = held.at(-1)!.end - address;
        const ms = this.options.cost.requestMs + this.registerMs * quantity;
        return { table: this.table, address, quantity, items: held.flatMap(({ items }) => items), ms };
    }

    /** What forbids to read on from the host before to this one. */
    private wall(index: number): Cut | undefined {
        const before = this.hosts[index - 1];
        const { start } = this.hosts[index]!;
        if (!before || start < before.end) return undefined;
        const { table } = this;
        const { forbidden, barriers, holes, gaps } = this.options;
        if (holes?.some((hole) => hole.size === 0 && (hole.table ?? table) === table && hole.address >= before.end && hole.address <= start)) return "hole";
        if (start === before.end) return undefined;
        if (hits(forbidden, table, before.end, start) || hits(barriers, table, before.end, start)) return "forbidden";
        if (hits(holes, table, before.end, start)) return "hole";
        if (gaps === "never") return "never";
        const declared = gaps === "allow" || this.readable.some((range) => range.start <= before.end && range.end >= start);
        return declared ? undefined : "undeclared";
    }

    /** Apart, the two would read a register twice that may be read once. */
    private mustJoin(index: number): boolean {
        const before = this.hosts[index - 1];
        return before !== undefined && hits(this.options.barriers, this.table, this.hosts[index]!.start, before.end);
    }

    /** Where the last hole begins that ends by `end`. */
    private lastHole(end: number): number {
        let last = -1;
        for (const { table = this.table, address, size } of this.options.holes ?? []) {
            if (table === this.table && size > 0 && address + size <= end) last = Math.max(last, address);
        }
        return last;
    }

    /** Why two blocks are not one although what lies between might be read: a gap that costs less is only left out at a limit. */
    private choice(block: Block<I>, next: Block<I>): Cut {
        const gap = next.address - block.address - block.quantity;
        if (gap * this.registerMs > this.options.cost.requestMs) return "gap";
        return next.address + next.quantity - block.address > this.most ? "limit" : "hole";
    }

    private tornApart({ items }: Host<I>): string {
        const most = `${this.most} ${unitOf(this.table)}`;
        return `${nameOf(items[0]!)} shares what may be read only once with its neighbours, and together they are longer than the ${most} of one read: take them apart.`;
    }
}

export function hits(ranges: readonly Range[] | undefined, table: Table, start: number, end: number): boolean {
    if (start >= end) return false;
    return ranges?.some((range) => (range.table ?? table) === table && range.address < end && range.address + range.size > start) ?? false;
}

/** Ranges of a table in order, those that touch as one. */
function union(ranges: readonly Range[], table: Table): { start: number; end: number }[] {
    const spans: { start: number; end: number }[] = [];
    for (const { address, size } of ranges.filter((range) => (range.table ?? table) === table).toSorted((a, b) => a.address - b.address)) {
        const last = spans.at(-1);
        if (last && address <= last.end) last.end = Math.max(last.end, address + size);
        else spans.push({ start: address, end: address + size });
    }
    return spans;
}
