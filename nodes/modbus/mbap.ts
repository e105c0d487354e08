import { parseAnswer, pduLength, writePdu } from "./pdu.js";
import { type Framing, ModbusError, type ModbusRequest } from "./transport.js";

/** Transaction, protocol, length, unit (Modbus Messaging on TCP/IP Implementation Guide V1.0b §3.1.3). */
const HEADER_LENGTH = 7;
/** Bytes up to and with the length field; it counts what follows it. */
const PREFIX_LENGTH = 6;
/** Unit, function and at least one byte; unit and the longest PDU, 253 bytes. */
const MIN_LENGTH = 3;
const MAX_LENGTH = 254;

const NOTHING = Buffer.alloc(0);

/**
 * Modbus TCP framing for one connection, strict. A wrong protocol id, length, unit, function or byte count, or an answer to
 * what was never asked, ends it: once the peer's bytes are out of step, the next one could pass for another's answer.
 * Answers to transactions that were given up, and repeated answers, are dropped.
 */
export class MbapFraming implements Framing {
    readonly resyncs: boolean = false;
    protected transaction = 0;
    private sent = 0;
    private awaited: ModbusRequest | undefined;
    private checkUnit = true;
    private rest: Buffer = NOTHING;

    encode(request: ModbusRequest, checkUnit: boolean): Buffer {
        this.transaction = (this.transaction + 1) & 0xffff;
        this.sent++;
        this.awaited = request;
        this.checkUnit = checkUnit;
        const length = pduLength(request);
        const frame = Buffer.allocUnsafe(HEADER_LENGTH + length);
        frame.writeUInt16BE(this.transaction, 0);
        frame.writeUInt16BE(0, 2);
        frame.writeUInt16BE(1 + length, 4);
        frame[PREFIX_LENGTH] = request.unit;
        writePdu(frame, HEADER_LENGTH, request);
        return frame;
    }

    receive(chunk: Buffer): Buffer | ModbusError | undefined {
        const data = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
        let answer: Buffer | ModbusError | undefined;
        let at = 0;
        while (data.length - at >= PREFIX_LENGTH) {
            const protocol = data.readUInt16BE(at + 2);
            if (protocol !== 0) throw broken(`protocol id ${protocol} instead of 0`);
            const length = data.readUInt16BE(at + 4);
            if (length < MIN_LENGTH || length > MAX_LENGTH) throw broken(`a frame length of ${length}`);
            const end = at + PREFIX_LENGTH + length;
            if (end > data.length) break;
            answer = this.take(data, at, end) ?? answer;
            at = end;
        }
        this.rest = at === data.length ? NOTHING : data.subarray(at);
        return answer;
    }

    abandon(): ModbusError | undefined {
        this.awaited = undefined;
        return this.rest.length === 0 ? undefined : broken(`it stopped after ${this.rest.length} bytes`);
    }

    protected take(data: Buffer, at: number, end: number): Buffer | ModbusError | undefined {
        const transaction = data.readUInt16BE(at);
        const behind = (this.transaction - transaction) & 0xffff;
        const request = this.awaited;
        if (behind !== 0 || !request) {
            if (behind < this.sent) return undefined;
            throw broken(`transaction ${transaction}, which was never asked`);
        }
        const unit = data[at + PREFIX_LENGTH];
        if (this.checkUnit && unit !== request.unit) {
            throw broken(`unit ${unit} instead of ${request.unit}; if the gateway always does so, switch off the check of unit ids`);
        }
        this.awaited = undefined;
        return parseAnswer(data, at + HEADER_LENGTH, end, request);
    }
}

/**
 * Modbus in UDP datagrams, each exactly one frame with the header of Modbus TCP. Nothing gets out of step, so datagrams that are no
 * frame or answer another transaction, late and repeated ones, are dropped.
 */
export class DatagramFraming extends MbapFraming {
    override readonly resyncs = true;
    /** What came since the request and is no frame. */
    private odd: ModbusError | undefined;

    override encode(request: ModbusRequest, checkUnit: boolean): Buffer {
        this.odd = undefined;
        return super.encode(request, checkUnit);
    }

    override receive(datagram: Buffer): Buffer | ModbusError | undefined {
        const { length } = datagram;
        const isFrame = length >= PREFIX_LENGTH + MIN_LENGTH && datagram.readUInt16BE(2) === 0 && PREFIX_LENGTH + datagram.readUInt16BE(4) === length;
        if (!isFrame) this.odd = broken(`a datagram of ${length} bytes that is no frame`);
        return isFrame && datagram.readUInt16BE(0) === this.transaction ? this.take(datagram, 0, length) : undefined;
    }

    override abandon(): ModbusError | undefined {
        super.abandon();
        return this.odd;
    }
}

function broken(what: string): ModbusError {
    return new ModbusError("MODBUS_FRAME", `Not a Modbus TCP answer: ${what}.`);
}
