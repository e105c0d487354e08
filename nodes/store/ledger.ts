import path from "node:path";
import { stampOf, systemClock, within, type Clock } from "../common/clock.js";
import { errorText, WattError } from "../common/errors.js";
import { Turns } from "../common/turns.js";
import { createSigningKey, formatProof, openCheckpoint, parseVerifierKey, Signer, type Checkpoint, type VerifierKey } from "./checkpoint.js";
import type { SpoolRecord } from "./delivery.js";
import { diskReason, ensureFolder, readText, replaceFile, syncFolder, systemFiles, type Files } from "./files.js";
import { HashFile } from "./hash-file.js";
import { acquireLock, type Lock } from "./lock.js";
import { Frontier, leafHash, planConsistency, planInclusion, verifyConsistency, verifyInclusion } from "./merkle.js";
import type { Batch } from "./segment.js";
import { SegmentLog } from "./segment-log.js";

export interface LedgerOptions {
    folder: string;
    /** Name under which checkpoints are signed, such as `example.org/plant1`; no spaces, no plus sign. It stays. */
    origin: string;
    /** An entry waits at most this long for its commit, ms; 1 s. */
    commitMs?: number;
    /** A commit starts at once when so many entries wait; 500. */
    commitEntries?: number;
    /** A checkpoint is signed at most so often by itself, ms; 60 s. After a crash so much is read again. */
    checkpointMs?: number;
    /** Length of one file of entries; 1 MB. */
    segmentBytes?: number;
    /** Opens once this has settled: who had the folder before. */
    after?: Promise<unknown> | undefined;
    files?: Files;
    clock?: Clock;
}

export interface LedgerStats {
    /** `failed`: the folder cannot be used and `reason` says why; a disk that fails is tried again at the next append. */
    state: "opening" | "ready" | "failed" | "closed";
    /** What a person should know: why it failed, or why the last append was refused. */
    reason?: string;
    /** Durable entries. */
    size: number;
    /** On disk, entries alone. */
    bytes: number;
    /** Cut from the end at start: an append that a crash interrupted, never acknowledged. */
    tornBytes: number;
    /** How often the file of hashes was damaged and made anew from the entries. */
    rebuilt: number;
}

/** The longest entry (C2SP tlog-tiles: lengths of 16 bits). */
export const MAX_ENTRY_BYTES = 65_535;
/** A record holds at most so much, so that reading one entry costs little. */
const RECORD_BYTES = 256 * 1024;
/** One commit writes at most so much. */
const COMMIT_BYTES = 1024 * 1024;
/** Appends wait for a disk that hangs until they hold so much. */
const WAITING_BYTES = 64 * 1024 * 1024;
const READ_BYTES = 1024 * 1024;
const CLOSE_MS = 1500;
const KEY_FILE = "key.pem";
const CHECKPOINT_FILE = "checkpoint";

interface Waiting {
    entry: Buffer;
    resolve: (index: number) => void;
    reject: (error: unknown) => void;
}

/** A ledger that is open: all of it that was found in the folder or is written to it. */
interface Opened {
    signer: Signer;
    verifier: VerifierKey;
    log: SegmentLog;
    hashes: HashFile;
    tree: Frontier;
    /** The last checkpoint that was signed. */
    last: { note: string; size: number } | undefined;
}

/**
 * An append-only Merkle log on disk (one folder, one process): what it has signed once it can prove for ever.
 * Entries are the source of truth; hashes of the tree lie beside them so that a proof needs a few reads, and are made anew when damaged.
 */
