import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface InfluxdOptions {
    /** Asks every request for user and password. */
    auth?: boolean;
    /** More of the configuration file, TOML. */
    config?: string;
    /** Database to create. */
    database?: string;
    /** Default: a free one. */
    port?: number;
}

/** A real InfluxDB 1.x of the system's package, on a port and in a folder of its own. */
export class Influxd {
    private child: ChildProcess | undefined;

    private constructor(
        readonly folder: string,
        readonly port: number,
    ) {}

    static async start(options: InfluxdOptions = {}): Promise<Influxd> {
        const folder = await mkdtemp(path.join(tmpdir(), "wl-influxd-"));
        const server = new Influxd(folder, options.port ?? (await freePort()));
        await writeFile(
            path.join(folder, "influxd.conf"),
            `reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
  dir = "${folder}/meta"
[data]
  dir = "${folder}/data"
  wal-dir = "${folder}/wal"
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:${server.port}"
  auth-enabled = ${options.auth ?? false}
  log-enabled = false
${options.config ?? ""}
`,
        );
        await server.restart();
        if (options.database) await server.query(`CREATE DATABASE "${options.database}"`);
        return server;
    }

    get url(): string {
        return `http://127.0.0.1:${this.port}`;
    }

    get pid(): number {
        return this.child!.pid!;
    }

    /** Starts it again in the same folder, on the same port; resolves when it takes requests. */
    async restart(): Promise<void> {
        await this.end("SIGTERM");
        const child = spawn("influxd", ["-config", path.join(this.folder, "influxd.conf")], { stdio: ["ignore", "ignore", "pipe"] });
        this.child = child;
        let log = "";
        await new Promise<void>((resolve, reject) => {
            child.on("error", reject);
            child.on("exit", (code) => reject(new Error(`influxd ended with ${code}:\n${log.slice(-2000)}`)));
            child.stderr.on("data", (chunk: Buffer) => {
                log = (log + chunk.toString()).slice(-20_000);
                // The last thing it says before it serves HTTP.
                if (log.includes("Listening for signals")) resolve();
            });
        });
        child.stderr.resume();
    }

    /**
     * As a power cut would, but for what it cut in two: InfluxDB 1.6.7 goes on behind the half entry at the end of its log, and at the
     * next start but one drops everything from there on, acknowledged or not. That is not what is tested.
     */
    async kill(): Promise<void> {
        await this.end("SIGKILL");
        for (const name of await readdir(this.folder, { recursive: true })) if (name.endsWith(".wal")) await cutHalfEntry(path.join(this.folder, name));
    }

    /** Runs InfluxQL without a driver: the raw JSON of /query. */
    async query(q: string, database = ""): Promise<{ results: { series?: { name: string; columns: string[]; values: unknown[][] }[]; error?: string }[] }> {
        const response = await fetch(`${this.url}/query?${new URLSearchParams({ q, db: database, epoch: "ms" })}`, { method: "POST" });
        return (await response.json()) as Awaited<ReturnType<Influxd["query"]>>;
    }

    /** Runs InfluxQL in the system's `influx` client; its CSV, times in ms. */
    async cli(database: string, q: string): Promise<string> {
        const args = ["-host", "127.0.0.1", "-port", String(this.port), "-database", database, "-precision", "ms", "-format", "csv", "-execute", q];
        const { stdout } = await run("influx", args, { maxBuffer: 256 * 1024 * 1024 });
        return stdout;
    }

    async stop(): Promise<void> {
        await this.end("SIGTERM");
        await rm(this.folder, { recursive: true, force: true, maxRetries: 3 });
    }

    private async end(signal: NodeJS.Signals): Promise<void> {
        const child = this.child;
        if (!child || child.exitCode !== null || child.signalCode !== null) return;
        child.removeAllListeners("exit");
        child.kill(signal);
        await once(child, "exit");
    }
}

/** An entry of a log segment: a byte for its type, four for its length, and so many bytes. */
async function cutHalfEntry(file: string): Promise<void> {
    const content = await readFile(file);
    let end = 0;
    for (let next = 0; next <= content.length; next = end + 5 <= content.length ? end + 5 + content.readUInt32BE(end + 1) : Infinity) end = next;
    await truncate(file, end);
}

/** A port that was free a moment ago: influxd and mosquitto do not tell the one they would pick themselves. */
export async function freePort(): Promise<number> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    server.close();
    await once(server, "close");
    return port;
}
