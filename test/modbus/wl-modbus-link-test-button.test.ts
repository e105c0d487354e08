import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { makeUserDir, nodeRedPath, removeDir, startNodeRed, type NodeRed } from "../node-red.js";
import { FaultServer } from "./fault-server.js";

interface Answer {
    status: number;
    body: { ms?: number; code?: string; message?: string };
}

describe("The Test button of wl-modbus-link", function () {
    this.timeout(20_000);
    let server: FaultServer;
    let red: NodeRed;
    let userDir: string;
    let token: string;

    before(async () => {
        server = await FaultServer.start();
        userDir = await makeUserDir();
        const { hashSync } = createRequire(nodeRedPath)("bcryptjs") as { hashSync: (text: string, rounds: number) => string };
        const users = [{ username: "installer", password: hashSync("let me in", 4), permissions: "*" }];
        red = await startNodeRed({
            userDir,
            settings: { adminAuth: { type: "credentials", users, default: { permissions: "read" } } },
            env: { TEST_HOST: "127.0.0.1", TEST_PORT: String(server.port) },
        });
        token = await logIn();
    });
    after(async () => {
        await red.stop();
        await removeDir(userDir);
        await server.stop();
    });

    async function logIn(): Promise<string> {
        const fields = { client_id: "node-red-admin", grant_type: "password", scope: "*", username: "installer", password: "let me in" };
        const response = await fetch(`${red.url}/auth/token`, { method: "POST", body: new URLSearchParams(fields) });
        return ((await response.json()) as { access_token: string }).access_token;
    }

    async function press(body: unknown, authorization = `Bearer ${token}`): Promise<Answer> {
        const response = await fetch(`${red.url}/wattledger/modbus/test`, {
            method: "POST",
            headers: { "content-type": "application/json", ...(authorization && { authorization }) },
            body: JSON.stringify(body),
        });
        const text = await response.text();
        return { status: response.status, body: (text.startsWith("{") ? JSON.parse(text) : {}) as Answer["body"] };
    }

    it("connects, disconnects and says how long it took", async () => {
        const { status, body } = await press({ host: "127.0.0.1", port: String(server.port) });
        assert.equal(status, 200);
        assert.ok(Number.isInteger(body.ms));
        assert.equal(server.connections, 1);
        assert.equal(server.asked.length, 0);
    });

    it("understands environment variables", async () => {
        assert.equal((await press({ host: "${TEST_HOST}", port: "${TEST_PORT}" })).status, 200);
        assert.deepEqual((await press({ host: "${NOT_SET}", port: "502" })).body.code, "CONFIG_INVALID");
    });

    it("says why it does not connect", async () => {
        const closed = await FaultServer.start();
        await closed.stop();
        const refused = await press({ host: "127.0.0.1", port: closed.port });
        assert.equal(refused.status, 400);
        assert.equal(refused.body.code, "MODBUS_CLOSED");
        assert.match(refused.body.message ?? "", /^No connection to 127\.0\.0\.1:\d+: refused; check the port/);
    });

    it("answers garbage with a message", async () => {
        for (const body of [{}, [], { host: { a: 1 } }, { host: "a b" }, { host: "x", port: -1 }]) {
            const { status, body: answer } = await press(body);
            assert.deepEqual([status, answer.code], [400, "CONFIG_INVALID"], JSON.stringify(body));
        }
    });

    it("is not for those who may only look", async () => {
        const before = server.connections;
        for (const authorization of ["", "Bearer wrong"]) {
            assert.equal((await press({ host: "127.0.0.1", port: server.port }, authorization)).status, 401);
        }
        assert.equal(server.connections, before);
    });
});
