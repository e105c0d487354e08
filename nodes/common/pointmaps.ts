import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import type * as YamlLibrary from "yaml";
import { z } from "zod";
import { errorCode, errorText, WattError } from "./errors.js";

/** Larger files are refused unread. A thousand points take about 90 KiB. */
export const MAX_MAP_BYTES = 128 * 1024;

/** More faults than these are not told at once: the first ones usually explain the rest. */
const MAX_FAULTS = 20;
const MAX_DEPTH = 12;
/** Blanks before a comment on the same line count as well. */
const MAX_INDENT = 200;
const TOO_DEEP = `nothing in a map is nested more than ${MAX_DEPTH} deep or indented more than ${MAX_INDENT}: check the indentation`;
const MAX_FILES = 2000;

/** Who reads a protocol's maps. */
const READERS = { modbus: "wl-modbus", sunspec: "wl-sunspec", mqtt: "wl-mqtt-device" } as const;
export type MapProtocol = keyof typeof READERS;

const MAP_CLASSES = ["inverter", "meter", "battery", "bms", "tracker", "weather", "mppt", "gateway", "generic"] as const;
export type MapClass = (typeof MAP_CLASSES)[number];

/** One thing that is wrong with a map, and what to do. */
export interface MapFault {
    /** From 1. */
    line: number;
    message: string;
}

/**
 * `POINTMAP_INVALID` the text breaks a rule; `faults` has each with its line · `POINTMAP_TOO_LARGE` · `POINTMAP_NOT_FOUND` no map
 * has this id · `POINTMAP_UNREADABLE` the disk does not give the file · `POINTMAP_PROTOCOL` another node reads this map.
 */
export class PointMapError extends WattError {
    override readonly name = "PointMapError";

    constructor(
        code: `POINTMAP_${string}`,
        message: string,
        readonly faults: readonly MapFault[] = [],
        options?: { cause?: unknown },
    ) {
        super(code, message, options);
    }
}

/** What every map says of itself, whatever its protocol. */
export interface MapHead {
    id: string;
    class: MapClass;
    vendor: string;
    models: string[];
    source: { doc?: string | undefined; url?: string | undefined; verified: "device" | "document" | "community"; date: string };
    protocol: MapProtocol;
}

/**
 * A mapping that takes the keys of its shape and no other. An unknown key is told with the one that was probably meant, each on
 * a line of its own, in the order of the issue's keys.
 */
export function strictMap<S extends z.ZodRawShape>(shape: S) {
    return z.strictObject(shape, {
        error: (issue) => {
            if (issue.code === "unrecognized_keys") return issue.keys.slice(0, MAX_FAULTS).map((key) => `unknown key "${clip(key)}": ${suggest(key, Object.keys(shape))}`).join("\n");
            return issue.code === "invalid_type" ? `must be a list of keys (${Object.keys(shape).join(", ")}), not ${kindOf(issue.input)}` : undefined;
        },
    });
}

/** A text, with what it is for where it is missing. */
export function mapText(what: string) {
    const message = `must be a text: ${what}`;
    return z.string({ error: message }).trim().min(1, message).max(500, "takes 500 characters at most");
}

/** A number within bounds. */
export function mapNumber(min: number, max: number) {
    const message = `must be a number from ${min} to ${max}`;
    return z.number({ error: message }).min(min, message).max(max, message);
}

/** A whole number within bounds. */
export function mapInt(min: number, max: number) {
    const message = `must be a whole number from ${min} to ${max}`;
    return z.int({ error: message }).min(min, message).max(max, message);
}

/** One of a closed list; what is not in it is told with the one that was probably meant. */
export function mapChoice<const T extends readonly [string, ...string[]]>(choices: T) {
    return z.enum(choices, { error: ({ input }) => (typeof input === "string" ? `"${clip(input)}" is not known: ${suggest(input, choices)}` : `must be one of ${choices.join(", ")}`) });
}

/** A time such as `500ms`, `10s`, `5m` or `1h`, in ms. */
export function mapDuration() {
    const message = "must be a time such as 500ms, 10s, 5m or 1h";
    const UNITS_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
    return z.string({ error: message }).transform((text, context) => {
        const [, number, unit] = /^(\d{1,6}(?:\.\d{1,3})?) ?(ms|s|m|h)$/.exec(text.trim()) ?? [];
        if (number !== undefined && Number(number) > 0) return Number(number) * UNITS_MS[unit!]!;
        context.addIssue({ code: "custom", message });
        return z.NEVER;
    });
}

