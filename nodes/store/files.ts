import * as fs from "node:fs/promises";
import path from "node:path";
import { errorCode } from "../common/errors.js";

/** What the store asks of a file system; tests inject one that fails. */
export type Files = Pick<typeof fs, "mkdir" | "readdir" | "open" | "rename" | "unlink" | "readFile" | "stat">;
export type FileHandle = Awaited<ReturnType<Files["open"]>>;

export const systemFiles: Files = fs;

/** Makes a folder and those above it. Node's own way says ENOENT where the disk is read-only. */
export async function ensureFolder(files: Files, folder: string): Promise<void> {
    try {
        await files.mkdir(folder);
    } catch (error) {
        if (errorCode(error) === "EEXIST") return;
        if (errorCode(error) !== "ENOENT" || path.dirname(folder) === folder) throw error;
        await ensureFolder(files, path.dirname(folder));
        // Once: behind a link to a disk that is not mounted it fails however often it is tried.
        await files.mkdir(folder).catch((again: unknown) => {
            if (errorCode(again) !== "EEXIST") throw again;
        });
    }
}

/** Makes a created or renamed entry of a folder survive a power cut. Windows cannot open a folder and needs no such step. */
export async function syncFolder(files: Files, folder: string): Promise<void> {
    let handle: FileHandle;
    try {
        handle = await files.open(folder, "r");
    } catch (error) {
        if (process.platform === "win32") return;
        throw error;
    }
    try {
        await handle.sync();
    } catch (error) {
        if (errorCode(error) !== "EINVAL") throw error;
    } finally {
        await handle.close();
    }
}

/** Replaces a file's content so that a reader, or a crash, sees the old or the new one and nothing in between. */
export async function replaceFile(files: Files, file: string, content: string, mode = 0o666): Promise<void> {
    const next = `${file}.tmp`;
    try {
        const handle = await files.open(next, "w", mode);
        try {
            await writeAll(handle, [Buffer.from(content)], 0);
            await handle.datasync();
        } finally {
            await handle.close();
        }
        await files.rename(next, file);
    } catch (error) {
        await files.unlink(next).catch(() => undefined);
        throw error;
    }
}

/**
 * Writes buffers at a position. A full disk takes part of a write without an error (measured: 11,152 of 14,000 bytes),
 * so a short count is one: ENOSPC.
 */
export async function writeAll(handle: FileHandle, buffers: Buffer[], position: number): Promise<number> {
    const wanted = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
    const { bytesWritten } = await handle.writev(buffers, position);
    if (bytesWritten === wanted) return wanted;
    throw Object.assign(new Error(`only ${bytesWritten} of ${wanted} bytes were written`), { code: "ENOSPC" });
}

/** Removes a file that may be gone already. */
export async function removeFile(files: Files, file: string): Promise<void> {
    try {
        await files.unlink(file);
    } catch (error) {
        if (errorCode(error) !== "ENOENT") throw error;
    }
}

/** The text of a file, or undefined where there is none. */
export async function readText(files: Files, file: string): Promise<string | undefined> {
    try {
        return await files.readFile(file, "utf8");
    } catch (error) {
        if (errorCode(error) === "ENOENT") return undefined;
        throw error;
    }
}

/** A name as one safe file name. */
export function fileName(name: string): string {
    return encodeURIComponent(name).replace(/[.*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** Room left on the disk of a folder, bytes; undefined where the system does not say. */
export async function freeBytes(folder: string): Promise<number | undefined> {
    try {
        const { bavail, bsize } = await fs.statfs(folder);
        return bavail * bsize;
    } catch {
        return undefined;
    }
}

/** True for what a disk says that is full. */
export function isDiskFull(error: unknown): boolean {
    const code = errorCode(error);
    return code === "ENOSPC" || code === "EDQUOT";
}

/** An error of the file system in the words of a person. */
export function diskReason(error: unknown, folder: string): string {
    const code = errorCode(error);
    const where = path.basename(folder);
    if (isDiskFull(error)) return `the disk is full (${where})`;
    if (code === "EROFS") return `the disk is read-only (${where})`;
    if (code === "EACCES" || code === "EPERM") return `no permission to write to ${where}`;
    if (code === "ENOENT") return `${where} cannot be made: check that the disk it lies on is mounted`;
    if (code === "ENOTDIR") return `a file is where a folder should be (${where})`;
    if (code === "EIO") return `the disk reports errors (${where})`;
    return `${where}: ${error instanceof Error ? error.message : String(error)}`;
}
