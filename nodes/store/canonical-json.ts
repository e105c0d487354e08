import { WattError } from "../common/errors.js";

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
    [key: string]: Json;
}

/** Deeper nesting is refused, so that no input ends the process by its depth. */
const MAX_DEPTH = 100;

/**
 * The one text of a value in RFC 8785 (JCS): keys sorted by UTF-16 code units, numbers and strings as ECMAScript writes them.
 * `-0` becomes 0. Whole numbers beyond 2^53 are inexact before they come here: carry them as text.
 * @throws WattError JSON_NOT_CANONICAL for NaN, infinities, lone surrogates, undefined, bigint,
 * functions, other classes than plain objects and arrays, cycles.
 */
export function canonicalJson(value: unknown): string {
    return write(value, 0);
}

/**
 * Reads a text that must be in canonical form to the byte: duplicate keys, other spellings of a number and white space are refused.
 * @throws WattError JSON_NOT_CANONICAL
 */
export function parseCanonicalJson(text: string): Json {
    let value: Json;
    try {
        value = JSON.parse(text) as Json;
    } catch (error) {
        throw new WattError("JSON_NOT_CANONICAL", "The text is not JSON.", { cause: error });
    }
    if (canonicalJson(value) !== text) throw refuse("the text is JSON, but not in the canonical form of RFC 8785");
    return value;
}

function write(value: unknown, depth: number): string {
    if (depth > MAX_DEPTH) throw refuse(`it is nested deeper than ${MAX_DEPTH}, or contains itself`);
    switch (typeof value) {
        case "string":
            return writeString(value);
        case "number":
            return writeNumber(value);
        case "boolean":
            return String(value);
        case "object":
            return value === null ? "null" : writeObject(value, depth);
        default:
            throw refuse(`it holds ${typeof value === "undefined" ? "undefined" : `a ${typeof value}`}`);
    }
}

function writeString(value: string): string {
    // With the u flag only a lone surrogate is one.
    if (/\p{Surrogate}/u.test(value)) throw refuse("a text holds half of a surrogate pair");
    // ECMAScript's own escapes are those of RFC 8785 §3.2.2.2.
    return JSON.stringify(value);
}

function writeNumber(value: number): string {
    if (!Number.isFinite(value)) throw refuse(`it holds ${value}`);
    return JSON.stringify(value);
}

function writeObject(value: object, depth: number): string {
    if (Array.isArray(value)) return `[${value.map((item) => write(item, depth + 1)).join(",")}]`;
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) throw refuse("it holds an object that is not plain");
    // The default order of toSorted is that of UTF-16 code units.
    const members = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
    return `{${members.map(([key, item]) => `${writeString(key)}:${write(item, depth + 1)}`).join(",")}}`;
}

function refuse(why: string): WattError {
    return new WattError("JSON_NOT_CANONICAL", `The value cannot be written as canonical JSON: ${why}.`);
}
