import assert from "node:assert/strict";
import { connectAsync, type MqttClient } from "mqtt";
import { setTimeout as sleep } from "node:timers/promises";
import type { MqttSettings } from "../../../dist/mqtt/settings.js";
import { makeCertificate } from "../../certificate.js";
import { LinkRig, type RigUser, settings } from "../../mqtt/rig.js";
import { Mosquitto } from "../mosquitto.js";

/** Retries come at once: half a second is the least. */
const soon = { random: () => 0 };
const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, n) => String(from + n));
const sorted = (texts: string[]) => texts.toSorted((a, b) => Number(a) - Number(b));

describe("MqttLink and Mosquitto", function () {
    this.timeout(30_000);
    let broker: Mosquitto;
    let publisher: MqttClient;
    const rigs: LinkRig[] = [];

    before(async () => {
        broker = await Mosquitto.start();
        publisher = await connectAsync(broker.url, { reconnectPeriod: 100, clientId: "publisher" });
    });
    after(async () => {
        await publisher.endAsync(true);
        await broker.stop();
    });
    afterEach(async () => {
        for (const rig of rigs.splice(0)) await rig.link.close(true);
    });

    function link(more: Partial<MqttSettings> = {}, url = broker.url): LinkRig {
        const rig = new LinkRig(settings(url, { version: 5, ...more }), soon);
        rigs.push(rig);
        return rig;
    }

    async function publish(topic: string, texts: string[], retain = false): Promise<void> {
        await Promise.all(texts.map((text) => publisher.publishAsync(topic, text, { qos: 1, retain })));
    }

    for (const version of [4, 5] as const) {
        describe(`by MQTT ${version === 5 ? "5" : "3.1.1"}`, () => {
            it("gets again what it had not acknowledged, in order", async () => {
                const rig = link({ version });
                const user = rig.user("a", ["order/#"]);
                await user.in("up");
                user.holding = true;
                await publish("order/t", numbers(100));
                await user.got(100);
                // One of them is missing: the rest may not be acknowledged before it.
                for (const [at, { keep }] of user.held.entries()) if (at !== 30) keep();
                await rig.link.close(false);
                const again = link({ version });
                const next = again.user("a", ["order/#"]);
                await next.got(70);
                await publish("order/t", ["last"]);
                await next.got(71);
                assert.deepEqual([user.payloads, next.payloads], [numbers(100), [...numbers(70, 30), "last"]]);
            });

            it("gives each user a message once, though Mosquitto sends one for each topic that selects it", async () => {
                const rig = link({ version });
                const wide = rig.user("a", ["over/#", "over/+/x", "over/1/x"]);
                const narrow = rig.user("b", ["over/+/x"]);
                await Promise.all([wide.in("up"), narrow.in("up")]);
                await publish("over/1/x", numbers(20));
                await publish("over/end", ["end"]);
                await wide.got(21);
                assert.deepEqual([wide.payloads, narrow.payloads], [[...numbers(20), "end"], numbers(20)]);
            });

            it("is not sent more than it can have in flight", async () => {
                const rig = link({ version, inFlight: 7 });
                const user = rig.user("a", ["flight"]);
                await user.in("up");
                user.holding = true;
                await publish("flight", numbers(100));
                await user.got(7);
                for (let kept = 0; kept < 100; kept++) {
                    assert.ok(user.messages.length - kept <= 7);
                    user.held[kept]!.keep();
                    await user.got(Math.min(100, kept + 2));
                }
                assert.deepEqual(user.payloads, numbers(100));
            });

            it("connects again to a broker that was killed, and misses nothing that it had written down", async () => {
                const rig = link({ version, clientId: "wlkilled" });
                const user = rig.user("a", ["killed"]);
                await user.in("up");
                await rig.link.close(false);
                await publish("killed", numbers(50));
                await broker.save();
                await broker.kill();
                const away = link({ version, clientId: "wlkilled" });
                const next = away.user("a", ["killed"]);
                await next.in("down");
                await broker.restart();
                await next.got(50);
                assert.deepEqual(next.payloads, numbers(50));
                assert.deepEqual([away.lost.length, away.back, away.warnings], [1, 1, []]);
            });
        });
    }

    it("knows a broker that does not answer any more", async () => {
        const rig = link({ keepAliveS: 1 });
        const user = rig.user("a", ["hang"]);
        await user.in("up");
        process.kill(broker.pid, "SIGSTOP");
        await user.in("down");
        process.kill(broker.pid, "SIGCONT");
        assert.match(rig.lost[0]!.message, /does not answer any more/);
        await user.in("up");
    });

    it("sees that another client has its client id, and does not fight", async () => {
        const [first, second] = [link({ clientId: "wltwin" }), link({ clientId: "wltwin" })];
        const users = [first, second].map((rig) => rig.user("a", ["twin"]));
        await Promise.race([first, second].map((rig) => rig.until(() => rig.lost.some(({ code }) => code === "MQTT_TAKEN_OVER"))));
        const [loser, winner] = users[0]!.state.name === "down" ? users : users.toReversed();
        assert.equal(loser!.state.text, "client id in use?");
        await winner!.in("up");
        const { length } = winner!.states;
        await sleep(1_500);
        assert.deepEqual([loser!.state.name, winner!.states.length], ["down", length]);
    });

    it("is not sent what is larger than it takes, and does not send what the broker does not take", async () => {
        const small = await Mosquitto.start({ config: "max_packet_size 2000" });
        try {
            const rig = link({ maxBytes: 1_000 }, small.url);
            const user = rig.user("a", ["size"]);
            await user.in("up");
            await assert.rejects(user.handle.publish("size", Buffer.alloc(2_000), { qos: 1 }), { code: "MQTT_TOO_LARGE" });
            await user.handle.publish("size", Buffer.alloc(1_500), { qos: 1 });
            await user.handle.publish("size", Buffer.alloc(500), { qos: 1 });
            await user.got(1);
            assert.deepEqual([user.messages[0]!.payload.length, rig.link.state.name], [500, "up"]);
            await rig.link.close(true);
        } finally {
            await small.stop();
        }
    });

    it("leaves no session behind when it is gone for good", async () => {
        const rig = link({ clientId: "wlgone" });
        await rig.user("a", ["gone"]).in("up");
        await rig.link.close(true);
        await publish("gone", ["1"]);
        const client = await connectAsync(broker.url, { clientId: "wlgone", clean: false, protocolVersion: 5, properties: { sessionExpiryInterval: 0 } });
        // Private in the types; the CONNACK says whether there was a session.
        assert.equal((client as unknown as { connackPacket: { sessionPresent: boolean } }).connackPacket.sessionPresent, false);
        await client.endAsync();
    });

    describe("with users, an access list and TLS", () => {
        const { cert, key } = makeCertificate();
        let secure: Mosquitto;
        before(async () => {
            secure = await Mosquitto.start({
                users: { meter: "right", other: "right" },
                acl: "user meter\ntopic readwrite meters/#",
                tls: { cert, key, clientCa: cert },
            });
        });
        after(() => secure.stop());

        const connect = (more: Partial<MqttSettings>, version: 4 | 5 = 5) => {
            const tls = { verify: true, ca: cert, cert, key };
            const rig = link({ version, username: "meter", password: "right", tls, ...more }, secure.url.replace("mqtt:", "mqtts:"));
            return { rig, user: rig.user("a", ["meters/#"]) };
        };

        for (const version of [4, 5] as const) {
            it(`is let in with certificate, user and password (${version})`, async () => {
                const { user } = connect({}, version);
                await user.in("up");
                await user.handle.publish("meters/1", "x", { qos: 1 });
                await user.got(1);
            });

            it(`is told that the password is wrong (${version})`, async () => {
                const { rig, user } = connect({ password: "wrong" }, version);
                await user.in("down");
                assert.equal(rig.lost[0]!.code, "MQTT_REFUSED");
                assert.match(user.state.text, /^(not authorised|wrong password)$/);
                assert.doesNotMatch(rig.lost[0]!.message, /wrong|right/);
            });
        }

        it("is told which certificate does not fit", async () => {
            const foreign = makeCertificate();
            for (const [tls, message] of [
                [{ verify: true, ca: cert, cert: foreign.cert, key: foreign.key }, /refused the client certificate/],
                [{ verify: true, ca: cert }, /refused the client certificate/],
                [{ verify: true, cert, key }, /is not trusted/],
            ] as const) {
                const { rig, user } = connect({ tls });
                await user.in("down");
                assert.match(rig.lost[0]!.message, message);
            }
            const rig = link({}, secure.url);
            await rig.user("a", ["t"]).in("down");
            assert.match(rig.lost[0]!.message, /is mqtts:\/\/ needed\?/);
        });

        it("is told that a message may not be published", async () => {
            const { user } = connect({});
            await user.in("up");
            await assert.rejects(user.handle.publish("elsewhere", "x", { qos: 1 }), { code: "MQTT_PUBLISH" });
        });
    });

    describe("sharing the messages of a topic", () => {
        const worker = (n: number, group = "workers") => {
            const rig = link({ clientId: `wlworker${n}` });
            return { rig, user: rig.user("a", ["work/#"], { share: group }) };
        };
        const all = (...users: RigUser[]) => sorted(users.flatMap(({ payloads }) => payloads));

        it("each gets its part, all of it together", async () => {
            const [one, two] = [worker(1), worker(2)];
            await Promise.all([one.user.in("up"), two.user.in("up")]);
            await publish("work/t", numbers(400));
            await Promise.all([one.user.got(150), two.user.got(150)]);
            while (all(one.user, two.user).length < 400) await sleep(10);
            assert.deepEqual(all(one.user, two.user), numbers(400));
        });

        it("a dead worker's share waits for its client id, and is there when it comes back: nothing is lost", async () => {
            const [one, two] = [worker(1), worker(2)];
            await Promise.all([one.user.in("up"), two.user.in("up")]);
            // As a kill would: no goodbye, and no acknowledgement of what it has.
            two.user.holding = true;
            await publish("work/t", numbers(200));
            await two.user.got(100);
            await two.rig.link.close(false);
            await publish("work/t", numbers(200, 200));
            await one.user.got(200);
            await sleep(300);
            assert.equal(one.user.messages.length, 200, "the others do not get its share");
            const back = worker(2);
            await back.user.got(200);
            assert.deepEqual(all(one.user, back.user), numbers(400));
            await two.rig.link.close(true);
        });

        it("a worker that is taken out for good hands its share back, and loses nothing", async () => {
            const [one, two] = [worker(1), worker(2)];
            await Promise.all([one.user.in("up"), two.user.in("up")]);
            const publishing = publish("work/t", numbers(2_000));
            await two.user.got(10);
            await two.rig.link.leave("a", true);
            await two.rig.link.close(true);
            await publishing;
            await publish("work/t", numbers(100, 2_000));
            while (all(one.user, two.user).length < 2_100) await sleep(10);
            assert.deepEqual(all(one.user, two.user), numbers(2_100));
            assert.ok(one.user.payloads.includes("2099") && one.user.payloads.includes("2098"));
        });

        it("beside one that takes them all: each gets them once", async () => {
            const { rig, user } = worker(1);
            const whole = rig.user("b", ["work/#"]);
            await Promise.all([user.in("up"), whole.in("up")]);
            await publish("work/t", numbers(50));
            await publish("work/t", ["50"]);
            await Promise.all([user.got(51), whole.got(51)]);
            await sleep(100);
            assert.deepEqual([sorted(user.payloads), sorted(whole.payloads)], [numbers(51), numbers(51)]);
        });
    });
});
