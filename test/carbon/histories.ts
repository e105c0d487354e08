import assert from "node:assert/strict";
import { sum } from "../../dist/carbon/interval.js";
import { type MeterHour, type MeterSample, type MeterState, orderSamples, settle } from "../../dist/carbon/settlement.js";
import { HOUR, meterRecord, MINUTE, rulesFor, START } from "./rig.js";

/** What a meter really delivered, and what arrived of its samples. */
export interface History {
    seed: number;
    /** As they arrived: out of order, some twice, some never. */
    arrived: MeterSample[];
    /** Wh that truly flowed from the first sample on. */
    exportWh: number;
    importWh: number;
    /** End of the last sample, ms. */
    end: number;
    /** Ends of intervals. */
    bounds: number[];
    modulusWh?: number;
}

/** mulberry32: the same histories on any machine. */
function randomOf(seed: number): () => number {
    let state = seed;
    return () => {
        state = (state + 0x6d2b79f5) | 0;
        let t = Math.imul(state ^ (state >>> 15), 1 | state);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
}

/** A random history of 6 to 60 samples with loss, duplicates, disorder, resets and, for some meters, rollovers. */
export function truth(seed: number): History {
    const random = randomOf(seed);
    const count = 6 + Math.floor(random() * 54);
    const modulusWh = random() < 0.3 ? 2 ** 20 : undefined;
    const loss = random() * 0.4;
    const resets = modulusWh === undefined ? random() * 0.1 : 0;
    const show = (wh: number) => (modulusWh === undefined ? wh : wh % modulusWh);
    const samples: MeterSample[] = [];
    let at = START;
    let exportWh = 0;
    let importWh = 0;
    let shownOut = Math.floor(random() * 1e6);
    let shownIn = Math.floor(random() * 1e6);
    for (let i = 0; i < count; i++) {
        if (i === 0 || random() >= loss) samples.push({ meter: "site/m1", at, exportWh: show(shownOut), importWh: show(shownIn), origin: random() < 0.05 ? "estimated" : "measured" });
        const ms = Math.ceil(random() * 20) * MINUTE + (random() < 0.05 ? Math.floor(random() * 3) * HOUR : 0);
        const isNight = random() < 0.3;
        const wh = Math.floor((random() * (isNight ? 5000 : 900_000) * ms) / HOUR);
        if (random() < resets) shownOut = shownIn = 0;
        if (isNight) {
            importWh += wh;
            shownIn += wh;
        } else {
            exportWh += wh;
            shownOut += wh;
        }
        at += ms;
    }
    const arrived = samples.flatMap((sample) => (random() < 0.2 ? [sample, { ...sample }] : [sample]));
    for (let i = arrived.length - 1; i > 0; i--) {
        const j = Math.floor(random() * (i + 1));
        [arrived[i], arrived[j]] = [arrived[j]!, arrived[i]!];
    }
    const bounds: number[] = [];
    for (let end = START; end < at; ) bounds.push((end += Math.ceil(random() * 5) * HOUR));
    return { seed, arrived, exportWh, importWh, end: at, bounds, ...(modulusWh !== undefined && { modulusWh }) };
}

const records = { plain: [meterRecord()], wrapping: [meterRecord({ modulusWh: 2 ** 20 })] };

/**
 * Settles a history interval by interval and at once, and checks that nothing is made or lost: the parts are what the registers grew by,
 * corrected by what the events tell, and the claim is not above the truth.
 */
export function conserve({ seed, arrived, exportWh, importWh, bounds, modulusWh }: History): { claimedWh: number; excludedWh: number; events: string[] } {
    const rules = rulesFor(modulusWh === undefined ? records.plain : records.wrapping);
    const samples = orderSamples(arrived);
    const hours: MeterHour[] = [];
    let opening: MeterState | undefined;
    let from = START;
    for (const to of bounds) {
        const settled = settle(rules, samples, from, to, opening);
        hours.push(...settled.hours);
        opening = settled.closing;
        from = to;
    }
    const whole = settle(rules, samples, START, from);
    const claimed = sum(hours, (hour) => hour.exportWh);
    const taken = sum(hours, (hour) => hour.importWh);
    const left = (key: "excludedExport" | "excludedImport") => sum(hours, (hour) => sum(Object.values(hour[key] ?? {}), (wh) => wh));
    const [first] = samples;
    const { closing } = whole;
    for (const [register, parts, before, after] of [
        ["export", claimed + left("excludedExport"), first!.exportWh!, closing!.export!.counter.good!.wh],
        ["import", taken + left("excludedImport"), first!.importWh!, closing!.import!.counter.good!.wh],
    ] as const) {
        // What the register did not show by itself: the way over its end, or from a reset on.
        const moved = whole.events.filter((event) => event.register === register && event.event !== "refused");
        const hidden = sum(moved, ({ countedWh, beforeWh, afterWh }) => countedWh - (afterWh - beforeWh));
        assert.equal(parts, after - before + hidden, `history ${seed}, ${register}`);
    }
    assert.equal(claimed, sum(whole.hours, (hour) => hour.exportWh), `history ${seed}: whole`);
    assert.ok(claimed <= exportWh, `history ${seed}: ${claimed} of ${exportWh}`);
    assert.ok(taken <= importWh, `history ${seed}: import ${taken} of ${importWh}`);
    return { claimedWh: claimed, excludedWh: left("excludedExport"), events: whole.events.map(({ event }) => event) };
}
