#pragma once
#include "WiFi.h"

class HTTPClient {
public:
    bool begin(WiFiClient &client, String url);
    void end();
    void setReuse(bool reuse);
    void setConnectTimeout(int32_t connectTimeout);
    void setTimeout(uint16_t timeout);
    void collectHeaders(const char *headerKeys[], const size_t headerKeysCount);
    void addHeader(const String &name, const String &value, bool first = false, bool replace = true);
    int POST(uint8_t *payload, size_t size);
    String header(const char *name);
    String getString();
    static String errorToString(int error);
};
