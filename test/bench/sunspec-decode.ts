import { decodeModel } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { layoutOf } from "../../dist/sunspec/layout.js";
import { officialModels } from "../../dist/sunspec/model.js";
import type { Row } from "./row.js";

/** Decoding a meter (model 203, 74 points), beside a loop that reads, scales and stores as many integers and knows no rule. */
export async function run(quick = false): Promise<Row[]> {
    const rounds = quick ? 5_000 : 100_000;
    const meter = officialModels.get(203)!;
    const factors = Object.fromEntries(meter.points.filter(({ type }) => type === "sunssf").map(({ name }) => [name, -1]));
    const values = Object.fromEntries(meter.points.filter(({ sf }) => sf !== undefined).map(({ name }, i) => [name, i + 0.5]));
    const bytes = encodeModel(meter, { ...factors, ...values });
    const { slots } = layoutOf(meter, 105, 107, {});
    const places = slots.map(({ point, offset }) => ({ name: point.name, at: offset * 2 }));
    const bare = () => {
        const read: Record<string, number> = {};
        for (const { name, at } of places) read[name] = bytes.readInt16BE(at) / 10;
        return read;
    };
    const decode = () => decodeModel(meter, bytes);
    const [decodeUs, bareUs] = [best(decode, rounds), best(bare, rounds)];
    return [
        { name: `decode of a SunSpec model of ${places.length} points`, value: decodeUs, unit: "µs", target: "<= 20", pass: decodeUs <= 20 },
        { name: "the same beside a bare loop", value: decodeUs / bareUs, unit: "x", target: "<= 4", pass: decodeUs / bareUs <= 4 },
    ];
}

/** µs a call, the best of five turns. */
function best(task: () => unknown, rounds: number): number {
    let least = Infinity;
    for (let turn = 0; turn < 5; turn++) {
        const before = performance.now();
        for (let i = 0; i < rounds; i++) task();
        least = Math.min(least, ((performance.now() - before) * 1000) / rounds);
    }
    return least;
}
