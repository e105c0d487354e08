import { z } from "zod";
import { headShape, mapChoice, mapDuration, mapInt, mapNumber, mapText, strictMap } from "../common/pointmaps.js";
import { MAX_REGISTERS } from "./pdu.js";
import { TABLES } from "./transport.js";

export const BYTE_ORDERS = ["ABCD", "CDAB", "BADC", "DCBA"] as const;

/** What a positive value means on the device; ours are the first, third and fifth, of a load the last (design §4). */
export const SIGNS = ["import_positive", "export_positive", "discharge_positive", "charge_positive", "generation_positive", "consumption_positive"] as const;

/** How a value in a scale register counts: SunSpec-like devices multiply by its power of ten, Kipp & Zonen divide. */
const SCALE_RULES = ["multiply_pow10", "divide_pow10"] as const;

const SCALE = "must be a number other than 0, or {register: 4, rule: divide_pow10 or multiply_pow10}";

/** A register's number as the map's `numbering` writes it; modicon numbers have up to six digits. */
const address = () => mapInt(0, 465_536);

function pair(item: z.ZodType<number>, message: string) {
    return z.tuple([item, item], { error: message }).refine(([low, high]) => low <= high, message);
}

function range() {
    const message = "must be the first and the last register, such as [0, 79]";
    return z.union([pair(address(), message), strictMap({ table: mapChoice(TABLES), range: pair(address(), message) })], {
        error: `${message}, or {table: holding, range: [0, 79]}`,
    });
}

const ranges = () => z.array(range(), { error: "must be a list of ranges, such as [[0, 79]]" }).max(200, "takes 200 ranges at most").optional();

function sentinels() {
    const message = "must be a list of raw values that mean no value: numbers, nan, min, max";
    return z.array(z.union([z.number(), z.enum(["nan", "min", "max"])], { error: message }), { error: message }).max(20, message).optional();
}

function labels() {
    const message = "must be numbers with their names, such as {0: idle, 1: running}";
    return z.record(z.string().regex(/^\d{1,10}$/, message), mapText("a label"), { error: message });
}

const bounds = () => pair(z.number({ error: "must be a number" }), "must be the least and the most, such as [0, 100]");

const boundsOrMore = () => z.union([bounds(), z.array(bounds()).min(1).max(10)], { error: "must be the least and the most, such as [0, 100], or a list of such" });

function writeShape() {
    return strictMap({
        allow: z.literal(false, { error: "must be false: a map never permits writing, a control policy does" }),
        range: bounds(),
        step: mapNumber(1e-9, 1e9).optional(),
        fc: z.union([z.literal(5), z.literal(6), z.literal(15), z.literal(16)], { error: "must be 5, 6, 15 or 16" }).optional(),
        with: z.array(mapText("a point's name"), { error: "must be a list of points" }).optional(),
        persist: z
            .union([z.enum(["volatile", "flash"]), strictMap({ flash: strictMap({ max_per_day: mapInt(1, 100_000) }) })], {
                error: "must be volatile, flash or {flash: {max_per_day: 10}}",
            })
            .optional(),
        revert: strictMap({ register: mapText("the point that holds the device's own timer"), refresh: mapNumber(0.05, 0.95) }).optional(),
        readback: strictMap({ within: mapDuration(), tolerance: mapNumber(0, 1e9) }),
        failsafe: z.number({ error: "must be a number" }).optional(),
    });
}

function pointShape() {
    return strictMap({
        address: address(),
        type: mapText("a type such as int16, uint32, float32 or string(8)"),
        table: mapChoice(TABLES).optional(),
        byte_order: mapChoice(BYTE_ORDERS).optional(),
        unit: mapText("a unit such as W or kWh").optional(),
        scale: z
            .union([z.number(), strictMap({ register: address(), rule: mapChoice(SCALE_RULES) })], { error: SCALE })
            .refine((scale) => scale !== 0, SCALE)
            .optional(),
        offset: mapNumber(-1e9, 1e9).optional(),
        invalid: sentinels(),
        valid: boundsOrMore().optional(),
        max_step: strictMap({ per: mapDuration(), by: mapNumber(1e-9, 1e12) }).optional(),
        deadband: strictMap({ abs: mapNumber(0, 1e12).optional(), pct: mapNumber(0, 100).optional(), max_age: mapDuration().optional() })
            .refine((deadband) => Object.keys(deadband).length > 0, "must have abs, pct or max_age, such as {abs: 5}")
            .optional(),
        group: mapText("a group's name").optional(),
        sign: mapChoice(SIGNS).optional(),
        direction: strictMap({
            register: address(),
            negative: z.array(mapInt(0, 0xffff), { error: "must be a list of the register's values that mean negative, such as [1]" }).min(1).max(20),
        }).optional(),
        kind: mapChoice(["gauge", "counter", "state", "text"]).optional(),
        enum: labels().optional(),
        bits: labels().optional(),
        overlaps: z.array(mapText("a point's name"), { error: "must be a list of the points that share registers with this one" }).optional(),
        access: mapChoice(["r", "rw"]).optional(),
        write: writeShape().optional(),
    });
}

function identifyShape() {
    return strictMap({
        address: address(),
        type: mapText("a type such as uint16"),
        table: mapChoice(TABLES).optional(),
        byte_order: mapChoice(BYTE_ORDERS).optional(),
        in: boundsOrMore().optional(),
        is: z.array(z.union([z.number(), z.string()]), { error: "must be a list of values, such as [1648, 1649]" }).min(1).max(200).optional(),
        starts: mapText("what the text begins with").optional(),
    });
}

let schema: ReturnType<typeof build> | undefined;

function build() {
    return strictMap({
        ...headShape(),
        defaults: strictMap({
            table: mapChoice(TABLES).optional(),
            numbering: mapChoice(["wire", "register", "modicon"]).optional(),
            byte_order: mapChoice(BYTE_ORDERS).optional(),
            max_registers: mapInt(1, MAX_REGISTERS).optional(),
            gaps: mapChoice(["never", "declared", "allow"]).optional(),
            readable: ranges(),
            forbidden: ranges(),
            barriers: ranges(),
            atomic: ranges(),
            min_interval_ms: mapInt(0, 60_000).optional(),
            connect_pause_ms: mapInt(0, 60_000).optional(),
            timeout_ms: mapInt(50, 60_000).optional(),
            unit_ids: z.array(mapInt(0, 255), { error: "must be a list of unit ids, such as [1]" }).min(1).max(255).optional(),
            invalid: sentinels(),
        }).optional(),
        identify: z.array(identifyShape(), { error: "must be a list of reads, each beginning with a dash" }).max(20).optional(),
        proof: z.array(mapText("a point's name"), { error: "must be a list of points" }).max(20).optional(),
        groups: z.record(z.string(), strictMap({ every: mapDuration().optional() }), { error: "must be groups with their periods, such as {fast: {every: 1s}}" }).optional(),
        points: z.record(z.string(), pointShape(), { error: "must be points by name" }),
    });
}

/** The keys of a map of protocol modbus; made when the first map is read, not when Node-RED starts. */
export function modbusMapSchema() {
    return (schema ??= build());
}

export type ModbusMapSchema = ReturnType<typeof build>;
export type RawMap = z.output<ModbusMapSchema>;
export type RawPoint = RawMap["points"][string];
export type RawRange = NonNullable<NonNullable<RawMap["defaults"]>["readable"]>[number];
