import { mapped } from "../mapping.js";
import type { Preset } from "../preset.js";
import { deviceName, invalid, parseJson, said, textOf } from "../values.js";

/** Any device, by the user's list of what is where: a JSON object, a list of such, or a plain value a topic. */
export const mapping: Preset = {
    id: "mapping",
    topics: (options) => [...new Set((options.mapping?.points ?? []).flatMap(({ topic }) => topic ?? []))],
    createDecoder: (options) => ({
        decode: (arrival) => {
            if (!options.mapping) throw invalid("There is no mapping.");
            const text = textOf(arrival);
            const json = /^[[{]/.test(text) ? parseJson(text) : text;
            const samples = mapped(options.mapping, arrival, json, options.zone);
            const devices = new Set(samples.map(({ device }) => device));
            return [...devices].flatMap((device) => said(deviceName(device), samples.filter((sample) => sample.device === device)));
        },
    }),
};
