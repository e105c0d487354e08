import { UNIT_TEXTS, type UnitKey } from "../common/units.js";

/** Percent of something that the device states. */
const SHARES = new Set(["% AhrRtg", "% DeptRef", "% VArAval", "% VArMax", "% VNom", "% VRef", "% WChaMax", "% WDisChaMax", "% WGra", "% WHRtg", "% WMax", "% WRef"]);
/** What no reading has: such points stay in the model. */
const FOREIGN = new Set(["m", "S", "V/m", "V/s", "A/s", "W/s", "Hz/s", "bit/s", "Mbit/s", "% ARtg/% dV", "% DeptRef/min", "% Max/s", "% PF/min", "% PM/Hz", "% WChaMax/s", "% WMax/min", "% WMax/s"]);

/** True for a unit that a model's definition may name. */
export function isSunSpecUnit(text: string): boolean {
    return Object.hasOwn(UNIT_TEXTS, text) || SHARES.has(text) || FOREIGN.has(text);
}

/** What one of a model's unit is in ours; undefined where the two do not fit. */
export function factorOf(text: string, unit: UnitKey): number | undefined {
    return UNIT_TEXTS[SHARES.has(text) ? "%" : text]?.[unit];
}
