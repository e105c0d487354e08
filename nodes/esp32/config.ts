import { z } from "zod";
import { booleanField, choiceField, numberField, parseConfig, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { parseMapping } from "./mapping.js";
import { type DeviceKey, DeviceKeys } from "./keys.js";
import type { Preset, PresetOptions } from "./preset.js";
import { PRESETS } from "./presets.js";
import { emoncms } from "./presets/emoncms.js";
import { native } from "./presets/native.js";

const presets: readonly Preset[] = [native, ...PRESETS];
const ids = presets.map(({ id }) => id) as [string, ...string[]];

const nameSchema = z
    .string({ error: "must be a text" })
    .trim()
    .regex(/^[^/\s*]{1,64}\*?$|^\*$/, "must be a name without spaces or slashes, or its beginning and *");

const deviceList = z.preprocess((value) => value ?? [], z.array(z.object({ device: nameSchema }), { error: "must be a list of devices" }));

export const esp32Schema = z.object({
    preset: choiceField(ids, "native"),
    http: booleanField(true),
    path: textField("wattledger/esp32").pipe(z.string().regex(/^\/*[\w.~-]+(\/[\w.~-]+)*\/*$/, "takes letters, digits, dot, dash, underscore and slashes between them")),
    prefix: textField(""),
    share: textField(""),
    deviceClass: textField("").pipe(z.string().regex(/^([a-z][a-z0-9_]{0,30})?$/, "takes a word such as meter")),
    forward: choiceField(["import", "export"], "import"),
    mapping: textField(""),
    devices: deviceList,
    strangers: booleanField(false),
    bodyKb: numberField({ min: 1, max: 1024, default: 64 }),
    samples: numberField({ min: 1, max: 10_000, default: 500, integer: true }),
    ratePerS: numberField({ min: 0.01, max: 10_000, default: 50 }),
    burst: numberField({ min: 1, max: 100_000, default: 500, integer: true }),
    maxDevices: numberField({ min: 1, max: 20_000, default: 2000, integer: true }),
    commitMs: numberField({ min: 0, max: 5000, default: 0 }),
});

/** The settings of wl-esp32. */
export type Esp32Config = z.output<typeof esp32Schema>;

/** The kind of device that was chosen, and emoncms, whose paths are always there. */
export function presetOf({ preset }: Pick<Esp32Config, "preset">): { preset: Preset; emoncms: Preset } {
    return { preset: presets.find(({ id }) => id === preset)!, emoncms };
}

/** @throws WattError CONFIG_INVALID for a mapping that is none */
export function presetOptions({ prefix, forward, mapping }: Pick<Esp32Config, "prefix" | "forward" | "mapping">, zone: string): PresetOptions {
    return { prefix: prefix.replace(/\/+$/, ""), zone, forward, ...(mapping !== "" && { mapping: parseMapping(mapping) }) };
}

/** Secrets by device, as the node's credential holds them. */
export type Secrets = Record<string, string>;

export function parseSecrets(credential: unknown): Secrets {
    if (typeof credential !== "string" || credential === "") return {};
    try {
        return { ...(JSON.parse(credential) as Secrets) };
    } catch (error) {
        throw new WattError("CONFIG_INVALID", "The stored keys cannot be read: make new ones in the dialog.", { cause: error });
    }
}

/** The keys of the listed devices, and those of them that have none. */
export function keysOf({ devices, strangers }: Pick<Esp32Config, "devices" | "strangers">, secrets: Secrets): { keys: DeviceKeys; missing: string[] } {
    const listed = devices.flatMap(({ device }): DeviceKey[] => {
        const secret = Object.hasOwn(secrets, device) ? secrets[device] : undefined;
        return typeof secret === "string" && secret !== "" ? [{ device, secret }] : [];
    });
    return { keys: new DeviceKeys(listed, strangers), missing: devices.map(({ device }) => device).filter((device) => !listed.some((key) => key.device === device)) };
}

/** A device's name from the dialog. @throws WattError CONFIG_INVALID */
export function parseName(name: unknown): string {
    return parseConfig(z.object({ device: nameSchema }), { device: name }).device;
}
