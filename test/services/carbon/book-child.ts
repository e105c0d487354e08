/**
 * A process that keeps samples and seals, to be killed at any moment. Arguments: folder, number of the first sample.
 * It says `kept <i>` once all samples below i are on disk, and `report <number> <key>` for each report that is handed on.
 */
import { Book } from "../../../dist/carbon/book.js";
import { systemClock } from "../../../dist/common/clock.js";
import { bookRules, DAY, HOUR, START } from "../../carbon/rig.js";
import { sampleOf } from "./samples.js";

const BATCH = 48;

async function main(folder: string, first: number): Promise<void> {
    let now = START;
    const book = await Book.open({ folder, rules: bookRules(), clock: { ...systemClock, now: () => now }, commitMs: 1 });
    for (let i = first; ; i += BATCH) {
        await Promise.all(Array.from({ length: BATCH }, (_, k) => book.add(sampleOf(i + k))));
        process.stdout.write(`kept ${i + BATCH}\n`);
        now = sampleOf(i + BATCH).at;
        if ((now - START) % DAY !== 4 * HOUR) continue;
        await book.check();
        const news = book.news();
        for (const { number, key } of news.reports) process.stdout.write(`report ${number} ${key}\n`);
        book.sent(news);
    }
}

void main(process.argv[2]!, Number(process.argv[3]));
