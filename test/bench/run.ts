import { readdirSync } from "node:fs";
import path from "node:path";
import type { Row } from "./row.js";

/** A benchmark: every module of this folder that exports `run`. */
interface Bench {
    /** @param quick Shows that it works, in a few seconds; the figures are not to be trusted. */
    run(quick: boolean): Promise<Row[]>;
}

/**
 * `npm run bench -- [--quick] [name …]`: runs the benchmarks one after the other and prints one table.
 * Exits 1 when a benchmark breaks or gives no figures, and, but for `--quick`, when a target is missed.
 */
async function main(args: string[]): Promise<void> {
    const quick = args.includes("--quick");
    const names = args.filter((arg) => !arg.startsWith("-"));
    const rows: Row[] = [];
    for (const file of readdirSync(__dirname).toSorted()) {
        const name = path.basename(file, ".js");
        if (!file.endsWith(".js") || name === "run" || (names.length > 0 && !names.includes(name))) continue;
        const bench = require(path.join(__dirname, file)) as Partial<Bench>;
        if (!bench.run) continue;
        console.log(`${name} …`);
        const measured = await bench.run(quick).catch((error: unknown) => console.error(error));
        if (!measured?.length) process.exitCode = 1;
        rows.push(...(measured ?? []));
    }
    console.log(table(rows));
    if (rows.length === 0 || (!quick && rows.some((row) => !row.pass))) process.exitCode = 1;
}

function table(rows: Row[]): string {
    const lines = rows.map((row) => {
        const digits = Math.abs(row.value) < 100 ? 2 : 0;
        return [row.name, row.value.toLocaleString("en-US", { maximumFractionDigits: digits }), row.unit, row.target, row.pass ? "yes" : "NO"];
    });
    const all = [["what", "measured", "unit", "target", "met"], ...lines];
    const widths = all[0]!.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
    return all.map((line) => line.map((cell, column) => (column === 1 ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!))).join("  ")).join("\n");
}

void main(process.argv.slice(2));
