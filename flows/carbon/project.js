// The project as the stand-in's registry validates it, with the factor of the reports; WL_PROJECT (JSON) replaces any of it. `simulated`
// keeps it away from a real registry: file a real project there once, in Guardian's own pages or with wl-guardian-project. The placeholders
// are those of nodes/cli/carbon.ts.
const [factor] = JSON.parse(env.get("WL_FACTORS"));
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
const given = String(env.get("WL_PROJECT") ?? "");
return { payload: { ...facts, ...(given.startsWith("{") && JSON.parse(given)), id: env.get("WL_SITE") }, simulated: true };
