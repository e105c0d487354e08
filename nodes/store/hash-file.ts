import path from "node:path";
import { errorCode } from "../common/errors.js";
import { writeAll, type FileHandle, type Files } from "./files.js";
import { Frontier, HASH_BYTES, joinSubtrees, subtrees, type NodeId } from "./merkle.js";

const FILE = "hashes";

/**
 * The hashes of a tree's complete subtrees in one file, each where its last leaf completes it: leaf n begins at hash 2n - (ones in n),
 * the subtrees it completes follow it, upwards. So the file only grows, and any hash is one read.
 */
export class HashFile {
    private pending: Buffer[] = [];
    /** Bytes written. */
    private written = 0;

    private constructor(private readonly handle: FileHandle) {}

    static async open(files: Files, folder: string): Promise<HashFile> {
        const file = path.join(folder, FILE);
        let handle: FileHandle;
        try {
            handle = await files.open(file, "r+");
        } catch (error) {
            if (errorCode(error) !== "ENOENT") throw error;
            handle = await files.open(file, "w+");
        }
        return new HashFile(handle);
    }

    /** Bytes that are not written yet. */
    get waiting(): number {
        return this.pending.length * HASH_BYTES;
    }

    /** Takes the hashes that the next leaf completes, from `Frontier.add`. */
    add(hashes: readonly Buffer[]): void {
        this.pending.push(...hashes);
    }

    /** Writes what was taken; on disk only after `sync`. */
    async flush(): Promise<void> {
        if (this.pending.length === 0) return;
        const bytes = Buffer.concat(this.pending);
        await writeAll(this.handle, [bytes], this.written);
        this.written += bytes.length;
        this.pending = [];
    }

    async sync(): Promise<void> {
        await this.flush();
        await this.handle.datasync();
    }

    /** The next hashes are those of leaf `size`; what the file holds from there on counts no more. */
    seek(size: number): void {
        this.pending = [];
        this.written = countOf(size) * HASH_BYTES;
    }

    /** One hash; zeros where the file is too short, which prove nothing. */
    async read({ level, index }: NodeId): Promise<Buffer> {
        const last = (index + 1) * 2 ** level - 1;
        const hash = Buffer.alloc(HASH_BYTES);
        await this.handle.read(hash, 0, HASH_BYTES, (countOf(last) + level) * HASH_BYTES);
        return hash;
    }

    /** The tree of `size` leaves as the file has it. */
    async frontier(size: number): Promise<Frontier> {
        return new Frontier(size, await this.readAll(subtrees(0, size)));
    }

    async root(size: number): Promise<Buffer> {
        return (await this.frontier(size)).root();
    }

    /** The hashes of a proof's plan. */
    async join(plan: readonly NodeId[][]): Promise<Buffer[]> {
        const proof: Buffer[] = [];
        for (const nodes of plan) proof.push(joinSubtrees(await this.readAll(nodes)));
        return proof;
    }

    async close(): Promise<void> {
        await this.handle.close();
    }

    private async readAll(nodes: readonly NodeId[]): Promise<Buffer[]> {
        const hashes: Buffer[] = [];
        for (const node of nodes) hashes.push(await this.read(node));
        return hashes;
    }
}

/** Hashes of a tree of `size` leaves: 2n less the ones in n. */
function countOf(size: number): number {
    let ones = 0;
    for (let rest = size; rest > 0; rest = Math.floor(rest / 2)) ones += rest % 2;
    return 2 * size - ones;
}
