import { type ChildProcess, spawn } from "node:child_process";
import { type EventEmitter, once } from "node:events";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import type { NodeAPI } from "node-red";
import testHelper from "node-red-node-test-helper";

/** The repository's root. */
export const root = path.join(__dirname, "..");

/** The Node-RED under test: `node-red` (4.1) unless the environment variable NODE_RED names another, such as `node-red-5`. */
export const nodeRedPackage = process.env["NODE_RED"] || "node-red";
export const nodeRedPath = require.resolve(nodeRedPackage);
const nodeRedHome = path.dirname(require.resolve(`${nodeRedPackage}/package.json`));

testHelper.init(nodeRedPath);
/** node-red-node-test-helper on the Node-RED under test. */
export const helper = testHelper;

/** As `helper.setFlows`, which gives the deploy 300 ms. */
export async function deploy(flow: object[], type: "full" | "nodes"): Promise<void> {
    const { _events: events, _redNodes: red } = helper as unknown as { _events: EventEmitter; _redNodes: { setFlows(flow: object[], credentials: object, type: string): Promise<void> } };
    const started = once(events, "flows:started");
    await red.setFlows(flow, {}, type);
    await started;
}

/** A node of Node-RED's own for `helper.load`, such as `coreNode("function/10-function")`. Catch, status and complete need none. */
export function coreNode(name: string): (RED: NodeAPI) => void {
    return require(require.resolve(`@node-red/nodes/core/${name}.js`, { paths: [nodeRedHome] })) as (RED: NodeAPI) => void;
}

/** A Node-RED that has not started by then is ended, and what it printed is the error. */
const START_WITHIN_MS = 25_000;

export interface Running {
    /** Everything printed so far, stdout and stderr. */
    log(): string;
    /** Resolves once the log matches, from character `from` on. */
    logged(pattern: RegExp, from?: number): Promise<void>;
    process: ChildProcess;
    /** Ends it as a service manager would; resolves with the exit code, null when it had to be killed. */
    stop(): Promise<number | null>;
}

export interface NodeRed extends Running {
    /** Base URL of editor, admin API and HTTP nodes, without a slash at the end. */
    url: string;
}

export interface NodeRedOptions {
    userDir: string;
    /** Added to the settings; must survive JSON. */
    settings?: object;
    flows?: object[];
    credentials?: Record<string, object>;
    env?: Record<string, string>;
}

/** An empty user directory with this package linked into it; remove it with `removeDir`. */
export async function makeUserDir(): Promise<string> {
    const userDir = await makeDir("wl-user-");
    const scope = path.join(userDir, "node_modules", "@wattledger");
    await mkdir(scope, { recursive: true });
    await symlink(root, path.join(scope, "node-red-energy"));
    await writeFile(
        path.join(userDir, "package.json"),
        JSON.stringify({ name: "user-dir", private: true, dependencies: { "@wattledger/node-red-energy": `file:${root}` } }),
    );
    return userDir;
}

export function makeDir(prefix: string): Promise<string> {
    return mkdtemp(path.join(tmpdir(), prefix));
}

export function removeDir(dir: string): Promise<void> {
    return rm(dir, { recursive: true, force: true, maxRetries: 3 });
}

/** Starts a whole Node-RED as a child process on a free port of 127.0.0.1; resolves when it answers and its flows run. */
export async function startNodeRed(options: NodeRedOptions): Promise<NodeRed> {
    const { userDir, settings, flows = [], credentials } = options;
    const all = {
        uiHost: "127.0.0.1",
        uiPort: 0,
        flowFile: "flows.json",
        credentialSecret: false,
        telemetry: { enabled: false },
        editorTheme: { tours: false, palette: { catalogues: [] } },
        ...settings,
    };
    await writeFile(path.join(userDir, "settings.js"), `module.exports = ${JSON.stringify(all)};\n`);
    await writeFile(path.join(userDir, "flows.json"), JSON.stringify(flows));
    if (credentials) await writeFile(path.join(userDir, "flows_cred.json"), JSON.stringify(credentials));
    return startRedJs(["--userDir", userDir], userDir, options.env);
}

/** Starts the stock command of the Node-RED under test; resolves when it answers and its flows run. */
export async function startRedJs(args: string[], cwd: string, env: NodeJS.ProcessEnv = {}): Promise<NodeRed> {
    const running = start([path.join(nodeRedHome, "red.js"), ...args], cwd, { NODE_RED_HOME: undefined, ...env });
    const stuck = setTimeout(() => running.process.kill("SIGKILL"), START_WITHIN_MS);
    try {
        await running.logged(/Server now running at/);
        await running.logged(/Started flows|Waiting for missing types|Flows stopped/);
    } finally {
        clearTimeout(stuck);
    }
    return { url: /Server now running at (https?:\S+?)\/?\s/.exec(running.log())?.[1] ?? "", ...running };
}

/** Starts a program with this Node. */
export function start(args: string[], cwd: string, env: NodeJS.ProcessEnv = {}): Running {
    const child = spawn(process.execPath, args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    return { process: child, ...watch(child), stop: () => stop(child) };
}

function watch(child: ChildProcess): Pick<Running, "log" | "logged"> {
    let text = "";
    const waiting = new Set<() => void>();
    const check = () => {
        for (const task of waiting) task();
    };
    for (const stream of [child.stdout, child.stderr]) {
        stream?.on("data", (chunk) => {
            text += String(chunk);
            check();
        });
    }
    child.on("exit", check);
    return {
        log: () => text,
        logged: (pattern, from = 0) =>
            new Promise((resolve, reject) => {
                const task = () => {
                    const found = pattern.test(text.slice(from));
                    if (!found && child.exitCode === null && child.signalCode === null) return;
                    waiting.delete(task);
                    if (found) resolve();
                    else reject(new Error(`Node-RED ended before it printed ${String(pattern)}:\n${text}`));
                };
                waiting.add(task);
                task();
            }),
    };
}

async function stop(child: ChildProcess): Promise<number | null> {
    if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    const force = setTimeout(() => child.kill("SIGKILL"), 10_000);
    await ended;
    clearTimeout(force);
    return child.exitCode;
}
