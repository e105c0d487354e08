import { appendFileSync } from "node:fs";
import Mocha from "mocha";

const reportFile = process.env["TEST_REPORT"];

/**
 * What a person reads, and one line of JSON with the counts in the file that TEST_REPORT names: `.ci/run` adds them up.
 * A run that crashes writes no line, which `.ci/run` takes for a failure.
 */
export default class Reporter extends (reportFile ? Mocha.reporters.Dot : Mocha.reporters.Spec) {
    constructor(runner: Mocha.Runner, options?: Mocha.MochaOptions) {
        super(runner, options);
        runner.once("end", () => {
            const { passes, failures, pending } = this.stats;
            if (reportFile) appendFileSync(reportFile, `${JSON.stringify({ passed: passes, failed: failures, skipped: pending })}\n`);
        });
    }
}
