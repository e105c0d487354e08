#!/usr/bin/env node
// `npm start`: runs the plant flow in Node-RED with the hardened settings beside this file, in a user directory of its own.
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { finishCheck, watchReadings } from "./check.mjs";
import { placeFlow } from "./place.mjs";

const HELP = `WattLedger: a solar plant in Node-RED, simulated unless you connect your own.

Usage: wattledger [options]           (from a clone: npm start -- [options])
       wattledger carbon --test | verify-report CAPSULE | verify-ledger FOLDER      offline; each without more says how

  --port N         port of editor and dashboard, the next free one when taken    1880
  --user-dir DIR   where flow, settings and data are kept                        ~/.wattledger
  --influx URL     also deliver every reading to this InfluxDB                   $INFLUX_URL
  --speed N        how fast the plant's day passes, 0.1 to 3600                  1
  --fault KIND     what goes wrong in the simulated plant: FAULTS
  --seed N         another seed is another weather                               1
  --check N        run N seconds, then exit: 0 when every device's readings were kept
  --verbose        show Node-RED's own log
  --help

Environment: INFLUX_TOKEN or INFLUX_USERNAME and INFLUX_PASSWORD, INFLUX_DATABASE, INFLUX_ORG;
WL_USER and WL_PASSWORD_HASH for a login, WL_HOST to listen elsewhere than 127.0.0.1 (see flows/settings.js).`;

const OPTIONS = {
    port: { type: "string" },
    "user-dir": { type: "string" },
    influx: { type: "string" },
    speed: { type: "string" },
    fault: { type: "string" },
    seed: { type: "string" },
    check: { type: "string" },
    verbose: { type: "boolean" },
    help: { type: "boolean" },
};

const require = createRequire(import.meta.url);
const root = path.join(import.meta.dirname, "..");
const { version } = require("../package.json");
const FLOW = path.join(root, "dist/flows/plant.json");

/** What a person can mend; shown without a stack. */
class Unusable extends Error {}
class BadArgument extends Unusable {}

function readOptions(argv) {
    let values;
    try {
        ({ values } = parseArgs({ args: argv, options: OPTIONS }));
    } catch (error) {
        throw new BadArgument(error.message.replace(/ To specify.*$/s, ""));
    }
    const number = (name, fallback, min, max, whole = true) => {
        const value = Number(values[name] ?? fallback);
        if (values[name] === "" || !(value >= min && value <= max) || (whole && !Number.isInteger(value))) {
            throw new BadArgument(`--${name} takes a ${whole ? "whole " : ""}number from ${min} to ${max}, not "${values[name]}".`);
        }
        return value;
    };
    const influx = values.influx ?? process.env.INFLUX_URL ?? "";
    if (influx && !/^https?:$/.test(URL.canParse(influx) ? new URL(influx).protocol : "")) {
        throw new BadArgument(`--influx takes a URL such as http://localhost:8086, not "${influx}".`);
    }
    if (influx && `${new URL(influx).username}${new URL(influx).password}` !== "") {
        throw new BadArgument("--influx takes no password: put it in the environment as INFLUX_USERNAME and INFLUX_PASSWORD.");
    }
    return {
        port: number("port", process.env.WL_PORT || 1880, 0, 65_535),
        userDir: path.resolve(values["user-dir"] ?? (process.env.WL_USER_DIR || path.join(os.homedir(), ".wattledger"))),
        influx,
        speed: number("speed", 1, 0.1, 3600, false),
        fault: values.fault ?? "",
        seed: number("seed", 1, 0, 99_999),
        check: values.check === undefined ? 0 : number("check", 0, 1, 86_400),
        verbose: values.verbose ?? false,
        help: values.help ?? false,
    };
}

/** Where a package lies, seen from here or else from the working folder; undefined when it is nowhere. */
function locate(name) {
    for (const from of [import.meta.url, path.join(process.cwd(), "x.js")]) {
        try {
            return path.dirname(createRequire(from).resolve(`${name}/package.json`));
        } catch {
            // The next place may have it.
        }
    }
    return undefined;
}

/** Node-RED 5 where this Node can run it and a clone has both, else the Node-RED that is installed. */
function findNodeRed() {
    const [major, minor] = process.versions.node.split(".").map(Number);
    const canRun5 = major > 22 || (major === 22 && minor >= 9);
    const dir = (canRun5 && locate("node-red-5")) || locate("node-red");
    const missing = [!dir && "node-red", !locate("@flowfuse/node-red-dashboard") && "@flowfuse/node-red-dashboard"].filter(Boolean);
    if (missing.length > 0) throw new Unusable(`Not installed: ${missing.join(", ")}. Install beside this package: npm install ${missing.join(" ")}`);
    return { dir, version: require(path.join(dir, "package.json")).version };
}

function isFree(port, host) {
    return new Promise((resolve) => {
        const probe = createServer();
        probe.once("error", () => resolve(false));
        probe.listen(port, host, () => probe.close(() => resolve(true)));
    });
}

/** `wanted` or the next free port after it. */
async function freePort(wanted, host) {
    for (let port = wanted; port < wanted + 50 && port <= 65_535; port++) {
        if (await isFree(port, host)) return port;
    }
    throw new Unusable(`Ports ${wanted} to ${wanted + 49} on ${host} are taken: choose another with --port.`);
}

/** What the flow asks the environment for, `${NAME}` in its nodes; the rest of the names is listed in its global configuration. */
function setEnvironment(options, simPort, rtuPort) {
    process.env.WL_ZONE ||= Intl.DateTimeFormat().resolvedOptions().timeZone;
    process.env.WL_PLANT_PORT ||= String(simPort);
    Object.assign(process.env, {
        WL_USER_DIR: options.userDir,
        WL_SIM_PORT: String(simPort),
        WL_SIM_RTU_PORT: String(rtuPort),
        WL_SIM_SPEED: String(options.speed),
        WL_SIM_FAULT: options.fault,
        WL_SIM_SEED: String(options.seed),
        INFLUX_URL: options.influx,
    });
}

