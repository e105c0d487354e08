import { Backoff } from "../common/backoff.js";
import { type Clock, systemClock } from "../common/clock.js";
import { toError } from "../common/errors.js";
import type { StatusKind } from "../common/status.js";
import { describe, impossible, impossibleWrite, isWrite } from "./pdu.js";
import { costOf, type LinkCost, type LinkKind } from "./plan.js";
import {
    type ExchangeOptions,
    ModbusError,
    type ModbusReader,
    type ModbusRequest,
    type ModbusWriter,
    type ReadRequest,
    type Transport,
    type WriteRequest,
} from "./transport.js";

/** How one user of a link wants it used; pauses of several users are not mixed, the longest holds for all. */
export interface LinkSettings extends ExchangeOptions {
    /** Silence between an answer and the next request, ms. */
    gapMs: number;
    /** Wait between connecting and the first request, ms. */
    connectPauseMs: number;
    /** Most registers of one read. */
    maxRegisters: number;
    /** Disconnects after this long without a request, ms; 0 never does. */
    idleCloseMs: number;
}

/**
 * `idle` not connected because nobody asks · `connecting` · `up` a new connection, nothing was sent on it yet · `down` no
 * connection, tried again by itself.
 */
export type LinkStateName = "idle" | "connecting" | "up" | "down";

export interface LinkState {
    name: LinkStateName;
    /** Ready for a node's status. */
    kind: StatusKind;
    text: string;
    /** Why it is down. */
    error?: ModbusError;
}

/** What a user of a link may want to hear. Called from the link's own events: must be quick and must not throw. */
export interface LinkListener {
    /** Every change. After each `up`, nothing that was learned of a device before is certain: walk it again. */
    onState?(state: LinkState): void;
    /** Once an outage: the connection was lost or could not be made. */
    onLost?(error: ModbusError): void;
    /** Once an outage: a device answers again. */
    onBack?(): void;
}

export interface LinkOptions {
    /** Modbus TCP unless told otherwise. */
    kind?: LinkKind;
    /** A new connection; `onLost` is told when it ends by itself. */
    createTransport: (onLost: (error: ModbusError) => void) => Transport;
    clock?: Clock;
    random?: () => number;
    /** Longest wait for a connection, ms. */
    connectTimeoutMs?: number;
    /** Longest wait of a request for its turn, ms, beside the pause after connecting. */
    maxWaitMs?: number;
    /** Most reads that wait for their turn. */
    maxQueue?: number;
    /** The last user left and the connection is closed. */
    onUnused?: () => void;
}

/** A unit is left alone for this long times its failures (OpenEMS does the same), at most MAX_BACKOFF_MS. */
const BACKOFF_STEP_MS = 2_000;
const MAX_BACKOFF_MS = 300_000;

/** So many timeouts in a row, while no unit answers, mean that the connection is dead though it looks open (a pulled cable). */
const DEAD_AFTER_TIMEOUTS = 3;
/** A unit that answered within this time, and not failed since, speaks against a dead connection, ms. */
const GOOD_STANDING_MS = 120_000;

/** A write that comes late may be wrong by then; of many units on a slow line each shall have its turn to be read, ms. */
const MAX_WRITE_WAIT_MS = 10_000;
const MAX_READ_WAIT_MS = 60_000;

/** Who goes first: writes, then reads, then a slow group's reads. */
const WRITE = 0;
const READ = 1;
const BACKGROUND = 2;
/** One request goes ahead of its lane after so many that were preferred to it, so that none waits for good. */
const MOST_PREFERRED = 8;

interface Lane {
    /** Units with jobs waiting in this lane, next in turn first. */
    turns: Unit[];
    /** Requests that were preferred to this lane since its last turn. */
    preferred: number;
}

interface Job {
    request: ModbusRequest;
    lane: number;
    settings: LinkSettings;
    /** On the monotonic clock: nothing is sent after it. */
    expires: number;
    resolve: (data: Buffer) => void;
    reject: (error: ModbusError) => void;
    onAbort: (() => void) | undefined;
}

class Unit {
    /** Waiting, by lane. */
    readonly queues: Job[][] = [[], [], []];
    /** Requests waiting or on the wire. */
    busy = 0;
    /** Failures since the last answer. */
    failures = 0;
    /** When the next probe may go out. */
    retryAt = 0;
    answeredAt = -Infinity;
    /** Its last answer ended the connection: neither a new one nor a probe is a reason to ask it again earlier. */
    broken = false;
}

