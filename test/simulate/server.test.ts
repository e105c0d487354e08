import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import fc from "fast-check";
import { WattError } from "../../dist/common/errors.js";
import { ModbusTcpServer, type RegisterBank, type ServerOptions, type WireFault } from "../../dist/simulate/server.js";

const BASE = 40000;

describe("ModbusTcpServer", () => {
    const open: (() => Promise<void> | void)[] = [];
    afterEach(async () => {
        for (const close of open.splice(0).toReversed()) await close();
    });

    async function serve(options: Partial<ServerOptions> = {}): Promise<{ server: ModbusTcpServer; port: number }> {
        const bank: RegisterBank = { base: BASE, words: counting(200), write: (address) => address >= BASE + 100 };
        const server = new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: (unit) => (unit === 1 ? bank : undefined), ...options });
        const port = await server.listen();
        open.push(() => server.close());
        return { server, port };
    }

    async function client(port: number): Promise<Peer> {
        const socket = connect(port, "127.0.0.1");
        await once(socket, "connect");
        open.push(() => void socket.destroy());
        return new Peer(socket);
    }

    it("answers functions 3 and 4 with the registers asked for", async () => {
        const { port } = await serve();
        const peer = await client(port);
        for (const code of [3, 4]) {
            const answer = await peer.ask(frame(1, [code, ...u16(BASE + 5), ...u16(3)], 0xbeef));
            assert.equal(answer.toString("hex"), `beef0000000901${code.toString(16).padStart(2, "0")}06000500060007`);
        }
    });

    it("answers exceptions 1, 2, 3 and 11 where they are due", async () => {
        const { port, server } = await serve();
        const peer = await client(port);
        const cases: [string, number, number[], number][] = [
            ["unknown function", 1, [0x2b, 14, 1, 0], 1],
            ["before the image", 1, [3, ...u16(BASE - 1), ...u16(2)], 2],
            ["across its end", 1, [3, ...u16(BASE + 199), ...u16(2)], 2],
            ["no register", 1, [3, ...u16(BASE), ...u16(0)], 3],
            ["126 registers", 1, [3, ...u16(BASE), ...u16(126)], 3],
            ["short request", 1, [3, 0], 3],
            ["write to a read-only register", 1, [6, ...u16(BASE), ...u16(1)], 2],
            ["write of a wrong byte count", 1, [16, ...u16(BASE + 100), ...u16(2), 2, 0, 1], 3],
            ["write of nothing", 1, [16, ...u16(BASE + 100), ...u16(0), 0], 3],
            ["absent unit", 7, [3, ...u16(BASE), ...u16(1)], 11],
        ];
        for (const [name, unit, pdu, code] of cases) {
            const answer = await peer.ask(frame(unit, pdu));
            assert.deepEqual([...answer.subarray(6)], [unit, pdu[0]! | 0x80, code], name);
        }
        assert.equal(server.count.writes, 0);
    });

    it("keeps to one table and to what may be read, where the bank has such", async () => {
        const readable = [[BASE, BASE + 9], [BASE + 20, BASE + 29]] as const;
        const { port } = await serve({ bank: () => ({ base: BASE, words: counting(200), table: "input", readable }) });
        const peer = await client(port);
        const cases: [code: number, address: number, quantity: number, right: boolean][] = [
            [4, BASE, 10, true], [4, BASE + 20, 10, true], [4, BASE + 29, 1, true],
            [3, BASE, 10, false], [4, BASE, 11, false], [4, BASE + 10, 1, false], [4, BASE + 5, 20, false], [4, BASE + 29, 2, false],
        ];
        for (const [code, address, quantity, right] of cases) {
            const answer = await peer.ask(frame(1, [code, ...u16(address), ...u16(quantity)]));
            assert.equal(answer.subarray(7, 9).toString("hex"), (right ? [code, 2 * quantity] : [code | 0x80, 2]).map((byte) => byte.toString(16).padStart(2, "0")).join(""));
        }
    });

    it("takes writes where the bank allows them, and counts registers", async () => {
        const { port, server } = await serve();
        const peer = await client(port);
        assert.equal((await peer.ask(frame(1, [6, ...u16(BASE + 100), ...u16(77)]))).subarray(7).toString("hex"), "069ca4004d");
        const many = await peer.ask(frame(1, [16, ...u16(BASE + 100), ...u16(2), 4, 0, 1, 0, 2]));
        assert.equal(many.subarray(7).toString("hex"), "109ca40002");
        assert.equal(server.count.writes, 3);
    });

    it("reads split and pipelined frames, one byte at a time as well", async () => {
        const { port, server } = await serve();
        const peer = await client(port);
        const frames = Array.from({ length: 20 }, (_, i) => frame(1, [3, ...u16(BASE + i), ...u16(1)], i));
        for (const byte of Buffer.concat(frames.slice(0, 2))) peer.socket.write(Buffer.of(byte));
        peer.socket.write(Buffer.concat(frames.slice(2)));
        for (let i = 0; i < 20; i++) {
            const answer = await peer.next();
            assert.deepEqual([answer.readUInt16BE(0), answer.readUInt16BE(9)], [i, i]);
        }
        assert.equal(server.count.requests, 20);
    });

    it("serves several clients", async () => {
        const { port, server } = await serve();
        const peers = await Promise.all(Array.from({ length: 8 }, () => client(port)));
        const answers = await Promise.all(peers.map((peer, i) => peer.ask(frame(1, [3, ...u16(BASE + i), ...u16(1)]))));
        assert.deepEqual(answers.map((answer) => answer.readUInt16BE(9)), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert.equal(server.clients, 8);
    });

    it("ends a connection whose framing cannot be trusted", async () => {
        const { port } = await serve();
        for (const bad of ["000000010006010300000001", "000000000001010300000001", "0000000000ff010300000001", "00000000ea60010300000001"]) {
            const peer = await client(port);
            peer.socket.write(Buffer.from(bad, "hex"));
            await once(peer.socket, "close");
        }
    });

    it("stops reading from a client that never reads its answers", async () => {
        const { port, server } = await serve();
        const peer = await client(port);
        peer.socket.pause();
        const batch = Buffer.concat(Array.from({ length: 1000 }, () => frame(1, [3, ...u16(BASE), ...u16(125)])));
        for (let i = 0; i < 1000; i++) peer.socket.write(batch);
        const other = await client(port);
        for (let before = -1; before !== server.count.requests; ) {
            before = server.count.requests;
            for (let i = 0; i < 20; i++) await other.ask(frame(7, [3, ...u16(BASE), ...u16(1)]));
            before += 20;
        }
        assert.ok(server.count.requests < 500_000, `took ${server.count.requests} of a million requests`);
        assert.ok(peer.socket.writableLength > 0);
    });

    it("survives anything that is sent to it", async () => {
        const { port } = await serve();
        const witness = await client(port);
        const request = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.uint8Array({ minLength: 1, maxLength: 60 })).map(([unit, pdu]) => frame(unit, [...pdu]));
        const bytes = fc.oneof(fc.uint8Array({ maxLength: 300 }).map((raw) => Buffer.from(raw)), request);
        await fc.assert(
            fc.asyncProperty(fc.array(bytes, { maxLength: 6 }), async (chunks) => {
                const socket = connect(port, "127.0.0.1");
                socket.on("error", () => {}).resume();
                await once(socket, "connect");
                for (const chunk of chunks) socket.write(chunk);
                socket.destroy();
                await once(socket, "close");
                const answer = await witness.ask(frame(1, [3, ...u16(BASE + 9), ...u16(1)]));
                assert.equal(answer.readUInt16BE(9), 9);
            }),
            { numRuns: 300 },
        );
    });

    it("answers slowly, never, with an exception or a reset when told", async () => {
        let fault: WireFault | undefined = { kind: "exception", code: 6 };
        const waiting: (() => void)[] = [];
        const clock = {
            after: (ms: number, task: () => void) => {
                assert.equal(ms, 1500);
                waiting.push(task);
                return () => {};
            },
        };
        const { port, server } = await serve({ fault: () => fault, clock });
        const peer = await client(port);
        const request = (id: number) => frame(1, [3, ...u16(BASE + id), ...u16(1)], id);
        assert.deepEqual([...(await peer.ask(request(1))).subarray(7)], [0x83, 6]);

        fault = { kind: "slow", ms: 1500 };
        peer.socket.write(request(2));
        await until(() => server.count.requests === 2);
        fault = { kind: "drop" };
        peer.socket.write(request(3));
        await until(() => server.count.requests === 3);
        fault = undefined;
        assert.equal((await peer.ask(request(4))).readUInt16BE(0), 4, "the slow answer comes after, the dropped one never");
        waiting.forEach((send) => send());
        assert.equal((await peer.next()).readUInt16BE(0), 2);

        fault = { kind: "reset" };
        peer.socket.write(request(5));
        const [error] = (await once(peer.socket, "error")) as [NodeJS.ErrnoException];
        assert.equal(error.code, "ECONNRESET");
    });

    it("closes with clients connected and answers waiting, and frees the port", async () => {
        const { server, port } = await serve({ fault: () => ({ kind: "slow", ms: 60_000 }) });
        const peer = await client(port);
        peer.socket.write(frame(1, [3, ...u16(BASE), ...u16(1)]));
        await until(() => server.count.requests === 1);
        const closed = once(peer.socket, "close");
        await server.close();
        await closed;
        await serve({ port });
    });

    it("settles when it is closed at any moment of its start", async () => {
        for (let ticks = 0; ticks < 8; ticks++) {
            const server = new ModbusTcpServer({ host: "127.0.0.1", port: 0, bank: () => undefined });
            const listening = server.listen().then(
                () => server.close(),
                (error: unknown) => assert.ok(error instanceof WattError),
            );
            for (let i = 0; i < ticks; i++) await (i % 2 ? Promise.resolve() : new Promise<void>((resolve) => process.nextTick(resolve)));
            await server.close();
            await listening;
        }
    });

    it("says what to do when it cannot listen", async () => {
        const { port } = await serve();
        await assert.rejects(serve({ port }), (error: unknown) => {
            assert.ok(error instanceof WattError && error.code === "SIM_LISTEN");
            assert.match(error.message, new RegExp(`^Port ${port} on 127.0.0.1 is taken: stop what listens there`));
            return true;
        });
        await assert.rejects(serve({ host: "192.0.2.1" }), /192\.0\.2\.1 is not an address of this machine/);
    });
});

