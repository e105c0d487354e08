import { type Peer, startCompiled } from "./libmodbus.js";

/** What the faulty server does when a read of holding registers begins at one of these. */
export const FAULTY = { busy: 0x100, stranger: 0x101, late: 0x102, bytewise: 0x103, short: 0x104, last: 0x105 } as const;

/**
 * The misbehaviours of libmodbus' own test server: busy; an answer under another transaction id (TCP) or from another unit
 * (RTU); one that comes after 0.5 s; one byte each 5 ms; one register where two were asked; the end of the connection after the
 * answer. Everything else is right, with the words of `distinctWord` for unit 1. Serves a port, or a serial line that it is given.
 */
const SOURCE = `
#include <modbus.h>
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define WORD(i) (7919 + 104729 * 3 + (i) * 31 + 17)

static int serve(modbus_t *ctx, const modbus_mapping_t *map) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    int length = modbus_receive(ctx, query), pdu = modbus_get_header_length(ctx), rtu = pdu == 1;
    if (length <= 0) return length;
    modbus_mapping_t *all = (modbus_mapping_t *)map;
    switch (query[pdu + 1] << 8 | query[pdu + 2]) {
    case ${FAULTY.busy}:
        return modbus_reply_exception(ctx, query, MODBUS_EXCEPTION_SLAVE_OR_SERVER_BUSY);
    case ${FAULTY.stranger}:
        query[0] += 7;
        return modbus_reply(ctx, query, length, all);
    case ${FAULTY.late}:
        usleep(500000);
        return modbus_reply(ctx, query, length, all);
    case ${FAULTY.bytewise}: {
        int count = query[pdu + 4], size = 3 + 2 * count + (rtu ? 2 : 6), wire = modbus_get_socket(ctx);
        uint8_t answer[MODBUS_TCP_MAX_ADU_LENGTH] = {0}, *at = answer;
        if (!rtu) {
            memcpy(answer, query, 2);
            answer[5] = size - 6;
            at += 6;
        }
        *at++ = query[pdu - 1], *at++ = 3, *at++ = 2 * count;
        for (int i = ${FAULTY.bytewise}; i < ${FAULTY.bytewise} + count; i++) *at++ = WORD(i) >> 8, *at++ = WORD(i);
        if (rtu) {
            unsigned crc = 0xffff;
            for (uint8_t *byte = answer; byte < at; byte++) {
                crc ^= *byte;
                for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xa001 : crc >> 1;
            }
            *at++ = crc, *at++ = crc >> 8;
        }
        for (int i = 0; i < size; i++) {
            if (write(wire, answer + i, 1) != 1) return -1;
            usleep(5000);
        }
        return size;
    }
    case ${FAULTY.short}:
        query[pdu + 4] = 1;
        return modbus_reply(ctx, query, length, all);
    case ${FAULTY.last}:
        modbus_reply(ctx, query, length, all);
        return -1;
    default:
        return modbus_reply(ctx, query, length, all);
    }
}

int main(int argc, char **argv) {
    modbus_t *ctx = argc > 1 ? modbus_new_rtu(argv[1], 19200, 'N', 8, 1) : modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map = modbus_mapping_new(1000, 1000, 1000, 1000);
    for (int i = 0; i < 1000; i++) map->tab_registers[i] = WORD(i);
    if (argc > 1) {
        modbus_set_slave(ctx, 1);
        if (modbus_connect(ctx) != 0) return 1;
        puts("0"), fflush(stdout);
        for (;;) serve(ctx, map);
    }
    struct sockaddr_in at; socklen_t size = sizeof at;
    int listener = modbus_tcp_listen(ctx, 8), on = 1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\\n", ntohs(at.sin_port)), fflush(stdout);
    for (;;) {
        modbus_tcp_accept(ctx, &listener);
        setsockopt(modbus_get_socket(ctx), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        while (serve(ctx, map) >= 0);
        modbus_close(ctx);
    }
}
`;

/** @param line Device of a serial line; a TCP port without it. */
export function startFaultyLibmodbus(line?: string): Promise<Peer> {
    return startCompiled(SOURCE, line === undefined ? [] : [line]);
}
