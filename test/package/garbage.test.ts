import assert from "node:assert/strict";
import fc from "fast-check";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import { loadSource, types } from "./source.js";

const CONFIGS_PER_TYPE = 20;

/** No slash and no dot, so that no garbage names a folder or a host outside the test's own. */
const text = fc.oneof(
    fc.string({ maxLength: 20 }).map((value) => value.replaceAll(/[/.\\\0]/g, "_")),
    fc.constantFrom("", " ", "${WL_NOT_SET}", "NaN", "-1", "1e999", "true", "null", "[object Object]", "__proto__", "ÄÖÜ€", "x".repeat(10_000)),
);
/** @param key Of objects. */
const garbageWith = (key: fc.Arbitrary<string>) => fc.oneof(
    text,
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(null, true, false, [], {}, [null], [[]], { value: null }),
    fc.array(text, { maxLength: 3 }),
    fc.dictionary(key, fc.oneof(text, fc.integer()), { maxKeys: 3 }),
);
const garbage = garbageWith(text);
/** Node-RED itself takes every setting for the id of another node, and cannot start with an object that is no text. */
const garbageSetting = garbageWith(text.filter((key) => !["toString", "valueOf"].includes(key)));

describe("garbage", function () {
    this.timeout(60_000);
    let userDir: string;
    let nodeRed: NodeRed | undefined;

    beforeEach(async () => {
        userDir = await makeUserDir();
    });
    afterEach(async () => {
        await nodeRed?.stop();
        await removeDir(userDir);
    });

    it("in any setting and message ends no Node-RED, throws nothing untold, and delays no deploy", async () => {
        const seed = Date.now();
        const place = { z: "tab", x: 0, y: 0, wires: [] };
        let count = 0;
        const nodes = types.flatMap((type) => {
            const { defaults = {}, category } = loadSource(type).definition;
            const config = fc.record(Object.fromEntries(Object.keys(defaults).map((key) => [key, garbageSetting])), { requiredKeys: [] });
            return fc.sample(config, { numRuns: CONFIGS_PER_TYPE, seed }).map((def) => ({
                ...def,
                ...(category !== "config" && place),
                id: `n${count++}`,
                type,
            }));
        });
        const targets = nodes.filter((node) => "z" in node).map((node) => node.id);
        const messages = fc.sample(fc.record({ payload: garbage, topic: garbage, timestamp: garbage, reading: garbage }, { requiredKeys: [] }), {
            numRuns: 10,
            seed,
        });
        const injects = messages.map((message, i) => ({
            ...place,
            id: `i${i}`,
            type: "inject",
            once: true,
            onceDelay: 0,
            props: Object.entries(message).map(([p, value]) => ({ p, v: JSON.stringify(value), vt: "json" })),
            wires: [targets],
        }));
        const flows = [{ id: "tab", type: "tab" }, ...nodes, ...injects];
        const about = `seed ${seed}`;

        nodeRed = await startNodeRed({ userDir, flows }).catch((error: unknown) => assert.fail(`${about}: ${String(error)}`));
        assert.doesNotMatch(nodeRed.log(), /Waiting for missing types/, about);
        const stopped = nodeRed.logged(/Stopped flows/);
        const response = await fetch(`${nodeRed.url}/flows`, {
            method: "POST",
            headers: { "Content-Type": "application/json", "Node-RED-API-Version": "v2" },
            body: JSON.stringify({ flows: [{ id: "tab", type: "tab" }] }),
        });
        assert.equal(response.status, 200, about);
        await stopped;
        // Node-RED says so after 15 s, our nodes after 2 s.
        assert.doesNotMatch(nodeRed.log(), /Close timed out|Closing took too long/, about);
        assert.doesNotMatch(nodeRed.log(), /(Type|Range|Reference|Syntax)Error|is not a function|Cannot read prop|Unhandled/, about);
        assert.equal(await nodeRed.stop(), 0, about);
    });
});
