#!/usr/bin/env node
// `npm start`: runs the plant flow, or `npm start -- carbon` the carbon flow, in Node-RED with the hardened settings beside this file, in
// a user directory of its own.
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { finishCheck, watchReadings } from "./check.mjs";
import { keptSecret, readWhole } from "./files.js";
import { placeFlow } from "./place.mjs";

const HELP = `WattLedger: a solar plant in Node-RED, simulated unless you connect your own.

Usage: wattledger [options]           (from a clone: npm start -- [options])
       wattledger carbon [options]    ESP32 meters to a carbon report that anyone can verify
       wattledger carbon --test | verify-report CAPSULE | verify-ledger FOLDER      offline; each without more says how

  --port N         port of editor and dashboard, the next free one when taken    1880
  --user-dir DIR   where flow, settings and data are kept            ~/.wattledger, ~/.wattledger-carbon
  --influx URL     also deliver every reading to this InfluxDB                   $INFLUX_URL
  --speed N        how fast the plant's day passes, 0.1 to 3600                  1
  --fault KIND     what goes wrong in the simulated plant: FAULTS
  --seed N         another seed is another weather                               1
  --config FILE    carbon: take the settings of this ams_config.json
  --check N        run N seconds, then exit: 0 when every device's readings were kept, and for carbon a report came of them
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
    config: { type: "string" },
    check: { type: "string" },
    verbose: { type: "boolean" },
    help: { type: "boolean" },
};

const require = createRequire(import.meta.url);
const root = path.join(import.meta.dirname, "..");
const { version } = require("../package.json");
const dist = (file) => require(path.join(root, "dist", file));

/** What can be started: the options that are its own, its folder, and the credentials of its flow: names of environment variables. */
const APPS = {
    plant: {
        own: ["influx", "speed", "fault", "seed"],
        folder: ".wattledger",
        credentials: () => ({ "plant-influx": { username: "${INFLUX_USERNAME}", password: "${INFLUX_PASSWORD}", token: "${INFLUX_TOKEN}" } }),
        prepare: preparePlant,
        describe: describePlant,
    },
    carbon: {
        own: ["config"],
        folder: ".wattledger-carbon",
        // The dialog of wl-esp32 adds to its keys, so they stand there themselves.
        credentials: (userDir) => ({
            "carbon-guardian": { username: "${WL_GUARDIAN_USERNAME}", password: "${WL_GUARDIAN_PASSWORD}" },
            "carbon-esp32": { keys: JSON.stringify({ "sim-esp32-*": simulatedKey(userDir) }) },
            "carbon-sim": { secret: simulatedKey(userDir) },
        }),
        prepare: prepareCarbon,
        describe: describeCarbon,
    },
};

/** What a person can mend; shown without a stack. */
class Unusable extends Error {}
class BadArgument extends Unusable {}

const FULL = ["is on a disk that is full", "free some space"];
const NO_FOLDER = ["is no folder", "move the file away"];
const FORBIDDEN = ["may not be written", "give this user the right to"];
/** What keeps a folder from being used, and what to do; by the system's code. */
const FOLDER_FAULTS = { ENOSPC: FULL, EDQUOT: FULL, EFBIG: FULL, EEXIST: NO_FOLDER, ENOTDIR: NO_FOLDER, EACCES: FORBIDDEN, EPERM: FORBIDDEN, EROFS: FORBIDDEN };

/** In the words of a person where the user directory is at fault. */
function explain(error) {
    const [fault, remedy] = (error.syscall !== "listen" && FOLDER_FAULTS[error.code]) || [];
    return fault ? new Unusable(`The folder ${process.env.WL_USER_DIR} ${fault} (${error.code}): ${remedy}, or choose another with --user-dir.`) : error;
}

function readOptions(argv) {
    let values;
    let positionals;
    try {
        ({ values, positionals } = parseArgs({ args: argv, options: OPTIONS, allowPositionals: true }));
    } catch (error) {
        throw new BadArgument(error.message.replace(/ To specify.*$/s, ""));
    }
    const [name = "plant", ...more] = positionals;
    const unexpected = Object.hasOwn(APPS, name) ? more[0] : name;
    if (unexpected !== undefined) throw new BadArgument(`Unexpected argument '${unexpected}'.`);
    const app = { name, ...APPS[name] };
    for (const other of Object.values(APPS)) {
        const foreign = other.own.find((option) => values[option] !== undefined && !app.own.includes(option));
        if (foreign) throw new BadArgument(`--${foreign} is no option of the ${name} flow.`);
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
        app,
        port: number("port", process.env.WL_PORT || 1880, 0, 65_535),
        userDir: path.resolve(values["user-dir"] ?? (process.env.WL_USER_DIR || path.join(os.homedir(), app.folder))),
        influx: app.own.includes("influx") ? influx : "",
        speed: number("speed", 1, 0.1, 3600, false),
        fault: values.fault ?? "",
        seed: number("seed", 1, 0, 99_999),
        config: values.config,
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

/** The port that can be bound: `port`, or any where it is 0; undefined when it is taken. */
function bindable(port, host) {
    return new Promise((resolve) => {
        const probe = createServer();
        probe.once("error", () => resolve(undefined));
        probe.listen(port, host, () => {
            const { port: found } = probe.address();
            probe.close(() => resolve(found));
        });
    });
}

/** `wanted` or the next free port after it. */
async function freePort(wanted, host) {
    for (let port = wanted; port < wanted + 50 && port <= 65_535; port++) {
        const found = await bindable(port, host);
        if (found !== undefined) return found;
    }
    throw new Unusable(`Ports ${wanted} to ${wanted + 49} on ${host} are taken: choose another with --port.`);
}

/** What the flow asks the environment for, `${NAME}` in its nodes; the rest of the names is listed in its global configuration. */
async function preparePlant(options) {
    const simPort = await freePort(1502, "127.0.0.1");
    process.env.WL_PLANT_PORT ||= String(simPort);
    Object.assign(process.env, {
        WL_SIM_PORT: String(simPort),
        WL_SIM_RTU_PORT: String(await freePort(simPort + 1, "127.0.0.1")),
        WL_SIM_SPEED: String(options.speed),
        WL_SIM_FAULT: options.fault,
        WL_SIM_SEED: String(options.seed),
        INFLUX_URL: options.influx,
    });
    return [];
}

/** The same for the carbon flow; what the environment says goes before the ams_config.json. Returns what a person should know of that. */
async function prepareCarbon(options, url) {
    const { env } = process;
    env.WL_SITE ||= "demo";
    env.WL_SIM_GUARDIAN_PORT = String(await freePort(3010, "127.0.0.1"));
    env.WL_ESP32_URL ||= `${url}/wattledger/esp32`;
    const notes = options.config === undefined ? [] : takeConfig(options.config);
    if (env.WL_GUARDIAN_SERVER !== "guardian") env.WL_GUARDIAN_URL = `http://127.0.0.1:${env.WL_SIM_GUARDIAN_PORT}/api/v1`;
    // The simulated meters sign with keys that follow from theirs for HTTP.
    const [key, kept] = ["simulated.key", "flows_cred.json"].map((name) => readWhole(path.join(options.userDir, name)));
    if (key === undefined && kept !== undefined) notes.push("simulated.key was lost and is made anew, but the flow keeps the old one: delete flows_cred.json, start again, and enter what else it held");
    const secret = simulatedKey(options.userDir);
    const { deviceKey, publicKey } = dist("simulate/esp32-sender.js");
    const calibrations = [{ at: "2025-12-01", until: "2028-12-01", certificate: "simulated" }];
    env.WL_METERS ||= JSON.stringify(
        ["sim-esp32-1", "sim-esp32-2", "sim-esp32-3"].map((device) => ({
            meter: `${env.WL_SITE}/${device}`, kind: "grid", ratedW: 200_000, from: "2026-01-01",
            accuracyClass: "0.5S", mpeExport: 0.005, mpeImport: 0.005, calibrations, key: publicKey(deviceKey(secret, device)),
        })),
    );
    return notes;
}

