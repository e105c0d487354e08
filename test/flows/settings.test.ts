import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { makeDir, type NodeRed, removeDir, root, startRedJs } from "../node-red.js";

const settingsFile = path.join(root, "flows/settings.js");
/** bcrypt of "sunshine", cost 4. */
const HASH = "$2b$04$VcWeh.7SE0uX//5SFiRYsuvU67dValFElJ6zDxTPF79lYLzdBYXfK";
const LOGIN = { WL_USER: "installer", WL_PASSWORD_HASH: HASH };
const basic = (password: string) => ({ authorization: `Basic ${Buffer.from(`installer:${password}`).toString("base64")}` });

const DASHBOARD = [
    { id: "base", type: "ui-base", name: "ui", path: "/dashboard", includeClientData: true, acceptsClientConfig: [] },
    { id: "theme", type: "ui-theme", name: "theme", colors: { surface: "#fff", primary: "#000", bgPage: "#eee", groupBg: "#fff", groupOutline: "#ccc" }, sizes: {} },
    { id: "page", type: "ui-page", name: "page", ui: "base", path: "/plant", layout: "grid", theme: "theme", order: 1 },
];

async function startGuarded(userDir: string, env: NodeJS.ProcessEnv): Promise<NodeRed> {
    await writeFile(path.join(userDir, "flows.json"), JSON.stringify(DASHBOARD));
    return startRedJs(["--settings", settingsFile, "--port", "0"], userDir, { WL_USER_DIR: userDir, WL_HOST: "", ...env });
}

/** Joins the dashboard's socket as its page does, over HTTP polling; what the server says of it. */
async function joinSocket(url: string, headers: Record<string, string>): Promise<string> {
    const poll = `${url}/dashboard/socket.io/?EIO=4&transport=polling`;
    const opened = await fetch(poll, { headers });
    if (!opened.ok) return String(opened.status);
    const { sid } = JSON.parse((await opened.text()).slice(1)) as { sid: string };
    await fetch(`${poll}&sid=${sid}`, { method: "POST", headers, body: "40" });
    return (await fetch(`${poll}&sid=${sid}`, { headers })).text();
}

