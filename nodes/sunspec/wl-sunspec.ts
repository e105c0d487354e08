import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configNode, configure, parseConfig, resolveEnv } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import { listenerOf, mapsOf } from "../common/source.js";
import { stateFileOf } from "../common/statefile.js";
import { siteOf } from "../common/wl-site.js";
import { linkSchema, sharedLink } from "../modbus/links.js";
import type { ModbusLinkNode } from "../modbus/wl-modbus-link.js";
import { type ClassSources, loadSources, replacements } from "./class-maps.js";
import { sunspecSchema } from "./config.js";
import { SunSpecSource } from "./source.js";
import { survey, type Survey } from "./survey.js";

/** A dialog waits for an answer; longer searches are done in parts. */
const SURVEY_LIMIT_MS = 45_000;

export default (RED: NodeAPI): void => {
    const sources = () => loadSources(mapsOf(RED));

    RED.nodes.registerType("wl-sunspec", function (this: Node, def: NodeDef & { link?: string; site?: string }) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            const config = parseConfig(sunspecSchema, def);
            const { siteId } = siteOf(RED, def);
            const link = configNode<ModbusLinkNode>(RED, def.link, "wl-modbus-link");
            const lifecycle = new Lifecycle(this);
            const source = new SunSpecSource({
                config,
                site: siteId,
                sources,
                ...stateFileOf(RED, this, "sunspec"),
                listener: listenerOf(this, lifecycle),
            });
            const reader = link.register(this, (state) => source.linkChanged(state));
            lifecycle.onClose(() => link.deregister(this));
            lifecycle.onInput((_msg, _send, signal) => source.pollNow(signal));
            for (const notice of replacements(mapsOf(RED))) this.log(notice);
            lifecycle.run((signal) => source.run(reader, signal));
        });
    });

    adminRoute(RED, "/wattledger/sunspec/discover", "wl-sunspec", (def, gone) => look(RED, sources, def, gone));
};

/** Uses the link's connection where it is open, and a temporary one where it is not. */
async function look(RED: NodeAPI, sources: () => ClassSources, { link, ...node }: Record<string, unknown>, signal: AbortSignal): Promise<Survey> {
    const settings = parseConfig(linkSchema, resolveEnv(RED, link));
    const { units, meterPositive, batteryPositive } = parseConfig(sunspecSchema, resolveEnv(RED, node));
    const member = sharedLink(settings).join(settings);
    try {
        return await survey(member, { units, meterPositive, batteryPositive, sources, signal, limitMs: SURVEY_LIMIT_MS });
    } finally {
        await member.leave();
    }
}
