/**
 * The AMS-I.D policy's own calculation as the stand-in runs it, faults included: what is missing counts as 0, an unknown choice
 * throws. Written apart from the client's, so that each tests the other.
 */

/** A workbook cell or a group of them; nothing in a filed document is sure to be there. */
type Cells = { [key: string]: Cells } & { [Symbol.toPrimitive]?: never };

/** Fills the computed cells of a credential subject. @throws Error for a choice or group that the policy's code trips over */
export function calculate(subject: object): void {
    const document = subject as unknown as Cells;
    tool03(document["H81"]);
    tool07(document["H33"]?.["tool_07"]);
    fields(document);
    withoutNaN(document);
}

const n = (value: unknown): number => (typeof value === "number" ? value : NaN);
const put = (cells: Cells | undefined, key: string, value: number): number => {
    (cells as unknown as Record<string, number>)[key] = value;
    return value;
};
const is = (value: unknown, wanted: string): boolean => value === wanted;

/** TOOL03, option A with mass and carbon content: COEF = w_C x 44/12. */
function tool03(emissions: Cells | undefined): void {
    const tool = emissions?.["tool_03"];
    if (!tool) return;
    let sum = 0;
    for (const fuel of (tool["field0"] ?? []) as unknown as Cells[]) {
        put(fuel, "field7", (n(fuel["field3"]?.["field1"]) * 44) / 12);
        sum += put(fuel, "field8", n(fuel["field6"]) * n(fuel["field7"]));
    }
    put(tool, "field1", sum);
}

/** TOOL07 with dispatch-data operating margin and a build-margin sample. */
function tool07(tool: Cells | undefined): void {
    if (!tool) return;
    if (!is(tool["field1"], "Hourly")) throw new Error("Unknown option");
    let energy = 0;
    let emission = 0;
    for (const unit of (tool["field4"]?.["field4"] ?? []) as unknown as Cells[]) {
        energy += n(unit["field2"]);
        emission += n(unit["field2"]) * n(unit["field3"]);
    }
    if (tool["field4"]) put(tool["field4"], "field0", emission / energy);
    const margin = tool["field5"];
    if (!margin || !is(margin["field0"], "Yes")) throw new Error("Unknown option");
    const isSolar = is(margin["field2"], "Wind and Solar Power Generation");
    const operating = isSolar ? 0.75 : is(margin["field1"], "Yes") ? 0.5 : 0.25;
    const weighted = (margin["field4"] ??= {} as Cells);
    put(weighted, "field1", n(tool["field2"]?.["field0"]));
    put(weighted, "field2", operating);
    put(weighted, "field3", 1 - operating);
    put(weighted, "field0", n(weighted["field1"]) * operating + n(tool["field4"]?.["field0"]) * (1 - operating));
    put(margin, "field3", n(weighted["field0"]));
}

function fields(document: Cells): void {
    const baseline = document["H33"] as Cells;
    const emissions = document["H81"] as Cells;
    const cell = (key: string) => n(emissions[key]);
    const generated = { "Greenfield power plants.": "H40", "Capacity addition in wind, solar, wave or tidal power plants.": "H43" }[baseline["H35"] as unknown as string];
    if (generated === undefined) throw new Error("Unknown option");
    put(baseline, "H36", n(baseline[generated]));
    put(baseline, "H37", n(baseline["tool_07"]?.["field5"]?.["field3"]));
    put(baseline, "H34", n(baseline["H36"]) * n(baseline["H37"]));

    const isIntegrated = is(emissions["H109"], "Yes");
    const density = emissions[isIntegrated ? "power_density_integrated" : "power_density"] as Cells;
    const g = (key: string) => n(density[key]);
    put(density, "G3", isIntegrated ? g("G4") / g("G5") : (g("G4") - g("G5")) / (g("G6") - g("G7")));
    const reservoir = g("G3") > 4 && g("G3") <= 10 ? (isIntegrated ? g("G7") * g("G8") : g("G9") * g("G10")) / 1000 : 0;
    put(emissions, "H110", put(density, isIntegrated ? "G6" : "G8", reservoir));
    put(emissions, "H89", reservoir);
    put(emissions, "H86", n(emissions["tool_03"]?.["field1"] ?? 0));
    put(emissions, "H87", 0);
    put(emissions, "H92", put(emissions, "H95", cell("H96") * cell("H97") * cell("H98") * cell("H99")));
    put(emissions, "H102", (cell("H104") - cell("H105")) * (cell("H96") + cell("H97") * cell("H98")));
    put(emissions, "H103", cell("H106") * cell("H107"));
    put(emissions, "H93", put(emissions, "H101", cell("H102") + cell("H103")));
    put(emissions, "H88", put(emissions, "H91", cell("H92") + cell("H93")));
    if (!is(emissions["H82"], "Renewable energy project activities.")) throw new Error("Unknown option");
    put(emissions, "H85", 0);

    const result = (document["H113"] ??= {} as Cells);
    put(result, "H115", n(baseline["H34"]));
    put(result, "H116", cell("H85"));
    put(result, "H117", n(document["H112"]));
    put(result, "H114", n(result["H115"]) - n(result["H116"]) - n(result["H117"]));
}

/** What the policy does with a result that is no number: it becomes 0, and the report a valid one of nothing. */
function withoutNaN(value: unknown): void {
    if (typeof value !== "object" || value === null) return;
    const cells = value as Record<string, unknown>;
    for (const [key, item] of Object.entries(cells)) {
        if (typeof item === "number" && !Number.isFinite(item)) cells[key] = 0;
        else withoutNaN(item);
    }
}
