import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type RegisterBank, ModbusTcpServer } from "../../dist/simulate/server.js";
import { makeUserDir, type NodeRed, removeDir, startNodeRed } from "../node-red.js";
import { INVERTER, mppts, RATING } from "../sunspec/devices.js";
import { common, END, MARKER, model } from "../sunspec/sunspec-server.js";
import type { Row } from "./row.js";

const DEVICES = 50;
/** Ticks of /proc/<pid>/stat a second (USER_HZ). */
const TICKS = 100;

/** 50 inverters of 60 points behind one connection, polled once a second by a whole Node-RED; the server is a process of its own. */
export async function run(quick = false): Promise<Row[]> {
    const seconds = quick ? 10 : 600;
    const server = fork(__filename, ["plant"]);
    const [port] = (await once(server, "message")) as [number];
    const userDir = await makeUserDir();
    let nodeRed: NodeRed | undefined;
    try {
        nodeRed = await startNodeRed({ userDir, flows: [] });
        await sleep(quick ? 3000 : 15_000);
        const pid = nodeRed.process.pid!;
        const idle = rssOf(pid);
        await deploy(nodeRed.url, flowTo(port));
        // Walking 50 units and the first compilation of the code are no part of the rhythm.
        await sleep(quick ? 8000 : 30_000);
        return [...(await measure(nodeRed, pid, seconds, idle)), ...(await stopped(server))];
    } finally {
        await nodeRed?.stop();
        server.kill();
        await removeDir(userDir);
    }
}

async function measure(nodeRed: NodeRed, pid: number, seconds: number, idle: number): Promise<Row[]> {
    const before = cpuOf(pid);
    const begin = await counts(nodeRed.url);
    const early = rssOf(pid);
    await sleep(seconds * 1000);
    const cpu = ((cpuOf(pid) - before) / TICKS / seconds) * 100;
    const end = await counts(nodeRed.url);
    const late = rssOf(pid);
    const readings = end.readings - begin.readings;
    const missing = DEVICES * seconds - readings;
    const points = (end.points - begin.points) / readings;
    const name = `${DEVICES} devices at 1 s`;
    return [
        { name: `${name}: points a reading`, value: points, unit: "", target: ">= 60", pass: points >= 60 },
        // One reading a device may fall on either side of the interval's ends.
        { name: `${name}: readings missing in ${seconds} s`, value: missing, unit: "", target: `<= ${DEVICES}`, pass: missing <= DEVICES },
        { name: `${name}: CPU`, value: cpu, unit: "% of a core", target: "<= 25", pass: cpu <= 25 },
        { name: `${name}: RSS above idle`, value: late - idle, unit: "MB", target: "<= 60", pass: late - idle <= 60 },
        { name: `${name}: RSS growth in ${seconds} s`, value: late - early, unit: "MB", target: "<= 10", pass: late - early <= 10 },
    ];
}

function flowTo(port: number): object[] {
    const count = "const { readings = 0, points = 0 } = global.get('seen') ?? {};\nglobal.set('seen', { readings: readings + 1, points: points + Object.keys(msg.payload).length });";
    return [
        { id: "tab", type: "tab" },
        { id: "site", type: "wl-site", siteId: "bench" },
        { id: "link", type: "wl-modbus-link", host: "127.0.0.1", port: String(port) },
        { id: "sun", z: "tab", type: "wl-sunspec", x: 0, y: 0, site: "site", link: "link", units: `1-${DEVICES}`, period: "1", wires: [["count"]] },
        { id: "count", z: "tab", type: "function", x: 0, y: 0, func: count, outputs: 0, libs: [], wires: [] },
        { id: "get", z: "tab", type: "http in", x: 0, y: 0, url: "/seen", method: "get", wires: [["read"]] },
        { id: "read", z: "tab", type: "change", x: 0, y: 0, rules: [{ t: "set", p: "payload", pt: "msg", to: "seen", tot: "global" }], wires: [["answer"]] },
        { id: "answer", z: "tab", type: "http response", x: 0, y: 0, wires: [] },
    ];
}

async function deploy(url: string, flows: object[]): Promise<void> {
    const response = await fetch(`${url}/flows`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(flows) });
    if (response.status !== 204) throw new Error(`The flow was not taken: ${await response.text()}`);
}

async function counts(url: string): Promise<{ readings: number; points: number }> {
    return (await (await fetch(`${url}/seen`)).json()) as { readings: number; points: number };
}

/** The server's own figures. */
async function stopped(server: ChildProcess): Promise<Row[]> {
    server.send("count");
    const [{ writes }] = (await once(server, "message")) as [{ writes: number }];
    return [{ name: `${DEVICES} devices at 1 s: registers written`, value: writes, unit: "", target: "0", pass: writes === 0 }];
}

/** MB. */
function rssOf(pid: number): number {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024;
}

/** User and system time so far, in ticks. */
function cpuOf(pid: number): number {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /, "").split(" ");
    return Number(fields[11]) + Number(fields[12]);
}

/** The child: serves the inverters, each with six trackers, and tells its port. */
async function serve(): Promise<void> {
    const inverter = {
        ...INVERTER, PPVphBC: 400, PPVphCA: 400, DCA: 7.3, DCA_SF: -1, DCV: 600, DCV_SF: -1, TmpSnk: 44, TmpTrns: 40, TmpOt: 39, StVnd: 3,
        Evt2: 0, EvtVnd1: 0, EvtVnd2: 0, EvtVnd3: 0, EvtVnd4: 0,
    };
    const trackers = mppts(700, 710, 720, 730, 740, 750);
    const banks = new Map<number, RegisterBank>();
    for (let unit = 1; unit <= DEVICES; unit++) {
        const words = Buffer.concat([MARKER, common(`BENCH${unit}`), model(103, inverter), model(120, RATING), model(160, trackers), END]);
        banks.set(unit, { base: 40_000, words });
    }
    const server = new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: (unit) => banks.get(unit) });
    process.send!(await server.listen());
    process.on("message", () => process.send!(server.count));
    process.on("disconnect", () => process.exit());
}

if (process.send && process.argv[2] === "plant") void serve();
