// Keeps the newest reading of every device and, on each tick, sends what the widgets show:
// 1 energy flow, 2 key figures, 3 devices, 4 live values, 5 the day chart's first minutes. Values come in SI units and leave as text with a readable unit.
// Signs: grid + import, battery + discharge, solar + generation; so house = solar + battery + grid.
const IDLE_W = 20;
const now = Date.now();
const devices = context.get("devices") ?? {};
/** What the store kept; undefined until it has answered. */
const past = context.get("history");
const history = past ?? { sparks: {}, first: {} };

if (msg.topic === "history") return void context.set("history", msg.payload);
if (msg.topic === "latest") {
    // After a restart a device that is silent is still one of the plant's.
    for (const { payload, timestamp, reading } of msg.payload) {
        if (now - timestamp > 24 * 3_600_000) continue;
        const values = Object.fromEntries(Object.entries(payload).map(([point, value]) => [point, { value, at: timestamp }]));
        devices[reading.device] ??= { ...reading, bad: {}, values, first: {}, at: timestamp, every: 1000 };
    }
    return void context.set("devices", devices);
}
/** The last error of each device; a device and the node that reads it have one name. */
const errors = context.get("errors") ?? {};
if (msg.error) {
    errors[msg.error.source?.name] = { text: msg.error.message, at: now };
    return void context.set("errors", errors);
}
if (msg.reading) {
    const { device, bad = {} } = msg.reading;
    const known = devices[device] ?? { values: {}, at: msg.timestamp };
    // The poll interval, learned; a long silence must not stretch it.
    const gap = Math.min(60_000, msg.timestamp - known.at);
    // A device that does not answer is told of too, with nothing in it: its age goes on.
    const answered = Object.keys(msg.payload).length > 0;
    const values = { ...known.values };
    for (const point of Object.keys(bad)) delete values[point];
    for (const [point, value] of Object.entries(msg.payload)) values[point] = { value, at: msg.timestamp };
    const first = { ...msg.payload, ...known.first };
    const firstAt = known.firstAt ?? msg.timestamp;
    devices[device] = { ...msg.reading, bad, values, first, firstAt, at: answered ? msg.timestamp : known.at, every: answered ? Math.max(gap, (known.every ?? 0) * 0.9) : known.every };
    return void context.set("devices", devices);
}

const UNITS = {
    w_m2: ["W/m²", 0], wh_m2: ["Wh/m²", 0], varh: ["varh", 0], vah: ["VAh", 0], wh: ["Wh", 0], ah: ["Ah", 1], var: ["var", 0], va: ["VA", 0],
    w: ["W", 0], hz: ["Hz", 2], m_s: ["m/s", 1], ohm: ["Ω", 0], pct: ["%", 1], ratio: ["", 3], deg: ["°", 1], mm: ["mm", 1], pa: ["Pa", 0],
    v: ["V", 1], a: ["A", 2], c: ["°C", 1], s: ["s", 0],
};
const SCALED = { W: true, Wh: true, var: true, VA: true, varh: true, VAh: true };
function show(value, unit, digits = 0) {
    if (value === undefined) return { value: "–", unit };
    if (!SCALED[unit] || Math.abs(value) < 999.5) return { value: value.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1"), unit };
    const [scaled, prefix] = Math.abs(value) < 999_500 ? [value / 1e3, "k"] : [value / 1e6, "M"];
    const size = Math.abs(scaled);
    return { value: scaled.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0), unit: prefix + unit };
}
/** As a device's own display shows it. */
const counter = (wh) => ({ value: (wh / 1000).toFixed(wh < 1e6 ? 2 : 1), unit: "kWh" });
const kwh = (wh) => (wh / 1000).toFixed(1);
const text = (value, unit, digits) => Object.values(show(value, unit, digits)).join(" ");

