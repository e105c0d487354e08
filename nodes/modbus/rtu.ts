import { type Clock, systemClock } from "../common/clock.js";
import { crc16, CRC_LENGTH } from "./crc.js";
import { answerLength, dataBytes, functionOf, isBits, isWrite, parseAnswer, pduLength, writePdu } from "./pdu.js";
import { type ExchangeOptions, type Framing, ModbusError, type ModbusRequest, type ReadRequest, type Table, type Transport } from "./transport.js";

/** Unit, function, exception code, check: no frame is shorter. */
const EXCEPTION_LENGTH = 5;
/** Noise of fewer bytes is no frame: many RS485 drivers send one as they switch. */
const NOISE_LENGTH = 5;
/** Of any write's answer, before the check: unit, function, address, and value or quantity. */
const CONFIRMATION_LENGTH = 6;

/** After this long, ms, no answer to an earlier request is expected any more. */
const STRAY_MS = 30_000;

/** So many reads of different lengths are thought of to tell a late answer from a new one. */
const MOST_FENCES = 4;

/** After so many of them a request is given up. */
const MOST_TRIES = 8;

/** Silence that ends a disturbance, ms. */
const DRAIN_MS = 50;
/** Silence between frames, characters; above 19200 bit/s a fixed time, ms (Modbus over Serial Line V1.02 §2.5.1.1). */
const GAP_CHARACTERS = 3.5;
const GAP_MS = 1.75;

const NOTHING = Buffer.alloc(0);

/** A request whose answer may still come. */
interface Stray {
    signature: number;
    until: number;
}

/**
 * Answers that may still come although nobody awaits them. RTU frames carry no transaction: an answer fits every request of the
 * same unit, function and byte count. Kept for an endpoint, whatever connections come and go.
 */
export class Strays {
    /** By unit, in the order they were sent. */
    private readonly units = new Map<number, Stray[]>();

    add(request: ModbusRequest, now: number): void {
        const strays = this.of(request, now);
        this.units.set(request.unit, [...strays, { signature: signature(request), until: now + STRAY_MS }]);
    }

    /** The answer to an earlier request could pass for one to this. */
    threaten(request: ModbusRequest, now: number): boolean {
        if (!this.units.has(request.unit)) return false;
        const mine = signature(request);
        return this.of(request, now).some((stray) => stray.signature === mine);
    }

    /**
     * A unit works off its requests in order. The answer that came may be the earliest that is expected of its kind; then this
     * request's own is still to come. All that were sent before are over.
     */
    answered(request: ModbusRequest, isRefusal: boolean, now: number): void {
        if (!this.units.has(request.unit)) return;
        const strays = this.of(request, now);
        const mine = signature(request);
        const earliest = strays.findIndex(({ signature: other }) => (isRefusal ? other >> 8 === mine >> 8 : other === mine));
        this.units.delete(request.unit);
        if (earliest < 0) return;
        this.units.set(request.unit, strays.slice(earliest + 1));
        this.add(request, now);
    }

    private of({ unit }: ModbusRequest, now: number): Stray[] {
        return (this.units.get(unit) ?? []).filter(({ until }) => until > now);
    }
}

/** Function and byte count in one number. */
function signature(request: ModbusRequest): number {
    return (functionOf(request) << 8) | (isWrite(request) ? 0 : dataBytes(request));
}

/**
 * RTU framing (Modbus over Serial Line V1.02 §2.5.1), strict: takes a frame with the unit, function and byte count that were asked
 * and the right check, wherever it begins, and nothing else. What is no such frame is skipped: noise, the echo of our own request
 * on an RS485 line, other units' frames, answers that are longer or shorter.
 *
 * Why this and MbapFraming are our own, and not modbus-serial's: the library brings native code with an install script
 * (serialport, as an optional dependency), and returns wrong values as success. Measured with version 8.0.25: after a late reply
 * its RTU over TCP hands each later read the registers of the one before, for good (its buffered RTU on a serial port once); 400
 * requests at once on TCP gave 144 of them another's registers, since transactions wrap at 256; an answer whose byte count is too
 * large comes with its check as an additional register; and requests that are pending when the connection is destroyed never settle.
 */
