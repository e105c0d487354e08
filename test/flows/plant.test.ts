import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { compileFunction } from "node:vm";
import { root } from "../node-red.js";

interface FlowNode {
    id: string;
    type: string;
    name?: string;
    func?: string;
    [key: string]: unknown;
}
const flow = JSON.parse(readFileSync(path.join(root, "dist/flows/plant.json"), "utf8")) as FlowNode[];

interface Peer {
    value: string;
    unit: string;
    way: number;
    note: string;
}
interface Shown {
    flow: { solar: Peer; grid: Peer; battery: Peer & { soc?: number; fitted: boolean }; house: Peer; simulated: boolean };
    tiles: Record<string, { label: string; value: string; unit: string; note: string; spark: (number | null)[] }>;
    cards: { device: string; state: string; level: string; quality: string; error?: { text: string } }[];
    rows: { device: string; point: string; label: string; value: string; unit: string; reason: string }[];
}

/** The function node "plant now" as Node-RED runs it, with a clock of our own. */
class PlantNow {
    now = Date.UTC(2026, 5, 1, 12);
    private readonly kept = new Map<string, unknown>();
    private readonly run = compileFunction(flow.find(({ id }) => id === "plant-state")!.func!, ["msg", "context", "Date"]);

    send(msg: object): unknown {
        const context = { get: (key: string) => this.kept.get(key), set: (key: string, value: unknown) => void this.kept.set(key, value) };
        return this.run(msg, context, { now: () => this.now });
    }

    read(kind: string, device: string, payload: object, reading: object = {}): void {
        this.send({ topic: `demo/${device}`, payload, timestamp: this.now, reading: { site: "demo", device, class: kind, seq: 1, quality: "good", ...reading } });
    }

    show(): Shown {
        const [flowed, tiles, cards, rows] = (this.send({ topic: "tick" }) as { payload: unknown }[]).map(({ payload }) => payload) as [never, { id: string }[], never, never];
        return { flow: flowed, tiles: Object.fromEntries(tiles.map((tile) => [tile.id, tile])) as never, cards, rows };
    }
}

