import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { readdir, readFile, rm as removeFile, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import path from "node:path";
import { makeDir, removeDir, root, start } from "../node-red.js";

const launcher = path.join(root, "flows/start.mjs");
/** None of the settings of whoever runs the tests. */
const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(WL|INFLUX)_/.test(name)));
const run = (...args: string[]) => spawnSync(process.execPath, [launcher, ...args], { encoding: "utf8", env: clean, timeout: 20_000 });

describe("flows/start.mjs", () => {
    it("lists every option", () => {
        const { stdout, status } = run("--help");
        assert.equal(status, 0);
        for (const option of ["port", "user-dir", "influx", "speed", "fault", "seed", "config", "check", "verbose", "help"]) assert.match(stdout, new RegExp(`^ +--${option}`, "m"));
        assert.match(stdout, /slow, drop, reset/);
    });

    const refusals: [string[], RegExp][] = [
        [["--prot", "1880"], /Unknown option '--prot'/],
        [["extra"], /Unexpected argument 'extra'/],
        [["--port", "http"], /--port takes a whole number from 0 to 65535, not "http"/],
        [["--port", "70000"], /--port takes a whole number from 0 to 65535/],
        [["--speed", "0"], /--speed takes a number from 0.1 to 3600/],
        [["--seed", "1.5"], /--seed takes a whole number/],
        [["--check", ""], /--check takes a whole number/],
        [["--fault", "fire"], /--fault takes one of slow, drop, .*, not "fire"/],
        [["--influx", "localhost:8086"], /--influx takes a URL such as http:\/\/localhost:8086/],
        [["--influx", "http://admin:canary-7@db:8086"], /--influx takes no password/],
        [["plant", "carbon"], /Unexpected argument 'carbon'/],
        [["carbon", "--influx", "http://db:8086"], /--influx is no option of the carbon flow/],
        [["--config", "x"], /--config is no option of the plant flow/],
    ];
    for (const [args, said] of refusals) {
        it(`refuses ${args.join(" ")}`, () => {
            const { stderr, status } = run(...args);
            assert.equal(status, 2);
            assert.match(stderr, said);
            assert.doesNotMatch(stderr, /canary-7|\n +at /);
        });
    }

    it("says in one line why a user directory cannot be used, and what to do", async () => {
        const userDir = await makeDir("wl-launcher-");
        try {
            const file = path.join(userDir, "file");
            await writeFile(file, "");
            for (const dir of [file, path.join(file, "below")]) {
                const { status, stderr } = run("--user-dir", dir);
                assert.equal(status, 1);
                assert.match(stderr, /^The folder \S+ is no folder \(E\w+\): move the file away, or choose another with --user-dir\.\n$/);
            }
            // No file may grow: to a program much as a full disk.
            const full = path.join(userDir, "full");
            const { status, stderr } = spawnSync("/bin/sh", ["-c", 'ulimit -f 0; exec "$0" "$@"', process.execPath, launcher, "carbon", "--user-dir", full, "--port", "0"], { encoding: "utf8", env: clean });
            assert.equal(status, 1);
            assert.match(stderr, /^The folder \S+ is on a disk that is full \(EFBIG\): free some space, or choose another with --user-dir\.\n$/);
            assert.deepEqual(readdirSync(full), []);
        } finally {
            await removeDir(userDir);
        }
    });

    it("says what is wrong with an ams_config.json, and hands a trial on to the command line", async () => {
        const userDir = await makeDir("wl-launcher-");
        try {
            const file = path.join(userDir, "ams_config.json");
            await writeFile(file, '{"aggregation":{"interval_hours":"daily"},"guardian":{"password":"canary-7"}}');
            const { status, stderr } = run("carbon", "--user-dir", userDir, "--config", file);
            assert.equal(status, 1);
            assert.match(stderr, /ams_config\.json: interval_hours must be a number from/);
            assert.doesNotMatch(stderr, /canary-7|\n +at /);
            await writeFile(file, '{"project":{"latitude":"north","id":"a plant"}}');
            const { stderr: project } = run("carbon", "--user-dir", userDir, "--config", file);
            assert.match(project, /^--config \S+ams_config\.json: Check the settings: latitude must be degrees north\.\n$/);
            const trial = run("carbon", "--test", "--store", userDir);
            assert.deepEqual([trial.status, /--store goes with --dry-run/.test(trial.stdout)], [2, true], trial.stdout);
        } finally {
            await removeDir(userDir);
        }
    });

    it("brings the plant's readings into the store and proves it, on the next free port, once a folder", async () => {
        const userDir = await makeDir("wl-launcher-");
        const other = createServer().listen(0, "127.0.0.1");
        try {
            await once(other, "listening");
            const { port } = other.address() as AddressInfo;
            const args = ["--user-dir", userDir, "--port", String(port)];
            const demo = start([launcher, ...args, "--check", "3"], userDir, clean);
            const ended = once(demo.process, "exit");
            await demo.logged(/Dashboard +http/);
            assert.match(demo.log(), new RegExp(`port ${port} is taken`));
            const url = /Dashboard +(\S+)/.exec(demo.log())![1]!;
            assert.notEqual(new URL(url).port, String(port));
            assert.equal((await fetch(url)).status, 200);
            assert.match(demo.log(), /Simulated .*two inverters, battery, meter,\s+weather station and tracker by SunSpec, a check meter by point map/);

            const second = run(...args);
            assert.equal(second.status, 1);
            assert.match(second.stderr, /is in use by process \d+/);

            assert.deepEqual(await ended, [0, null], demo.log());
            const summary = JSON.parse(/^\{$.*^\}$/ms.exec(demo.log())![0]) as { ok: boolean; nodeRed: string; devices: Record<string, { readings: number; kept: number }> };
            assert.equal(summary.ok, true);
            assert.deepEqual(Object.keys(summary.devices).toSorted(), ["battery", "check-meter", "inverter-a", "inverter-b", "meter", "tracker", "weather"]);
            for (const [device, { readings, kept }] of Object.entries(summary.devices)) assert.ok(readings > 0 && kept === readings, device);
            assert.equal(Number.parseInt(summary.nodeRed, 10), Number.parseFloat(process.versions.node) >= 22.9 ? 5 : 4);
            assert.ok(!readdirSync(userDir).includes("running.lock"));
        } finally {
            other.close();
            await removeDir(userDir);
        }
    }).timeout(30_000);

    it("says which device is missing when the check fails", async () => {
        const userDir = await makeDir("wl-launcher-");
        try {
            const { stdout, status } = run("--user-dir", userDir, "--port", "0", "--fault", "drop", "--check", "1");
            const { ok, reasons } = JSON.parse(stdout) as { ok: boolean; reasons: string[] };
            assert.equal(status, 1);
            assert.equal(ok, false);
            assert.match(reasons.join("\n"), /inverter-a/);
        } finally {
            await removeDir(userDir);
        }
    }).timeout(30_000);
});

