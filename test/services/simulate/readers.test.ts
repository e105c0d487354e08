import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { PlantSimulator } from "../../../dist/simulate/simulator.js";
import { startLine } from "../modbus/pty.js";

const run = promisify(execFile);

/** Reads as a client that shares nothing with us: SunSpec walk and scaling by hand on pymodbus. */
const PYMODBUS = `
import json, struct, sys
from pymodbus.client import ModbusTcpClient
from pymodbus.framer.rtu_framer import ModbusRtuFramer
client = ModbusTcpClient("127.0.0.1", port=int(sys.argv[1]))
assert client.connect()
def read(unit, address, count):
    answer = client.read_holding_registers(address, count, slave=unit)
    assert not answer.isError(), answer
    return answer.registers
def meter(client):
    answer = client.read_input_registers(52, 2, slave=10)
    assert not answer.isError(), answer
    return struct.unpack(">f", struct.pack(">2H", *answer.registers))[0]
def signed(word): return word - 65536 if word & 32768 else word
out = {}
for unit in (1, 2, 3, 4, 5, 200):
    assert read(unit, 40000, 2) == [0x5375, 0x6E53]
    address, models = 40002, {}
    while True:
        ident, length = read(unit, address, 2)
        if ident == 0xFFFF: break
        models[ident] = (address, read(unit, address, length + 2))
        address += length + 2
    text = lambda at, size: struct.pack(">%dH" % size, *models[1][1][at:at + size]).rstrip(b"\\0").decode()
    out[unit] = {"models": list(models), "maker": text(2, 16), "options": text(34, 8), "serial": text(50, 16)}
    if 103 in models:
        r = models[103][1]
        out[unit]["W"] = signed(r[14]) * 10.0 ** signed(r[15])
        out[unit]["WH"] = (r[24] << 16 | r[25]) * 10.0 ** signed(r[26])
    if 203 in models: out[unit]["W"] = signed(models[203][1][18]) * 10.0 ** signed(models[203][1][22])
    if 802 in models: out[unit]["W"] = signed(models[802][1][47]) * 10.0 ** signed(models[802][1][63])
    if 123 in models: out[unit]["limit"] = models[123][0] + 5
fail = client.read_input_registers(80, 2, slave=10).exception_code, client.read_holding_registers(0, 2, slave=10).exception_code
out["meter"] = {"W": meter(client), "fail": fail}
rtu = ModbusTcpClient("127.0.0.1", port=int(sys.argv[2]), framer=ModbusRtuFramer)
assert rtu.connect()
out["rtu"] = {"W": meter(rtu), "marker": rtu.read_holding_registers(40000, 2, slave=5).registers}
out["input"] = client.read_input_registers(40000, 2, slave=1).registers
out["beyond"] = client.read_holding_registers(39999, 2, slave=1).exception_code
out["absent"] = client.read_holding_registers(40000, 2, slave=77).exception_code
out["coils"] = client.read_coils(0, 1, slave=1).exception_code
out["refused"] = client.write_register(40002, 5, slave=1).exception_code
out["written"] = client.write_registers(out[1]["limit"], [5000, 0, 60, 0, 1], slave=1).isError()
out["back"] = read(1, out[1]["limit"], 5)
print(json.dumps(out))
`;

