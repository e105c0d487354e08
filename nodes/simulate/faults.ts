import { z } from "zod";
import { WattError } from "../common/errors.js";
import type { WireFault } from "./server.js";

/**
 * What can go wrong: on the wire `slow`, `drop` (no answer), `reset` (the connection breaks), `exception`; in the device
 * `frozen` (values stay), `night` (no value is implemented), `counters` (they start again at zero), `length` (the common model
 * changes its length, so all others move); with the clock `jump`.
 */
export const FAULTS = ["slow", "drop", "reset", "exception", "frozen", "night", "counters", "length", "jump"] as const;
export type FaultName = (typeof FAULTS)[number];

/** One fault of one unit, or of all where `unit` is absent. */
export interface Fault {
    fault: FaultName;
    unit?: number;
    /** How late `slow` answers. */
    ms: number;
    /** What `exception` answers (Modbus Application Protocol V1.1b3 §7); 4 is a failure of the device. */
    code: number;
    /** How far `jump` moves the plant's clock. */
    hours: number;
}

const DEFAULTS = { ms: 3000, code: 4, hours: 1 };

const schema = z
    .object({
        fault: z.enum(FAULTS),
        unit: z.int().min(0).max(255).optional(),
        ms: z.number().min(0).max(60_000).default(DEFAULTS.ms),
        code: z.int().min(1).max(255).default(DEFAULTS.code),
        hours: z.number().min(-48).max(48).default(DEFAULTS.hours),
    })
    .transform(({ unit, ...rest }): Fault => (unit === undefined ? rest : { ...rest, unit }));
const clearing = z.object({ fault: z.literal("clear"), unit: z.int().min(0).max(255).optional() });

/**
 * Reads what a message asks for: `{fault: "slow", unit: 1, ms: 5000}`, `{fault: "clear"}`, or just the name.
 * @throws WattError SIM_FAULT naming what is understood.
 */
export function parseFault(payload: unknown): Fault | z.output<typeof clearing> {
    const asked = typeof payload === "string" ? { fault: payload } : payload;
    const result = z.union([clearing, schema]).safeParse(asked);
    if (result.success) return result.data;
    throw new WattError(
        "SIM_FAULT",
        `Not a fault: msg.payload takes {fault: "${FAULTS.join('" | "')}" | "clear", unit: 0..255, ms, code, hours}, such as {fault: "slow", unit: 1, ms: 5000}.`,
    );
}

/** The faults at work now: one a unit, and one for all units without their own. */
export class ActiveFaults {
    private readonly byUnit = new Map<number | undefined, Fault>();

    set(fault: Fault): void {
        this.byUnit.set(fault.unit, fault);
    }

    /** Ends the fault of a unit, or every fault. */
    clear(unit?: number): void {
        if (unit === undefined) this.byUnit.clear();
        else this.byUnit.delete(unit);
    }

    of(unit: number): Fault | undefined {
        return this.byUnit.size === 0 ? undefined : (this.byUnit.get(unit) ?? this.byUnit.get(undefined));
    }

    wire(unit: number): WireFault | undefined {
        const fault = this.of(unit);
        switch (fault?.fault) {
            case "slow":
                return { kind: "slow", ms: fault.ms };
            case "exception":
                return { kind: "exception", code: fault.code };
            case "drop":
            case "reset":
                return { kind: fault.fault };
            default:
                return undefined;
        }
    }

    /** For a status; undefined when nothing is wrong. */
    describe(): string | undefined {
        const [first, ...more] = this.byUnit.values();
        if (!first || more.length > 0) return first && `${more.length + 1} faults`;
        return `${first.unit === undefined ? "all units" : `unit ${first.unit}`}: ${first.fault}`;
    }
}
