import { SIMULATED_MANUFACTURER, SIMULATED_OPTIONS } from "../common/simulated.js";
import type { ModelValues } from "../sunspec/decode.js";
import { encodeModel } from "../sunspec/encode.js";
import { officialModels } from "../sunspec/model.js";
import { type InverterSample, type PlantSample, SOC_MAX, SOC_MIN } from "./plant.js";

/** Where the models of every unit begin: the wire address of "SunS". */
export const SUNSPEC_BASE = 40_000;

/** Values of one model; what is left out is marked not implemented. */
export type DeviceModel = [id: number, values: ModelValues];

/** Everything a device shows at one instant. */
export interface DeviceInput {
    sample: PlantSample;
    /** Names the plant in the serial numbers. */
    seed: number;
    site: { latitude: number; longitude: number };
    /** Local wall clock of the plant: `YYYYMMDD`, `hhmmss`, day of the year. */
    local: { date: string; time: string; day: number };
    /** Controls of each inverter, as a client last wrote them. */
    controls: readonly InverterControls[];
}

/** The part of model 123 that the simulated inverters take: one register each, in address order. */
export interface InverterControls {
    WMaxLimPct: number;
    WMaxLimPct_WinTms: number;
    WMaxLimPct_RvrtTms: number;
    WMaxLimPct_RmpTms: number;
    WMaxLim_Ena: number;
}

export interface SimulatedDevice {
    unit: number;
    name: string;
    serial: string;
    /** The inverter it is, where it is one. */
    inverter?: number;
    models(input: DeviceInput): DeviceModel[];
}

/** One address for every device, as behind a plant's gateway. */
export const DEVICES: readonly SimulatedDevice[] = [
    { unit: 1, name: "inverter A", serial: "INV-A", inverter: 0, models: (input) => inverterModels(input, 0) },
    { unit: 2, name: "inverter B", serial: "INV-B", inverter: 1, models: (input) => inverterModels(input, 1) },
    { unit: 3, name: "battery", serial: "BAT", models: ({ sample }) => batteryModels(sample) },
    { unit: 4, name: "weather station", serial: "MET", models: weatherModels },
    { unit: 5, name: "tracker", serial: "TRK", models: trackerModels },
    { unit: 200, name: "grid meter", serial: "GRID", models: ({ sample }) => meterModels(sample) },
];

/** How a device's registers depart from what it measures. */
export interface ImageFaults {
    /** Every value of every model but the common one is marked not implemented, as some inverters do at night. */
    night?: boolean;
    /** The common model has lost its padding: every model behind it lies one register lower. */
    length?: boolean;
}

export interface Image {
    /** From SUNSPEC_BASE on, big-endian: "SunS", the models, the end model. */
    words: Buffer;
    /** Wire address of the ID register of each model. */
    addresses: Map<number, number>;
}

/** The registers of a device. */
export function buildImage(device: SimulatedDevice, input: DeviceInput, faults: ImageFaults = {}): Image {
    const common: ModelValues = {
        Mn: SIMULATED_MANUFACTURER,
        Md: `Simulated ${device.name}`,
        Opt: SIMULATED_OPTIONS,
        Vr: "1.0",
        SN: `SIM${input.seed}-${device.serial}`,
        DA: device.unit,
    };
    const parts = [Buffer.from("SunS"), encode(1, common, faults.length ? 65 : undefined)];
    const addresses = new Map([[1, SUNSPEC_BASE + 2]]);
    let at = SUNSPEC_BASE + 2 + parts[1]!.length / 2;
    for (const [id, values] of device.models(input)) {
        const bytes = encode(id, faults.night ? withoutValues(values) : values);
        parts.push(bytes);
        addresses.set(id, at);
        at += bytes.length / 2;
    }
    return { words: Buffer.concat([...parts, Buffer.of(0xff, 0xff, 0, 0)]), addresses };
}

function encode(id: number, values: ModelValues, length?: number): Buffer {
    return encodeModel(officialModels.get(id)!, values, length);
}

