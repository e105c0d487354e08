import { nodeSqlite, type SqlBackend } from "../../dist/store/sqlite.js";

/** Every SQLite that the running Node can use. */
export const backends: SqlBackend[] = [...(nodeSqlite() ? ["node:sqlite" as const] : []), "node-sqlite3-wasm"];
