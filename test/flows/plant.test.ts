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

/** A function node as Node-RED runs it, with a clock of our own. */
class FunctionNode {
    now = Date.UTC(2026, 5, 1, 12);
    private readonly kept = new Map<string, unknown>();
    private readonly run: (...given: unknown[]) => unknown;

    constructor(id: string) {
        this.run = compileFunction(flow.find((node) => node.id === id)!.func!, ["msg", "context", "Date"]) as typeof this.run;
    }

    send(msg: object): unknown {
        const context = { get: (key: string) => this.kept.get(key), set: (key: string, value: unknown) => void this.kept.set(key, value) };
        return this.run(msg, context, { now: () => this.now });
    }
}

class PlantNow extends FunctionNode {
    constructor() {
        super("plant-state");
    }

    read(kind: string, device: string, payload: object, reading: object = {}): void {
        this.send({ topic: `demo/${device}`, payload, timestamp: this.now, reading: { site: "demo", device, class: kind, seq: 1, quality: "good", ...reading } });
    }

    show(): Shown {
        const messages = this.send({ topic: "tick" }) as ({ payload: unknown } | null)[];
        const [flowed, tiles, cards, rows] = messages.map((message) => message?.payload) as [never, { id: string }[], never, never];
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

    it("shows a check meter beside the meter and counts it nowhere", () => {
        plant.read("inverter", "A", { ac_power_w: 4000 });
        plant.read("meter", "M", { ac_power_w: -3000 });
        plant.read("meter", "check-meter", { ac_power_w: -3010 });
        const { flow: shown, cards } = plant.show();
        assert.deepEqual([shown.grid.value, shown.house.value], ["3.00", "1.00"]);
        assert.deepEqual(cards.map(({ device }) => device), ["A", "check-meter", "M"]);
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
        assert.deepEqual([shown.solar.value, shown.solar.note, shown.house.value, shown.house.way], ["4.00", "1 of 2", "–", 0]);
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
        plant.read("inverter", "C", { ac_energy_export_wh: 70_000 });
        const { tiles } = plant.show();
        assert.deepEqual([tiles["energy"]!.value, tiles["energy"]!.unit, tiles["energy"]!.note], ["14.0", "kWh", "79 % used on site"]);
        assert.equal(tiles["grid"]!.note, "kWh today: 1.0 in, 3.0 out");
        assert.deepEqual(tiles["solar"]!.spark, [1, null, 3, null]);
    });

    it("does not lose the first minute's energy to a store that kept its last value only", () => {
        const MINUTE = 60_000;
        const since = Math.floor(plant.now / MINUTE) * MINUTE;
        const history = { topic: "history", payload: { sparks: {}, since, first: { A: { ac_energy_export_wh: 1150 } } } };
        plant.send({ topic: "history", payload: { sparks: {}, first: {} } });
        plant.read("inverter", "A", { ac_energy_export_wh: 1000 });
        plant.read("inverter", "A", { ac_energy_export_wh: 1200 });
        plant.send(history);
        assert.equal(plant.show().tiles["energy"]!.value, "200");
        // What was seen the day before is no start of this one.
        plant.send({ ...history, payload: { ...history.payload, since: plant.now + MINUTE } });
        assert.equal(plant.show().tiles["energy"]!.value, "50");
    });

    it("names points, rounds by unit and sorts devices as a person would", () => {
        plant.read("tracker", "T", { tracker1_elevation_deg: 35.25, state: "AUTO" });
        plant.read("inverter", "A", { mppt1_dc_power_w: 999.6, ac_current_l1_a: 7.256, power_factor_ratio: -0.0001, ac_energy_export_wh: 1_234_567, state: "MPPT" }, { simulated: true });
        const { rows, cards, flow: shown } = plant.show();
        assert.equal(shown.simulated, true);
        assert.deepEqual(cards.map(({ state }) => state), ["MPPT", "AUTO"]);
        assert.deepEqual(rows.map(({ label, value, unit }) => `${label}: ${value} ${unit}`.trim()), [
            "AC current L1: 7.26 A", "AC energy export: 1234.6 kWh", "MPPT1 DC power: 1.00 kW", "Power factor: 0.000", "State: MPPT", "State: AUTO", "Tracker1 elevation: 35.3 °",
        ]);
    });

    it("keeps a device's last error", () => {
        plant.send({ error: { message: "An old one.", source: { name: "A" } } });
        plant.read("inverter", "A", { ac_power_w: 1 });
        assert.equal(plant.show().cards[0]!.error?.text, "An old one.");
        plant.send({ error: { message: "No answer within 1000 ms.", source: { name: "A" } } });
        assert.equal(plant.show().cards[0]!.error?.text, "No answer within 1000 ms.");
    });
});

