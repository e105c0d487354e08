/**
 * Numbers that look random and are a pure function of (seed, channel, n): nothing to store, the same at every call.
 * The mixer is the finaliser of MurmurHash3 (Appleby, public domain).
 * @returns 0 <= x < 1
 */
export function hashed(seed: number, channel: number, n: number): number {
    let h = Math.imul(seed | 0, 0x9e3779b1) ^ Math.imul(channel | 0, 0x85ebca77) ^ Math.imul(n | 0, 0xc2b2ae3d);
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}

/** Value noise: hashed numbers at whole `x`, joined smoothly, so that values near in `x` are near in height. @returns 0 <= y < 1 */
export function noise(seed: number, channel: number, x: number): number {
    const n = Math.floor(x);
    const from = hashed(seed, channel, n);
    return from + (hashed(seed, channel, n + 1) - from) * smoothstep(0, 1, x - n);
}

/** 0 below `low`, 1 above `high`, smooth between. */
export function smoothstep(low: number, high: number, x: number): number {
    const u = clamp((x - low) / (high - low), 0, 1);
    return u * u * (3 - 2 * u);
}

export function clamp(x: number, low: number, high: number): number {
    return Math.min(high, Math.max(low, x));
}
