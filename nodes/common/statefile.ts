import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import path from "node:path";
import type { Node, NodeAPI } from "node-red";
import { errorCode, errorText, WattError } from "./errors.js";

/** A small JSON file that is never half written: for what a node must remember across a restart. */
export class StateFile {
    constructor(private readonly file: string) {}

    /**
     * What was saved last, unchecked; undefined when there is nothing yet.
     * @throws WattError STATE_DAMAGED when the file cannot be used; it is set aside first, so that the next start is clean.
     */
    load(): unknown {
        let text: string;
        try {
            text = readFileSync(this.file, "utf8");
        } catch (error) {
            if (errorCode(error) === "ENOENT") return undefined;
            throw new WattError("STATE_DAMAGED", `${this.file} cannot be read: ${errorText(error)}`, { cause: error });
        }
        try {
            return JSON.parse(text);
        } catch (error) {
            this.setAside();
            throw new WattError("STATE_DAMAGED", `${this.file} was damaged and is set aside as ${this.file}.damaged.`, { cause: error });
        }
    }

    /**
     * Replaces the file as a whole. Synchronous, since it is small and also saved while closing.
     * @throws WattError STATE_UNSAVED when the folder takes no file.
     */
    save(state: unknown): void {
        const temporary = `${this.file}.tmp`;
        try {
            mkdirSync(path.dirname(this.file), { recursive: true });
            const handle = openSync(temporary, "w", 0o600);
            try {
                writeSync(handle, JSON.stringify(state));
                fsyncSync(handle);
            } finally {
                closeSync(handle);
            }
            renameSync(temporary, this.file);
        } catch (error) {
            throw new WattError("STATE_UNSAVED", `${this.file} cannot be written: ${errorText(error)}`, { cause: error });
        }
    }

    /** Takes the file away, when its node is deleted. */
    remove(): void {
        rmSync(this.file, { force: true });
    }

    private setAside(): void {
        try {
            renameSync(this.file, `${this.file}.damaged`);
        } catch {
            // A read-only folder: it is told at the next save.
        }
    }
}

/** The state of something that runs without it too: faults of its file are told, of saving once until it succeeds again, not thrown. */
export class LenientState {
    private isUnsaved = false;

    constructor(
        private readonly file: Pick<StateFile, "load" | "save" | "remove"> | undefined,
        private readonly onFault: (error: WattError) => void,
    ) {}

    /** What was saved last, unchecked; undefined where there is nothing, or nothing usable. */
    load(): unknown {
        try {
            return this.file?.load();
        } catch (error) {
            this.onFault(error as WattError);
            return undefined;
        }
    }

    save(state: unknown): void {
        try {
            this.file?.save(state);
            this.isUnsaved = false;
        } catch (error) {
            if (!this.isUnsaved) this.onFault(error as WattError);
            this.isUnsaved = true;
        }
    }

    /** Takes the file away, when its node is deleted. */
    remove(): void {
        this.file?.remove();
    }
}

/** `<user directory>/wattledger/<name>`; undefined where Node-RED has no user directory, as in a program that embeds it. */
export function userFolder({ settings: { userDir } }: NodeAPI, name: string): string | undefined {
    return userDir ? path.join(userDir, "wattledger", name) : undefined;
}

/** Where a node keeps what outlives a restart, as an option; nowhere without a user directory. */
export function stateFileOf(RED: NodeAPI, { id }: Node, name: string): { stateFile?: StateFile } {
    const folder = userFolder(RED, name);
    return folder === undefined ? {} : { stateFile: new StateFile(path.join(folder, `${id}.json`)) };
}
