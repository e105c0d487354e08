import { readFileSync } from "node:fs";
import path from "node:path";

/** Of this package, as reports and programs name it. */
export function packageVersion(): string {
    return (JSON.parse(readFileSync(path.join(__dirname, "../../package.json"), "utf8")) as { version: string }).version;
}
