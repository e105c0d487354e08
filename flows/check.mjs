// `--check`: proves that what the plant's devices said was kept, by asking the stores themselves.
import { setTimeout as sleep } from "node:timers/promises";

/** Of a long check only the newest readings of a device are looked up. */
const LOOKED_UP = 1000;
const DELIVERY_WITHIN_MS = 15_000;

/** Nodes that read devices. */
const SOURCES = ["wl-sunspec", "wl-modbus", "wl-esp32"];

/** Notes what every such node sends from now on, until `finishCheck` compares it with what was kept. */
export function watchReadings(RED) {
    const sources = new Map();
    for (const { id, name } of SOURCES.flatMap((type) => nodesOf(RED, type))) sources.set(id, { name: name || id, status: "no status", devices: new Map() });
    RED.events.on("node-status", ({ id, status }) => {
        if (sources.has(id)) sources.get(id).status = status.text;
    });
    const carbon = nodesOf(RED, "wl-ams-id").length > 0 ? { intervals: new Set(), reports: new Set(), dryRuns: 0, problems: [] } : undefined;
    sources.carbon = carbon;
    RED.hooks.add("onSend.wl-check", (events) => {
        for (const { msg, source } of events) {
            if (carbon && source.node?.type === "wl-ams-id") {
                if (msg?.interval) carbon.intervals.add(msg.payload.number);
                if (msg?.evidence) carbon.reports.add(msg.payload.number);
            }
            if (carbon && source.node?.type === "wl-guardian-report" && msg?.payload?.state === "DRY-RUN") {
                if (msg.payload.ok) carbon.dryRuns++;
                else carbon.problems = msg.payload.violations.map(({ path, problem }) => `${path || "The document"} ${problem}`);
            }
            const devices = sources.get(source.id)?.devices;
            if (!devices || !msg?.reading) continue;
            const { site, device, class: kind } = msg.reading;
            if (!devices.has(device)) devices.set(device, { site, device, class: kind, times: new Set() });
            devices.get(device).times.add(msg.timestamp);
        }
    });
    return sources;
}

/** Resolves after the time asked for, with a summary that JSON can carry; `ok` is false when anything was not kept. */
export async function finishCheck(RED, sources, { check: seconds, influx }) {
    await sleep(seconds * 1000);
    RED.hooks.remove("onSend.wl-check");
    await sleep(500);
    const reasons = [];
    const devices = {};
    const stores = nodesOf(RED, "wl-store").map(({ id }) => RED.nodes.getNode(id)?.store).filter(Boolean);
    if (sources.size === 0) reasons.push(`The flow has none of ${SOURCES.join(", ")}.`);
    for (const { name, status, devices: seen } of sources.values()) {
        if (seen.size === 0) reasons.push(`${name} sent no reading: ${status}.`);
        for (const [key, { site, device, class: kind, times }] of seen) {
            const range = { site, device, from: Math.min(...times), to: Math.max(...times) + 1 };
            const kept = new Set();
            for (const { series } of stores) {
                await series.flush();
                for (const { t } of await series.query({ ...range, limit: LOOKED_UP })) kept.add(t);
            }
            devices[key] = { class: kind, readings: times.size, kept: found(times, kept) };
            if (devices[key].kept < Math.min(times.size, LOOKED_UP)) reasons.push(`${key}: ${devices[key].kept} of ${times.size} readings reached the local series.`);
            devices[key].range = range;
        }
    }
    if (influx) await checkInflux(RED, stores, sources, devices, reasons);
    for (const entry of Object.values(devices)) delete entry.range;
    const { carbon } = sources;
    if (carbon && carbon.reports.size === 0) reasons.push(`${carbon.intervals.size} intervals were sealed, and no report was made of them.`);
    else if (carbon && carbon.dryRuns === 0) reasons.push(`No report could be filed: ${carbon.problems.join("; ") || "Guardian gave no answer"}.`);
    return { ok: reasons.length === 0, seconds, devices, ...(carbon && { carbon: { intervals: carbon.intervals.size, reports: carbon.reports.size, dryRuns: carbon.dryRuns } }), reasons };
}

async function checkInflux(RED, stores, sources, devices, reasons) {
    const connections = nodesOf(RED, "wl-influxdb").map(({ id }) => RED.nodes.getNode(id)?.connection).filter(Boolean);
    if (connections.length === 0) return void reasons.push("The flow has no wl-influxdb node that is set up.");
    const times = new Map([...sources.values()].flatMap(({ devices: seen }) => [...seen].map(([key, entry]) => [key, entry.times])));
    const deadline = Date.now() + DELIVERY_WITHIN_MS;
    for (const [key, entry] of Object.entries(devices)) {
        const wanted = Math.min(entry.readings, LOOKED_UP);
        entry.influx = 0;
        let fault = "";
        do {
            try {
                for (const { influxql } of connections) entry.influx = Math.max(entry.influx, await inInflux(influxql, entry, times.get(key)));
            } catch (error) {
                fault = ` ${error.message}`;
            }
        } while (entry.influx < wanted && Date.now() < deadline && (await sleep(200, true)));
        if (entry.influx < wanted) reasons.push(`${key}: ${entry.influx} of ${entry.readings} readings reached InfluxDB.${fault}`);
    }
    for (const { pendingPoints, quarantined, reason } of stores.flatMap((store) => Object.values(store.health().outboxes))) {
        if (pendingPoints > 0) reasons.push(`${pendingPoints} points wait for InfluxDB: ${reason ?? "it is slow"}.`);
        if (quarantined > 0) reasons.push(`InfluxDB refused ${quarantined} points.`);
    }
}

/** How many of the readings taken at `times` InfluxDB has, of the newest. */
async function inInflux(influxql, { class: kind, range: { site, device, from, to } }, times) {
    const query = `SELECT * FROM "${kind}" WHERE site = $site AND device = $device AND time >= ${from}ms AND time < ${to}ms ORDER BY time DESC LIMIT ${LOOKED_UP}`;
    const rows = await influxql.query(query, { site, device });
    return found(times, new Set(rows.map(({ time }) => Number(time))));
}

function nodesOf(RED, type) {
    const nodes = [];
    RED.nodes.eachNode((node) => {
        if (node.type === type && !node.d) nodes.push(node);
    });
    return nodes;
}

/** How many of `times` are in `kept`. */
function found(times, kept) {
    return [...times].filter((time) => kept.has(time)).length;
}
