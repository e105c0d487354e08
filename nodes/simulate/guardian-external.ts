import { createHash, createPublicKey, verify } from "node:crypto";
import { isObject } from "../common/json.js";
import { signedBytes } from "../guardian/credential.js";
import { STAND_IN_MRV } from "../guardian/stand-in.js";

/** A stored document of the policy with an external data block, as its grid shows it. */
export interface ExternalDocument {
    id: string;
    hash: string;
    messageId: string;
    type: "mrv";
    owner: string;
    /** As Guardian marks it: 1 verified, 2 invalid. */
    signature: 1 | 2;
    option: { status: string };
    document: Record<string, unknown>;
}

export const EXTERNAL_POLICY = {
    id: STAND_IN_MRV.policyId,
    name: "MRV stand-in",
    description: "Takes signed data from outside",
    status: "PUBLISH",
    version: "1.0.0",
    policyTag: STAND_IN_MRV.policyTag,
    topicId: "0.0.4839203",
    policyRoles: ["Registrant"],
    userRoles: ["Registrant"],
    userRole: "Registrant",
};

/** Its blocks that have a tag. */
export const EXTERNAL_BLOCKS = { mrv_data: "externalDataBlock", mrv_grid: "interfaceDocumentsSourceBlock" } as const;

/** What the policy makes of a document that came to /external: one that is wrong is kept too, and marked so. */
export function receive({ owner, document }: Record<string, unknown>, nowMs: number): ExternalDocument {
    const credential = isObject(document) ? document : {};
    return {
        id: createHash("sha256").update(`${nowMs} ${JSON.stringify(document)}`).digest("hex").slice(0, 24),
        hash: createHash("sha256").update(JSON.stringify(document)).digest("base64"),
        messageId: `${Math.floor(nowMs / 1000)}.000000001`,
        type: "mrv",
        owner: String(owner),
        signature: isGood(credential) ? 1 : 2,
        option: { status: "Received" },
        document: structuredClone(credential),
    };
}

/** Form and signature, as the policy's engine checks them. */
function isGood(document: Record<string, unknown>): boolean {
    const { proof, credentialSubject } = document as { proof?: { jws?: string; verificationMethod?: string }; credentialSubject?: unknown[] };
    const subject = credentialSubject?.[0];
    if (!isObject(subject) || document["issuer"] !== STAND_IN_MRV.did || proof?.verificationMethod !== STAND_IN_MRV.method) return false;
    if (subject["type"] !== STAND_IN_MRV.type || !["field0", "field1", "field2", "accountId", "policyId"].every((name) => typeof subject[name] === "string")) return false;
    try {
        const bytes = signedBytes(document, proof, STAND_IN_MRV.context);
        return verify(null, bytes, createPublicKey(STAND_IN_MRV.key), Buffer.from(proof.jws?.split(".")[2] ?? "", "base64url"));
    } catch {
        return false;
    }
}
