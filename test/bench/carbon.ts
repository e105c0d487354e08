import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import v8 from "node:v8";
import vm from "node:vm";
import { Book } from "../../dist/carbon/book.js";
import { keepEvidence } from "../../dist/carbon/capsule-file.js";
import { recomputeReport } from "../../dist/carbon/evidence.js";
import { type Interval, type MeterInterval, meterPart } from "../../dist/carbon/interval.js";
import type { MeterRecord } from "../../dist/carbon/meters.js";
import { type MeterSample, type MeterState, settle } from "../../dist/carbon/settlement.js";
import { Ledger } from "../../dist/store/ledger.js";
import { bookRules, DAY, HOUR, meterRecord, MINUTE, report, rulesFor } from "../carbon/rig.js";
import { ManualClock } from "../common/manual-clock.js";
import type { Row } from "./row.js";

// A heap that is not collected says nothing of what is kept.
v8.setFlagsFromString("--expose-gc");
const collect = vm.runInNewContext("gc") as () => void;

const YEAR_START = Date.UTC(2026, 0, 1);
const STEP = 5 * MINUTE;

/** Aggregation by AMS-I.D of 5-minute data: a year of 100 devices, and a day of 1,000 devices, from memory and out of the book. */
export async function run(quick: boolean): Promise<Row[]> {
    const devices = quick ? 100 : 1000;
    return [...year(100, quick ? 20 : 365), window(devices), ...(await day(devices))];
}

/** Of this process: what else the machine does is not counted. */
function cpuSeconds(): number {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
}

/** A plant's day: sun by half a sine, standby at night. */
function registersAt(device: number, at: number): MeterSample {
    const days = Math.floor((at - YEAR_START) / DAY);
    const phase = ((at - YEAR_START) % DAY) / DAY;
    const sun = Math.min(1, Math.max(0, (1 - Math.cos(Math.PI * Math.min(1, Math.max(0, phase * 2 - 0.5)))) / 2));
    return { meter: `site/m${device}`, at, exportWh: Math.floor((days + sun) * (400_000 + device)), importWh: Math.floor((days + phase - sun / 2) * 900), origin: "measured" };
}

function* samplesOf(device: number, from: number, to: number): Generator<MeterSample> {
    for (let at = from; at <= to; at += STEP) yield registersAt(device, at);
}

function inventory(devices: number): MeterRecord[] {
    return Array.from({ length: devices }, (_, i) => meterRecord({ meter: `site/m${i}`, ratedW: 100_000 }));
}

/** Settles day by day as the book does, and reports each month. */
function year(devices: number, days: number): Row[] {
    const meters = inventory(devices);
    const interval = { intervalMs: DAY, minPoints: 10, minCoverage: 0.5 };
    const states: (MeterState | undefined)[] = Array.from({ length: devices });
    let pending: Interval[] = [];
    let credits = 0;
    let firstHeap = 0;
    let lastHeap = 0;
    const before = cpuSeconds();
    for (let i = 0; i < days; i++) {
        const [from, to] = [YEAR_START + i * DAY, YEAR_START + (i + 1) * DAY];
        const parts: MeterInterval[] = [];
        for (const [device, record] of meters.entries()) {
            const settled = settle(rulesFor([record]), samplesOf(device, from, to), from, to, states[device]);
            parts.push(meterPart([record], settled, from, to, interval, states[device])!);
            states[device] = settled.closing;
        }
        pending.push({ project: "p", number: i + 1, from, to, sealedAt: to, meters: parts, simulated: false });
        if (new Date(to).getUTCDate() !== 1 && i < days - 1) continue;
        credits += report(pending, meters, { project: { id: "p", name: "Plant", capacityW: 1e7 } }).figures.credits;
        pending = [];
        collect();
        lastHeap = process.memoryUsage().heapUsed / 1e6;
        firstHeap ||= lastHeap;
    }
    const seconds = cpuSeconds() - before;
    if (credits === 0) throw new Error("nothing was reported");
    const growth = lastHeap - firstHeap;
    const what = `${days} days of 5-minute data of ${devices} devices`;
    return [
        { name: `${what}: settled and reported`, value: seconds, unit: "s of CPU", target: "<= 20", pass: seconds <= 20 },
        { name: `${what}: heap from the first report to the last`, value: growth, unit: "MB more", target: "<= 20", pass: growth <= 20 },
    ];
}

function window(devices: number): Row {
    const meters = inventory(devices);
    const [from, to] = [YEAR_START + 170 * DAY, YEAR_START + 171 * DAY];
    const samples = meters.map((_, device) => [...samplesOf(device, from, to)]);
    const before = cpuSeconds();
    const parts = meters.map((record, device) => meterPart([record], settle(rulesFor([record]), samples[device]!, from, to), from, to, { intervalMs: DAY, minPoints: 10, minCoverage: 0.5 })!);
    const { figures } = report([{ project: "p", number: 1, from, to, sealedAt: to, meters: parts, simulated: false }], meters, { project: { id: "p", name: "Plant", capacityW: 1e7 } });
    const seconds = cpuSeconds() - before;
    if (figures.credits === 0) throw new Error("nothing was reported");
    return { name: `24 h of ${devices} devices: settled and reported`, value: seconds, unit: "s of CPU", target: "<= 1", pass: seconds <= 1 };
}

/** Seals a day out of the book: rows read from disk, settled, written and made a report of; then its capsule. */
async function day(devices: number): Promise<Row[]> {
    const folder = mkdtempSync(path.join(tmpdir(), "wl-bench-"));
    const clock = new ManualClock(YEAR_START);
    const book = await Book.open({ folder, rules: bookRules({ meters: inventory(devices), project: { id: "p", name: "Plant", capacityW: 1e7 } }), clock });
    const ledger = new Ledger({ folder: path.join(folder, "ledger"), origin: "wattledger/p" });
    const loop = monitorEventLoopDelay({ resolution: 1 });
    try {
        for (let at = YEAR_START; at <= YEAR_START + DAY + STEP; at += STEP) {
            const kept = Array.from({ length: devices }, (_, device) => book.add(registersAt(device, at)));
            clock.advance(200);
            await Promise.all(kept);
        }
        clock.set(YEAR_START + DAY + HOUR);
        const before = cpuSeconds();
        loop.enable();
        await book.check();
        const seconds = cpuSeconds() - before;
        const made = book.reportOf(1);
        if (!made) throw new Error("no report was made");
        const { samples } = await keepEvidence(path.join(folder, "evidence"), made, book.evidence(1), recomputeReport, ledger);
        loop.disable();
        const evidenceS = cpuSeconds() - before - seconds;
        const heldMs = loop.percentile(99) / 1e6;
        return [
            { name: `24 h of ${devices} devices: the same out of the book, recorded there`, value: seconds, unit: "s of CPU", target: "<= 2", pass: seconds <= 2 },
            { name: `24 h of ${devices} devices: its capsule of ${samples} samples, in the ledger`, value: evidenceS, unit: "s of CPU", target: "<= 15", pass: evidenceS <= 15 },
            { name: `24 h of ${devices} devices: the event loop meanwhile, p99`, value: heldMs, unit: "ms", target: "<= 50", pass: heldMs <= 50 },
        ];
    } finally {
        await ledger.close();
        await book.close();
        rmSync(folder, { recursive: true, force: true });
    }
}