/**
 * The one connection to an endpoint, shared by all its users: one request on the wire; writes, then reads, then slow groups;
 * within these, units in turn, and within a unit first come first served. Connected while it has users; lost connections are made
 * again with a jittered backoff. Every request settles, and none is sent twice.
 */
export class ModbusLink {
    /** The last answer came from a simulator of this process. */
    simulated = false;
    private readonly clock: Clock;
    private readonly backoff: Backoff;
    private readonly members = new Set<LinkMember>();
    private readonly units = new Map<number, Unit>();
    private readonly lanes: Lane[] = [WRITE, READ, BACKGROUND].map(() => ({ turns: [], preferred: 0 }));
    private waiting = 0;
    private inFlight: Job | undefined;
    private transport: Transport | undefined;
    private lastClose: Promise<void> = Promise.resolve();
    private current: LinkState = IDLE;
    private freeAt = 0;
    private timeouts = 0;
    /** A device answered on this connection. */
    private proven = false;
    private cancelPump: (() => void) | undefined;
    private cancelSweep: (() => void) | undefined;
    private cancelRetry: (() => void) | undefined;
    private cancelIdle: (() => void) | undefined;

    constructor(private readonly options: LinkOptions) {
        this.clock = options.clock ?? systemClock;
        this.backoff = new Backoff({ base: 1_000, cap: 60_000, ...(options.random && { random: options.random }) });
    }

    get state(): LinkState {
        return this.current;
    }

    get kind(): LinkKind {
        return this.options.kind ?? { kind: "tcp" };
    }

    /** Adds a user. The first one connects; one that comes during an outage has it tried at once. */
    join(settings: LinkSettings, listener: LinkListener = {}): LinkMember {
        const member = new LinkMember(this, settings, listener);
        this.members.add(member);
        this.connect();
        return member;
    }

    /** Removes a user; the last one ends the connection. Resolves when that is done. */
    async leave(member: LinkMember): Promise<void> {
        this.members.delete(member);
        if (this.members.size > 0) return;
        this.rejectWaiting(new ModbusError("MODBUS_CLOSED", "The Modbus link is closing."));
        this.disconnect();
        this.show(IDLE);
        await this.lastClose;
        if (this.members.size === 0) this.options.onUnused?.();
    }

    read(request: ReadRequest, member: LinkMember): Promise<Buffer> {
        const fault = impossible(request, member.maxRegisters);
        return fault ? Promise.reject(fault) : this.ask(request, request.background ? BACKGROUND : READ, member);
    }

    async write(request: WriteRequest, member: LinkMember): Promise<void> {
        const fault = impossibleWrite(request);
        if (fault) throw fault;
        await this.ask(request, WRITE, member);
    }

    private ask(request: ModbusRequest, lane: number, member: LinkMember): Promise<Buffer> {
        const { settings } = member;
        const refusal = this.refuse(request, member);
        if (refusal) return Promise.reject(refusal);
        return new Promise((resolve, reject) => {
            const { maxWaitMs = lane === WRITE ? MAX_WRITE_WAIT_MS : MAX_READ_WAIT_MS } = this.options;
            const expires = this.clock.monotonic() + maxWaitMs + this.longest("connectPauseMs");
            const job: Job = { request, lane, settings, expires, resolve, reject, onAbort: undefined };
            if (request.signal) {
                job.onAbort = () => this.abort(job);
                request.signal.addEventListener("abort", job.onAbort);
            }
            this.enqueue(job);
        });
    }

    private refuse(request: ModbusRequest, member: LinkMember): ModbusError | undefined {
        if (request.signal?.aborted) return aborted(request);
        if (!this.members.has(member)) return new ModbusError("MODBUS_CLOSED", "The Modbus link is closed.");
        if (this.current.name === "down") return this.current.error;
        const unit = this.units.get(request.unit);
        if (unit && unit.failures > 0 && (unit.broken || !request.probe)) {
            const wait = unit.retryAt - this.clock.monotonic();
            if (wait > 0 || unit.busy > 0) return this.leftAlone(request.unit, unit, wait);
        }
        const { maxQueue = 1_000 } = this.options;
        return this.waiting < maxQueue ? undefined : overload(`${maxQueue} requests are waiting`);
    }