/** The same repetitions with nothing in them. */
function withoutValues(values: ModelValues): ModelValues {
    const groups = Object.entries(values).filter(([, value]) => Array.isArray(value)) as [string, ModelValues[]][];
    return Object.fromEntries(groups.map(([name, list]) => [name, list.map(withoutValues)]));
}

/**
 * The scale factor that shows `largest` in 16 bits as finely as they can, never finer than 10^finest. As in many devices it
 * follows the value, so that a reader who keeps a factor from an earlier read is wrong by powers of ten.
 */
function scaleFactor(largest: number, finest: number): number {
    let factor = finest;
    while (Math.abs(largest) / 10 ** factor > 32_000) factor++;
    return factor;
}

/** A lifetime counter as an acc32 shows it: whole steps, over the top back to zero. */
function counter(wh: number, factor: number): number {
    return (Math.floor(wh / 10 ** factor) % 2 ** 32) * 10 ** factor;
}

/** Fixed by the size of the plant: a counter whose factor moved would seem to jump. */
function energyFactor(rating: number): number {
    return rating > 100_000 ? 3 : 0;
}

const STATES = { sleeping: "SLEEPING", starting: "STARTING", mppt: "MPPT", throttled: "THROTTLED" } as const;

function inverterModels({ sample, controls }: DeviceInput, index: number): DeviceModel[] {
    const inverter = sample.inverters[index]!;
    const { rating } = inverter;
    const powerFactor = scaleFactor(rating, 0);
    const current = rating / 3 / 230;
    return [
        [103, inverterMeasurements(sample, inverter)],
        [
            120,
            {
                DERTyp: "PV", WRtg: rating, WRtg_SF: powerFactor, VARtg: rating, VARtg_SF: powerFactor,
                VArRtgQ1: rating * 0.6, VArRtgQ2: 0, VArRtgQ3: 0, VArRtgQ4: rating * -0.6, VArRtg_SF: powerFactor,
                ARtg: current, ARtg_SF: scaleFactor(current, -2),
                PFRtgQ1: 0.8, PFRtgQ2: 0, PFRtgQ3: 0, PFRtgQ4: -0.8, PFRtg_SF: -2,
            },
        ],
        [121, { WMax: rating, WMax_SF: powerFactor, VRef: 230, VRef_SF: 0, VRefOfs: 0, VRefOfs_SF: 0 }],
        [
            123,
            {
                ...controls[index],
                Conn: "CONNECT", OutPFSet: 1, OutPFSet_Ena: "DISABLED", VArPct_Ena: "DISABLED",
                WMaxLimPct_SF: -2, OutPFSet_SF: -3,
            },
        ],
        [160, mpptMeasurements(inverter)],
    ];
}

function inverterMeasurements({ grid }: PlantSample, inverter: InverterSample): ModelValues {
    const { rating, ac, dc, reactive } = inverter;
    const apparent = Math.hypot(ac, reactive);
    const [a, b, c] = grid.phases.map(({ voltage }) => ({ voltage, current: apparent / 3 / voltage })) as [Phase, Phase, Phase];
    const total = a.current + b.current + c.current;
    const energy = energyFactor(rating);
    return {
        A: total, AphA: a.current, AphB: b.current, AphC: c.current, A_SF: scaleFactor(total, -2),
        PPVphAB: lineVoltage(a, b), PPVphBC: lineVoltage(b, c), PPVphCA: lineVoltage(c, a),
        PhVphA: a.voltage, PhVphB: b.voltage, PhVphC: c.voltage, V_SF: -1,
        W: ac, W_SF: scaleFactor(ac, -2), Hz: grid.frequency, Hz_SF: -2,
        VA: apparent, VA_SF: scaleFactor(apparent, -2), VAr: reactive, VAr_SF: scaleFactor(reactive, -2),
        ...(ac > 0 && { PF: (100 * ac) / apparent, PF_SF: -2 }),
        WH: counter(inverter.energy, energy), WH_SF: energy,
        DCW: dc, DCW_SF: scaleFactor(dc, -2),
        TmpCab: inverter.temperature, Tmp_SF: -1,
        St: STATES[inverter.state], Evt1: 0, Evt2: 0,
    };
}

