import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { choiceField, configure, numberField, parseConfig, textField } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import { createReading } from "../common/reading.js";
import { stateFileOf } from "../common/statefile.js";
import { siteOf } from "../common/wl-site.js";
import { FAULTS } from "./faults.js";
import { PlantSimulator } from "./simulator.js";

const schema = () =>
    z.object({
        host: textField("127.0.0.1"),
        port: numberField({ min: 0, max: 65_535, default: 1502, integer: true }),
        rtuPort: numberField({ min: 0, max: 65_535, default: 0, integer: true }),
        speed: numberField({ min: 0.1, max: 3600, default: 1 }),
        seed: numberField({ min: 0, max: 99_999, default: 1, integer: true }),
        timeOfDay: choiceField(["daytime", "real"], "daytime"),
        fault: choiceField(["none", ...FAULTS], "none"),
    });

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-sim-plant", function (this: Node, def: NodeDef & { site?: string }) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            const { fault, rtuPort, ...config } = parseConfig(schema(), def);
            const { siteId, ratedPowerW, ...place } = siteOf(RED, def);
            const lifecycle = new Lifecycle(this);
            let seq = 0;
            const simulator = new PlantSimulator(
                { ...config, ...place, ...(rtuPort > 0 && { rtuPort }), ratedPowerW: ratedPowerW || 15_000 },
                {
                    onStatus: (kind, text) => lifecycle.status.set(kind, text),
                    onError: (error) => this.error(error, {}),
                    onTruth: (points, timestamp) => {
                        const meta = { site: siteId, device: `SIM${config.seed}-PLANT`, class: "plant", seq: seq++, quality: "good", simulated: true } as const;
                        this.send(createReading(meta, timestamp, points));
                    },
                },
                stateFileOf(RED, this, "simulate").stateFile,
            );
            if (fault !== "none") simulator.command({ fault });
            lifecycle.onInput((msg) => simulator.command(msg.payload));
            lifecycle.onClose((removed) => simulator.close(removed));
            lifecycle.run((signal) => simulator.run(signal));
        });
    });
};
