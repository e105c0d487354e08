import assert from "node:assert/strict";
import ModbusRTU from "modbus-serial";
import type { LinkMember } from "../../dist/modbus/link.js";
import { sharedLink } from "../../dist/modbus/links.js";
import { decodeModel, type ModelValues } from "../../dist/sunspec/decode.js";
import { encodeModel } from "../../dist/sunspec/encode.js";
import { type ModelDef, officialModels } from "../../dist/sunspec/model.js";
import { SETTINGS } from "../modbus/rig.js";
import { startLibmodbus } from "../services/modbus/libmodbus.js";
import type { Row } from "./row.js";
import { median } from "./usage.js";

const ADDRESS = 40_000;
const QUANTITY = 125;
const POINTS = 60;

const FULL = { warmUp: 2_000, rounds: 7, roundMs: 800 };
const QUICK = { warmUp: 200, rounds: 2, roundMs: 150 };

interface Rate {
    perSecond: number;
    /** CPU time of this process, µs a read. */
    cpu: number;
}

/** Reads 125 registers from one libmodbus server in turn by modbus-serial, by the link, and by the link with decoding. */
export async function run(quick = false): Promise<Row[]> {
    const model = officialModels.get(203);
    assert.ok(model);
    const peer = await startLibmodbus(meter(model));
    const serial = new ModbusRTU();
    await serial.connectTCP(peer.host, { port: peer.port });
    serial.setID(1);
    serial.setTimeout(SETTINGS.timeoutMs);
    const member = sharedLink(peer).join(SETTINGS);
    try {
        return await compare(serial, member, model, quick ? QUICK : FULL);
    } finally {
        await member.leave();
        await new Promise<void>((resolve) => {
            serial.close(() => resolve());
        });
        await peer.stop();
    }
}

async function compare(serial: ModbusRTU, member: LinkMember, model: ModelDef, { warmUp, rounds, roundMs }: typeof FULL): Promise<Row[]> {
    const request = { unit: 1, table: "holding", address: ADDRESS, quantity: QUANTITY } as const;
    const loops = {
        serial: async () => {
            const { data } = await serial.readHoldingRegisters(ADDRESS, QUANTITY);
            assert.equal(data.length, QUANTITY);
        },
        link: async () => {
            assert.equal((await member.read(request)).length, QUANTITY * 2);
        },
        decoded: async () => {
            decodeModel(model, await member.read(request));
        },
    };
    const { values, bad } = decodeModel(model, await member.read(request));
    assert.deepEqual(bad, {});
    assert.ok(Object.keys(values).length >= POINTS, `only ${Object.keys(values).length} points`);

    const rates: Record<keyof typeof loops, Rate[]> = { serial: [], link: [], decoded: [] };
    for (const read of Object.values(loops)) for (let i = 0; i < warmUp; i++) await read();
    // In turns, so that whatever else runs on the machine disturbs all alike.
    for (let round = 0; round < rounds; round++) {
        for (const name of Object.keys(loops) as (keyof typeof loops)[]) rates[name].push(await measure(loops[name], roundMs));
    }
    const ratio = (of: keyof typeof loops, figure: keyof Rate) => median(rates[of].map((rate, i) => rate[figure] / (rates.serial[i] as Rate)[figure]));
    const speed = median(rates.decoded.map(({ perSecond }) => perSecond));
    const cpu = ratio("decoded", "cpu");
    const bare = ratio("link", "perSecond");
    return [
        { name: `modbus: block reads of ${QUANTITY} registers, ${POINTS} points decoded`, value: speed, unit: "reads/s", target: ">= 10,000", pass: speed >= 10_000 },
        { name: "modbus: CPU of read and decode / bare modbus-serial", value: cpu, unit: "x", target: "<= 2", pass: cpu <= 2 },
        { name: "modbus: block reads / bare modbus-serial", value: bare, unit: "x", target: ">= 0.9", pass: bare >= 0.9 },
    ];
}

async function measure(read: () => Promise<void>, roundMs: number): Promise<Rate> {
    const started = performance.now();
    const before = process.cpuUsage();
    let count = 0;
    while (performance.now() - started < roundMs) {
        await read();
        count++;
    }
    const seconds = (performance.now() - started) / 1_000;
    const { user, system } = process.cpuUsage(before);
    return { perSecond: count / seconds, cpu: (user + system) / count };
}

/** A model with a value in every point. */
function meter(model: ModelDef): Buffer {
    const values: ModelValues = {};
    for (const { name, type } of model.points) {
        if (name === "ID" || name === "L" || type === "pad") continue;
        values[name] = type === "sunssf" ? -1 : 100 + name.length;
    }
    return encodeModel(model, values);
}