/** The keys of the head; made when the first map is read, not when Node-RED starts. */
export function headShape() {
    return {
        schema: z.literal("pointmap/1", { error: 'must be "pointmap/1", the only version there is' }),
        id: z.string({ error: "must be a text such as eastron-sdm630" }).regex(/^[a-z0-9]+(-[a-z0-9]+)*$/, "must be lower case with dashes, such as eastron-sdm630"),
        class: mapChoice(MAP_CLASSES),
        vendor: mapText("who makes the device"),
        models: z.array(mapText("a model's name"), { error: "must be a list of model names, such as [SDM630-Modbus V2]" }).min(1, "must name at least one model"),
        source: strictMap({
            doc: mapText("the document that the facts are from").optional(),
            url: mapText("where the document is").optional(),
            verified: mapChoice(["device", "document", "community"]),
            date: z.string({ error: "must be a date such as 2026-11-21" }).regex(/^\d{4}-\d{2}-\d{2}$/, "must be a date such as 2026-11-21"),
        }),
        protocol: mapChoice(Object.keys(READERS) as ["modbus", "sunspec", "mqtt"]),
    };
}

let headSchema: ReturnType<typeof buildHead> | undefined;

function buildHead() {
    return strictMap(headShape());
}

/** The head of a map, which ends where another key begins. */
function parseHead(text: string, file: string): MapHead {
    const keys = Object.keys((headSchema ??= buildHead()).shape).join("|");
    const end = text.search(new RegExp(`^(?!(?:${keys}):)[\\w-]+:`, "m"));
    return MapFile.parse(end < 0 ? text : text.slice(0, end), file).check(headSchema);
}

/** A map's text, read as YAML, with the line of everything in it. Faults are collected, so that a person sees all at once. */
export class MapFile {
    private readonly faults: MapFault[] = [];

    private constructor(
        readonly file: string,
        /** Plain data, unchecked. */
        readonly data: unknown,
        private readonly lineOfPath: (at: readonly PropertyKey[]) => number,
    ) {}

    /** @throws PointMapError POINTMAP_INVALID, POINTMAP_TOO_LARGE */
    static parse(text: string, file: string): MapFile {
        if (text.length > MAX_MAP_BYTES) throw tooLarge(file);
        const faults: MapFault[] = [];
        let read: { data: unknown; lineOfPath: (at: readonly PropertyKey[]) => number } | undefined;
        try {
            read = readYaml(text, faults);
        } catch (error) {
            faults.push({ line: 1, message: `this cannot be read as YAML: ${clip(errorText(error))}` });
        }
        const data = read?.data;
        if (faults.length === 0 && (typeof data !== "object" || data === null || Array.isArray(data))) {
            faults.push({ line: 1, message: `a map begins with the key "schema: pointmap/1"; this is ${kindOf(data)}` });
        }
        if (faults.length > 0) throw invalid(file, faults);
        return new MapFile(file, data, read!.lineOfPath);
    }

    /** @throws PointMapError POINTMAP_PROTOCOL when another node reads maps like this one. */
    expect(protocol: MapProtocol): void {
        const found = (this.data as { protocol?: unknown }).protocol;
        if (found === protocol || typeof found !== "string" || !Object.hasOwn(READERS, found)) return;
        const line = this.lineOf(["protocol"]);
        const message = `protocol ${found} is read by ${READERS[found as MapProtocol]}: choose a map of protocol ${protocol} for ${READERS[protocol]}`;
        throw new PointMapError("POINTMAP_PROTOCOL", sentence(`${this.file}, line ${line}: ${message}`), [{ line, message }]);
    }

    /** The data as the schema gives it. @throws PointMapError POINTMAP_INVALID with every fault that the schema finds. */
    check<S extends z.ZodType>(schema: S): z.output<S> {
        const result = schema.safeParse(this.data);
        if (result.success) return result.data;
        for (const issue of result.error.issues) {
            if (issue.code !== "unrecognized_keys") this.fault(issue.path, issue.message);
            else for (const [index, message] of issue.message.split("\n").entries()) this.fault([...issue.path, issue.keys[index]!], message);
        }
        throw invalid(this.file, this.faults);
    }

