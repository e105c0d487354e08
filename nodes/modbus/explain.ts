import { functionOf, isBits } from "./pdu.js";
import type { Block, Cut, Plan, ReadItem } from "./plan.js";

/** A request of a plan, for a person. */
export interface PlanRow {
    /** Modbus function code that reads it. */
    function: number;
    /** First and last 0-based wire address. */
    first: number;
    last: number;
    /** Registers or bits. */
    quantity: number;
    /** How many of them nobody asked for. */
    unused: number;
    /** Names of what it holds, by address; an address stands for what has no name. */
    points: string[];
    /** Estimated time, ms. */
    ms: number;
    /** Why the next request is another one; empty at the last. */
    why: string;
}

export interface PlanText {
    /** One sentence. */
    summary: string;
    rows: PlanRow[];
}

/** A plan as a person reads it: what each request reads, and why it ends where it does. */
export function explain(plan: Plan<ReadItem>): PlanText {
    const rows = plan.blocks.map((block, i) => explainBlock(block, plan.blocks[i + 1]));
    const parts = [count(plan.registers, "register"), count(plan.bits, "bit")].filter((part) => part !== "");
    const summary = rows.length === 0 ? "Nothing to read." : `${count(rows.length, "request")} for ${parts.join(" and ")}, about ${timeText(plan.ms)} a cycle.`;
    return { summary, rows };
}

function explainBlock(block: Block<ReadItem>, next: Block<ReadItem> | undefined): PlanRow {
    const { table, address, quantity, items, ms } = block;
    return {
        function: functionOf({ unit: 0, table, address, quantity }),
        first: address,
        last: address + quantity - 1,
        quantity,
        unused: unusedIn(block),
        points: items.map((item) => item.name ?? String(item.address)),
        ms,
        why: block.cut && next ? WHY[block.cut](block, next) : "",
    };
}

function unusedIn({ address, quantity, items }: Block<ReadItem>): number {
    let unused = quantity;
    let end = address;
    for (const item of items) {
        const itemEnd = item.address + item.size;
        unused -= Math.max(0, itemEnd - Math.max(end, item.address));
        end = Math.max(end, itemEnd);
    }
    return unused;
}

type Why = (block: Block<ReadItem>, next: Block<ReadItem>) => string;

const WHY: Record<Cut, Why> = {
    table: ({ table }, next) => `Next comes the table ${next.table} instead of ${table}: a request reads one table.`,
    limit: ({ table }) => `With the next values it would be longer than one request may be: ${unitsOf(table)} at once are limited.`,
    gap: (block, next) => `Reading ${between(block, next)} on the way would take longer than another request.`,
    forbidden: (block, next) => `Among ${between(block, next)} are some that must not be read on the way.`,
    never: (block, next) => `The map does not let ${between(block, next)} be read on the way.`,
    undeclared: (block, next) => `Not all of ${between(block, next)} are declared readable.`,
    hole: (block, next) => `The device refused to read on to ${next.address}: it is tried again at least once a day.`,
};

function between({ table, address, quantity }: Block<ReadItem>, next: Block<ReadItem>): string {
    const first = address + quantity;
    const last = next.address - 1;
    return first === last ? `${unitsOf(table)} ${first}` : `${unitsOf(table)} ${first}..${last}`;
}

function unitsOf(table: Block<ReadItem>["table"]): string {
    return isBits(table) ? "bits" : "registers";
}

/** `1 request`, `2 requests`, and nothing for none. */
function count(n: number, noun: string): string {
    return n === 0 ? "" : `${n} ${noun}${n === 1 ? "" : "s"}`;
}

function timeText(ms: number): string {
    return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}
