import { createHttpClient, type HttpClient, type HttpOptions } from "../common/http.js";
import type { Outcome } from "./delivery.js";
import type { InfluxServer, InfluxTarget } from "./influx-dialect.js";
import { InfluxSender } from "./influx-sender.js";
import { InfluxQl } from "./influxql.js";
import type { Outbox } from "./outbox.js";
import type { Store } from "./store.js";

export interface InfluxSettings {
    target: InfluxTarget;
    tls: HttpOptions;
    /** Creates a missing database of 1.x. */
    createDatabase: boolean;
}

/** Large: 3 Core acknowledges once a second, so a second's worth of a replay is one batch. The bound in bytes still holds. */
const BATCH_ENTRIES = 20_000;

/** One InfluxDB as its users share it: the sender of points, and InfluxQL. */
export class InfluxConnection {
    readonly influxql: InfluxQl;
    private readonly http: HttpClient;
    private readonly sender: InfluxSender;
    private readonly outboxes = new Map<Store, Outbox>();

    constructor(readonly settings: InfluxSettings) {
        const { target, tls, createDatabase } = settings;
        this.http = createHttpClient(tls);
        this.influxql = new InfluxQl({ target, tls });
        this.sender = new InfluxSender({
            http: this.http,
            target,
            ...(createDatabase && { createDatabase: (signal) => this.influxql.createDatabase(signal) }),
        });
    }

    /** The outbox that delivers a store's points to here, opened for the first of its users and named by an id that stays. */
    outbox(store: Store, name: string): Outbox {
        let outbox = this.outboxes.get(store);
        if (!outbox) {
            outbox = store.outbox(name, this.sender.deliver, { batchEntries: BATCH_ENTRIES });
            this.outboxes.set(store, outbox);
        }
        return outbox;
    }

    /** Who answers, and whether a write would be let in; writes nothing. */
    check(signal: AbortSignal): Promise<Outcome & { server?: InfluxServer }> {
        return this.sender.check(signal);
    }

    /** Ends deliveries. What was not delivered stays in the store, unless this InfluxDB is gone for good. */
    async close(isGone = false): Promise<void> {
        await Promise.all([...this.outboxes].map(([store, outbox]) => (isGone ? store.forget(outbox.name) : outbox.close())));
        this.http.close();
        this.influxql.close();
    }
}
