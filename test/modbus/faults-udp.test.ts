import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { type Behaviour, faults, FaultServer, mbap, rightData } from "./fault-server.js";
import { DatagramFraming } from "../../dist/modbus/mbap.js";
import type { LinkMember } from "../../dist/modbus/link.js";
import { sharedLink } from "../../dist/modbus/links.js";
import { UdpTransport } from "../../dist/modbus/udp.js";
import { holding, outcome, SETTINGS } from "./rig.js";

const TIMEOUT_MS = 60;

interface Row {
    name: string;
    fault: Behaviour;
    ends: string;
}

const RIGHT = { ends: "right" };
const LATE = { ends: "MODBUS_TIMEOUT" };
const FRAME = { ends: "MODBUS_FRAME" };
const REFUSED = { ends: "MODBUS_EXCEPTION" };

const ROWS: Row[] = [
    { name: "no reply", fault: faults.silent, ...LATE },
    { name: "a slow reply", fault: faults.late(5), ...RIGHT },
    { name: "a repeated datagram", fault: (_asked, { right, send }) => [right, right].forEach(send), ...RIGHT },
    { name: "the datagram before, then the answer", fault: (_asked, { previous, right, send }) => [previous, right].forEach(send), ...RIGHT },
    { name: "a replay of the datagram before", fault: faults.replay, ...LATE },
    { name: "an older, longer answer under the new transaction", fault: faults.stale, ...FRAME },
    { name: "a transaction never asked", fault: faults.transaction(1), ...LATE },
    { name: "protocol id 1", fault: faults.protocol(1), ...FRAME },
    { name: "length 60000", fault: faults.length(60_000), ...FRAME },
    { name: "length 0", fault: faults.length(0), ...FRAME },
    { name: "length 2 short", fault: faults.length(9), ...FRAME },
    { name: "length 2 too many", fault: faults.length(13), ...FRAME },
    { name: "an empty datagram", fault: faults.cut(0), ...FRAME },
    { name: "half an answer in a datagram", fault: faults.cut(11), ...FRAME },
    { name: "an answer in two datagrams", fault: (_asked, { right, send }) => [right.subarray(0, 9), right.subarray(9)].forEach(send), ...FRAME },
    { name: "two answers in one datagram", fault: faults.duplicate, ...FRAME },
    { name: "noise, then the answer", fault: (_asked, { right, send }) => [Buffer.from("0102", "hex"), right].forEach(send), ...RIGHT },
    { name: "noise before the answer", fault: faults.before(Buffer.from("0102", "hex")), ...FRAME },
    { name: "noise after the answer", fault: faults.after(Buffer.from("0102", "hex")), ...FRAME },
    { name: "text", fault: (_asked, { send }) => send(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")), ...FRAME },
    { name: "byte count 2 too large", fault: faults.byteCount(2), ...FRAME },
    { name: "more registers than asked", fault: faults.registers(125), ...FRAME },
    { name: "fewer registers than asked", fault: faults.registers(1), ...FRAME },
    { name: "the answer of another unit", fault: faults.unit(9), ...FRAME },
    { name: "another function", fault: faults.function(4), ...FRAME },
    { name: "exception 0", fault: faults.exception(0), ...FRAME },
    { name: "exception 2", fault: faults.exception(2), ...REFUSED },
    { name: "exception 6, busy", fault: faults.exception(6), ...REFUSED },
    { name: "exception 0x0B of a gateway", fault: faults.exception(0x0b), ...REFUSED },
    { name: "the request comes back", fault: faults.echo, ...FRAME },
];

describe("A fault of Modbus over UDP", () => {
    let server: FaultServer;
    let member: LinkMember;
    beforeEach(async () => {
        server = await FaultServer.start(0, "udp");
        member = sharedLink({ transport: "udp", host: server.host, port: server.port }).join({ ...SETTINGS, timeoutMs: TIMEOUT_MS });
    });
    afterEach(async () => {
        await member.leave();
        await server.stop();
    });

    const right = (address: number, quantity: number) => rightData({ unit: 1, function: 3, address, quantity }, server.registers);
    const read = (address: number, quantity = 4) => outcome(member.read({ ...holding(1, address, quantity), probe: true }));

    for (const { name, fault, ends } of ROWS) {
        it(`${name}: ${ends}, and the next reads are right`, async () => {
            assert.deepEqual(await read(0, 60), right(0, 60));
            server.script(fault);
            assert.deepEqual(await read(200), ends === "right" ? right(200, 4) : ends);
            assert.deepEqual(await read(300), right(300, 4));
            assert.deepEqual(await read(304), right(304, 4));
            assert.deepEqual(server.violations, []);
        });
    }

    it("a late datagram is dropped, not taken for the next answer", async () => {
        let answerLate: (() => void) | undefined;
        server.script((_asked, { send, right: answer }) => (answerLate = () => send(answer)));
        assert.equal(await read(10), "MODBUS_TIMEOUT");
        server.script((_asked, { send, right: answer }) => {
            answerLate?.();
            send(answer);
        });
        assert.deepEqual(await read(20), right(20, 4));
        assert.deepEqual(await read(30), right(30, 4));
    });

    it("a port where nobody listens is known at once", async () => {
        await server.stop();
        assert.equal(await read(10), "MODBUS_CLOSED");
        await server.listen();
    });

    it("datagrams of others are not heard", async () => {
        const other = createSocket("udp4");
        server.script((asked, { send, right: answer }) => {
            other.send(mbap(asked.transaction, 1, [3, 8, 1, 2, 3, 4, 5, 6, 7, 8]), server.client, server.host, () => send(answer));
        });
        assert.deepEqual(await read(10), right(10, 4));
        other.close();
        await once(other, "close");
    });

    it("400 reads at once: each gets its own registers", async () => {
        const answers = await Promise.all(Array.from({ length: 400 }, (_, i) => read(i * 10, 10)));
        assert.deepEqual(answers, Array.from({ length: 400 }, (_, i) => right(i * 10, 10)));
    });

    it("a host that does not exist is said to be none", async () => {
        const transport = new UdpTransport({ host: "no-such-host.invalid", port: 502, framing: new DatagramFraming(), onLost: assert.fail });
        await assert.rejects(transport.open(5_000), { code: "MODBUS_CLOSED" });
        await transport.close();
    });
});
