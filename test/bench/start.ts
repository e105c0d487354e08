import { makeDir, makeUserDir, removeDir, startNodeRed } from "../node-red.js";
import type { Row } from "./row.js";
import { cpuMs, median } from "./usage.js";

interface Start {
    /** ms from spawn until the flows run. */
    wall: number;
    /** ms of CPU time in between, which a busy machine stretches less. */
    cpu: number;
}

/** What the whole package adds to Node-RED's start: starts with and without it in turn, so that a slow machine slows both. */
export async function run(quick = false): Promise<Row[]> {
    const pairs = quick ? 2 : 15;
    const [withPackage, without] = [await makeUserDir(), await makeDir("wl-bare-")];
    const starts = new Map<string, Start[]>([[withPackage, []], [without, []]]);
    try {
        for (let i = -1; i < pairs; i++) {
            for (const userDir of i % 2 === 0 ? [withPackage, without] : [without, withPackage]) {
                const took = await startOnce(userDir);
                // The first pair fills the disk cache.
                if (i >= 0) starts.get(userDir)!.push(took);
            }
        }
    } finally {
        await Promise.all([withPackage, without].map(removeDir));
    }
    const bare = starts.get(without)!;
    const added = (figure: keyof Start) => median(starts.get(withPackage)!.map((start, i) => start[figure] - bare[i]![figure]));
    return [
        { name: "start of Node-RED without the package", value: median(bare.map(({ wall }) => wall)), unit: "ms", target: "", pass: true },
        { name: "added by the whole package", value: added("wall"), unit: "ms", target: "<= 150", pass: added("wall") <= 150 },
        { name: "CPU time of the start without the package", value: median(bare.map(({ cpu }) => cpu)), unit: "ms", target: "", pass: true },
        { name: "CPU time added by the whole package", value: added("cpu"), unit: "ms", target: "", pass: true },
    ];
}

async function startOnce(userDir: string): Promise<Start> {
    const before = performance.now();
    const nodeRed = await startNodeRed({ userDir });
    const took = { wall: performance.now() - before, cpu: cpuMs(nodeRed.process.pid!) };
    await nodeRed.stop();
    return took;
}
