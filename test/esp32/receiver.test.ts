import assert from "node:assert/strict";
import { parseConfig } from "../../dist/common/config.js";
import { esp32Schema } from "../../dist/esp32/config.js";
import { DeviceKeys } from "../../dist/esp32/keys.js";
import { Receiver } from "../../dist/esp32/receiver.js";
import { ManualClock } from "../common/manual-clock.js";
import { makeDir, removeDir } from "../node-red.js";

describe("Receiver", () => {
    it("asks once for the topics that are announced together, and for none once its node leaves the link", async () => {
        const folder = await makeDir("wl-esp32-");
        const clock = new ManualClock();
        const receiver = new Receiver({ folder, site: "home", zone: "UTC", config: parseConfig(esp32Schema, { preset: "ha-discovery" }), keys: new DeviceKeys([]), clock, onReading: () => undefined });
        try {
            await receiver.ingest.ready;
            let asked = 0;
            const subscription = receiver.subscription(() => asked++);
            const announce = (name: string) => {
                const config = { uniq_id: name, stat_t: `some/${name}`, unit_of_meas: "W", name: "Power", dev: { ids: [name] } };
                return subscription.onMessage({ topic: `homeassistant/sensor/${name}/config`, payload: Buffer.from(JSON.stringify(config)), retain: false, qos: 1 });
            };
            for (const name of ["a", "b", "c"]) await announce(name);
            clock.advance(200);
            assert.equal(asked, 1);
            assert.equal(receiver.subscription(() => asked++).topics.filter((topic) => topic.startsWith("some/")).length, 3);
            await announce("d");
            receiver.leave();
            await announce("e");
            clock.advance(1000);
            assert.equal(asked, 1);
        } finally {
            await receiver.ingest.close();
            await removeDir(folder);
        }
    });
});