export class RtuFraming implements Framing {
    readonly resyncs = true;
    /** When the line was last heard, or gave up on, monotonic ms. */
    heardAt = -Infinity;
    /** Something came or failed that was not expected: drain the line before the next request. */
    disturbed = true;
    private awaited: ModbusRequest | undefined;
    private last: ModbusRequest | undefined;
    private sent: Buffer = NOTHING;
    private rest: Buffer = NOTHING;
    /** Bytes since the request that were not its echo. */
    private heard = 0;
    /** Bytes since the answer. */
    private unasked = 0;
    /** The echo of this request has passed, or none will come. */
    private echoed = false;
    /** Whether this line returns what we send, as the last read showed; unknown before the first, and after noise. */
    private echoes: boolean | undefined;

    constructor(
        private readonly strays: Strays,
        private readonly clock: Clock = systemClock,
    ) {}

    /** The unit is always checked: it is all that tells devices apart. */
    encode(request: ModbusRequest): Buffer {
        const length = 1 + pduLength(request);
        const frame = Buffer.allocUnsafe(length + CRC_LENGTH);
        frame[0] = request.unit;
        writePdu(frame, 1, request);
        frame.writeUInt16LE(crc16(frame, 0, length), length);
        this.awaited = request;
        this.last = request;
        this.sent = frame;
        this.rest = NOTHING;
        this.heard = 0;
        this.unasked = 0;
        this.echoed = isSingleWrite(request) && this.echoes === false;
        return frame;
    }

    receive(chunk: Buffer): Buffer | ModbusError | undefined {
        this.heardAt = this.clock.monotonic();
        const request = this.awaited;
        if (!request) {
            this.overhear(chunk.length);
            return undefined;
        }
        this.heard += chunk.length;
        const data = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
        let at = 0;
        for (; at < data.length; at++) {
            if (!this.echoed && startsAlike(data, at, this.sent)) {
                if (data.length - at < this.sent.length) break;
                this.echoed = true;
                this.heard -= this.sent.length;
                at += this.sent.length - 1;
                continue;
            }
            const end = this.endOf(data, at, request);
            if (end > data.length) break;
            if (end > at && crc16(data, at, end) === 0) return this.take(data, at, end, request);
        }
        this.rest = data.subarray(at);
        return undefined;
    }

    abandon(): ModbusError | undefined {
        const request = this.awaited;
        if (!request) return undefined;
        this.awaited = undefined;
        this.disturb();
        this.strays.add(request, this.clock.monotonic());
        return this.heard > 0 ? broken(request, `${this.heard} bytes came, but no whole answer: check baud rate, parity, wiring and termination`) : undefined;
    }

    /** Makes the next request wait until the line is silent. */
    disturb(): void {
        this.disturbed = true;
        this.heardAt = this.clock.monotonic();
    }

    /**
     * A read to be sent before a request whose answer could be mistaken for an earlier one's, or, for a write of one value, for its
     * own echo. Its answer, data or refusal, has another function or byte count than those that are still expected, as far as there
     * are such; once it is there, so are all earlier ones, since a unit works off its requests in order. It reads no address that
     * the request does not name.
     */
    fence(request: ModbusRequest): ReadRequest | undefined {
        const now = this.clock.monotonic();
        const isEchoUnknown = this.echoes === undefined && isSingleWrite(request);
        if (!isEchoUnknown && !this.strays.threaten(request, now)) return undefined;
        const { unit, address, table } = request;
        const step = isBits(table) ? 8 : 1;
        const fences: ReadRequest[] = [];
        for (let quantity = 1; fences.length < MOST_FENCES && quantity <= (isWrite(request) ? 1 : request.quantity); quantity += step) {
            const fence: ReadRequest = { unit, address, table, quantity };
            if (isWrite(request) || dataBytes(fence) < dataBytes(request)) fences.push(fence);
        }
        fences.push({ unit, address, table: OTHER[table], quantity: 1 });
        return fences.find((fence) => !this.strays.threaten(fence, now)) ?? fences[0];
    }

