import assert from "node:assert/strict";
import { loopDelay, startNullServer, stop } from "../../bench/store.js";
import { makeFolder, removeFolders } from "../../store/kit.js";

describe("store: the event loop", function () {
    this.timeout(60_000);
    afterEach(removeFolders);

    it("turns in time while 1,000 points a second come in and a backlog is sent", async () => {
        const { server, port } = await startNullServer();
        try {
            const { value, pass } = await loopDelay(await makeFolder(), port, 5000);
            assert.ok(pass, `99 % of the delays below ${value} ms`);
        } finally {
            await stop(server);
        }
    });
});
