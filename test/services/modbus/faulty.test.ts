import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import type { LinkMember } from "../../../dist/modbus/link.js";
import { type Endpoint, sharedLink } from "../../../dist/modbus/links.js";
import type { ReadRequest } from "../../../dist/modbus/transport.js";
import { distinctWord, rightData } from "../../modbus/fault-server.js";
import { holding, outcome, SETTINGS } from "../../modbus/rig.js";
import { FAULTY, startFaultyLibmodbus } from "./faulty-libmodbus.js";
import { serialEndpoint, startLine } from "./pty.js";

const PLACES: Record<string, () => Promise<{ endpoint: Endpoint; stop(): Promise<void> }>> = {
    "behind TCP": async () => {
        const peer = await startFaultyLibmodbus();
        return { endpoint: peer, stop: () => peer.stop() };
    },
    "on a serial line": async () => {
        const line = await startLine();
        const peer = await startFaultyLibmodbus(line.ends[0]);
        return {
            endpoint: serialEndpoint(line.ends[1]!),
            stop: async () => {
                await peer.stop();
                await line.stop();
            },
        };
    },
};

for (const [place, start] of Object.entries(PLACES)) {
    const isSerial = place === "on a serial line";
    describe(`A libmodbus server ${place} that misbehaves`, function () {
        this.timeout(30_000);
        let peer: Awaited<ReturnType<typeof start>>;
        let member: LinkMember;
        const states = new EventEmitter();
        before(async () => {
            peer = await start();
        });
        after(() => peer.stop());
        // A new link each time: after a fault it leaves the unit alone for a while.
        const join = () => {
            member = sharedLink(peer.endpoint).join({ ...SETTINGS, timeoutMs: 2_000 }, { onState: ({ name }) => states.emit(name) });
        };
        beforeEach(join);
        afterEach(() => member.leave());

        /** What the server holds, and nothing that came late or for another. */
        async function readsOn(): Promise<void> {
            for (const address of [5, 6, 7]) await reads({ ...holding(1, address, 10), probe: true });
        }

        /** As the next user of the server, to whom it may send what the last one did not take. */
        async function readsAnew(): Promise<void> {
            await member.leave();
            join();
            await readsOn();
        }

        async function reads(request: ReadRequest): Promise<void> {
            let data = await outcome(member.read(request));
            while (data === "MODBUS_CLOSED") {
                if (member.state.name === "down") await once(states, "up");
                data = await outcome(member.read(request));
            }
            assert.deepEqual(data, rightData({ ...request, function: 3 }, distinctWord));
        }

        it("is busy", async () => {
            await assert.rejects(member.read(holding(1, FAULTY.busy, 3)), { code: "MODBUS_EXCEPTION", exception: 6 });
            await readsOn();
        });

        it(isSerial ? "answers as another unit" : "answers under another transaction id", async () => {
            assert.equal(await outcome(member.read(holding(1, FAULTY.stranger, 3))), "MODBUS_FRAME");
            await readsAnew();
        });

        it("answers late, which counts neither then nor for the next read", async () => {
            const hasty = sharedLink(peer.endpoint).join({ ...SETTINGS, timeoutMs: 200 });
            assert.equal(await outcome(hasty.read(holding(1, FAULTY.late, 10))), "MODBUS_TIMEOUT");
            await readsOn();
            await hasty.leave();
        });

        it("answers late but in time", () => reads(holding(1, FAULTY.late, 10)));

        it("answers byte by byte", () => reads(holding(1, FAULTY.bytewise, 20)));

        it("answers with one register where two were asked", async () => {
            assert.equal(await outcome(member.read(holding(1, FAULTY.short, 2))), "MODBUS_FRAME");
            await readsAnew();
        });

        if (!isSerial) {
            it("ends the connection after each answer", async () => {
                for (let i = 0; i < 5; i++) await reads(holding(1, FAULTY.last, 1 + i));
            });
        }
    });
}
