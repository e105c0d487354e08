import { EARLIEST_TRUSTED_MS } from "../common/clock.js";
import { type CounterEvent, type CounterSnapshot, EnergyCounter } from "../common/energy.js";
import type { ReadingMessage } from "../common/reading.js";
import { unitOf } from "../common/units.js";
import { type MeterRecord, recordAt } from "./meters.js";

export const HOUR_MS = 3_600_000;

/** A device's clock may be ahead of ours by this much; what is stamped later was not measured yet. */
export const CLOCK_TOLERANCE_MS = 5 * 60_000;

/** Where the values of a sample come from; only `measured` is ever claimed. */
export type Origin = "measured" | "estimated" | "doubtful" | "simulated";

/** From best to worst: the worst of two samples decides over the energy between them. */
const ORIGINS: readonly Origin[] = ["measured", "estimated", "doubtful", "simulated"];

/**
 * Why energy is not claimed. `gap` no sample for too long · `reset` the counter started again or was corrected · `implausible` more
 * than the rated power makes · `estimated`, `doubtful`, `simulated` see Origin · `unapproved` another meter than the inventory names
 * counts · `uncommissioned` outside the meter's commissioning interval · `sparse` the interval has too few points or too little coverage.
 */
export const EXCLUSIONS = ["gap", "reset", "implausible", "estimated", "doubtful", "simulated", "unapproved", "uncommissioned", "sparse"] as const;
export type Exclusion = (typeof EXCLUSIONS)[number];

/** The registers of one meter at one instant; whole Wh. */
export interface MeterSample {
    /** `<site>/<device>` */
    meter: string;
    /** Sample time, ms UTC. */
    at: number;
    /** Energy delivered to the grid since ever. */
    exportWh?: number | undefined;
    /** Energy taken from the grid since ever. */
    importWh?: number | undefined;
    serial?: string | undefined;
    origin: Origin;
    /** Numbers to average, by point name: power, irradiance, temperature, ratios. */
    values?: Record<string, number> | undefined;
    /** Start of the device within which `seq` counts. */
    boot?: number | undefined;
    seq?: number | undefined;
    /** The device's Ed25519 signature of what it said (`statementOf` in capsule.ts), base64; it does not outlive a merge. */
    signature?: string | undefined;
}

export const EXPORT_POINT = "ac_energy_export_wh";
export const IMPORT_POINT = "ac_energy_import_wh";
const AVERAGED = new Set(["w", "w_m2", "c", "ratio", "pct"]);
const MOST_AVERAGES = 12;

/**
 * What a reading says of a meter's registers; a text instead says why it is no sample.
 * @param now When it arrived, ms UTC.
 */
export function sampleOf({ payload, reading, timestamp }: ReadingMessage, now: number): MeterSample | string {
    if (reading.quality === "bad") return "bad quality";
    if (timestamp < EARLIEST_TRUSTED_MS) return "clock not set";
    if (timestamp > now + CLOCK_TOLERANCE_MS) return "stamped in the future";
    const exportWh = wholeWh(payload[EXPORT_POINT]);
    const importWh = wholeWh(payload[IMPORT_POINT]);
    if (exportWh === undefined && importWh === undefined) return "no energy counter";
    const values: Record<string, number> = {};
    let count = 0;
    for (const [point, value] of Object.entries(payload)) {
        if (typeof value !== "number" || reading.bad?.[point] !== undefined || !AVERAGED.has(unitOf(point) ?? "") || count >= MOST_AVERAGES) continue;
        values[point] = value;
        count++;
    }
    const serial = payload["serial"] ?? payload["serial_number"];
    return {
        meter: `${reading.site}/${reading.device}`,
        at: timestamp,
        ...(exportWh !== undefined && { exportWh }),
        ...(importWh !== undefined && { importWh }),
        ...(typeof serial === "string" && serial !== "" && { serial }),
        origin: originOf(reading, exportWh !== undefined, importWh !== undefined),
        ...(count > 0 && { values }),
        ...(typeof reading.signature === "string" && { boot: reading.boot, seq: reading.seq, signature: reading.signature }),
    };
}

