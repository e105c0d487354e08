import { rm } from "node:fs/promises";
import path from "node:path";
import { setFlagsFromString } from "node:v8";
import type * as Wasm from "node-sqlite3-wasm";
import { Worker } from "node:worker_threads";
import { errorCode, errorText, WattError } from "../common/errors.js";
import { ensureFolder, readText, removeFile, replaceFile, systemFiles, type Files } from "./files.js";
import { acquireLock, type Lock } from "./lock.js";

export type SqlValue = number | string | Uint8Array | null;
export type SqlBackend = "node:sqlite" | "node-sqlite3-wasm";

/**
 * A SQLite file. Every call blocks: keep each one short.
 * @throws WattError SQLITE_FULL, SQLITE_READONLY, SQLITE_IO, SQLITE_LOCKED, SQLITE_DAMAGED, SQLITE_FAILED
 */
export interface Database {
    readonly backend: SqlBackend;
    exec(sql: string): void;
    /** Runs one statement; it stays prepared. */
    run(sql: string, ...values: SqlValue[]): void;
    all<Row>(sql: string, ...values: SqlValue[]): Row[];
    /** All or nothing. */
    transaction(work: () => void): void;
    close(): void;
}

/** What both backends' statements come down to. */
interface Statement {
    run(values: SqlValue[]): unknown;
    all(values: SqlValue[]): unknown[];
    finalize(): void;
}

interface Driver {
    backend: SqlBackend;
    exec(sql: string): void;
    prepare(sql: string): Statement;
    close(): void;
}

/** The SQLite that this Node carries, if it is there without a flag. */
export function nodeSqlite(): ((file: string) => Driver) | undefined {
    // Node 22 warns that the module is experimental; once a start is once too often for a log that people read.
    // oxlint-disable-next-line typescript/unbound-method -- put back as it was
    const { emitWarning } = process;
    process.emitWarning = () => undefined;
    try {
        const { DatabaseSync } = require("node:sqlite") as { DatabaseSync: new (file: string) => NodeDatabase };
        return (file) => {
            const db = new DatabaseSync(file);
            return {
                backend: "node:sqlite",
                exec: (sql) => db.exec(sql),
                prepare: (sql) => {
                    const statement = db.prepare(sql);
                    return { run: (values) => statement.run(...values), all: (values) => statement.all(...values), finalize: () => undefined };
                },
                close: () => db.close(),
            };
        };
    } catch {
        return undefined;
    } finally {
        process.emitWarning = emitWarning;
    }
}

interface NodeDatabase {
    exec(sql: string): void;
    prepare(sql: string): { run(...values: SqlValue[]): unknown; all(...values: SqlValue[]): unknown[] };
    close(): void;
}

/**
 * Loads it compiled by V8's baseline compiler alone: the optimizing one takes 40 MB of memory for good (`npm run bench -- plant`),
 * which a small computer needs more than SQLite needs its speed. How a module is compiled is settled when it is loaded.
 */
function loadWasm(): typeof Wasm {
    setFlagsFromString("--liftoff-only");
    try {
        return require("node-sqlite3-wasm") as typeof Wasm;
    } finally {
        setFlagsFromString("--no-liftoff-only");
    }
}

/** SQLite as WebAssembly, for a Node without its own. */
export function wasmSqlite(file: string): Driver {
    const { Database: WasmDatabase } = loadWasm();
    const db = new WasmDatabase(file);
    // It has no shared memory, so that a write-ahead log needs the file for itself.
    db.exec("PRAGMA locking_mode = EXCLUSIVE");
    return { backend: "node-sqlite3-wasm", exec: (sql) => db.exec(sql), prepare: (sql) => db.prepare(sql), close: () => db.close() };
}

/** Opens a file, made where there is none. `backend` is for tests; the running Node decides. */
export function openDatabase(file: string, backend?: SqlBackend): Database {
    const native = backend === "node-sqlite3-wasm" ? undefined : nodeSqlite();
    const driver = typed(() => (native ?? wasmSqlite)(file));
    const prepared = new Map<string, Statement>();
    const discard = (sql: string) => {
        try {
            prepared.get(sql)?.finalize();
        } catch {
            // It repeats the error of its last run.
        }
        prepared.delete(sql);
    };
    const use = <T>(sql: string, work: (statement: Statement) => T): T =>
        typed(() => {
            let statement = prepared.get(sql);
            if (!statement) prepared.set(sql, (statement = driver.prepare(sql)));
            try {
                return work(statement);
            } catch (error) {
                // The WebAssembly build cannot use a statement again that has failed.
                discard(sql);
                throw error;
            }
        });
    const db: Database = {
        backend: driver.backend,
        exec: (sql) => typed(() => driver.exec(sql)),
        run: (sql, ...values) => use(sql, (statement) => void statement.run(values)),
        all: <Row>(sql: string, ...values: SqlValue[]) => use(sql, (statement) => statement.all(values) as Row[]),
        transaction: (work) => {
            db.exec("BEGIN IMMEDIATE");
            try {
                work();
                db.exec("COMMIT");
            } catch (error) {
                try {
                    db.exec("ROLLBACK");
                } catch {
                    // A full disk may have rolled back already.
                }
                throw error;
            }
        },
        close: () => {
            for (const sql of prepared.keys()) discard(sql);
            typed(() => driver.close());
        },
    };
    return db;
}

