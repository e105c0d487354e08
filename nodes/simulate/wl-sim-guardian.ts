import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { choiceField, configure, numberField, parseConfig, textField } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import { STAND_IN_ACCOUNT } from "../common/simulated.js";
import { stateFileOf } from "../common/statefile.js";
import { GUARDIAN_FAULTS, GuardianSimulator, parseGuardianFault, PROFILES } from "./guardian-server.js";

const schema = () =>
    z.object({
        host: textField("127.0.0.1"),
        port: numberField({ min: 0, max: 65_535, default: 3010, integer: true }),
        profile: choiceField(PROFILES, "g3x"),
        rounding: choiceField(["nearest", "floor", "ceiling"], "nearest"),
        approveS: numberField({ min: -1, max: 86_400, default: -1 }),
        seed: numberField({ min: 0, max: 99_999, default: 1, integer: true }),
        fault: choiceField(["none", ...GUARDIAN_FAULTS], "none"),
    });

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-sim-guardian", function (this: Node, def: NodeDef) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            const { fault, approveS, ...config } = parseConfig(schema(), def);
            const lifecycle = new Lifecycle(this);
            const { stateFile } = stateFileOf(RED, this, "simulate");
            const simulator = new GuardianSimulator({
                ...config,
                ...(stateFile && { file: stateFile }),
                password: STAND_IN_ACCOUNT.password,
                ...(approveS >= 0 && { approveAfterMs: approveS * 1000 }),
                onRequest: (line) => {
                    if (line.startsWith("POST /api/v1/policies/")) this.send({ topic: "request", payload: line });
                },
            });
            const show = () => {
                const [first, ...more] = simulator.activeFaults;
                if (first === undefined) lifecycle.status.set("ok", `${simulator.count.projects + simulator.count.reports} filed`);
                else lifecycle.status.set("warn", more.length > 0 ? `${more.length + 1} faults` : first);
            };
            lifecycle.onInput((msg) => {
                if (msg.payload === "approve") simulator.approveAll();
                else simulator.fault(parseGuardianFault(msg.payload));
                show();
            });
            lifecycle.onClose(async (removed) => {
                await simulator.close();
                if (removed) stateFile?.remove();
            });
            lifecycle.run(async (signal) => {
                try {
                    await simulator.start();
                } catch (error) {
                    lifecycle.status.set("error", "cannot listen");
                    throw error;
                }
                if (fault !== "none") simulator.fault(parseGuardianFault(fault));
                show();
                const timer = setInterval(show, 1000);
                signal.addEventListener("abort", () => clearInterval(timer));
            });
        });
    });
};
