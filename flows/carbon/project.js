// The project as the stand-in's registry validates it, with the factor of the reports; WL_PROJECT (JSON) replaces any of it. `simulated`
// keeps it away from a real registry: file a real project there once, in Guardian's own pages or with wl-guardian-project. The placeholders
// are those of nodes/cli/carbon.ts.
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const read = (name) => {
    try {
        return JSON.parse(env.get(name) || "{}");
    } catch {
        return undefined;
    }
};
const [factor] = [read("WL_FACTORS")].flat();
const given = read("WL_PROJECT");
if (!isObject(factor)) return node.error('WL_FACTORS must be a list of emission factors in JSON, such as [{"om": 0.729, "bm": 0.326}]', msg);
if (!isObject(given)) return node.error('WL_PROJECT must be an object in JSON, such as {"organisation": "Sunny Field"}', msg);
const year = new Date().getUTCFullYear();
const facts = {
    summary: "A simulated photovoltaic plant that delivers to the grid",
    organisation: env.get("WL_SITE_NAME"),
    email: "office@example.org",
    country: "Morocco",
    latitude: Number(env.get("WL_LATITUDE")),
    longitude: Number(env.get("WL_LONGITUDE")),
    startDate: `${year}-01-01`,
    creditingPeriod: { from: `${year}-01-01`, to: `${year + 6}-12-31`, first: true },
    yearlyMWh: Math.max(1, Math.round(env.get("WL_RATED_POWER_W") / 600)),
    factor: { om: factor.om, bm: factor.bm, source: factor.source || "not stated", vintage: factor.vintage || String(year) },
};
return { payload: { ...facts, ...given, id: env.get("WL_SITE") }, simulated: true };
