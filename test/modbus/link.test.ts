import assert from "node:assert/strict";
import type { LinkSettings } from "../../dist/modbus/link.js";
import { ModbusLink } from "../../dist/modbus/link.js";
import { MbapFraming } from "../../dist/modbus/mbap.js";
import { TcpTransport } from "../../dist/modbus/tcp.js";
import { FaultServer, rightData } from "./fault-server.js";

const SETTINGS: LinkSettings = { timeoutMs: 200, gapMs: 0, connectPauseMs: 0, maxRegisters: 125, checkUnit: true, idleCloseMs: 0 };

describe("ModbusLink", () => {
    let server: FaultServer;
    beforeEach(async () => {
        server = await FaultServer.start();
    });
    afterEach(() => server.stop());

    it("reads registers", async () => {
        const { host, port } = server;
        const link = new ModbusLink({ createTransport: (onLost) => new TcpTransport({ host, port, framing: new MbapFraming(), onLost }) });
        const member = link.join(SETTINGS);
        const data = await member.read({ unit: 3, table: "holding", address: 40_000, quantity: 125 });
        assert.deepEqual(data, rightData({ unit: 3, function: 3, address: 40_000, quantity: 125 }, server.registers));
        await member.leave();
        assert.equal(link.state.name, "idle");
    });
});
