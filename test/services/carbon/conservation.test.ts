import { conserve, truth } from "../../carbon/histories.js";

const HISTORIES = 100_000;

describe("settlement", () => {
    it(`M1: conserves every Wh in ${HISTORIES.toLocaleString("en-US")} histories of loss, duplicates, disorder, resets and rollovers`, function () {
        this.timeout(600_000);
        for (let seed = 1; seed <= HISTORIES; seed++) conserve(truth(seed));
    });
});