    private leftAlone(id: number, { broken }: Unit, waitMs: number): ModbusError {
        const next = waitMs > 0 ? `in ${Math.ceil(waitMs / 1000)} s` : "now";
        return new ModbusError("MODBUS_BACKOFF", `Unit ${id} ${broken ? "broke the protocol" : "did not answer"} and is left alone; next try ${next}.`);
    }

    private enqueue(job: Job): void {
        let unit = this.units.get(job.request.unit);
        if (!unit) this.units.set(job.request.unit, (unit = new Unit()));
        if (this.queueOf(unit, job).push(job) === 1) this.laneOf(job).turns.push(unit);
        unit.busy++;
        this.waiting++;
        if (this.current.name === "idle") this.connect();
        this.pump();
        if (this.waiting > 0) this.cancelSweep ??= this.clock.after(job.expires - this.clock.monotonic(), () => this.sweep());
    }

    /** Sends the next request when the wire is free and the pause is over. */
    private pump(): void {
        const { transport } = this;
        if (this.current.name !== "up" || !transport || this.inFlight || this.cancelPump) return;
        this.cancelIdle?.();
        if (this.waiting === 0) {
            this.rest();
            return;
        }
        const pause = this.freeAt - this.clock.monotonic();
        if (pause > 0) {
            this.cancelPump = this.clock.after(pause, () => {
                this.cancelPump = undefined;
                this.pump();
            });
            return;
        }
        const { job, unit } = this.next();
        this.waiting--;
        this.inFlight = job;
        transport.exchange(job.request, job.settings).then(
            (data) => this.finish(transport, job, unit, data),
            (error: unknown) => this.finish(transport, job, unit, asModbusError(error)),
        );
    }

    /** Takes out the job whose turn it is; there must be one. */
    private next(): { job: Job; unit: Unit } {
        const waiting = this.lanes.filter(({ turns }) => turns.length > 0);
        const lane = (waiting.findLast(({ preferred }) => preferred >= MOST_PREFERRED) ?? waiting[0]) as Lane;
        for (const other of waiting) other.preferred = other === lane ? 0 : other.preferred + 1;
        const unit = lane.turns.shift() as Unit;
        const queue = unit.queues[this.lanes.indexOf(lane)] as Job[];
        const job = queue.shift() as Job;
        if (queue.length > 0) lane.turns.push(unit);
        return { job, unit };
    }

    private laneOf({ lane }: Job): Lane {
        return this.lanes[lane] as Lane;
    }

    private queueOf(unit: Unit, { lane }: Job): Job[] {
        return unit.queues[lane] as Job[];
    }

    /** Nothing to do: no sweep is needed, and the connection may be given back. */
    private rest(): void {
        this.cancelSweep?.();
        this.cancelSweep = undefined;
        const idleMs = this.idleCloseMs();
        if (idleMs === 0) return;
        this.cancelIdle = this.clock.after(idleMs, () => {
            this.disconnect();
            this.show(IDLE);
        });
    }

    private finish(transport: Transport, job: Job, unit: Unit, outcome: Buffer | ModbusError): void {
        this.inFlight = undefined;
        const now = this.clock.monotonic();
        this.freeAt = now + this.longest("gapMs");
        unit.busy--;
        if (outcome instanceof ModbusError) {
            if (outcome.code === "MODBUS_EXCEPTION") this.answered(unit, now);
            if (outcome.unitOffline || outcome.code === "MODBUS_TIMEOUT" || outcome.code === "MODBUS_FRAME") this.failed(unit, job, transport !== this.transport, now);
            this.settle(job, isWrite(job.request) ? uncertain(job.request, outcome) : outcome);
            // A discovery asks many silent units in a row.
            if (outcome.code === "MODBUS_TIMEOUT" && !job.request.probe) this.timedOut(outcome, now);
        } else {
            this.answered(unit, now);
            this.simulated = transport.simulated ?? false;
            this.settle(job, outcome);
        }
        this.pump();
    }

    /** Any answer, a refusal too, proves the connection and the unit. */
    private answered(unit: Unit, now: number): void {
        unit.answeredAt = now;
        unit.failures = 0;
        unit.broken = false;
        this.timeouts = 0;
        if (this.proven) return;
        this.proven = true;
        this.backoff.reset();
        for (const member of this.members) member.tellBack();
    }

