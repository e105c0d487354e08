import { existsSync, statSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { errorCode } from "../common/errors.js";
import { DAMAGED_EXIT, openDatabase, type Database, type SqlBackend } from "./sqlite.js";

const { file, backend } = workerData as { file: string; backend?: SqlBackend };

/** True when SQLite itself says so; a file that cannot be opened for another reason is not damaged. */
function isDamaged(): boolean {
    if (!existsSync(file)) return false;
    // SQLite takes an empty file for a new database; ours are never left empty, except by a disk that lost them.
    if (statSync(file).size === 0) return true;
    let db: Database | undefined;
    try {
        db = openDatabase(file, backend);
        const [row] = db.all<Record<string, string>>("PRAGMA quick_check(1)");
        return row !== undefined && Object.values(row)[0] !== "ok";
    } catch (error) {
        return errorCode(error) === "SQLITE_DAMAGED";
    } finally {
        db?.close();
    }
}

if (isDamaged()) process.exitCode = DAMAGED_EXIT;
