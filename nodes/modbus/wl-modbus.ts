import { readFile } from "node:fs/promises";
import type { Node, NodeAPI, NodeDef } from "node-red";
import { adminRoute } from "../common/admin.js";
import { configNode, configure, parseConfig, resolveEnv } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import type { PointMaps } from "../common/pointmaps.js";
import { listenerOf, mapsOf } from "../common/source.js";
import { stateFileOf } from "../common/statefile.js";
import { siteOf } from "../common/wl-site.js";
import type { Learned } from "./block-reader.js";
import { chosenMapSchema, mapOf, modbusSchema, PASTED } from "./config.js";
import { faultsOf, listChoices, type MapView, preview, type Preview, viewOf } from "./inspect.js";
import { endpointName, kindOf, linkSchema, sharedLink, withNeeds } from "./links.js";
import { MAX_REGISTERS } from "./pdu.js";
import { costOf } from "./plan.js";
import { needsOf } from "./read-groups.js";
import { ModbusSource } from "./source.js";
import type { ModbusLinkNode } from "./wl-modbus-link.js";

interface ModbusNode extends Node {
    /** What a unit at an endpoint has taught this node. */
    learned?: (unit: number, endpoint: string) => Learned | undefined;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-modbus", function (this: ModbusNode, def: NodeDef & { link?: string; site?: string }) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            const config = parseConfig(modbusSchema, def);
            const map = mapOf(config, mapsOf(RED));
            const { siteId } = siteOf(RED, def);
            const link = configNode<ModbusLinkNode>(RED, def.link, "wl-modbus-link");
            const lifecycle = new Lifecycle(this);
            const source = new ModbusSource({
                config,
                map,
                site: siteId,
                ...stateFileOf(RED, this, "modbus"),
                listener: listenerOf(this, lifecycle),
            });
            const reader = link.register(this, (state) => source.linkChanged(state), needsOf(map));
            this.learned = (unit, endpoint) => (endpoint === link.endpoint() ? source.learned(unit) : undefined);
            lifecycle.onClose(() => link.deregister(this));
            lifecycle.onInput((_msg, _send, signal) => source.pollNow(signal));
            lifecycle.run((signal) => source.run(reader, signal));
        });
    });

    adminRoute(RED, "/wattledger/modbus/maps", "wl-modbus", async () => ({ maps: listChoices(mapsOf(RED)) }));
    adminRoute(RED, "/wattledger/modbus/map", "wl-modbus", (def) => look(RED, mapsOf(RED), def));
    adminRoute(RED, "/wattledger/modbus/preview", "wl-modbus", (def, gone) => readNow(RED, mapsOf(RED), def, gone));
};

type Look = { faults: ReturnType<typeof faultsOf> } | { text: string } | (MapView & { notice?: string });

/** What the dialog shows of a map; of one that is chosen also its text, to be edited. */
async function look(RED: NodeAPI, maps: PointMaps, { link, copy, id, unit, ...node }: Record<string, unknown>): Promise<Look> {
    const chosen = parseConfig(chosenMapSchema, resolveEnv(RED, node));
    if (copy) return { text: await readFile(maps.find(chosen.map).file, "utf8") };
    try {
        const map = mapOf(chosen, maps);
        const settings = link ? withNeeds(parseConfig(linkSchema, resolveEnv(RED, link)), needsOf(map)) : undefined;
        const cost = costOf(settings ? { ...kindOf(settings), gapMs: settings.gapMs } : { kind: "tcp" });
        const notice = chosen.map === PASTED ? undefined : maps.find(chosen.map).notice;
        const running = RED.nodes.getNode(String(id)) as ModbusNode | null;
        const learned = (of: number) => settings && running?.learned?.(of, endpointName(settings));
        return { ...viewOf(map, chosen, { cost, maxRegisters: settings?.maxRegisters ?? MAX_REGISTERS, unit: Number(unit), learned }), ...(notice && { notice }) };
    } catch (error) {
        return { faults: faultsOf(error) };
    }
}

/** Uses the link's connection where it is open, and a temporary one where it is not. */
async function readNow(RED: NodeAPI, maps: PointMaps, { link, unit, ...node }: Record<string, unknown>, signal: AbortSignal): Promise<Preview> {
    const chosen = parseConfig(chosenMapSchema, resolveEnv(RED, node));
    const map = mapOf(chosen, maps);
    const settings = withNeeds(parseConfig(linkSchema, resolveEnv(RED, link)), needsOf(map));
    const member = sharedLink(settings).join(settings);
    try {
        return await preview(member, map, chosen, signal, Number(unit));
    } finally {
        await member.leave();
    }
}
