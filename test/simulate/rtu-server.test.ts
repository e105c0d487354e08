import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import fc from "fast-check";
import { crc16 } from "../../dist/modbus/crc.js";
import { RTU } from "../../dist/simulate/framing.js";
import { ModbusTcpServer, type RegisterBank, type WireFault } from "../../dist/simulate/server.js";

const BASE = 40_000;

describe("ModbusTcpServer with RTU framing", () => {
    let server: ModbusTcpServer;
    let port = 0;
    let fault: WireFault | undefined;
    const sockets: Socket[] = [];

    beforeEach(async () => {
        const words = Buffer.from(Array.from({ length: 400 }, (_, i) => i & 0xff));
        const bank: RegisterBank = { base: BASE, words, write: (address) => address >= BASE + 100 };
        fault = undefined;
        server = new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: (unit) => (unit === 1 ? bank : undefined), fault: () => fault, framing: RTU });
        port = await server.listen();
    });
    afterEach(async () => {
        for (const socket of sockets.splice(0)) socket.destroy();
        await server.close();
    });

    async function client(): Promise<{ socket: Socket; send(...parts: Buffer[]): void; next(length: number): Promise<string> }> {
        const socket = connect({ port, host: "127.0.0.1", noDelay: true });
        sockets.push(socket);
        socket.on("error", () => {});
        await once(socket, "connect");
        return {
            socket,
            send: (...parts) => void socket.write(Buffer.concat(parts)),
            next: async (length) => {
                for (;;) {
                    const bytes = socket.read(length) as Buffer | null;
                    if (bytes) return bytes.toString("hex");
                    await once(socket, "readable");
                }
            },
        };
    }

    it("answers with unit, data and CRC", async () => {
        const peer = await client();
        peer.send(Buffer.from("01049c450002", "hex"), Buffer.from("4e4e", "hex"));
        assert.equal(crc16(Buffer.from("01049c4500024e4e", "hex")), 0, "the request's CRC");
        assert.equal(await peer.next(9), whole("0104040a0b0c0d"));
    });

    it("answers exceptions where they are due", async () => {
        const peer = await client();
        const cases: [string, string, number][] = [
            ["before the registers", "01039c3f0002", 2],
            ["126 registers", "01039c40007e", 3],
            ["coils", "010100000001", 1],
            ["a function of a known length", "01170000000100000001020000", 1],
            ["device identification", "012b0e0100", 1],
            ["a function of its maker", "0164aabbccdd", 1],
            ["a file record", "01140706000100000001", 1],
            ["write to a read-only register", "01069c400001", 2],
            ["write of a wrong byte count", "01109ca4000202000a", 3],
        ];
        for (const [name, request, code] of cases) {
            peer.send(Buffer.from(whole(request), "hex"));
            assert.equal(await peer.next(5), whole(`01${(Number(`0x${request.slice(2, 4)}`) | 0x80).toString(16)}0${code}`), name);
        }
        assert.equal(server.count.writes, 0);
    });

    it("takes writes", async () => {
        const peer = await client();
        peer.send(rtu("01109ca4000204000a000b"), rtu("01069ca4004d"));
        assert.equal(await peer.next(16), whole("01109ca40002") + whole("01069ca4004d"));
        assert.equal(server.count.writes, 3);
    });

    it("is silent for an absent unit and for a broadcast, as a bus is", async () => {
        const peer = await client();
        peer.send(rtu("07039c400001"), rtu("00069ca4004d"), rtu("01039c410001"));
        assert.equal(await peer.next(7), whole("0103020203"));
        assert.equal(server.count.requests, 3);
    });

    it("reads split and joined frames", async () => {
        const peer = await client();
        const requests = Array.from({ length: 10 }, (_, i) => rtu(`01039c4${i}0001`));
        for (const byte of Buffer.concat(requests.slice(0, 2))) peer.socket.write(Buffer.of(byte));
        peer.send(...requests.slice(2));
        for (let i = 0; i < 10; i++) assert.equal(await peer.next(7), whole(`010302${Buffer.of(2 * i, 2 * i + 1).toString("hex")}`));
    });

    it("ends a connection whose framing cannot be trusted", async () => {
        const wrong = [Buffer.from("01039c4000010000", "hex"), Buffer.concat([Buffer.of(0), rtu("01039c400001")]), rtu("01109ca40002ff"), Buffer.alloc(256, 0x64)];
        for (const bytes of wrong) {
            const peer = await client();
            peer.socket.resume();
            peer.send(bytes);
            await once(peer.socket, "close");
        }
        assert.equal(server.count.writes, 0);
    });

    it("does what a fault says", async () => {
        const peer = await client();
        fault = { kind: "exception", code: 6 };
        peer.send(rtu("01039c400001"));
        assert.equal(await peer.next(5), whole("018306"));
        fault = { kind: "slow", ms: 1 };
        peer.send(rtu("01039c410001"));
        assert.equal(await peer.next(7), whole("0103020203"));
        fault = { kind: "drop" };
        peer.send(rtu("01039c410001"));
        while (server.count.requests < 3) await new Promise((resolve) => setImmediate(resolve));
        fault = { kind: "reset" };
        peer.send(rtu("01039c410001"));
        const [error] = (await once(peer.socket, "error")) as [NodeJS.ErrnoException];
        assert.equal(error.code, "ECONNRESET");
    });

    it("survives anything that is sent to it", async () => {
        const witness = await client();
        const request = fc.uint8Array({ minLength: 2, maxLength: 60 }).map((body) => rtu(Buffer.from(body).toString("hex")));
        const bytes = fc.oneof(fc.uint8Array({ maxLength: 300 }).map((raw) => Buffer.from(raw)), request);
        await fc.assert(
            fc.asyncProperty(fc.array(bytes, { maxLength: 6 }), async (chunks) => {
                const socket = connect(port, "127.0.0.1");
                socket.on("error", () => {}).resume();
                await once(socket, "connect");
                for (const chunk of chunks) socket.write(chunk);
                socket.destroy();
                await once(socket, "close");
                witness.send(rtu("01039c410001"));
                assert.equal(await witness.next(7), whole("0103020203"));
            }),
            { numRuns: 300 },
        );
    });
});

/** A frame with its CRC. */
function rtu(hex: string): Buffer {
    const body = Buffer.from(hex, "hex");
    const frame = Buffer.concat([body, Buffer.alloc(2)]);
    frame.writeUInt16LE(crc16(body), body.length);
    return frame;
}

function whole(hex: string): string {
    return rtu(hex).toString("hex");
}