    private failed(unit: Unit, job: Job, isOver: boolean, now: number): void {
        unit.failures++;
        unit.broken = isOver;
        const wait = Math.min(MAX_BACKOFF_MS, BACKOFF_STEP_MS * unit.failures);
        unit.retryAt = now + wait;
        for (const other of unit.queues.flat().filter((waiting) => !waiting.request.probe)) {
            this.withdraw(other);
            this.settle(other, this.leftAlone(job.request.unit, unit, wait));
        }
    }

    private timedOut(error: ModbusError, now: number): void {
        this.timeouts++;
        if (this.timeouts < DEAD_AFTER_TIMEOUTS) return;
        for (const unit of this.units.values()) {
            if (unit.failures === 0 && now - unit.answeredAt < GOOD_STANDING_MS) return;
        }
        this.lose(new ModbusError("MODBUS_CLOSED", "No unit answers any more: connecting again.", { cause: error }));
    }

    private connect(): void {
        if (this.transport) return;
        this.cancelRetry?.();
        const transport = this.options.createTransport((error) => this.ended(transport, error));
        this.transport = transport;
        this.show(CONNECTING);
        this.open(transport).catch((error: unknown) => {
            if (transport === this.transport) this.lose(asModbusError(error));
        });
    }

    private async open(transport: Transport): Promise<void> {
        // Devices that take one client refuse the new connection while the old one lasts.
        await this.lastClose;
        if (transport !== this.transport) return;
        await transport.open(this.options.connectTimeoutMs ?? 5_000);
        const pause = this.longest("connectPauseMs");
        if (pause > 0) await this.clock.sleep(pause);
        if (transport !== this.transport) return;
        this.timeouts = 0;
        for (const unit of this.units.values()) if (!unit.broken) unit.retryAt = 0;
        this.show(UP);
        this.pump();
    }

    /** The connection ended by itself. Many devices end an idle one; that is no outage, the next read connects again. */
    private ended(transport: Transport, error: ModbusError): void {
        if (transport !== this.transport) return;
        const harmless = this.proven && !this.inFlight && this.waiting === 0 && error.code === "MODBUS_CLOSED";
        if (!harmless) {
            this.lose(error);
            return;
        }
        this.disconnect();
        this.show(IDLE);
    }

    private lose(error: ModbusError): void {
        this.disconnect();
        const closed = error.code === "MODBUS_CLOSED" ? error : new ModbusError("MODBUS_CLOSED", `Connection given up: ${error.message}`, { cause: error });
        this.rejectWaiting(closed);
        this.cancelRetry = this.clock.after(this.backoff.next(), () => this.connect());
        this.show({ name: "down", kind: "error", text: "no connection", error: closed });
        for (const member of this.members) member.tellLost(closed);
    }

    private disconnect(): void {
        this.cancelRetry?.();
        this.cancelIdle?.();
        this.cancelPump?.();
        this.cancelPump = undefined;
        this.proven = false;
        const { transport } = this;
        this.transport = undefined;
        if (transport) this.lastClose = transport.close();
    }

    private queued(): Job[] {
        return this.lanes.flatMap(({ turns }, lane) => turns.flatMap((unit) => unit.queues[lane] as Job[]));
    }

    /** Rejects what waited too long; a request on the wire has its own deadline. */
    private sweep(): void {
        this.cancelSweep = undefined;
        const now = this.clock.monotonic();
        let next = Infinity;
        for (const job of this.queued()) {
            if (job.expires <= now) {
                this.withdraw(job);
                this.settle(job, overload("its turn did not come in time"));
            } else {
                next = Math.min(next, job.expires);
            }
        }
        if (next < Infinity) this.cancelSweep = this.clock.after(next - now, () => this.sweep());
    }

    private rejectWaiting(error: ModbusError): void {
        this.cancelSweep?.();
        this.cancelSweep = undefined;
        for (const job of this.queued()) {
            this.withdraw(job);
            this.settle(job, error);
        }
    }

    /** The caller hears at once; a request on the wire still occupies it until it is answered or timed out. */
    private abort(job: Job): void {
        const { request } = job;
        const isSent = job === this.inFlight;
        if (!isSent) this.withdraw(job);
        this.settle(job, isSent && isWrite(request) ? uncertain(request, aborted(request)) : aborted(request));
    }

