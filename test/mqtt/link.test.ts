import assert from "node:assert/strict";
import { once } from "node:events";
import fc from "fast-check";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import type { MqttMessage } from "../../dist/mqtt/link.js";
import { makeCertificate } from "../certificate.js";
import { ManualClock } from "../common/manual-clock.js";
import { TestBroker } from "./broker.js";
import { LinkRig, settings } from "./rig.js";

describe("MqttLink", () => {
    let broker: TestBroker;
    let rig: LinkRig;
    /** Of the first rig: what it waits for is over when the test says. */
    let clock: ManualClock;
    beforeEach(async () => {
        clock = new ManualClock();
        broker = await TestBroker.start();
        rig = new LinkRig(settings(broker.url), { clock, random: () => 1 });
    });
    afterEach(async () => {
        await rig.link.close(false);
        await broker.stop();
    });

    /** Resolves once so many messages were acknowledged; what they were, in order. */
    function acknowledged(count: number): Promise<string[]> {
        const texts: string[] = [];
        return new Promise((resolve) => {
            const listen = (packet: { payload?: unknown }) => {
                texts.push(String(packet.payload));
                if (texts.length < count) return;
                broker.aedes.removeListener("ack", listen as () => void);
                resolve(texts);
            };
            broker.aedes.on("ack", listen as () => void);
        });
    }

    it("hands messages to its users and publishes for them", async () => {
        const user = rig.user("a", ["energy/+/power"]);
        await user.in("up");
        await broker.publish("energy/one/power", "17");
        await user.got(1);
        const { topic, payload, qos, retain } = user.messages[0]!;
        assert.deepEqual({ topic, payload: payload.toString(), qos, retain }, { topic: "energy/one/power", payload: "17", qos: 1, retain: false });
        const published = broker.published();
        await user.handle.publish("energy/two/power", "18", { qos: 1, retain: true });
        const { topic: to, payload: sent, retain: kept } = await published;
        assert.deepEqual([to, sent.toString(), kept], ["energy/two/power", "18", true]);
        assert.deepEqual(rig.states, ["connecting", "up"]);
    });

    it("passes on that a message was retained", async () => {
        await broker.publish("t", "old", { retain: true });
        const user = rig.user("a", ["t"]);
        await user.in("up");
        await broker.publish("t", "new", { retain: true });
        await user.got(2);
        assert.deepEqual(user.messages.map(({ retain }) => retain), [true, false]);
        const later = rig.user("b", ["#"]);
        await later.got(1);
        assert.deepEqual([later.payloads, later.messages[0]!.retain], [["new"], true]);
    });

    it("lets a user ask for more topics, and sends it no retained message twice", async () => {
        for (const topic of ["a", "b"]) await broker.publish(topic, topic, { retain: true });
        const user = rig.user("a", ["a"]);
        await user.in("up");
        await user.got(1);
        const more = rig.user("a", ["a", "b"]);
        await more.in("up");
        await broker.publish("a", "new");
        await more.got(2);
        assert.deepEqual([user.payloads, more.payloads], [["a"], ["b", "new"]]);
        assert.equal(broker.connections, 1);
    });

    it("gives each user a message once, however topics overlap", async () => {
        rig = new LinkRig(settings(broker.url));
        const wide = rig.user("a", ["#", "m/+/power", "m/1/power"]);
        const narrow = rig.user("b", ["m/+/power"]);
        const other = rig.user("c", ["x"]);
        await Promise.all([wide.in("up"), narrow.in("up"), other.in("up")]);
        for (const topic of ["m/1/power", "m/2/power", "x"]) await broker.publish(topic, topic);
        await Promise.all([wide.got(3), narrow.got(2), other.got(1)]);
        assert.deepEqual(wide.payloads, ["m/1/power", "m/2/power", "x"]);
        assert.deepEqual(narrow.payloads, ["m/1/power", "m/2/power"]);
        assert.deepEqual(other.payloads, ["x"]);
        // What covered the others goes: they are subscribed themselves.
        await rig.link.leave("a", true);
        await broker.publish("m/3/power", "m/3/power");
        await broker.publish("x", "again");
        await Promise.all([narrow.got(3), other.got(2)]);
        assert.equal(wide.messages.length, 3);
    });

    describe("acknowledges", () => {
        it("when a message is kept, in the order of arrival, many at once", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            user.holding = true;
            for (let n = 0; n < 50; n++) await broker.publish("t", String(n));
            await user.got(50);
            const some = acknowledged(1);
            for (const { keep } of user.held.slice(1)) keep();
            // Publishing goes through the same connection: an answer shows that nothing was sent before it.
            await user.handle.publish("other", "x", { qos: 1 });
            const early = await Promise.race([some, Promise.resolve("none")]);
            assert.equal(early, "none");
            user.held[0]!.keep();
            assert.deepEqual(await some, ["0"]);
            await user.got(51);
            const next = acknowledged(1);
            user.held.at(-1)!.keep();
            assert.deepEqual(await next, ["x"]);
        });

        it("when every user has kept it", async () => {
            const one = rig.user("a", ["t"]);
            const other = rig.user("b", ["#"]);
            await Promise.all([one.in("up"), other.in("up")]);
            one.holding = true;
            await broker.publish("t", "1");
            await Promise.all([one.got(1), other.got(1)]);
            await broker.drop();
            one.held[0]!.keep();
            await one.in("down");
            clock.advance(1_000);
            await Promise.all([one.got(2), other.got(2)]);
            const done = acknowledged(1);
            one.held[1]!.keep();
            assert.deepEqual(await done, ["1"]);
        });

        it("nothing that was not kept when the connection was lost: the broker sends it again", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            user.holding = true;
            for (const payload of ["1", "2", "3"]) await broker.publish("t", payload);
            await user.got(3);
            const first = acknowledged(1);
            user.held[0]!.keep();
            await first;
            user.holding = false;
            await broker.drop();
            for (const { keep } of user.held) keep();
            await user.in("down");
            clock.advance(1_000);
            await user.got(5);
            assert.deepEqual(user.payloads, ["1", "2", "3", "2", "3"]);
            assert.deepEqual([rig.lost.length, rig.back], [1, 1]);
        });

        it("what is being kept when the link closes", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            user.holding = true;
            await broker.publish("t", "1");
            await user.got(1);
            const done = acknowledged(1);
            const closed = rig.link.close(false);
            user.held[0]!.keep();
            await Promise.all([closed, done]);
        });

        it("a user's refusal never; it comes again after a pause that grows", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            user.holding = true;
            let none = true;
            broker.aedes.on("ack", () => (none = false));
            await broker.publish("t", "1");
            const pauses: number[] = [];
            for (let round = 1; round <= 4; round++) {
                await user.got(round);
                user.held.at(-1)!.refuse(new Error("disk full"));
                await user.in("down");
                assert.equal(user.state.text, "messages not kept");
                const since = clock.monotonic();
                while (rig.link.state.name === "down") clock.advance(500);
                pauses.push(clock.monotonic() - since);
            }
            assert.deepEqual(pauses, [1_000, 2_000, 4_000, 8_000]);
            assert.ok(none);
            assert.deepEqual(rig.lost.map(({ code, message }) => `${code} ${message}`), ["MQTT_NOT_STORED Messages could not be kept and stay with the broker: disk full"]);
            const done = acknowledged(1);
            await user.got(5);
            user.held.at(-1)!.keep();
            assert.deepEqual(await done, ["1"]);
            // Over when it has lasted, and not before.
            assert.equal(rig.back, 0);
            clock.advance(60_000);
            assert.equal(rig.back, 1);
        });

        it("messages of QoS 0 not at all, whatever becomes of them", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            user.holding = true;
            await broker.publish("t", "1", { qos: 0 });
            await user.got(1);
            user.held[0]!.refuse(new Error("disk full"));
            await broker.publish("t", "2", { qos: 0 });
            await user.got(2);
            user.held[1]!.keep();
            assert.deepEqual(rig.states, ["connecting", "up"]);
        });
    });

    it("reads no more than so many messages ahead of its users", async () => {
        rig = new LinkRig(settings(broker.url, { inFlight: 5 }));
        const user = rig.user("a", ["#"]);
        await user.in("up");
        user.holding = true;
        for (let n = 0; n < 40; n++) await broker.publish("t", String(n), { qos: n % 2 ? 1 : 0 });
        await user.got(5);
        for (let kept = 0; kept < 40; kept++) {
            assert.ok(user.messages.length - kept <= 5, `${user.messages.length - kept} in flight`);
            user.held[kept]!.keep();
            if (kept < 39) await user.got(Math.min(40, kept + 2));
        }
        assert.deepEqual(user.payloads, Array.from({ length: 40 }, (_, n) => String(n)));
    });

    it("drops what is larger than it takes, and says so once", async () => {
        rig = new LinkRig(settings(broker.url, { maxBytes: 1_000 }));
        const user = rig.user("a", ["#"]);
        await user.in("up");
        for (const size of [1_001, 5_000, 1_000]) await broker.publish("t", Buffer.alloc(size));
        await user.got(1);
        assert.equal(user.messages[0]!.payload.length, 1_000);
        assert.deepEqual(rig.warnings, ["A message of 1001 bytes for t was dropped: the MQTT link takes 1000."]);
    });

    it("drops what the session holds for topics that nobody wants any more, and says so once", async () => {
        const user = rig.user("a", ["old", "new"]);
        await user.in("up");
        await rig.link.close(false);
        await broker.publish("old", "1");
        await broker.publish("old", "2");
        await broker.publish("new", "3");
        rig = new LinkRig(settings(broker.url));
        const next = rig.user("a", ["new"]);
        await next.got(1);
        assert.deepEqual(next.payloads, ["3"]);
        assert.equal(rig.warnings.length, 1);
        assert.match(rig.warnings[0]!, /^A message for old was dropped/);
    });

    describe("connects again", () => {
        it("at growing intervals that many links do not keep together, and says so once", async () => {
            let random = 1;
            rig = new LinkRig(settings(broker.url), { clock, random: () => random });
            const user = rig.user("a", ["#"]);
            await user.in("up");
            await broker.drop(true);
            await user.in("down");
            const pauses: number[] = [];
            for (let round = 0; round < 8; round++) {
                const since = clock.monotonic();
                if (round === 7) random = 0.5;
                while (rig.link.state.name === "down") clock.advance(250);
                pauses.push(clock.monotonic() - since);
                if (round === 6) random = 0.5;
                await user.in("down");
            }
            assert.deepEqual(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 30_000]);
            assert.equal(rig.lost.length, 1);
            await broker.open();
            while (rig.link.state.name === "down") clock.advance(250);
            await user.in("up");
            assert.equal(rig.back, 1);
            await broker.publish("t", "1");
            await user.got(1);
        });

        it("and has rejected what was being published", async () => {
            let asked: (() => void) | undefined;
            await broker.stop();
            broker = await TestBroker.start({ authorizePublish: () => asked?.() });
            rig = new LinkRig(settings(broker.url));
            const user = rig.user("a", ["#"]);
            await user.in("up");
            const reached = new Promise<void>((resolve) => (asked = resolve));
            const open = assert.rejects(user.handle.publish("t", "1", { qos: 1 }), { code: "MQTT_CLOSED" });
            await reached;
            await broker.drop();
            await open;
            await assert.rejects(user.handle.publish("t", "2"), { code: "MQTT_CLOSED" });
            await assert.rejects(user.handle.publish("t/#", "2"), { code: "MQTT_PUBLISH" });
        });

        it("and says when the broker had forgotten the session", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            const { port } = broker;
            await broker.stop();
            broker = await TestBroker.start({}, undefined, port);
            await user.in("down");
            clock.advance(1_000);
            await rig.until(() => rig.warnings.length > 0);
            assert.match(rig.warnings[0]!, /had forgotten the session/);
            await user.in("up");
            await broker.publish("t", "1");
            await user.got(1);
        });
    });

    describe("says what to do", () => {
        const refusing = (returnCode: number) => TestBroker.start({ authenticate: (_client, _user, _password, done) => done(Object.assign(new Error("no"), { returnCode }), null) });

        for (const [returnCode, text, message] of [
            [2, "client id refused", /choose another/],
            [4, "wrong password", /check them in the MQTT link/],
            [5, "not authorised", /access list/],
        ] as const) {
            it(`when the broker refuses: ${text}`, async () => {
                await broker.stop();
                broker = await refusing(returnCode);
                rig = new LinkRig(settings(broker.url), { clock, random: () => 0 });
                const user = rig.user("a", ["#"]);
                await user.in("down");
                assert.deepEqual([user.state.text, rig.lost[0]!.code], [text, "MQTT_REFUSED"]);
                assert.match(rig.lost[0]!.message, message);
                // A person is needed: not asked every second.
                clock.advance(29_999);
                assert.deepEqual([broker.connections, rig.link.state.name], [1, "down"]);
                clock.advance(1);
                assert.equal(rig.link.state.name, "connecting");
            });
        }

        it("when the broker does not speak MQTT 5", async () => {
            rig = new LinkRig(settings(broker.url, { version: 5 }));
            const user = rig.user("a", ["#"]);
            await user.in("down");
            assert.equal(user.state.text, "protocol refused");
            assert.match(rig.lost[0]!.message, /choose the other one/);
        });

        it("when nothing listens, or what listens is no broker", async () => {
            await broker.drop(true);
            const user = rig.user("a", ["#"]);
            await user.in("down");
            assert.match(rig.lost[0]!.message, /^No connection to 127\.0\.0\.1:\d+: .*ECONNREFUSED/);
            const server = createServer((socket) => socket.on("error", () => undefined).resume().end("HTTP/1.1 400 Bad Request\r\n\r\n")).listen(0, "127.0.0.1");
            await once(server, "listening");
            const other = new LinkRig(settings(`mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`));
            await other.user("a", ["#"]).in("down");
            assert.equal(other.lost[0]!.code, "MQTT_CLOSED");
            await other.link.close(false);
            server.close();
            await once(server, "close");
        });

        it("when a topic is refused, to whom it concerns", async () => {
            await broker.stop();
            broker = await TestBroker.start({ authorizeSubscribe: (_client, subscription, done) => done(null, subscription.topic === "secret" ? null : subscription) });
            rig = new LinkRig(settings(broker.url));
            const one = rig.user("a", ["secret"]);
            const other = rig.user("b", ["open"]);
            await Promise.all([one.in("refused"), other.in("up")]);
            assert.equal(one.state.text, "topic refused");
            assert.match(one.state.error!.message, /^The broker refused the topic secret\. Check/);
            assert.equal(rig.link.state.name, "up");
        });

        it("when another client has the client id, and does not fight", async () => {
            const user = rig.user("a", ["#"]);
            await user.in("up");
            const other = new LinkRig(settings(broker.url), { random: () => 0 });
            const twin = other.user("a", ["#"]);
            await twin.in("up");
            await user.in("down");
            clock.advance(1_000);
            await user.in("up");
            await twin.in("down");
            await twin.in("up");
            await rig.until(() => rig.lost.length === 2);
            assert.deepEqual(rig.lost.map(({ code }) => code), ["MQTT_CLOSED", "MQTT_TAKEN_OVER"]);
            assert.match(rig.lost[1]!.message, /another client uses the client id wltest: give each/);
            clock.advance(59_999);
            assert.equal(rig.link.state.name, "down");
            await other.link.close(false);
        });

        it("when a broker says that another client has taken the session", async () => {
            const connack = Buffer.from([0x20, 3, 0, 0, 0]);
            const takenOver = Buffer.from([0xe0, 1, 0x8e]);
            const server = createServer((socket) => {
                socket.on("error", () => undefined);
                socket.once("data", () => {
                    socket.write(connack);
                    setImmediate(() => socket.end(takenOver));
                });
            }).listen(0, "127.0.0.1");
            await once(server, "listening");
            const other = new LinkRig(settings(`mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`, { version: 5 }), { clock });
            const user = other.user("a", []);
            await user.in("down");
            assert.deepEqual([user.state.text, other.lost[0]!.code], ["client id in use", "MQTT_TAKEN_OVER"]);
            await other.link.close(false);
            server.close();
            await once(server, "close");
        });

        it("when topics are none", () => {
            for (const topics of [[""], ["a/#/b"], ["a+"], ["a\0"], ["$share/g/t"]]) assert.throws(() => rig.user("a", topics), { code: "CONFIG_INVALID" });
            assert.throws(() => rig.user("a", ["t"], { share: "g" }), /needs MQTT 5/);
            assert.equal(rig.link.state.name, "idle");
        });
    });

    describe("over TLS", () => {
        const { cert, key } = makeCertificate();
        const foreign = makeCertificate();
        let secure: TestBroker;
        before(async () => {
            secure = await TestBroker.start({}, { cert, key, ca: cert, requestCert: true, rejectUnauthorized: true });
        });
        after(() => secure.stop());

        const connect = async (tls: object): Promise<string> => {
            rig = new LinkRig(settings(secure.url.replace("mqtt:", "mqtts:"), { tls: { verify: true, ...tls } }));
            const user = rig.user("a", ["#"]);
            await rig.until(() => user.state.name === "up" || user.state.name === "down");
            return rig.lost[0]?.message ?? "up";
        };

        it("shows its certificate and checks the broker's", async () => {
            assert.equal(await connect({ ca: cert, cert, key }), "up");
        });

        it("says which certificate does not fit", async () => {
            assert.match(await connect({ cert, key }), /is not trusted: enter the certificate of its authority/);
            await rig.link.close(false);
            assert.match(await connect({ ca: cert, cert, key, serverName: "other.example" }), /is for another name/);
            await rig.link.close(false);
            assert.match(await connect({ ca: cert, ...foreign }), /client certificate/);
            await rig.link.close(false);
            assert.match(await connect({ ca: cert }), /client certificate/);
            await rig.link.close(false);
            assert.match(await connect({ ca: "/nowhere/ca.pem" }), /cannot be read: ENOENT/);
            await rig.link.close(false);
            assert.match(await connect({ ca: cert, cert, key: "-----BEGIN nonsense" }), /cannot be read/);
        });

        it("says that a port speaks no TLS", async () => {
            rig = new LinkRig(settings(broker.url.replace("mqtt:", "mqtts:")));
            await rig.user("a", ["#"]).in("down");
            assert.match(rig.lost[0]!.message, /TLS/);
        });
    });

    it("keeps for a user that a deploy makes anew what comes meanwhile, and not longer than 10 s", async () => {
        const user = rig.user("a", ["t"]);
        const other = rig.user("b", ["u"]);
        await Promise.all([user.in("up"), other.in("up")]);
        await rig.link.leave("a", false);
        await broker.publish("t", "1");
        await broker.publish("t", "2");
        await broker.publish("u", "x");
        await other.got(1);
        const again = rig.user("a", ["t"]);
        await again.got(2);
        assert.deepEqual([user.payloads, again.payloads], [[], ["1", "2"]]);
        assert.equal(broker.connections, 1);
        await rig.link.leave("a", false);
        const unsubscribed = once(broker.aedes, "unsubscribe") as Promise<[string[]]>;
        await broker.publish("t", "3");
        await broker.publish("u", "y");
        await other.got(2);
        clock.advance(10_000);
        assert.deepEqual((await unsubscribed)[0], ["t"]);
        assert.match(rig.warnings[0]!, /^1 messages were dropped/);
    });

    it("stops waiting for what is on its way to a user that leaves, however much comes for others", async () => {
        let sleeps = 0;
        const sleep = clock.sleep.bind(clock);
        clock.sleep = (ms, signal) => {
            sleeps++;
            return sleep(ms, signal);
        };
        const [stays, leaves] = [rig.user("a", ["t"]), rig.user("b", ["u"])];
        await Promise.all([stays.in("up"), leaves.in("up")]);
        const gone = new AbortController();
        const left = rig.link.leave("b", true).then(() => gone.abort());
        const goOn = async () => {
            const due = stays.messages.length + 1;
            await broker.publish("t", "more");
            await stays.got(due);
            clock.advance(100);
            await new Promise((resolve) => setImmediate(resolve));
        };
        while (!gone.signal.aborted) await goOn();
        await left;
        const before = sleeps;
        for (let more = 0; more < 3; more++) await goOn();
        assert.equal(sleeps, before);
    });

    it("keeps one timer while it is connected", async () => {
        await rig.user("a", ["t"]).in("up");
        assert.equal(clock.waiting, 1);
    });

    it("leaves with the broker what comes for a last user that does not come back", async () => {
        const user = rig.user("a", ["t"]);
        await user.in("up");
        await rig.link.leave("a", false);
        await broker.publish("t", "1");
        const gone = once(broker.aedes, "clientDisconnect");
        clock.advance(10_000);
        await gone;
        assert.equal(rig.link.state.name, "idle");
        const again = rig.user("a", ["t"]);
        await again.got(1);
        assert.deepEqual(again.payloads, ["1"]);
    });

    it("survives whatever a broker sends", async () => {
        let bytes = Buffer.alloc(0);
        const server = createServer((socket) => socket.on("error", () => undefined).once("data", () => socket.end(bytes))).listen(0, "127.0.0.1");
        await once(server, "listening");
        const url = `mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`;
        const packet = fc.oneof(
            fc.constantFrom([0x20, 2, 0, 0], [0x20, 3, 0, 0, 0], [0x90, 3, 0, 1, 0x80], [0x90, 2, 0, 1], [0xd0, 0], [0xe0, 0], [0x32, 6, 0, 1, 0x74, 0, 7, 0x31], [0x34, 6, 0, 1, 0x74, 0, 7, 0x31], [0x62, 2, 0, 7]),
            fc.array(fc.nat(255), { maxLength: 12 }),
        );
        await fc.assert(
            fc.asyncProperty(fc.constantFrom(4 as const, 5 as const), fc.array(packet, { maxLength: 6 }), async (version, packets) => {
                bytes = Buffer.from([0x20, ...(version === 5 ? [3, 0, 0, 0] : [2, 0, 0]), ...packets.flat()]);
                const other = new LinkRig(settings(url, { version }), { clock });
                const user = other.user("a", ["t"]);
                await user.in("down");
                assert.ok(other.lost.every(({ code }) => code.startsWith("MQTT_")));
                await other.link.close(false);
            }),
            { numRuns: 150 },
        );
        server.close();
        await once(server, "close");
    });

    it("takes thousands of messages without a word lost or out of order", async () => {
        const user = rig.user("a", ["#"]);
        await user.in("up");
        const count = 3_000;
        let committed: (() => void)[] = [];
        const onMessage = (message: MqttMessage): Promise<void> => {
            numbers.push(Number(message.payload));
            rig.emit("change");
            return new Promise((resolve) => {
                if (committed.push(resolve) === 1) {
                    setImmediate(() => {
                        for (const done of committed) done();
                        committed = [];
                    });
                }
            });
        };
        const numbers: number[] = [];
        rig.user("a", ["#"], { onMessage });
        const all = acknowledged(count);
        await Promise.all(Array.from({ length: count }, (_, n) => broker.publish("t", String(n))));
        await rig.until(() => numbers.length >= count);
        assert.deepEqual(numbers, Array.from({ length: count }, (_, n) => n));
        assert.deepEqual((await all).map(Number), numbers);
    });
});
