import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { choiceField, configure, parseConfig, textField } from "../common/config.js";
import { Lifecycle } from "../common/lifecycle.js";
import { parseReport } from "./document.js";
import type { Filing } from "./filer.js";
import { deskOf, MODES, serveFilings } from "./wl-guardian.js";

const schema = () => z.object({ mode: choiceField(MODES, "dry-run"), projectRef: textField("") });

interface Input {
    payload?: unknown;
    evidence?: unknown;
    retry?: unknown;
}

export default (RED: NodeAPI): void => {
    RED.nodes.registerType("wl-guardian-report", function (this: Node, def: NodeDef & { guardian?: string }) {
        RED.nodes.createNode(this, def);
        const lifecycle = new Lifecycle(this);
        configure(this, () => {
            const { mode, projectRef } = parseConfig(schema(), def);
            const desk = deskOf(RED, def.guardian, lifecycle);
            serveFilings<Filing, Input>(this, lifecycle, desk.counter("report"), "report", mode, ({ payload, evidence }) => ({ kind: "report", report: parseReport(payload), projectRef, ...evidenceOf(evidence) }));
        });
    });
};

/** The root of an evidence capsule: itself, or what holds it. */
function evidenceOf(evidence: unknown): { evidence?: string } {
    const root = typeof evidence === "object" && evidence !== null ? (evidence as { root?: unknown }).root : evidence;
    return typeof root === "string" && /^[0-9a-f]{64}$/i.test(root) ? { evidence: root.toLowerCase() } : {};
}
