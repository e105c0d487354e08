/*
 * What a device has to do so that a wl-esp32 takes its samples, and takes them once: number, buffer, sign, repeat.
 * No Arduino in here: plain C (or C++) with mbedTLS, which comes with the ESP32 core, so that it is tested on a computer as it is.
 *
 * How to use it: wl_begin once, wl_add for each sample; then wl_next gives a message when there is one to send, and wl_answer takes
 * what became of it.
 */
#ifndef WATTLEDGER_H
#define WATTLEDGER_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <mbedtls/base64.h>
#include <mbedtls/md.h>

/* Samples kept while they cannot be sent; the oldest are given up then. 40 bytes each. */
#ifndef WL_RING
#define WL_RING 1440
#endif
/* Samples a message. A wl-esp32 takes 500. */
#ifndef WL_BATCH
#define WL_BATCH 20
#endif
/* Bytes of a message: 320 a signed sample. */
#define WL_BODY (256 + WL_BATCH * 320)

/* One measurement. Energies are counters that never go back, in whole Wh. */
typedef struct {
    uint64_t up_ms;   /* since the start of the device; 64 bits, so that it does not start again after 49.7 days */
    int64_t at_ms;    /* ms since 1970 UTC, 0 while it is not known */
    uint64_t export_wh;
    uint64_t import_wh;
    float power_w;    /* + is import; NAN where it could not be measured */
    float voltage_v;  /* NAN without a voltage sensor */
} wl_sample;

/* Ed25519 over a text; true when `signature` was made. */
typedef bool (*wl_sign)(const char *text, size_t length, uint8_t signature[64]);

typedef struct {
    /* Letters, digits, dot, dash and underscore only. */
    const char *site;
    const char *device;
    /* Path of the wl-esp32 in the URL, from the first slash on. */
    const char *path;
    /* The key that the dialog of wl-esp32 made. */
    const char *secret;
    /* True where power is not measured but reckoned, such as from a current alone: it is kept, and never claimed. */
    bool estimated;
    /* 0 for no evidence. */
    wl_sign sign;
} wl_config;

typedef struct {
    wl_config config;
    uint32_t boot;
    uint32_t seq;
    wl_sample ring[WL_RING];
    unsigned first;
    unsigned count;
    /* Samples given up because the ring was full, or the receiver will never take them. */
    uint32_t dropped;
    /* The message on its way: the oldest samples of the ring. Nobody knows yet whether it was taken, so it is repeated as it is, but for `up`. */
    char body[WL_BODY];
    size_t length;
    /* Where in the body it says how long the device is up. */
    size_t up_at;
    unsigned in_message;
    uint32_t message_seq;
    unsigned batch;
    /* Retry: failures in a row, and not before. */
    unsigned failures;
    uint64_t not_before_ms;
} wl_device;

/* boot: counts the starts of the device in memory that survives a restart, so that an old message is not taken for a new one. */
static inline void wl_begin(wl_device *d, const wl_config *config, uint32_t boot)
{
    memset(d, 0, sizeof *d);
    d->config = *config;
    d->boot = boot;
    d->batch = WL_BATCH;
}

static inline void wl_forget(wl_device *d, unsigned count)
{
    if (count > d->count) count = d->count;
    d->first = (d->first + count) % WL_RING;
    d->count -= count;
}

static inline void wl_add(wl_device *d, const wl_sample *sample)
{
    if (d->count == WL_RING) {
        wl_forget(d, 1);
        d->dropped++;
        if (d->in_message > 0) d->in_message--;
    }
    d->ring[(d->first + d->count++) % WL_RING] = *sample;
}

/* Appends to a message; false when it is full. */
static inline bool wl_append(wl_device *d, int written)
{
    if (written < 0 || (size_t)written >= WL_BODY - d->length) return false;
    d->length += (size_t)written;
    return true;
}

/* ,"name":1.5 or nothing for what was not measured */
static inline bool wl_number(wl_device *d, const char *name, float value)
{
    if (!isfinite(value)) return true;
    return wl_append(d, snprintf(d->body + d->length, WL_BODY - d->length, ",\"%s\":%.1f", name, (double)value));
}

