import { createHash } from "node:crypto";
import { privateKeyOf } from "../common/ed25519.js";
import { hederaDid, type MrvConfig } from "./credential.js";

const STAND_IN_TYPE = "5f4dcc3b-0000-4000-8000-000000000001&1.0.0";
const STAND_IN_KEY = privateKeyOf(createHash("sha256").update("WattLedger stand-in: signs simulated data only").digest());
const STAND_IN_DID = hederaDid(STAND_IN_KEY, "testnet", "0.0.4839");

/** The stand-in's own device: its key is no secret, and means nothing anywhere else. */
export const STAND_IN_MRV: MrvConfig = {
    did: STAND_IN_DID,
    method: `${STAND_IN_DID}#did-root-key`,
    key: STAND_IN_KEY,
    owner: "did:hedera:testnet:stand-in_0.0.4839",
    policyId: "68d6c0ffee000000000000a2",
    policyTag: "Tag_1",
    type: STAND_IN_TYPE,
    contexts: ["schema:5f4dcc3b-0000-4000-8000-000000000001"],
    context: {
        "@version": 1.1,
        "@vocab": "https://w3id.org/traceability/#undefinedTerm",
        id: "@id",
        type: "@type",
        [STAND_IN_TYPE]: {
            "@id": `#${STAND_IN_TYPE}`,
            "@context": Object.fromEntries(["field0", "field1", "field2", "accountId", "policyId"].map((name) => [name, { "@type": "https://www.schema.org/text" }])),
        },
    },
    accountId: "0.0.4839",
};
