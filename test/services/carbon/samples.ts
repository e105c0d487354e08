import type { MeterSample } from "../../../dist/carbon/settlement.js";
import { MINUTE, START } from "../../carbon/rig.js";

/** Sample number i of a meter: all of it follows from i. */
export function sampleOf(i: number): MeterSample {
    return { meter: "site/m1", at: START + i * 5 * MINUTE, exportWh: i * 8333, importWh: Math.floor(i * 10.5), origin: "measured" };
}
