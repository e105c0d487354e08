import type { Preset } from "../preset.js";
import { asRatio, deviceName, invalid, own, parseJsonObject, parseNumber, said, textOf, times, Values } from "../values.js";

/**
 * The flat object of power (W), irradiance (W/m²), temperature (°C), efficiency (ratio or %) and energy (kWh since the start) that the
 * ESP32 of the first solar monitors sends. Its clock is a fixed date and is not looked at. Its firmware takes the voltage for granted and
 * makes up what it has no sensor for, so all of it is marked as estimated and none is claimed; a true meter takes the native envelope.
 */
export const flatJson: Preset = {
    id: "flat-json",
    topics: ({ prefix }) => [`${prefix || "esp32"}/+`, `${prefix || "esp32"}/+/data`],
    createDecoder: ({ prefix }) => ({
        decode: (arrival) => {
            const body = parseJsonObject(textOf(arrival));
            const level = (prefix || "esp32").split("/").length;
            const named = arrival.via === "mqtt" ? arrival.topic?.split("/")[level] : undefined;
            const device = deviceName(own(body, "device_id") ?? own(body, "deviceId") ?? arrival.device ?? named);
            if (named !== undefined && device !== named) throw invalid("device_id must be the name in the topic.");
            const values = new Values();
            values.put("ac_power_w", own(body, "power"));
            values.put("irradiance_poa_w_m2", own(body, "irradiance"));
            values.put("module_temperature_c", own(body, "temperature"));
            const efficiency = parseNumber(asRatio(own(body, "efficiency")));
            values.put("efficiency_pct", typeof efficiency === "number" ? times(efficiency, 100) : own(body, "efficiency"));
            values.put("ac_energy_export_wh", own(body, "energy"), 1000);
            values.markAll("estimated");
            return said(device, values.sample(device, arrival, { class: "inverter" }));
        },
    }),
};