describe("the plant page's curves", () => {
    const MINUTE = 60_000;
    const noon = Date.UTC(2026, 5, 1, 12);
    let curves: FunctionNode;
    beforeEach(() => {
        curves = new FunctionNode("plant-history");
        curves.now = noon;
    });
    const minute = (device: string, kind: string, at: number, payload: object) => ({ timestamp: at, payload, reading: { device, class: kind } });
    /** `count` minutes of a plant up to noon; the second inverter says nothing in the minutes of `without`. */
    const day = (count: number, without: number[] = []) =>
        Array.from({ length: count }, (_, i) => noon - (count - i) * MINUTE).flatMap((at, i) => [
            minute("A", "inverter", at, { ac_power_w: 4000, ac_energy_export_wh: 1000 + i * 50 }),
            ...(without.includes(i) ? [] : [minute("B", "inverter", at, { ac_power_w: 2000, ac_energy_export_wh: 500 + i * 30 })]),
            minute("M", "meter", at, { ac_power_w: -3000, ac_energy_export_wh: 9000 + i * 10 }),
            minute("check-meter", "meter", at, { ac_power_w: -3020, ac_energy_export_wh: 8000 + i * 10 }),
            minute("S", "battery", at, { dc_power_w: -1000, soc_pct: 50 }),
        ]);
    const chart = (answer: unknown) => {
        const [, [look, data]] = answer as [unknown, [{ payload?: unknown; ui_update: object }, { payload: { series: string; x: number; y: number | null }[] }]];
        assert.equal(look.payload, undefined);
        assert.deepEqual(Object.keys(data), ["payload"]);
        return (series: string) => data.payload.filter((point) => point.series === series);
    };

    it("draws solar, house, grid and battery in kW, and leaves a gap where a part is missing", () => {
        const series = chart(curves.send({ topic: "today", opened: true, payload: day(5, [2]) }));
        assert.deepEqual(series("Solar").map(({ y }) => y), [6, 6, null, 6]);
        assert.deepEqual(series("House").map(({ y }) => y), [2, 2, null, 2]);
        assert.deepEqual(series("Grid").map(({ y }) => y), [-3, -3, -3, -3]);
        assert.equal(series("Battery")[0]!.x, noon - 5 * MINUTE);
    });

    it("takes longer steps for a longer day, and draws again when one is full or a page was opened", () => {
        const payload = day(700);
        const series = chart(curves.send({ topic: "today", payload }))("Solar");
        assert.equal(series[1]!.x - series[0]!.x, 5 * MINUTE);
        assert.ok(series.length <= 300);
        assert.equal((curves.send({ topic: "today", payload }) as unknown[])[1], null);
        assert.equal(chart(curves.send({ topic: "today", opened: true, payload }))("Solar").length, series.length);
    });

    it("gives the page the counters at midnight and the last hour by minutes", () => {
        curves.send({ topic: "today", payload: day(100) });
        const [{ topic, payload }] = curves.send({ topic: "hour", payload: day(61, [10]).slice(4) }) as [{ topic: string; payload: { first: Record<string, object>; sparks: Record<string, (number | null)[]> } }];
        assert.equal(topic, "history");
        assert.deepEqual(payload.first["A"], { ac_energy_export_wh: 1000 });
        assert.deepEqual(payload.first["M"], { ac_energy_export_wh: 9000 });
        assert.equal(payload.sparks["solar"]!.length, 60);
        assert.deepEqual(payload.sparks["solar"]!.map((value, i) => (value === 6000 ? -1 : i)).filter((i) => i >= 0), [9]);
        assert.deepEqual(payload.sparks["sun"], []);
        assert.deepEqual(payload.sparks["soc"]!.at(-1), 50);
    });
});

describe("the plant flow", () => {
    it("names the versions it needs", () => {
        const { version, devDependencies } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as { version: string; devDependencies: Record<string, string> };
        const { modules } = flow.find(({ type }) => type === "global-config") as unknown as { modules: object };
        assert.deepEqual(modules, { "@wattledger/node-red-energy": version, "@flowfuse/node-red-dashboard": devDependencies["@flowfuse/node-red-dashboard"] });
    });

    it("carries no secret and no address but this machine's", () => {
        const text = JSON.stringify(flow);
        assert.doesNotMatch(text, /"(password|token|username|credentials)"/);
        assert.deepEqual(text.match(/https?:\/\/[^"\\ ]+/g) ?? [], []);
        assert.deepEqual([...new Set(text.match(/\b\d+\.\d+\.\d+\.\d+\b/g))], ["127.0.0.1"]);
    });
});
