import { createHash } from "node:crypto";

/** What is wrong with a topic filter (MQTT 3.1.1 §4.7, 5.0 §4.7), undefined when nothing is. */
export function filterFault(filter: string): string | undefined {
    if (filter === "") return "must not be empty";
    if (Buffer.byteLength(filter) > 65_535) return "is too long";
    if (filter.includes("\0")) return "must not hold a null character";
    if (filter.startsWith("$share/")) return "takes a topic without $share: the group is a setting of its own";
    const levels = filter.split("/");
    if (levels.some((level, at) => level.includes("#") && (level !== "#" || at < levels.length - 1))) return "takes # only as the last level";
    if (levels.some((level) => level.includes("+") && level !== "+")) return "takes + only as a whole level";
    return undefined;
}

/** What is wrong with a topic to publish to, undefined when nothing is. */
export function topicFault(topic: string): string | undefined {
    return /[+#]/.test(topic) ? "must not hold + or #" : filterFault(topic);
}

/** What is wrong with the name of a share group (MQTT 5.0 §4.8.2). */
export function shareFault(group: string): string | undefined {
    return group === "" || /[/+#\0]/.test(group) ? "must be a name without / + #" : undefined;
}

/** True when a topic is one that a filter selects. Wildcards do not reach topics that begin with $ (§4.7.2). */
export function matches(filter: string, topic: string): boolean {
    return reaches(filter.split("/"), topic.split("/"));
}

/** True when every topic that `narrow` selects is selected by `wide` too. */
export function covers(wide: string, narrow: string): boolean {
    return reaches(wide.split("/"), narrow.split("/"));
}

function reaches(filter: string[], levels: string[]): boolean {
    const [first = ""] = levels;
    if (first.startsWith("$") && first !== filter[0]) return false;
    for (const [at, level] of filter.entries()) {
        if (level === "#") return true;
        const other = levels[at];
        if (other === undefined || other === "#") return false;
        if (level !== "+" && level !== other) return false;
    }
    return filter.length === levels.length;
}

/** The filters that select everything the given ones do, none of them within another: a broker may send a message once a filter. */
export function coverOf(filters: Iterable<string>): string[] {
    const all = [...new Set(filters)];
    return all.filter((filter) => !all.some((other) => other !== filter && covers(other, filter)));
}

/** The Subscription Identifier (MQTT 5.0 §3.8.2.1.2, 1..268,435,455) of a share group, or of none: the broker puts it on what it sends for that subscription. It stays the same over restarts, as the session does. */
export function subscriptionIdentifier(share: string | undefined): number {
    if (share === undefined) return 1;
    return 2 + (createHash("sha256").update(share).digest().readUInt32BE(0) & 0x7ff_ffff);
}