describe("flows/start.mjs carbon", () => {
    it("says in a check that is too short for it that no report came of the readings, and what of an ams_config.json is left out", async () => {
        const userDir = await makeDir("wl-launcher-");
        try {
            await writeFile(path.join(userDir, "simulated.key"), "");
            const file = path.join(userDir, "ams_config.json");
            const guardian = { base_url: "https://guardianservice.app/api/v1", username: 42, password: "canary-7", api_token: "canary-7" };
            await writeFile(file, JSON.stringify({ guardian, ams_id_policy: { policy_tag: "Tag" }, carbon: { emission_factor: 0.7 } }));
            const { stdout, stderr, status } = run("carbon", "--user-dir", userDir, "--port", "0", "--check", "2", "--config", file);
            const notes = [...stderr.matchAll(/^ +Note +(.*)$/gm)].map(([, note]) => note!);
            assert.deepEqual(notes, [
                "ams_config.json sets WL_GUARDIAN_URL, WL_GUARDIAN_PASSWORD",
                "its Guardian account is used with WL_GUARDIAN_SERVER=guardian; without it the stand-in is",
                "username was left out: it must be a text, in quotes.",
                "api_token is not known here.",
                "policy_tag is not needed: the Guardian connection finds the policy by its forms.",
                "emission_factor was left out: an emission factor needs its source.",
            ]);
            assert.doesNotMatch(stdout + stderr, /canary/);
            const { ok, carbon, reasons } = JSON.parse(stdout) as { ok: boolean; carbon: object; reasons: string[] };
            assert.deepEqual([status, ok, carbon], [1, false, { intervals: 0, reports: 0, dryRuns: 0 }]);
            assert.match(await readFile(path.join(userDir, "simulated.key"), "utf8"), /^[\w-]{32}$/);
            assert.match(reasons.join("\n"), /0 intervals were sealed, and no report was made/);
            assert.match(stderr, /Dashboard +http:\S+\/dashboard\/carbon[^]*ESP32 +post to http[^]*three ESP32 meters[^]*a stand-in, http:\/\/127\.0\.0\.1:\d+\/api\/v1; dry run/);
        } finally {
            await removeDir(userDir);
        }
    }).timeout(30_000);
});

describe("flows/place.mjs", () => {
    it("copies the flow once, renews an untouched one, and never touches a changed one", async () => {
        const { placeFlow } = (await import(path.join(root, "flows/place.mjs"))) as { placeFlow: (this: void, userDir: string, shipped: string, credentials?: object) => string };
        const dir = await makeDir("wl-place-");
        try {
            const shipped = path.join(dir, "shipped.json");
            const flow = () => readFile(path.join(dir, "flows.json"), "utf8");
            await writeFile(shipped, "[1]");
            const credentials = { influx: { username: "${INFLUX_USERNAME}" } };
            assert.equal(placeFlow(dir, shipped, credentials), "");
            assert.equal(await flow(), "[1]");
            assert.deepEqual((await readdir(dir)).toSorted(), [".flow-shipped", "flows.json", "flows_cred.json", "shipped.json"]);
            assert.deepEqual(JSON.parse(await readFile(path.join(dir, "flows_cred.json"), "utf8")), credentials);
            await writeFile(shipped, "[2]");
            assert.equal(placeFlow(dir, shipped), "");
            assert.equal(await flow(), "[2]");

            await writeFile(path.join(dir, "flows.json"), "[2,3]");
            assert.equal(placeFlow(dir, shipped), "");
            await writeFile(shipped, "[4]");
            assert.match(placeFlow(dir, shipped), /your changed flow is kept/);
            assert.equal(await flow(), "[2,3]");
            assert.equal(await readFile(path.join(dir, "flows.new.json"), "utf8"), "[4]");
            assert.equal(placeFlow(dir, shipped), "");

            // As a full disk left them: empty, or the flow there and the mark not yet.
            await removeFile(path.join(dir, "flows_cred.json"));
            assert.equal(placeFlow(dir, shipped, credentials), "");
            for (const name of ["flows.json", "flows_cred.json"]) await writeFile(path.join(dir, name), "");
            assert.equal(placeFlow(dir, shipped, credentials), "");
            assert.equal(await flow(), "[4]");
            assert.deepEqual(JSON.parse(await readFile(path.join(dir, "flows_cred.json"), "utf8")), credentials);
            await removeFile(path.join(dir, ".flow-shipped"));
            assert.equal(placeFlow(dir, shipped), "");
        } finally {
            await removeDir(dir);
        }
    });
});
