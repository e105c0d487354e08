import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Endpoint } from "../../../dist/modbus/links.js";

/** Two pseudo-terminals, each the other's far end, or one before a TCP connection; their devices are printed, one a line. */
const SOURCE = `
import os, select, socket, sys, tty
def terminal():
    near, far = os.openpty()
    tty.setraw(far)
    print(os.ttyname(far), flush=True)
    return near, far
a, kept = terminal()
if len(sys.argv) > 1:
    wire = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    b = wire.fileno()
else:
    b, too = terminal()
print("ready", flush=True)
while True:
    for end in select.select([a, b], [], [])[0]:
        data = os.read(end, 4096)
        if not data: sys.exit()
        os.write(b if end == a else a, data)
`;

export interface Line {
    /** Devices: two ends, or one where the other is a TCP port. */
    ends: string[];
    stop(): Promise<void>;
}

/** A serial line without hardware. @param port Where its far end connects to, instead of a second device. */
export async function startLine(port?: number): Promise<Line> {
    const child = spawn("/usr/bin/python3", ["-c", SOURCE, ...(port === undefined ? [] : [String(port)])], { stdio: ["ignore", "pipe", "inherit"] });
    const exited = once(child, "exit");
    let text = "";
    while (!text.endsWith("ready\n")) {
        const [chunk] = (await Promise.race([once(child.stdout, "data"), exited])) as [unknown];
        if (child.exitCode !== null) throw new Error(`the serial line did not start (exit ${child.exitCode})`);
        text += String(chunk);
    }
    return {
        ends: text.split("\n").filter((name) => name.startsWith("/dev/")),
        stop: async () => {
            child.kill("SIGKILL");
            await exited;
        },
    };
}

/** The settings of a link at one end. */
export function serialEndpoint(path: string): Endpoint {
    return { transport: "rtu", path, baud: 115_200, parity: "none", stopBits: 1 };
}