    /** Where the frame that begins at `at` ends if it is the awaited one; `at` itself if it is another. */
    private endOf(data: Buffer, at: number, request: ModbusRequest): number {
        const asked = functionOf(request);
        const code = data[at + 1] ?? asked;
        const third = data[at + 2];
        if (data[at] !== request.unit) return at;
        if (code === (asked | 0x80)) return third === 0 ? at : at + EXCEPTION_LENGTH;
        if (code !== asked) return at;
        const isAsked = isWrite(request) ? startsAlike(data, at, this.sent, CONFIRMATION_LENGTH) : third === undefined || third === dataBytes(request);
        return isAsked ? at + 1 + answerLength(request) + CRC_LENGTH : at;
    }

    /** @throws ModbusError MODBUS_FRAME when something else follows at once: then either could be the answer. */
    private take(data: Buffer, at: number, end: number, request: ModbusRequest): Buffer | ModbusError {
        const answer = parseAnswer(data, at + 1, end - CRC_LENGTH, request);
        const more = data.length - end;
        const isTwice = startsAlike(data, end, data.subarray(at, end)) && more <= end - at;
        if (more >= NOISE_LENGTH && !isTwice) throw broken(request, `${more} bytes follow it`);
        this.awaited = undefined;
        this.rest = NOTHING;
        // What is as long as an echo may be a broken one.
        const isClean = this.heard - (data.length - at) < NOISE_LENGTH;
        if (!isWrite(request)) this.echoes = this.echoed || (isClean ? false : undefined);
        this.strays.answered(request, answer instanceof ModbusError, this.heardAt);
        this.overhear(more);
        return answer;
    }

    private overhear(bytes: number): void {
        this.unasked += bytes;
        if (this.unasked < NOISE_LENGTH) return;
        this.disturb();
        if (this.last) this.strays.add(this.last, this.heardAt);
    }
}

/** The table whose answers look alike but for their function. */
const OTHER: Record<Table, Table> = { holding: "input", input: "holding", coil: "discrete", discrete: "coil" };

/** Functions 5 and 6: their answer is the request itself (V1.1b3 §6.5, §6.6). */
function isSingleWrite(request: ModbusRequest): boolean {
    return isWrite(request) && functionOf(request) <= 6;
}

/** What data holds from `at` on is, as far as it goes, what `frame` begins with. */
function startsAlike(data: Buffer, at: number, frame: Buffer, length = frame.length): boolean {
    const end = Math.min(data.length - at, length);
    for (let i = 0; i < end; i++) if (data[at + i] !== frame[i]) return false;
    return true;
}

function broken(request: ModbusRequest, why: string): ModbusError {
    return new ModbusError("MODBUS_FRAME", `Unit ${request.unit} sent no RTU answer that can be trusted: ${why}.`);
}

export interface RtuOptions {
    framing: RtuFraming;
    /** What carries the frames, with the same framing. */
    wire: Transport;
    clock?: Clock;
    /** Time of one character on a serial line, ms; 0 where a bridge keeps the times. */
    characterMs?: number;
}

/** The silence between two frames on an RTU line, ms. */
export function frameGapMs(characterMs: number): number {
    return characterMs === 0 ? 0 : Math.max(GAP_MS, GAP_CHARACTERS * characterMs);
}

/**
 * Keeps an RTU line in step. Before every request the line is silent for the time between frames. After a timeout, a broken frame
 * or bytes nobody asked for, it is drained first: silent for 3.5 characters or 50 ms, whichever is longer; and a request that an
 * earlier answer could still pass for is preceded by a read that such an answer cannot pass for (RtuFraming.fence). That holds for
 * 30 s after the earlier request, over new connections too: a bridge or serial adapter delivers to whoever is connected.
 * A request settles within three times its timeout at the latest, beside the time on the line.
 */