export class Ledger {
    /** Rejects when the folder cannot be used just now. */
    readonly ready: Promise<void>;
    /** Resolves once the folder is given back after `close`, however long the disk takes. */
    readonly ended: Promise<void>;
    readonly folder: string;
    private settle!: () => void;
    private readonly files: Files;
    private readonly clock: Clock;
    private readonly limits: Required<Omit<LedgerOptions, "folder" | "origin" | "after" | "files" | "clock">>;
    private readonly listeners = new Set<() => void>();
    private lock: Lock | undefined;
    private opened: Opened | undefined;
    /** What no second attempt mends. */
    private broken: WattError | undefined;
    private waiting: Waiting[] = [];
    private waitingBytes = 0;
    private readonly timers = new Map<"commit" | "checkpoint", () => void>();
    private checkpointAt = -Infinity;
    /** One step after the other changes or reads the folder. */
    private readonly turns = new Turns();
    private state: LedgerStats["state"] = "opening";
    private reason: string | undefined;
    private tornBytes = 0;
    private rebuilt = 0;
    private closing: Promise<void> | undefined;

    constructor(private readonly options: LedgerOptions) {
        const { folder, files = systemFiles, clock = systemClock, after } = options;
        this.folder = folder;
        this.files = files;
        this.clock = clock;
        this.limits = {
            commitMs: options.commitMs ?? 1000,
            commitEntries: options.commitEntries ?? 500,
            checkpointMs: options.checkpointMs ?? 60_000,
            segmentBytes: options.segmentBytes ?? 1024 * 1024,
        };
        this.ended = new Promise((resolve) => {
            this.settle = resolve;
        });
        this.ready = this.exclusive(async () => {
            await after;
            await this.open();
        });
        this.ready.catch(() => undefined);
    }

    /**
     * Adds an entry and resolves with its index once it is durable; entries of one second are written together.
     * @throws WattError LEDGER_ENTRY_INVALID; LEDGER_UNWRITTEN when the disk did not take it: it is not in the ledger, or perhaps is
     * after a crash; LEDGER_FULL when the disk hangs; LEDGER_CLOSED; what `open` throws
     */
    append(entry: Uint8Array | string): Promise<number> {
        const bytes = Buffer.from(entry);
        if (bytes.length > MAX_ENTRY_BYTES) return Promise.reject(new WattError("LEDGER_ENTRY_INVALID", `An entry of the ledger holds at most ${MAX_ENTRY_BYTES} bytes.`));
        if (this.closing) return Promise.reject(closed());
        if (this.waitingBytes + bytes.length > WAITING_BYTES) {
            return Promise.reject(new WattError("LEDGER_FULL", "The disk does not answer and too much waits for it: check the disk."));
        }
        const kept = new Promise<number>((resolve, reject) => this.waiting.push({ entry: bytes, resolve, reject }));
        this.waitingBytes += bytes.length;
        if (this.waiting.length === this.limits.commitEntries) this.start("commit");
        else this.later("commit", this.limits.commitMs);
        return kept;
    }

    /** Number of durable entries and root of their tree. */
    head(): Promise<{ size: number; root: Buffer }> {
        return this.exclusive(async () => {
            const { tree } = await this.open();
            return { size: tree.size, root: tree.root() };
        });
    }

    /** For verifiers: `<origin>+<key id>+<key>` (C2SP). */
    verifierKey(): Promise<string> {
        return this.exclusive(async () => (await this.open()).signer.verifierKey);
    }

    /**
     * An entry.
     * @throws WattError LEDGER_RANGE; LEDGER_DAMAGED when the disk has changed it
     */
    entry(index: number): Promise<Buffer> {
        return this.exclusive(async () => {
            const { log, tree } = await this.open();
            this.check(index, tree.size - 1);
            for await (const { entry } of readEntries(log, this.files, index, index + 1)) {
                await this.prove(index, tree.size, leafHash(entry));
                return entry;
            }
            throw damaged(`entry ${index} is missing`);
        });
    }

    /** Audit path of an entry in the tree of `size` entries (RFC 6962 §2.1.1). */
    inclusion(index: number, size?: number): Promise<Buffer[]> {
        return this.exclusive(() => this.prove(index, size));
    }

