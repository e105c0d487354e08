import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

/**
 * Serves every address of every unit with the words of `distinctWord` for unit 1, but for a file of holding registers from
 * 40000 on; one process a connection.
 */
const SOURCE = `
#include <modbus.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map = modbus_mapping_new(60000, 60000, 60000, 60000);
    struct sockaddr_in at; socklen_t size = sizeof at;
    int listener = modbus_tcp_listen(ctx, 8);
    for (int i = 0; i < 60000; i++) {
        map->tab_bits[i] = (7919 + 104729 * 1 + i * 31 + 17) & 1;
        map->tab_input_bits[i] = (7919 + 104729 * 2 + i * 31 + 17) & 1;
        map->tab_registers[i] = 7919 + 104729 * 3 + i * 31 + 17;
        map->tab_input_registers[i] = 7919 + 104729 * 4 + i * 31 + 17;
    }
    if (argc > 1) {
        FILE *image = fopen(argv[1], "rb"); int high, low;
        for (int i = 40000; (high = getc(image)) != EOF && (low = getc(image)) != EOF; i++) map->tab_registers[i] = high << 8 | low;
        fclose(image);
    }
    signal(SIGCHLD, SIG_IGN);
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\\n", ntohs(at.sin_port)); fflush(stdout);
    for (;;) {
        uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH]; int length;
        modbus_tcp_accept(ctx, &listener);
        if (fork() == 0) {
            close(listener);
            while ((length = modbus_receive(ctx, query)) >= 0) if (length > 0) modbus_reply(ctx, query, length, map);
            return 0;
        }
        close(modbus_get_socket(ctx));
    }
}
`;

export interface Peer {
    host: string;
    port: number;
    stop(): Promise<void>;
}

/** Starts a libmodbus server; `image` holds its holding registers from 40000 on. */
export function startLibmodbus(image: Buffer = Buffer.alloc(0)): Promise<Peer> {
    return startCompiled(SOURCE, image.length > 0 ? ["image"] : [], { image });
}

/** Compiles a C program and starts it in a folder that holds `files`; needs gcc and libmodbus-dev. */
export function startCompiled(source: string, args: string[], files: Record<string, Buffer> = {}): Promise<Peer> {
    const folder = mkdtempSync(path.join(tmpdir(), "wl-libmodbus-"));
    const server = path.join(folder, "server");
    writeFileSync(`${server}.c`, source);
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(folder, name), content);
    execFileSync("gcc", ["-O2", "-I/usr/include/modbus", "-o", server, `${server}.c`, "-lmodbus"]);
    return startPeer(spawn(server, args, { cwd: folder, stdio: ["ignore", "pipe", "inherit"] }), () => rmSync(folder, { recursive: true }));
}

/** A server that prints its port first, 0 on a serial line. */
export async function startPeer(child: ChildProcess, clean: () => void): Promise<Peer> {
    const exited = once(child, "exit");
    const printed = child.stdout ? once(child.stdout, "data") : exited;
    const [first] = (await Promise.race([printed, exited])) as [unknown];
    const port = Number(String(first).trim());
    if (!Number.isInteger(port) || child.exitCode !== null) throw new Error(`the server did not start (exit ${child.exitCode})`);
    return {
        host: "127.0.0.1",
        port,
        stop: async () => {
            child.kill("SIGKILL");
            await exited;
            clean();
        },
    };
}
