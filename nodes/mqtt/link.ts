import type { connect, IClientOptions, IConnackPacket } from "mqtt";
import { Backoff } from "../common/backoff.js";
import { type Clock, systemClock, within } from "../common/clock.js";
import { errorCode, errorText, WattError } from "../common/errors.js";
import type { StatusKind } from "../common/status.js";
import { Turns } from "../common/turns.js";
import { Connection, type MqttMessage } from "./connection.js";
import { connectionError, MqttError, subscribeRefusal } from "./errors.js";
import { brokerName, isTls, type MqttSettings, readTls } from "./settings.js";
import { coverOf, covers, filterFault, subscriptionIdentifier, matches, shareFault, topicFault } from "./topics.js";

export type { MqttMessage } from "./connection.js";

/** What a user of a link wants to hear. */
export interface MqttSubscription {
    /** Topic filters, wildcards included. A message that several of them select comes once. */
    topics: string[];
    /** Not 2: what counts is that a message is kept before it is acknowledged, and its sender tells repeats apart. */
    qos: 0 | 1;
    /** Shares the messages with every client that subscribes with the same group (MQTT 5 §4.8.2). */
    share?: string;
    /**
     * A message of QoS 1 is acknowledged when this resolves, in the order in which messages came; many are under way at once. It
     * must settle. Rejecting means "not now": the link connects again after a pause and the broker sends the message once more, and
     * all after it; so resolve what can never be kept. Messages may come twice. Brokers send a limited number (Mosquitto 20)
     * before an acknowledgement: commit without waiting for more.
     */
    onMessage(message: MqttMessage): Promise<void>;
}

/**
 * `idle` not connected because nobody asks · `connecting` · `up` connected and, for a user, its topics subscribed · `refused` the
 * broker refused a user's topics · `down` no connection, tried again by itself.
 */
export type MqttStateName = "idle" | "connecting" | "up" | "refused" | "down";

export interface MqttState {
    name: MqttStateName;
    /** Ready for a node's status. */
    kind: StatusKind;
    text: string;
    /** Why it is down or refused. */
    error?: MqttError;
}

/** What the owner of a link may want to hear. Called from the link's own events: must be quick and must not throw. */
export interface LinkListener {
    onState?(state: MqttState): void;
    /** Once an outage, and again when its reason is another: the connection was lost or could not be made. */
    onLost?(error: MqttError): void;
    /** Once an outage, when it is over. */
    onBack?(): void;
    /** Something is lost, or will be. */
    onWarning?(text: string): void;
}

export interface LinkOptions extends LinkListener {
    clock?: Clock;
    random?: () => number;
    connect?: typeof connect;
    /** Connects at `start` at the earliest: what waits in the session is for users who have not joined yet. */
    waitForStart?: boolean;
}

/** A user's place in a link. */
export interface MqttHandle {
    /**
     * Resolves when the broker has the message (QoS 0: when it is on its way). It is not repeated: what a rejection leaves open is
     * the caller's to decide.
     * @throws MqttError MQTT_CLOSED without a connection, or when it ends before the answer · MQTT_TOO_LARGE · MQTT_PUBLISH
     */
    publish(topic: string, payload: string | Buffer, options?: { qos?: 0 | 1; retain?: boolean }): Promise<void>;
}

interface Parked {
    message: MqttMessage;
    settle: (kept: Promise<void> | void) => void;
}

interface User {
    topics: string[];
    qos: 0 | 1;
    share: string | undefined;
    onMessage: MqttSubscription["onMessage"];
    onState: ((state: MqttState) => void) | undefined;
    told: MqttState;
    /** What came while a deploy has this user's node away. */
    away: Parked[] | undefined;
    cancelAway: (() => void) | undefined;
    /** Its topics are being unsubscribed. */
    going: boolean;
}

/** A filter as it is sent, and for whom. */
interface Wanted {
    share: string | undefined;
    qos: 0 | 1;
}

const IDLE: MqttState = { name: "idle", kind: "idle", text: "not connected" };
const CONNECTING: MqttState = { name: "connecting", kind: "busy", text: "connecting" };
const UP: MqttState = { name: "up", kind: "ok", text: "connected" };

