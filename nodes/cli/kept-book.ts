import { copyFile, mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import type { AmsConfig } from "../carbon/ams-config.js";
import { rulesOf } from "../carbon/aggregator.js";
import { Book, keptBy } from "../carbon/book.js";
import type { Report } from "../carbon/report.js";
import { systemClock } from "../common/clock.js";
import { errorCode, WattError } from "../common/errors.js";
import { packageVersion } from "../common/version.js";
import { acquireLock } from "../store/lock.js";

/**
 * The next report of a book in a store's folder, by the book's own rules and what the settings say otherwise; the book stays as it is.
 * @param into Where a copy may lie.
 * @throws WattError STORE_EMPTY, STORE_LOCKED, BOOK_SILENT, and what the settings get wrong
 */
export async function previewOf(store: string, { fields, project }: AmsConfig, into: string): Promise<Report> {
    const copy = path.join(into, "copy");
    const { file, id } = await find(path.join(store, "carbon"), (project as { id?: unknown } | undefined)?.id);
    await snapshot(file, copy);
    const kept = keptBy(path.join(copy, path.basename(file)));
    const site = { siteId: kept.project?.id ?? id, name: kept.project?.name ?? "", zone: "UTC", latitude: 0, longitude: 0, currency: "", ratedPowerW: kept.project?.capacityW ?? 0 };
    // All that waits is shown as one: reports of the book's own calendar would be made by the check and leave only the last.
    const rules = rulesOf({ ...kept.fields, ...fields, calendar: "year" }, site, packageVersion());
    // Before the first report nobody wrote down what the plant is rated for.
    if (rules.project.capacityW === 0) rules.project.capacityW = rules.meters.reduce((sum, { ratedW }) => sum + ratedW, 0);
    // As of its last sample: what came since is not silence, and an old book tells the same for ever.
    const book = await Book.open({ folder: copy, rules, clock: { ...systemClock, now: () => kept.lastAt } });
    try {
        await book.check();
        // Where nothing waits, the last report that was made.
        const report = book.news().reports.at(-1) ?? (await book.preview()) ?? book.reportOf(book.stats().reports);
        if (!report) throw new WattError("BOOK_SILENT", "No interval of the book is sealed yet.");
        return report;
    } finally {
        await book.close();
    }
}

/** The book of the project, or the only one there is. */
async function find(folder: string, project: unknown): Promise<{ file: string; id: string }> {
    const names = await readdir(folder).catch((error: unknown) => {
        if (errorCode(error) !== "ENOENT" && errorCode(error) !== "ENOTDIR") throw error;
        return [];
    });
    const ids = names.flatMap((name) => /^carbon-(.+)\.db$/.exec(name)?.[1] ?? []);
    const wanted = typeof project === "string" ? ids.filter((id) => id === project) : ids;
    if (wanted.length === 1) return { file: path.join(folder, `carbon-${wanted[0]}.db`), id: wanted[0]! };
    const there = ids.length === 0 ? `There is no book of a wl-ams-id in ${folder}: name the folder that its wl-store shows.` : `There are books of ${ids.join(", ")}: name one as "project": {"id": …} in the settings.`;
    throw new WattError("STORE_EMPTY", there);
}

/** A copy that is whole: nobody writes meanwhile. */
async function snapshot(file: string, to: string): Promise<void> {
    const lock = await acquireLock(`${file}.owner`).catch((error: unknown) => {
        if (errorCode(error) !== "STORE_LOCKED") throw error;
        throw new WattError("STORE_LOCKED", `${path.basename(file)} is in use: stop Node-RED first, or send "preview" to its wl-ams-id.`);
    });
    try {
        await mkdir(to);
        for (const part of ["", "-wal", ".closed"]) {
            await copyFile(file + part, path.join(to, path.basename(file)) + part).catch((error: unknown) => {
                if (errorCode(error) !== "ENOENT") throw error;
            });
        }
    } finally {
        await lock.release();
    }
}
