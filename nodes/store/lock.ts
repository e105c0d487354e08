import { readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode, WattError } from "../common/errors.js";
import { readText, removeFile, systemFiles, writeAll, type Files } from "./files.js";

const HELD = Symbol.for("wattledger.locks");
/** Locks of this process, whichever copy of the package took them: a lock file with our id that is not here is a dead process's. */
const held = ((globalThis as Record<symbol, unknown>)[HELD] ??= new Set<string>()) as Set<string>;

export interface Lock {
    /** True when the owner before us ended without releasing: it was killed, or power was cut. */
    readonly stale: boolean;
    release(): Promise<void>;
}

/**
 * Takes the lock file at `file`. A lock whose process is gone, or whose id now belongs to another process, is taken over.
 * @throws WattError STORE_LOCKED when it is in use; file system errors as they are.
 */
export async function acquireLock(file: string, files: Files = systemFiles): Promise<Lock> {
    const key = path.resolve(file);
    if (held.has(key)) throw locked(file, process.pid);
    held.add(key);
    try {
        let stale = false;
        while (!(await create(key, files))) stale = await removeStale(key, files);
        return {
            stale,
            release: async () => {
                try {
                    await removeFile(files, key);
                } finally {
                    held.delete(key);
                }
            },
        };
    } catch (error) {
        held.delete(key);
        throw error;
    }
}

/** False when the file exists. */
async function create(file: string, files: Files): Promise<boolean> {
    try {
        const handle = await files.open(file, "wx");
        try {
            await writeAll(handle, [Buffer.from(JSON.stringify({ pid: process.pid, start: startOf(process.pid) }))], 0);
        } catch (error) {
            await removeFile(files, file);
            throw error;
        } finally {
            await handle.close();
        }
        return true;
    } catch (error) {
        if (errorCode(error) === "EEXIST") return false;
        throw error;
    }
}

async function removeStale(file: string, files: Files): Promise<boolean> {
    let text = await readText(files, file);
    // Another opener creates first and writes then; a file that stays empty was left by a power cut.
    for (let attempt = 0; text === "" && attempt < 10; attempt++) {
        await sleep(20);
        text = await readText(files, file);
    }
    if (text === undefined) return false;
    const owner = livingOwner(text);
    if (owner !== undefined) throw locked(file, owner);
    const aside = `${file}.${process.pid}`;
    await files.rename(file, aside);
    if ((await readText(files, aside)) === text) {
        await files.unlink(aside);
        return true;
    }
    // Another opener was faster, and what we moved was its fresh lock.
    await files.rename(aside, file);
    return false;
}

/** The id of the process that wrote the lock, if that very process still runs. */
function livingOwner(text: string): number | undefined {
    let owner: { pid: number; start: string };
    try {
        owner = JSON.parse(text) as typeof owner;
        process.kill(owner.pid, 0);
    } catch (error) {
        if (errorCode(error) !== "EPERM") return undefined;
        owner = JSON.parse(text) as typeof owner;
    }
    return owner.pid !== process.pid && startOf(owner.pid) === owner.start ? owner.pid : undefined;
}

/** When a process began, in the system's own count; empty where it does not say. */
function startOf(pid: number): string {
    try {
        const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
        // proc(5): field 22, counted after the command name, which may hold spaces and brackets.
        return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
    } catch {
        return "";
    }
}

function locked(file: string, pid: number): WattError {
    const folder = path.basename(path.dirname(file));
    return new WattError("STORE_LOCKED", `The folder ${folder} is in use by process ${pid}: end it, or choose another folder.`);
}
