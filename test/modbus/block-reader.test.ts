import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { BlockReader, type BlockReaderOptions } from "../../dist/modbus/block-reader.js";
import type { ReadItem } from "../../dist/modbus/plan.js";
import { ModbusError, type ModbusReader, type ReadRequest, type Table } from "../../dist/modbus/transport.js";
import { ManualClock } from "../common/manual-clock.js";
import { byItem } from "./answers.js";

/** Longest way from a fault to its being known, in calls. */
const CALLS = 60;
/** Reads of one call beyond one for each value. */
const MOST_EXTRA = 50;
const SECOND = 1_000;
const DAY = 86_400_000;

/** What a register or bit holds, without a device to ask. */
function wordAt(table: Table, address: number): number {
    const mixed = Math.imul((address + 1) * (table === "input" ? 3 : 5), 0x9e3779b1) >>> 16;
    return table === "coil" || table === "discrete" ? mixed & 1 : mixed & 0xffff;
}

function bytesOf({ table, address, size }: ReadItem): Buffer {
    if (table === "coil" || table === "discrete") {
        const bits = Buffer.alloc(Math.ceil(size / 8));
        for (let i = 0; i < size; i++) bits[i >> 3]! |= wordAt(table, address + i) << (i & 7);
        return bits;
    }
    const words = Buffer.alloc(size * 2);
    for (let i = 0; i < size; i++) words.writeUInt16BE(wordAt(table, address + i), i * 2);
    return words;
}

interface Nature {
    /** Registers refused with exception 2. */
    refused?: readonly number[];
    /** Registers that get no answer at all. */
    silent?: readonly number[];
    /** Addresses that no read may reach across. */
    borders?: readonly number[];
    most?: number;
    tooLong?: "exception" | "timeout" | "short" | "closed";
    /** Reads by number, from the first, that are answered with exception 6. */
    busy?: readonly [from: number, count: number][];
}

/** A device that knows its own registers; every request is kept. */
class Device implements ModbusReader {
    readonly maxRegisters = 125;
    readonly asked: ReadRequest[] = [];
    isOff = false;
    /** Answers everything with this exception. */
    exception = 0;
    private count = 0;

    constructor(public nature: Nature = {}) {}

    async read(request: ReadRequest): Promise<Buffer> {
        this.asked.push(request);
        const { refused = [], silent = [], borders = [], most = Infinity, tooLong = "exception", busy = [] } = this.nature;
        const { address, quantity, table } = request;
        const number = this.count++;
        const holds = (register: number) => register >= address && register < address + quantity;
        if (this.isOff || silent.some(holds)) throw new ModbusError("MODBUS_TIMEOUT", "silent");
        if (this.exception > 0) throw exception(this.exception);
        if (busy.some(([from, count]) => number >= from && number < from + count)) throw exception(6);
        if (quantity > most) {
            if (tooLong === "timeout") throw new ModbusError("MODBUS_TIMEOUT", "too long");
            if (tooLong === "closed") throw new ModbusError("MODBUS_CLOSED", "too long");
            if (tooLong === "short") return bytesOf({ table, address, size: quantity }).subarray(1);
            throw exception(3);
        }
        if (refused.some(holds) || borders.some((border) => border > address && border < address + quantity)) throw exception(2);
        return bytesOf({ table, address, size: quantity });
    }

    canRead({ address, size }: ReadItem): boolean {
        const { refused = [], silent = [], borders = [], most = Infinity } = this.nature;
        const inside = (register: number) => register >= address && register < address + size;
        return size <= most && ![...refused, ...silent].some(inside) && !borders.some((border) => border > address && border < address + size);
    }
}

function exception(code: number): ModbusError {
    return new ModbusError("MODBUS_EXCEPTION", `exception ${code}`, { exception: code });
}

/** A clock whose sleeps end at once, counted. */
class QuickClock extends ManualClock {
    slept = 0;

