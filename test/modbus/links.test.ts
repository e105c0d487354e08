import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import Module from "node:module";
import { parseConfig } from "../../dist/common/config.js";
import { endpointName, linkSchema, sharedLink } from "../../dist/modbus/links.js";
import { costOf } from "../../dist/modbus/plan.js";
import { RtuFraming, Strays } from "../../dist/modbus/rtu.js";
import { listPorts, SerialTransport } from "../../dist/modbus/serial.js";
import { FaultServer } from "./fault-server.js";
import { holding, SETTINGS } from "./rig.js";

/** How Node.js finds what is required. */
const RESOLVE = "_resolveFilename";

const limits = { timeoutMs: 1_000, gapMs: 0, connectPauseMs: 0, maxRegisters: 125, checkUnit: true, idleCloseMs: 0 };
const serial = { transport: "rtu", path: "/dev/ttyNONE1", baud: 19_200, parity: "even", stopBits: 1 } as const;

describe("The settings of a link", () => {
    it("are Modbus TCP where no transport was saved", () => {
        for (const transport of [undefined, "", null]) {
            assert.deepEqual(parseConfig(linkSchema, { host: "inverter", port: "1502", transport }), { transport: "tcp", host: "inverter", port: 1502, ...limits });
        }
    });

    it("are those of the transport alone", () => {
        const all = { host: "gateway", port: 502, path: " /dev/ttyUSB0 ", baud: "19200", parity: "even", stopBits: "1", idleCloseS: "2" };
        assert.deepEqual(parseConfig(linkSchema, { ...all, transport: "rtutcp" }), { transport: "rtutcp", host: "gateway", port: 502, ...limits, idleCloseMs: 2_000 });
        assert.deepEqual(parseConfig(linkSchema, { ...all, transport: "rtu", host: "", port: "abc" }), { ...serial, path: "/dev/ttyUSB0", ...limits, idleCloseMs: 2_000 });
    });

    it("say what is wrong with each field", () => {
        const message = (def: object) => {
            try {
                parseConfig(linkSchema, def);
            } catch (error) {
                return (error as Error).message;
            }
            return "taken";
        };
        assert.match(message({ transport: "rtu", baud: "fast", parity: "mark", stopBits: 3 }), /path must not be empty; baud must be a whole number from 300 .*; parity must be one of none, even, odd; stopBits must be/);
        assert.match(message({ transport: "ascii", host: "x" }), /transport must be one of tcp, rtutcp, udp, rtu/);
        assert.match(message({ transport: "udp", host: "a b" }), /host takes a host name or an IP address/);
    });

    it("tell plans what reads cost", async () => {
        for (const [endpoint, kind] of [
            [{ host: "127.0.0.1", port: 1 }, { kind: "tcp" }],
            [{ transport: "udp", host: "127.0.0.1", port: 1 }, { kind: "udp" }],
            [{ transport: "rtutcp", host: "127.0.0.1", port: 1 }, { kind: "rtutcp" }],
            [serial, { kind: "rtu", baud: 19_200, characterBits: 11 }],
            [{ ...serial, parity: "none", stopBits: 2 }, { kind: "rtu", baud: 19_200, characterBits: 11 }],
            [{ ...serial, parity: "none" }, { kind: "rtu", baud: 19_200, characterBits: 10 }],
        ] as const) {
            const member = sharedLink(endpoint).join({ ...SETTINGS, gapMs: 7 });
            assert.deepEqual(member.cost, costOf({ ...kind, gapMs: 7 }));
            await member.leave();
        }
    });

    it("make one link an endpoint, and none of two that differ", async () => {
        const tcp = { host: "gateway", port: 502 } as const;
        const endpoints = [tcp, { ...tcp, transport: "rtutcp" }, { ...tcp, transport: "udp" }, serial, { ...serial, baud: 9_600 }, { ...serial, path: "/dev/ttyNONE2" }] as const;
        const links = endpoints.map((endpoint) => sharedLink(endpoint));
        assert.equal(new Set(links).size, endpoints.length);
        assert.deepEqual(endpoints.map((endpoint) => sharedLink({ ...endpoint })), links);
        assert.equal(sharedLink({ ...tcp, transport: "tcp" }), links[0]);
        assert.deepEqual([endpointName(tcp), endpointName(serial)], ["gateway:502", "/dev/ttyNONE1"]);
        for (const link of links) await link.join(SETTINGS).leave();
    });

    it("carry reads over each network transport", async () => {
        for (const transport of ["tcp", "rtutcp", "udp"] as const) {
            const server = await FaultServer.start(0, transport);
            const member = sharedLink({ transport, host: server.host, port: server.port }).join(SETTINGS);
            await member.read(holding(1));
            await member.write({ unit: 1, table: "holding", address: 3, values: [1, 2] });
            assert.deepEqual(server.asked.map(({ function: code }) => code), [3, 16], transport);
            await member.leave();
            await server.stop();
        }
    });

    it("name the package that serial ports need when it is not installed", async () => {
        const loader = Module as unknown as Record<typeof RESOLVE, (name: string, ...rest: unknown[]) => string>;
        const resolve = loader[RESOLVE];
        loader[RESOLVE] = (name, ...rest) => resolve(name === "serialport" ? "serialport-that-is-not-installed" : name, ...rest);
        try {
            const missing = { code: "MODBUS_CLOSED", message: /npm install serialport.*~\/\.node-red.*restart Node-RED/ };
            await assert.rejects(listPorts(), missing);
            const member = sharedLink({ ...serial, path: "/dev/ttyNONE3" }).join(SETTINGS);
            await assert.rejects(member.read(holding(1)), missing);
            await member.leave();
        } finally {
            loader[RESOLVE] = resolve;
        }
    });
});

describe("A serial port", () => {
    it("that is unplugged says so", async () => {
        const port = Object.assign(new EventEmitter(), {
            isOpen: true,
            open: (done: (error: null) => void) => done(null),
            write: () => undefined,
            close: (done: (error: null) => void) => done(null),
        });
        const lost: string[] = [];
        const settings = { path: "/dev/ttyUSB0", baud: 9600, parity: "none", dataBits: 8, stopBits: 1 } as const;
        const transport = new SerialTransport({ ...settings, framing: new RtuFraming(new Strays()), onLost: ({ message }) => lost.push(message), createPort: () => port });
        await transport.open(1000);
        port.emit("close", new Error("bad file descriptor"));
        assert.deepEqual(lost, ["Lost the connection to serial port /dev/ttyUSB0: the port is gone; check the cable and the adapter."]);
        await transport.close();
    });
});
