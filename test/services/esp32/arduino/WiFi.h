#pragma once
#include "Arduino.h"

typedef enum { WL_IDLE_STATUS = 0, WL_CONNECTED = 3, WL_DISCONNECTED = 6 } wl_status_t;
typedef enum { WIFI_MODE_STA = 1 } wifi_mode_t;
#define WIFI_STA WIFI_MODE_STA

class WiFiClient {};

class WiFiClass {
public:
    bool mode(wifi_mode_t mode);
    bool setAutoReconnect(bool autoReconnect);
    wl_status_t begin(const char *ssid, const char *passphrase = nullptr);
    wl_status_t status();
};
extern WiFiClass WiFi;