const ORDER = ["inverter", "mppt", "battery", "meter", "weather", "tracker"];
const rank = (d) => (ORDER.indexOf(d.class) + 1 || ORDER.length + 1);
const all = Object.values(devices).toSorted((a, b) => rank(a) - rank(b) || a.device.localeCompare(b.device));
const patience = (d) => (d.every ? Math.max(10_000, 3.5 * d.every) : 65_000);
const silent = (d) => now - d.at > patience(d);
/** A check meter stands where another one counts: it is shown, and enters no sum. */
const of = (kind) => all.filter((d) => d.class === kind && !d.device.startsWith("check-"));

/** Sum over a class; a stale value never enters it, and `have` of `all` says how complete it is. */
function sum(kind, ...points) {
    const members = of(kind);
    const values = members
        .map((d) => points.map((point) => d.values[point]).find((v) => v && now - v.at <= patience(d))?.value)
        .filter((v) => typeof v === "number");
    return { value: values.length > 0 ? values.reduce((a, b) => a + b) : undefined, have: values.length, all: members.length };
}
const mean = (kind, ...points) => {
    const { value, have } = sum(kind, ...points);
    return value === undefined ? undefined : value / have;
};

const solar = sum("inverter", "ac_power_w");
const grid = sum("meter", "ac_power_w");
const battery = sum("battery", "ac_power_w", "dc_power_w");
const parts = [solar, grid, battery];
const complete = solar.all + grid.all > 0 && grid.all > 0 && parts.every((part) => part.have === part.all);
const house = complete ? Math.max(0, parts.reduce((total, part) => total + (part.value ?? 0), 0)) : undefined;
const soc = mean("battery", "soc_pct");
const irradiance = mean("weather", "irradiance_poa_w_m2", "irradiance_ghi_w_m2");

/** The counter at the day's start: of the first minute the store kept only the last value, so what was seen here may be earlier. */
function begin(d, point) {
    const seen = past && d.firstAt >= (history.since ?? 0) ? d.first[point] : undefined;
    return Math.min(history.first[d.device]?.[point] ?? Infinity, seen ?? Infinity);
}
/** Energy since local midnight, in Wh. */
function today(kind, point) {
    const moved = of(kind)
        .map((d) => (d.values[point]?.value ?? NaN) - begin(d, point))
        .filter((wh) => wh >= 0);
    return moved.length > 0 ? moved.reduce((a, b) => a + b) : undefined;
}
const made = today("inverter", "ac_energy_export_wh");
const bought = today("meter", "ac_energy_import_wh");
const sold = today("meter", "ac_energy_export_wh");
const ownUse = made > 0 && sold !== undefined ? Math.min(1, Math.max(0, 1 - sold / made)) : undefined;

const coverage = ({ have, all }, what) => (have < all ? `${have} of ${all} ${what}`.trim() : "");
const direction = (w, plus, minus) => (w === undefined ? "" : Math.abs(w) < IDLE_W ? "idle" : w > 0 ? plus : minus);
const power = (w) => show(w === undefined ? undefined : Math.abs(w) < IDLE_W ? 0 : Math.abs(w), "W");
const peer = (w, plus, minus) => ({ ...power(w), way: w === undefined || Math.abs(w) < IDLE_W ? 0 : Math.sign(w), w, note: direction(w, plus, minus) });

const flow = {
    solar: { ...peer(solar.value, "", ""), note: coverage(solar, "") },
    grid: peer(grid.value, "importing", "exporting"),
    battery: { ...peer(battery.value, "discharging", "charging"), soc: soc === undefined ? undefined : Math.round(soc), fitted: battery.all > 0 },
    house: peer(house, "", ""),
    simulated: all.some((d) => d.simulated),
};

