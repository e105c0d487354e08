import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import type * as YamlLibrary from "yaml";
import { z } from "zod";
import { errorText, WattError } from "../common/errors.js";
import { isSunSpecUnit } from "./units.js";

/** Registers a point takes by its type (SunSpec Device Information Model Specification, point types); a string states its own. */
const TYPE_SIZE = {
    int16: 1,
    int32: 2,
    int64: 4,
    uint16: 1,
    uint32: 2,
    uint64: 4,
    acc16: 1,
    acc32: 2,
    acc64: 4,
    raw16: 1,
    enum16: 1,
    enum32: 2,
    bitfield16: 1,
    bitfield32: 2,
    bitfield64: 4,
    float32: 2,
    float64: 4,
    sunssf: 1,
    count: 1,
    pad: 1,
    ipaddr: 2,
    ipv6addr: 8,
    eui48: 4,
    string: 0,
} as const;

export type PointType = keyof typeof TYPE_SIZE;

export interface PointDef {
    readonly name: string;
    readonly type: PointType;
    /** Registers. */
    readonly size: number;
    /** Scale factor: a constant exponent of ten, or the name of a sunssf point in the own group, else in the model's top level. */
    readonly sf?: number | string;
    /** One of those that `isSunSpecUnit` knows. */
    readonly unit?: string;
    readonly writable: boolean;
    readonly mandatory: boolean;
    /** True for a value that does not change while the device runs. */
    readonly static: boolean;
    /** Names of an enum's values, or of a bitfield's bits by number. */
    readonly symbols?: Readonly<Record<string, number>>;
}

export interface GroupDef {
    readonly name: string;
    /** True for a group that is only consistent when read and written in one request. */
    readonly sync: boolean;
    /** Absent for a group that is there once; else the top-level point that counts it, or "L" where only the length tells. */
    readonly count?: string;
    readonly points: readonly PointDef[];
    /** Lie behind the points; a repeating group is the last one of its parent. */
    readonly groups: readonly GroupDef[];
}

/** A model; its points begin with ID and L. */
export interface ModelDef extends GroupDef {
    readonly id: number;
    /** L where the definition fixes it: registers behind the two of ID and L. */
    readonly length?: number;
}

const NAME = z.string().regex(/^[A-Za-z][A-Za-z0-9_-]*$/, "a name takes letters, digits, _ and -, and starts with a letter");

const pointSchema = z.strictObject({
    type: z.enum(Object.keys(TYPE_SIZE) as [PointType, ...PointType[]]),
    size: z.int().min(1).max(0xffff).optional(),
    sf: z.union([z.int().min(-10).max(10), NAME]).optional(),
    unit: z.string().optional(),
    access: z.literal("RW").optional(),
    mandatory: z.literal(true).optional(),
    static: z.literal(true).optional(),
    symbols: z.record(z.string(), z.int().min(0)).optional(),
});

interface RawGroup {
    sync?: true | undefined;
    count?: string | undefined;
    points?: Record<string, z.output<typeof pointSchema>> | undefined;
    groups?: Record<string, RawGroup> | undefined;
}


const groupSchema: z.ZodType<RawGroup> = z.strictObject({
    sync: z.literal(true).optional(),
    count: NAME.optional(),
    points: z.record(NAME, pointSchema).optional(),
    get groups() {
        return z.record(NAME, groupSchema).optional();
    },
});

const modelSchema = z.strictObject({
    id: z.int().min(1).max(0xfffe),
    name: NAME,
    length: z.int().min(1).max(0xffff).optional(),
    points: z.record(NAME, pointSchema).optional(),
    groups: z.record(NAME, groupSchema).optional(),
});

const HEADER: readonly PointDef[] = ["ID", "L"].map((name) => ({
    name,
    type: "uint16",
    size: 1,
    writable: false,
    mandatory: true,
    static: true,
}));

/** Types that a scale factor applies to. */
const SCALABLE = /^(u?int|acc)(16|32|64)$|^count$/;

/**
 * Reads a point map (pointmaps/sunspec/model_<id>.yaml).
 * @param origin Name of the file, for errors.
 * @throws WattError SUNSPEC_MAP that names the file, the point and the rule it breaks.
 */
export function parseModel(text: string, origin: string): ModelDef {
    // The YAML library is loaded with the first map, not when Node-RED starts.
    const yaml = require("yaml") as typeof YamlLibrary;
    try {
        const parsed = modelSchema.safeParse(yaml.parse(text));
        if (!parsed.success) throw new Error(z.prettifyError(parsed.error));
        const { id, name, length, ...top } = parsed.data;
        const group = buildGroup(name, top);
        const model = { ...group, id, points: [...HEADER, ...group.points], ...(length !== undefined && { length }) };
        checkGroup(model, model, false);
        return model;
    } catch (error) {
        throw new WattError("SUNSPEC_MAP", `${origin} is not a usable point map: ${errorText(error)}`, { cause: error });
    }
}