/** A bare client: whole frames as they come, in order. */
class Peer {
    private received = Buffer.alloc(0);
    private wake: () => void = () => {};

    constructor(readonly socket: Socket) {
        socket.on("error", () => {});
        socket.on("data", (chunk) => {
            this.received = Buffer.concat([this.received, chunk]);
            this.wake();
        });
    }

    async ask(request: Buffer): Promise<Buffer> {
        this.socket.write(request);
        return this.next();
    }

    async next(): Promise<Buffer> {
        while (this.received.length < 6 || this.received.length < 6 + this.received.readUInt16BE(4)) {
            await new Promise<void>((resolve) => (this.wake = resolve));
        }
        const end = 6 + this.received.readUInt16BE(4);
        const answer = this.received.subarray(0, end);
        this.received = this.received.subarray(end);
        return answer;
    }
}

function frame(unit: number, pdu: number[], id = 1): Buffer {
    return Buffer.from([...u16(id), 0, 0, ...u16(pdu.length + 1), unit, ...pdu]);
}

function u16(value: number): [number, number] {
    return [value >> 8, value & 0xff];
}

function counting(length: number): Buffer {
    const words = Buffer.alloc(2 * length);
    for (let i = 0; i < length; i++) words.writeUInt16BE(i, 2 * i);
    return words;
}

async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
