/** A small meter with a scale register, labels, a counter and a group that is read seldom. */
export const METER_MAP = `
schema: pointmap/1
id: test-meter
class: meter
vendor: Acme
models: [M1]
source: {doc: invented for tests, verified: document, date: 2026-11-21}
protocol: modbus
defaults:
  table: holding
  gaps: declared
  readable: [[0, 39]]
  atomic: [[4, 5]]
  unit_ids: [1]
identify:
  - {address: 30, type: uint16, is: [1648, 1649]}
proof: [ac_frequency_hz]
groups:
  fast: {every: 200ms}
  slow: {every: 400ms}
points:
  ac_voltage_l1_v: {address: 0, type: uint16, unit: V, scale: 0.1, valid: [0, 500]}
  ac_frequency_hz: {address: 1, type: uint16, unit: Hz, scale: 0.01, valid: [45, 65]}
  ac_power_w: {address: 2, type: int32, unit: W, sign: export_positive, max_step: {per: 1s, by: 100000}}
  ac_current_l1_a: {address: 4, type: uint16, unit: A, scale: {register: 5, rule: multiply_pow10}}
  state: {address: 6, type: uint16, enum: {0: idle, 1: running}}
  alarms: {address: 7, type: uint16, bits: {0: overvoltage, 3: phase_loss}}
  ac_energy_import_wh: {address: 10, type: uint32, unit: kWh, group: slow}
  cabinet_temperature_c: {address: 20, type: int16, unit: °C, scale: 0.1, invalid: [0x7fff], group: slow}
`;

/** The registers of that meter while it exports 2.5 kW. */
export function meterWords(): Map<number, number> {
    const words = new Map(Array.from({ length: 40 }, (_, address) => [address, 0]));
    for (const [address, word] of [[0, 2312], [1, 4998], [3, 2500], [4, 108], [5, 0xffff], [6, 1], [7, 9], [11, 7], [20, 415], [30, 1648]] as const) words.set(address, word);
    return words;
}