describe("independent readers of the simulated plant", () => {
    const controller = new AbortController();
    let simulator: PlantSimulator;
    let running: Promise<unknown>;
    let [port, rtuPort] = [0, 0];
    let truth: Record<string, unknown> = {};

    before(async () => {
        await new Promise<void>((resolve) => {
            simulator = new PlantSimulator(
                { host: "127.0.0.1", port: 0, rtuPort: 0, speed: 1, timeOfDay: "daytime", seed: 3, latitude: 48.1, longitude: 11.6, zone: "Europe/Berlin", ratedPowerW: 15_000 },
                {
                    onError: assert.ifError,
                    onStatus: () => {},
                    onTruth: (points) => {
                        truth = points;
                        [port, rtuPort] = simulator.ports as [number, number];
                        resolve();
                    },
                },
                { load: () => undefined, save: () => {}, remove: () => {} },
            );
            running = simulator.run(controller.signal).catch(() => {});
        });
    });
    after(async () => {
        controller.abort();
        await running;
        await simulator.close(false);
    });

    it("mbpoll reads it, and is refused a write", async () => {
        const mbpoll = (...args: string[]) => run("mbpoll", ["-m", "tcp", "-p", String(port), "-0", "-1", ...args]);
        const { stdout } = await mbpoll("-a", "200", "-r", "40000", "-c", "4", "-t", "4:hex", "127.0.0.1");
        assert.deepEqual([...stdout.matchAll(/^\[(\d+)\]:\s+(\S+)/gm)].map(([, at, word]) => `${at} ${word}`), ["40000 0x5375", "40001 0x6E53", "40002 0x0001", "40003 0x0042"]);
        await assert.rejects(run("mbpoll", ["-m", "tcp", "-p", String(port), "-0", "-a", "200", "-r", "40004", "127.0.0.1", "7"]), /Illegal data address/);
        assert.equal(simulator.count.writes, 0);
    });

    for (const side of ["Modbus TCP", "RTU on a serial line"]) {
        it(`mbpoll reads the meter by map over ${side}`, async () => {
            const line = side === "Modbus TCP" ? undefined : await startLine(rtuPort);
            try {
                const way = line ? ["-m", "rtu", "-b", "115200", "-P", "none"] : ["-m", "tcp", "-p", String(port)];
                const mbpoll = async (...args: string[]) => (await run("mbpoll", [...way, "-0", "-1", "-a", "10", ...args, line ? line.ends[0]! : "127.0.0.1"])).stdout;
                const read = async (address: number) => Number(/^\[\d+\]:\s+(\S+)/m.exec(await mbpoll("-t", "3:float", "-B", "-r", String(address)))?.[1]);
                const [watts, before, hertz] = [await read(52), truth["grid_power_w"] as number, await read(70)];
                assert.ok(Math.abs(watts - before) < 3000 && Math.sign(watts) === Math.sign(before), `${watts} W, in truth ${before} W`);
                assert.ok(Math.abs(hertz - 50) < 0.1, `${hertz} Hz`);
                // mbpoll prints six digits of kWh.
                const exported = 1000 * (await read(74));
                assert.ok(Math.abs(exported - (truth["grid_energy_export_wh"] as number)) < 150, `${exported} Wh`);
                await assert.rejects(mbpoll("-t", "3:float", "-B", "-r", "100"), /Illegal data address/);
            } finally {
                await line?.stop();
            }
        });
    }

    it("pymodbus walks it, scales it and gets what is true", async () => {
        const { stdout } = await run("/usr/bin/python3", ["-c", PYMODBUS, String(port), String(rtuPort)]);
        const found = JSON.parse(stdout) as Record<string, Record<string, unknown>> & Record<string, unknown>;
        assert.deepEqual(Object.fromEntries(["1", "2", "3", "4", "5", "200"].map((unit) => [unit, found[unit]!["models"]])), {
            1: [1, 103, 120, 121, 123, 160],
            2: [1, 103, 120, 121, 123, 160],
            3: [1, 802, 124],
            4: [1, 307, 302, 303, 305],
            5: [1, 601],
            200: [1, 203],
        });
        assert.deepEqual([found["1"]!["maker"], found["1"]!["options"], found["1"]!["serial"]], ["WattLedger", "SIMULATED", "SIM3-INV-A"]);
        // The plant moves on between the readings of its units; a balance that is far off is a wrong sign or scale.
        const watts = (unit: string) => found[unit]!["W"] as number;
        const load = watts("1") + watts("2") + watts("3") + watts("200");
        assert.ok(watts("1") > 0 && watts("2") > 0 && (found["1"]!["WH"] as number) > 1e6);
        assert.ok(load > 0 && Math.abs(load - (truth["load_power_w"] as number)) < 3000, `${load} W, in truth ${String(truth["load_power_w"])} W`);
        for (const meter of ["meter", "rtu"]) {
            const read = watts(meter);
            assert.ok(Math.abs(read - watts("200")) < 3000 && Math.sign(read) === Math.sign(watts("200")), `${meter} ${read} W, by SunSpec ${watts("200")} W`);
        }
        assert.deepEqual([found["meter"]!["fail"], found["rtu"]!["marker"]], [[2, 2], [0x5375, 0x6e53]]);
        assert.deepEqual(found["input"], [0x5375, 0x6e53]);
        assert.deepEqual([found["beyond"], found["absent"], found["coils"], found["refused"]], [2, 11, 1, 2]);
        assert.deepEqual([found["written"], found["back"]], [false, [5000, 0, 60, 0, 1]]);
        assert.equal(simulator.count.writes, 5);
    });
});