    /** Notes a fault of the value at a path. */
    fault(at: readonly PropertyKey[], message: string): void {
        const where = at.slice(0, -1).map(String).join(".");
        const last = message.startsWith("unknown key") ? "" : `${where === "" ? "" : "."}${String(at.at(-1) ?? "")}`;
        const place = clip(where + last);
        this.faults.push({ line: this.lineOf(at), message: place === "" ? message : `${place}: ${message}` });
    }

    /** True once a fault was noted. */
    get isFaulty(): boolean {
        return this.faults.length > 0;
    }

    /** @throws PointMapError POINTMAP_INVALID when a fault was noted. */
    done(): void {
        if (this.isFaulty) throw invalid(this.file, this.faults);
    }

    /** The line of the value at a path, or of the nearest thing around it that exists. */
    lineOf(at: readonly PropertyKey[]): number {
        return this.lineOfPath(at);
    }
}

/** Undefined after noting why it cannot be read. */
function readYaml(text: string, faults: MapFault[]) {
    // The YAML library is loaded with the first map, not when Node-RED starts.
    const yaml = require("yaml") as typeof YamlLibrary;
    const deep = tooDeep(yaml, text);
    if (deep !== undefined) {
        faults.push({ line: deep, message: TOO_DEEP });
        return undefined;
    }
    const lineCounter = new yaml.LineCounter();
    // The library's own check for equal keys takes time by the square of their number.
    const document = yaml.parseDocument(text, { lineCounter, uniqueKeys: false, prettyErrors: false, logLevel: "error" });
    const lineAt = (offset: number) => Math.max(1, lineCounter.linePos(offset).line);
    for (const { message, pos } of [...document.errors, ...document.warnings]) faults.push({ line: lineAt(pos[0]), message: clip(message) });
    if (faults.length > 0) return undefined;
    const visit = (node: unknown, at: string, depth: number): void => {
        if (!yaml.isNode(node)) return;
        const refuse = (message: string) => faults.push({ line: lineAt(node.range?.[0] ?? 0), message });
        if (depth > MAX_DEPTH) refuse(TOO_DEEP);
        else if (yaml.isAlias(node)) refuse(`the alias *${clip(node.source)} is not taken: write the value out`);
        else if (yaml.isSeq(node)) for (const item of node.items) visit(item, at, depth + 1);
        else if (yaml.isMap(node)) {
            const seen = new Set<string>();
            for (const { key, value } of node.items) {
                if (!yaml.isScalar(key)) {
                    refuse("a key must be a plain text or number");
                    continue;
                }
                const name = String(key.value);
                if (seen.has(name)) faults.push({ line: lineAt(key.range?.[0] ?? 0), message: `${clip(at + name)}: is there twice: remove one` });
                seen.add(name);
                visit(value, `${at}${name}.`, depth + 1);
            }
        }
    };
    visit(document.contents, "", 0);
    if (faults.length > 0) return undefined;
    const lineOfPath = (at: readonly PropertyKey[]): number => {
        let [node, line]: [unknown, number] = [document.contents, 1];
        for (const step of at) {
            const key = String(step);
            const pair = yaml.isMap(node) ? node.items.find((one) => yaml.isScalar(one.key) && String(one.key.value) === key) : undefined;
            const next = pair ?? (yaml.isSeq(node) ? node.items[Number(key)] : undefined);
            if (next === undefined) break;
            const shown = pair ? pair.key : next;
            line = lineAt((yaml.isNode(shown) && shown.range?.[0]) || 0);
            node = pair ? pair.value : next;
        }
        return line;
    };
    return { data: document.toJS({ maxAliasCount: 0 }) as unknown, lineOfPath };
}

/**
 * The line of a nesting that no map has. The library builds nested values by recursion, and a stack that is nearly full can end
 * the whole process, so it never sees such a text. Counted a little too high, never too low.
 */
