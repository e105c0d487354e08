import type { DeviceMap, Identity } from "./discover.js";

/** Serial numbers that makers leave in instead of one. */
const NO_SERIAL = /^([0x*#?.-]*|unknown|none|n\/?a|null|serial( ?number)?|sn)$/i;

/** The device's serial number, undefined where it has none of its own. */
export function serialOf(identity: Identity | undefined): string | undefined {
    const serial = identity?.serial?.trim();
    return serial === undefined || NO_SERIAL.test(serial) ? undefined : serial;
}

/**
 * Names for the logical devices of a unit, in their order: `<manufacturer>-<serial>`, else maker, model and unit. They hold
 * only letters, digits, dashes, dots and underscores, differ from each other, and stay the same from walk to walk.
 */
export function deviceNames({ unit, devices }: Pick<DeviceMap, "unit" | "devices">): string[] {
    const taken = new Set<string>();
    return devices.map(({ identity }, index) => {
        const serial = serialOf(identity);
        const parts = serial === undefined ? [identity?.manufacturer ?? "sunspec", identity?.model, `u${unit}`] : [identity?.manufacturer, serial];
        let name = slug(parts.filter((part) => part !== undefined).join(" "));
        if (taken.has(name)) name += `-${index + 1}`;
        taken.add(name);
        return name;
    });
}

/** Lower case, everything but letters, digits, dots and underscores a dash. */
export function slug(text: string): string {
    const plain = text.normalize("NFKD").toLowerCase().replaceAll(/[^a-z0-9._]+/g, "-");
    return plain.replaceAll(/^[-.]+|[-.]+$/g, "") || "device";
}
