import { crc32 } from "node:zlib";
import type { SpoolRecord } from "./delivery.js";

/*
 * A record on disk, little endian: magic 4 | version 1 | zero 3 | body length 4 | crc32 4 | first seq 8 | count 4 | body.
 * The crc covers all but itself. Every version keeps this frame, so that an older program steps over a newer record.
 */
const MAGIC = Buffer.from("WLsp");
const VERSION = 1;
export const HEADER_BYTES = 28;
/** No record is longer; a length beyond it is damage. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024;

/** The frame that precedes the body on disk. */
export function encodeHeader(record: SpoolRecord, version = VERSION): Buffer {
    const header = Buffer.alloc(HEADER_BYTES);
    MAGIC.copy(header);
    header.writeUInt8(version, 4);
    header.writeUInt32LE(record.body.length, 8);
    header.writeBigUInt64LE(BigInt(record.seq), 16);
    header.writeUInt32LE(record.count, 24);
    header.writeUInt32LE(checksum(header, record.body), 12);
    return header;
}

export type Parsed =
    | { kind: "record"; record: SpoolRecord; end: number }
    /** Intact, but of a version this program does not know. */
    | { kind: "unknown"; seq: number; count: number; end: number }
    /** Bytes that are no record; the next one, or the end of the file, is at `end`. */
    | { kind: "damaged"; end: number }
    /** The bytes end before this record does: read more. */
    | { kind: "more" };

/**
 * Reads the record at `at`. `final` says that the file ends where the buffer does; then a record cut short is damage.
 * Bodies are views of the buffer.
 */
export function parseRecord(buffer: Buffer, at: number, final: boolean): Parsed {
    const here = parseAt(buffer, at);
    if (here.kind !== "damaged" && (here.kind !== "more" || !final)) return here;
    // Lost the frame: the next magic whose checksum fits is a record again.
    for (let next = buffer.indexOf(MAGIC, at + 1); next >= 0; next = buffer.indexOf(MAGIC, next + 1)) {
        const found = parseAt(buffer, next);
        if (found.kind === "record" || found.kind === "unknown") return { kind: "damaged", end: next };
        if (found.kind === "more" && !final) return found;
    }
    return final ? { kind: "damaged", end: buffer.length } : { kind: "more" };
}

function parseAt(buffer: Buffer, at: number): Parsed {
    const left = buffer.length - at;
    if (MAGIC.compare(buffer, at, at + Math.min(4, left), 0, Math.min(4, left)) !== 0) return { kind: "damaged", end: at };
    if (left < HEADER_BYTES) return { kind: "more" };
    const length = buffer.readUInt32LE(at + 8);
    if (length > MAX_BODY_BYTES) return { kind: "damaged", end: at };
    const end = at + HEADER_BYTES + length;
    if (end > buffer.length) return { kind: "more" };
    const body = buffer.subarray(at + HEADER_BYTES, end);
    if (buffer.readUInt32LE(at + 12) !== checksum(buffer.subarray(at, at + HEADER_BYTES), body)) return { kind: "damaged", end: at };
    const seq = Number(buffer.readBigUInt64LE(at + 16));
    const count = buffer.readUInt32LE(at + 24);
    if (buffer.readUInt8(at + 4) !== VERSION) return { kind: "unknown", seq, count, end };
    return { kind: "record", record: { seq, count, body }, end };
}

function checksum(header: Buffer, body: Buffer): number {
    return crc32(body, crc32(header.subarray(16), crc32(header.subarray(0, 12))));
}
