import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import type { Node, NodeAPI } from "node-red";
import wlSite from "../../dist/common/wl-site.js";
import type { Deliver } from "../../dist/store/delivery.js";
import wlStore, { type StoreNode } from "../../dist/store/wl-store.js";
import { helper } from "../node-red.js";
import { ManualClock } from "../common/manual-clock.js";
import { shareStore } from "../../dist/store/store.js";
import { entriesOf, makeFolder, readAll, removeFolders, until } from "./kit.js";

/** A node that was told something, and when. */
interface Log {
    msg: unknown;
    level: number;
}

describe("wl-store", () => {
    let folder: string;
    before(() => helper.startServer());
    after(() => helper.stopServer());
    beforeEach(async () => {
        folder = await makeFolder();
    });
    afterEach(async () => {
        await helper.unload();
        await removeFolders();
    });

    const load = async (def: object, more: object[] = []) => {
        await helper.load([wlSite, wlStore] as ((RED: NodeAPI) => void)[], [{ id: "store", type: "wl-store", folder, ...def }, ...more]);
        return helper.getNode<StoreNode>("store");
    };
    const sample = (t: number) => ({ timestamp: t, payload: { ac_power_w: 1 }, reading: { site: "home", device: "inv", class: "inverter" } });
    const logs = () => helper.log().args.flat() as unknown as Log[];

    it("keeps readings and deliveries across a redeploy", async () => {
        const now = Date.now();
        const { store } = await load({});
        store!.series.append(sample(now));
        const outbox = store!.outbox("influx", async () => ({ kind: "retry", reason: "down" }));
        const kept = store!.spool().append("power value=1", 1);
        await helper.unload();
        assert.equal(await kept, "disk");
        assert.equal(outbox.stats().state, "closed");
        const again = (await load({})).store!;
        await again.series.ready;
        assert.equal((await again.series.query({ site: "home", device: "inv", from: 0, to: 1e15 }))[0]!.t, now);
        const arrived: string[] = [];
        const deliver: Deliver = async (records) => {
            arrived.push(...entriesOf(records));
            return { kind: "delivered" };
        };
        const next = again.outbox("influx", deliver);
        await until(next, () => next.stats().delivered === 1);
        assert.deepEqual(arrived, ["power value=1"]);
    });

    it("two with one folder share it; the folder is free when both are gone", async () => {
        const { store } = await load({}, [{ id: "other", type: "wl-store", folder }]);
        assert.equal(store, helper.getNode<StoreNode>("other").store);
        await helper.unload();
        const again = (await load({})).store!;
        await again.series.ready;
        assert.equal(again.series.stats().state, "disk");
    });

    it("a redeploy that does not wait for a slow disk finds everything, later", async () => {
        const clock = new ManualClock();
        const first = shareStore({ folder, clock });
        first.store.series.append(sample(clock.now()));
        const kept = first.store.spool().append("one", 1);
        const closed = first.release();
        // The time to close is over before the folder is even open.
        clock.advance(2000);
        await closed;
        assert.equal(first.store.series.stats().state, "closed");
        const { store, release } = shareStore({ folder, clock });
        await Promise.all([store.series.ready, store.spool().ready]);
        assert.equal(await kept, "disk");
        assert.equal((await store.series.query({ site: "home", device: "inv", from: 0, to: 1e15 })).length, 1);
        assert.deepEqual((await readAll(store.spool())).entries, ["one"]);
        await release();
    });

    it("is below the user directory; takes the site's zone for its days", async () => {
        await helper.load(
            [wlSite, wlStore, (RED: NodeAPI) => Object.assign(RED.settings, { userDir: folder })] as ((RED: NodeAPI) => void)[],
            [
                { id: "store", type: "wl-store", folder: "kept", site: "site" },
                { id: "site", type: "wl-site", siteId: "home", zone: "Asia/Kathmandu" },
            ],
        );
        const { options } = helper.getNode<StoreNode>("store").store!;
        assert.equal(options.zone, "Asia/Kathmandu");
        assert.equal(path.relative(folder, options.folder), "kept");
    });

    it("says once what is wrong", async () => {
        await writeFile(path.join(folder, "series.db"), Buffer.alloc(8192, 7));
        const { store } = await load({});
        await store!.series.ready;
        assert.equal(store!.health().problems.length, 1);
        assert.match(store!.health().problems[0]!, /^The series was damaged and is set aside as series\.db\.damaged-/);
        const told = logs().filter(({ msg }) => String(msg).includes("set aside"));
        assert.equal(told.length, 1);
    });

    it("says that the end of what waits is unreadable", async () => {
        const points = path.join(folder, "spool", "points");
        await mkdir(points, { recursive: true });
        await writeFile(path.join(points, `${"0".repeat(16)}-1.seg`), "noise");
        const { store } = await load({});
        await store!.spool().ready;
        assert.deepEqual(store!.health().problems, ["The last 5 bytes of what waits for delivery (points) are unreadable and cut off"]);
    });

    it("a folder that another process holds is told, and nothing ends", async () => {
        await writeFile(path.join(folder, "series.db.owner"), JSON.stringify({ pid: process.ppid, start: await startOf(process.ppid) }));
        const { store } = await load({});
        await store!.series.ready;
        assert.match(store!.health().problems.join(), new RegExp(`in use by process ${process.ppid}`));
    });

    for (const def of [{ commitS: "soon" }, { rawDays: -1 }, { spoolMb: 1 }, { folder: { no: "text" } }, { hourDays: "${WL_NOT_SET_ANYWHERE}x" }]) {
        it(`shows ${JSON.stringify(def)} as a fault and stays up`, async () => {
            const node: Node & StoreNode = await load(def);
            assert.equal(node.store, undefined);
        });
    }
});

async function startOf(pid: number): Promise<string> {
    const { readFile } = await import("node:fs/promises");
    return (await readFile(`/proc/${pid}/stat`, "latin1")).split(") ")[1]!.split(" ")[19]!;
}
