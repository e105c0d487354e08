/** Remainder of each byte, for the reversed polynomial 0xA001 (Modbus over Serial Line V1.02 §6.2.2). */
const TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
    let rest = byte;
    for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >> 1) ^ 0xa001 : rest >> 1;
    return rest;
});

/** Bytes that the check takes at the end of a frame. */
export const CRC_LENGTH = 2;

/**
 * The CRC of data[start..end), 0..0xffff. An RTU frame carries it low byte first: `frame.writeUInt16LE(crc16(frame, 0, at), at)`.
 * Over a whole frame with its right CRC the result is 0.
 */
export function crc16(data: Uint8Array, start = 0, end = data.length): number {
    let crc = 0xffff;
    for (let i = start; i < end; i++) crc = (crc >> 8) ^ (TABLE[(crc ^ (data[i] as number)) & 0xff] as number);
    return crc;
}