/** Runs Node-RED's own start script in this process, so that it binds, guards and stops as the stock command does. */
async function startNodeRed(nodeRed, options, port) {
    const settingsFile = path.join(import.meta.dirname, "settings.js");
    let settings;
    process.env.NODE_RED_HOME = nodeRed.dir;
    try {
        settings = require(settingsFile);
    } catch (error) {
        throw new Unusable(error.message);
    }
    settings.uiPort = port;
    if (!options.verbose) settings.logging = { launcher: { ...settings.logging.console, level: "warn", handler: () => printLog } };
    process.argv = [process.argv[0], path.join(nodeRed.dir, "red.js"), "--settings", settingsFile, "--userDir", options.userDir];
    const from = createRequire(path.join(nodeRed.dir, "package.json"));
    from("./red.js");
    const RED = from("./lib/red.js");
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([
        new Promise((resolve) => RED.events.once("flows:started", resolve)),
        new Promise((resolve) => RED.server.once("listening", resolve)),
    ]);
    return RED;
}

/** What a node reports, errors, and who logged in or changed something; Node-RED's own remarks on starting are left out. */
function printLog(entry) {
    const [ERROR, AUDIT] = [20, 98];
    const print = (kind, from, text) => console.error(`${new Date(entry.timestamp).toISOString()} ${kind} ${from}: ${text}`);
    if (entry.level === AUDIT) {
        if (!/\.get$/.test(entry.event)) print("audit", entry.event, [entry.user?.username ?? entry.username, entry.ip].filter(Boolean).join(" from "));
    } else if (entry.id !== undefined || entry.level <= ERROR) {
        print(entry.level > ERROR ? "warning" : "error", entry.name || entry.type || "node-red", entry.msg?.message ?? entry.msg);
    }
}

function introduce(RED, nodeRed, options, url, notes) {
    const sims = [];
    RED.nodes.eachNode((node) => {
        if (node.type === "wl-sim-plant" && !node.d) sims.push(node);
    });
    const faulty = options.fault ? `, fault "${options.fault}"` : "";
    const pace = options.speed === 1 ? "real time" : `${options.speed} times as fast`;
    const lines = [
        `WattLedger ${version} on Node-RED ${nodeRed.version}, Node ${process.versions.node}`,
        "",
        `  Dashboard  ${url}/dashboard/plant`,
        `  Editor     ${url}/`,
        sims.length > 0
            ? `  Simulated  the whole plant, on Modbus TCP port ${process.env.WL_SIM_PORT}: two inverters, battery, meter,\n             weather station and tracker by SunSpec, a check meter by point map on port ${process.env.WL_SIM_RTU_PORT} (RTU); ${pace}, seed ${options.seed}${faulty}`
            : "  Simulated  nothing",
        `  Data       ${options.userDir}`,
        `  InfluxDB   ${options.influx || "none; add one with --influx URL"}`,
        ...notes.filter(Boolean).map((note) => `  Note       ${note}`),
        "",
        options.check ? `Checking for ${options.check} s.` : "Ctrl+C stops it.",
    ];
    // A summary that programs read stays alone on stdout.
    (options.check ? console.error : console.log)(lines.join("\n"));
}

async function main() {
    const options = readOptions(process.argv.slice(2));
    if (!existsSync(FLOW)) throw new Unusable("Not built yet: run `npm ci` first.");
    const { FAULTS } = require(path.join(root, "dist/simulate/faults.js"));
    if (options.help) return console.log(HELP.replace("FAULTS", FAULTS.join(", ")));
    if (options.fault && !FAULTS.includes(options.fault)) throw new BadArgument(`--fault takes one of ${FAULTS.join(", ")}, not "${options.fault}".`);
    const nodeRed = findNodeRed();
    mkdirSync(options.userDir, { recursive: true, mode: 0o700 });
    const { acquireLock } = require(path.join(root, "dist/store/lock.js"));
    const lockFile = path.join(options.userDir, "running.lock");
    await acquireLock(lockFile);
    process.on("exit", () => rmSync(lockFile, { force: true }));
    const host = process.env.WL_HOST || "127.0.0.1";
    const port = await freePort(options.port, host);
    const simPort = await freePort(1502, "127.0.0.1");
    setEnvironment(options, simPort, await freePort(simPort + 1, "127.0.0.1"));
    const note = placeFlow(options.userDir, FLOW);
    const RED = await startNodeRed(nodeRed, options, port);
    const sent = options.check ? watchReadings(RED) : undefined;
    const { port: bound } = RED.server.address();
    const scheme = process.env.WL_TLS_CERT ? "https" : "http";
    const url = `${scheme}://${host === "0.0.0.0" || host === "::" ? os.hostname() : host}:${bound}`;
    introduce(RED, nodeRed, options, url, [note, port !== options.port && options.port !== 0 && `port ${options.port} is taken`]);
    if (!sent) return;
    const summary = { nodeRed: nodeRed.version, node: process.versions.node, ...(await finishCheck(RED, sent, options)) };
    console.log(JSON.stringify(summary, null, 2));
    process.exitCode = summary.ok ? 0 : 1;
    // Node-RED's own handler: it closes every node, then ends the process.
    process.emit("SIGTERM");
}

main().catch((error) => {
    const expected = error instanceof Unusable || error.code?.startsWith?.("STORE_");
    console.error(expected ? error.message : error);
    if (error instanceof BadArgument) console.error("`--help` lists all options.");
    process.exit(error instanceof BadArgument ? 2 : 1);
});
