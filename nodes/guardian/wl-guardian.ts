import type { Node, NodeAPI, NodeDef } from "node-red";
import { z } from "zod";
import { adminRoute } from "../common/admin.js";
import { choiceField, configNode, configure, parseConfig, resolveEnv, textField } from "../common/config.js";
import { WattError } from "../common/errors.js";
import { Lifecycle } from "../common/lifecycle.js";
import { userFolder } from "../common/statefile.js";
import { Desk, errorStatus, previewStatus, statusOf, type Counter, type DeskSettings } from "./desk.js";
import type { Kind } from "./filings.js";
import { ROUNDINGS } from "./twin.js";

const isUrl = (url: string) => /^https?:\/\/[^\s@?#]+$/i.test(url) && URL.canParse(url);

const schema = () =>
    z
        .object({
            server: choiceField(["guardian", "stand-in"], "guardian"),
            url: textField().refine(isUrl, "must look like https://guardianservice.app/api/v1, without user or password"),
            loginBy: choiceField(["username", "email"], "username"),
            tenantId: textField(""),
            policyId: textField(""),
            fingerprint: textField("").refine((text) => /^([0-9a-f]{64})?$/.test(text), "must be what Find filled in"),
            rounding: choiceField(ROUNDINGS, "nearest"),
            mirrorUrl: textField("").refine((url) => url === "" || isUrl(url), "must look like https://mainnet-public.mirrornode.hedera.com/api/v1"),
            username: textField(""),
            password: textField(""),
        })
        .refine(({ server, username, password }) => server === "stand-in" || (username !== "" && password !== ""), { error: "must not be empty", path: ["user and password"] })
        .transform(({ server, ...rest }): DeskSettings => ({ ...rest, isStandIn: server === "stand-in" }));

/** A dry run shows what would be filed, and files nothing. */
export const MODES = ["dry-run", "file"] as const;
type Mode = (typeof MODES)[number];

interface Credentials {
    username?: string;
    password?: string;
}

export interface GuardianNode extends Node<Credentials> {
    /** By node id. Node-RED hands this node's errors on to the flows of its users. */
    users: Record<string, Node>;
    /** Undefined while the settings are unusable. */
    desk?: Desk;
}

/** The desk behind a node's setting. @throws WattError CONFIG_MISSING */
export function deskOf(RED: NodeAPI, id: unknown, lifecycle: Lifecycle): Desk {
    const node = configNode<GuardianNode>(RED, id, "wl-guardian");
    lifecycle.join(node);
    if (!node.desk) throw new WattError("CONFIG_MISSING", "check guardian");
    return node.desk;
}

/** What a node that files does: dry run by default, and one message for each result and each change of it. */
export function serveFilings<F, M extends { payload?: unknown; retry?: unknown }>(node: Node, lifecycle: Lifecycle, counter: Counter<F>, kind: Kind, mode: Mode, read: (msg: M) => F): void {
    if (mode === "file") {
        const unfollow = counter.follow((payload) => {
            lifecycle.status.set(...statusOf(payload));
            node.send([null, { topic: `${payload.project}/${kind}`, payload }]);
        });
        lifecycle.onClose(unfollow);
    }
    lifecycle.status.set("idle", mode !== "file" ? "dry run" : kind === "external" ? "sends unproven" : `files ${kind}s`);
    lifecycle.onInput<M>(async (msg, send, signal) => {
        try {
            const filing = read(msg);
            const result = mode === "file" ? await counter.file(filing, signal, msg.retry === true) : { state: "DRY-RUN" as const, ...(await counter.preview(filing, signal)) };
            lifecycle.status.set(...(result.state === "DRY-RUN" ? previewStatus(result) : statusOf(result)));
            send([Object.assign(msg, { payload: result }), null]);
        } catch (error) {
            lifecycle.status.set(...errorStatus(error));
            throw error;
        }
    });
}

export default (RED: NodeAPI): void => {
    const folder = (): string => {
        const found = userFolder(RED, "guardian");
        if (found === undefined) throw new WattError("GUARDIAN_NO_FOLDER", "Node-RED has no user directory, so nothing could be written down of what is filed: set userDir.");
        return found;
    };

    RED.nodes.registerType<GuardianNode, NodeDef, object, Credentials>(
        "wl-guardian",
        function (this: GuardianNode, def: NodeDef) {
            RED.nodes.createNode(this, def);
            const lifecycle = new Lifecycle(this);
            this.users = {};
            configure(this, () => {
                const desk = new Desk(parseConfig(schema(), { ...def, ...this.credentials }), folder(), this.id);
                this.desk = desk;
                desk.onWarning = (text) => this.warn(text);
                if (!desk.settings.isStandIn && /^http:/i.test(desk.settings.url)) this.warn("The way to Guardian is not encrypted: anyone on it can read the password. Use https.");
                lifecycle.onClose(() => desk.close());
                lifecycle.run((signal) => desk.run(signal, (error) => this.error(error, {})));
            });
        },
        { credentials: { username: { type: "text" }, password: { type: "password" } } },
    );

    adminRoute(RED, "/wattledger/guardian/find", "wl-guardian", async (body, gone) => {
        const deployed = (RED.nodes.getNode(String(body["id"])) as GuardianNode | null)?.desk;
        // The dialog never gets a stored secret; it sends a mark for "unchanged".
        if (body["password"] === "__PWRD__") body["password"] = ((RED.nodes.getCredentials(String(body["id"])) ?? {}) as Credentials).password;
        const settings = parseConfig(schema(), resolveEnv(RED, body));
        const isSame = deployed && (["isStandIn", "url", "loginBy", "username", "password", "tenantId"] as const).every((key) => deployed.settings[key] === settings[key]);
        // A login of its own would end the session of the running node, which Guardian up to 3.x allows one of.
        if (isSame) return { policies: await deployed.find(gone) };
        const desk = new Desk(settings, folder(), "find");
        try {
            return { policies: await desk.find(gone) };
        } finally {
            await desk.close();
        }
    });
};
