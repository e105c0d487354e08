import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { configNode, configure, numberField, parseConfig, textField, zoneField } from "./config.js";
import { WattError } from "./errors.js";

const schema = () =>
    z.object({
        siteId: textField().pipe(z.string().regex(/^[A-Za-z0-9_.-]+$/, "takes letters, digits, dot, dash and underscore only")),
        name: textField(""),
        zone: zoneField("UTC"),
        latitude: numberField({ min: -90, max: 90, default: 0 }),
        longitude: numberField({ min: -180, max: 180, default: 0 }),
        currency: textField("EUR").pipe(z.string().regex(/^[A-Z]{3}$/, "takes a three-letter ISO 4217 code such as EUR")),
        ratedPowerW: numberField({ min: 0, max: 1e10, default: 0 }),
    });

/** A plant as the other nodes know it; power in W, position in degrees. */
export type Site = z.output<ReturnType<typeof schema>>;

export interface SiteNode extends Node {
    /** Undefined while the settings are unusable. */
    site?: Site;
}

/**
 * The plant that a node belongs to.
 * @throws WattError CONFIG_MISSING when none is chosen or its settings are unusable.
 */
export function siteOf(RED: NodeAPI, { site: id }: { site?: string }): Site {
    const { site } = configNode<SiteNode>(RED, id, "wl-site");
    if (!site) throw new WattError("CONFIG_MISSING", "check site");
    return site;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-site", function (this: SiteNode, def: NodeDef) {
        RED.nodes.createNode(this, def);
        configure(this, () => {
            this.site = parseConfig(schema(), def);
        });
    });
};
