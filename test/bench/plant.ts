import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import ModbusRTU from "modbus-serial";
import { ModbusTcpServer, type RegisterBank } from "../../dist/simulate/server.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import type { ModelValues } from "../../dist/sunspec/decode.js";
import { officialModels } from "../../dist/sunspec/model.js";
import { makeDir, makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import type { Row } from "./row.js";
import { cpuMs, median, residentMb } from "./usage.js";

const DEVICES = 50;
const POINTS = 60;
const PERIOD_MS = 1000;
/** Walks, first roll-ups and compiled code come before; s. */
const WARM_UP_S = 30;
const HISTOGRAM_MS = 10;
/** Less room for what has just been made: V8 collects more often and takes less memory. What README advises for small computers. */
const LEAN = "--max-semi-space-size=4";

const BASE = 40_000;
const COMMON = 66 + 2;
const MODULES = 5;
/** What the links read every second: the inverter's model and that of its trackers. */
const BLOCKS = [
    { address: BASE + 2 + COMMON, quantity: 52 },
    { address: BASE + 2 + COMMON + 52, quantity: 10 + 20 * MODULES },
] as const;

/** What the flow has seen since it was last asked, as the function node `count` tells it. */
interface Seen {
    devices: number;
    readings: number;
    /** Ticks of any device that sent nothing. */
    missed: number;
    fewestPoints: number;
    /** Texts of yellow and red status. */
    complaints: string[];
    /** Delay of the event loop beyond its timer, ms. */
    p99: number;
    max: number;
}

/** Of one process over the time measured. */
interface Usage {
    /** Share of one core, %. */
    cpu: number;
    /** Median of the last third, MB. */
    rss: number;
    /** From the median of the middle third to that of the last, MB. */
    growth: number;
}

type Red = "idle" | "read" | "kept" | "lean";
type Subject = Red | "bare";

const WHAT: Record<Exclude<Red, "idle">, string> = { read: "read", kept: "read and kept", lean: `kept with ${LEAN}` };

/**
 * 50 SunSpec inverters of 61 points behind one connection, read every second: by a Node-RED that only reads, by one that also
 * writes to the local store, by one that does so with less memory, and by a bare modbus-serial loop, all beside a Node-RED without
 * this package and in the same minutes.
 */
export async function run(quick = false): Promise<Row[]> {
    const seconds = quick ? 5 : 600;
    const plant = fork(__filename, ["plant"]);
    const [port] = (await once(plant, "message")) as [number];
    const bare = fork(__filename, ["bare", String(port)]);
    const dirs: Record<Red, string> = { idle: await makeDir("wl-bare-"), read: await makeUserDir(), kept: await makeUserDir(), lean: await makeUserDir() };
    const keeping = [...plantFlow(port, "write"), ...writeFlow(), ...countFlow()];
    const reds: Record<Red, NodeRed> = {
        idle: await startNodeRed({ userDir: dirs.idle, flows: countFlow() }),
        read: await startNodeRed({ userDir: dirs.read, flows: [...plantFlow(port, "count"), ...countFlow()] }),
        kept: await startNodeRed({ userDir: dirs.kept, flows: keeping }),
        lean: await startNodeRed({ userDir: dirs.lean, flows: keeping, env: { NODE_OPTIONS: LEAN } }),
    };
    try {
        await sleep(1000 * (quick ? 5 : WARM_UP_S));
        await forEach(reds, ask);
        const pids = { ...(await forEach(reds, ({ process: child }) => Promise.resolve(child.pid!))), bare: bare.pid! };
        const usage = await observe(pids, seconds);
        const after = await forEach(reds, ask);
        plant.send("count");
        const [{ writes }] = (await once(plant, "message")) as [{ writes: number }];
        return [
            ...(["read", "kept", "lean"] as const).flatMap((name) => rows(name, usage, after[name], seconds)),
            { name: `${DEVICES} devices: registers written`, value: writes, unit: "", target: "0", pass: writes === 0 },
        ];
    } finally {
        for (const child of [plant, bare]) await stop(child);
        await Promise.all(Object.values(reds).map((red) => red.stop()));
        await Promise.all(Object.values(dirs).map(removeDir));
    }
}

function rows(name: Exclude<Red, "idle">, usage: Record<Subject, Usage>, seen: Seen, seconds: number): Row[] {
    const { cpu, rss, growth } = usage[name];
    const what = `${DEVICES} devices x ${seen.fewestPoints} points at 1 s, ${WHAT[name]}`;
    const complete = seen.devices === DEVICES && seen.fewestPoints >= POINTS && seen.readings >= DEVICES * (seconds - 2);
    const above = rss - usage.idle.rss;
    return [
        { name: `${what}: ticks missed in ${seconds} s`, value: seen.missed, unit: "", target: "0", pass: complete && seen.missed === 0 && seen.complaints.length === 0 },
        { name: `${what}: CPU`, value: cpu, unit: "% of a core", target: "<= 25", pass: cpu <= 25 },
        { name: `${what}: CPU / bare modbus-serial loop`, value: cpu / usage.bare.cpu, unit: "x", target: "", pass: true },
        { name: `${what}: memory above idle Node-RED`, value: above, unit: "MB", target: "<= 60", pass: above <= 60 },
        { name: `${what}: its growth from the middle third to the last`, value: growth, unit: "MB", target: "<= 5", pass: growth <= 5 },
        { name: `${what}: delay of the event loop, p99`, value: seen.p99, unit: "ms", target: "", pass: true },
    ];
}

async function forEach<T>(reds: Record<Red, NodeRed>, of: (red: NodeRed, name: Red) => Promise<T>): Promise<Record<Red, T>> {
    const names = Object.keys(reds) as Red[];
    const values = await Promise.all(names.map((name) => of(reds[name], name)));
    return Object.fromEntries(names.map((name, i) => [name, values[i]!])) as Record<Red, T>;
}

async function ask({ url }: NodeRed): Promise<Seen> {
    const response = await fetch(`${url}/seen`);
    return (await response.json()) as Seen;
}

/** Samples every process once a second. */
async function observe<N extends string>(pids: Record<N, number>, seconds: number): Promise<Record<N, Usage>> {
    const names = Object.keys(pids) as N[];
    const rss = new Map(names.map((name) => [name, [] as number[]]));
    const [started, before] = [performance.now(), names.map((name) => cpuMs(pids[name]))];
    for (let second = 1; second <= seconds; second++) {
        await sleep(started + second * 1000 - performance.now());
        for (const name of names) rss.get(name)!.push(residentMb(pids[name]));
    }
    const elapsed = performance.now() - started;
    const usages = names.map((name, i) => {
        const samples = rss.get(name)!;
        const cpu = (100 * (cpuMs(pids[name]) - before[i]!)) / elapsed;
        const third = Math.ceil(samples.length / 3);
        const last = median(samples.slice(-third));
        return [name, { cpu, rss: last, growth: last - median(samples.slice(-2 * third, -third)) }];
    });
    return Object.fromEntries(usages) as Record<N, Usage>;
}

function plantFlow(port: number, to: string): object[] {
    return [
        { id: "tab", type: "tab", label: "plant" },
        { id: "site", type: "wl-site", siteId: "bench", zone: "UTC", currency: "EUR" },
        { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port },
        { id: "sunspec", type: "wl-sunspec", z: "tab", site: "site", link: "link", units: `1-${DEVICES}`, period: PERIOD_MS / 1000, wires: [[to]] },
    ];
}

function writeFlow(): object[] {
    return [
        { id: "store", type: "wl-store", folder: "data" },
        { id: "write", type: "wl-write", z: "tab", store: "store", wires: [["count"], []] },
    ];
}

/** Core nodes that count what arrives, and tell it and how the process fares at /seen; asking begins a new count. */
function countFlow(): object[] {
    const libs = ["perf_hooks", "v8", "vm"].map((module) => ({ var: module, module }));
    return [
        { id: "count", type: "function", z: "tab", func: COUNT, wires: [] },
        { id: "status", type: "status", z: "tab", wires: [["count"]] },
        { id: "in", type: "http in", z: "tab", url: "/seen", method: "get", wires: [["tell"]] },
        { id: "tell", type: "function", z: "tab", initialize: BEGIN, func: TELL, libs, wires: [["out"]] },
        { id: "out", type: "http response", z: "tab" },
    ];
}

const COUNT = `
const seen = flow.get("seen");
if (msg.status) {
    if (["yellow", "red"].includes(msg.status.fill)) seen.complaints.push(msg.status.text);
    return;
}
const device = seen.devices[msg.topic] ??= { readings: 0, missed: 0, points: Infinity };
if (device.last) device.missed += Math.round((msg.timestamp - device.last) / ${PERIOD_MS}) - 1;
device.last = msg.timestamp;
device.readings++;
device.points = Math.min(device.points, Object.keys(msg.payload).length);
`;

const BEGIN = `
v8.setFlagsFromString("--expose-gc");
context.collect = vm.runInNewContext("gc");
context.delay = perf_hooks.monitorEventLoopDelay({ resolution: ${HISTOGRAM_MS} });
context.delay.enable();
flow.set("seen", { devices: {}, complaints: [] });
`;

const TELL = `
const { devices, complaints } = flow.get("seen");
const all = Object.values(devices);
const sum = (key) => all.reduce((total, device) => total + device[key], 0);
const ms = (ns) => Math.max(0, ns / 1e6 - ${HISTOGRAM_MS});
const { delay } = context;
msg.payload = {
    devices: all.length, readings: sum("readings"), missed: sum("missed"),
    fewestPoints: Math.min(...all.map(({ points }) => points)), complaints,
    p99: ms(delay.percentile(99)), max: ms(delay.max),
};
context.collect();
// The pause of the collection is not part of what follows.
setTimeout(() => delay.reset(), 100);
for (const device of all) Object.assign(device, { readings: 0, missed: 0, points: Infinity });
complaints.length = 0;
return msg;
`;

/** The child: what the devices show changes once a second. */
async function servePlant(): Promise<void> {
    const banks = new Map<number, RegisterBank>();
    const rebuild = () => {
        for (let unit = 1; unit <= DEVICES; unit++) banks.set(unit, { base: BASE, words: registers(unit, Date.now()) });
    };
    rebuild();
    setInterval(rebuild, PERIOD_MS);
    const server = new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: (unit) => banks.get(unit) });
    process.send!(await server.listen());
    process.on("message", () => process.send!(server.count));
}