    override async sleep(ms: number, signal?: AbortSignal): Promise<void> {
        signal?.throwIfAborted();
        this.slept += ms;
        await Promise.resolve();
    }
}

class Bench {
    readonly clock = new QuickClock();
    readonly device: Device;
    readonly reader: BlockReader<ReadItem>;

    constructor(
        nature: Nature,
        readonly items: readonly ReadItem[],
        options: Partial<BlockReaderOptions> = {},
    ) {
        this.device = new Device(nature);
        this.reader = new BlockReader(this.device, 1, { gaps: "allow", cost: { requestMs: 40, registerMs: 2 }, clock: this.clock, ...options });
    }

    /** One call: every value in it is right, or it is a typed error. @returns The items that have a value. */
    async call(items = this.items, signal?: AbortSignal): Promise<Set<ReadItem>> {
        const before = this.requests;
        const results = byItem(await this.reader.read(items, signal));
        assert.ok(this.requests - before <= items.length + MOST_EXTRA, "too many reads");
        assert.deepEqual(new Set(results.keys()), new Set(items), "every item has an outcome");
        const values = new Set<ReadItem>();
        for (const [item, outcome] of results) {
            if (outcome instanceof ModbusError) continue;
            assert.deepEqual(outcome, bytesOf(item), "a wrong value");
            values.add(item);
        }
        return values;
    }

    get requests(): number {
        return this.device.asked.length;
    }

    /** Calls until nothing changes. @returns The requests of the last call. */
    async settle(): Promise<number> {
        for (let call = 0; call < CALLS; call++) {
            await this.call();
            this.clock.advance(SECOND);
        }
        const before = this.requests;
        await this.call();
        return this.requests - before;
    }
}

function floats(count: number, from = 0, step = 2): ReadItem[] {
    return Array.from({ length: count }, (_, i) => ({ table: "input", address: from + i * step, size: 2 }));
}

const someItems = fc.uniqueArray(
    fc.record({ table: fc.constantFrom<Table>("input", "input", "discrete"), address: fc.nat(250), size: fc.integer({ min: 1, max: 4 }) }),
    { minLength: 1, maxLength: 40, selector: ({ table, address }) => `${table} ${address}` },
);

