import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { makeDir, makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import { type Peer, startLibmodbus } from "../services/modbus/libmodbus.js";
import type { Row } from "./row.js";
import { cpuMs, median } from "./usage.js";

const CONTRIB = "node-red-contrib-modbus";
const VERSION = "5.60.2";
/** Its own Modbus library is not on npm's registry; this one stands in, which both authors name as its origin. */
const OVERRIDES = { "@openp4nr/modbus-serial": "npm:modbus-serial@8.0.25" };

const ADDRESS = 40_000;
const POINTS = 60;
const REGISTERS = 2 * POINTS;
/** The value of the last point, V. */
const LAST = 159;

interface Side {
    red: NodeRed;
    /** Reads a second. */
    rates: number[];
    /** CPU time of the whole Node-RED, ms a read. */
    cpu: number[];
}

/**
 * Reads of 120 registers, each asked for by a message and answered by one, which is the next request: wl-modbus, which decodes 60
 * points, and node-red-contrib-modbus' flex getter, which hands on words. Each in a Node-RED of its own, before one libmodbus
 * server, in turn.
 */
export async function run(quick = false): Promise<Row[]> {
    const [rounds, ms] = quick ? [1, 1_000] : [6, 5_000];
    const image = Buffer.alloc(2 * REGISTERS);
    for (let i = 0; i < POINTS; i++) image.writeFloatBE(LAST + 1 - POINTS + i, 4 * i);
    const peer = await startLibmodbus(image);
    const dirs = [await makeUserDir(), await makeDir("wl-contrib-")] as const;
    const reds: NodeRed[] = [];
    try {
        await install(dirs[1]);
        reds.push(await startNodeRed({ userDir: dirs[0], flows: [...ours(peer), ...loop("wl", `msg.payload.string_${POINTS}_voltage_v === ${LAST}`, "{}")] }));
        const request = JSON.stringify({ payload: { value: 0, fc: 3, unitid: 1, address: ADDRESS, quantity: REGISTERS } });
        reds.push(await startNodeRed({ userDir: dirs[1], flows: [...theirs(peer), ...loop("contrib", `msg.payload[${REGISTERS - 2}] === ${image.readUInt16BE(2 * REGISTERS - 4)}`, request)] }));
        const sides = reds.map((red): Side => ({ red, rates: [], cpu: [] }));
        for (let round = 0; round < rounds; round++) for (const side of sides) await measure(side, ms);
        // Tens of thousands of reads pass before V8 has compiled what they run.
        if (!quick) for (const figures of sides.flatMap(({ rates, cpu }) => [rates, cpu])) figures.splice(0, 2);
        return rows(sides[0]!, sides[1]!);
    } finally {
        for (const red of reds) await red.stop();
        for (const dir of dirs) await removeDir(dir);
        await peer.stop();
    }
}

function rows(wl: Side, contrib: Side): Row[] {
    const speed = median(wl.rates.map((rate, i) => rate / contrib.rates[i]!));
    const cpu = median(wl.cpu.map((each, i) => each / contrib.cpu[i]!));
    const name = `reads through messages, ${REGISTERS} registers`;
    return [
        { name: `${name}: wl-modbus, ${POINTS} points decoded`, value: median(wl.rates), unit: "reads/s", target: "", pass: true },
        { name: `${name}: wl-modbus, CPU a read`, value: 1000 * median(wl.cpu), unit: "µs", target: "", pass: true },
        { name: `${name}: ${CONTRIB} ${VERSION}`, value: median(contrib.rates), unit: "reads/s", target: "", pass: true },
        { name: `${name}: ${CONTRIB} ${VERSION}, CPU a read`, value: 1000 * median(contrib.cpu), unit: "µs", target: "", pass: true },
        { name: `${name}: wl-modbus / ${CONTRIB}`, value: speed, unit: "x", target: ">= 10", pass: speed >= 10 },
        { name: `${name}: CPU a read, wl-modbus / ${CONTRIB}`, value: cpu, unit: "x", target: "<= 0.2", pass: cpu <= 0.2 },
    ];
}

/** Starts the loop, lets it warm up, and measures it for a while. */
async function measure({ red, rates, cpu }: Side, ms: number): Promise<void> {
    const ask = async (what: string) => (await (await fetch(`${red.url}/${what}`)).json()) as { count: number; wrong: number };
    // A client that is still connecting drops what it is sent.
    for (let before = await ask("go"), tries = 0; (await sleep(500), await ask("count")).count === before.count; tries++) {
        if (tries === 10) throw new Error(`No read in ${tries / 2} s:\n${red.log()}`);
        before = await ask("go");
    }
    const pid = red.process.pid!;
    const [from, cpuFrom, started] = [await ask("count"), cpuMs(pid), performance.now()];
    await sleep(ms);
    const [to, cpuTo, ended] = [await ask("count"), cpuMs(pid), performance.now()];
    await ask("stop");
    const reads = to.count - from.count;
    if (reads === 0 || to.wrong > 0) throw new Error(`${reads} reads, ${to.wrong} of all wrong:\n${red.log()}`);
    rates.push((1000 * reads) / (ended - started));
    cpu.push((cpuTo - cpuFrom) / reads);
    // What is on its way ends before the other side has the machine.
    await sleep(200);
}

/**
 * Counts what arrives and sends the next request; `/go`, `/stop` and `/count` drive it. Counting costs both sides the same, and the
 * less of it is in the figures the more they say of the nodes.
 */
function loop(reader: string, right: string, request: string): object[] {
    const place = { z: "tab", x: 0, y: 0 };
    const tally = `if (!global.get("tally")) global.set("tally", { count: 0, wrong: 0, on: false });\nconst tally = global.get("tally");\n`;
    const func = `const tally = global.get("tally") ?? {};\ntally.count++;\nif (!(${right})) tally.wrong++;\nreturn tally.on ? ${request} : null;`;
    const told = `${tally}msg.payload = { count: tally.count, wrong: tally.wrong };\n`;
    const entry = (name: string, code: string, wires: string[][]) => [
        { id: name, ...place, type: "http in", url: `/${name}`, method: "get", wires: [[`${name}-f`]] },
        { id: `${name}-f`, ...place, type: "function", func: told + code, outputs: wires.length, libs: [], wires },
    ];
    return [
        { id: "count-reads", ...place, type: "function", func, outputs: 1, libs: [], wires: [[reader]] },
        ...entry("go", `tally.on = true;\nreturn [msg, ${request}];`, [["answer"], [reader]]),
        ...entry("stop", `tally.on = false;\nreturn msg;`, [["answer"]]),
        ...entry("count", "return msg;", [["answer"]]),
        { id: "answer", ...place, type: "http response", wires: [] },
    ];
}

function ours({ host, port }: Peer): object[] {
    const points = Array.from({ length: POINTS }, (_, i) => `  string_${i + 1}_voltage_v: {address: ${ADDRESS + 2 * i}, type: float32, unit: V}`);
    const mapText = [
        "schema: pointmap/1",
        "id: bench",
        "class: generic",
        "vendor: Bench",
        "models: [any]",
        "source: {doc: bench, verified: document, date: 2026-11-21}",
        "protocol: modbus",
        "defaults: {table: holding}",
        "points:",
        ...points,
    ].join("\n");
    return [
        { id: "tab", type: "tab" },
        { id: "site", type: "wl-site", siteId: "bench" },
        { id: "link", type: "wl-modbus-link", host, port: String(port) },
        // By itself it polls once, when it starts.
        { id: "wl", z: "tab", x: 0, y: 0, type: "wl-modbus", site: "site", link: "link", map: "paste", mapText, units: "1", periods: { all: "86400" }, wires: [["count-reads"]] },
    ];
}

/** With the defaults of its dialogs. */
function theirs({ host, port }: Peer): object[] {
    return [
        { id: "tab", type: "tab" },
        {
            id: "client", type: "modbus-client", clienttype: "tcp", bufferCommands: true, stateLogEnabled: false, queueLogEnabled: false, failureLogEnabled: true,
            tcpHost: host, tcpPort: String(port), tcpType: "DEFAULT", unit_id: "1", commandDelay: "1", clientTimeout: "1000", reconnectOnTimeout: true,
            reconnectTimeout: "2000", parallelUnitIdsAllowed: true, showErrors: false, showWarnings: true, showLogs: true,
        },
        { id: "contrib", z: "tab", x: 0, y: 0, type: "modbus-flex-getter", server: "client", showWarnings: true, wires: [["count-reads"], []] },
    ];
}

async function install(userDir: string): Promise<void> {
    await writeFile(path.join(userDir, "package.json"), JSON.stringify({ name: "user-dir", private: true, dependencies: { [CONTRIB]: VERSION }, overrides: OVERRIDES }));
    await promisify(execFile)("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: userDir });
}
