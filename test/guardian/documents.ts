import type { Report } from "../../dist/carbon/report.js";

export const KEY = "0123456789abcdef".repeat(4);

export const FACTS = {
    id: "farm-1",
    summary: "A ground-mounted photovoltaic plant that delivers to the national grid",
    organisation: "Sunny Field",
    email: "office@example.org",
    country: "Morocco",
    latitude: 31.51,
    longitude: -9.77,
    startDate: "2026-01-01",
    creditingPeriod: { from: "2026-01-01", to: "2032-12-31", first: true },
    yearlyMWh: 1600,
    factor: { om: 0.729, bm: 0.326, source: "UNFCCC IFI default grid factors 2021", vintage: "2021" },
};

/** A report as wl-ams-id makes it, of January 2026. */
export function fakeReport({ mwh, month = 0, simulated = false, meters = ["meter-1"] }: { mwh: number; month?: number; simulated?: boolean; meters?: string[] }): Report {
    const { om, bm, source, vintage } = FACTS.factor;
    const [fromMs, toMs] = [Date.UTC(2026, month, 1), Date.UTC(2026, month + 1, 1)];
    const reductionT = mwh * (om * 0.75 + bm * 0.25);
    const credits = Math.floor(reductionT);
    const egMWh = Math.ceil((credits / (om * 0.75 + bm * 0.25)) * 1e6) / 1e6;
    const claimed = egMWh * (om * 0.75 + bm * 0.25);
    return {
        format: "wattledger.ams-i-d.report/1",
        key: Buffer.from(`${meters.join()} ${fromMs} ${mwh}`.padEnd(32).slice(0, 32)).toString("hex"),
        number: month + 1,
        project: { id: FACTS.id, name: "Farm", capacityW: 1e6 },
        methodology: { id: "AMS-I.D", version: "18.0" },
        period: { from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), fromMs, toMs, zone: "UTC", intervals: [1, 31] },
        simulated,
        ready: true,
        refusals: [],
        applicability: [],
        factor: { om, bm, wOm: 0.75, wBm: 0.25, kind: "ex-ante", source, vintage, validFrom: 0, validTo: 8.64e15, fileSha256: "ab".repeat(32), id: "f", sourced: true },
        figures: { egMWh, reductionT: claimed, baselineT: claimed, projectT: 0, leakageT: 0, credits, claimedWh: egMWh * 1e6 },
        meters: meters.map((meter) => ({ meter })),
    } as unknown as Report;
}