export class RtuTransport implements Transport {
    private readonly clock: Clock;
    private readonly characterMs: number;
    private readonly gapMs: number;
    private isClosed = false;
    private wake: (() => void) | undefined;

    constructor(private readonly options: RtuOptions) {
        this.clock = options.clock ?? systemClock;
        this.characterMs = options.characterMs ?? 0;
        this.gapMs = frameGapMs(this.characterMs);
    }

    get simulated(): boolean {
        return this.options.wire.simulated ?? false;
    }

    async open(timeoutMs: number): Promise<void> {
        await this.options.wire.open(timeoutMs);
        this.options.framing.disturb();
    }

    exchange(request: ModbusRequest, options: ExchangeOptions): Promise<Buffer> {
        const { framing } = this.options;
        const isReady = this.silenceMs() <= 0 && !framing.disturbed && !framing.fence(request);
        return isReady ? this.send(request, options) : this.exchangeWithCare(request, options);
    }

    close(): Promise<void> {
        this.isClosed = true;
        this.wake?.();
        return this.options.wire.close();
    }

    private async exchangeWithCare(request: ModbusRequest, options: ExchangeOptions): Promise<Buffer> {
        try {
            await this.clear(request, options);
        } catch (error) {
            if (!(error instanceof ModbusError)) throw error;
            throw new ModbusError(error.code, `${error.message} The request itself was not sent.`, { cause: error, unsent: true });
        }
        return this.send(request, options);
    }

    /** Waits for silence and for what could be mistaken for the answer. */
    private async clear(request: ModbusRequest, options: ExchangeOptions): Promise<void> {
        const { framing } = this.options;
        const limit = this.clock.monotonic() + 2 * options.timeoutMs;
        await this.silence(request, limit);
        for (let sent = 0, fence = framing.fence(request); fence; sent++, fence = framing.fence(request)) {
            const left = limit - this.clock.monotonic();
            if (left <= 0 || sent === MOST_TRIES) throw broken(request, "late answers or noise keep coming: allow it more time, check wiring and termination");
            await this.send(fence, { ...options, timeoutMs: Math.min(options.timeoutMs, left) }).catch((error: unknown) => {
                if (!(error instanceof ModbusError) || error.code !== "MODBUS_EXCEPTION") throw error;
            });
            await this.silence(request, limit);
        }
    }

    /** The time that the bytes are on the line is not the device's. */
    private send(request: ModbusRequest, options: ExchangeOptions): Promise<Buffer> {
        const { wire } = this.options;
        if (this.characterMs === 0) return wire.exchange(request, options);
        const characters = pduLength(request) + answerLength(request) + 2 * (1 + CRC_LENGTH);
        return wire.exchange(request, { ...options, timeoutMs: options.timeoutMs + Math.ceil(characters * this.characterMs) });
    }

    /** How much longer the line must be silent. */
    private silenceMs(): number {
        const { framing } = this.options;
        const needed = framing.disturbed ? Math.max(DRAIN_MS, this.gapMs) : this.gapMs;
        return framing.heardAt + needed - this.clock.monotonic();
    }

    private async silence(request: ModbusRequest, limit: number): Promise<void> {
        for (let left = this.silenceMs(); left > 0 && !this.isClosed; left = this.silenceMs()) {
            if (this.clock.monotonic() >= limit) throw broken(request, "the line is never silent; does another master use it?");
            await this.pause(Math.ceil(left));
        }
        this.options.framing.disturbed = false;
    }

    /** Ends early when the transport is closed; what is sent then is refused by the wire. */
    private pause(ms: number): Promise<void> {
        return new Promise((resolve) => {
            const cancel = this.clock.after(ms, () => this.wake?.());
            this.wake = () => {
                this.wake = undefined;
                cancel();
                resolve();
            };
        });
    }
}