describe("block reader", () => {
    it("gets every value that can be read, and no wrong one, from a device that refuses, is too short or is busy", async () => {
        await fc.assert(
            fc.asyncProperty(
                someItems,
                fc.array(fc.nat(250), { maxLength: 6 }),
                fc.integer({ min: 4, max: 130 }),
                fc.constantFrom("exception", "timeout", "short", "closed"),
                fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 18 })), { maxLength: 3 }),
                fc.constantFrom("never", "allow"),
                async (items, refused, most, tooLong, busy, gaps) => {
                    const bench = new Bench({ refused, most, tooLong, busy }, items, { gaps });
                    const requests = await bench.settle();
                    const values = await bench.call();
                    assert.deepEqual(values, new Set(items.filter((item) => bench.device.canRead(item))));
                    // Where nothing at all is answered, nothing is learned.
                    if (values.size > 0) assert.equal(requests, bench.reader.plan(items).blocks.length);
                },
            ),
            { numRuns: 150 },
        );
    });

    it("gets every value that can be read from a device that does everything wrong at once", async () => {
        const nature = fc.record({
            refused: fc.array(fc.nat(250), { maxLength: 3 }),
            silent: fc.array(fc.nat(250), { maxLength: 2 }),
            borders: fc.array(fc.nat(250), { maxLength: 3 }),
            most: fc.integer({ min: 4, max: 130 }),
            tooLong: fc.constantFrom<NonNullable<Nature["tooLong"]>>("exception", "timeout", "short", "closed"),
            busy: fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 18 })), { maxLength: 2 }),
        });
        const off = fc.array(fc.boolean(), { maxLength: 20 });
        await fc.assert(
            fc.asyncProperty(someItems, nature, off, async (items, wrongs, isOff) => {
                const bench = new Bench(wrongs, items);
                for (bench.device.isOff of isOff) await bench.call();
                bench.device.isOff = false;
                await bench.settle();
                const readable = items.filter((item) => bench.device.canRead(item));
                if (readable.length > 0) assert.deepEqual(await bench.call(), new Set(readable));
            }),
            { numRuns: 150 },
        );
    });

    it("finds one refused register among many in few reads, and does not touch it again", async () => {
        const items = floats(60);
        const bench = new Bench({ refused: [77] }, items);
        assert.equal(bench.reader.plan(items).blocks.length, 1);
        const first = await bench.call();
        assert.equal(first.size, 59, "all others have their values in the same call");
        assert.ok(bench.requests <= 1 + 2 * Math.ceil(Math.log2(60)) + 2, `${bench.requests} reads`);
        bench.device.asked.length = 0;
        const second = byItem(await bench.reader.read(items));
        assert.equal(bench.requests, 2);
        assert.ok(bench.device.asked.every(({ address, quantity }) => address > 77 || address + quantity <= 77));
        const refusal = second.get(items[38]!);
        assert.ok(refusal instanceof ModbusError && refusal.exception === 2);
        assert.deepEqual(bench.reader.learned.holes.map(({ address, size }) => [address, size]), [[76, 2]]);
    });

    it("finds what is refused between two values", async () => {
        const items = [...floats(3), ...floats(3, 20)];
        const bench = new Bench({ refused: [13] }, items);
        assert.equal((await bench.call()).size, 6);
        bench.device.asked.length = 0;
        assert.equal((await bench.call()).size, 6);
        assert.deepEqual(bench.device.asked.map(({ address, quantity }) => [address, quantity]), [[0, 6], [20, 6]]);
        assert.equal(bench.reader.plan(items).blocks[0]!.cut, "hole");
    });

    it("tries a hole again ever more rarely, at least once a day, and takes it back when it answers", async () => {
        const items = floats(10);
        const bench = new Bench({ refused: [4] }, items);
        await bench.call();
        let tries = 0;
        for (let hour = 0; hour < 30 * 24; hour++) {
            bench.clock.advance(DAY / 24);
            const before = bench.requests;
            await bench.call();
            tries += bench.requests - before - 2;
        }
        assert.ok(tries >= 30 && tries <= 40, `${tries} tries in 30 days`);
        bench.device.nature = {};
        bench.clock.advance(DAY);
        assert.equal((await bench.call()).size, 10, "the try itself gives the value");
        const before = bench.requests;
        await bench.call();
        assert.equal(bench.requests - before, 1);
    });

    it("learns nothing from a device that refuses everything, in a bounded number of reads", async () => {
        const items = floats(60);
        const bench = new Bench({}, items);
        await bench.call();
        bench.device.exception = 2;
        for (let call = 0; call < 50; call++) {
            const before = bench.requests;
            assert.equal((await bench.call()).size, 0);
            assert.ok(bench.requests - before <= 5);
            bench.clock.advance(SECOND);
        }
        assert.deepEqual(bench.reader.learned.holes, []);
        bench.device.exception = 0;
        const before = bench.requests;
        assert.equal((await bench.call()).size, 60);
        assert.equal(bench.requests - before, 1);
    });

    it("learns nothing when the device goes away while it looks for what is refused", async () => {
        const items = floats(60);
        for (let reads = 1; reads < 16; reads++) {
            const bench = new Bench({ refused: [77] }, items);
            const { device } = bench;
            const read = device.read.bind(device);
            device.read = (request) => {
                if (bench.requests === reads) device.exception = 2;
                return read(request);
            };
            await bench.call();
            const wrong = bench.reader.learned.holes.filter(({ address, size }) => address > 77 || address + size <= 77);
            assert.deepEqual(wrong, [], `after ${reads} reads`);
        }
    });

    for (const code of [0x0a, 0x0b]) {
        it(`takes exception ${code} for a unit that is away: one read, nothing learned`, async () => {
            const bench = new Bench({}, floats(60));
            await bench.call();
            bench.device.exception = code;
            const before = bench.requests;
            const results = byItem(await bench.reader.read(bench.items));
            assert.equal(bench.requests - before, 1);
            assert.ok([...results.values()].every((outcome) => outcome instanceof ModbusError && outcome.unitOffline));
            assert.deepEqual(bench.reader.learned.holes, []);
        });
    }

    for (const code of [4, 5, 6]) {
        it(`repeats after exception ${code} with pauses, a limited number of times, and learns nothing`, async () => {
            const items = [...floats(5), ...floats(5, 1_000), ...floats(5, 2_000), ...floats(5, 3_000)];
            const bench = new Bench({}, items);
            bench.device.exception = code;
            const results = byItem(await bench.reader.read(items));
            assert.equal(bench.requests, 4 + 8);
            assert.ok(bench.clock.slept > 500);
            assert.ok([...results.values()].every((outcome) => outcome instanceof ModbusError && outcome.exception === code));
            assert.deepEqual(bench.reader.learned, { holes: [], maxRegisters: Infinity, maxBits: Infinity });
        });
    }

    it("waits for a device that is busy for a few tries", async () => {
        const bench = new Bench({ busy: [[0, 3]] }, floats(5));
        assert.equal((await bench.call()).size, 5);
        assert.equal(bench.requests, 4);
    });

    for (const tooLong of ["timeout", "short", "closed"] as const) {
        it(`learns the longest read of a device that fails longer ones by ${tooLong}`, async () => {
            const items = floats(100);
            const bench = new Bench({ most: 50, tooLong }, items);
            const losses = [];
            for (let call = 0; call < 6; call++) losses.push(items.length - (await bench.call()).size);
            assert.deepEqual(losses, [100, 0, 0, 0, 0, 0]);
            const { maxRegisters } = bench.reader.learned;
            assert.ok(maxRegisters >= 30 && maxRegisters <= 50, `${maxRegisters}`);
            for (let hour = 0; hour < 24; hour++) {
                bench.clock.advance(DAY / 24);
                assert.equal((await bench.call()).size, 100, "a trial costs no value");
            }
            assert.equal(bench.reader.learned.tooManyRegisters?.isRefused, false);
            assert.ok(bench.reader.learned.maxRegisters >= 48, `${bench.reader.learned.maxRegisters}`);
            bench.device.nature = {};
            bench.clock.advance(2 * DAY);
            await bench.call();
            assert.equal(bench.reader.learned.maxRegisters, Infinity, "the gateway was replaced");
        });
    }

    it("learns the longest read of a device that refuses longer ones within a few calls", async () => {
        const items = floats(100);
        const bench = new Bench({ most: 50 }, items);
        for (let call = 0; call < 8; call++) assert.equal((await bench.call()).size, 100);
        assert.equal(bench.reader.learned.maxRegisters, 50);
        assert.deepEqual(bench.reader.learned.tooManyRegisters, { size: 52, isRefused: true });
        assert.deepEqual(bench.reader.learned.holes, []);
    });

    it("learns no length from a unit that was away", async () => {
        const items = floats(100);
        const bench = new Bench({}, items);
        await bench.call();
        for (let outage = 0; outage < 5; outage++) {
            bench.device.isOff = true;
            for (let call = 0; call < 10; call++) {
                const before = bench.requests;
                assert.equal((await bench.call()).size, 0);
                assert.equal(bench.requests - before, 1, "one read shows that it is still away");
            }
            bench.device.isOff = false;
            assert.equal((await bench.call()).size, 100);
            assert.deepEqual(bench.reader.learned, { holes: [], maxRegisters: Infinity, maxBits: Infinity });
        }
    });

    it("reads what must be read once at most once in a call that goes well", async () => {
        const items: ReadItem[] = [...floats(10), { table: "input", address: 30, size: 1 }, ...floats(10, 40)];
        const bench = new Bench({ refused: [44] }, items, { barriers: [{ address: 30, size: 2 }] });
        await bench.settle();
        bench.device.asked.length = 0;
        assert.equal((await bench.call()).size, 20);
        assert.equal(bench.device.asked.filter(({ address, quantity }) => address <= 30 && address + quantity > 30).length, 1);
        assert.ok(bench.device.asked.every(({ address, quantity }) => address > 31 || address + quantity <= 31));
    });

    it("ends when it is told to, with an error for every value", async () => {
        const bench = new Bench({ busy: [[0, 100]] }, floats(10));
        const giveUp = new AbortController();
        giveUp.abort();
        const results = byItem(await bench.reader.read(bench.items, giveUp.signal));
        assert.ok([...results.values()].every((outcome) => outcome instanceof ModbusError && outcome.code === "MODBUS_ABORTED"));
        assert.equal(bench.requests, 1);
    });

    it("says of an item that no read can hold what is wrong, and reads the others", async () => {
        const long: ReadItem = { table: "input", address: 100, size: 126, name: "serial" };
        const items = [...floats(10), long];
        const bench = new Bench({}, items);
        const results = byItem(await bench.reader.read(items));
        const outcome = results.get(long);
        assert.ok(outcome instanceof ModbusError && outcome.code === "MODBUS_REQUEST" && outcome.message.includes('"serial"'));
        assert.equal((await bench.call()).size, 10);
        assert.throws(() => bench.reader.plan(items), { code: "MODBUS_PLAN" });
    });

    it("tries again soon what was refused when it may be another device, but not what is never answered", async () => {
        const bench = new Bench({ refused: [4, 12], silent: [30] }, floats(20));
        await bench.settle();
        assert.equal(bench.reader.learned.holes.length, 3);
        bench.device.nature = { refused: [12], silent: [30] };
        bench.reader.doubt();
        bench.device.asked.length = 0;
        await bench.call();
        await bench.call();
        assert.equal((await bench.call()).size, 18);
        assert.deepEqual(bench.reader.learned.holes.map(({ address }) => address === 30 || address === 12), [true, true]);
        assert.ok(bench.device.asked.every(({ address, quantity }) => address > 30 || address + quantity <= 30));
    });

    it("forgets when told that it is another device", async () => {
        const bench = new Bench({ refused: [4], most: 10 }, floats(20));
        await bench.settle();
        assert.notDeepEqual(bench.reader.learned.holes, []);
        bench.device.nature = {};
        bench.reader.forget();
        assert.equal((await bench.call()).size, 20);
        assert.deepEqual(bench.reader.learned, { holes: [], maxRegisters: Infinity, maxBits: Infinity });
    });

    it("lets a defect in the link's own code through", async () => {
        const bench = new Bench({}, floats(5));
        bench.device.read = () => Promise.reject(new TypeError("a defect"));
        await assert.rejects(bench.call(), TypeError);
    });

    it("keeps nothing of a past call", async () => {
        setFlagsFromString("--expose-gc");
        const collect = runInNewContext("gc") as () => void;
        const bench = new Bench({ refused: [4], silent: [30] }, floats(20));
        const results = async () => new WeakRef(await bench.reader.read(bench.items));
        const past: WeakRef<object>[] = [];
        for (let call = 0; call < 20; call++) past.push(await results());
        assert.equal(bench.reader.learned.holes.length, 2);
        await setImmediate();
        collect();
        // One may still be held by V8 itself, in a register or a cache of the last call.
        assert.ok(past.slice(0, -1).filter((one) => one.deref()).length <= 1);
    });
});
