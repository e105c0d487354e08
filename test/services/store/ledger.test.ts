import { closeLedgers, survives } from "../../store/ledger-kit.js";

describe("store/ledger with a fault at every step", () => {
    afterEach(closeLedgers);

    for (const fault of ["ENOSPC", "EIO", "short"] as const) {
        it(`${fault}: what was acknowledged stays, what was signed stays true, and it goes on when the disk does`, async () => {
            for (let step = 0; await survives(step, fault); step++);
        });
    }

    for (const part of [0, 0.6, 1]) {
        it(`a power cut that leaves ${part} of what was not synced takes nothing that was acknowledged or signed`, async () => {
            for (let step = 0; await survives(step, "EIO", part); step++);
        });
    }
});
