#!/usr/bin/env node
import path from "node:path";
import { pathToFileURL } from "node:url";
import { VERIFY_HELP, verifyLedger, verifyReport, type ExitCode, type Print } from "./verify.js";

const COMMANDS: Record<string, (args: string[], print: Print) => Promise<ExitCode>> = {
    "verify-report": verifyReport,
    "verify-ledger": verifyLedger,
    carbon: async (args, print) => (await import("./carbon.js")).carbon(args, print),
};

/** A command by name; without one the plant starts, and carbon without a command of its own is a flow too. */
async function main([name = "", ...args]: string[]): Promise<void> {
    const isFlow = name === "carbon" && !args.some((arg) => arg === "--test" || arg === "--dry-run");
    if (name === "" || name.startsWith("-") || isFlow) {
        await import(pathToFileURL(path.join(__dirname, "../../flows/start.mjs")).href);
        return;
    }
    const print: Print = (line) => process.stdout.write(`${line}\n`);
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (command) {
        process.exitCode = await command(args, print);
        return;
    }
    process.stderr.write(`There is no command "${name}".\n\n${VERIFY_HELP}\n\nwattledger --help tells how to start the plant, or carbon.\n`);
    process.exitCode = 2;
}

void main(process.argv.slice(2));
