import type { ModelValues } from "../../dist/sunspec/decode.js";
import { END, MARKER, model, type SunSpecServer } from "./sunspec-server.js";

export const INVERTER: ModelValues = {
    A: 18.3, AphA: 6.1, AphB: 6.1, AphC: 6.1, A_SF: -1, PPVphAB: 400, PhVphA: 231.2, PhVphB: 230.9, PhVphC: 229.8, V_SF: -1,
    W: 4210, W_SF: 1, Hz: 49.98, Hz_SF: -2, VA: 4220, VA_SF: 1, VAr: -150, VAr_SF: 1, PF: -99.77, PF_SF: -2,
    WH: 812_345, WH_SF: 0, DCW: 4380, DCW_SF: 1, TmpCab: 41.5, Tmp_SF: -1, St: "MPPT", Evt1: 0,
};

export const METER: ModelValues = {
    A: -8.7, AphA: -2.9, A_SF: -1, PhV: 231, PhVphA: 231, PhVphAB: 400, V_SF: 0, Hz: 50, Hz_SF: 0, W: 2000, WphA: 700, WphB: 700, WphC: 600, W_SF: 0,
    VAR: 300, VAR_SF: 0, PF: 98, PF_SF: 0, TotWhExp: 5000, TotWhImp: 7000, TotWh_SF: 0, Evt: 0,
};

export const BATTERY: ModelValues = {
    WHRtg: 10_000, WHRtg_SF: 0, WChaRteMax: 5000, WDisChaRteMax: 5000, WChaDisChaMax_SF: 0, SoC: 63.5, SoC_SF: -1, SoH: 98, SoH_SF: 0, ChaSt: "DISCHARGING",
    State: "CONNECTED", Evt1: 0, V: 402.1, V_SF: -1, A: 5, A_SF: 0, W: 2010, W_SF: 0, CellVMax: 3.351, CellVMin: 3.32, CellV_SF: -3,
};

export const RATING: ModelValues = { DERTyp: "PV", WRtg: 8000, WRtg_SF: 0 };

export function mppts(...powers: number[]): ModelValues {
    const module = powers.map((DCW, i) => ({ ID: i + 1, DCA: 5, DCV: 600, DCW, DCWH: 5000 * (i + 1), DCSt: "MPPT", DCEvt: 0 }));
    return { DCA_SF: 0, DCV_SF: 0, DCW_SF: 0, DCWH_SF: 0, N: module.length, module };
}

/** A common model, and what follows it. */
export type Models = readonly (readonly [id: number, values: ModelValues, length?: number])[];

export function named(serial: string, manufacturer = "Fronius", more: ModelValues = {}): readonly [number, ModelValues] {
    return [1, { Mn: manufacturer, Md: "M1", Vr: "1.2", SN: serial, ...more }];
}

/** Puts a unit's models behind the marker at 40000. */
export function put(server: SunSpecServer, unit: number, models: Models): void {
    server.put(unit, 40_000, MARKER, ...models.map(([id, values, length]) => model(id, values, length)), END);
}

/** Wire address of a model's ID register in what `put` lays out. */
export function addressOf(models: Models, id: number): number {
    let address = 40_002;
    for (const [other, values, length] of models) {
        if (other === id) return address;
        address += model(other, values, length).length / 2;
    }
    throw new Error(`no model ${id}`);
}
