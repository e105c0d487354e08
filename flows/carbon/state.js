// Keeps what the nodes say and, on each tick, sends what the widgets show: 1 key figures, 2 report, 3 deductions, 4 intervals, 5 devices;
// 6 asks wl-ams-id for a report that was made before this start.
const now = Date.now();
const HOUR = 3_600_000;
const known = context.get("known") ?? { stats: {}, intervals: [], devices: {} };
const keep = (changes) => void context.set("known", Object.assign(known, changes));

if (msg.error) return keep({ ...(known.verdict?.busy && { verdict: undefined }), error: { text: msg.error.message, source: msg.error.source?.name || msg.error.source?.type, at: now } });
if (msg.topic === "latest") {
    // After a restart a device that is silent is still one of the plant's.
    for (const { payload, timestamp, reading } of msg.payload) known.devices[reading.device] ??= { ...reading, values: payload, at: timestamp, heard: timestamp };
    return keep({});
}
if (msg.topic === "intervals") return keep({ intervals: [...msg.payload, ...known.intervals.filter(({ number }) => !msg.payload.some((old) => old.number === number))].slice(-14) });
if (msg.interval) return keep({ intervals: [...known.intervals.filter(({ number }) => number !== msg.payload.number), msg.payload].slice(-14) });
if (msg.reading) {
    const { device } = msg.reading;
    const before = known.devices[device] ?? { values: {}, at: 0 };
    // What was late is no news of the device.
    if (msg.timestamp < before.at) return;
    known.devices[device] = { ...msg.reading, values: { ...before.values, ...msg.payload }, at: msg.timestamp, heard: now };
    return keep({});
}
if (msg.payload?.kind === "project") return keep({ project: { state: msg.payload.state, stage: msg.payload.stage, reason: msg.payload.reason } });
if (msg.payload?.kind === "report") return keep({ dry: msg.payload, error: undefined });
if (msg.evidence) return keep({ report: msg.payload, root: msg.evidence.root, preview: undefined, dry: undefined, verdict: undefined });
if (msg.topic === "check" || msg.topic === "status") return keep({ stats: msg.payload });
if (msg.topic === "preview") return keep({ preview: msg.payload });
if (msg.topic === "report") return msg.payload ? keep({ report: msg.payload }) : undefined;
if (msg.topic === "verify") return keep({ verdict: { ...msg.payload, number: known.verifying, at: now }, ...(msg.payload.root && { root: msg.payload.root }) });
if (msg.topic === "ask verify") {
    if (!known.report) return;
    keep({ verifying: known.report.number, verdict: { busy: true } });
    return [null, null, null, null, null, { topic: "verify", command: { verify: known.report.number } }];
}
if (msg.topic !== "tick") return;

