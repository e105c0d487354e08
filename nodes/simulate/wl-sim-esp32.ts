import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { booleanField, choiceField, configNode, configure, numberField, parseConfig, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { createHttpClient } from "../common/http.js";
import { Lifecycle } from "../common/lifecycle.js";
import { stateFileOf } from "../common/statefile.js";
import { siteOf } from "../common/wl-site.js";
import type { MqttLinkNode } from "../mqtt/wl-mqtt-link.js";
import { Esp32Fleet, FLEET_FAULTS } from "./esp32-fleet.js";
import { httpTransport, mqttTransport, ownUrl, type Transport } from "./esp32-sender.js";

const schema = () =>
    z.object({
        via: choiceField(["http", "mqtt"], "http"),
        url: textField("").pipe(z.string().refine((text) => text === "" || (/^https?:\/\//i.test(text) && URL.canParse(text)), "must look like http://192.168.1.10:1880/wattledger/esp32")),
        topic: textField("wattledger").pipe(z.string().regex(/^[^+#\s]+[^+#/\s]$/, "takes a topic without wildcards and without a slash at the end")),
        auth: choiceField(["none", "bearer", "hmac"], "none"),
        sign: booleanField(false),
        devices: numberField({ min: 1, max: 1000, default: 3, integer: true }),
        prefix: textField("sim-esp32-").pipe(z.string().regex(/^[^/+#\s*]{1,50}$/, "takes up to 50 characters without spaces, slashes, +, # and *")),
        interval: numberField({ min: 1, max: 3600, default: 10 }),
        batch: numberField({ min: 1, max: 100, default: 1, integer: true }),
        history: numberField({ min: 0, max: 9600, default: 24 }),
        speed: numberField({ min: 1, max: 1e6, default: 3600 }),
        seed: numberField({ min: 0, max: 99_999, default: 1, integer: true }),
        fault: choiceField(["none", ...FLEET_FAULTS], "none"),
    });

interface Credentials {
    secret?: string;
}

interface SimDef extends NodeDef {
    site?: string;
    link?: string;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType<Node<Credentials>, SimDef, object, Credentials>(
        "wl-sim-esp32",
        function (this: Node<Credentials>, def: SimDef) {
            RED.nodes.createNode(this, def);
            configure(this, () => {
                const { via, url, topic, auth, sign, interval, history, fault, ...config } = parseConfig(schema(), def);
                const { siteId, latitude, longitude, ratedPowerW } = siteOf(RED, def);
                const secret = this.credentials?.secret ?? "";
                if (via === "http" && auth !== "none" && secret === "") throw new WattError("CONFIG_MISSING", "enter the key");
                const lifecycle = new Lifecycle(this);
                let transport: Transport;
                if (via === "mqtt") {
                    const link = configNode<MqttLinkNode>(RED, def.link, "wl-mqtt-link");
                    const handle = link.register(this);
                    lifecycle.onClose((removed) => link.deregister(this, removed));
                    transport = mqttTransport((to, body) => handle.publish(to, body, { qos: 1 }), topic);
                } else {
                    // No certificate is for the address of the machine within itself.
                    const client = createHttpClient({ maxSockets: 8, rejectUnauthorized: url !== "" });
                    lifecycle.onClose(() => client.close());
                    transport = httpTransport(client, () => url || ownUrl(RED), auth, secret);
                }
                const fleet = new Esp32Fleet(
                    {
                        ...config,
                        site: siteId,
                        latitude,
                        longitude,
                        ratedPowerW: ratedPowerW || 15_000,
                        intervalMs: interval * 1000,
                        historyMs: history * 3_600_000,
                        signWith: sign ? secret || siteId : "",
                    },
                    transport,
                    {
                        onStatus: (kind, text) => lifecycle.status.set(kind, text),
                        onError: (error) => this.error(error, {}),
                        onTruth: (reading) => this.send(reading),
                    },
                    stateFileOf(RED, this, "simulate").stateFile,
                );
                if (fault !== "none") fleet.command(fault);
                lifecycle.onInput((msg, send) => {
                    if (msg.payload === "keys") send({ ...msg, topic: `${siteId}/keys`, payload: fleet.keys });
                    else fleet.command(msg.payload);
                });
                lifecycle.onClose((removed) => fleet.close(removed));
                const begin = () => lifecycle.run((signal) => fleet.run(signal));
                RED.events.once("flows:started", begin);
                lifecycle.onClose(() => void RED.events.removeListener("flows:started", begin));
            });
        },
        { credentials: { secret: { type: "password" } } },
    );
};
