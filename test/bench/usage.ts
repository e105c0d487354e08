import { readFileSync } from "node:fs";

/** CPU time of all threads of a process, ms, in steps of 10: USER_HZ is 100 wherever Node runs on Linux (proc(5), stat). */
export function cpuMs(pid: number): number {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
    return 10 * (Number(fields[11]) + Number(fields[12]));
}

/** Resident memory, MB (proc(5), status). */
export function residentMb(pid: number): number {
    return Number(/VmRSS:\s*(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1000;
}

export function median(values: readonly number[]): number {
    return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}
