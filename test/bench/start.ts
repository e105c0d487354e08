import { makeDir, makeUserDir, removeDir, startNodeRed } from "../node-red.js";
import type { Row } from "./row.js";

/** What the whole package adds to Node-RED's start: starts with and without it in turn, so that a slow machine slows both. */
export async function run(quick = false): Promise<Row[]> {
    const pairs = quick ? 2 : 15;
    const differences: number[] = [];
    const bare: number[] = [];
    const [withPackage, without] = [await makeUserDir(), await makeDir("wl-bare-")];
    try {
        for (let i = -1; i < pairs; i++) {
            const turns = i % 2 === 0 ? [withPackage, without] : [without, withPackage];
            const times = new Map<string, number>();
            for (const userDir of turns) times.set(userDir, await startTime(userDir));
            // The first pair fills the disk cache.
            if (i < 0) continue;
            bare.push(times.get(without)!);
            differences.push(times.get(withPackage)! - times.get(without)!);
        }
    } finally {
        await Promise.all([withPackage, without].map(removeDir));
    }
    const added = median(differences);
    return [
        { name: "start of Node-RED without the package", value: median(bare), unit: "ms", target: "", pass: true },
        { name: "added by the whole package", value: added, unit: "ms", target: "<= 150", pass: added <= 150 },
    ];
}

/** ms from spawn until the flows run. */
async function startTime(userDir: string): Promise<number> {
    const before = performance.now();
    const nodeRed = await startNodeRed({ userDir });
    const took = performance.now() - before;
    await nodeRed.stop();
    return took;
}

function median(values: number[]): number {
    const sorted = values.toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)]!;
}
