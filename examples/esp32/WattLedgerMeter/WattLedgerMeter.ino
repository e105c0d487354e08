/*
 * An ESP32 that measures a current with a clamp (SCT-013) and sends it to a wl-esp32: numbered, kept while there is no network,
 * signed, and repeated until it is on the receiver's disk.
 *
 * READ THIS FIRST. A clamp alone measures current, not power. This sketch multiplies it with ASSUMED_VOLTAGE: what comes out is apparent
 * power at a voltage that nobody measured, without the phase between the two and without a direction. It is good for a look at a plant. It
 * is not fit for claims, whatever the clamp's class: each sample says that it is estimated, and WattLedger never claims it. For claims,
 * read a calibrated meter in measure(), with voltage and its own counters, and set ESTIMATED to false.
 *
 * Set up: Arduino IDE with "esp32 by Espressif Systems" 3.0 or later. Fill in what is below. SITE is the id of the site in Node-RED,
 * DEVICE and KEY are what the dialog of wl-esp32 shows after "Make a key", URL is the address it shows.
 *
 * Wiring of an SCT-013-030 (30 A : 1 V): one lead to GPIO 34, the other to the middle of two 10 kOhm resistors between 3.3 V and GND, with
 * 10 uF from there to GND. An SCT-013-000 has a current output: put a burden of 22 Ohm across its leads, and 90.9 below.
 * Never open the leads of a clamp without a burden while it is around a wire, and let an electrician open the cabinet.
 */
#include <HTTPClient.h>
#include <Preferences.h>
#include <WiFi.h>
#include <WiFiClientSecure.h>
#include <esp_random.h>
#include <esp_timer.h>
#include <sys/time.h>
#include "wattledger.h"

#define WIFI_NAME ""
#define WIFI_PASSWORD ""
#define SITE "home"
#define DEVICE "esp32-1"
#define KEY ""
#define URL "http://192.168.1.10:1880/wattledger/esp32"
/* For https: the certificate of the authority that signed the receiver's, in PEM. */
#define AUTHORITY ""

/* 1: sign each sample with an Ed25519 key of this device, as evidence. Needs the library "Crypto" by Rhys Weatherley. The public key, which
 * the meter's entry in the inventory of wl-ams-id takes, is printed at the start. */
#define SIGN 0

#define CT_PIN 34
#define CT_AMPERES_PER_VOLT 30.0
/* Less is noise. */
#define CT_LEAST_AMPERES 0.1
#define ASSUMED_VOLTAGE 230.0
/* What flows through the clamp: generation counts as export, consumption as import. */
#define IS_GENERATION true
#define ESTIMATED true

/* A sample each minute; WL_RING of them, a day, are kept while they cannot be sent. */
#define SAMPLE_MS 60000

struct Measured {
    /* W, + is import; V, NAN where it is not measured. */
    float power;
    float voltage;
};

#if SIGN
#include <Crypto.h>
#include <Ed25519.h>
static uint8_t privateKey[32], publicKey[32];

static bool signText(const char *text, size_t length, uint8_t signature[64]) {
    Ed25519::sign(signature, privateKey, publicKey, text, length);
    return true;
}
#endif

static wl_device device;
static Preferences memory;
static HTTPClient http;
static WiFiClient plainClient;
static WiFiClientSecure safeClient;
static String path;

/* Wh since ever; saved with each sample, before it is sent, so that no restart turns them back behind what was told. */
static double exportWh, importWh;
static double powerSum;
static unsigned powerCount;
static uint64_t measuredAt, sampledAt;

static uint64_t upMs() {
    return (uint64_t)esp_timer_get_time() / 1000;
}

/* ms since 1970 UTC; 0 until the clock was set from the network. */
static int64_t nowMs() {
    struct timeval now;
    gettimeofday(&now, nullptr);
    return now.tv_sec < 1704067200 ? 0 : (int64_t)now.tv_sec * 1000 + now.tv_usec / 1000;
}

/* Current over 200 ms: ten periods at 50 Hz, twelve at 60 Hz. Replace this by what reads your meter. */
static Measured measure() {
    double sum = 0, squares = 0;
    unsigned count = 0;
    const uint64_t end = upMs() + 200;
    while (upMs() < end) {
        const double volts = analogReadMilliVolts(CT_PIN) / 1000.0;
        sum += volts;
        squares += volts * volts;
        count++;
    }
    const double mean = sum / count;
    const double variance = squares / count - mean * mean;
    double amperes = sqrt(variance > 0 ? variance : 0) * CT_AMPERES_PER_VOLT;
    if (amperes < CT_LEAST_AMPERES) amperes = 0;
    const double watts = amperes * ASSUMED_VOLTAGE;
    return { (float)(IS_GENERATION ? -watts : watts), NAN };
}

