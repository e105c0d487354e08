import * as fs from "node:fs/promises";
import path from "node:path";
import type { FileHandle, Files } from "../../dist/store/files.js";

/** Every operation that can fail; handle operations are named `handle.x`. */
export type Operation =
    | "mkdir" | "readdir" | "open" | "rename" | "unlink" | "readFile" | "stat"
    | "handle.writev" | "handle.datasync" | "handle.sync" | "handle.truncate" | "handle.read" | "handle.close";

/** What goes wrong: a system error code, or `short`: half of a write. */
export type Fault = "ENOSPC" | "EIO" | "EROFS" | "EACCES" | "short";

const HANDLE_OPERATIONS = new Set(["writev", "datasync", "sync", "truncate", "read", "close"]);

/** The real file system, but for what `fault` says of each operation, and able to forget what was never synced, as a power cut does. */
export class FaultyFiles implements Files {
    fault: (operation: Operation, file: string) => Fault | undefined = () => undefined;
    /** Bytes of each file that are certain to survive a power cut. */
    private readonly synced = new Map<string, number>();
    /** Files whose folder was not synced since they were made. */
    private readonly unlisted = new Set<string>();

    mkdir = this.wrap("mkdir", fs.mkdir) as Files["mkdir"];
    readdir = this.wrap("readdir", fs.readdir) as Files["readdir"];
    unlink = this.wrap("unlink", fs.unlink) as Files["unlink"];
    readFile = this.wrap("readFile", fs.readFile) as Files["readFile"];
    stat = this.wrap("stat", fs.stat) as Files["stat"];
    rename = this.wrap("rename", async (from: string, to: string) => {
        await fs.rename(from, to);
        const known = this.synced.get(from);
        if (known !== undefined) this.synced.set(to, known);
    }) as Files["rename"];
    open = this.wrap("open", async (file: string, flags: string, mode?: number) => this.watch(await fs.open(file, flags, mode), file, flags)) as Files["open"];

    /** Everything fails from now on and nothing reaches the disk, as after a kill. */
    kill(): void {
        this.fault = (operation) => (operation === "handle.close" ? undefined : "EIO");
    }

    /** Takes away what a power cut may: of each file a part of what was not synced (`part` 0..1 stays), and files not listed yet. */
    async powerCut(part: number): Promise<void> {
        for (const [file, synced] of this.synced) {
            const written = await fs.stat(file).then(({ size }) => size, () => undefined);
            if (written === undefined) continue;
            if (this.unlisted.has(file) && part < 0.5) await fs.unlink(file);
            else if (written > synced) await fs.truncate(file, synced + Math.floor((written - synced) * part));
        }
    }

    private wrap(operation: Operation, run: (...args: never[]) => unknown): unknown {
        return async (...args: never[]) => {
            this.raise(operation, String(args[0]));
            return run(...args);
        };
    }

    private raise(operation: Operation, file: string): "short" | undefined {
        const fault = this.fault(operation, file);
        if (fault === undefined || fault === "short") return fault;
        throw Object.assign(new Error(`${fault}: injected, ${operation} '${path.basename(file)}'`), { code: fault });
    }

    private watch(handle: FileHandle, file: string, flags: string): FileHandle {
        if (flags.startsWith("w")) {
            this.synced.set(file, 0);
            this.unlisted.add(file);
        }
        return new Proxy(handle, {
            get: (target, property) => {
                const value = Reflect.get(target, property, target) as unknown;
                if (typeof value !== "function") return value;
                if (typeof property !== "string" || !HANDLE_OPERATIONS.has(property)) return value.bind(target) as unknown;
                return async (...args: unknown[]) => {
                    // A handle must not leak: the fault comes after the close.
                    if (property === "close") await target.close();
                    const fault = this.raise(`handle.${property}` as Operation, file);
                    if (property === "close") return undefined;
                    if (fault === "short" && property === "writev") {
                        const [buffers, position] = args as [Buffer[], number];
                        const half = Buffer.concat(buffers);
                        return target.writev([half.subarray(0, half.length >> 1)], position);
                    }
                    const result: unknown = await (value as (...all: unknown[]) => Promise<unknown>).apply(target, args);
                    if (property === "datasync") this.synced.set(file, (await target.stat()).size);
                    if (property === "sync") for (const other of this.unlisted) if (path.dirname(other) === file) this.unlisted.delete(other);
                    return result;
                };
            },
        });
    }
}
