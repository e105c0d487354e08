import assert from "node:assert/strict";
import { once } from "node:events";
import { TestBroker } from "./broker.js";
import { LinkRig, settings } from "./rig.js";

describe("MqttLink", () => {
    let broker: TestBroker;
    let rig: LinkRig;
    beforeEach(async () => {
        broker = await TestBroker.start();
        rig = new LinkRig(settings(broker.url));
    });
    afterEach(async () => {
        await rig.link.close(false);
        await broker.stop();
    });

    it("hands messages to its users and publishes for them", async () => {
        const user = rig.user("a", ["energy/+/power"]);
        await user.in("up");
        await broker.publish("energy/one/power", "17");
        await user.got(1);
        const { topic, payload, qos, retain, dup } = user.messages[0]!;
        assert.deepEqual({ topic, payload: payload.toString(), qos, retain, dup }, { topic: "energy/one/power", payload: "17", qos: 1, retain: false, dup: false });
        const published = broker.published();
        await user.handle.publish("energy/two/power", "18", { qos: 1, retain: true });
        const { topic: to, payload: sent, retain: kept } = await published;
        assert.deepEqual([to, sent.toString(), kept], ["energy/two/power", "18", true]);
        assert.deepEqual(rig.states, ["connecting", "up"]);
    });

    it("acknowledges when a message is kept, in the order of arrival", async () => {
        const user = rig.user("a", ["#"]);
        await user.in("up");
        user.holding = true;
        const acknowledged: string[] = [];
        broker.aedes.on("ack", (packet) => acknowledged.push(String((packet as { payload?: Buffer }).payload)));
        for (const payload of ["1", "2", "3"]) await broker.publish("t", payload);
        await user.got(3);
        user.held[2]!.keep();
        user.held[1]!.keep();
        await new Promise((resolve) => setTimeout(resolve, 50));
        assert.deepEqual(acknowledged, []);
        const third = new Promise<void>((resolve) => broker.aedes.on("ack", () => void (acknowledged.length === 3 && resolve())));
        user.held[0]!.keep();
        await third;
        assert.deepEqual(acknowledged, ["1", "2", "3"]);
    });

    it("is sent again what was not acknowledged when the connection was lost", async () => {
        const user = rig.user("a", ["#"]);
        await user.in("up");
        user.holding = true;
        for (const payload of ["1", "2", "3"]) await broker.publish("t", payload);
        await user.got(3);
        user.held[0]!.keep();
        await once(broker.aedes, "ack");
        user.holding = false;
        await broker.drop();
        for (const { keep } of user.held) keep();
        await user.got(5);
        assert.deepEqual(user.payloads, ["1", "2", "3", "2", "3"]);
        assert.deepEqual([rig.lost.length, rig.back], [1, 1]);
    });
});
