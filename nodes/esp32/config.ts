import { z } from "zod";
import { booleanField, choiceField, numberField, parseConfig, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { parseMapping } from "./mapping.js";
import { type DeviceKey, DeviceKeys, newSecret } from "./keys.js";
import { isDeviceName, LONGEST_NAME } from "./names.js";
import type { Preset, PresetOptions } from "./preset.js";
import { PRESETS } from "./presets.js";

const ids = PRESETS.map(({ id }) => id) as [string, ...string[]];

const nameSchema = z
    .string({ error: "must be a text" })
    .trim()
    .refine((name) => isDeviceName(name) || isDeviceName(name.replace(/\*$/, "")), `must be a name of up to ${LONGEST_NAME} characters, none of them /, + or #, or its beginning and *`);

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
    anonymous: booleanField(false),
    bodyKb: numberField({ min: 1, max: 1024, default: 64 }),
    samples: numberField({ min: 1, max: 10_000, default: 500, integer: true }),
    ratePerS: numberField({ min: 0.01, max: 10_000, default: 50 }),
    burst: numberField({ min: 1, max: 100_000, default: 500, integer: true }),
    maxDevices: numberField({ min: 1, max: 20_000, default: 2000, integer: true }),
    commitMs: numberField({ min: 0, max: 5000, default: 0 }),
});

/** The settings of wl-esp32. */
export type Esp32Config = z.output<typeof esp32Schema>;

/** The kind of device that was chosen. */
export function presetOf({ preset }: Pick<Esp32Config, "preset">): Preset {
    return PRESETS.find(({ id }) => id === preset)!;
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
export function keysOf({ devices, anonymous }: Pick<Esp32Config, "devices" | "anonymous">, secrets: Secrets): { keys: DeviceKeys; missing: string[] } {
    const listed = devices.flatMap(({ device }): DeviceKey[] => {
        const secret = Object.hasOwn(secrets, device) ? secrets[device] : undefined;
        return typeof secret === "string" && secret !== "" ? [{ device, secret }] : [];
    });
    return { keys: new DeviceKeys(listed, anonymous), missing: devices.map(({ device }) => device).filter((device) => !listed.some((key) => key.device === device)) };
}

/**
 * Makes a device's key.
 * @param stored The credential so far.
 * @param listed The devices whose keys stay; those of all, if it is none.
 * @returns the credential with it
 * @throws WattError CONFIG_INVALID
 */
export function addKey(stored: unknown, device: unknown, listed?: unknown): { name: string; secret: string; keys: string } {
    const { device: name } = parseConfig(z.object({ device: nameSchema }), { device });
    const kept = Object.entries(parseSecrets(stored)).filter(([other]) => !Array.isArray(listed) || listed.includes(other));
    const secret = newSecret();
    // A device may be called __proto__.
    return { name, secret, keys: JSON.stringify(Object.fromEntries([...kept, [name, secret]])) };
}