const { stats, preview, report, dry, intervals } = known;
/** What is under way, or else what was reported last. */
const current = preview ?? report;
const figures = current?.figures;
const number = (value, digits) => (value === undefined ? "–" : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const mwh = (wh) => number(wh === undefined ? undefined : wh / 1e6, 3);
const percent = (ratio) => number(ratio === undefined ? undefined : 100 * ratio, 1);
const day = (iso) => iso?.slice(0, 16).replace("T", " ").replace(" 00:00", "") ?? "";
const period = current && `${day(current.period.from)} to ${day(current.period.to)}`;
const factor = current?.factor && current.factor.om * current.factor.wOm + current.factor.bm * current.factor.wBm;
const totalWh = stats.claimedWh === undefined ? undefined : stats.claimedWh + stats.pendingWh;
const expected = current && (current.meters.length * (current.period.toMs - current.period.fromMs)) / 1000 / env.get("WL_SAMPLE_S");
const tile = (id, key, label, value, unit, note) => ({ id, key, label, value, unit, note });
const tiles = [
    tile("energy", "solar", "Energy to the grid", mwh(totalWh), "MWh", "net, claimed and pending"),
    tile("reduction", "battery", "Emission reduction", number(factor === undefined || totalWh === undefined ? undefined : (totalWh / 1e6) * factor, 3), "tCO2e", factor === undefined ? "no emission factor" : `${number(factor, 5)} t/MWh${current.factor.sourced ? "" : ", not fully sourced"}`),
    tile("credits", "battery", "Credits predicted", number(stats.credits, 0), "t", `${stats.reports ?? 0} reports, whole tonnes`),
    tile("claimed", "grid", "Claimed", number(stats.claimedWh, 0), "Wh", "in reports, each Wh once"),
    tile("pending", "grid", "Pending", number(stats.pendingWh, 0), "Wh", stats.waiting > 0 ? `${stats.waiting} late data wait for a person` : "carried to the next report"),
    tile("capacity", "sun", "Capacity factor", percent(figures?.capacityFactor), "%", period),
    tile("rate", "house", "Data collection rate", percent(expected && Math.min(1, figures.points / expected)), "%", figures ? `${number(figures.points, 0)} of ${number(Math.round(expected), 0)} samples` : ""),
    tile("coverage", "house", "Coverage", percent(figures?.coverage), "%", "of time, the least of the meters"),
];

const WORDS = { Verified: "good", Minted: "good", Validated: "good" };
const reportLevel = !report ? "rest" : !dry ? "doubt" : dry.ok ? "good" : "bad";
const panel = {
    title: report ? `Report ${report.number}` : "No report yet",
    period: report && `${day(report.period.from)} to ${day(report.period.to)} UTC, half-open`,
    level: reportLevel,
    state: !report ? "waiting for whole tonnes" : !dry ? "dry run under way" : dry.ok ? "dry run: it could be filed" : "dry run: it would be refused",
    simulated: current?.simulated === true,
    rows: report
        ? [
              ["Claimed", `${report.figures.egMWh} MWh`],
              ["Reduction", `${report.figures.reductionT.toFixed(6)} tCO2e`],
              ["Credits", dry?.mint === undefined ? `${report.figures.credits}` : `${report.figures.credits}, the policy would mint ${dry.mint}`],
              ["Policy", dry ? `${dry.policy.name}, ${dry.policy.status}` : "–"],
              ["Project", known.project ? [known.project.stage || known.project.state, known.project.reason].filter(Boolean).join(": ") : "–"],
              ["Evidence", known.root ?? "press Verify"],
          ]
        : [],
    problems: [
        ...(dry?.violations ?? []).map(({ path, problem }) => `${path || "The document"} ${problem}`),
        ...(preview?.refusals ?? []).filter(({ code }) => code !== "BELOW_MINIMUM").map(({ text }) => `Next report: ${text}`),
        ...(known.error && now - known.error.at < HOUR ? [`${known.error.source}: ${known.error.text}`] : []),
    ],
    next: preview?.refusals?.find(({ code }) => code === "BELOW_MINIMUM")?.text,
    projectLevel: WORDS[known.project?.stage] ?? "rest",
    verdict: known.verdict,
};

const lines = (current?.lines ?? []).filter(({ wh }) => wh !== 0);
const deductions = {
    title: current === report ? "of the last report" : "of what is under way",
    gross: number(figures?.grossExportWh, 0),
    lines: lines.slice(0, 60).map(({ code, meter, direction, wh, afterWh, basis }) => ({ code, of: meter?.replace(/^.*\//, "") ?? direction, wh: number(wh, 0), after: number(afterWh, 0), basis })),
    more: Math.max(0, lines.length - 60),
};

const most = Math.max(1, ...intervals.map(({ netWh }) => netWh));
const bars = intervals
    .toSorted((a, b) => b.number - a.number)
    .map(({ number: n, from, netWh, coverage, points, excludedWh, simulated }) => ({ n, from: day(from), mwh: mwh(netWh), share: Math.max(0, netWh / most), coverage: percent(coverage), points: number(points, 0), excluded: excludedWh > 0 ? `${number(excludedWh, 0)} Wh not claimed` : "", simulated }));

const patience = Math.max(90_000, 2500 * env.get("WL_SAMPLE_S"));
const cards = Object.values(known.devices)
    .toSorted((a, b) => a.device.localeCompare(b.device, "en", { numeric: true }))
    .slice(0, 60)
    .map((d) => {
        const silent = now - d.heard > patience;
        const w = d.values.ac_power_w;
        return {
            device: d.device, kind: d.class, at: d.at, doubtful: [],
            quality: `${d.quality}${d.signature ? ", signed" : ""}${d.simulated ? ", simulated" : ""}`,
            level: silent ? "bad" : d.quality === "good" ? "good" : "doubt",
            state: silent ? "silent" : w === undefined ? "online" : `${number(Math.abs(w) / 1000, 1)} kW ${w < 0 ? "out" : "in"}`,
        };
    });

// Once more where the dry run had no answer, or the report is of an earlier start.
const wanted = report?.number ?? stats.reports;
const isOpen = wanted > 0 && !dry && now - (known.asked ?? now - 5000) > 10_000;
if (wanted > 0) keep({ asked: isOpen || known.asked === undefined ? now : known.asked });
return [...[tiles, panel, deductions, bars, cards].map((payload) => ({ payload, now })), isOpen ? { topic: "report", command: { report: wanted } } : null];
