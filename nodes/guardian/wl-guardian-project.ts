import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { choiceField, configure, parseConfig } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { Filing } from "./filer.js";
import { deskOf, MODES, serveFilings } from "./wl-guardian.js";

const schema = () => z.object({ mode: choiceField(MODES, "dry-run") });

interface Input {
    payload?: unknown;
    simulated?: unknown;
    retry?: unknown;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-guardian-project", function (this: Node, def: NodeDef & { guardian?: string }) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const { mode } = parseConfig(schema(), def);
            const desk = deskOf(RED, def.guardian, lifecycle);
            serveFilings<Filing, Input>(this, lifecycle, desk.counter("project"), "project", mode, ({ payload, simulated }) => ({ kind: "project", payload, simulated: simulated === true }));
        });
    });
};