function tooDeep(yaml: typeof YamlLibrary, text: string): number | undefined {
    let [line, brackets, marks] = [1, 0, 0];
    let isText = false;
    for (const token of new yaml.Lexer().lex(text)) {
        const kind = yaml.CST.tokenType(token);
        if (kind === "flow-seq-start" || kind === "flow-map-start") brackets++;
        else if (kind === "flow-seq-end" || kind === "flow-map-end") brackets--;
        else if (kind === "seq-item-ind" || kind === "explicit-key-ind" || kind === "map-value-ind") marks++;
        else if (kind === "newline" || kind === "comma") marks = 0;
        // A text comes after a mark, and may begin with blanks.
        const indent = kind === "space" && !isText ? token.length : 0;
        isText = kind === "scalar";
        if (brackets > MAX_DEPTH || marks > MAX_DEPTH || indent > MAX_INDENT) return line;
        if (token.includes("\n")) line += token.split("\n").length - 1;
    }
    return undefined;
}

function invalid(file: string, faults: readonly MapFault[]): PointMapError {
    const sorted = [...new Map(faults.map((fault) => [`${fault.line} ${fault.message}`, fault])).values()].toSorted((a, b) => a.line - b.line);
    const told = sorted.slice(0, MAX_FAULTS);
    const more = sorted.length - told.length;
    const rows = told.map(({ line, message }) => sentence(`${file}, line ${line}: ${message}`));
    return new PointMapError("POINTMAP_INVALID", [...rows, ...(more > 0 ? [`And ${more} more.`] : [])].join("\n"), told);
}

function tooLarge(file: string): PointMapError {
    const message = `a map has ${MAX_MAP_BYTES / 1024} KiB at most: keep one device class a file`;
    return new PointMapError("POINTMAP_TOO_LARGE", `${file}, line 1: ${message}.`, [{ line: 1, message }]);
}

/** What a person wrote instead, in words. */
function kindOf(value: unknown): string {
    if (value === null || value === undefined) return "nothing";
    if (Array.isArray(value)) return "a list with dashes or brackets";
    if (typeof value === "object") return "a list of keys";
    return typeof value === "string" ? `the text "${clip(value)}"` : `the value ${JSON.stringify(value)}`;
}

/** `did you mean "type"?`, or all there is to choose from. */
export function suggest(word: string, known: readonly string[]): string {
    const near = known
        .map((candidate) => ({ candidate, steps: distance(word.toLowerCase().slice(0, 40), candidate.toLowerCase()) }))
        .filter(({ candidate, steps }) => steps <= Math.max(1, Math.floor(candidate.length / 3)))
        .toSorted((a, b) => a.steps - b.steps)[0];
    if (near) return `did you mean "${near.candidate}"?`;
    const shown = known.slice(0, 40).join(", ");
    return `take one of ${shown}${known.length > 40 ? ", …" : ""}`;
}

/** Edits that turn one word into the other; two letters in the wrong order are one (optimal string alignment). */
function distance(a: string, b: string): number {
    let [before, row] = [[] as number[], Array.from({ length: b.length + 1 }, (_, j) => j)];
    for (let i = 1; i <= a.length; i++) {
        const next = [i];
        for (let j = 1; j <= b.length; j++) {
            const same = a[i - 1] === b[j - 1] ? 0 : 1;
            const turned = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : Infinity;
            next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + same, turned));
        }
        [before, row] = [row, next];
    }
    return row[b.length]!;
}

/** Ends with a full stop, unless it ends with a question. */
function sentence(text: string): string {
    return text.endsWith("?") ? text : `${text}.`;
}

function clip(text: string): string {
    const plain = text.replaceAll(/[^\P{C}]+/gu, " ");
    return plain.length > 120 ? `${plain.slice(0, 119)}…` : plain;
}

/** A map that can be chosen; nothing of it was read yet. */
export interface MapEntry {
    /** The file's name without `.yaml`. */
    id: string;
    file: string;
    /** Where it comes from: with the package, or from the folder of the user. */
    origin: "shipped" | "user";
    /** Set for a user's map with the id of a shipped one: a sentence that says so. */
    notice?: string;
}

/** Maps by id: those of the package, and those of the user's folder, which take the place of a shipped one with the same id. */
export class PointMaps {
    private shippedEntries: ReadonlyMap<string, MapEntry> | undefined;
    /** By how they were parsed, and by id. */
    private readonly loaded = new Map<unknown, Map<string, { stamp: string; map: unknown }>>();

