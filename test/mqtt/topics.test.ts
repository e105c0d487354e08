import assert from "node:assert/strict";
import fc from "fast-check";
import { coverOf, covers, filterFault, subscriptionIdentifier, matches, shareFault, topicFault } from "../../dist/mqtt/topics.js";

const level = fc.constantFrom("a", "b", "", "$x");
const topic = fc.array(level, { minLength: 1, maxLength: 4 }).map((levels) => levels.join("/"));
const filter = fc
    .tuple(fc.array(fc.oneof(level, fc.constant("+")), { maxLength: 4 }), fc.boolean())
    .filter(([levels, hash]) => levels.length > 0 || hash)
    .map(([levels, hash]) => [...levels, ...(hash ? ["#"] : [])].join("/"));

/** What a filter selects, as a regular expression: written another way than the code. */
function oracle(of: string, text: string): boolean {
    if (text.startsWith("$") && /^[+#]/.test(of)) return false;
    const source = of.replaceAll("$", "\\$").replaceAll("+", "[^/]*").replace(/^#$/, ".*").replace(/\/#$/, "(/.*)?");
    return new RegExp(`^${source}$`).test(text);
}

describe("MQTT topics", () => {
    it("match as the standard says", () => {
        // The examples of MQTT 3.1.1 §4.7.
        for (const [of, text, expected] of [
            ["sport/tennis/player1/#", "sport/tennis/player1", true],
            ["sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true],
            ["sport/tennis/+", "sport/tennis/player1/ranking", false],
            ["sport/+", "sport", false],
            ["sport/+", "sport/", true],
            ["+/+", "/finance", true],
            ["/+", "/finance", true],
            ["+", "/finance", false],
            ["#", "$SYS/uptime", false],
            ["+/monitor/Clients", "$SYS/monitor/Clients", false],
            ["$SYS/#", "$SYS/uptime", true],
        ] as const) {
            assert.equal(matches(of, text), expected, `${of} ${text}`);
        }
        fc.assert(fc.property(filter, topic, (of, text) => matches(of, text) === oracle(of, text)), { numRuns: 2_000 });
    });

    it("cover each other only where every topic of one is one of the other", () => {
        fc.assert(fc.property(filter, filter, topic, (wide, narrow, text) => !covers(wide, narrow) || !matches(narrow, text) || matches(wide, text)), { numRuns: 5_000 });
        assert.deepEqual([covers("a/#", "a"), covers("a", "a/#"), covers("a/+", "a/#"), covers("#", "+/a"), covers("#", "$SYS/#")], [true, false, false, true, false]);
    });

    it("are subscribed without those within others, and none is lost", () => {
        fc.assert(
            fc.property(fc.array(filter, { maxLength: 6 }), topic, (filters, text) => {
                const cover = coverOf(filters);
                assert.equal(cover.some((of) => matches(of, text)), filters.some((of) => matches(of, text)));
                for (const one of cover) assert.ok(!cover.some((other) => other !== one && covers(other, one)));
            }),
            { numRuns: 2_000 },
        );
        assert.deepEqual(coverOf(["a/b", "a/+", "a/+", "c", "a/#"]), ["c", "a/#"]);
    });

    it("that are none are said to be", () => {
        for (const of of ["", "a/#/b", "a#", "a+/b", "a\0", "$share/g/t", "x".repeat(65_536)]) assert.ok(filterFault(of), of.slice(0, 20));
        fc.assert(fc.property(filter, (of) => of === "" || filterFault(of) === undefined));
        assert.ok(topicFault("a/+") && topicFault("#") && topicFault(""));
        assert.equal(topicFault("a/b"), undefined);
        assert.ok(shareFault("") && shareFault("a/b") && shareFault("+"));
        assert.equal(shareFault("ingest"), undefined);
    });

    it("of a share group have a number that stays", () => {
        assert.deepEqual([subscriptionIdentifier(undefined), subscriptionIdentifier("ingest")], [1, subscriptionIdentifier("ingest")]);
        fc.assert(fc.property(fc.string(), (group) => subscriptionIdentifier(group) >= 2 && subscriptionIdentifier(group) <= 268_435_455));
    });
});
