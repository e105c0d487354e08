// Puts a shipped flow into a user directory and keeps it up to date without ever touching what a person changed.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { readWhole, writeWhole } from "./files.js";

const hash = (text) => createHash("sha256").update(text).digest("hex");

/**
 * On the first start the flow is copied. A newer one replaces it only while nobody changed it; a changed flow stays, and the
 * new one is laid beside it. Returns what a person should know, or "".
 * @param credentials by node, as names of environment variables: Node-RED puts their values in when a node starts.
 */
export function placeFlow(userDir, shippedFile, credentials = {}) {
    const shipped = readFileSync(shippedFile, "utf8");
    const read = (name) => readWhole(path.join(userDir, name));
    const write = (name, text) => writeWhole(path.join(userDir, name), text);
    if (read("flows_cred.json") === undefined) write("flows_cred.json", JSON.stringify(credentials));
    const [present, last] = [read("flows.json"), read(".flow-shipped")];
    if (last === hash(shipped) && present !== undefined) return "";
    // The mark comes last: a start that ended before it is made up for by the next.
    if (present !== undefined && ![last, hash(shipped)].includes(hash(present))) {
        write("flows.new.json", shipped);
        write(".flow-shipped", hash(shipped));
        return "your changed flow is kept; the flow of this version is in flows.new.json beside it";
    }
    write("flows.json", shipped);
    write(".flow-shipped", hash(shipped));
    return "";
}