/** Whole Wh, down: differences of what is cut the same way neither make nor lose energy. */
function wholeWh(value: unknown): number | undefined {
    return typeof value === "number" && value >= 0 && value <= Number.MAX_SAFE_INTEGER ? Math.floor(value) : undefined;
}

function originOf({ simulated, bad = {}, quality }: ReadingMessage["reading"], hasExport: boolean, hasImport: boolean): Origin {
    if (simulated) return "simulated";
    const reasons = [hasExport && bad[EXPORT_POINT], hasImport && bad[IMPORT_POINT]].filter(Boolean);
    if (reasons.some((reason) => reason !== "estimated")) return "doubtful";
    if (reasons.length > 0) return "estimated";
    return quality === "uncertain" && Object.keys(bad).length === 0 ? "doubtful" : "measured";
}

function worse(a: Origin, b: Origin): Origin {
    return ORIGINS.indexOf(a) > ORIGINS.indexOf(b) ? a : b;
}

/** One sample of two that a meter gave for the same instant, whichever came first: where they differ, neither is believed. */
export function mergeSamples(a: MeterSample, b: MeterSample): MeterSample {
    const { exportWh, importWh, serial } = a;
    const contradicts = (x: unknown, y: unknown) => x !== undefined && y !== undefined && x !== y;
    const isOtherwise = contradicts(exportWh, b.exportWh) || contradicts(importWh, b.importWh) || contradicts(serial, b.serial);
    // What two signed messages make together no device has signed.
    const isUnsigned = (a.signature ?? b.signature) !== undefined && (exportWh !== b.exportWh || importWh !== b.importWh || serial !== b.serial);
    const isContradiction = isOtherwise || isUnsigned;
    const least = (x: number | undefined, y: number | undefined) => (x === undefined ? y : y === undefined ? x : Math.min(x, y));
    const most = (x: number | undefined, y: number | undefined) => (x === undefined ? y : y === undefined ? x : Math.max(x, y));
    const values: Record<string, number> = { ...a.values };
    for (const [point, value] of Object.entries(b.values ?? {})) values[point] = least(values[point], value)!;
    const merged: MeterSample = { meter: a.meter, at: a.at, origin: isContradiction ? worse(worse(a.origin, b.origin), "doubtful") : worse(a.origin, b.origin) };
    const wh = least(exportWh, b.exportWh);
    const taken = most(importWh, b.importWh);
    const who = serial === undefined || b.serial === undefined ? (serial ?? b.serial) : serial < b.serial ? serial : b.serial;
    if (wh !== undefined) merged.exportWh = wh;
    if (taken !== undefined) merged.importWh = taken;
    if (who !== undefined) merged.serial = who;
    if (Object.keys(values).length > 0) merged.values = values;
    return merged;
}

/** Sorted by time with one sample an instant, for samples of one meter in any order and however often each came. */
export function orderSamples(samples: readonly MeterSample[]): MeterSample[] {
    const ordered: MeterSample[] = [];
    for (const sample of samples.toSorted((a, b) => a.at - b.at)) {
        const last = ordered.at(-1);
        if (last?.at === sample.at) ordered[ordered.length - 1] = mergeSamples(last, sample);
        else ordered.push(sample);
    }
    return ordered;
}

export interface SettleRules {
    /** The meter's entries in the inventory. */
    records: readonly MeterRecord[];
    /** Energy between samples further apart than this is not claimed. */
    maxGapMs: number;
    /** Counts simulated energy, for a trial; the hours then say so. */
    allowSimulated: boolean;
}

export type Excluded = Partial<Record<Exclusion, number>>;

