import { type KeyObject, sign } from "node:crypto";
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Aggregator, rulesOf } from "../carbon/aggregator.js";
import { statementOf } from "../carbon/capsule.js";
import { type Evidence, EvidenceKeeper } from "../carbon/capsule-file.js";
import { recomputeReport } from "../carbon/evidence.js";
import type { Interval } from "../carbon/interval.js";
import type { Report } from "../carbon/report.js";
import { sampleOf } from "../carbon/settlement.js";
import type { Clock } from "../common/clock.js";
import { WattError } from "../common/errors.js";
import { createReading, type ReadingMessage } from "../common/reading.js";
import { STAND_IN_ACCOUNT } from "../common/simulated.js";
import { packageVersion } from "../common/version.js";
import { Desk } from "../guardian/desk.js";
import { SolarMeter } from "../simulate/esp32-meter.js";
import { deviceKey, publicKey } from "../simulate/esp32-sender.js";
import { GuardianSimulator } from "../simulate/guardian-server.js";
import { Ledger } from "../store/ledger.js";

const DAY_MS = 86_400_000;
/** A month of the past: the same figures and the same bytes on every machine. */
export const PERIOD = { from: Date.UTC(2026, 0, 1), to: Date.UTC(2026, 1, 1), name: "January 2026" };
export const SITE = { siteId: "trial", name: "Trial plant", zone: "Africa/Casablanca", latitude: 33.57, longitude: -7.59, currency: "MAD", ratedPowerW: 500_000 };
const DEVICES = ["esp32-1", "esp32-2"];

/** Time that passes when it is told to. */
class SetClock implements Clock {
    constructor(public at: number) {}

    now(): number {
        return this.at;
    }

    monotonic(): number {
        return this.at;
    }

    /** Ends only by the signal: whoever sets the time says what is done next. */
    sleep(_ms: number, signal?: AbortSignal): Promise<void> {
        return new Promise((_, reject) => {
            signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
        });
    }

    /** Never comes: a check commits what waits. */
    after(): () => void {
        return () => undefined;
    }
}

/** An ESP32 with a meter at the interconnection: it counts, numbers and signs what it reads. */
class TrialDevice {
    private readonly key: KeyObject;
    private readonly solar: SolarMeter;
    private seq = 0;

    constructor(
        readonly name: string,
        index: number,
        private readonly ratedW: number,
    ) {
        this.key = deviceKey("wattledger trial", name);
        this.solar = new SolarMeter({ seed: 1, latitude: SITE.latitude, longitude: SITE.longitude, ratedW }, index, { at: PERIOD.from, exportWh: 1000, importWh: 1000 });
    }

    /** The inventory's entry. */
    get meter(): object {
        const calibrations = [{ at: "2025-12-01", until: "2028-12-01", certificate: "trial" }];
        return { meter: `${SITE.siteId}/${this.name}`, kind: "grid", ratedW: this.ratedW, from: "2025-12-01", accuracyClass: "0.5S", mpeExport: 0.005, mpeImport: 0.005, calibrations, key: publicKey(this.key) };
    }

    reading(at: number): ReadingMessage {
        const { values } = this.solar.sample(at);
        const meta = { site: SITE.siteId, device: this.name, class: "meter", seq: this.seq++, quality: "good", simulated: true, boot: 1 } as const;
        const unsigned = sampleOf(createReading({ ...meta, signature: "" }, at, values), at);
        if (typeof unsigned === "string") throw new WattError("TRIAL_FAILED", unsigned);
        return createReading({ ...meta, signature: sign(null, Buffer.from(statementOf(unsigned)), this.key).toString("base64") }, at, values);
    }
}

/** What a trial recorded of a month. */
export interface Outcome {
    samples: number;
    intervals: Interval[];
    reports: { report: Report; evidence: Evidence }[];
    /** What a person would have been told. */
    warnings: WattError[];
}

/** The whole way from devices to a mint in a folder of its own: a stand-in for Guardian, a desk there, a book. It leaves nothing behind. */
export class Trial {
    readonly devices = DEVICES.map((name, i) => new TrialDevice(name, i, SITE.ratedPowerW / DEVICES.length));
    private readonly remove = () => rmSync(this.folder, { recursive: true, force: true });
    private readonly interrupt = () => process.exit(130);

    private constructor(
        readonly folder: string,
        readonly simulator: GuardianSimulator,
        readonly desk: Desk,
    ) {
        // Ctrl+C leaves nothing either.
        process.once("exit", this.remove);
        process.once("SIGINT", this.interrupt);
    }

    static async begin(): Promise<Trial> {
        const folder = await mkdtemp(path.join(tmpdir(), "wl-carbon-"));
        const simulator = new GuardianSimulator({ host: "127.0.0.1", port: 0, profile: "g3x", rounding: "nearest", seed: 1, password: STAND_IN_ACCOUNT.password });
        await simulator.start();
        const account = { isStandIn: true, url: simulator.url, loginBy: "username", username: "", password: "", tenantId: "", policyId: "", fingerprint: "" } as const;
        return new Trial(folder, simulator, new Desk({ ...account, rounding: "nearest", mirrorUrl: simulator.mirrorUrl }, path.join(folder, "guardian"), "desk"));
    }

    /** Lets the devices measure for the month, samples `sampleS` apart, and seals and reports it as wl-ams-id does. */
    async measure(settings: object, sampleS: number): Promise<Outcome> {
        const clock = new SetClock(PERIOD.from);
        const rules = rulesOf(settings, SITE, packageVersion());
        const outcome: Outcome = { samples: 0, intervals: [], reports: [], warnings: [] };
        const ledger = new Ledger({ folder: path.join(this.folder, "ledger"), origin: `wattledger/${SITE.siteId}` });
        const listener = {
            onInterval: (interval: Interval) => void outcome.intervals.push(interval),
            onReport: (report: Report, evidence: Evidence) => void outcome.reports.push({ report, evidence }),
            onAdjustment: () => undefined,
            onStatus: () => undefined,
            onWarning: (error: WattError) => void outcome.warnings.push(error),
        };
        const aggregator = new Aggregator(this.folder, rules, listener, new EvidenceKeeper(path.join(this.folder, "evidence"), () => ledger, recomputeReport), clock);
        const ended = new AbortController();
        // What fails it fails the commands too.
        const running = aggregator.run(ended.signal).catch(() => undefined);
        try {
            await aggregator.command("status");
            let at = PERIOD.from;
            for (let day = PERIOD.from; day < PERIOD.to; day += DAY_MS) {
                const end = day + DAY_MS;
                const taken: Promise<void>[] = [];
                clock.at = end;
                // The sample at the end shows that the last hour is whole.
                for (; at <= end; at += sampleS * 1000) {
                    for (const device of this.devices) taken.push(aggregator.take(device.reading(at)));
                }
                clock.at = end + rules.graceMs;
                await Promise.all([...taken, aggregator.command("check")]);
                outcome.samples += taken.length;
            }
            return outcome;
        } finally {
            ended.abort();
            await running;
            await aggregator.close();
            await ledger.close();
        }
    }

    async close(): Promise<void> {
        await this.desk.close();
        await this.simulator.close();
        process.off("exit", this.remove);
        process.off("SIGINT", this.interrupt);
        this.remove();
    }
}
