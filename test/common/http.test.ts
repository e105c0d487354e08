import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { inspect } from "node:util";
import { gzipSync } from "node:zlib";
import { createHttpClient, type HttpClient, HttpError, type HttpOptions, type HttpRequest, retryAfterMs } from "../../dist/common/http.js";
import { makeCertificate } from "../certificate.js";

describe("HTTP client", () => {
    const servers: Server[] = [];
    const clients: HttpClient[] = [];

    afterEach(async () => {
        for (const made of clients.splice(0)) made.close();
        for (const server of servers.splice(0)) {
            server.closeAllConnections();
            server.close();
            await once(server, "close");
        }
    });

    async function listen(server: Server, scheme = "http"): Promise<string> {
        servers.push(server);
        server.listen(0, "127.0.0.1");
        await once(server, "listening");
        return `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }

    const serve = (listener: RequestListener) => listen(createServer(listener));

    function client(options?: HttpOptions): HttpClient {
        const made = createHttpClient(options);
        clients.push(made);
        return made;
    }

    const ask = (request: Partial<HttpRequest> & { url: string }) => client().request({ timeoutMs: 5000, ...request });

    async function failure(promise: Promise<unknown>): Promise<HttpError> {
        const error: unknown = await promise.then(
            () => assert.fail("it answered"),
            (reason: unknown) => reason,
        );
        assert.ok(error instanceof HttpError);
        return error;
    }

    for (const status of [200, 204, 400, 401, 404, 429, 500, 503]) {
        it(`gives status ${status} to its caller`, async () => {
            const url = await serve((_, response) => response.writeHead(status, { "Retry-After": "7" }).end(status === 204 ? "" : '{"a":1}'));
            const answer = await ask({ url });
            assert.equal(answer.status, status);
            assert.equal(answer.headers["retry-after"], "7");
            assert.equal(answer.text, status === 204 ? "" : '{"a":1}');
        });
    }

    it("sends method, query, headers and a body of bytes as given", async () => {
        const body = gzipSync("cpu usage=1\n");
        const url = await serve((request, response) => {
            void request.toArray().then((chunks) => {
                const same = Buffer.concat(chunks).equals(body);
                response.end([request.method, request.url, request.headers["content-encoding"], same].join(" "));
            });
        });
        const answer = await ask({
            url: `${url}/write`,
            method: "POST",
            query: { db: "a b&c", precision: "ms" },
            headers: { "Content-Encoding": "gzip" },
            body,
        });
        assert.equal(answer.text, "POST /write?db=a+b%26c&precision=ms gzip true");
    });

    it("decodes a compressed answer", async () => {
        const url = await serve((_, response) => response.writeHead(200, { "Content-Encoding": "gzip" }).end(gzipSync("plain")));
        assert.equal((await ask({ url })).text, "plain");
    });

    it("keeps the connection for the next request, and leaves none behind", async () => {
        const ports = new Set<number | undefined>();
        const url = await serve((request, response) => {
            ports.add(request.socket.remotePort);
            response.end();
        });
        const http = client();
        for (let i = 0; i < 5; i++) await http.request({ url, timeoutMs: 5000 });
        assert.equal(ports.size, 1);
        http.close();
        // Hangs, and so fails, while a connection is open.
        const server = servers.pop();
        assert.ok(server);
        server.close();
        await once(server, "close");
    });

    it("never follows a redirect", async () => {
        let followed = 0;
        const elsewhere = await serve((_, response) => {
            followed++;
            response.end();
        });
        const url = await serve((_, response) => response.writeHead(307, { Location: elsewhere }).end());
        const answer = await ask({ url, headers: { Authorization: "Token secret" } });
        assert.equal(answer.status, 307);
        assert.equal(answer.headers["location"], elsewhere);
        assert.equal(followed, 0);
    });

    it("goes to the host itself whatever proxy the environment names", async () => {
        const url = await serve((_, response) => response.end("direct"));
        process.env["HTTP_PROXY"] = process.env["http_proxy"] = "http://127.0.0.1:9";
        try {
            assert.equal((await ask({ url })).text, "direct");
        } finally {
            delete process.env["HTTP_PROXY"];
            delete process.env["http_proxy"];
        }
    });

    describe("failures", () => {
        const secret = "canary-5d1f";

        /** Each way to fail: what the server does, and the code that the caller gets. */
        const cases: { name: string; code: string; listener?: RequestListener; request?: Partial<HttpRequest> }[] = [
            { name: "no answer", code: "HTTP_TIMEOUT", listener: () => {}, request: { timeoutMs: 50 } },
            {
                name: "an answer that drips and never ends",
                code: "HTTP_TIMEOUT",
                listener: (_, response) => {
                    const drip = setInterval(() => response.write("x"), 5);
                    response.on("close", () => clearInterval(drip));
                },
                request: { timeoutMs: 100 },
            },
            {
                name: "a connection that dies before the answer",
                code: "HTTP_FAILED",
                listener: (request) => request.socket.destroy(),
            },
            {
                name: "a connection that is reset",
                code: "HTTP_FAILED",
                listener: (request) => request.socket.resetAndDestroy(),
            },
            {
                name: "an answer that stops half-way",
                code: "HTTP_FAILED",
                listener: (_, response) => {
                    response.writeHead(200, { "Content-Length": "100" });
                    response.write("half", () => response.destroy());
                },
            },
            {
                name: "a compressed answer that stops half-way",
                code: "HTTP_FAILED",
                listener: (_, response) => {
                    response.writeHead(200, { "Content-Encoding": "gzip" });
                    response.write(gzipSync("a long text").subarray(0, 15), () => response.destroy());
                },
            },
            {
                name: "bytes that are not HTTP",
                code: "HTTP_FAILED",
                listener: (request) => request.socket.end("SSH-2.0-OpenSSH_9.2\r\n"),
            },
            {
                name: "an answer longer than allowed",
                code: "HTTP_TOO_LARGE",
                listener: (_, response) => response.end("x".repeat(1000)),
                request: { maxBytes: 999 },
            },
            {
                name: "a small answer that unpacks to a huge one",
                code: "HTTP_TOO_LARGE",
                listener: (_, response) => response.writeHead(200, { "Content-Encoding": "gzip" }).end(gzipSync(Buffer.alloc(5_000_000))),
            },
            {
                name: "an abort before the request",
                code: "HTTP_ABORTED",
                listener: (_, response) => response.end(),
                request: { signal: AbortSignal.abort() },
            },
            {
                name: "a caller's own deadline, told as one",
                code: "HTTP_TIMEOUT",
                request: { signal: AbortSignal.timeout(20) },
            },
        ];

        for (const { name, code, listener = () => {}, request } of cases) {
            it(`${name}: ${code}, and no secret in the error`, async () => {
                const url = (await serve(listener)).replace("//", `//user:${secret}@`);
                const error = await failure(
                    ask({
                        url,
                        method: "POST",
                        headers: { Authorization: `Token ${secret}` },
                        query: { p: secret },
                        body: { token: secret },
                        ...request,
                    }),
                );
                assert.equal(error.code, code);
                const everything = inspect(error, { depth: null, showHidden: true }) + JSON.stringify(error) + error.message;
                assert.ok(!everything.includes(secret), everything);
            });
        }

        it("an abort while waiting: HTTP_ABORTED, and the connection ends", async () => {
            const abort = new AbortController();
            const gone = new Promise((resolve) => {
                void serve((request) => {
                    request.socket.on("close", resolve);
                    abort.abort();
                }).then(async (url) => {
                    assert.equal((await failure(ask({ url, signal: abort.signal }))).code, "HTTP_ABORTED");
                });
            });
            await gone;
        });

        it("a port where nobody listens: HTTP_UNREACHABLE", async () => {
            const url = await serve(() => {});
            const server = servers.pop();
            assert.ok(server);
            server.close();
            await once(server, "close");
            const error = await failure(ask({ url }));
            assert.equal(error.code, "HTTP_UNREACHABLE");
            assert.match(error.message, /^127\.0\.0\.1:\d+ cannot be reached \(ECONNREFUSED\): check/);
        });

        it("a name that does not resolve: HTTP_UNREACHABLE", async () => {
            assert.equal((await failure(ask({ url: "http://no-such-host.invalid" }))).code, "HTTP_UNREACHABLE");
        });

        for (const url of ["", "influx", "127.0.0.1:8086", "http://", "http://a b", "file:///etc/passwd", "data:text/plain,x", "ftp://host"]) {
            it(`the address ${JSON.stringify(url)}: HTTP_URL`, async () => {
                assert.equal((await failure(ask({ url }))).code, "HTTP_URL");
            });
        }
    });

    describe("TLS", () => {
        const { cert, key } = makeCertificate();
        const serveTls = (options = {}) =>
            listen(
                createTlsServer({ cert, key, ...options }, (_, response) => response.end("safe")),
                "https",
            );

        it("refuses a certificate that nobody vouches for, unless told", async () => {
            const url = await serveTls();
            assert.equal((await failure(ask({ url }))).code, "HTTP_TLS");
            assert.equal((await client({ rejectUnauthorized: false }).request({ url, timeoutMs: 5000 })).text, "safe");
        });

        it("takes the certificate of a private authority", async () => {
            const url = await serveTls();
            assert.equal((await client({ ca: cert }).request({ url, timeoutMs: 5000 })).text, "safe");
            assert.equal((await failure(client({ ca: makeCertificate().cert }).request({ url, timeoutMs: 5000 }))).code, "HTTP_TLS");
        });

        it("says so where the server speaks plain HTTP", async () => {
            const url = await serve((_, response) => response.end());
            assert.equal((await failure(ask({ url: url.replace("http:", "https:") }))).code, "HTTP_TLS");
        });

        it("refuses TLS older than 1.2", async () => {
            const url = await serveTls({ minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" });
            assert.equal((await failure(client({ ca: cert }).request({ url, timeoutMs: 5000 }))).code, "HTTP_TLS");
        });
    });
});

describe("Retry-After", () => {
    const now = Date.UTC(2026, 5, 1, 12, 0, 0);
    const cap = 3_600_000;
    const cases: [string | undefined, number | undefined][] = [
        [undefined, undefined],
        ["0", 0],
        ["120", 120_000],
        [" 5 ", 5000],
        ["999999999999999999999", cap],
        // The three forms of an HTTP date, RFC 9110 §5.6.7.
        ["Mon, 01 Jun 2026 12:01:00 GMT", 60_000],
        ["Monday, 01-Jun-26 12:01:00 GMT", 60_000],
        ["Mon Jun  1 12:01:00 2026", 60_000],
        ["Mon, 01 Jun 2026 11:00:00 GMT", 0],
        ["Mon, 01 Jun 2099 12:00:00 GMT", cap],
        // What a lenient date parser would take for a time long past, and so for "at once".
        ["", undefined],
        ["-5", undefined],
        ["1.5", undefined],
        ["soon 5", undefined],
        ["2026", 2_026_000],
    ];
    for (const [value, expected] of cases) {
        it(`${JSON.stringify(value)} means ${expected} ms`, () => assert.equal(retryAfterMs(value, now, cap), expected));
    }
});