describe("the plant page's state", () => {
    let plant: PlantNow;
    beforeEach(() => {
        plant = new PlantNow();
    });

    it("balances solar, battery and grid to the house, with the canonical signs", () => {
        plant.read("inverter", "A", { ac_power_w: 4000 });
        plant.read("inverter", "B", { ac_power_w: 2500 });
        plant.read("meter", "M", { ac_power_w: -3000 });
        plant.read("battery", "S", { dc_power_w: -1500, soc_pct: 64.4 });
        const { flow: shown } = plant.show();
        assert.deepEqual([shown.solar.value, shown.solar.unit, shown.solar.way], ["6.50", "kW", 1]);
        assert.deepEqual([shown.grid.value, shown.grid.unit, shown.grid.way, shown.grid.note], ["3.00", "kW", -1, "exporting"]);
        assert.deepEqual([shown.battery.value, shown.battery.way, shown.battery.note, shown.battery.soc], ["1.50", -1, "charging", 64]);
        assert.deepEqual([shown.house.value, shown.house.unit], ["2.00", "kW"]);
        plant.read("meter", "M", { ac_power_w: 700 });
        plant.read("battery", "S", { dc_power_w: 900 });
        const later = plant.show().flow;
        assert.deepEqual([later.grid.note, later.battery.note, later.house.value], ["importing", "discharging", "8.10"]);
    });

    it("calls a few watts idle", () => {
        plant.read("meter", "M", { ac_power_w: -19 });
        assert.deepEqual([plant.show().flow.grid.value, plant.show().flow.grid.way, plant.show().flow.grid.note], ["0", 0, "idle"]);
    });

    it("leaves a silent inverter out of the sum, says so, and gives no house from half a plant", () => {
        plant.read("inverter", "A", { ac_power_w: 4000 });
        plant.read("inverter", "B", { ac_power_w: 2500 });
        plant.read("meter", "M", { ac_power_w: 0 });
        for (let s = 0; s < 60; s++) {
            plant.now += 1000;
            plant.read("inverter", "A", { ac_power_w: 4000 });
            plant.read("meter", "M", { ac_power_w: 0 });
        }
        plant.now += 6000;
        const { flow: shown, tiles, cards, rows } = plant.show();
        assert.deepEqual([shown.solar.value, shown.solar.note, shown.house.value, shown.house.way], ["4.00", "1 of 2 inverters", "–", 0]);
        assert.deepEqual([tiles["solar"]!.value, tiles["solar"]!.note, tiles["house"]!.value], ["4.00", "1 of 2 inverters", "–"]);
        assert.deepEqual(cards.map(({ device, state, level }) => [device, state, level]), [["A", "online", "good"], ["B", "silent", "bad"], ["M", "online", "good"]]);
        assert.equal(rows.find(({ device, point }) => device === "B" && point === "ac_power_w")?.reason, "stale");
    });

    it("shows what a device does not say as absent, never as 0", () => {
        assert.equal(plant.show().flow.solar.value, "–");
        plant.read("inverter", "A", { ac_power_w: 4000, dc_voltage_v: 600 });
        plant.read("inverter", "A", { dc_voltage_v: 601 }, { quality: "uncertain", bad: { ac_power_w: "range" } });
        const { flow: shown, cards, rows } = plant.show();
        assert.equal(shown.solar.value, "–");
        assert.deepEqual([cards[0]!.level, cards[0]!.quality], ["doubt", "uncertain"]);
        const row = rows.find(({ point }) => point === "ac_power_w")!;
        assert.deepEqual([row.value, row.reason], ["–", "range"]);
    });

    it("counts today's energy from the counters at midnight, and what was used on site", () => {
        plant.read("inverter", "A", { ac_energy_export_wh: 112_000 });
        plant.read("inverter", "B", { ac_energy_export_wh: 50_000 });
        plant.read("meter", "M", { ac_energy_import_wh: 7000, ac_energy_export_wh: 33_000, ac_power_w: 0 });
        assert.equal(plant.show().tiles["energy"]!.value, "–");
        const first = { A: { ac_energy_export_wh: 100_000 }, B: { ac_energy_export_wh: 48_000 }, M: { ac_energy_import_wh: 6000, ac_energy_export_wh: 30_000 } };
        plant.send({ topic: "history", payload: { sparks: { solar: [1, null, 3] }, first } });
        const { tiles } = plant.show();
        assert.deepEqual([tiles["energy"]!.value, tiles["energy"]!.unit, tiles["energy"]!.note], ["14.0", "kWh", "79 % used on site"]);
        assert.equal(tiles["grid"]!.note, "1.00 kWh in, 3.00 kWh out today");
        assert.deepEqual(tiles["solar"]!.spark, [1, null, 3, null]);
    });

    it("names points, rounds by unit and sorts devices as a person would", () => {
        plant.read("tracker", "T", { tracker1_elevation_deg: 35.25, state: "AUTO" });
        plant.read("inverter", "A", { mppt1_dc_power_w: 999.6, ac_current_l1_a: 7.256, power_factor_ratio: -0.0001, ac_energy_export_wh: 1_234_567, state: "MPPT" }, { simulated: true });
        const { rows, cards, flow: shown } = plant.show();
        assert.equal(shown.simulated, true);
        assert.deepEqual(cards.map(({ state }) => state), ["MPPT", "AUTO"]);
        assert.deepEqual(rows.map(({ label, value, unit }) => `${label}: ${value} ${unit}`.trim()), [
            "AC current L1: 7.26 A", "AC energy export: 1.23 MWh", "MPPT1 DC power: 1.00 kW", "Power factor: 0.000", "State: MPPT", "State: AUTO", "Tracker1 elevation: 35.3 °",
        ]);
    });

    it("keeps a device's last error", () => {
        plant.read("inverter", "A", { ac_power_w: 1 });
        plant.send({ error: { message: "No answer within 1000 ms.", source: { name: "A" } } });
        assert.equal(plant.show().cards[0]!.error?.text, "No answer within 1000 ms.");
    });
});
