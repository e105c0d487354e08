import type { Node, NodeAPI } from "node-red";
import { z } from "zod";
import { WattError } from "./errors.js";
import { isTimeZone } from "./clock.js";

/** An empty dialog field, an unset environment variable (Node-RED leaves its `${NAME}` as it is) and a missing key all mean "use the default". */
function blankToUndefined(value: unknown): unknown {
    return value === null || (typeof value === "string" && /^\s*(\$\{\S+\}\s*)?$/.test(value)) ? undefined : value;
}

/** A number from a dialog: text from `${ENV}` included, blank gives the default. */
export function numberField(options: { min: number; max: number; default: number; integer?: boolean }) {
    const message = `must be ${options.integer ? "a whole number" : "a number"} from ${options.min} to ${options.max}`;
    let schema = z.number({ error: message }).min(options.min, message).max(options.max, message);
    if (options.integer) schema = schema.int(message);
    return z.preprocess((value) => {
        const plain = blankToUndefined(value);
        return typeof plain === "string" ? Number(plain) : plain;
    }, schema.default(options.default));
}

/** A text from a dialog, trimmed, or a number from the environment; blank gives the default, or an error where there is none. */
export function textField(fallback?: string) {
    const text = z.string({ error: ({ input }) => (input === undefined ? "must not be empty" : "must be a text") }).trim();
    return z.preprocess(
        (value) => (typeof value === "number" ? String(value) : blankToUndefined(value)),
        fallback === undefined ? text : text.default(fallback),
    );
}

/** A check box; the texts that environment variables carry are understood. */
export function booleanField(fallback: boolean) {
    return z.preprocess((value) => {
        const plain = blankToUndefined(value);
        if (typeof plain !== "string" && typeof plain !== "number") return plain;
        const text = String(plain).trim().toLowerCase();
        if (["true", "1", "yes", "on"].includes(text)) return true;
        return ["false", "0", "no", "off"].includes(text) ? false : plain;
    }, z.boolean({ error: "must be true or false" }).default(fallback));
}

/** One of a closed list. */
export function choiceField<const T extends readonly [string, ...string[]]>(choices: T, fallback: T[number]) {
    const schema = z.enum(choices, { error: `must be one of ${choices.join(", ")}` });
    return z.preprocess(blankToUndefined, schema.default(fallback as never));
}

/** An IANA time zone. */
export function zoneField(fallback: string) {
    const message = "must be a time zone such as Europe/Berlin";
    return z.preprocess(blankToUndefined, z.string({ error: message }).trim().refine(isTimeZone, message).default(fallback));
}

/**
 * Parses what Node-RED hands a constructor.
 * @throws WattError CONFIG_INVALID that names each field at fault and what it takes.
 */
export function parseConfig<S extends z.ZodType>(schema: S, def: unknown): z.output<S> {
    const result = schema.safeParse(def);
    if (result.success) return result.data;
    const faults = result.error.issues.map((issue) => `${issue.path.join(".") || "config"} ${issue.message}`);
    throw new WattError("CONFIG_INVALID", `Check the settings: ${faults.join("; ")}.`);
}

/**
 * Runs the part of a constructor that needs a valid config: garbage gives one red status and one error on the Catch path,
 * never a throw, so a bad flow cannot put Node-RED in a crash loop.
 */
export function configure(node: Node, build: () => void): void {
    try {
        build();
    } catch (error) {
        const known = error instanceof WattError;
        node.status({ fill: "red", shape: "ring", text: known && error.code === "CONFIG_MISSING" ? error.message : "check settings" });
        // Catch nodes may be built after this one; they hear what is said once the flow has started.
        setImmediate(() => node.error(error instanceof Error ? error : String(error), {}));
    }
}

/**
 * The config node behind an id, typed.
 * @throws WattError CONFIG_MISSING when none is chosen, or it is disabled or of another type.
 */
export function configNode<N extends Node>(RED: NodeAPI, id: unknown, type: string): N {
    const found = typeof id === "string" && id !== "" ? (RED.nodes.getNode(id) as N | null) : null;
    if (!found || found.type !== type) throw new WattError("CONFIG_MISSING", `choose ${/^wl-([aeiou]|mqtt)/.test(type) ? "an" : "a"} ${type.replace(/^wl-/, "")}`);
    return found;
}

/** Fields as a dialog sends them, typed but not deployed: `${ENV}` is replaced as a deploy would. */
export function resolveEnv(RED: NodeAPI, fields: unknown): Record<string, unknown> {
    const resolve = (value: unknown) =>
        typeof value === "string" && value.includes("${") ? (RED.util.evaluateNodeProperty(value, "env", {} as Node, {}) as unknown) : value;
    return Object.fromEntries(Object.entries(fields ?? {}).map(([key, value]) => [key, resolve(value)]));
}

/** True while the flows hold a node, disabled or not: Node-RED's close calls one that is only disabled removed too, and that one comes back. */
export function isPresent(RED: NodeAPI, id: string): boolean {
    let found = false;
    RED.nodes.eachNode((def) => {
        found ||= def.id === id;
    });
    return found;
}