const CONNECT_TIMEOUT_MS = 10_000;
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 60_000;
/** A connection that has lasted so long has got over what ended the ones before. */
const STABLE_MS = 60_000;
/** A user whose node a deploy makes anew is waited for so long, with its messages. */
const AWAY_MS = 10_000;
/** Refused topics are asked for again after this long: access lists change. */
const ASK_AGAIN_MS = 60_000;
/** Bytes that may be with the users at once, unless one message is larger: 64 messages of the usual largest size, and little on a Pi with 1 GB. */
const MAX_BYTES_WITH_USERS = 16 * 1024 * 1024;
/** Before connecting again, users settle what they have, so that it does not pile up. */
const SETTLE_WITHIN_MS = 30_000;
/** Closing: acknowledging what is being kept, or unsubscribing. */
const CLOSE_WITHIN_MS = 500;
/** What a broker had sent before it took an unsubscription arrives until nothing came for this long. */
const QUIET_MS = 100;
const QUIET_WITHIN_MS = 1_000;
const MAX_TOPICS_A_PACKET = 100;
const MAX_KNOWN_TOPICS = 10_000;

/**
 * The one connection of a client id to a broker, shared by its users: connected while it has some, made again with a jittered
 * backoff, its session kept by the broker. Each user gets each message once, and a message is acknowledged when all have kept it.
 */
export class MqttLink {
    private readonly clock: Clock;
    private readonly backoff: Backoff;
    private readonly random: () => number;
    private readonly users = new Map<string, User>();
    private readonly broker: string;
    private connection: Connection | undefined;
    /** Counts attempts: what an earlier one still has to say is not heard. */
    private attempt = 0;
    private current = IDLE;
    private started: boolean;
    private closed = false;
    /** There was a session before. */
    private hadSession = false;
    /** Codes that this outage was told with. */
    private outage: Set<string> | undefined;
    /** Connections in a row that the broker closed soon and without a reason. */
    private unexplained = 0;
    /** Told on this connection. */
    private readonly warned = new Set<string>();
    /** Filters as sent, on this connection. */
    private readonly subscribed = new Map<string, Wanted>();
    /** Filters that the broker refused on this connection, with the state of who wants them. */
    private readonly refused = new Map<string, MqttState & { share: string | undefined }>();
    private readonly turns = new Turns();
    private syncing: Promise<void> = Promise.resolve();
    private lastClose: Promise<unknown> = Promise.resolve();
    private lastSettled: Promise<unknown> = Promise.resolve();
    private readonly leaving = new Set<Promise<void>>();
    /** Who takes a topic. */
    private readonly known = new Map<string, User[]>();
    private cancelRetry: (() => void) | undefined;
    private cancelStable: (() => void) | undefined;
    private cancelAsk: (() => void) | undefined;

    constructor(
        private readonly settings: MqttSettings,
        private readonly options: LinkOptions = {},
    ) {
        this.clock = options.clock ?? systemClock;
        this.random = options.random ?? Math.random;
        this.backoff = new Backoff({ base: FIRST_RETRY_MS, cap: LONGEST_RETRY_MS, random: this.random });
        this.broker = brokerName(settings.url);
        this.started = !options.waitForStart;
    }

    get state(): MqttState {
        return this.current;
    }

    /** All users have joined: connects if there are any. */
    start(): void {
        this.started = true;
        if (this.users.size > 0 && this.current === IDLE) this.connect();
    }

    /**
     * Adds a user, brings one back that a deploy made anew, or changes what one asks for; the first one connects.
     * @throws WattError CONFIG_INVALID for topics that are none
     */
    join(id: string, subscription: MqttSubscription | undefined, onState?: (state: MqttState) => void): MqttHandle {
        const { topics = [], qos = 0, share } = subscription ?? {};
        this.check(topics, share);
        const before = this.users.get(id);
        before?.cancelAway?.();
        const user: User = {
            topics: [...topics],
            qos,
            share,
            onMessage: async (message) => subscription?.onMessage(message),
            onState,
            told: CONNECTING,
            away: undefined,
            cancelAway: undefined,
            going: false,
        };
        this.users.set(id, user);
        this.known.clear();
        for (const { message, settle } of before?.away ?? []) settle(selects(user, message.topic) ? user.onMessage(message) : undefined);
        // One that only adds topics has had the retained messages of the others.
        const known = before && !before.away && before.share === share ? before.topics : [];
        if (this.current === UP) this.sync({ share, topics: topics.filter((topic) => !known.includes(topic)) });
        else if (this.current === IDLE && this.started) this.connect();
        this.tell(user);
        return {
            publish: (topic, payload, { qos: of = 0, retain = false } = {}) => this.publish(topic, payload, { qos: of, retain }),
        };
    }

