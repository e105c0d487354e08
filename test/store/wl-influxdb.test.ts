import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createServer } from "node:https";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { makeCertificate } from "../certificate.js";
import { makeUserDir, nodeRedPath, removeDir, startNodeRed, type NodeRed } from "../node-red.js";
import { InfluxStandIn } from "./influx-stand-in.js";

interface Answer {
    status: number;
    body: { version?: string; code?: string; message?: string };
}

const CANARY = "canary-5d1c77";

describe("wl-influxdb in Node-RED", function () {
    this.timeout(20_000);
    const servers = ([1, 2, 3] as const).map((dialect) => new InfluxStandIn(dialect));
    let red: NodeRed;
    let userDir: string;
    let token: string;

    before(async () => {
        for (const server of servers) {
            await server.start();
            server.token = `${CANARY}-token`;
            server.password = `${CANARY}-password`;
        }
        userDir = await makeUserDir();
        const { hashSync } = createRequire(nodeRedPath)("bcryptjs") as { hashSync: (text: string, rounds: number) => string };
        const users = [{ username: "installer", password: hashSync("let me in", 4), permissions: "*" }];
        const place = { z: "tab", x: 0, y: 0 };
        const { url, database, org } = servers[1]!;
        red = await startNodeRed({
            userDir,
            settings: { adminAuth: { type: "credentials", users, default: { permissions: "read" } } },
            flows: [
                { id: "tab", type: "tab", label: "t" },
                { id: "store", type: "wl-store", folder: "data" },
                { id: "influx", type: "wl-influxdb", url, version: "2", database, org: `${org}-wrong` },
                { id: "write", type: "wl-write", ...place, store: "store", influxdb: "influx", wires: [[], []] },
                { id: "inject", type: "inject", ...place, topic: "home/inv1", payload: '{"ac_power_w":1}', payloadType: "json", props: [{ p: "payload" }, { p: "topic", vt: "str" }], once: true, onceDelay: 0.1, wires: [["write"]] },
            ],
            credentials: { influx: { token: `${CANARY}-token`, password: `${CANARY}-password` } },
            env: { TEST_TOKEN: `${CANARY}-token` },
        });
        token = await logIn();
    });
    after(async () => {
        await red.stop();
        await removeDir(userDir);
        for (const server of servers) await server.stop();
    });

    async function logIn(): Promise<string> {
        const fields = { client_id: "node-red-admin", grant_type: "password", scope: "*", username: "installer", password: "let me in" };
        const response = await fetch(`${red.url}/auth/token`, { method: "POST", body: new URLSearchParams(fields) });
        return ((await response.json()) as { access_token: string }).access_token;
    }

    async function press(body: unknown, authorization = `Bearer ${token}`): Promise<Answer> {
        const response = await fetch(`${red.url}/wattledger/influxdb/test`, {
            method: "POST",
            headers: { "content-type": "application/json", ...(authorization && { authorization }) },
            body: JSON.stringify(body),
        });
        const text = await response.text();
        assert.ok(!text.includes(CANARY), text);
        return { status: response.status, body: (text.startsWith("{") ? JSON.parse(text) : {}) as Answer["body"] };
    }

    const fields = ({ url, database, org, dialect, username, password, token: secret }: InfluxStandIn): object => {
        return { url, database, org, version: "auto", ...(dialect === 1 ? { username, password } : { token: secret }) };
    };

    it("tests each version from the dialog and names it", async () => {
        for (const server of servers) {
            assert.deepEqual(await press(fields(server)), { status: 200, body: { version: server.version.replace("v", "") } });
            assert.equal(server.stored.size, 0);
        }
    });

    it("uses the stored secret where the dialog has none, and environment variables", async () => {
        assert.equal((await press({ ...fields(servers[1]!), id: "influx", token: "__PWRD__" })).status, 200);
        assert.equal((await press({ ...fields(servers[1]!), token: "${TEST_TOKEN}" })).status, 200);
        assert.equal((await press({ ...fields(servers[1]!), id: "nowhere", token: "__PWRD__" })).status, 400);
    });

    it("says what is wrong", async () => {
        const wrong = await press({ ...fields(servers[1]!), token: "wrong" });
        assert.deepEqual([wrong.status, wrong.body.code], [400, "INFLUX_REFUSED"]);
        assert.match(wrong.body.message!, /^Token refused \(401\): check the token/);
        assert.match((await press({ ...fields(servers[0]!), database: "other" })).body.message!, /^Database not found \(404\): create database "other"/);
        assert.equal((await press({ ...fields(servers[0]!), database: "other", createDatabase: true })).status, 200);
        assert.match((await press({ ...fields(servers[0]!), url: "http://127.0.0.1:1" })).body.message!, /cannot be reached/);
        for (const bad of [{}, [], { database: "x" }, { url: "influx:8086", database: "x" }, { url: `http://u:${CANARY}@host`, database: "x" }, { url: { a: 1 } }]) {
            assert.equal((await press(bad)).body.code, "CONFIG_INVALID", JSON.stringify(bad));
        }
    });

    it("checks the certificate unless told otherwise", async () => {
        const { cert, key } = makeCertificate();
        const secure = createServer({ cert, key }, (request, response) => {
            request.resume();
            response.writeHead(204, { "X-Influxdb-Version": "1.8.10" }).end();
        }).listen(0, "127.0.0.1");
        await once(secure, "listening");
        const at = { ...fields(servers[0]!), url: `https://127.0.0.1:${(secure.address() as AddressInfo).port}` };
        try {
            assert.match((await press(at)).body.message!, /^Certificate refused/);
            assert.equal((await press({ ...at, ca: cert })).status, 200);
            assert.equal((await press({ ...at, insecure: true })).status, 200);
        } finally {
            secure.close();
            secure.closeAllConnections();
        }
    });

    it("is not for those who may only look", async () => {
        const before = servers[0]!.writes.length;
        for (const authorization of ["", "Bearer wrong"]) assert.equal((await press(fields(servers[0]!), authorization)).status, 401);
        assert.equal(servers[0]!.writes.length, before);
    });

    it("lets no secret into the flows, the dialog or the log", async () => {
        await red.logged(/Bucket not found \(404\)/);
        const get = async (route: string): Promise<string> => (await fetch(`${red.url}${route}`, { headers: { authorization: `Bearer ${token}` } })).text();
        const flows = await get("/flows");
        assert.match(flows, /"wl-influxdb"/);
        const credentials = await get("/credentials/wl-influxdb/influx");
        assert.match(credentials, /"has_token":true/);
        for (const said of [flows, credentials, red.log()]) assert.ok(!said.includes(CANARY), said);
    });
});