/** What the simulated meters prove themselves with; made once, readable by its owner only. */
function simulatedKey(userDir) {
    return keptSecret(path.join(userDir, "simulated.key"), 24, "base64url");
}

/** Each setting of an ams_config.json to the variable that its node reads; secrets stay in the environment of this process. */
function takeConfig(file) {
    let config;
    try {
        config = dist("carbon/ams-config.js").readAmsConfig(readFileSync(file, "utf8"));
        dist("guardian/document.js").checkPartOfProject(config.project ?? {});
    } catch (error) {
        throw new Unusable(`--config ${file}: ${error.message}`);
    }
    const { fields, guardian, sampleS, project, notes } = config;
    const found = {
        WL_INTERVAL_HOURS: fields.intervalHours,
        WL_MIN_POINTS: fields.minPoints,
        WL_CHECK_MINUTES: fields.checkMinutes,
        WL_METERS: fields.meters,
        WL_FACTORS: fields.factors,
        WL_SAMPLE_S: sampleS,
        WL_PROJECT: project && JSON.stringify(project),
        WL_GUARDIAN_URL: guardian.url,
        WL_GUARDIAN_USERNAME: guardian.username,
        WL_GUARDIAN_PASSWORD: guardian.password,
        WL_GUARDIAN_TENANT: guardian.tenantId,
        WL_GUARDIAN_POLICY: guardian.policyId,
    };
    for (const [name, value] of Object.entries(found)) if (value !== undefined) process.env[name] ||= String(value);
    return [
        `${path.basename(file)} sets ${Object.entries(found).flatMap(([name, value]) => (value === undefined ? [] : name)).join(", ")}`,
        process.env.WL_GUARDIAN_SERVER !== "guardian" && guardian.url && "its Guardian account is used with WL_GUARDIAN_SERVER=guardian; without it the stand-in is",
        ...notes,
    ];
}

