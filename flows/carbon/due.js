// A check as soon as the past that the simulated devices make up for has come, and then every 15 s. Before that an interval would be sealed
// with a part of its samples, and the rest would be late data. Real devices need no such node: wl-ams-id checks by itself.
const behind = Date.now() - Date.parse(msg.payload.fleet_time);
if (!(behind < 2000 * env.get("WL_SAMPLE_S") + 60_000)) return null;
if (Date.now() - (context.get("asked") ?? 0) < 15_000) return null;
context.set("asked", Date.now());
return { topic: "check", command: "check" };
