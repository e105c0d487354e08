import assert from "node:assert/strict";
import { fuzz } from "../../modbus/fuzz.js";

const EXCHANGES = 250_000;

describe("1,000,000 hostile answers, whole or in pieces", function () {
    this.timeout(600_000);
    for (const kind of ["tcp", "rtutcp", "rtu", "udp"] as const) {
        it(`${kind}: none of ${EXCHANGES} is taken wrongly, and every request settles in time`, async () => {
            const { exchanges, right } = await fuzz(kind, EXCHANGES, Date.now() >>> 0);
            assert.equal(exchanges, EXCHANGES);
            assert.ok(right > EXCHANGES / 5, `only ${right} right`);
        });
    }
});
