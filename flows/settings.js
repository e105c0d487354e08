// Hardened Node-RED settings for the flows in this folder; `npm start` uses them, and so can any Node-RED:
// `node-red --settings <this file>`. Every choice of a site comes from the environment:
//   WL_HOST             address to listen on, 127.0.0.1 unless set; any other one asks for a login
//   WL_PORT             1880
//   WL_USER_DIR         ~/.wattledger
//   WL_USER             one login for editor, pages and dashboard socket, with
//   WL_PASSWORD_HASH    its password as bcrypt hash (`npx node-red admin hash-pw` makes one)
//   WL_ORIGIN           public address(es) of a reverse proxy, such as https://plant.example.org, comma separated
//   WL_TLS_CERT/_KEY    PEM files; the certificate is read again every day
//   WL_CREDENTIAL_SECRET  encrypts the stored credentials; one is made and kept in the user directory unless set
//   WL_LOG              fatal, error, warn, info, debug or trace
const { createHash, timingSafeEqual } = require("node:crypto");
const fs = require("node:fs");
const { createRequire } = require("node:module");
const os = require("node:os");
const path = require("node:path");
const { keptSecret } = require("./files.js");

const { env } = process;
const host = env.WL_HOST || "127.0.0.1";
const userDir = path.resolve(env.WL_USER_DIR || path.join(os.homedir(), ".wattledger"));
const loopback = host === "localhost" || host === "::1" || /^127\./.test(host);

if (!env.WL_USER !== !env.WL_PASSWORD_HASH) throw new Error("Set both WL_USER and WL_PASSWORD_HASH, or neither.");
if (env.WL_PASSWORD_HASH && !/^\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}$/.test(env.WL_PASSWORD_HASH)) {
    throw new Error("WL_PASSWORD_HASH must be a bcrypt hash: make one with `npx node-red admin hash-pw`.");
}
if (!loopback && !env.WL_USER) {
    throw new Error(`WL_HOST=${host} lets other machines in: set WL_USER and WL_PASSWORD_HASH too.`);
}
const guarded = Boolean(env.WL_USER);

/** Generated once, readable by its owner only; without it the stored credentials cannot be read again. */
function credentialSecret() {
    if (env.WL_CREDENTIAL_SECRET) return env.WL_CREDENTIAL_SECRET;
    const file = path.join(userDir, "credential.secret");
    fs.mkdirSync(userDir, { recursive: true, mode: 0o700 });
    return keptSecret(file, 32, "hex");
}

/** bcryptjs comes with Node-RED, which names its own folder before it reads this file. */
function bcrypt() {
    return createRequire(path.join(env.NODE_RED_HOME || require.resolve("node-red/package.json"), "x.js"))("bcryptjs");
}

const FAILURES_A_MINUTE = 5;
const failures = new Map();
let accepted;

/** Resolves with true, false, or "wait" after too many wrong answers from one address. */
async function checkLogin(authorization, address) {
    if (!guarded) return true;
    const given = createHash("sha256").update(String(authorization)).digest();
    // bcrypt is slow by design; an answer found right once is right until the process ends.
    if (accepted && timingSafeEqual(given, accepted)) return true;
    const minute = Math.floor(Date.now() / 60_000);
    const wrong = failures.get(address);
    if (wrong?.minute === minute && wrong.count >= FAILURES_A_MINUTE) return "wait";
    const [, encoded] = /^Basic ([A-Za-z0-9+/=]+)$/i.exec(authorization ?? "") ?? [];
    if (!encoded) return false;
    const [, user, password] = /^([^:]*):([^]*)$/.exec(Buffer.from(encoded, "base64").toString()) ?? [];
    if (user === env.WL_USER && (await bcrypt().compare(password, env.WL_PASSWORD_HASH))) {
        accepted = given;
        failures.delete(address);
        return true;
    }
    if (failures.size > 1000) failures.clear();
    failures.set(address, { minute, count: wrong?.minute === minute ? wrong.count + 1 : 1 });
    return false;
}

