import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { choiceField, configure, parseConfig, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { parseMrvConfig } from "./credential.js";
import { parseReport } from "./document.js";
import { parseFields } from "./external.js";
import { STAND_IN_MRV } from "./stand-in.js";
import { deskOf, MODES, serveFilings } from "./wl-guardian.js";

const tag = () => textField("").refine((text) => /^[\w-]*$/.test(text), "takes letters, digits, dash and underscore only");
const schema = () => z.object({ mode: choiceField(MODES, "dry-run"), fields: textField(), blockTag: tag(), gridTag: tag(), mrv: textField("") });

interface Input {
    payload?: unknown;
    retry?: unknown;
}

interface Credentials {
    mrv?: string;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType<Node<Credentials>, NodeDef & { guardian?: string }, object, Credentials>(
        "wl-guardian-external",
        function (this: Node<Credentials>, def: NodeDef & { guardian?: string }) {
            RED.nodes.createNode(this, def);
            const lifecycle = new Lifecycle(this);
            configure(this, () => {
                const { mode, fields, blockTag, gridTag, mrv } = parseConfig(schema(), { ...def, ...this.credentials });
                const desk = deskOf(RED, def.guardian, lifecycle);
                const { isStandIn } = desk.settings;
                if (!isStandIn && mrv === "") throw new WattError("CONFIG_MISSING", "add MRV file");
                // Nothing simulated is signed by a device that exists.
                const config = isStandIn ? STAND_IN_MRV : parseMrvConfig(mrv);
                const counter = desk.external({ config, fields: parseFields(fields), blockTag, gridTag });
                serveFilings(this, lifecycle, counter, "external", mode, ({ payload }: Input) => parseReport(payload));
            });
        },
        { credentials: { mrv: { type: "password" } } },
    );
};