    /**
     * Removes a user. One that is gone for good is unsubscribed first and still given what was on its way; one that is only made
     * anew keeps its place, and its messages, for a while.
     */
    async leave(id: string, forGood: boolean): Promise<void> {
        const user = this.users.get(id);
        if (!user) return;
        user.onState = undefined;
        if (this.closed) return;
        if (!forGood) {
            user.away = [];
            user.cancelAway = this.clock.after(AWAY_MS, () => this.remove(id, user, false));
            return;
        }
        const left = this.unsubscribe(id, user);
        this.leaving.add(left);
        await left;
        this.leaving.delete(left);
    }

    /** Ends the connection. The session stays with the broker and collects messages, unless this link is gone for good. */
    async close(forGood: boolean): Promise<void> {
        await Promise.all(this.leaving);
        this.closed = true;
        for (const user of this.users.values()) user.cancelAway?.();
        const { connection } = this;
        if (connection && this.current === UP) {
            if (forGood && this.subscribed.size > 0) await within(this.clock, CLOSE_WITHIN_MS, connection.unsubscribe([...this.subscribed.keys()]));
            connection.hush();
            this.abandon();
            await within(this.clock, CLOSE_WITHIN_MS, connection.settled());
        }
        this.disconnect(forGood);
        this.users.clear();
        this.show(IDLE);
        await this.lastClose;
    }

    private check(topics: string[], share: string | undefined): void {
        for (const topic of topics) {
            const fault = filterFault(topic);
            if (fault) throw new WattError("CONFIG_INVALID", `Check the settings: topic "${topic}" ${fault}.`);
        }
        if (share === undefined) return;
        const fault = shareFault(share);
        if (fault) throw new WattError("CONFIG_INVALID", `Check the settings: share group "${share}" ${fault}.`);
        if (this.settings.version !== 5) throw new WattError("CONFIG_INVALID", "Check the settings: a share group needs MQTT 5 in the MQTT link.");
    }

    private async publish(topic: string, payload: string | Buffer, options: { qos: 0 | 1; retain: boolean }): Promise<void> {
        const fault = topicFault(topic);
        if (fault) throw new MqttError("MQTT_PUBLISH", `The topic "${topic}" ${fault}.`);
        const { connection } = this;
        if (this.current !== UP || !connection) throw this.current.error ?? new MqttError("MQTT_CLOSED", `There is no connection to ${this.broker}.`);
        await connection.publish(topic, payload, options);
    }

    private connect(): void {
        if (this.closed) return;
        this.cancelRetry?.();
        const attempt = ++this.attempt;
        this.show(CONNECTING);
        this.open(attempt).catch((error: unknown) => {
            if (attempt === this.attempt) this.lose(connectionError(error, this.broker));
        });
    }

    private async open(attempt: number): Promise<void> {
        // The broker would take the session from the old connection while it lasts.
        await this.lastClose;
        await within(this.clock, SETTLE_WITHIN_MS, this.lastSettled);
        const { url, inFlight } = this.settings;
        const tls = await readTls(url, this.settings.tls);
        if (attempt !== this.attempt) return;
        const connection: Connection = new Connection(
            {
                url,
                client: { ...tls, ...this.clientOptions() },
                maxMessages: inFlight,
                maxBytes: MAX_BYTES_WITH_USERS,
                take: (message) => this.take(message),
                clock: this.clock,
                onEnd: (cause) => {
                    if (connection === this.connection) this.lose(this.explain(cause));
                },
                ...(this.options.connect && { connect: this.options.connect }),
            },
            (connack) => {
                if (connection === this.connection) this.opened(connack);
            },
        );
        this.connection = connection;
    }