/** One hour, or the part of it within the interval. Every Wh that a register counted is in `…Wh` or in one of `excluded…`. */
export interface MeterHour {
    /** Start, ms UTC. */
    at: number;
    exportWh: number;
    importWh: number;
    excludedExport?: Excluded;
    excludedImport?: Excluded;
    /** Measured samples. */
    points: number;
    /** Time between samples close enough to be claimed, ms. */
    coveredMs: number;
    /** Energy that no meter measured is in it. */
    simulated?: true;
}

interface RegisterState {
    counter: CounterSnapshot;
    at: number;
    totalWh: number;
    origin: Origin;
    /** Of the meter at that sample. */
    flag?: "unapproved" | "uncommissioned";
    /** When the register last moved: some meters renew it seldom. */
    movedAt: number;
}

/** What is known of a meter at the start of an interval; plain JSON. */
export interface MeterState {
    /** Time of the last sample seen. */
    at: number;
    export?: RegisterState;
    import?: RegisterState;
    /** The serial that counts where the inventory names none: the first one seen. */
    serial?: string;
    /** Start of the inventory's entry that it was seen under. */
    recordFrom?: number;
}

/**
 * What happened to a register other than growth; `undone` takes back a reset that was a misread. Over all events that move it
 * (not `refused` and `unapproved`): what was counted is last less first, and for each event countedWh - (afterWh - beforeWh).
 */
export interface MeterEvent {
    at: number;
    register: "export" | "import";
    event: CounterEvent | "undone" | "unapproved";
    /** What the register showed before and shows now, Wh. */
    beforeWh: number;
    afterWh: number;
    /** What was counted between the two. */
    countedWh: number;
}

export interface Settled {
    /** Hours with data, in order. */
    hours: MeterHour[];
    events: MeterEvent[];
    /** Mean of each averaged point, and of how many samples. */
    averages: Record<string, { mean: number; n: number }>;
    /** The meter's state before the first sample at or after the end. */
    closing: MeterState | undefined;
    /** True while no sample at or after the end is known: what comes may add to the last hours. */
    isOpen: boolean;
    /** Time of the last sample used, which may be after the end; 0 for none. */
    usedTo: number;
}

/** A register while an interval is settled. */
interface Register extends Omit<RegisterState, "counter"> {
    name: "export" | "import";
    counter: EnergyCounter;
    wh: number;
}

/**
 * Settles one meter over [from, to): the Wh that each register counted, hour by hour in UTC, claimed or excluded with the reason.
 * The energy between two samples is spread evenly over the time between them, in whole Wh; intervals that meet share a step without
 * gain or loss. What was excluded from export stays unclaimed; import is only left out where no meter of ours measured it, so that an
 * error never raises the net.
 * @param samples In time order, one an instant, from the opening's time on; those after `to` are used until each register is past it.
 * @param opening The closing state of the interval before; absent for the first.
 */
export function settle(rules: SettleRules, samples: Iterable<MeterSample>, from: number, to: number, opening?: MeterState): Settled {
    return new Settlement(rules, from, to, opening).settle(samples);
}

class Settlement {
    private readonly hours: MeterHour[] = [];
    private readonly events: MeterEvent[] = [];
    private readonly sums = new Map<string, { sum: number; n: number }>();
    private readonly registers: { export?: Register; import?: Register } = {};
    private at: number;
    private serial: string | undefined;
    private recordFrom: number | undefined;

    constructor(
        private readonly rules: SettleRules,
        private readonly from: number,
        private readonly to: number,
        opening: MeterState | undefined,
    ) {
        this.at = opening?.at ?? -Infinity;
        this.serial = opening?.serial;
        this.recordFrom = opening?.recordFrom;
        for (const name of ["export", "import"] as const) {
            const state = opening?.[name];
            if (state) this.registers[name] = { ...state, name, counter: EnergyCounter.fromSnapshot(state.counter), wh: state.counter.good?.wh ?? 0 };
        }
    }

