import { readFileSync } from "node:fs";
import path from "node:path";
import type { Exchange } from "../../dist/simulate/guardian-server.js";
import { nodeRedPath, root } from "../node-red.js";

type Json = Record<string, unknown>;
interface Check {
    (value: unknown): boolean;
    errors?: { instancePath: string; message?: string }[] | null;
}
const Ajv = require(require.resolve("ajv", { paths: [nodeRedPath] })) as new (options: object) => { compile(schema: object): Check; addSchema(schema: object, key: string): void };

export interface Route {
    /** Where the published files of a version state it. */
    section?: Record<string, string>;
    differs?: string;
    only?: string[];
    /** Asked without a session. */
    open?: boolean;
    request?: Json;
    query?: Json;
    headers?: Record<string, Json>;
    responses: Record<string, string | Json>;
}

interface Named {
    section: Record<string, string>;
    differs?: string;
    schema: Json;
}

/** What Guardian publishes of the routes that a client uses. */
export const contract = JSON.parse(readFileSync(path.join(root, "test/fixtures/guardian/contract.json"), "utf8")) as { routes: Record<string, Route>; schemas: Record<string, Named> };

const ajv = new Ajv({ strict: false, allErrors: true });
for (const [name, { schema }] of Object.entries(contract.schemas)) ajv.addSchema(schema, name);
const compiled = new Map<object, Check>();

function against(schema: Json, value: unknown, what: string): string[] {
    let check = compiled.get(schema);
    if (!check) compiled.set(schema, (check = ajv.compile(schema)));
    if (check(value)) return [];
    return (check.errors ?? []).map(({ instancePath, message }) => `${what}${instancePath} ${message}`);
}

const patterns = Object.entries(contract.routes).map(([route, stated]) => {
    const [method = "", where = ""] = route.split(" ");
    return { method, pattern: new RegExp(`^${where.replace(/\{\w+\}/g, "[^/]+")}$`), stated, route };
});

/** Where an exchange is not as the contract has it; empty when all is well. */
export function breaches({ profile, method, path: target, authorization, request, status, headers, response, isFault }: Exchange): string[] {
    const { pathname, searchParams } = new URL(`http://guardian${target}`);
    const found = patterns.find((known) => known.method === method && known.pattern.test(pathname));
    const name = `${method} ${pathname} (${profile}): `;
    if (!found || (found.stated.only && !found.stated.only.includes(profile))) return status === 404 ? [] : [`${name}no such route`];
    const { stated } = found;
    const wrong = against(stated.query ?? { type: "object", additionalProperties: false }, Object.fromEntries(searchParams), "query");
    if (!stated.open && !/^Bearer \S+$/.test(authorization ?? "")) wrong.push("no bearer token");
    if (stated.request && status !== 413) wrong.push(...against(stated.request, request, "request"));
    if (isFault) return wrong.map((text) => name + text);
    const answer = stated.responses[String(status)];
    const { only, ...schema } = typeof answer === "string" ? { $ref: answer } : (answer ?? {});
    if (answer === undefined || (Array.isArray(only) && !only.includes(profile))) wrong.push(`no status ${status}`);
    else {
        wrong.push(...against(schemaOf(answer, schema), response, "response"));
        wrong.push(...against(stated.headers?.[String(status)] ?? {}, headers, "headers"));
    }
    return wrong.map((text) => name + text);
}

const known = new Map<unknown, Json>();
/** One object for each statement, so that it is compiled once. */
function schemaOf(answer: unknown, schema: Json): Json {
    const key = typeof answer === "string" ? answer : (answer as object);
    const found = known.get(key);
    if (found) return found;
    known.set(key, schema);
    return schema;
}