    /** Proof that the ledger of `to` entries begins with all of the ledger of `from` (RFC 6962 §2.1.2). */
    consistency(from: number, to?: number): Promise<Buffer[]> {
        return this.exclusive(async () => {
            const { tree } = await this.open();
            const end = to ?? tree.size;
            this.check(end, tree.size);
            this.check(from, end);
            if (from === 0) return [];
            return this.healing(async (hashes) => {
                const proof = await hashes.join(planConsistency(from, end));
                const isProof = verifyConsistency(from, end, await hashes.root(from), end === tree.size ? tree.root() : await hashes.root(end), proof);
                return isProof ? proof : undefined;
            });
        });
    }

    /** Signs the state of the ledger, durable first; what waits is committed before. */
    checkpoint(): Promise<string> {
        return this.exclusive(async () => {
            await this.commit();
            return this.seal();
        });
    }

    /** Proof of an entry that stands alone: a C2SP `.tlog-proof` file under a fresh checkpoint. */
    proof(index: number): Promise<string> {
        return this.exclusive(async () => {
            const checkpoint = await this.seal();
            return formatProof({ index, path: await this.prove(index), checkpoint });
        });
    }

    stats(): LedgerStats {
        return {
            state: this.state,
            ...(this.reason !== undefined && { reason: this.reason }),
            size: this.opened?.tree.size ?? 0,
            bytes: this.opened?.log.bytes ?? 0,
            tornBytes: this.tornBytes,
            rebuilt: this.rebuilt,
        };
    }