function buildGroup(name: string, raw: RawGroup): GroupDef {
    return {
        name,
        sync: raw.sync ?? false,
        ...(raw.count !== undefined && { count: raw.count }),
        points: Object.entries(raw.points ?? {}).map(([point, def]) => {
            const size = TYPE_SIZE[def.type] || def.size;
            if (size === undefined || (def.type !== "string" && def.size !== undefined)) {
                throw new Error(`${point}: a string states its size, no other type does`);
            }
            return {
                name: point,
                type: def.type,
                size,
                ...(def.sf !== undefined && { sf: def.sf }),
                ...(def.unit !== undefined && { unit: def.unit }),
                writable: def.access === "RW",
                mandatory: def.mandatory ?? false,
                static: def.static ?? false,
                ...(def.symbols && { symbols: def.symbols }),
            };
        }),
        groups: Object.entries(raw.groups ?? {}).map(([child, def]) => buildGroup(child, def)),
    };
}

function checkGroup(group: GroupDef, top: ModelDef, nested: boolean): void {
    for (const point of group.points) checkPoint(point, group, top);
    for (const [index, child] of group.groups.entries()) {
        const where = `${group.name}.${child.name}`;
        if (group.points.some((point) => point.name === child.name)) throw new Error(`${where}: a point has the same name`);
        if (child.count !== undefined) {
            if (index < group.groups.length - 1) throw new Error(`${where}: a repeating group must be the last one`);
            if (child.count === "L" && nested) throw new Error(`${where}: only a group of the top level can be counted by L`);
            const counter = top.points.find((point) => point.name === child.count);
            if (counter?.size !== 1) throw new Error(`${where}: count "${child.count}" is no one-register point of the top level`);
        }
        checkGroup(child, top, true);
    }
}

function checkPoint(point: PointDef, group: GroupDef, top: ModelDef): void {
    const where = `${group.name}.${point.name}`;
    if (typeof point.sf === "string") {
        const factor = [...group.points, ...top.points].find((other) => other.name === point.sf);
        if (factor?.type !== "sunssf") throw new Error(`${where}: scale factor ${point.sf} is in neither its group nor the top level`);
    }
    if (point.sf !== undefined && !SCALABLE.test(point.type)) throw new Error(`${where}: a ${point.type} takes no scale factor`);
    if (point.unit !== undefined && !isSunSpecUnit(point.unit)) throw new Error(`${where}: unit "${point.unit}" is not known`);
    if (!point.symbols) return;
    const bits = point.type.startsWith("bitfield");
    if (!bits && !point.type.startsWith("enum")) throw new Error(`${where}: a ${point.type} takes no symbols`);
    const most = bits ? point.size * 16 - 1 : 2 ** (point.size * 16) - 1;
    const values = Object.values(point.symbols);
    if (values.some((value) => value > most)) throw new Error(`${where}: a symbol is beyond ${most}`);
    if (new Set(values).size < values.length) throw new Error(`${where}: two symbols share a value`);
}

/** Files a library needs; tests inject their own. */
export interface MapFiles {
    /** Names in the folder. */
    list(folder: string): string[];
    read(file: string): string;
}

const mapFiles: MapFiles = { list: (folder) => readdirSync(folder), read: (file) => readFileSync(file, "utf8") };

function access<T>(what: string, task: () => T): T {
    try {
        return task();
    } catch (error) {
        throw new WattError("SUNSPEC_MAP", `Cannot read ${what}, install the package again: ${errorText(error)}`, { cause: error });
    }
}

/** The point maps of a folder. Each is read and parsed when it is first asked for. */
export class ModelLibrary {
    private known: ReadonlySet<number> | undefined;
    private readonly parsed = new Map<number, ModelDef>();

    constructor(
        private readonly folder = path.join(__dirname, "../../pointmaps/sunspec"),
        private readonly files: MapFiles = mapFiles,
    ) {}

    /** Ids of all models in the folder, ascending. */
    ids(): number[] {
        return [...this.list()].toSorted((a, b) => a - b);
    }

    /** True for an id with a map; nothing is parsed. */
    has(id: number): boolean {
        return this.list().has(id);
    }

    /**
     * The definition, or undefined for an id without a map.
     * @throws WattError SUNSPEC_MAP when the file is damaged or cannot be read.
     */
    get(id: number): ModelDef | undefined {
        const found = this.parsed.get(id);
        if (found || !this.has(id)) return found;
        const file = path.join(this.folder, `model_${id}.yaml`);
        const model = parseModel(
            access(file, () => this.files.read(file)),
            file,
        );
        if (model.id !== id) throw new WattError("SUNSPEC_MAP", `${file} holds model ${model.id}.`);
        this.parsed.set(id, model);
        return model;
    }

    private list(): ReadonlySet<number> {
        if (!this.known) {
            const files = access(this.folder, () => this.files.list(this.folder));
            const ids = files.map((file) => Number(/^model_(\d+)\.yaml$/.exec(file)?.[1]));
            this.known = new Set(ids.filter((id) => !Number.isNaN(id)));
        }
        return this.known;
    }
}

/** The official models, shared by every node. */
export const officialModels = new ModelLibrary();