    /** Takes a waiting request out of its queue. */
    private withdraw(job: Job): void {
        const unit = this.units.get(job.request.unit) as Unit;
        const queue = this.queueOf(unit, job);
        const { turns } = this.laneOf(job);
        queue.splice(queue.indexOf(job), 1);
        if (queue.length === 0) turns.splice(turns.indexOf(unit), 1);
        unit.busy--;
        this.waiting--;
    }

    private settle(job: Job, outcome: Buffer | ModbusError): void {
        if (job.onAbort) job.request.signal?.removeEventListener("abort", job.onAbort);
        if (outcome instanceof ModbusError) job.reject(outcome);
        else job.resolve(outcome);
    }

    private longest(key: "gapMs" | "connectPauseMs"): number {
        let longest = 0;
        for (const member of this.members) longest = Math.max(longest, member.settings[key]);
        return longest;
    }

    /** 0, to stay connected, if any user wants that. */
    private idleCloseMs(): number {
        let longest = 0;
        for (const { settings } of this.members) {
            if (settings.idleCloseMs === 0) return 0;
            longest = Math.max(longest, settings.idleCloseMs);
        }
        return longest;
    }

    private show(state: LinkState): void {
        this.current = state;
        for (const member of this.members) member.tell(state);
    }
}

const IDLE: LinkState = { name: "idle", kind: "idle", text: "not connected" };
const CONNECTING: LinkState = { name: "connecting", kind: "busy", text: "connecting" };
const UP: LinkState = { name: "up", kind: "ok", text: "connected" };

/** One user's place at a link. */
export class LinkMember implements ModbusReader, ModbusWriter {
    private toldLost = false;

    constructor(
        private readonly link: ModbusLink,
        readonly settings: LinkSettings,
        private readonly listener: LinkListener,
    ) {}

    get maxRegisters(): number {
        return this.settings.maxRegisters;
    }

    get simulated(): boolean {
        return this.link.simulated;
    }

    get state(): LinkState {
        return this.link.state;
    }

    /** What reads cost on this link, for plans. */
    get cost(): LinkCost {
        return costOf({ ...this.link.kind, gapMs: this.settings.gapMs });
    }

    read(request: ReadRequest): Promise<Buffer> {
        return this.link.read(request, this);
    }

    write(request: WriteRequest): Promise<void> {
        return this.link.write(request, this);
    }

    leave(): Promise<void> {
        return this.link.leave(this);
    }

    tell(state: LinkState): void {
        this.listener.onState?.(state);
    }

    tellLost(error: ModbusError): void {
        if (this.toldLost) return;
        this.toldLost = true;
        this.listener.onLost?.(error);
    }

    tellBack(): void {
        if (!this.toldLost) return;
        this.toldLost = false;
        this.listener.onBack?.();
    }
}

function aborted(request: ModbusRequest): ModbusError {
    return new ModbusError("MODBUS_ABORTED", `The request to unit ${request.unit}, ${describe(request)}, was given up.`);
}

/**
 * The exceptions that say for certain that nothing was written: refused (1, 2, 3), busy (6), no path to the unit (0x0A). A device
 * that failed while it wrote (4), goes on writing (5), or did not answer its gateway (0x0B) may have done it.
 */
const NOT_WRITTEN = new Set([1, 2, 3, 6, 0x0a]);

/** What a write that was sent ended with, for the one who asked for it. */
function uncertain(request: WriteRequest, error: ModbusError): ModbusError {
    if (error.unsent || NOT_WRITTEN.has(error.exception ?? 0)) return error;
    const what = `Nobody knows whether ${describe(request)} on unit ${request.unit} was done: read it back before writing again.`;
    return new ModbusError("MODBUS_OUTCOME_UNKNOWN", `${what} ${error.message}`, {
        cause: error,
        ...(error.exception !== undefined && { exception: error.exception }),
    });
}

function overload(why: string): ModbusError {
    return new ModbusError("MODBUS_OVERLOAD", `The Modbus link has more to do than it can: ${why}. Poll less often or less at a time.`);
}

function asModbusError(error: unknown): ModbusError {
    return error instanceof ModbusError ? error : new ModbusError("MODBUS_CLOSED", toError(error).message, { cause: error });
}