    /** Calls `listener` after every commit and change of state; the returned function ends it. */
    onChange(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /** Commits what waits, signs and gives the folder back; within 2 s, whatever the disk does. */
    close(): Promise<void> {
        return (this.closing ??= this.shut());
    }

    // --- opening

    /** @throws WattError STORE_LOCKED, LEDGER_KEY, LEDGER_NAME, LEDGER_DAMAGED, LEDGER_UNREADABLE for what the disk says */
    private async open(): Promise<Opened> {
        if (this.opened) return this.opened;
        if (this.broken) throw this.broken;
        try {
            this.opened = await this.load();
        } catch (error) {
            const told = error instanceof WattError ? error : new WattError("LEDGER_UNREADABLE", `The ledger cannot be used: ${diskReason(error, this.folder)}.`, { cause: error });
            if (told.code.startsWith("LEDGER_") && told.code !== "LEDGER_UNREADABLE") this.broken = told;
            this.become("failed", told.message);
            throw told;
        }
        this.become("ready");
        return this.opened;
    }

    private async load(): Promise<Opened> {
        const { folder, files } = this;
        await ensureFolder(files, folder);
        this.lock ??= await acquireLock(path.join(folder, "lock"), files);
        const names = await files.readdir(folder);
        const signer = new Signer(this.options.origin, await this.signingKey(names));
        const verifier = parseVerifierKey(signer.verifierKey);
        const note = await readText(files, path.join(folder, CHECKPOINT_FILE));
        const signed = note === undefined ? undefined : readCheckpoint(note, verifier);
        const log = new SegmentLog({ folder, files, segmentBytes: this.limits.segmentBytes, stamp: () => stampOf(this.clock) });
        this.tornBytes = await log.scan(names, true);
        const newest = log.segments.at(-1);
        // What a killed process wrote may not be on disk yet, and must be before it is signed.
        if (newest) await syncFile(files, newest.file);
        const hashes = await HashFile.open(files, folder);
        const opened: Opened = { signer, verifier, log, hashes, tree: new Frontier(), last: signed && { note: note!, size: signed.size } };
        try {
            const tree = signed && (await hashes.frontier(signed.size));
            if (tree?.root().equals(signed!.root)) opened.tree = tree;
            else if (signed && signed.size > 0) this.rebuilt++;
            await this.replay(opened, signed);
        } catch (error) {
            await hashes.close();
            throw error;
        }
        return opened;
    }

    /** Takes the entries behind the tree into it. */
    private async replay(opened: Opened, signed: Checkpoint | undefined): Promise<void> {
        const { log, hashes, tree } = opened;
        hashes.seek(tree.size);
        const end = log.segments.at(-1)?.next ?? 0;
        if (signed && end < signed.size) throw damaged(`it has signed ${signed.size} entries, and ${end} are here`);
        for await (const { entry } of readEntries(log, this.files, tree.size, end)) {
            hashes.add(tree.add(leafHash(entry)));
            if (hashes.waiting >= READ_BYTES) await hashes.flush();
            if (tree.size === signed?.size && !tree.root().equals(signed.root)) throw damaged(`its ${signed.size} entries are not those it has signed`);
        }
        await hashes.flush();
    }

    /** The key of the folder; one is made for an empty folder only. */
    private async signingKey(names: readonly string[]): Promise<string> {
        const file = path.join(this.folder, KEY_FILE);
        const pem = await readText(this.files, file);
        if (pem !== undefined) return pem;
        if (names.some((name) => name.endsWith(".seg") || name === CHECKPOINT_FILE)) {
            throw new WattError("LEDGER_KEY", `The ledger's key is gone: put ${KEY_FILE} back from a backup, or begin a new ledger in another folder.`);
        }
        const made = createSigningKey();
        await replaceFile(this.files, file, made, 0o600);
        await syncFolder(this.files, this.folder);
        return made;
    }

    // --- writing

    private start(what: "commit" | "checkpoint"): void {
        this.timers.get(what)?.();
        this.timers.delete(what);
        this.exclusive(async () => {
            await this.commit();
            if (what === "checkpoint" || this.clock.monotonic() >= this.checkpointAt + this.limits.checkpointMs) await this.seal();
            else this.later("checkpoint", this.limits.checkpointMs);
        }).catch((error: unknown) => {
            if (this.state === "ready") this.become("ready", errorText(error));
            this.later("checkpoint", this.limits.checkpointMs);
        });
    }

    private later(what: "commit" | "checkpoint", ms: number): void {
        if (this.timers.has(what) || this.closing) return;
        this.timers.set(
            what,
            this.clock.after(ms, () => this.start(what)),
        );
    }

    /** Writes what waits; never rejects, whoever appended is told. */
    private async commit(): Promise<void> {
        while (this.waiting.length > 0) {
            const group = take(this.waiting, COMMIT_BYTES);
            try {
                const opened = await this.open();
                const first = await this.write(opened, group);
                for (const [i, { resolve }] of group.entries()) resolve(first + i);
                this.become("ready");
            } catch (error) {
                const told =
                    error instanceof WattError ? error : new WattError("LEDGER_UNWRITTEN", `The ledger did not take the entry: ${diskReason(error, this.folder)}.`, { cause: error });
                if (this.state === "ready") this.become("ready", told.message);
                for (const { reject } of group) reject(told);
            }
            for (const { entry } of group) this.waitingBytes -= entry.length;
            for (const listener of this.listeners) listener();
        }
    }

    /** Makes a group durable and returns the index of its first entry. */
    private async write({ log, hashes, tree }: Opened, group: readonly Waiting[]): Promise<number> {
        // What the disk refused before; it would grow without end.
        await hashes.flush();
        const first = tree.size;
        const records: SpoolRecord[] = [];
        for (let [rest, seq] = [[...group], first]; rest.length > 0; ) {
            const part = take(rest, RECORD_BYTES);
            records.push(encodeEntries(seq, part.map(({ entry }) => entry)));
            seq += part.length;
        }
        await log.append(records);
        for (const { entry } of group) hashes.add(tree.add(leafHash(entry)));
        // The entries are kept; their hashes can be written later, or made again.
        await hashes.flush().catch(() => undefined);
        return first;
    }

    /** The signed checkpoint of what is durable. Nothing is signed that a power cut could take away. */
    private async seal(): Promise<string> {
        const opened = await this.open();
        const { tree, hashes, signer, last } = opened;
        if (last?.size === tree.size) return last.note;
        await hashes.sync();
        const note = signer.checkpoint(tree.size, tree.root());
        await replaceFile(this.files, path.join(this.folder, CHECKPOINT_FILE), note);
        await syncFolder(this.files, this.folder);
        opened.last = { note, size: tree.size };
        this.checkpointAt = this.clock.monotonic();
        return note;
    }

    // --- proving

    private async prove(index: number, size?: number, leaf?: Buffer): Promise<Buffer[]> {
        const { tree } = await this.open();
        const end = size ?? tree.size;
        this.check(end, tree.size);
        this.check(index, end - 1);
        return this.healing(async (hashes) => {
            const proof = await hashes.join(planInclusion(index, end));
            const root = end === tree.size ? tree.root() : await hashes.root(end);
            return verifyInclusion(index, end, leaf ?? (await hashes.read({ level: 0, index })), proof, root) ? proof : undefined;
        });
    }

    /** What `make` finds; when the file of hashes is damaged it is made anew from the entries first. */
    private async healing(make: (hashes: HashFile) => Promise<Buffer[] | undefined>): Promise<Buffer[]> {
        const opened = await this.open();
        const { hashes, tree } = opened;
        await hashes.flush();
        const proof = await make(hashes).catch(() => undefined);
        if (proof) return proof;
        this.rebuilt++;
        try {
            await this.replay({ ...opened, tree: new Frontier() }, { origin: this.options.origin, size: tree.size, root: tree.root() });
        } finally {
            hashes.seek(tree.size);
        }
        const again = await make(hashes);
        if (!again) throw damaged("an entry and its hash do not fit");
        return again;
    }

    private check(value: number, max: number): void {
        if (Number.isSafeInteger(value) && value >= 0 && value <= max) return;
        throw new WattError("LEDGER_RANGE", `The ledger has no entry or size ${value}: ask for 0 to ${max}.`);
    }

    // --- the rest

    private exclusive<T>(job: () => Promise<T>): Promise<T> {
        if (this.closing) return Promise.reject(closed());
        return this.turns.take(job);
    }

    private become(state: LedgerStats["state"], reason?: string): void {
        if (this.state === "closed" || (state === this.state && reason === this.reason)) return;
        this.state = state;
        this.reason = reason;
        for (const listener of this.listeners) listener();
    }

    private async shut(): Promise<void> {
        for (const cancel of this.timers.values()) cancel();
        this.timers.clear();
        this.turns.take(() => this.finish()).then(this.settle, this.settle);
        await within(this.clock, CLOSE_MS, this.ended);
        this.become("closed");
    }

    private async finish(): Promise<void> {
        await this.commit();
        const { opened } = this;
        if (opened) {
            await this.seal().catch(() => undefined);
            await opened.log.retire().catch(() => undefined);
            await opened.hashes.close().catch(() => undefined);
        }
        await this.lock?.release().catch(() => undefined);
    }
}

/** What an audit of a ledger's files finds. */
export interface LedgerAudit {
    /** Entries that are here and intact. */
    size: number;
    checkpoint: Checkpoint;
    /** Root over the entries that the checkpoint signs. */
    root: Buffer;
}

/**
 * Recomputes a ledger from its files alone, without changing them, for whoever has the key of its verifiers.
 * @throws WattError SIGNATURE_INVALID; LEDGER_DAMAGED when the entries are not those that were signed; file system errors as they are
 */
export async function auditLedger(folder: string, verifier: VerifierKey, files: Files = systemFiles): Promise<LedgerAudit> {
    const checkpoint = openCheckpoint(await files.readFile(path.join(folder, CHECKPOINT_FILE), "utf8"), verifier);
    const log = new SegmentLog({ folder, files, segmentBytes: 0, stamp: () => 0 });
    await log.scan(await files.readdir(folder), false);
    const end = log.segments.at(-1)?.next ?? 0;
    if (end < checkpoint.size) throw damaged(`it has signed ${checkpoint.size} entries, and ${end} are here`);
    const tree = new Frontier();
    let root = tree.root();
    for await (const { entry } of readEntries(log, files, 0, end)) {
        tree.add(leafHash(entry));
        if (tree.size === checkpoint.size) root = tree.root();
    }
    if (!root.equals(checkpoint.root)) throw damaged(`its ${checkpoint.size} entries are not those it has signed`);
    return { size: tree.size, checkpoint, root };
}

/** Entries [from, to), in order. */
async function* readEntries(log: SegmentLog, files: Files, from: number, to: number): AsyncGenerator<{ index: number; entry: Buffer }> {
    for (let at = from; at < to; ) {
        const segment = log.segments.find(({ next }) => next > at);
        if (!segment || segment.first > at) throw damaged(`entry ${at} is missing`);
        const batch: Batch = { records: [], entries: 0, bytes: 0, to: at, damaged: 0, version: 0 };
        await segment.read(files, batch, { until: Math.min(to, segment.next), entries: Number.MAX_SAFE_INTEGER, bytes: to - at === 1 ? 0 : READ_BYTES });
        if (batch.damaged + batch.version > 0 || batch.to === at) throw damaged(`entries from ${batch.records[0] ? batch.records.at(-1)!.seq : at} on are unreadable`);
        for (const record of batch.records) {
            for (const [i, entry] of decodeEntries(record).entries()) {
                const index = record.seq + i;
                if (index >= at && index < to) yield { index, entry };
            }
            at = Math.max(at, record.seq + record.count);
        }
    }
}

/** A record of entries, each behind its length in 4 bytes, little endian. */
function encodeEntries(seq: number, entries: readonly Buffer[]): SpoolRecord {
    const parts = entries.flatMap((entry) => {
        const length = Buffer.alloc(4);
        length.writeUInt32LE(entry.length);
        return [length, entry];
    });
    return { seq, count: entries.length, body: Buffer.concat(parts) };
}

function decodeEntries({ seq, count, body }: SpoolRecord): Buffer[] {
    const entries: Buffer[] = [];
    for (let at = 0; at + 4 <= body.length; ) {
        const end = at + 4 + body.readUInt32LE(at);
        entries.push(body.subarray(at + 4, end));
        at = end;
    }
    if (entries.length !== count) throw damaged(`the record of entry ${seq} is malformed`);
    return entries;
}

/** Takes the first ones, as many as so many bytes hold. */
function take(waiting: Waiting[], most: number): Waiting[] {
    let [count, bytes] = [0, 0];
    for (const { entry } of waiting) {
        if (count > 0 && bytes + entry.length > most) break;
        bytes += entry.length + 4;
        count++;
    }
    return waiting.splice(0, count);
}

function readCheckpoint(note: string, verifier: VerifierKey): Checkpoint {
    try {
        return openCheckpoint(note, verifier);
    } catch (error) {
        throw new WattError("LEDGER_DAMAGED", `The ledger's checkpoint is not signed as ${verifier.name} with the key beside it: give the ledger its old name, or put key and checkpoint back from a backup.`, { cause: error });
    }
}

async function syncFile(files: Files, file: string): Promise<void> {
    const handle = await files.open(file, "r+");
    try {
        await handle.datasync();
    } finally {
        await handle.close();
    }
}

function damaged(what: string): WattError {
    return new WattError("LEDGER_DAMAGED", `The ledger is damaged: ${what}. Put its folder back from a backup, or begin a new one.`);
}

function closed(): WattError {
    return new WattError("LEDGER_CLOSED", "The ledger is closed.");
}
