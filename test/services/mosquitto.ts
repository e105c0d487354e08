import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { freePort } from "./influxd.js";

const run = promisify(execFile);

export interface MosquittoOptions {
    /** More of the configuration file, for the listener and after it. */
    config?: string;
    /** Passwords by user; without any, everyone is let in. */
    users?: Record<string, string>;
    /** Lines of an access list. */
    acl?: string;
    /** PEM: the broker's certificate and key; clients need a certificate of `clientCa`. */
    tls?: { cert: string; key: string; clientCa?: string };
}

/** A real Mosquitto of the system's package, on a port and in a folder of its own, that keeps its sessions on disk. */
export class Mosquitto {
    private child: ChildProcess | undefined;
    private text = "";

    private constructor(
        readonly folder: string,
        readonly port: number,
    ) {}

    static async start({ config = "", users, acl, tls }: MosquittoOptions = {}): Promise<Mosquitto> {
        const folder = await mkdtemp(path.join(tmpdir(), "wl-mosquitto-"));
        const broker = new Mosquitto(folder, await freePort());
        const lines = [
            `listener ${broker.port} 127.0.0.1`,
            // It would change to a user of its own that may not write here.
            "user root",
            "persistence true",
            `persistence_location ${folder}/`,
            "max_inflight_messages 1000",
            "max_queued_messages 0",
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "connection_messages true",
            "log_dest stderr",
        ];
        const file = async (name: string, content: string): Promise<string> => {
            const full = path.join(folder, name);
            await writeFile(full, content, { mode: 0o600 });
            return full;
        };
        lines.push(`allow_anonymous ${!users}`);
        if (users) {
            const passwords = await file("passwords", Object.entries(users).map(([user, password]) => `${user}:${password}\n`).join(""));
            await run("mosquitto_passwd", ["-U", passwords]);
            await chmod(passwords, 0o600);
            lines.push(`password_file ${passwords}`);
        }
        if (acl) lines.push(`acl_file ${await file("acl", `${acl}\n`)}`);
        if (tls) {
            lines.push(`certfile ${await file("cert.pem", tls.cert)}`, `keyfile ${await file("key.pem", tls.key)}`);
            if (tls.clientCa) lines.push(`cafile ${await file("ca.pem", tls.clientCa)}`, "require_certificate true");
        }
        await file("mosquitto.conf", `${lines.join("\n")}\n${config}\n`);
        await broker.restart();
        return broker;
    }

    get url(): string {
        return `mqtt://127.0.0.1:${this.port}`;
    }

    get pid(): number {
        return this.child!.pid!;
    }

    /** Starts it again in the same folder, on the same port; resolves when it takes clients. */
    async restart(): Promise<void> {
        await this.end("SIGTERM");
        const child = spawn("mosquitto", ["-c", path.join(this.folder, "mosquitto.conf")], { stdio: ["ignore", "ignore", "pipe"] });
        this.child = child;
        this.text = "";
        await new Promise<void>((resolve, reject) => {
            child.on("error", reject);
            child.on("exit", (code) => reject(new Error(`mosquitto ended with ${code}:\n${this.text}`)));
            child.stderr.on("data", (chunk: Buffer) => {
                this.text = (this.text + chunk.toString()).slice(-20_000);
                if (/mosquitto version \S+ running/.test(this.text)) resolve();
            });
        });
    }

    /** Has it write its sessions down; resolves when they are on disk. */
    async save(): Promise<void> {
        const file = path.join(this.folder, "mosquitto.db");
        const time = () => stat(file).then(({ mtimeMs }) => mtimeMs, () => 0);
        const before = await time();
        // Its loop looks at the signal when something else wakes it, at the latest after a second.
        for (process.kill(this.pid, "SIGUSR1"); (await time()) === before; ) await sleep(20);
    }

    kill(): Promise<void> {
        return this.end("SIGKILL");
    }

    async stop(): Promise<void> {
        await this.end("SIGTERM");
        await rm(this.folder, { recursive: true, force: true });
    }

    private async end(signal: NodeJS.Signals): Promise<void> {
        const { child } = this;
        this.child = undefined;
        child?.removeAllListeners("exit");
        if (!child || child.exitCode !== null || child.signalCode !== null) return;
        const ended = once(child, "exit");
        child.kill("SIGCONT");
        child.kill(signal);
        await ended;
    }
}
