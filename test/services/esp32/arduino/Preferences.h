#pragma once
#include "Arduino.h"

class Preferences {
public:
    bool begin(const char *name, bool readOnly = false);
    size_t putUInt(const char *key, uint32_t value);
    uint32_t getUInt(const char *key, uint32_t defaultValue = 0);
    size_t putULong64(const char *key, uint64_t value);
    uint64_t getULong64(const char *key, uint64_t defaultValue = 0);
    size_t putBytes(const char *key, const void *value, size_t len);
    size_t getBytes(const char *key, void *buf, size_t maxLen);
};
