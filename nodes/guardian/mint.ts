import type { HttpClient } from "../common/http.js";
import { isObject } from "../common/json.js";
import { readAnswer } from "./answer.js";
import type { GuardianClient } from "./client.js";
import { keyOf } from "./document.js";
import { TAGS } from "./policy.js";

/** Tokens that one presentation says were minted. */
export interface Minted {
    tokenId: string;
    amount: number;
    /** Topic message of the presentation; each serial of the token carries it as its memo. */
    messageId: string;
}

/** Hedera's mirror node: what the network itself says of a token. */
export interface Mirror {
    /** Such as `https://mainnet-public.mirrornode.hedera.com/api/v1`. */
    url: string;
    http: HttpClient;
}

const MAX_PAGES = 200;

/** What was minted for a report, by the presentations that hold its document. */
export async function tokensOf(client: GuardianClient, policyId: string, key: string, signal?: AbortSignal): Promise<Minted[]> {
    const found: Minted[] = [];
    for (const { document, messageId } of await client.grid(policyId, TAGS.tokens, signal)) {
        const credentials = (document as { verifiableCredential?: unknown } | undefined)?.verifiableCredential;
        const subjects = (Array.isArray(credentials) ? credentials : []).flatMap((credential: unknown) => (isObject(credential) ? credential["credentialSubject"] : []));
        if (!subjects.some((subject) => keyOf(subject) === key)) continue;
        for (const subject of subjects) {
            if (!isObject(subject) || subject["type"] !== "MintToken") continue;
            found.push({ tokenId: String(subject["tokenId"]), amount: Number(subject["amount"]), messageId: messageId ?? "" });
        }
    }
    return found;
}

/** Sentences on what is wrong between what should be minted, what Guardian says and what the network has; empty when all agree. */
export async function reconcile(tokens: Minted[], { mint, report }: { mint: number; report?: { credits: number } }, mirror?: Mirror, signal?: AbortSignal): Promise<string[]> {
    const alarms: string[] = [];
    const total = tokens.reduce((sum, { amount }) => sum + amount, 0);
    if (tokens.length > 1) alarms.push(`Guardian minted ${tokens.length} times for this report.`);
    if (total !== mint) alarms.push(`Guardian minted ${total} where ${mint} were to be expected.`);
    else if (report && total > report.credits) alarms.push(`Guardian minted ${total} for ${report.credits} whole tonnes.`);
    // In a dry run the token has an id that Hedera does not know.
    const real = tokens.filter(({ tokenId, messageId }) => mirror && /^\d+\.\d+\.\d+$/.test(tokenId) && messageId !== "");
    for (const { tokenId, amount, messageId } of real) {
        const serials = await serialsOf(mirror as Mirror, tokenId, messageId, signal);
        if (serials !== amount) alarms.push(`Hedera has ${serials} serials of token ${tokenId} for this report, Guardian says ${amount}: ${serials > amount ? "too many were minted, have them burned" : "the mint is not complete"}.`);
    }
    return alarms;
}

/** Serials whose memo is the message id of the presentation. */
async function serialsOf({ url, http }: Mirror, tokenId: string, messageId: string, signal?: AbortSignal): Promise<number> {
    let count = 0;
    let next: string | undefined = `${url}/tokens/${tokenId}/nfts?limit=100`;
    for (let page = 0; next !== undefined && page < MAX_PAGES; page++) {
        const response = await http.request({ url: next, timeoutMs: 30_000, maxBytes: 8 * 1024 * 1024, ...(signal && { signal }) });
        const { nfts, links } = readAnswer(response, Date.now()) as { nfts?: { metadata?: string; deleted?: boolean }[]; links?: { next?: string | null } };
        for (const { metadata, deleted } of nfts ?? []) {
            if (deleted !== true && Buffer.from(metadata ?? "", "base64").toString("utf8").includes(messageId)) count++;
        }
        next = typeof links?.next === "string" ? new URL(links.next, url).href : undefined;
    }
    return count;
}
