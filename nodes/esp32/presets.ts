import type { Preset } from "./preset.js";
import { ahoy } from "./presets/ahoy.js";
import { emoncms } from "./presets/emoncms.js";
import { esphome } from "./presets/esphome.js";
import { flatJson } from "./presets/flat-json.js";
import { haDiscovery } from "./presets/ha-discovery.js";
import { mapping } from "./presets/mapping.js";
import { native } from "./presets/native.js";
import { opendtu } from "./presets/opendtu.js";
import { shelly } from "./presets/shelly.js";
import { tasmota } from "./presets/tasmota.js";

/** How devices talk: ours, and those that are not. */
export const PRESETS: readonly Preset[] = [native, opendtu, ahoy, tasmota, esphome, shelly, emoncms, haDiscovery, flatJson, mapping];