/*
 * What a device signs of a sample: canonical JSON (RFC 8785), keys in order, no spaces; docs/evidence.md of WattLedger says of what.
 * Returns its length, 0 when it does not fit.
 */
static inline size_t wl_statement(const wl_device *d, const wl_sample *s, uint32_t seq, char *text, size_t size)
{
    int length = snprintf(text, size,
        "{\"at\":%" PRId64 ",\"boot\":%" PRIu32 ",\"exportWh\":%" PRIu64 ",\"importWh\":%" PRIu64 ",\"meter\":\"%s/%s\",\"origin\":\"%s\",\"seq\":%" PRIu32 "}",
        s->at_ms, d->boot, s->export_wh, s->import_wh, d->config.site, d->config.device, d->config.estimated ? "estimated" : "measured", seq);
    return length < 0 || (size_t)length >= size ? 0 : (size_t)length;
}

static inline bool wl_write_sample(wl_device *d, const wl_sample *s)
{
    const size_t size = WL_BODY;
    if (!wl_append(d, snprintf(d->body + d->length, size - d->length, "{\"up\":%" PRIu64, s->up_ms))) return false;
    if (s->at_ms > 0 && !wl_append(d, snprintf(d->body + d->length, size - d->length, ",\"ts\":%" PRId64, s->at_ms))) return false;
    if (d->config.estimated && !wl_append(d, snprintf(d->body + d->length, size - d->length, ",\"est\":true"))) return false;
    if (!wl_number(d, "ac_power_w", s->power_w) || !wl_number(d, "ac_voltage_l1_v", s->voltage_v)) return false;
    if (!wl_append(d, snprintf(d->body + d->length, size - d->length, ",\"ac_energy_export_wh\":%" PRIu64 ",\"ac_energy_import_wh\":%" PRIu64, s->export_wh, s->import_wh))) return false;
    if (d->config.sign && s->at_ms > 0) {
        char text[256];
        uint8_t signature[64];
        unsigned char base64[96];
        size_t length = wl_statement(d, s, d->message_seq, text, sizeof text), written = 0;
        if (length > 0 && d->config.sign(text, length, signature)) {
            if (mbedtls_base64_encode(base64, sizeof base64, &written, signature, sizeof signature) != 0) return false;
            if (!wl_append(d, snprintf(d->body + d->length, size - d->length, ",\"sig\":\"%.*s\"", (int)written, (const char *)base64))) return false;
        }
    }
    return wl_append(d, snprintf(d->body + d->length, size - d->length, "}"));
}

/* In a field that every time fits. */
static inline void wl_write_up(wl_device *d, uint64_t up_ms)
{
    char text[24];
    snprintf(text, sizeof text, "%20" PRIu64, up_ms);
    memcpy(d->body + d->up_at, text, 20);
}

/*
 * The message to send now: body and length; false while there is none, or it is not time yet.
 * up_ms: since the start. now_ms: since 1970 UTC, 0 while the clock is not set. An open message is given again as it was,
 * but for the time since the start: by that the receiver dates samples of a device without a clock.
 */
static inline bool wl_next(wl_device *d, uint64_t up_ms, int64_t now_ms)
{
    if (up_ms < d->not_before_ms) return false;
    if (d->length > 0) {
        wl_write_up(d, up_ms);
        return true;
    }
    if (d->count == 0) return false;
    d->message_seq = d->seq++;
    d->in_message = 0;
    if (!wl_append(d, snprintf(d->body, WL_BODY, "{\"v\":1,\"id\":\"%s\",\"boot\":%" PRIu32 ",\"seq\":%" PRIu32 ",\"up\":", d->config.device, d->boot, d->message_seq))) return false;
    d->up_at = d->length;
    if (!wl_append(d, snprintf(d->body + d->length, WL_BODY - d->length, "%20s,\"class\":\"meter\",\"s\":[", ""))) return false;
    wl_write_up(d, up_ms);
    while (d->in_message < d->count && d->in_message < d->batch) {
        wl_sample *s = &d->ring[(d->first + d->in_message) % WL_RING];
        const size_t before = d->length;
        /* Set once, so that it is the same whenever it is sent. */
        if (s->at_ms == 0 && now_ms > 0) s->at_ms = now_ms - (int64_t)(up_ms - s->up_ms);
        /* Room for what closes the message. */
        if ((d->in_message > 0 && !wl_append(d, snprintf(d->body + d->length, WL_BODY - d->length, ","))) || !wl_write_sample(d, s) || d->length + 3 > WL_BODY) {
            d->length = before;
            break;
        }
        d->in_message++;
    }
    if (d->in_message == 0 || !wl_append(d, snprintf(d->body + d->length, WL_BODY - d->length, "]}"))) {
        d->length = 0;
        return false;
    }
    return true;
}

