// Declares what the sketch uses of the ESP32 core, as the core's headers do, so that a computer can check its types.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

class String {
public:
    String(const char *text = "");
    explicit String(unsigned int value, unsigned char base = 10);
    explicit String(unsigned long value, unsigned char base = 10);
    int indexOf(char c, unsigned int from = 0) const;
    int indexOf(const String &text, unsigned int from = 0) const;
    String substring(unsigned int from) const;
    const char *c_str() const;
    unsigned int length() const;
    char operator[](unsigned int index) const;
    long toInt() const;
};

class HardwareSerial {
public:
    void begin(unsigned long baud);
    size_t println(const char *text);
    size_t printf(const char *format, ...) __attribute__((format(printf, 2, 3)));
};
extern HardwareSerial Serial;

uint32_t analogReadMilliVolts(uint8_t pin);
void delay(uint32_t ms);
bool isDigit(int c);
void configTime(long gmtOffset_sec, int daylightOffset_sec, const char *server1, const char *server2 = nullptr, const char *server3 = nullptr);
