import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { InfluxQl, isReadOnly } from "../../dist/store/influxql.js";

const SECRET = "t0ken-canary";

describe("InfluxQL", () => {
    let server: Server;
    let answer: (request: IncomingMessage, response: ServerResponse) => void;
    let influxql: InfluxQl;

    before(async () => {
        server = createServer((request, response) => answer(request, response)).listen(0, "127.0.0.1");
        await once(server, "listening");
    });
    beforeEach(() => {
        const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/proxy/`;
        influxql = new InfluxQl({ target: { url, version: "auto", database: "plant", org: "", retentionPolicy: "", token: SECRET }, timeoutMs: 1000 });
    });
    afterEach(() => influxql.close());
    after(async () => {
        const closed = once(server, "close");
        server.close();
        server.closeAllConnections();
        await closed;
    });

    const fails = async (code: string): Promise<void> => {
        await assert.rejects(influxql.query("SELECT 1"), (error: Error & { code: string }) => {
            assert.equal(error.code, code, error.message);
            assert.ok(!JSON.stringify(error).includes(SECRET) && !`${error.message}${error.stack}`.includes(SECRET));
            return true;
        });
    };

    it("asks with token, parameters and path, and turns the answer into rows", async () => {
        answer = (request, response) => {
            const { pathname, searchParams } = new URL(request.url!, "http://host");
            assert.equal(pathname, "/proxy/query");
            assert.equal(request.headers.authorization, `Token ${SECRET}`);
            assert.deepEqual([searchParams.get("db"), searchParams.get("epoch"), searchParams.get("params")], ["plant", "ms", '{"d":"x"}']);
            const series = [{ name: "m", tags: { device: "a" }, columns: ["time", "v"], values: [[1, 2], [3, null]] }];
            response.end(JSON.stringify({ results: [{ series }] }));
        };
        assert.deepEqual(await influxql.query("SELECT 1", { d: "x" }), [
            { device: "a", time: 1, v: 2 },
            { device: "a", time: 3, v: null },
        ]);
    });

    it("never waits longer than its deadline, and asks again the next time", async () => {
        answer = (_, response) => {
            response.writeHead(200, { "Content-Length": 100 }).write("{");
            setImmediate(() => response.socket!.destroy());
        };
        await fails("INFLUX_TIMEOUT");
        answer = () => undefined;
        await fails("INFLUX_TIMEOUT");
        answer = (request) => request.socket.destroy();
        await fails("INFLUX_UNREACHABLE");
        answer = (_, response) => response.end('{"results":[{}]}');
        assert.deepEqual(await influxql.query("SELECT 1"), []);
        const controller = new AbortController();
        answer = () => controller.abort();
        await assert.rejects(influxql.query("SELECT 1", {}, controller.signal));
    });

    it("says what is wrong, without the request it made", async () => {
        const echo = (status: number) => (request: IncomingMessage, response: ServerResponse) => {
            response.writeHead(status).end(JSON.stringify({ error: `no: ${request.headers.authorization}` }));
        };
        for (const [status, code] of [[400, "INFLUX_QUERY"], [401, "INFLUX_REFUSED"], [403, "INFLUX_REFUSED"], [500, "INFLUX_UNREACHABLE"]] as const) {
            answer = echo(status);
            await fails(code);
        }
        answer = (_, response) => response.end('{"results":[{"error":"database not found"}]}');
        await fails("INFLUX_QUERY");
        answer = (_, response) => response.end("<html>");
        await fails("INFLUX_UNREACHABLE");
    });

    it("knows a statement that only reads", () => {
        for (const good of ["SELECT a FROM b", " select 1 ;", "SHOW MEASUREMENTS", "SELECT 'drop; into' FROM \"into\"", "/* into */ SELECT 1 -- ; drop"]) {
            assert.ok(isReadOnly(good), good);
        }
        for (const bad of ["", "DROP SERIES", "SELECT 1; DROP SERIES", "SELECT * INTO b FROM a", "EXPLAIN x", "select 1 -- it's\n; drop series -- '", "/* ' */ delete from a -- '"]) {
            assert.ok(!isReadOnly(bad), bad);
        }
    });
});
