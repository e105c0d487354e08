import { appendFileSync } from "node:fs";
import Mocha from "mocha";

const reportFile = process.env["TEST_REPORT"];

/**
 * What a person reads, and one line of JSON in the file that TEST_REPORT names: the counts, which `.ci/run` adds up, and what
 * failed, which it repeats at its end. A run that crashes writes no line, which `.ci/run` takes for a failure.
 */
export default class Reporter extends (reportFile ? Mocha.reporters.Dot : Mocha.reporters.Spec) {
    constructor(runner: Mocha.Runner, options?: Mocha.MochaOptions) {
        super(runner, options);
        const failed: string[] = [];
        runner.on("fail", (test, error) => failed.push(`${test.fullTitle()}: ${String(error?.message ?? error).slice(0, 300)}`));
        runner.once("end", () => {
            const { passes, failures, pending } = this.stats;
            const report = { passed: passes, failed: failures, skipped: pending, failures: failed };
            if (reportFile) appendFileSync(reportFile, `${JSON.stringify(report)}\n`);
        });
    }
}
