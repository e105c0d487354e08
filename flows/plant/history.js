// Turns what the store kept (readings of minute means, `msg.topic` "today" or "hour") into the day chart (output 2), and into
// sparklines and the counters at midnight for the page's state (output 1).
// A sum with a part missing is no sum: it leaves a gap.
const READ = {
    solar: ["inverter", "ac_power_w"],
    grid: ["meter", "ac_power_w"],
    battery: ["battery", "ac_power_w", "dc_power_w"],
    sun: ["weather", "irradiance_poa_w_m2", "irradiance_ghi_w_m2"],
    soc: ["battery", "soc_pct"],
    made: ["inverter", "ac_energy_export_wh"],
};
const LOOK = {
    grid: { left: 8, right: 16, top: 36, bottom: 6, containLabel: true },
    legend: { top: 4, icon: "roundRect", itemWidth: 14, itemHeight: 4 },
    xAxis: { axisLine: { onZero: false }, axisTick: { show: false }, splitLine: { show: false } },
    yAxis: { min: null, max: null, nameLocation: "end", nameGap: 10, axisLine: { show: false } },
    tooltip: { confine: true },
    series: [{ name: "Solar", areaStyle: { opacity: 0.12 } }],
};
const MINUTE = 60_000;
const history = () => ({ topic: "history", payload: { first: state.first, since: state.since, sparks: state.sparks } });
// A check meter stands where another one counts: it enters no sum.
const readings = msg.payload.filter(({ reading }) => !reading.device.startsWith("check-"));
const state = context.get("state") ?? { first: {}, sparks: {}, shown: 0 };
context.set("state", state);

if (msg.topic === "today") {
    state.first = {};
    state.since = readings[0]?.timestamp;
    for (const { payload, reading } of readings) {
        const first = (state.first[reading.device] ??= {});
        for (const point in payload) if (point.endsWith("_wh")) first[point] ??= payload[point];
    }
}

const classes = new Map();
for (const { reading } of readings) classes.set(reading.device, reading.class);
const members = {};
for (const kind of classes.values()) members[kind] = (members[kind] ?? 0) + 1;

/** By start of the minute: each quantity over its class, absent where a device is missing. */
const minutes = new Map();
for (const { timestamp, payload, reading } of readings) {
    const minute = minutes.get(timestamp) ?? {};
    minutes.set(timestamp, minute);
    for (const [key, [kind, ...points]] of Object.entries(READ)) {
        if (reading.class !== kind) continue;
        let value = points.map((point) => payload[point]).find((each) => typeof each === "number");
        if (value === undefined) continue;
        if (key === "made") value -= state.first[reading.device]?.ac_energy_export_wh ?? NaN;
        const entry = (minute[key] ??= { sum: 0, count: 0 });
        entry.sum += value;
        entry.count++;
    }
}
function valueOf(minute, key) {
    if (key === "house") {
        const parts = ["solar", "grid", ...(members.battery ? ["battery"] : [])].map((part) => valueOf(minute, part));
        return parts.includes(undefined) ? undefined : Math.max(0, parts.reduce((a, b) => a + b));
    }
    const entry = minute?.[key];
    const all = members[READ[key][0]];
    // Before the counters at midnight are known there is no energy of the day, and after midnight none of the day before.
    if (!entry || entry.count < all || (key === "made" && !(entry.sum >= 0))) return undefined;
    return key === "sun" || key === "soc" ? entry.sum / all : entry.sum;
}

if (msg.topic === "hour") {
    const end = Math.floor(Date.now() / MINUTE);
    for (const key of ["solar", "sun", "soc", "made", "grid", "house"]) {
        const line = [];
        for (let at = end - 60; at < end; at++) {
            const value = valueOf(minutes.get(at * MINUTE), key);
            line.push(value === undefined ? null : Number(value.toPrecision(4)));
        }
        const begin = line.findIndex((value) => value !== null);
        state.sparks[key] = begin < 0 ? [] : line.slice(begin);
    }
    return [history(), null];
}

// The day in at most some 300 steps, however long it already is.
const times = [...minutes.keys()].toSorted((a, b) => a - b);
if (times.length < 2) return [history(), { ui_update: { chartOptions: LOOK } }];
const width = [1, 2, 5, 10].find((step) => (times.at(-1) - times[0]) / MINUTE / step <= 300) * MINUTE;
const from = Math.floor(times[0] / width) * width;
// The last step is still filling: it is shown with the next one, or when a page is opened.
const to = Math.floor(times.at(-1) / width) * width;
if (!msg.opened && to === state.shown) return [history(), null];
state.shown = to;
const points = [];
for (const [key, series] of [["solar", "Solar"], ["house", "House"], ["grid", "Grid"], ["battery", "Battery"]]) {
    if (key === "battery" && !members.battery) continue;
    for (let x = from; x < to; x += width) {
        const values = [];
        for (let at = x; at < x + width; at += MINUTE) {
            const value = valueOf(minutes.get(at), key);
            if (value !== undefined) values.push(value);
        }
        const mean = values.reduce((a, b) => a + b, 0) / values.length;
        points.push({ series, x, y: values.length > 0 ? Math.round(mean) / 1000 : null });
    }
}
// The look goes alone: the chart keeps every property of a message with each of its points.
return [history(), [{ ui_update: { chartOptions: LOOK } }, { payload: points }]];