static void stopForEver(const char *reason) {
    for (;;) {
        Serial.println(reason);
        delay(10000);
    }
}

void setup() {
    Serial.begin(115200);
    memory.begin("wattledger", false);
    const uint32_t boot = memory.getUInt("boot", 0) + 1;
    // Without it an old message could be taken for a new one, and a new one for an old one.
    if (memory.putUInt("boot", boot) == 0) stopForEver("The flash takes no counter of starts: nothing is sent.");
    exportWh = (double)memory.getULong64("export", 0);
    importWh = (double)memory.getULong64("import", 0);

    WiFi.mode(WIFI_STA);
    WiFi.setAutoReconnect(true);
    WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
    configTime(0, 0, "pool.ntp.org", "time.google.com");

    const String url = URL;
    const int slash = url.indexOf('/', url.indexOf("://") + 3);
    path = slash < 0 ? String("/") : url.substring(slash);

    wl_config config = {};
    config.site = SITE;
    config.device = DEVICE;
    config.path = path.c_str();
    config.secret = KEY;
    config.estimated = ESTIMATED;
#if SIGN
    // Wi-Fi is on: the random numbers are true ones.
    if (memory.getBytes("key", privateKey, sizeof privateKey) != sizeof privateKey) {
        esp_fill_random(privateKey, sizeof privateKey);
        if (memory.putBytes("key", privateKey, sizeof privateKey) != sizeof privateKey) stopForEver("The flash takes no key.");
    }
    Ed25519::derivePublicKey(publicKey, privateKey);
    unsigned char text[48];
    size_t length = 0;
    mbedtls_base64_encode(text, sizeof text, &length, publicKey, sizeof publicKey);
    Serial.printf("Public key: %.*s\n", (int)length, (const char *)text);
    config.sign = signText;
#endif
    wl_begin(&device, &config, boot);
    safeClient.setCACert(AUTHORITY);
    measuredAt = sampledAt = upMs();
}

/* Counts energy, and keeps a sample each minute. */
static void sample() {
    const Measured measured = measure();
    const uint64_t up = upMs();
    // What happened during a long wait for the network was not measured, and is not counted.
    const double hours = (up - measuredAt < 30000 ? up - measuredAt : 0) / 3600000.0;
    measuredAt = up;
    if (isfinite(measured.power)) {
        if (measured.power < 0) exportWh += -measured.power * hours;
        else importWh += measured.power * hours;
        powerSum += measured.power;
        powerCount++;
    }
    if (up - sampledAt < SAMPLE_MS) return;
    sampledAt = up;
    wl_sample kept = {};
    kept.up_ms = up;
    kept.at_ms = nowMs();
    kept.export_wh = (uint64_t)exportWh;
    kept.import_wh = (uint64_t)importWh;
    kept.power_w = powerCount > 0 ? (float)(powerSum / powerCount) : NAN;
    kept.voltage_v = measured.voltage;
    powerSum = 0;
    powerCount = 0;
    const bool isSaved = memory.putULong64("export", kept.export_wh) != 0 && memory.putULong64("import", kept.import_wh) != 0;
    if (isSaved) wl_add(&device, &kept);
    else Serial.println("The flash takes no counters: this sample is not sent.");
}

/* Sends a message where there is one. */
static void sendNext() {
    char mac[65];
    if (WiFi.status() != WL_CONNECTED || !wl_next(&device, upMs(), nowMs())) return;
    if (!wl_signature(&device, mac)) return;
    const bool isSafe = strncmp(URL, "https:", 6) == 0;
    const char *wanted[] = { "Retry-After" };
    http.setReuse(true);
    http.setConnectTimeout(10000);
    http.setTimeout(10000);
    if (!(isSafe ? http.begin(safeClient, URL) : http.begin(plainClient, URL))) return;
    http.collectHeaders(wanted, 1);
    http.addHeader("Content-Type", "application/json");
    http.addHeader("X-WL-Device", DEVICE);
    http.addHeader("X-WL-Boot", String(device.boot));
    http.addHeader("X-WL-Seq", String(device.message_seq));
    http.addHeader("X-WL-Signature", mac);
    const int status = http.POST((uint8_t *)device.body, device.length);
    const String pause = http.header("Retry-After");
    const String answer = status > 0 ? http.getString() : http.errorToString(status);
    http.end();
    Serial.printf("%u/%u: %d %s\n", (unsigned)device.boot, (unsigned)device.message_seq, status, answer.c_str());
    wl_answer(&device, upMs(), status, pause.length() == 0 ? -1 : isDigit(pause[0]) ? (int)pause.toInt() : 60, esp_random());
}

void loop() {
    sample();
    sendNext();
    delay(500);
}
