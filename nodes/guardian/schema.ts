import { DateTime } from "luxon";
import { WattError } from "../common/errors.js";
import { isObject } from "../common/json.js";

/** One place where a document does not follow its schema. */
export interface Violation {
    /** Dotted path, such as `H33.tool_07.field1`; empty for the document itself. */
    path: string;
    problem: string;
}

type Schema = Record<string, unknown>;

/** Words of JSON Schema (draft-07) that say nothing about what is valid. */
const SILENT = new Set(["$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "readOnly", "writeOnly", "then", "else"]);
const MAX_DEPTH = 60;

/**
 * Checks a value against a schema as Guardian serves them: draft-07, `$ref` by `$id` or key of `$defs`. No code is made of the
 * schema, which comes from a server. A word it does not know is a violation: what cannot be checked is not passed.
 * With `serverSets`, `@context`, `type` and `id` of linked-data objects may be missing: Guardian adds them.
 */
export function validate(schema: unknown, value: unknown, options: { serverSets?: boolean } = {}): Violation[] {
    const found: Violation[] = [];
    new Check(schema, found, options.serverSets ?? false).visit(schema, value, "", 0);
    return found;
}

class Check {
    private readonly known = new Map<string, Schema>();

    constructor(
        root: unknown,
        private readonly found: Violation[],
        private readonly serverSets: boolean,
    ) {
        if (!isObject(root)) return;
        this.known.set("#", root);
        if (typeof root["$id"] === "string") this.known.set(root["$id"], root);
        for (const where of ["$defs", "definitions"]) {
            for (const [key, part] of Object.entries(isObject(root[where]) ? root[where] : {})) {
                if (!isObject(part)) continue;
                for (const name of [key, `#/${where}/${key}`, part["$id"]]) if (typeof name === "string") this.known.set(name, part);
            }
        }
    }

    visit(schema: unknown, value: unknown, path: string, depth: number): void {
        if (schema === true) return;
        if (schema === false || !isObject(schema) || depth > MAX_DEPTH) {
            this.say(path, schema === false ? "is not allowed" : "has a schema that cannot be read");
            return;
        }
        for (const [word, rule] of Object.entries(schema)) {
            if (SILENT.has(word)) continue;
            const check = Object.hasOwn(RULES, word) ? RULES[word] : undefined;
            if (check) check(this, { schema, rule, value, path, depth });
            else this.say(path, `has a rule that is not known here (${word})`);
        }
    }

    say(path: string, problem: string): void {
        this.found.push({ path, problem });
    }

    passes(schema: unknown, value: unknown, depth: number): boolean {
        const trial = new Check(undefined, [], this.serverSets);
        for (const [name, part] of this.known) trial.known.set(name, part);
        trial.visit(schema, value, "", depth + 1);
        return trial.found.length === 0;
    }

    resolve(ref: unknown): Schema | undefined {
        return this.known.get(String(ref));
    }

    /** Properties that the server writes into linked-data objects. */
    isServers(schema: Schema, key: string): boolean {
        return this.serverSets && ["@context", "type", "id"].includes(key) && isObject(schema["properties"]) && "@context" in schema["properties"];
    }
}

interface At {
    schema: Schema;
    rule: unknown;
    value: unknown;
    path: string;
    depth: number;
}

const join = (path: string, key: string | number) => (path === "" ? String(key) : `${path}.${key}`);

const RULES: Record<string, (check: Check, at: At) => void> = {
    type: (check, { rule, value, path }) => {
        if (!list(rule).some((type) => isOfType(value, type))) check.say(path, `must be ${list(rule).map(String).join(" or ")}, is ${nameOf(value)}`);
    },
    enum: (check, { rule, value, path }) => {
        if (!list(rule).some((allowed) => same(allowed, value))) check.say(path, `must be one of ${list(rule).map((item) => JSON.stringify(item)).join(", ")}`);
    },
    const: (check, { rule, value, path }) => {
        if (!same(rule, value)) check.say(path, `must be ${JSON.stringify(rule)}`);
    },
    properties: (check, { rule, value, path, depth }) => {
        if (!isObject(value) || !isObject(rule)) return;
        for (const [key, part] of Object.entries(rule)) if (Object.hasOwn(value, key)) check.visit(part, value[key], join(path, key), depth + 1);
    },
    required: (check, { schema, rule, value, path }) => {
        if (!isObject(value)) return;
        for (const key of list(rule).map(String)) if (!Object.hasOwn(value, key) && !check.isServers(schema, key)) check.say(join(path, key), "is missing");
    },
    additionalProperties: (check, { schema, rule, value, path, depth }) => {
        if (!isObject(value)) return;
        const named = isObject(schema["properties"]) ? schema["properties"] : {};
        for (const key of Object.keys(value)) {
            if (Object.hasOwn(named, key)) continue;
            if (rule === false) check.say(join(path, key), "is not in the schema");
            else check.visit(rule, value[key], join(path, key), depth + 1);
        }
    },
    items: (check, { rule, value, path, depth }) => {
        if (Array.isArray(value)) value.forEach((item, i) => check.visit(Array.isArray(rule) ? (rule[i] ?? true) : rule, item, join(path, i), depth + 1));
    },
    minItems: (check, { rule, value, path }) => {
        if (Array.isArray(value) && value.length < Number(rule)) check.say(path, `must hold at least ${String(rule)}`);
    },
    maxItems: (check, { rule, value, path }) => {
        if (Array.isArray(value) && value.length > Number(rule)) check.say(path, `must hold at most ${String(rule)}`);
    },
    minimum: (check, { rule, value, path }) => {
        if (typeof value === "number" && value < Number(rule)) check.say(path, `must be at least ${String(rule)}`);
    },
    maximum: (check, { rule, value, path }) => {
        if (typeof value === "number" && value > Number(rule)) check.say(path, `must be at most ${String(rule)}`);
    },
    minLength: (check, { rule, value, path }) => {
        if (typeof value === "string" && Array.from(value).length < Number(rule)) check.say(path, `must have at least ${String(rule)} characters`);
    },
    maxLength: (check, { rule, value, path }) => {
        if (typeof value === "string" && Array.from(value).length > Number(rule)) check.say(path, `must have at most ${String(rule)} characters`);
    },
    pattern: (check, { rule, value, path }) => {
        if (typeof value === "string" && !matches(String(rule), value)) check.say(path, `must match ${String(rule)}`);
    },
    format: (check, { rule, value, path }) => {
        if (typeof value !== "string") return;
        const test = Object.hasOwn(FORMATS, String(rule)) ? FORMATS[String(rule)] : undefined;
        if (!test) check.say(path, `has a format that is not known here (${String(rule)})`);
        else if (!test(value)) check.say(path, `must be a ${String(rule)}`);
    },
    $ref: (check, { rule, value, path, depth }) => {
        const target = check.resolve(rule);
        if (target) check.visit(target, value, path, depth + 1);
        else check.say(path, `has a schema that is not there (${String(rule)})`);
    },
    allOf: (check, { rule, value, path, depth }) => list(rule).forEach((part) => check.visit(part, value, path, depth + 1)),
    anyOf: (check, { rule, value, path, depth }) => {
        if (!list(rule).some((part) => check.passes(part, value, depth))) check.say(path, "is none of what is allowed");
    },
    oneOf: (check, { rule, value, path, depth }) => {
        if (list(rule).filter((part) => check.passes(part, value, depth)).length !== 1) check.say(path, "is not exactly one of what is allowed");
    },
    not: (check, { rule, value, path, depth }) => {
        if (check.passes(rule, value, depth)) check.say(path, "is what it must not be");
    },
    if: (check, { schema, rule, value, path, depth }) => {
        const then = schema[check.passes(rule, value, depth) ? "then" : "else"];
        if (then !== undefined) check.visit(then, value, path, depth + 1);
    },
};

const FORMATS: Record<string, (text: string) => boolean> = {
    date: (text) => /^\d{4}-\d\d-\d\d$/.test(text) && DateTime.fromISO(text).isValid,
    "date-time": (text) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i.test(text) && DateTime.fromISO(text.toUpperCase()).isValid,
    time: (text) => /^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$/i.test(text),
    email: (text) => /^[^\s@"(),:;<>[\\\]]+@[a-z\d]([a-z\d-]*[a-z\d])?(\.[a-z\d]([a-z\d-]*[a-z\d])?)*$/i.test(text) && !/^\.|\.\.|\.@/.test(text),
    uri: (text) => /^[a-z][a-z\d+.-]*:\S+$/i.test(text),
    url: (text) => /^https?:\/\/\S+$/i.test(text),
    uuid: (text) => /^(urn:uuid:)?[\da-f]{8}-([\da-f]{4}-){3}[\da-f]{12}$/i.test(text),
};

function isOfType(value: unknown, type: unknown): boolean {
    switch (type) {
        case "number":
            return typeof value === "number" && Number.isFinite(value);
        case "integer":
            return Number.isInteger(value);
        case "object":
            return isObject(value);
        case "array":
            return Array.isArray(value);
        case "null":
            return value === null;
        default:
            return typeof value === type;
    }
}

/** For error messages. */
function nameOf(value: unknown): string {
    if (value === null) return "null";
    if (Array.isArray(value)) return "array";
    return typeof value === "number" && !Number.isFinite(value) ? "no finite number" : typeof value;
}

function matches(pattern: string, text: string): boolean {
    try {
        // A pattern of the server's is tried on short texts only: a bad one takes time that grows with the text.
        return text.length <= 1000 && new RegExp(pattern, "u").test(text);
    } catch {
        return false;
    }
}

/** Deep equality of JSON values, whatever the order of keys. */
export function same(a: unknown, b: unknown): boolean {
    if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => same(item, b[i]));
    if (!isObject(a) || !isObject(b)) return a === b;
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [value]);

/**
 * The document schema in what a request block shows: `schema`, or its `document`, as an object or as text.
 * @throws WattError GUARDIAN_NO_SCHEMA
 */
export function schemaOfBlock(block: Record<string, unknown>): Record<string, unknown> {
    let found: unknown = block["schema"];
    if (isObject(found) && found["document"] !== undefined && found["properties"] === undefined) found = found["document"];
    if (typeof found === "string") {
        try {
            found = JSON.parse(found);
        } catch {
            found = undefined;
        }
    }
    if (isObject(found) && isObject(found["properties"])) return found;
    throw new WattError("GUARDIAN_NO_SCHEMA", "The policy's form shows no schema, so no document can be checked: is it a form for documents?");
}
