import { isBits } from "./pdu.js";
import type { Block, Cut, ReadItem, Span } from "./plan.js";

type PlannedBlock = Omit<Block<ReadItem>, "items" | "ms">;

/** Why a block of a plan ends where it does, as a sentence for a person; empty at the last. */
export function explainCut(block: PlannedBlock, next: PlannedBlock | undefined): string {
    return block.cut && next ? WHY[block.cut](block, next) : "";
}

const WHY: Record<Cut, (block: PlannedBlock, next: PlannedBlock) => string> = {
    table: ({ table }, next) => `Next comes the table ${next.table} instead of ${table}: a request reads one table.`,
    limit: ({ table }) => `With the next values it would be longer than one request may be: ${unitsOf(table)} at once are limited.`,
    gap: (block, next) => `Reading ${between(block, next)} on the way would take longer than another request.`,
    forbidden: (block, next) => `Among ${between(block, next)} are some that must not be read on the way.`,
    never: (block, next) => `The map does not let ${between(block, next)} be read on the way.`,
    undeclared: (block, next) => `Not all of ${between(block, next)} are declared readable.`,
    hole: (_, next) => `The device refused to read on to ${next.address}: it is tried again at least once a day.`,
};

function between({ table, address, quantity }: PlannedBlock, next: PlannedBlock): string {
    const first = address + quantity;
    const last = next.address - 1;
    return first === last ? `${unitsOf(table)} ${first}` : `${unitsOf(table)} ${first}..${last}`;
}

function unitsOf(table: Span["table"]): string {
    return isBits(table) ? "bits" : "registers";
}
