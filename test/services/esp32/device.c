/* The protocol of the sketch, asked line by line: each line in gives a line out. Network, clock and Ed25519 are the test's. */
#include <stdlib.h>
#include "wattledger.h"

static wl_device device;
static char site[64], name[64], path[128], secret[128], line[4096];

static bool ask(const char *text, size_t length, uint8_t signature[64])
{
    printf("sign %.*s\n", (int)length, text);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return false;
    for (int i = 0; i < 64; i++) {
        unsigned byte;
        if (sscanf(line + 2 * i, "%2x", &byte) != 1) return false;
        signature[i] = (uint8_t)byte;
    }
    return true;
}

int main(void)
{
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long up, export_wh, import_wh;
        long long at;
        unsigned boot, estimated, sign, random;
        int status, retry;
        wl_sample sample;
        if (sscanf(line, "begin %u %63s %63s %127s %127s %u %u", &boot, site, name, path, secret, &estimated, &sign) == 7) {
            wl_config config = { site, name, path, secret, estimated != 0, sign ? ask : 0 };
            wl_begin(&device, &config, boot);
        } else if (sscanf(line, "add %llu %lld %f %f %llu %llu", &up, &at, &sample.power_w, &sample.voltage_v, &export_wh, &import_wh) == 6) {
            sample.up_ms = up;
            sample.at_ms = at;
            sample.export_wh = export_wh;
            sample.import_wh = import_wh;
            wl_add(&device, &sample);
        } else if (sscanf(line, "next %llu %lld", &up, &at) == 2) {
            char mac[65];
            if (wl_next(&device, up, at) && wl_signature(&device, mac)) {
                printf("message %u %u %s %.*s\n", (unsigned)device.boot, (unsigned)device.message_seq, mac, (int)device.length, device.body);
                fflush(stdout);
                continue;
            }
        } else if (sscanf(line, "answer %llu %d %d %u", &up, &status, &retry, &random) == 4) {
            wl_answer(&device, up, status, retry, random);
        } else {
            return 1;
        }
        printf("state %u %u %llu\n", device.count, (unsigned)device.dropped, (unsigned long long)device.not_before_ms);
        fflush(stdout);
    }
    return 0;
}
