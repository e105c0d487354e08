import type { HttpClient } from "../../dist/common/http.js";
import type { Filings } from "../../dist/guardian/filings.js";

/** The program ended here, as by kill -9: nothing after this line was run, and nothing is tidied up. */
class Killed extends Error {}

/** Ends the program at its nth request or write, before or after it is carried out. */
export class Reaper {
    private left: number;
    /** Points passed so far. */
    passed = 0;
    dead = false;

    constructor(
        nth: number,
        private readonly after: boolean,
    ) {
        this.left = nth;
    }

    async around<T>(work: () => Promise<T>): Promise<T> {
        this.before();
        const value = await work();
        this.check();
        return value;
    }

    now<T>(work: () => T): T {
        this.before();
        const value = work();
        this.check();
        return value;
    }

    private before(): void {
        if (this.dead) throw new Killed("dead");
        this.passed++;
        this.left--;
        if (!this.after) this.check();
    }

    private check(): void {
        if (this.left < 0) this.dead = true;
        if (this.dead) throw new Killed("killed");
    }

    http(plain: HttpClient): HttpClient {
        return { request: (request) => this.around(() => plain.request(request)), close: () => plain.close() };
    }

    filings(filings: Filings): Filings {
        return new Proxy(filings, {
            get: (target, name) => {
                const member: unknown = Reflect.get(target, name);
                if (typeof member !== "function") return member;
                if (!["keep", "forget", "begin", "attempt", "update"].includes(String(name))) return member.bind(target) as unknown;
                return (...args: unknown[]) => this.now(() => Reflect.apply(member, target, args) as unknown);
            },
        });
    }
}