/** Runs Node-RED's own start script in this process, so that it binds, guards and stops as the stock command does. */
async function startNodeRed(nodeRed, options, port) {
    const settingsFile = path.join(import.meta.dirname, "settings.js");
    let settings;
    process.env.NODE_RED_HOME = nodeRed.dir;
    try {
        settings = require(settingsFile);
    } catch (error) {
        throw error.syscall ? error : new Unusable(error.message);
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

function has(RED, type) {
    let found = false;
    RED.nodes.eachNode((node) => {
        found ||= node.type === type && !node.d;
    });
    return found;
}

function describePlant(RED, options) {
    const faulty = options.fault ? `, fault "${options.fault}"` : "";
    const pace = options.speed === 1 ? "real time" : `${options.speed} times as fast`;
    return [
        has(RED, "wl-sim-plant")
            ? `  Simulated  the whole plant, on Modbus TCP port ${process.env.WL_SIM_PORT}: two inverters, battery, meter,\n             weather station and tracker by SunSpec, a check meter by point map on port ${process.env.WL_SIM_RTU_PORT} (RTU); ${pace}, seed ${options.seed}${faulty}`
            : "  Simulated  nothing",
        `  InfluxDB   ${options.influx || "none; add one with --influx URL"}`,
    ];
}

function describeCarbon(RED) {
    const { WL_GUARDIAN_SERVER: server, WL_GUARDIAN_URL: guardian } = process.env;
    return [
        `  ESP32      post to ${process.env.WL_ESP32_URL}`,
        has(RED, "wl-sim-esp32") ? "  Simulated  three ESP32 meters, the last week first: a report is there in about a minute" : "  Simulated  nothing",
        `  Guardian   ${server === "guardian" ? guardian : `a stand-in, ${guardian}`}; dry run: nothing is filed`,
    ];
}

function introduce(RED, nodeRed, options, url, notes) {
    const lines = [
        `WattLedger ${version} on Node-RED ${nodeRed.version}, Node ${process.versions.node}`,
        "",
        `  Dashboard  ${url}/dashboard/${options.app.name}`,
        `  Editor     ${url}/`,
        ...options.app.describe(RED, options),
        `  Data       ${options.userDir}`,
        ...notes.filter(Boolean).map((note) => `  Note       ${note}`),
        "",
        options.check ? `Checking for ${options.check} s.` : "Ctrl+C stops it.",
    ];
    // A summary that programs read stays alone on stdout.
    (options.check ? console.error : console.log)(lines.join("\n"));
}

async function main() {
    const args = process.argv.slice(2);
    if (!existsSync(path.join(root, "dist/flows"))) throw new Unusable("Not built yet: run `npm ci` first.");
    if (args[0] === "carbon" && args.some((arg) => arg === "--test" || arg === "--dry-run")) {
        process.exitCode = await dist("cli/carbon.js").carbon(args.slice(1), (line) => console.log(line));
        return;
    }
    const options = readOptions(args);
    const { app } = options;
    const flow = path.join(root, "dist/flows", `${app.name}.json`);
    const { FAULTS } = dist("simulate/faults.js");
    if (options.help) return console.log(HELP.replace("FAULTS", FAULTS.join(", ")));
    if (options.fault && !FAULTS.includes(options.fault)) throw new BadArgument(`--fault takes one of ${FAULTS.join(", ")}, not "${options.fault}".`);
    const nodeRed = findNodeRed();
    process.env.WL_USER_DIR = options.userDir;
    mkdirSync(options.userDir, { recursive: true, mode: 0o700 });
    const { acquireLock } = dist("store/lock.js");
    const lockFile = path.join(options.userDir, "running.lock");
    await acquireLock(lockFile);
    process.on("exit", () => rmSync(lockFile, { force: true }));
    const host = process.env.WL_HOST || "127.0.0.1";
    const port = await freePort(options.port, host);
    const scheme = process.env.WL_TLS_CERT ? "https" : "http";
    process.env.WL_ZONE ||= Intl.DateTimeFormat().resolvedOptions().timeZone;
    const notes = await app.prepare(options, `${scheme}://${host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host}:${port}`);
    const note = placeFlow(options.userDir, flow, app.credentials(options.userDir));
    const RED = await startNodeRed(nodeRed, options, port);
    const sent = options.check ? watchReadings(RED) : undefined;
    const { port: bound } = RED.server.address();
    const url = `${scheme}://${host === "0.0.0.0" || host === "::" ? os.hostname() : host}:${bound}`;
    introduce(RED, nodeRed, options, url, [...notes, note, port !== options.port && options.port !== 0 && `port ${options.port} is taken`]);
    if (!sent) return;
    const summary = { nodeRed: nodeRed.version, node: process.versions.node, ...(await finishCheck(RED, sent, options)) };
    console.log(JSON.stringify(summary, null, 2));
    process.exitCode = summary.ok ? 0 : 1;
    // Node-RED's own handler: it closes every node, then ends the process.
    process.emit("SIGTERM");
}

main().catch((thrown) => {
    const error = explain(thrown);
    const expected = error instanceof Unusable || error.code?.startsWith?.("STORE_");
    console.error(expected ? error.message : error);
    if (error instanceof BadArgument) console.error("`--help` lists all options.");
    process.exit(error instanceof BadArgument ? 2 : 1);
});