function registers(unit: number, now: number): Buffer {
    const sun = 0.6 + 0.3 * Math.sin(now / 60_000 + unit) + 0.05 * Math.sin(now / 700 + 3 * unit);
    const w = 10_000 * sun;
    const wh = Math.floor(now / 1000) % 1e9;
    const common: ModelValues = { Mn: "Bench", Md: "Inverter", SN: `B${unit}`, DA: unit };
    const inverter: ModelValues = {
        A: w / 690, AphA: w / 690, AphB: w / 691, AphC: w / 689, A_SF: -2,
        PPVphAB: 400 + sun, PPVphBC: 401 + sun, PPVphCA: 399 + sun, PhVphA: 230 + sun, PhVphB: 231 + sun, PhVphC: 229 + sun, V_SF: -1,
        W: w, W_SF: 0, Hz: 50 + sun / 100, Hz_SF: -2, VA: w * 1.01, VA_SF: 0, VAr: w * 0.1, VAr_SF: 0, PF: 0.99, PF_SF: -3,
        WH: wh, WH_SF: 0, DCA: w / 600, DCA_SF: -2, DCV: 600 + 20 * sun, DCV_SF: -1, DCW: w * 1.02, DCW_SF: 0,
        TmpCab: 40 * sun, TmpSnk: 50 * sun, TmpTrns: 45 * sun, TmpOt: 30 * sun, Tmp_SF: -1, St: "MPPT", StVnd: 4, Evt1: 0, Evt2: 0,
    };
    const modules = Array.from({ length: MODULES }, (_, i) => ({
        ID: i + 1, IDStr: `String ${i + 1}`, DCA: w / 3000, DCV: 600 + 20 * sun + i, DCW: w / 5, DCWH: wh / 5, Tms: wh, Tmp: Math.round(50 * sun), DCSt: "MPPT", DCEvt: 0,
    }));
    const trackers: ModelValues = { DCA_SF: -2, DCV_SF: -1, DCW_SF: 0, DCWH_SF: 0, Evt: 0, N: MODULES, module: modules };
    const models = [[1, common], [103, inverter], [160, trackers]] as const;
    return Buffer.concat([Buffer.from("SunS"), ...models.map(([id, values]) => encodeModel(officialModels.get(id)!, values)), Buffer.of(0xff, 0xff, 0, 0)]);
}

/** The same reads as fast as modbus-serial makes them, evenly over the period, and nothing done with them. */
async function readBare(port: number): Promise<void> {
    const client = new ModbusRTU();
    await client.connectTCP("127.0.0.1", { port });
    const started = performance.now();
    for (let poll = 0; ; poll++) {
        client.setID(1 + (poll % DEVICES));
        for (const { address, quantity } of BLOCKS) await client.readHoldingRegisters(address, quantity);
        await sleep(Math.max(0, started + (poll + 1) * (PERIOD_MS / DEVICES) - performance.now()));
    }
}

async function stop(child: ChildProcess): Promise<void> {
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
}

const [part, port] = process.argv.slice(2);
if (process.send && part === "plant") void servePlant();
if (process.send && part === "bare") void readBare(Number(port));
