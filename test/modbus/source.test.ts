import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { modbusSchema } from "../../dist/modbus/config.js";
import { parseModbusMap } from "../../dist/modbus/map.js";
import { ModbusSource } from "../../dist/modbus/source.js";
import { faults } from "./fault-server.js";
import { METER_MAP } from "./meter.js";
import { Rig } from "./rig.js";

const UNITS = 247;

describe("A source of 247 units", () => {
    for (const kind of ["tcp", "rtutcp", "udp", "rtu"] as const) {
        it(`closes at once while none of them answers: ${kind}`, async () => {
            const rig = await Rig.start({}, kind);
            rig.server.otherwise = faults.silent;
            const member = rig.join({ timeoutMs: 60_000 });
            const listener = { onMessage: () => {}, onStatus: () => {}, onFault: () => {}, onRecovered: () => {}, onWarning: () => {} };
            const config = modbusSchema.parse({ map: "paste", units: `1-${UNITS}` });
            const source = new ModbusSource({ config, map: parseModbusMap(METER_MAP, "meter.yaml"), site: "home", listener, clock: rig.clock, random: () => 0.5 });
            const closing = new AbortController();
            setMaxListeners(0, closing.signal);
            const running = source.run(member, closing.signal);
            await rig.in("up");
            await rig.pass(1_000);
            assert.equal(rig.server.asked.length, 1, "all others wait for it");
            const before = rig.clock.monotonic();
            closing.abort();
            await running;
            await member.leave();
            assert.equal(rig.clock.monotonic(), before, "no time has to pass");
            assert.equal(rig.clock.waiting, 0, "nothing is left behind");
            await rig.stop();
        });
    }
});