    settle(samples: Iterable<MeterSample>): Settled {
        let closing: MeterState | undefined;
        let usedTo = 0;
        for (const sample of samples) {
            if (sample.at <= this.at) continue;
            if (sample.at >= this.to) {
                closing ??= this.state();
                if (this.isPast()) break;
            }
            this.at = sample.at;
            usedTo = sample.at;
            this.take(sample);
        }
        const averages = Object.fromEntries([...this.sums].map(([point, { sum, n }]) => [point, { mean: sum / n, n }]));
        const isOpen = !this.isPast();
        return { hours: this.hours, events: this.events, averages, closing: closing ?? this.state(), isOpen, usedTo };
    }

    private isPast(): boolean {
        const { export: out, import: into } = this.registers;
        if (!out && !into) return false;
        return (!out || out.at >= this.to) && (!into || into.at >= this.to);
    }

    private state(): MeterState | undefined {
        if (this.at === -Infinity) return undefined;
        const state: MeterState = { at: this.at };
        for (const name of ["export", "import"] as const) {
            const register = this.registers[name];
            if (!register) continue;
            const { counter, at, totalWh, origin, flag, movedAt } = register;
            state[name] = { counter: counter.snapshot(), at, totalWh, origin, ...(flag && { flag }), movedAt };
        }
        if (this.serial !== undefined) state.serial = this.serial;
        if (this.recordFrom !== undefined) state.recordFrom = this.recordFrom;
        return state;
    }

    private take(sample: MeterSample): void {
        const record = recordAt(this.rules.records, sample.at);
        if (record && record.from !== this.recordFrom) {
            this.recordFrom = record.from;
            this.serial = undefined;
        }
        if (record) this.serial ??= record.serial ?? sample.serial;
        const isStranger = sample.serial !== undefined && this.serial !== undefined && sample.serial !== this.serial;
        const flag = record === undefined ? "uncommissioned" : isStranger ? "unapproved" : undefined;
        const { exportWh, importWh } = sample;
        let isTaken = false;
        if (exportWh !== undefined) isTaken = this.count("export", exportWh, sample, record, flag);
        if (importWh !== undefined) isTaken = this.count("import", importWh, sample, record, flag) || isTaken;
        const isMeasured = sample.origin === "measured" || (sample.origin === "simulated" && this.rules.allowSimulated);
        if (!isTaken || !isMeasured || flag !== undefined || sample.at < this.from || sample.at >= this.to) return;
        this.hour(sample.at).points++;
        for (const point in sample.values) this.average(point, sample.values[point]!);
    }

    private average(point: string, value: number): void {
        const sum = this.sums.get(point);
        if (!sum) this.sums.set(point, { sum: value, n: 1 });
        else {
            sum.sum += value;
            sum.n++;
        }
    }

    /** @returns false for a value that the counter refuses. */
    private count(name: "export" | "import", wh: number, sample: MeterSample, record: MeterRecord | undefined, flag: Register["flag"]): boolean {
        const { at, origin, serial } = sample;
        let register = this.registers[name];
        const isFirst = !register;
        register ??= this.registers[name] = { name, counter: new EnergyCounter(), at, totalWh: wh, origin, movedAt: at, wh, ...(flag && { flag }) };
        const { totalWh, event } = register.counter.add({ wh, at, serial, modulusWh: record?.modulusWh, ratedW: record?.ratedW });
        const beforeWh = register.wh;
        const stepWh = totalWh === undefined ? 0 : totalWh - register.totalWh;
        // A little less than before is taken for the rounding of a register, which stands until it shows more again.
        const isDip = !event && stepWh === 0 && wh < beforeWh;
        const isUndone = !event && !isDip && stepWh !== wh - beforeWh;
        if (event || isUndone) this.events.push({ at, register: name, event: event ?? "undone", beforeWh, afterWh: wh, countedWh: stepWh });
        if (totalWh === undefined) return false;
        if (!isFirst) {
            const reason = this.reason(register, stepWh, sample, record, flag, event);
            if (reason === "unapproved" && register.flag !== "unapproved") this.events.push({ at, register: name, event: "unapproved", beforeWh, afterWh: wh, countedWh: stepWh });
            const isSimulated = origin === "simulated" || register.origin === "simulated";
            this.spread(register, at, stepWh, reason, isSimulated);
            if (stepWh !== 0) register.movedAt = at;
        }
        register.at = at;
        register.totalWh = totalWh;
        register.origin = origin;
        if (!isDip) register.wh = wh;
        if (flag) register.flag = flag;
        else delete register.flag;
        return true;
    }

