import assert from "node:assert/strict";

export interface ParsedLine {
    measurement: string;
    tags: Record<string, string>;
    fields: Record<string, number | string | boolean>;
    timestamp: number;
}

/**
 * A strict reader of one line of line protocol as InfluxDB documents it: a backslash escapes a comma, a space and (in keys and
 * tag values) an equals sign and nothing else; in quoted texts a quote and a backslash. Anything doubtful is an error, because
 * InfluxDB 1, 2 and 3 read it differently.
 */
export function parseLine(line: string): ParsedLine {
    assert.doesNotMatch(line, /\p{Cc}/u, "a control character in a line");
    assert.doesNotMatch(line, /^#/, "the line is a comment");
    let at = 0;
    const take = (end: RegExp, escapable: RegExp): string => {
        let value = "";
        while (at < line.length && !end.test(line[at]!)) {
            if (line[at] === "\\") {
                assert.match(line[at + 1] ?? "", escapable, `a backslash before ${line[at + 1]} at ${at} of ${line}`);
                at += 1;
            }
            value += line[at++];
        }
        assert.notEqual(value, "", `nothing at ${at} of ${line}`);
        return value;
    };
    const expect = (character: string): void => assert.equal(line[at++], character, `at ${at} of ${line}`);

    const parsed: ParsedLine = { measurement: take(/[, ]/, /[, ]/), tags: {}, fields: {}, timestamp: NaN };
    const keys: string[] = [];
    while (line[at] === ",") {
        at += 1;
        const key = take(/[=, ]/, /[=, ]/);
        expect("=");
        assert.ok(!(key in parsed.tags), `tag ${key} twice`);
        parsed.tags[key] = take(/[=, ]/, /[=, ]/);
        keys.push(key);
    }
    assert.deepEqual(keys, keys.toSorted(), "tags are sorted");
    do {
        at += 1;
        const key = take(/[=, ]/, /[=, ]/);
        expect("=");
        assert.ok(!(key in parsed.fields) && !(key in parsed.tags), `column ${key} twice`);
        assert.notEqual(key, "time");
        parsed.fields[key] = takeValue();
    } while (line[at] === ",");
    expect(" ");
    const time = line.slice(at);
    assert.match(time, /^\d+$/);
    parsed.timestamp = Number(time);
    return parsed;

    function takeValue(): number | string | boolean {
        if (line[at] === '"') {
            at += 1;
            let value = "";
            while (line[at] !== '"') {
                assert.ok(at < line.length, `an open quote in ${line}`);
                if (line[at] === "\\") {
                    assert.match(line[at + 1] ?? "", /["\\]/);
                    at += 1;
                }
                value += line[at++];
            }
            at += 1;
            return value;
        }
        const raw = take(/[, ]/, /$^/);
        if (raw === "true" || raw === "false") return raw === "true";
        assert.match(raw, /^-?\d+(\.\d+)?(e[+-]\d+)?$/, "a float in plain or exponent form, never an integer with i");
        return Number(raw);
    }
}

/** Undoes the encoder's `%XX`. */
export function decodePercent(value: string): string {
    return value.replace(/%([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}
