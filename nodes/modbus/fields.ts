import { z } from "zod";
import { booleanField, numberField, textField } from "../common/config.js";
import type { ReportOptions } from "../common/report.js";

export const MAX_UNIT = 255;

/** `1, 3, 10-12` as numbers, ascending, each once; undefined for blank or `auto`. Throws an Error that says what it takes. */
export function parseUnits(text: string): number[] | undefined {
    if (/^\s*(auto)?\s*$/i.test(text)) return undefined;
    const units = text.split(",").flatMap((part) => {
        const [, first, last = first] = /^\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?$/.exec(part) ?? [];
        const [from, to] = [Number(first), Number(last)];
        if (!(from <= to && to <= MAX_UNIT)) throw new Error(`takes unit ids 0..${MAX_UNIT} such as 1, 3, 10-12, or nothing`);
        return Array.from({ length: to - from + 1 }, (_, i) => from + i);
    });
    return [...new Set(units)].toSorted((a, b) => a - b);
}

/** The unit ids of a dialog field. */
export const unitsField = textField("").transform((text, context) => {
    try {
        return parseUnits(text);
    } catch (error) {
        context.addIssue({ code: "custom", message: (error as Error).message });
        return z.NEVER;
    }
});

/** What names a device in a topic; empty for the name that it has by itself. */
export const deviceNameField = textField("").pipe(z.string().regex(/^[A-Za-z0-9_.-]*$/, "takes letters, digits, dot, dash and underscore only"));

/** Seconds in the dialog, ms in the settings. */
export const secondsField = (options: Parameters<typeof numberField>[0]) => numberField(options).transform((value) => value * 1000);

/** What of a source's samples becomes messages. */
export const reportFields = {
    perPoint: booleanField(false),
    byException: booleanField(false),
    deadband: numberField({ min: 0, max: 100, default: 0.5 }),
    heartbeat: secondsField({ min: 1, max: 86_400, default: 60 }),
};

interface ReportSettings {
    perPoint: boolean;
    byException: boolean;
    /** % */
    deadband: number;
    /** ms */
    heartbeat: number;
}

export function reportOptions({ perPoint, byException, deadband, heartbeat }: ReportSettings): ReportOptions {
    return { perPoint, byException, deadbandPct: deadband, heartbeatMs: heartbeat };
}
