import assert from "node:assert/strict";
import fc from "fast-check";
import { crc16 } from "../../dist/modbus/crc.js";

describe("crc16", () => {
    it("gives what others give", () => {
        const cases: [string, string][] = [
            // CRC-16/MODBUS of the catalogue of parametrised CRCs: check value 0x4B37.
            [Buffer.from("123456789").toString("hex"), "374b"],
            // Modbus over Serial Line V1.02, §6.2.2.
            ["0207", "4112"],
            ["01030000000a", "c5cd"],
            ["1103006b0003", "7687"],
            ["", "ffff"],
        ];
        for (const [bytes, crc] of cases) {
            const low = Buffer.alloc(2);
            low.writeUInt16LE(crc16(Buffer.from(bytes, "hex")));
            assert.equal(low.toString("hex"), crc, bytes);
        }
    });

    it("is 0 over a whole frame, and not once a bit or two are wrong", () => {
        fc.assert(
            fc.property(fc.uint8Array({ minLength: 2, maxLength: 254 }), fc.nat(), fc.nat(), (body, one, other) => {
                const frame = Buffer.concat([body, Buffer.alloc(2)]);
                frame.writeUInt16LE(crc16(frame, 0, body.length), body.length);
                assert.equal(crc16(frame), 0);
                const [first, second] = [one % (8 * frame.length), other % (8 * frame.length)];
                const flip = (bit: number) => (frame[bit >> 3]! ^= 1 << (bit & 7));
                flip(first);
                assert.notEqual(crc16(frame), 0);
                if (first === second) return;
                flip(second);
                assert.notEqual(crc16(frame), 0);
            }),
        );
    });
});