    /** @param userFolder Need not exist; it is looked at again whenever a map is asked for. */
    constructor(
        private readonly userFolder?: string,
        private readonly shippedFolder = path.join(__dirname, "../../pointmaps"),
    ) {}

    /** All maps, by id. Only names are read. @throws PointMapError POINTMAP_UNREADABLE */
    list(): MapEntry[] {
        return [...this.entries().values()].toSorted((a, b) => (a.id < b.id ? -1 : 1));
    }

    /**
     * A map, parsed again only when its file has changed.
     * @param parse Such as `parseModbusMap`.
     * @throws PointMapError
     */
    load<T extends { id: string }>(id: string, parse: (text: string, file: string) => T): T {
        const { file } = this.find(id);
        let parsed = this.loaded.get(parse);
        if (!parsed) this.loaded.set(parse, (parsed = new Map()));
        const known = parsed.get(id);
        const { text, stamp } = this.read(file, known?.stamp);
        if (known && text === undefined) return known.map as T;
        const map = parse(text!, file);
        if (map.id !== id) throw invalid(file, [{ line: 1, message: `the map's id is ${map.id}: rename the file to ${map.id}.yaml, or change the id to ${id}` }]);
        parsed.set(id, { stamp, map });
        return map;
    }

    /** What a map says of itself; the rest of it is not looked at. @throws PointMapError */
    head(id: string): MapHead {
        return this.load(id, parseHead);
    }

    /** @throws PointMapError POINTMAP_NOT_FOUND */
    find(id: string): MapEntry {
        const entries = this.entries();
        const entry = entries.get(id);
        if (entry) return entry;
        const folder = this.userFolder === undefined ? "" : ` Maps of your own belong in ${this.userFolder}.`;
        throw new PointMapError("POINTMAP_NOT_FOUND", `There is no point map "${clip(id)}": ${sentence(suggest(id, [...entries.keys()].toSorted()))}${folder}`);
    }

    private entries(): Map<string, MapEntry> {
        this.shippedEntries ??= entriesIn(this.shippedFolder, "shipped");
        const entries = new Map(this.shippedEntries);
        if (this.userFolder === undefined) return entries;
        for (const [id, entry] of entriesIn(this.userFolder, "user")) {
            entries.set(id, entries.has(id) ? { ...entry, notice: `${entry.file} takes the place of the map ${id} that comes with the package.` } : entry);
        }
        return entries;
    }

    /** `text` is left out for a file that has not changed. */
    private read(file: string, knownStamp?: string): { stamp: string; text?: string } {
        try {
            const stats = statSync(file);
            const { mtimeMs, size } = stats;
            // A pipe or device may be read without end.
            if (!stats.isFile()) throw new Error("it is no file.");
            if (size > MAX_MAP_BYTES) throw tooLarge(file);
            const stamp = `${file} ${mtimeMs} ${size}`;
            return stamp === knownStamp ? { stamp } : { stamp, text: readFileSync(file, "utf8") };
        } catch (error) {
            throw error instanceof PointMapError ? error : unreadable(file, error);
        }
    }
}

/** Maps lie in the folder or in folders inside it, such as `meters/`. */
function entriesIn(folder: string, origin: MapEntry["origin"]): Map<string, MapEntry> {
    const entries = new Map<string, MapEntry>();
    try {
        const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => /\.ya?ml$/i.test(name) && !isModelDefinition(name));
        for (const name of names.toSorted().slice(0, MAX_FILES)) {
            const id = path.basename(name).replace(/\.ya?ml$/i, "");
            entries.set(id, { id, file: path.join(folder, name), origin });
        }
    } catch (error) {
        if (origin === "shipped" || errorCode(error) !== "ENOENT") throw unreadable(folder, error);
    }
    return entries;
}

/** The official SunSpec models lie beside the maps and have a schema of their own. */
function isModelDefinition(name: string): boolean {
    return /(^|[\\/])model_\d+\.yaml$/.test(name);
}

function unreadable(file: string, error: unknown): PointMapError {
    return new PointMapError("POINTMAP_UNREADABLE", `${file} cannot be read: ${errorText(error)}`, [], { cause: error });
}