interface Phase {
    voltage: number;
    current: number;
}

/** Between two phases a third of a turn apart. */
function lineVoltage(a: Phase, b: Phase): number {
    return Math.sqrt(a.voltage ** 2 + b.voltage ** 2 + a.voltage * b.voltage);
}

function mpptMeasurements({ mppts, state, rating }: InverterSample): ModelValues {
    const largest = (of: (mppt: (typeof mppts)[number]) => number) => Math.max(...mppts.map(of));
    const energy = energyFactor(rating);
    return {
        DCA_SF: scaleFactor(largest(({ current }) => current), -2), DCV_SF: -1,
        DCW_SF: scaleFactor(largest(({ power }) => power), -2), DCWH_SF: energy,
        Evt: 0, N: mppts.length,
        module: mppts.map((mppt, i) => ({
            ID: i + 1, IDStr: `MPPT ${i + 1}`, DCA: mppt.current, DCV: mppt.voltage, DCW: mppt.power,
            DCWH: counter(mppt.energy, energy), Tmp: Math.round(mppt.temperature), DCSt: STATES[state], DCEvt: 0,
        })),
    };
}

/** Power and current are positive when the battery discharges, as generation is in model 701. */
function batteryModels({ battery }: PlantSample): DeviceModel[] {
    const { power, soc, voltage, capacityWh, maxPower } = battery;
    const cells = voltage / 120;
    const state = soc > SOC_MAX - 0.005 ? "FULL" : soc < SOC_MIN + 0.005 ? "EMPTY" : power > 10 ? "DISCHARGING" : power < -10 ? "CHARGING" : "HOLDING";
    const rateFactor = scaleFactor(maxPower, 0);
    const ampereHours = capacityWh / 400;
    return [
        [
            802,
            {
                AHRtg: ampereHours, AHRtg_SF: scaleFactor(ampereHours, -1), WHRtg: capacityWh, WHRtg_SF: scaleFactor(capacityWh, 0),
                WChaRteMax: maxPower, WDisChaRteMax: maxPower, WChaDisChaMax_SF: rateFactor,
                SoCMax: 100 * SOC_MAX, SoCMin: 100 * SOC_MIN, SoC: 100 * soc, SoC_SF: -1, DoD: 100 * (1 - soc), DoD_SF: -1, SoH: 98.5, SoH_SF: -1,
                NCyc: 214, ChaSt: state, LocRemCtl: "REMOTE", AlmRst: 0, Typ: "LITHIUM_ION", State: "CONNECTED",
                Evt1: 0, Evt2: 0, EvtVnd1: 0, EvtVnd2: 0,
                V: voltage, VMax: 450, VMin: 350, V_SF: -1,
                CellVMax: cells + 0.004, CellVMin: cells - 0.004, CellVAvg: cells, CellV_SF: -3,
                A: power / voltage, A_SF: scaleFactor(power / voltage, -2), W: power, W_SF: scaleFactor(power, -1),
                AChaMax: maxPower / 350, ADisChaMax: maxPower / 350, AMax_SF: scaleFactor(maxPower / 350, -1),
                SetOp: "CONNECT", SetInvState: "INVERTER_STARTED",
            },
        ],
        [
            124,
            {
                WChaMax: maxPower, WChaMax_SF: rateFactor, WChaGra: 100, WDisChaGra: 100, WChaDisChaGra_SF: 0, StorCtl_Mod: 0,
                MinRsvPct: 100 * SOC_MIN, MinRsvPct_SF: 0, ChaState: 100 * soc, ChaState_SF: -1, InBatV: voltage, InBatV_SF: -1, ChaSt: state,
                OutWRte: 100, InWRte: 100, InOutWRte_SF: 0, ChaGriSet: "PV",
            },
        ],
    ];
}

