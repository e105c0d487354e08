import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { openDatabase, openOwned, type OwnedDatabase, type SqlBackend } from "../../dist/store/sqlite.js";
import { backends } from "./backends.js";
import { FaultyFiles } from "./faulty-files.js";
import { makeFolder, removeFolders } from "./kit.js";

const sqlite = path.join(__dirname, "../../dist/store/sqlite.js");

describe("store/sqlite", () => {
    afterEach(removeFolders);

    it("loading it prints nothing, whatever the running Node thinks of its SQLite", async () => {
        const script = `const { openDatabase } = require(${JSON.stringify(sqlite)}); openDatabase(":memory:").close(); process.emitWarning("still works")`;
        const { stderr } = await promisify(execFile)(process.execPath, ["-e", script]);
        assert.match(stderr, /still works/);
        assert.doesNotMatch(stderr, /Experimental/);
    });

    for (const backend of backends) {
        describe(backend, () => {
            let file: string;
            const opened: OwnedDatabase[] = [];
            const open = async (options: { files?: FaultyFiles } = {}) => {
                const owned = await openOwned(file, { backend, stamp: "now", synchronous: "NORMAL", ...options });
                opened.push(owned);
                return owned;
            };
            beforeEach(async () => {
                file = path.join(await makeFolder(), "below", "test.db");
            });
            afterEach(async () => {
                await Promise.allSettled(opened.splice(0).map((owned) => owned.close()));
            });

            it("keeps integers, reals, texts and bytes as they are", () => {
                const db = openDatabase(":memory:", backend);
                assert.equal(db.backend, backend);
                db.exec("CREATE TABLE t (k INTEGER PRIMARY KEY, a, b, c, d)");
                db.run("INSERT INTO t VALUES ((? << 16) | ?, ?, ?, ?, ?)", 1_795_222_800_123, 65_535, 0.1, "grün\n", new Uint8Array([0, 255]), null);
                const [row] = db.all<Record<string, unknown>>("SELECT k >> 16 AS t, k & 65535 AS device, a, b, c, d FROM t");
                assert.deepEqual({ ...row, c: [...(row!["c"] as Uint8Array)] }, { t: 1_795_222_800_123, device: 65_535, a: 0.1, b: "grün\n", c: [0, 255], d: null });
                db.close();
            });

            it("a transaction is all or nothing, and the next one works", () => {
                const db = openDatabase(":memory:", backend);
                db.exec("CREATE TABLE t (k INTEGER PRIMARY KEY)");
                assert.throws(() =>
                    db.transaction(() => {
                        db.run("INSERT INTO t VALUES (1)");
                        db.run("INSERT INTO t VALUES (1)");
                    }),
                    { code: "SQLITE_FAILED" },
                );
                assert.deepEqual(db.all("SELECT * FROM t"), []);
                // The very statement that failed.
                db.transaction(() => db.run("INSERT INTO t VALUES (1)"));
                assert.equal(db.all("SELECT * FROM t").length, 1);
                db.close();
            });

            it("says what is wrong by a code", async () => {
                const db = openDatabase(":memory:", backend);
                db.exec("CREATE TABLE t (v); PRAGMA max_page_count = 10");
                assert.throws(() => db.run("INSERT INTO t VALUES (zeroblob(100000))"), { code: "SQLITE_FULL" });
                db.exec("PRAGMA query_only = 1");
                assert.throws(() => db.run("INSERT INTO t VALUES (1)"), { code: "SQLITE_READONLY" });
                assert.throws(() => db.exec("nonsense"), { code: "SQLITE_FAILED" });
                db.close();
                assert.throws(() => openDatabase(path.join(file, "no", "such", "folder"), backend).all("SELECT 1"), { code: "SQLITE_READONLY" });
            });

            it("one owner; after close the next", async () => {
                const first = await open();
                await assert.rejects(open(), { code: "STORE_LOCKED" });
                await first.close();
                await (await open()).close();
            });

            it("what a killed process leaves is taken over with its data", async () => {
                await killedWriter(file, backend);
                // Its lock names a process that is gone; the WebAssembly build leaves a lock of its own besides.
                assert.ok((await readdir(path.dirname(file))).includes("test.db.owner"));
                const { db, setAside } = await open();
                assert.equal(setAside, undefined);
                assert.deepEqual({ ...db.all<object>("SELECT count(*) AS n FROM t")[0] }, { n: 100 });
            });

            it("a lock of the WebAssembly build that a kill left behind does not lock us out", async () => {
                await (await open()).close();
                await mkdir(`${file}.lock`);
                const { db } = await open();
                db.exec("CREATE TABLE works (v)");
            });

            it("a database that was closed well is not checked again, one that changed since is", async () => {
                const first = await open();
                first.db.exec("CREATE TABLE t (v)");
                await first.close();
                assert.ok((await readdir(path.dirname(file))).includes("test.db.closed"));
                const second = await open();
                assert.ok(!(await readdir(path.dirname(file))).includes("test.db.closed"));
                await second.close();
            });

            for (const [what, damage] of [
                ["noise in the middle", async () => overwrite(file, 4096 * 3 + 10, 9000)],
                ["a head that is no SQLite", async () => overwrite(file, 0, 100)],
                ["half of it missing", async () => truncate(file, 4096 * 6)],
                ["nothing left in it", async () => truncate(file, 0)],
            ] as const) {
                it(`${what}: put aside whole, told, and a new one begun`, async () => {
                    const first = await open();
                    first.db.exec("CREATE TABLE t (v)");
                    first.db.transaction(() => {
                        for (let i = 0; i < 1000; i++) first.db.run("INSERT INTO t VALUES (?)", `value ${i} ${"x".repeat(50)}`);
                    });
                    await first.close();
                    await damage();
                    const before = await readFile(file);
                    const { db, setAside } = await open();
                    assert.equal(setAside, `${file}.damaged-now`);
                    assert.equal(Buffer.compare(await readFile(setAside), before), 0);
                    db.exec("CREATE TABLE t (v)");
                });
            }

            it("a folder that takes no lock, or no new name for the damaged file, is told and nothing is lost", async () => {
                const first = await open();
                await first.close();
                const files = new FaultyFiles();
                files.fault = (operation) => (operation === "open" ? "EROFS" : undefined);
                await assert.rejects(open({ files }), { code: "EROFS" });
                files.fault = (operation) => (operation === "rename" ? "EROFS" : undefined);
                await overwrite(file, 0, 100);
                const { size } = await stat(file);
                await assert.rejects(open({ files }), { code: "EROFS" });
                assert.equal((await stat(file)).size, size);
                assert.equal((await open()).setAside, `${file}.damaged-now`);
            });
        });
    }
});

async function overwrite(file: string, at: number, length: number): Promise<void> {
    const content = await readFile(file);
    content.fill(0xa5, at, at + length);
    await writeFile(file, content);
}

/** Writes 100 rows and is killed before it can close. */
async function killedWriter(file: string, backend: SqlBackend): Promise<void> {
    const script = `
        const { openOwned } = require(${JSON.stringify(sqlite)});
        openOwned(${JSON.stringify(file)}, { backend: ${JSON.stringify(backend)}, stamp: "x", synchronous: "NORMAL" }).then(({ db }) => {
            db.exec("CREATE TABLE t (v)");
            for (let i = 0; i < 100; i++) db.run("INSERT INTO t VALUES (?)", i);
            process.kill(process.pid, "SIGKILL");
        });`;
    await promisify(execFile)(process.execPath, ["-e", script]).catch((error: { signal?: string }) => assert.equal(error.signal, "SIGKILL"));
}