const trusted = (env.WL_ORIGIN ?? "").split(",").map((item) => item.trim().replace(/\/$/, "")).filter(Boolean);
const ownNames = new Set(["localhost", "127.0.0.1", "[::1]", host]);

/**
 * A page of another site may not talk to ours through the visitor's browser, not even under a borrowed name (DNS rebinding).
 * A browser names the page's origin on every such request; other programs name none.
 */
function fromHere({ origin, host: asked = "", "sec-fetch-site": site, "sec-fetch-mode": mode }) {
    const known = !loopback || ownNames.has(asked.replace(/:\d+$/, "")) || trusted.some((item) => new URL(item).host === asked);
    if (!known) return false;
    if (origin === undefined) return site !== "cross-site" || mode === "navigate";
    return trusted.includes(origin) || origin.replace(/^https?:\/\//, "") === asked;
}

const CSP = [
    "default-src 'self'",
    // Both the editor and the dashboard compile templates in the browser.
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "frame-ancestors 'self'",
].join("; ");

function protect(req, res, next) {
    res.set({
        "Content-Security-Policy": CSP,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    });
    res.removeHeader("Access-Control-Allow-Origin");
    if (fromHere(req.headers)) next();
    else res.status(403).type("text").send("Refused: the request came from another site.");
}

function requireLogin(req, res, next) {
    checkLogin(req.headers.authorization, req.socket.remoteAddress).then((answer) => {
        if (answer === true) next();
        else if (answer === "wait") res.set("Retry-After", "60").sendStatus(429);
        else res.set("WWW-Authenticate", 'Basic realm="WattLedger", charset="UTF-8"').sendStatus(401);
    }, next);
}

/** Dashboard 2.0 leaves its socket open to everyone when only httpNodeAuth is set; this also stands in for its cross-site check. */
function requireSocketLogin(socket, next) {
    const { headers } = socket.request;
    if (!fromHere(headers)) return next(new Error("cross-site"));
    checkLogin(headers.authorization, socket.request.socket.remoteAddress).then(
        (answer) => next(answer === true ? undefined : new Error("unauthorized")),
        () => next(new Error("unauthorized")),
    );
}

const root = path.join(__dirname, "..");

module.exports = {
    uiHost: host,
    uiPort: Number(env.WL_PORT || 1880),
    userDir,
    flowFile: "flows.json",
    flowFilePretty: true,
    credentialSecret: credentialSecret(),
    // Found from a clone, where no node_modules holds this package, as well as from an installed one.
    nodesDir: [root],

    ...(guarded && {
        adminAuth: { type: "credentials", users: [{ username: env.WL_USER, password: env.WL_PASSWORD_HASH, permissions: "*" }] },
        httpNodeAuth: requireLogin,
    }),
    httpAdminMiddleware: protect,
    dashboard: { middleware: [protect, requireLogin], ioMiddleware: requireSocketLogin, maxHttpBufferSize: 1e5 },
    ...(env.WL_TLS_CERT && {
        https: () => ({ cert: fs.readFileSync(env.WL_TLS_CERT), key: fs.readFileSync(env.WL_TLS_KEY) }),
        httpsRefreshInterval: 24,
    }),
    apiMaxLength: "2mb",

    // What runs here is what was installed by hand.
    externalModules: {
        autoInstall: false,
        palette: { allowInstall: false, allowUpdate: false, allowUpload: false },
        modules: { allowInstall: false },
    },
    functionExternalModules: false,
    exportGlobalContextKeys: false,
    diagnostics: { enabled: false, ui: false },
    runtimeState: { enabled: false, ui: false },
    telemetry: { enabled: false, updateNotification: false },
    editorTheme: {
        tours: false,
        page: { title: "WattLedger" },
        header: { title: "WattLedger" },
        projects: { enabled: false },
    },

    logging: { console: { level: env.WL_LOG || "info", metrics: false, audit: guarded } },
    // Context is for convenience, not for data: few writes to the SD card.
    contextStorage: { default: { module: "memory" }, file: { module: "localfilesystem", config: { flushInterval: 300 } } },
    nodeCloseTimeout: 5000,
    debugMaxLength: 1000,
};
