import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { symlink, unlink } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import type { LinkMember } from "../../../dist/modbus/link.js";
import { sharedLink } from "../../../dist/modbus/links.js";
import { listPorts } from "../../../dist/modbus/serial.js";
import type { ReadRequest } from "../../../dist/modbus/transport.js";
import { type Asked, faults, FaultServer, rightData } from "../../modbus/fault-server.js";
import { holding, outcome, SETTINGS } from "../../modbus/rig.js";
import { LONG, ROWS } from "../../modbus/rtu-rows.js";
import { makeUserDir, removeDir } from "../../node-red.js";
import { type Line, serialEndpoint, startLine } from "./pty.js";

/** Longer than a busy machine takes for what is right. */
const TIMEOUT_MS = 500;
const CODES = { coil: 1, discrete: 2, holding: 3, input: 4 };

/** A real serial port of the operating system, by the npm package serialport, whose far end is a fault server. */
describe("RTU on a serial port of the operating system", function () {
    this.timeout(120_000);
    let server: FaultServer;
    let line: Line;
    let member: LinkMember;
    before(async () => {
        server = await FaultServer.start(0, "rtutcp");
        line = await startLine(server.port);
        member = sharedLink(serialEndpoint(line.ends[0] as string)).join({ ...SETTINGS, timeoutMs: TIMEOUT_MS });
    });
    after(async () => {
        await member.leave();
        await line.stop();
        await server.stop();
    });

    const right = ({ unit, table, address, quantity }: ReadRequest) => rightData({ unit, function: CODES[table], address, quantity }, server.registers);
    const read = (request: ReadRequest) => outcome(member.read({ ...request, probe: true }));

    // An end of the connection is an unplugged adapter here, which is tried below.
    for (const { name, fault, ends, request = holding(1, 200, 4) } of ROWS.filter(({ ends: code }) => code !== "MODBUS_CLOSED")) {
        it(`${name}: ${ends}, and later reads are right`, async () => {
            assert.deepEqual(await read(LONG), right(LONG));
            server.script(fault);
            assert.deepEqual(await read(request), ends === "right" ? right(request) : ends);
            for (const next of [holding(1, 300, 4), holding(1, 304, 4), LONG]) assert.deepEqual(await read(next), right(next));
        });
    }

    it("late replies never pass for others, however long the device takes", async () => {
        const hasty = sharedLink(serialEndpoint(line.ends[0] as string)).join({ ...SETTINGS, timeoutMs: 150 });
        let busyUntil = 0;
        let delay = 0;
        server.otherwise = (asked: Asked, peer) => {
            busyUntil = Math.max(busyUntil, performance.now()) + delay;
            peer.later(busyUntil - performance.now(), () => faults.right(asked, peer));
        };
        let answered = 0;
        for (let i = 0; i < 60; i++) {
            delay = [0, 0, 140, 160, 210, 330, 20, 250, 0, 0][i % 10] as number;
            const request = holding(1, i * 10, 4);
            const ended = await outcome(hasty.read({ ...request, probe: true }));
            if (!Buffer.isBuffer(ended)) continue;
            answered++;
            assert.deepEqual(ended, right(request), `read ${i} got another's registers`);
        }
        await hasty.leave();
        assert.ok(answered >= 6, `only ${answered} of 60 were answered`);
        server.otherwise = faults.right;
        // What is still late would come between later tests' answers.
        await setTimeout(Math.max(0, busyUntil - performance.now()) + TIMEOUT_MS);
    });

    it("writes and reads of many users go out one after another", async () => {
        server.violations.length = 0;
        await read(holding(1));
        const patient = sharedLink(serialEndpoint(line.ends[0] as string)).join({ ...SETTINGS, timeoutMs: 5_000 });
        const work = Array.from({ length: 100 }, (_, i) =>
            i % 5 === 0
                ? patient.write({ unit: 1, table: "holding", address: i, values: [i] }).then(() => assert.ok(true))
                : patient.read(holding(1, i, 3)).then((data) => assert.deepEqual(data, right(holding(1, i, 3)))),
        );
        const failed = (await Promise.allSettled(work)).flatMap((end) => (end.status === "rejected" ? [String(end.reason)] : []));
        assert.deepEqual(failed, []);
        await patient.leave();
        assert.deepEqual(server.violations, []);
    });

    it("is refused while somebody else has the port, with what to do", async () => {
        const other = sharedLink({ ...serialEndpoint(line.ends[0] as string), transport: "rtu", path: line.ends[0] as string, baud: 9_600, parity: "none", stopBits: 1 }).join(SETTINGS);
        await assert.rejects(other.read(holding(1)), { code: "MODBUS_CLOSED", message: /in use by another program, or by another modbus-link with other settings/ });
        await other.leave();
    });

    it("comes back by itself after the adapter was unplugged", async () => {
        const folder = await makeUserDir();
        const port = path.join(folder, "adapter");
        let adapter = await startLine(server.port);
        await symlink(adapter.ends[0] as string, port);
        const states = new EventEmitter();
        const user = sharedLink(serialEndpoint(port)).join({ ...SETTINGS, timeoutMs: TIMEOUT_MS }, { onState: () => states.emit("change") });
        const state = () => user.state.name;
        assert.deepEqual(await user.read(holding(1)), right(holding(1)));
        await adapter.stop();
        // Whether the system tells of it at once or the next bytes do, reads fail in time.
        for (let i = 0; state() !== "down" && i < 20; i++) {
            const ended = await outcome(user.read({ ...holding(1), probe: true }));
            assert.ok(ended === "MODBUS_CLOSED" || ended === "MODBUS_TIMEOUT", String(ended));
        }
        assert.equal(state(), "down");
        adapter = await startLine(server.port);
        await unlink(port);
        await symlink(adapter.ends[0] as string, port);
        while (state() !== "up") await once(states, "change");
        assert.deepEqual(await user.read(holding(1)), right(holding(1)));
        await user.leave();
        await adapter.stop();
        await removeDir(folder);
    });

    it("are listed", async () => {
        for (const { path: port } of await listPorts()) assert.equal(typeof port, "string");
    });
});
