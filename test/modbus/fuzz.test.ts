import assert from "node:assert/strict";
import { fuzz } from "./fuzz.js";

const EXCHANGES = 25_000;

describe("100,000 hostile answers, whole or in pieces", function () {
    this.timeout(120_000);
    for (const kind of ["tcp", "rtutcp", "rtu", "udp"] as const) {
        it(`${kind}: none is taken wrongly, and every request settles in time`, async () => {
            const seed = Date.now() >>> 0;
            const { exchanges, right, errors } = await fuzz(kind, EXCHANGES, seed);
            assert.equal(exchanges, EXCHANGES);
            assert.ok(right > EXCHANGES / 5 && right < EXCHANGES * 0.9, `seed ${seed}: ${right} right of ${exchanges}, ${JSON.stringify(errors)}`);
        });
    }
});