    private clientOptions(): IClientOptions {
        const { version, clientId, clean, keepAliveS, sessionExpiryS, username, password, inFlight, maxBytes } = this.settings;
        return {
            protocolVersion: version,
            clientId,
            clean,
            keepalive: keepAliveS,
            connectTimeout: CONNECT_TIMEOUT_MS,
            ...(username !== undefined && { username }),
            ...(password !== undefined && { password }),
            ...(version === 5 && {
                properties: { receiveMaximum: inFlight, maximumPacketSize: maxBytes, ...(!clean && { sessionExpiryInterval: sessionExpiryS }) },
            }),
        };
    }

    private opened({ sessionPresent }: IConnackPacket): void {
        if (this.hadSession && !sessionPresent) {
            this.warn("session", `${this.broker} had forgotten the session: what was published in the meantime is lost. Turn on the broker's persistence.`);
        }
        this.hadSession = !this.settings.clean;
        this.cancelStable = this.clock.after(STABLE_MS, () => {
            this.unexplained = 0;
            this.backoff.reset();
            this.back();
        });
        // What only shows some time after connecting may come again.
        if (!this.outage?.has("MQTT_NOT_STORED") && !this.outage?.has("MQTT_TAKEN_OVER")) this.back();
        this.current = UP;
        this.options.onState?.(UP);
        this.sync();
    }

    private explain(cause: unknown): MqttError {
        const { url, clientId } = this.settings;
        if (this.current !== UP && (cause === undefined || errorCode(cause) === "ECONNRESET") && !/before secure TLS/.test(errorText(cause))) {
            const hint = isTls(url) ? "does it want a client certificate, or another one?" : "is mqtts:// needed?";
            return new MqttError("MQTT_CLOSED", `${this.broker} closes connections without an answer: ${hint}`);
        }
        if (cause !== undefined) return connectionError(cause, this.broker);
        // By 3.1.1 a broker cannot say why, and Mosquitto 2.0 does not by 5.0 either.
        this.unexplained++;
        if (this.unexplained < 2) return new MqttError("MQTT_CLOSED", `${this.broker} closed the connection.`);
        return new MqttError("MQTT_TAKEN_OVER", `${this.broker} closed the connection again, as brokers do when another client uses the client id ${clientId}: give each Node-RED one of its own in the MQTT link.`, "client id in use?");
    }

    private lose(error: MqttError): void {
        this.disconnect();
        const wait = error.needsPerson ? LONGEST_RETRY_MS * (0.5 + this.random() / 2) : this.backoff.next();
        this.cancelRetry = this.clock.after(wait, () => this.connect());
        this.show({ name: "down", kind: "error", text: error.text, error });
        this.outage ??= new Set();
        if (this.outage.has(error.code)) return;
        this.outage.add(error.code);
        this.options.onLost?.(error);
    }

    private back(): void {
        if (!this.outage) return;
        this.outage = undefined;
        this.options.onBack?.();
    }

    private disconnect(forGood = false): void {
        this.attempt++;
        for (const cancel of [this.cancelRetry, this.cancelStable, this.cancelAsk]) cancel?.();
        this.subscribed.clear();
        this.refused.clear();
        this.warned.clear();
        const { connection } = this;
        this.connection = undefined;
        if (!connection) return;
        this.lastClose = connection.close(forGood);
        this.abandon();
        this.lastSettled = connection.settled();
    }

    /** What is kept for users that are away comes again with the session. */
    private abandon(): void {
        for (const user of this.users.values()) {
            for (const { settle } of user.away?.splice(0) ?? []) settle(Promise.reject(new Error("not taken")));
        }
    }

    private async take(message: MqttMessage): Promise<void> {
        const { maxBytes } = this.settings;
        if (message.payload.length > maxBytes) {
            this.warn("size", `A message of ${message.payload.length} bytes for ${message.topic} was dropped: the MQTT link takes ${maxBytes}.`);
            return;
        }
        const users = this.takers(message);
        if (users.length === 0) {
            this.warn("stray", `A message for ${message.topic} was dropped: the broker's session holds a topic that no node here asks for any more. Another client id starts a new session.`);
            return;
        }
        try {
            await (users.length === 1 ? keep(users[0]!, message) : Promise.all(users.map((user) => keep(user, message))));
        } catch (error) {
            throw new MqttError("MQTT_NOT_STORED", `Messages could not be kept and stay with the broker: ${errorText(error)}`, "messages not kept", { cause: error });
        }
    }

