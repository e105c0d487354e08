import assert from "node:assert/strict";
import type { SiteNode } from "../../dist/common/wl-site.js";
import wlSite from "../../dist/common/wl-site.js";
import { helper } from "../node-red.js";

describe("wl-site", () => {
    before(() => helper.startServer());
    after(() => helper.stopServer());
    afterEach(() => helper.unload());

    const load = async (def: object) => {
        await helper.load(wlSite, [{ id: "site", type: "wl-site", ...def }]);
        return helper.getNode<SiteNode>("site");
    };

    it("gives the plant to other nodes", async () => {
        const def = { siteId: "farm_1", name: "Farm", zone: "Europe/Lisbon", latitude: "38.7", longitude: -9.1, currency: "EUR", ratedPowerW: "50000" };
        const { site } = await load(def);
        assert.deepEqual(site, { ...def, latitude: 38.7, ratedPowerW: 50_000 });
    });

    it("takes its id from the environment", async () => {
        process.env["WL_TEST_SITE"] = "from-env";
        try {
            assert.equal((await load({ siteId: "${WL_TEST_SITE}" })).site?.siteId, "from-env");
        } finally {
            delete process.env["WL_TEST_SITE"];
        }
    });

    for (const def of [{}, { siteId: "a/b" }, { siteId: "${WL_NOT_SET}" }, { siteId: "a", zone: "Nowhere" }, { siteId: "a", latitude: 91 }, { siteId: "a", currency: "euro" }]) {
        it(`shows ${JSON.stringify(def)} as a fault and stays up`, async () => {
            assert.equal((await load(def)).site, undefined);
        });
    }
});