static inline void wl_hex(const uint8_t *bytes, size_t count, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * count] = 0;
}

/* The header X-WL-Signature of the message: HMAC-SHA256 in hex of POST|path|boot|seq|SHA-256 of the body in hex. */
static inline bool wl_signature(const wl_device *d, char mac[65])
{
    const mbedtls_md_info_t *sha256 = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    uint8_t digest[32];
    char hex[65], text[256];
    if (!sha256 || mbedtls_md(sha256, (const unsigned char *)d->body, d->length, digest) != 0) return false;
    wl_hex(digest, sizeof digest, hex);
    int length = snprintf(text, sizeof text, "POST|%s|%" PRIu32 "|%" PRIu32 "|%s", d->config.path, d->boot, d->message_seq, hex);
    if (length < 0 || (size_t)length >= sizeof text) return false;
    if (mbedtls_md_hmac(sha256, (const unsigned char *)d->config.secret, strlen(d->config.secret), (const unsigned char *)text, (size_t)length, digest) != 0) return false;
    wl_hex(digest, sizeof digest, mac);
    return true;
}

static inline void wl_wait(wl_device *d, uint64_t up_ms, uint64_t wait_ms)
{
    if (wait_ms > 3600000) wait_ms = 3600000;
    d->not_before_ms = up_ms + wait_ms;
}

/* 1, 2, 4 … 256 s and a part of it by chance, so that many devices do not come back together. */
static inline uint64_t wl_backoff(wl_device *d, uint32_t random)
{
    uint64_t base = 1000u << (d->failures < 8 ? d->failures : 8);
    d->failures++;
    return base + random % base;
}

/*
 * What became of the message. status: of HTTP, 0 or less where no answer came. retry_after_s: of the header, less than 0 without one.
 * - 2xx: it is on the receiver's disk, its samples are forgotten here.
 * - 429, 503: it was not taken. Its samples are sent again after the pause, in a new message.
 * - no answer, 408, 5xx: it may have been taken. The same message is sent again; the receiver tells by its number.
 * - 401, 403, 404, 409: a key, path or name that a person will put right; until then its samples are kept, and tried again.
 * - 413: the next ones are shorter; other 4xx: it never will be taken.
 */
static inline void wl_answer(wl_device *d, uint64_t up_ms, int status, int retry_after_s, uint32_t random)
{
    if (d->length == 0) return;
    const bool is_kept = status >= 200 && status < 300;
    const bool is_open = status <= 0 || status == 408 || (status >= 500 && status != 503);
    const bool is_later = status == 429 || status == 503 || status == 401 || status == 403 || status == 404 || status == 409;
    if (is_kept || is_open || is_later) {
        if (is_kept) {
            wl_forget(d, d->in_message);
            d->failures = 0;
            d->not_before_ms = 0;
        } else if (retry_after_s >= 0) {
            d->failures++;
            wl_wait(d, up_ms, (uint64_t)retry_after_s * 1000 + random % 1000);
        } else {
            uint64_t wait_ms = wl_backoff(d, random);
            wl_wait(d, up_ms, is_later && wait_ms < 60000 && status != 429 && status != 503 ? 60000 : wait_ms);
        }
        if (is_open) return;
    } else if (status == 413 && d->in_message > 1) {
        d->batch = d->in_message / 2;
    } else {
        d->dropped += d->in_message;
        wl_forget(d, d->in_message);
    }
    d->length = 0;
    d->in_message = 0;
}

#endif