    /** Users of a message, each once. */
    private takers({ topic, properties }: MqttMessage): User[] {
        const id = properties?.subscriptionIdentifier;
        const key = id === undefined ? topic : `${String(id)} ${topic}`;
        let found = this.known.get(key);
        if (found) return found;
        found = [...this.users.values()].filter((user) => selects(user, topic));
        if (id !== undefined) {
            // A topic that is shared and not shared is sent twice; each copy says what for. Not so in a session from before.
            const ids = [id].flat();
            const own = found.filter(({ share }) => ids.includes(subscriptionIdentifier(share)));
            if (own.length > 0) found = own;
        }
        if (this.known.size >= MAX_KNOWN_TOPICS) this.known.clear();
        this.known.set(key, found);
        return found;
    }

    /** Makes the broker's subscriptions what the users want; what is fresh is asked for again, for its retained messages. */
    private sync(fresh?: Pick<User, "topics" | "share">): void {
        const { connection } = this;
        if (!connection) return;
        this.syncing = this.turns
            .take(async () => {
                if (connection === this.connection) await this.subscribe(connection, fresh);
            })
            .catch((error: unknown) => {
                if (connection === this.connection) this.lose(connectionError(error, this.broker));
            });
    }

    private async subscribe(connection: Connection, fresh: Pick<User, "topics" | "share"> | undefined): Promise<void> {
        const wanted = this.wanted();
        const isDue = (key: string, { qos, share }: Wanted) =>
            (this.subscribed.get(key)?.qos ?? -1) < qos || (fresh !== undefined && share === fresh.share && fresh.topics.some((topic) => covers(plain(key, share), topic)));
        const due = [...wanted].filter(([key, filter]) => isDue(key, filter));
        const canIdentify = this.settings.version === 5 && connection.connack?.properties?.subscriptionIdentifiersAvailable !== false;
        for (const packet of packets(due)) {
            const [, { share, qos }] = packet[0]!;
            const keys = packet.map(([key]) => key);
            const codes = await connection.subscribe(keys, qos, canIdentify ? subscriptionIdentifier(share) : undefined);
            for (const [at, key] of keys.entries()) this.granted(key, { share, qos }, codes[at] ?? 0x80);
        }
        for (const key of this.refused.keys()) if (!wanted.has(key)) this.refused.delete(key);
        const over = [...this.subscribed.keys()].filter((key) => !wanted.has(key));
        if (over.length > 0) await connection.unsubscribe(over);
        for (const key of over) this.subscribed.delete(key);
        this.cancelAsk?.();
        if (this.refused.size > 0) this.cancelAsk = this.clock.after(ASK_AGAIN_MS, () => this.sync());
        for (const user of this.users.values()) this.tell(user);
    }

    private granted(key: string, filter: Wanted, code: number): void {
        if (code >= 0x80) {
            const error = subscribeRefusal(key, code);
            this.subscribed.delete(key);
            if (!this.refused.has(key)) this.refused.set(key, { name: "refused", kind: "error", text: error.text, error, share: filter.share });
            return;
        }
        this.refused.delete(key);
        this.subscribed.set(key, filter);
        if (code < filter.qos) this.warn("qos", `The broker grants ${key} QoS ${code} only: messages are lost when the connection is.`);
    }

    private wanted(): Map<string, Wanted> {
        const wanted = new Map<string, Wanted>();
        const users = [...this.users.values()].filter(({ going }) => !going);
        for (const share of new Set(users.map((user) => user.share))) {
            const group = users.filter((user) => user.share === share);
            for (const filter of coverOf(group.flatMap(({ topics }) => topics))) {
                const qos = group.some((user) => user.qos === 1 && user.topics.some((topic) => covers(filter, topic))) ? 1 : 0;
                wanted.set(share === undefined ? filter : `$share/${share}/${filter}`, { share, qos });
            }
        }
        return wanted;
    }

    /** Unsubscribes what only this user wants; it still gets what the broker had sent, or queued, before. */
    private async unsubscribe(id: string, user: User): Promise<void> {
        user.cancelAway?.();
        user.going = true;
        const { connection } = this;
        if (connection && this.current === UP && user.topics.length > 0 && !user.away) {
            this.sync();
            await within(this.clock, QUIET_WITHIN_MS, this.quiet(connection));
        }
        this.remove(id, user, true);
    }