function weatherModels({ sample: { weather }, site }: DeviceInput): DeviceModel[] {
    const { ghi, poa, dhi, dni } = weather;
    return [
        [
            307,
            {
                TmpAmb: weather.ambient, RH: weather.humidity, Pres: weather.pressure,
                WndSpd: weather.wind, WndDir: weather.windDirection,
            },
        ],
        [302, { repeating: [{ GHI: ghi, POAI: poa, DFI: dhi, DNI: dni }] }],
        [303, { temp: [{ TmpBOM: weather.module }] }],
        [305, { Lat: site.latitude, Long: site.longitude }],
    ];
}

function trackerModels({ sample: { tracker }, local }: DeviceInput): DeviceModel[] {
    const { target, position } = tracker;
    return [
        [
            601,
            {
                Nam: "Tracker", Typ: "Dual", DtLoc: local.date, TmLoc: local.time, Day: local.day,
                GlblCtl: "Automatic", GlblAlm: 0, Dgr_SF: -2, N: 1,
                tracker: [
                    {
                        Id: "T1", ElTrgt: target.elevation, AzTrgt: target.azimuth, ElPos: position.elevation,
                        AzPos: position.azimuth, Ctl: "Automatic", Alm: 0,
                    },
                ],
            },
        ],
    ];
}

/** What a meter at the grid connection measures of each phase; import is positive, current has the sign of its power. */
export function meteredPhases({ grid }: PlantSample): [MeterPhase, MeterPhase, MeterPhase] {
    return grid.phases.map((phase) => {
        const apparent = Math.hypot(phase.power, phase.reactive);
        return { ...phase, apparent, current: (Math.sign(phase.power) || 1) * (apparent / phase.voltage) };
    }) as [MeterPhase, MeterPhase, MeterPhase];
}

/** Power is positive when the grid supplies the plant, as the meter's import counter counts. */
function meterModels(sample: PlantSample): DeviceModel[] {
    const { grid, inverters } = sample;
    const phases = meteredPhases(sample);
    const [a, b, c] = phases;
    const sum = (of: (phase: MeterPhase) => number) => of(a) + of(b) + of(c);
    const reactive = sum((phase) => phase.reactive);
    const apparent = Math.hypot(grid.power, reactive);
    const largest = (of: (phase: MeterPhase) => number, total: number) => Math.max(Math.abs(total), ...phases.map((phase) => Math.abs(of(phase))));
    const amperes = sum((phase) => phase.current);
    const energy = energyFactor(inverters.reduce((total, { rating }) => total + rating, 0));
    const line = [lineVoltage(a, b), lineVoltage(b, c), lineVoltage(c, a)] as const;
    return [
        [
            203,
            {
                A: amperes, AphA: a.current, AphB: b.current, AphC: c.current,
                A_SF: scaleFactor(largest((phase) => phase.current, amperes), -2),
                PhV: sum(({ voltage }) => voltage) / 3, PhVphA: a.voltage, PhVphB: b.voltage, PhVphC: c.voltage, V_SF: -1,
                PPV: (line[0] + line[1] + line[2]) / 3, PhVphAB: line[0], PhVphBC: line[1], PhVphCA: line[2],
                Hz: grid.frequency, Hz_SF: -2,
                W: grid.power, WphA: a.power, WphB: b.power, WphC: c.power, W_SF: scaleFactor(largest(({ power }) => power, grid.power), -1),
                VA: apparent, VAphA: a.apparent, VAphB: b.apparent, VAphC: c.apparent,
                VA_SF: scaleFactor(largest((phase) => phase.apparent, apparent), -1),
                VAR: reactive, VARphA: a.reactive, VARphB: b.reactive, VARphC: c.reactive, VAR_SF: scaleFactor(reactive, -1),
                ...(apparent > 0 && { PF: (100 * grid.power) / apparent, PF_SF: -2 }),
                TotWhExp: counter(grid.exportWh, energy), TotWhImp: counter(grid.importWh, energy), TotWh_SF: energy,
                Evt: 0,
            },
        ],
    ];
}

interface MeterPhase extends Phase {
    power: number;
    reactive: number;
    apparent: number;
}