    private reason(register: Register, stepWh: number, { at, origin }: MeterSample, record: MeterRecord | undefined, flag: Register["flag"], event: CounterEvent | undefined): Exclusion | undefined {
        if (flag === "uncommissioned" || register.flag === "uncommissioned") return "uncommissioned";
        const worst = worse(register.origin, origin);
        if (worst === "simulated" && !this.rules.allowSimulated) return "simulated";
        if (flag === "unapproved" || register.flag === "unapproved") return "unapproved";
        if (worst === "estimated" || worst === "doubtful") return worst;
        if (event === "reset" || event === "swap" || stepWh < 0) return "reset";
        if (at - register.at > this.rules.maxGapMs) return "gap";
        const mostWh = (1.2 * (record?.ratedW ?? 0) * (at - Math.min(register.at, register.movedAt))) / HOUR_MS;
        return stepWh > mostWh ? "implausible" : undefined;
    }

    /** Over the hours of [register.at, at) that are within the interval. */
    private spread(register: Register, at: number, wh: number, reason: Exclusion | undefined, isSimulated: boolean): void {
        const start = register.at;
        const end = Math.min(at, this.to);
        let from = Math.max(start, this.from);
        if (from >= end) return;
        let done = from === start ? 0 : share(wh, start, at, from);
        while (from < end) {
            const next = Math.min(end, from - (from % HOUR_MS) + HOUR_MS);
            const sum = next === at ? wh : share(wh, start, at, next);
            this.book(register, from, next, sum - done, reason, isSimulated);
            done = sum;
            from = next;
        }
    }

    private book(register: Register, from: number, to: number, wh: number, reason: Exclusion | undefined, isSimulated: boolean): void {
        const isExport = register.name === "export";
        // An unmeasured import is still an import: leaving it out would raise the net.
        const isLeftOut = reason !== undefined && (isExport || reason === "simulated" || reason === "uncommissioned");
        if (isLeftOut && wh === 0) return;
        const hour = this.hour(from);
        if (reason === undefined && (isExport || !this.registers.export)) hour.coveredMs += to - from;
        if (wh === 0) return;
        if (isLeftOut) {
            const excluded = isExport ? (hour.excludedExport ??= {}) : (hour.excludedImport ??= {});
            excluded[reason] = (excluded[reason] ?? 0) + wh;
            return;
        }
        if (isExport) hour.exportWh += wh;
        else hour.importWh += wh;
        if (isSimulated) hour.simulated = true;
    }

    private hour(at: number): MeterHour {
        const start = at - (at % HOUR_MS);
        const last = this.hours.at(-1);
        if (last?.at === start) return last;
        if (last && last.at > start) return this.earlierHour(start);
        const hour: MeterHour = { at: start, exportWh: 0, importWh: 0, points: 0, coveredMs: 0 };
        this.hours.push(hour);
        return hour;
    }

    /** One register can be behind the other by some samples. */
    private earlierHour(start: number): MeterHour {
        let i = this.hours.length;
        while (i > 0 && this.hours[i - 1]!.at > start) i--;
        const found = this.hours[i - 1];
        if (found?.at === start) return found;
        const hour: MeterHour = { at: start, exportWh: 0, importWh: 0, points: 0, coveredMs: 0 };
        this.hours.splice(i, 0, hour);
        return hour;
    }
}

/** Whole Wh of a step's energy up to an instant within it; the parts between instants add up to all of it. */
function share(wh: number, start: number, end: number, until: number): number {
    return Math.trunc(wh * ((until - start) / (end - start)));
}
