import type { Learned } from "./block-reader.js";
import type { Hole, SizeFault } from "./learned.js";
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

/** What a unit taught and how, a sentence each. @param pointsIn The points in a range of registers. */
export function explainLearned({ holes, maxRegisters, maxBits, tooManyRegisters, tooManyBits }: Learned, pointsIn: (span: Span) => string[]): string[] {
    return [
        ...holes.map((hole) => explainHole(hole, pointsIn(hole))),
        ...(tooManyRegisters ? [explainLimit(maxRegisters, "registers", tooManyRegisters)] : []),
        ...(tooManyBits ? [explainLimit(maxBits, "bits", tooManyBits)] : []),
    ];
}

function explainHole({ table, address, size, refusal: { message } }: Hole, points: string[]): string {
    if (size === 0) return `No read reaches across ${table} ${address}: ${message}`;
    const place = size === 1 ? `${table} ${address}` : `${table} ${address}..${address + size - 1}`;
    return `${place}${points.length > 0 ? ` (${points.join(", ")})` : ""} is left out: ${message}`;
}

function explainLimit(max: number, unit: string, { size, isRefused }: SizeFault): string {
    return `At most ${max} ${unit} are read at once: a read of ${size} was ${isRefused ? "refused" : "not answered"}, shorter ones were answered.`;
}

function between({ table, address, quantity }: PlannedBlock, next: PlannedBlock): string {
    const first = address + quantity;
    const last = next.address - 1;
    return first === last ? `${unitsOf(table)} ${first}` : `${unitsOf(table)} ${first}..${last}`;
}

function unitsOf(table: Span["table"]): string {
    return isBits(table) ? "bits" : "registers";
}
