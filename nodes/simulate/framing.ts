import { crc16, CRC_LENGTH } from "../modbus/crc.js";

/** How requests and answers are packed on a server's connection. */
export interface ServerFraming {
    /** Bytes before the PDU, the unit last of them, and behind it. */
    readonly head: number;
    readonly tail: number;
    /** What an absent unit gives: a gateway says so, on a bus nobody answers. */
    readonly absent: "exception" | "silence";
    /** Where the frame that begins at `at` ends; "more" while it is not whole, "broken" when nothing after it can be trusted. */
    end(data: Buffer, at: number): number | "more" | "broken";
    /** Completes an answer that has its unit and PDU. */
    seal(answer: Buffer, request: Buffer): void;
}

/** Transaction id, protocol id, length, unit (Modbus Messaging on TCP/IP V1.0b §3.1.3). */
const HEADER = 7;
const MAX_PDU = 253;

export const MBAP: ServerFraming = {
    head: HEADER,
    tail: 0,
    absent: "exception",
    end(data, at) {
        if (data.length - at < HEADER) return "more";
        const length = data.readUInt16BE(at + 4);
        if (data.readUInt16BE(at + 2) !== 0 || length < 2 || length > MAX_PDU + 1) return "broken";
        const end = at + 6 + length;
        return end > data.length ? "more" : end;
    },
    seal(answer, request) {
        request.copy(answer, 0, 0, 2);
        answer.writeUInt16BE(0, 2);
        answer.writeUInt16BE(answer.length - 6, 4);
    },
};

/** Unit, PDU, CRC (Modbus over Serial Line V1.02 §2.5.1). */
const MAX_ADU = 256;

/**
 * RTU frames over TCP, as a serial device server passes them on. They carry no length, so the function code tells it; the silence
 * that ends a frame on a wire is lost on the way.
 */
export const RTU: ServerFraming = {
    head: 1,
    tail: CRC_LENGTH,
    absent: "silence",
    end(data, at) {
        const there = data.length - at;
        const length = there < 2 ? undefined : requestLength(data, at);
        if (length === 0) return "broken";
        if (length !== undefined && length <= there) return crc16(data, at, at + length) === 0 ? at + length : "broken";
        return there >= MAX_ADU ? "broken" : "more";
    },
    seal(answer) {
        const at = answer.length - CRC_LENGTH;
        answer.writeUInt16LE(crc16(answer, 0, at), at);
    },
};

/** Bytes of a whole request frame (Modbus Application Protocol V1.1b3 §6); undefined while its byte count is not there yet. */
function requestLength(data: Buffer, at: number): number | undefined {
    /** A frame with so many bytes before its byte count, and so many as that says behind it. */
    const counted = (before: number) => {
        const count = data[at + before];
        return count === undefined ? undefined : within(before + 1 + count + CRC_LENGTH);
    };
    switch (data[at + 1]) {
        case 1: case 2: case 3: case 4: case 5: case 6: case 8:
            return 8;
        case 7: case 11: case 12: case 17:
            return 4;
        case 15: case 16:
            return counted(6);
        case 20: case 21:
            return counted(2);
        case 22:
            return 10;
        case 23:
            return counted(10);
        case 24:
            return 6;
        default:
            return byCrc(data, at);
    }
}

function within(length: number): number {
    return length <= MAX_ADU ? length : 0;
}

/** A function of unknown length ends where its CRC is right. */
function byCrc(data: Buffer, at: number): number | undefined {
    const most = Math.min(MAX_ADU, data.length - at);
    for (let length = 4; length <= most; length++) if (crc16(data, at, at + length) === 0) return length;
    return undefined;
}