/** Both backends give SQLite's own messages (sqlite3_errstr); only one gives its codes. */
const CODES: [RegExp, string, string][] = [
    [/malformed|not a database|missing from index|database corruption/i, "SQLITE_DAMAGED", "the database is damaged"],
    [/disk is full/i, "SQLITE_FULL", "the disk is full"],
    [/readonly|read-only|(unable|could not) (to )?open/i, "SQLITE_READONLY", "the folder takes no writes: check its permissions and whether the disk is read-only"],
    [/locked/i, "SQLITE_LOCKED", "another program holds the database"],
    [/I\/O error/i, "SQLITE_IO", "the disk reports errors"],
];

function typed<T>(work: () => T): T {
    try {
        return work();
    } catch (cause) {
        const text = errorText(cause);
        const [, code, words] = CODES.find(([pattern]) => pattern.test(text)) ?? [undefined, "SQLITE_FAILED", text];
        throw new WattError(code, words, { cause });
    }
}

/** A database that is ours alone. */
export interface OwnedDatabase {
    db: Database;
    /** Where a damaged file was put, if the one found was. */
    setAside?: string;
    /** Closes the file and gives it back. */
    close(): Promise<void>;
}

export interface OwnedOptions {
    files?: Files;
    backend?: SqlBackend;
    /** Names a damaged file that is put aside. */
    stamp: string;
    /** PRAGMA synchronous: NORMAL survives kill -9, FULL also a power cut at each commit. */
    synchronous: "NORMAL" | "FULL";
}

/**
 * Opens a database for this process alone, in write-ahead mode. A file that was not closed properly is checked first, beside the
 * event loop; a damaged one is put aside under another name and a new one begun.
 * @throws WattError STORE_LOCKED, or what `openDatabase` throws.
 */
export async function openOwned(file: string, options: OwnedOptions): Promise<OwnedDatabase> {
    const { files = systemFiles, backend, stamp, synchronous } = options;
    await ensureFolder(files, path.dirname(file));
    const lock = await acquireLock(`${file}.owner`, files);
    try {
        // Left by a killed process; ours is the right to the file now.
        await rm(`${file}.lock`, { recursive: true, force: true });
        let setAside: string | undefined;
        if (!(await wasClosed(file, files)) && (await isDamaged(file, backend))) setAside = await putAside(file, stamp, files);
        await removeFile(files, marker(file));
        let db: Database;
        try {
            db = start(file, backend, synchronous);
        } catch (error) {
            if ((error as WattError).code !== "SQLITE_DAMAGED") throw error;
            setAside = await putAside(file, stamp, files);
            db = start(file, backend, synchronous);
        }
        return { db, ...(setAside !== undefined && { setAside }), close: () => finish(db, file, files, lock) };
    } catch (error) {
        await lock.release();
        throw error;
    }
}

function start(file: string, backend: SqlBackend | undefined, synchronous: string): Database {
    const db = openDatabase(file, backend);
    try {
        db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous}; PRAGMA journal_size_limit = 4194304`);
        db.all("SELECT count(*) FROM sqlite_schema");
        return db;
    } catch (error) {
        db.close();
        throw error;
    }
}

async function finish(db: Database, file: string, files: Files, lock: Lock): Promise<void> {
    try {
        db.close();
        await replaceFile(files, marker(file), await fingerprint(file, files));
    } finally {
        await lock.release();
    }
}

function marker(file: string): string {
    return `${file}.closed`;
}

async function fingerprint(file: string, files: Files): Promise<string> {
    const { size, mtimeMs } = await files.stat(file);
    return `${size} ${mtimeMs}`;
}

/** True for a file that is as the last proper close left it, or not there yet. */
async function wasClosed(file: string, files: Files): Promise<boolean> {
    try {
        return (await readText(files, marker(file))) === (await fingerprint(file, files));
    } catch (error) {
        return errorCode(error) === "ENOENT";
    }
}

/** What the check's thread ends with when the file is damaged. */
export const DAMAGED_EXIT = 3;

/** PRAGMA quick_check in a thread of its own: it reads the whole file, for seconds on an SD card. */
function isDamaged(file: string, backend: SqlBackend | undefined): Promise<boolean> {
    return new Promise((resolve) => {
        const worker = new Worker(path.join(__dirname, "sqlite-check.js"), { workerData: { file, backend } });
        // A check that could not run says nothing; opening the file will.
        worker.once("error", () => resolve(false));
        worker.once("exit", (code) => resolve(code === DAMAGED_EXIT));
    });
}

async function putAside(file: string, stamp: string, files: Files): Promise<string> {
    const aside = `${file}.damaged-${stamp}`;
    await files.rename(file, aside);
    for (const part of ["-wal", "-shm"]) {
        await files.rename(file + part, aside + part).catch(() => undefined);
    }
    await rm(`${file}.lock`, { recursive: true, force: true });
    return aside;
}