// In the first minutes the curve is made of what this page's clock saw; later it is the store's minutes with the value of now.
const live = context.get("live") ?? {};
context.set("live", live);
function spark(key, value) {
    live[key] = [...(live[key] ?? []), value ?? null].slice(-60);
    const past = history.sparks[key] ?? [];
    return past.length < 3 ? live[key] : [...past, value ?? null].slice(-61);
}
const note = (...parts) => parts.filter(Boolean).join(" · ");
const weather = (point, label) => {
    const value = mean("weather", point);
    return value === undefined ? "" : `${label} ${text(value, "°C", 0)}`;
};
const tiles = [
    { key: "solar", id: "solar", label: "Solar power", ...show(solar.value, "W"), note: coverage(solar, "inverters") || "all inverters", spark: spark("solar", solar.value) },
    {
        key: "sun",
        id: "irradiance",
        label: "Irradiance",
        ...show(irradiance, "W/m²"),
        note: note(weather("module_temperature_c", "module"), weather("ambient_temperature_c", "air")),
        spark: spark("sun", irradiance),
    },
    {
        key: "battery",
        id: "soc",
        label: "Battery",
        ...show(soc, "%"),
        note: note(direction(battery.value, "discharging", "charging"), Math.abs(battery.value) >= IDLE_W ? text(Math.abs(battery.value), "W") : ""),
        spark: spark("soc", soc),
        range: [0, 100],
    },
    {
        key: "solar",
        id: "energy",
        label: "Solar today",
        ...show(made, "Wh"),
        note: ownUse === undefined ? "" : `${Math.round(ownUse * 100)} % used on site`,
        spark: spark("made", made),
    },
    {
        key: "grid",
        id: "grid",
        label: direction(grid.value, "Grid import", "Grid export").replace("idle", "Grid") || "Grid",
        ...power(grid.value),
        note: sold === undefined ? "" : `kWh today: ${kwh(bought ?? 0)} in, ${kwh(sold)} out`,
        spark: spark("grid", grid.value),
    },
    { key: "house", id: "house", label: "House", ...power(house), note: house === undefined ? "a reading is missing" : "solar + battery + grid", spark: spark("house", house) },
];

const ASLEEP = /^(off|sleeping|standby|shutting_down)$/i;
const cards = all.map((d) => {
    const state = d.values.state?.value;
    const level = silent(d) || d.quality === "bad" ? "bad" : d.quality === "uncertain" ? "doubt" : ASLEEP.test(state ?? "") ? "rest" : "good";
    return {
        device: d.device, kind: d.class, level, at: d.at, quality: silent(d) ? "stale" : d.quality,
        state: silent(d) ? "silent" : /^[A-Z]{1,4}$/.test(state) ? state : String(state ?? "online").toLowerCase().replaceAll("_", " "),
        doubtful: Object.entries(d.bad).map(([point, reason]) => `${point}: ${reason}`),
        error: errors[d.device],
    };
});

const rows = all.flatMap((d) =>
    [...new Set([...Object.keys(d.values), ...Object.keys(d.bad)])].toSorted().map((point) => {
        const known = d.values[point];
        const suffix = Object.keys(UNITS).find((key) => point.endsWith(`_${key}`));
        const [unit, digits] = UNITS[suffix] ?? ["", 0];
        const label = (suffix ? point.slice(0, -suffix.length - 1) : point)
            .replaceAll("_", " ")
            .replace(/\b(ac|dc|mppt\d*|poa|ghi|l\d)\b/g, (found) => found.toUpperCase())
            .replace(/\bsoc\b/, "SoC")
            .replace(/^./, (first) => first.toUpperCase());
        const shown = typeof known?.value === "string" ? { value: known.value, unit: "" } : unit === "Wh" && known ? counter(known.value) : show(known?.value, unit, digits);
        return { device: d.device, point, label, ...shown, at: known?.at ?? d.at, reason: d.bad[point] ?? (silent(d) ? "stale" : "") };
    }),
);

// Until the store has minutes to draw, the chart grows by what is seen now.
const ticks = (context.get("ticks") ?? 0) + 1;
context.set("ticks", ticks);
const early = ticks % 5 === 0 && (history.sparks.solar ?? []).length < 3 && solar.value !== undefined;
const points = Object.entries({ Solar: solar.value, House: house, Grid: grid.value, Battery: battery.value })
    .filter(([, w]) => w !== undefined)
    .map(([series, w]) => ({ series, x: now, y: Math.round(w) / 1000 }));

return [...[flow, tiles, cards, rows].map((payload) => ({ payload, now })), early ? { payload: points, action: "append" } : null];
