import { randomBytes } from "node:crypto";
import path from "node:path";
import { errorCode } from "../common/errors.js";
import { freeBytes, isDiskFull, removeFile, writeAll, type Files } from "./files.js";

/** Enough for SQLite to shorten its log, which holds 4 MB at most, and to delete. */
const BALLAST_BYTES = 2 * 1024 * 1024;
/** A disk with less room is full. */
const FULL_BYTES = 256 * 1024;

/** A file that is given up when the disk is full: SQLite cannot delete without room to write. */
export class Ballast {
    private readonly file: string;

    constructor(
        private readonly folder: string,
        private readonly files: Files,
    ) {
        this.file = path.join(folder, "ballast");
    }

    /** Takes the room again, where there is twice as much. */
    async lay(): Promise<void> {
        try {
            const size = await this.files.stat(this.file).then((stat) => stat.size, () => 0);
            if (size >= BALLAST_BYTES || ((await freeBytes(this.folder)) ?? Infinity) < 2 * BALLAST_BYTES) return;
            const handle = await this.files.open(this.file, "w");
            try {
                // Noise, which no file system stores as less.
                await writeAll(handle, [randomBytes(BALLAST_BYTES)], 0);
            } finally {
                await handle.close();
            }
        } catch {
            await this.release().catch(() => undefined);
        }
    }

    release(): Promise<void> {
        return removeFile(this.files, this.file);
    }

    /** True for an error that means a full disk; the WebAssembly build of SQLite takes it for one that fails. */
    async isNeeded(error: unknown): Promise<boolean> {
        const code = errorCode(error);
        return isDiskFull(error) || code === "SQLITE_FULL" || (code === "SQLITE_IO" && ((await freeBytes(this.folder)) ?? Infinity) < FULL_BYTES);
    }
}
