import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as ask, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { SIMULATED_HEADER } from "../../dist/common/simulated.js";
import { createHttpClient } from "../../dist/common/http.js";
import type { Clock } from "../../dist/common/clock.js";
import { GuardianClient } from "../../dist/guardian/client.js";
import type { Account, SessionFile } from "../../dist/guardian/session.js";
import { GuardianSimulator, SIM_TENANT_ID, type GuardianSimOptions } from "../../dist/simulate/guardian-server.js";
import { breaches } from "./contract.js";

export const PASSWORD = "stand-in";

/** A file that is in memory. */
export class MemoryFile implements SessionFile {
    state: unknown;
    load(): unknown {
        return structuredClone(this.state);
    }
    save(state: unknown): void {
        this.state = structuredClone(state);
    }
}

/** Stand-ins and clients of one test; `close` ends them all, and fails where one of them broke Guardian's contract. */
export class Rig {
    /** Every exchange of the test that is not as Guardian's contract has it. */
    readonly breaches: string[] = [];
    private readonly simulators: GuardianSimulator[] = [];
    private readonly clients: GuardianClient[] = [];
    private readonly proxies: Server[] = [];

    async simulator(options: Partial<GuardianSimOptions> = {}): Promise<GuardianSimulator> {
        const onRequest: GuardianSimOptions["onRequest"] = (line, exchange) => {
            if (!exchange.path.startsWith("/mirror")) this.breaches.push(...breaches(exchange));
            options.onRequest?.(line, exchange);
        };
        const simulator = new GuardianSimulator({ host: "127.0.0.1", port: 0, profile: "g3x", rounding: "nearest", seed: 1, password: PASSWORD, ...options, onRequest });
        this.simulators.push(simulator);
        await simulator.start();
        return simulator;
    }

    client(simulator: { url: string }, account: Partial<Account> = {}, options: { file?: SessionFile; clock?: Clock; timeoutMs?: number } = {}): GuardianClient {
        const client = new GuardianClient(
            { url: simulator.url, loginBy: "username", username: "pp", password: PASSWORD, tenantId: SIM_TENANT_ID, ...account },
            // No backoff is as long as a test.
            { http: createHttpClient(), random: () => 0, ...options },
        );
        this.clients.push(client);
        return client;
    }

    /** Base of the API of the stand-in without its mark: as a real Guardian would answer. */
    async disguised(simulator: GuardianSimulator): Promise<string> {
        const proxy = createServer((request, response) => {
            const { method = "", url = "", headers } = request;
            const onward = ask(new URL(url, simulator.url), { method, headers }, (answer) => {
                const { [SIMULATED_HEADER]: _mark, ...kept } = answer.headers;
                response.writeHead(answer.statusCode ?? 500, kept);
                answer.pipe(response);
            });
            onward.on("error", () => response.destroy());
            request.pipe(onward);
        });
        this.proxies.push(proxy);
        proxy.listen(0, "127.0.0.1");
        await once(proxy, "listening");
        return `http://127.0.0.1:${(proxy.address() as AddressInfo).port}/api/v1`;
    }

    async close(): Promise<void> {
        for (const proxy of this.proxies.splice(0)) {
            proxy.closeAllConnections();
            proxy.close();
        }
        for (const client of this.clients.splice(0)) client.close();
        for (const simulator of this.simulators.splice(0)) await simulator.close();
        assert.deepEqual([...new Set(this.breaches.splice(0))], []);
    }
}

/** The code that a promise rejects with. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
    return promise.then(
        () => "none",
        (error: unknown) => String((error as { code?: string }).code),
    );
}

/** A clock on which waiting takes no time to speak of, and which a test can move on. */
export class FastClock implements Clock {
    private offset = 0;

    now(): number {
        return Date.now() + this.offset;
    }
    monotonic(): number {
        return performance.now() + this.offset;
    }
    async sleep(ms: number, signal?: AbortSignal): Promise<void> {
        this.offset += ms;
        await wait(1, undefined, signal && { signal });
    }
    after(ms: number, task: () => void): () => void {
        const timer = setTimeout(task, ms);
        return () => clearTimeout(timer);
    }
    advance(ms: number): void {
        this.offset += ms;
    }
}
