/** Schemas of the AMS-I.D policy as the stand-in serves them: keys are cells of the methodology's workbook, as in the real policy. */

type Json = Record<string, unknown>;

const text = (title: string): Json => ({ type: "string", title });
const texts = (title: string): Json => ({ type: "array", title, items: { type: "string" } });
const number = (title: string): Json => ({ type: "number", title });
/** Set by the policy's own calculation, never by the one who files. */
const computed = (title: string): Json => ({ type: "number", title, readOnly: true });
const choice = (title: string, ...values: string[]): Json => ({ type: "string", title, enum: values });
const yesNo = (title: string): Json => choice(title, "Yes", "No");
/** Guardian's schemas take no property that they do not name, at any level. */
const object = (title: string, properties: Json, required: string[] = []): Json => ({
    type: "object",
    title,
    additionalProperties: false,
    properties: { "@context": {}, type: {}, id: { type: "string" }, ...properties },
    ...(required.length > 0 && { required }),
});

const dateRanges = (title: string): Json => ({
    type: "array",
    title,
    items: object("Date Range", { field0: { type: "string", format: "date", title: "From" }, field1: { type: "string", format: "date", title: "To" } }, ["field0", "field1"]),
});

const PROJECT_DETAILS = object("Project Details", {
    field0: text("Summary Description of the Project"),
    field1: text("Sectoral Scope"),
    field2: texts("Project Type"),
    field3: texts("Type of Activity"),
    field4: text("Project Scale"),
    field5: texts("Project Location Latitude"),
    field6: texts("Project Location Longitude"),
    field7: { type: "array", title: "Project Location GeoJSON", items: { type: "object", required: ["type", "coordinates"] } },
    field8: text("Project Eligibility"),
    field9: text("Project Participant Organization Name"),
    field10: text("Contact Person"),
    field11: text("Title"),
    field12: text("Address"),
    field13: texts("Country"),
    field14: text("Telephone"),
    field15: { type: "string", format: "email", title: "Email" },
    field16: texts("Project Ownership"),
    field28: text("Emissions Trading Programs"),
    field17: text("Participation under other GHG Programs"),
    field18: text("Other Forms of Environmental Credit"),
    field19: text("Projects Rejected by Other GHG Programs"),
    field20: text("Title and Reference of Methodologies"),
    field21: { type: "string", format: "date", title: "Project Start Date" },
    field22: dateRanges("Crediting Period(s)"),
    field23: dateRanges("Monitoring Period(s)"),
    field24: text("Monitoring Plan"),
    field25: text("Compliance with Laws"),
    field29: texts("Eligibility Criteria"),
    field26: texts("Sustainable development"),
    field27: text("Further Information"),
});

const TOOL_07 = object("Tool 07", {
    field0: text("Information about the electricity system"),
    field1: choice("Hourly or annual data from each power plant?", "Hourly", "Annual"),
    field2: object("Operating margin", {
        field1: choice("Dispatch data OM option", "If hourly fuel consumption data is available", "If hourly fuel consumption data is not available."),
        field0: number("EF_grid,OM (tCO2/MWh)"),
    }),
    field4: object("Build margin", {
        field2: number("Most recent year with generation data"),
        field3: number("Total system generation"),
        field4: {
            type: "array",
            title: "Power units in the build-margin sample",
            items: object("Power unit", {
                field0: text("Unit name"),
                field1: { type: "string", format: "date", title: "Commissioning date" },
                field2: number("EG_m,y (MWh)"),
                field3: number("EF_EL,m,y (tCO2/MWh)"),
            }),
        },
        field0: computed("EF_grid,BM,y"),
    }),
    field5: object("Combined margin", {
        field0: yesNo("Is data to determine Build Margin available?"),
        field1: yesNo("Is this data for the first crediting period?"),
        field2: choice("Project type option", "Wind and Solar Power Generation", "All Other Projects"),
        field4: object("Weighted average", {
            field0: computed("EF_grid,CM,y weighted"),
            field1: computed("EF_grid,OM,y"),
            field2: computed("w_OM"),
            field3: computed("w_BM"),
        }),
        field3: computed("EF_grid,CM,y"),
    }),
});

const BASELINE = object(
    "Baseline emissions",
    {
        H34: computed("BE_y"),
        H35: choice(
            "EG_PJ,y case",
            "Greenfield power plants.",
            "Capacity addition in wind, solar, wave or tidal power plants.",
            "Capacity addition in hydro or geothermal power plants.",
            "Capacity addition to biomass power plants.",
            "Retrofit, rehabilitation or replacement in hydro, solar, wind, geothermal, wave and tidal plants.",
            "Retrofit, rehabilitation or replacement in biomass plants.",
        ),
        H36: computed("EG_PJ,y (MWh)"),
        H37: computed("EF_grid,CM,y"),
        H40: number("EG_PJ,facility,y (MWh)"),
        H43: number("EG_PJ,add,y (MWh)"),
        H44: { type: "object" },
        H52: { type: "object" },
        H61: { type: "object" },
        H70: { type: "object" },
        tool_07: TOOL_07,
        tool_10: { type: "object" },
    },
    ["H35", "tool_07"],
);

const numbers = (make: (title: string) => Json, ...cells: string[]): Json => Object.fromEntries(cells.map((cell) => [cell, make(cell)]));

const PROJECT_EMISSIONS = object(
    "Project emissions",
    {
        H82: choice(
            "Project emission case",
            "Renewable energy project activities.",
            "Emissions related to the operation of geothermal power plants (e.g. noncondensable gases, electricity/fossil fuel consumption).",
            "Emissions from water reservoirs of hydro power plants.",
        ),
        H83: yesNo("Project emissions from fossil fuel consumption?"),
        H84: yesNo("Biomass from dedicated plantations?"),
        ...numbers(computed, "H85", "H86", "H87", "H88", "H89", "H91", "H92", "H93", "H95", "H101", "H102", "H103", "H110"),
        ...numbers(number, "H96", "H97", "H98", "H99", "H104", "H105", "H106", "H107"),
        H109: yesNo("Integrated hydro power projects?"),
        tool_03: object("Tool 03", { field0: { type: "array", items: { type: "object" } }, field1: computed("PE_FC,y") }),
        power_density_integrated: object("Power density, integrated", { ...numbers(computed, "G3", "G6"), ...numbers(number, "G4", "G5", "G7", "G8") }),
        power_density: object("Power density", { ...numbers(computed, "G3", "G8"), ...numbers(number, "G4", "G5", "G6", "G7", "G9", "G10") }),
    },
    ["H82", "H109"],
);

/** Project and monitoring report of AMS-I.D have the same form. */
export const AMS_ID_SCHEMA: Json = {
    $schema: "http://json-schema.org/draft-07/schema#",
    ...object(
        "AMS-I.D",
        {
            policyId: { type: "string" },
            ref: { type: "string" },
            guardianVersion: { type: "string" },
            field0: PROJECT_DETAILS,
            H33: BASELINE,
            H81: PROJECT_EMISSIONS,
            H112: number("LE_y (tCO2e)"),
            H113: object("Emission reductions", numbers(computed, "H114", "H115", "H116", "H117")),
        },
        ["@context", "type", "field0", "H33", "H81", "H112"],
    ),
};

/** Profile of a participant or verifier. */
export const PROFILE_SCHEMA: Json = {
    $schema: "http://json-schema.org/draft-07/schema#",
    ...object("Profile", { policyId: { type: "string" }, ref: { type: "string" }, guardianVersion: { type: "string" }, field0: text("Name") }, ["@context", "type", "field0"]),
};