describe("flows/settings.js", () => {
    let userDir: string;
    let nodeRed: NodeRed | undefined;

    beforeEach(async () => {
        userDir = await makeDir("wl-settings-");
    });
    afterEach(async () => {
        await nodeRed?.stop();
        nodeRed = undefined;
        await removeDir(userDir);
    });

    it("asks for the login on pages, admin API and the dashboard's socket", async () => {
        nodeRed = await startGuarded(userDir, LOGIN);
        const { url } = nodeRed;
        for (const page of ["/dashboard", "/dashboard/plant", "/dashboard/_setup", "/dashboard/_debug/datastore/x", "/flows", "/settings"]) {
            assert.equal((await fetch(url + page)).status, 401, page);
        }
        assert.match(await joinSocket(url, {}), /^44.*unauthorized/);
        assert.match(await joinSocket(url, basic("rain")), /^44.*unauthorized/);
        assert.match(await joinSocket(url, { ...basic("sunshine"), origin: "http://evil.example" }), /^44/);

        assert.equal((await fetch(`${url}/dashboard/plant`, { headers: basic("sunshine") })).status, 200);
        assert.match(await joinSocket(url, basic("sunshine")), /^40.*ui-config/s);
        const body = new URLSearchParams({ client_id: "node-red-admin", grant_type: "password", scope: "*", username: "installer", password: "sunshine" });
        const login = await fetch(`${url}/auth/token`, { method: "POST", body });
        const { access_token: token } = (await login.json()) as { access_token: string };
        assert.equal((await fetch(`${url}/flows`, { headers: { authorization: `Bearer ${token}` } })).status, 200);

        const wrong = async () => (await fetch(`${url}/dashboard`, { headers: basic("guess") })).status;
        const answers = [];
        for (let i = 0; i < 6; i++) answers.push(await wrong());
        assert.equal(answers.at(-1), 429);
    });

    it("lets this machine in without a login, and no other site through its browser", async () => {
        nodeRed = await startGuarded(userDir, { WL_USER: "", WL_PASSWORD_HASH: "" });
        const { url } = nodeRed;
        const page = await fetch(`${url}/dashboard/plant`);
        assert.equal(page.status, 200);
        assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'self'/);
        assert.equal(page.headers.get("x-content-type-options"), "nosniff");
        assert.match(await joinSocket(url, { origin: url }), /^40/);

        const foreign = { origin: "http://evil.example" };
        assert.match(await joinSocket(url, foreign), /^44/);
        const deploy = await fetch(`${url}/flows`, { method: "POST", headers: { ...foreign, "content-type": "application/json" }, body: "[]" });
        assert.equal(deploy.status, 403);
        assert.equal(deploy.headers.get("access-control-allow-origin"), null);
        assert.equal((await fetch(`${url}/flows`, { headers: { "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" } })).status, 403);
        assert.equal((await fetch(`${url}/settings`, { headers: foreign })).status, 403);

        const install = await fetch(`${url}/nodes`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"module":"left-pad"}' });
        assert.equal(install.status, 404);
        assert.equal((await fetch(`${url}/diagnostics`)).status, 403);
        const file = path.join(userDir, "credential.secret");
        assert.equal((await stat(file)).mode & 0o777, 0o600);
        assert.match(await readFile(file, "utf8"), /^[0-9a-f]{64}$/);
    });

    it("is not reached under a borrowed name", async () => {
        const settings = load({ WL_USER_DIR: userDir, PROBE: "evil.example:1880" });
        assert.equal(settings.stdout, "refused\n");
        assert.equal(load({ WL_USER_DIR: userDir, PROBE: "localhost:1880" }).stdout, "passed\n");
        assert.equal(load({ WL_USER_DIR: userDir, PROBE: "plant.example", WL_ORIGIN: "https://plant.example" }).stdout, "passed\n");
    });

    it("refuses settings that would leave a door open, and says what to do", () => {
        assert.match(load({ WL_USER_DIR: userDir, WL_HOST: "0.0.0.0" }).stderr, /lets other machines in: set WL_USER and WL_PASSWORD_HASH/);
        assert.match(load({ WL_USER_DIR: userDir, WL_USER: "installer" }).stderr, /Set both WL_USER and WL_PASSWORD_HASH/);
        assert.match(load({ WL_USER_DIR: userDir, WL_USER: "installer", WL_PASSWORD_HASH: "plain" }).stderr, /must be a bcrypt hash/);
        assert.equal(load({ WL_USER_DIR: userDir, WL_HOST: "0.0.0.0", ...LOGIN }).status, 0);
    });

    it("keeps one secret for the stored credentials", async () => {
        load({ WL_USER_DIR: userDir });
        const first = await readFile(path.join(userDir, "credential.secret"), "utf8");
        load({ WL_USER_DIR: userDir });
        assert.equal(await readFile(path.join(userDir, "credential.secret"), "utf8"), first);
        assert.deepEqual(await readdir(userDir), ["credential.secret"]);
    });

    it("makes it anew where a full disk left it empty, and leaves none so", async () => {
        const secret = path.join(userDir, "credential.secret");
        assert.match(load({ WL_USER_DIR: userDir }, "ulimit -f 0").stderr, /EFBIG/);
        assert.deepEqual(await readdir(userDir), []);
        await writeFile(secret, "");
        assert.equal(load({ WL_USER_DIR: userDir }).status, 0);
        assert.match(await readFile(secret, "utf8"), /^[0-9a-f]{64}$/);
    });
});

/** Loads the settings in a process of its own; with PROBE it also sends a request for that host through their middleware. */
function load(env: NodeJS.ProcessEnv, limit = ":"): { stdout: string; stderr: string; status: number | null } {
    const script = `
        const { httpAdminMiddleware: protect } = require(${JSON.stringify(settingsFile)});
        const res = { set() {}, removeHeader() {}, status() { return res; }, type() { return res; }, send() { console.log("refused"); } };
        if (process.env.PROBE) protect({ headers: { host: process.env.PROBE } }, res, () => console.log("passed"));`;
    const clean = { PATH: process.env["PATH"], ...env };
    return spawnSync("/bin/sh", ["-c", `${limit}; exec "$0" "$@"`, process.execPath, "-e", script], { encoding: "utf8", env: clean });
}