    private async quiet(connection: Connection): Promise<void> {
        const end = this.clock.monotonic() + QUIET_WITHIN_MS;
        await this.syncing;
        for (let before = -1; before !== connection.received && connection === this.connection && this.clock.monotonic() < end; ) {
            before = connection.received;
            await this.clock.sleep(QUIET_MS);
        }
    }

    private remove(id: string, user: User, forGood: boolean): void {
        if (this.users.get(id) !== user || this.closed) return;
        user.going = true;
        if ([...this.users.values()].some(({ going, away }) => !going && !away)) {
            this.users.delete(id);
            this.known.clear();
            const dropped = user.away?.splice(0) ?? [];
            if (dropped.length > 0 && !forGood) this.options.onWarning?.(`${dropped.length} messages were dropped: the node they were for did not come back after a deploy.`);
            for (const { settle } of dropped) settle();
            if (this.current === UP) this.sync();
            return;
        }
        // Nobody is left: what came for a node that may come back stays with the broker.
        this.disconnect();
        this.users.delete(id);
        this.known.clear();
        this.outage = undefined;
        this.show(IDLE);
    }

    private warn(about: string, text: string): void {
        if (this.warned.has(about)) return;
        this.warned.add(about);
        this.options.onWarning?.(text);
    }

    private show(state: MqttState): void {
        this.current = state;
        this.options.onState?.(state);
        for (const user of this.users.values()) this.tell(user);
    }

    /** Tells a user its state, which is the link's unless its topics were refused or are not subscribed yet. */
    private tell(user: User): void {
        const state = this.stateOf(user);
        if (state === user.told) return;
        user.told = state;
        user.onState?.(state);
    }

    private stateOf({ topics, share }: User): MqttState {
        if (this.current !== UP) return this.current;
        const isWithin = (key: string, filter: { share: string | undefined }) => filter.share === share && topics.some((topic) => covers(plain(key, share), topic));
        const refused = [...this.refused].find(([key, state]) => isWithin(key, state));
        if (refused) return refused[1];
        const isCovered = (topic: string) => [...this.subscribed].some(([key, filter]) => filter.share === share && covers(plain(key, share), topic));
        return topics.every(isCovered) ? UP : CONNECTING;
    }
}

/** A filter as it is sent without its share group. */
function plain(key: string, share: string | undefined): string {
    return share === undefined ? key : key.slice(`$share/${share}/`.length);
}

function selects({ topics }: User, topic: string): boolean {
    return topics.some((filter) => matches(filter, topic));
}

function keep(user: User, message: MqttMessage): Promise<void> {
    const { away } = user;
    return away ? new Promise((settle) => away.push({ message, settle })) : user.onMessage(message);
}

/** SUBSCRIBE packets: one group and QoS each, and not too many topics. */
function packets(due: [string, Wanted][]): [string, Wanted][][] {
    const groups = new Map<string, [string, Wanted][]>();
    for (const entry of due) {
        const [, { share, qos }] = entry;
        const group = `${qos} ${share ?? ""}`;
        groups.set(group, [...(groups.get(group) ?? []), entry]);
    }
    const cut = (all: [string, Wanted][]) => Array.from({ length: Math.ceil(all.length / MAX_TOPICS_A_PACKET) }, (_, at) => all.slice(at * MAX_TOPICS_A_PACKET, (at + 1) * MAX_TOPICS_A_PACKET));
    return [...groups.values()].flatMap(cut);
}

/**
 * Connects as a link would, under a client id of its own so that no session is taken over, and leaves again.
 * @returns How long it took, ms.
 * @throws MqttError with what keeps a link from connecting
 */
export async function tryConnect(settings: MqttSettings, gone: AbortSignal): Promise<{ ms: number }> {
    const started = performance.now();
    let link: MqttLink | undefined;
    try {
        await new Promise<void>((resolve, reject) => {
            gone.addEventListener("abort", () => reject(new MqttError("MQTT_CLOSED", "Nobody waits for the answer any more.")));
            const { clientId } = settings;
            link = new MqttLink({ ...settings, clean: true, clientId: `${clientId.slice(0, 18)}test` }, { onLost: reject });
            link.join("test", undefined, ({ name }) => {
                if (name === "up") resolve();
            });
        });
        return { ms: Math.round(performance.now() - started) };
    } finally {
        await link?.close(true);
    }
}
