// Writes pointmaps/sunspec/model_<id>.yaml from the official definitions (github.com/sunspec/models, folder json):
//   node pointmaps/generate-sunspec.mjs <folder with model_*.json>
// Takes facts only: ids, names, types, sizes, scale factors, units, access, symbols, groups. Texts stay where they are.
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

const WIDTH = 120;

/** The spellings found in the definitions, by the unit they mean; null where the text is a format and no unit. */
const UNITS = {
    A: "A", V: "V", W: "W", Hz: "Hz", VA: "VA", S: "S", mm: "mm", var: "var", Var: "var",
    Wh: "Wh", WH: "Wh", VAh: "VAh", varh: "varh", Varh: "varh", Ah: "Ah", AH: "Ah", kWh: "kWh", kAH: "kAh",
    C: "°C", Degrees: "°", deg: "°", ohms: "Ω", kO: "kΩ", HPa: "hPa", Vm: "V/m", meters: "m", mps: "m/s", "m/s": "m/s",
    "W/m2": "W/m²", "W/m^2": "W/m²", "V/s": "V/s", "W/s": "W/s", "A/s": "A/s", "Hz/s": "Hz/s", bps: "bit/s", Mbps: "Mbit/s",
    Secs: "s", Sec: "s", Tms: "s", mSecs: "ms", Tmh: "h", Tmd: "d", "cos()": "ratio", PF: "ratio", Pct: "%", "%": "%",
    "% WMax": "% WMax", WMaxPct: "% WMax", "% WMax/sec": "% WMax/s", "% WMax/min": "% WMax/min", "%Max/Sec": "% Max/s",
    "% WGra": "% WGra", "% WRef": "% WRef", "% PM/Hz": "% PM/Hz", "% PF/min": "% PF/min",
    "% VArMax": "% VArMax", "% VArAval": "% VArAval", "% VRef": "% VRef", VNomPct: "% VNom", "%ARtg/%dV": "% ARtg/% dV",
    "% WChaMax": "% WChaMax", " % WChaMax": "% WChaMax", "% WChaMax/sec": "% WChaMax/s", "% WDisChaMax": "% WDisChaMax",
    "% AhrRtg": "% AhrRtg", "%WHRtg": "% WHRtg", DeptRef: "% DeptRef", VarPct: "% DeptRef", "% ref_value/min": "% DeptRef/min",
    SF: null, text: null, "hhmmss.sssZ": null, hhmmss: null, YYYYMMDD: null,
};

/** Units that are wrong in the definitions: 306 marks every point as irradiance, 122 gives available watts in var. */
const CORRECTED = { "306.A": "A", "306.V": "V", "306.Tmp": "°C", "122.WAval": "W" };

const SIZES = {
    int16: 1, int32: 2, int64: 4, uint16: 1, uint32: 2, uint64: 4, acc16: 1, acc32: 2, acc64: 4, raw16: 1,
    enum16: 1, enum32: 2, bitfield16: 1, bitfield32: 2, bitfield64: 4, float32: 2, float64: 4,
    sunssf: 1, count: 1, pad: 1, ipaddr: 2, ipv6addr: 8, eui48: 4,
};

const source = process.argv[2];
if (!source) throw new Error("Usage: node pointmaps/generate-sunspec.mjs <folder with model_*.json>");
const target = path.join(import.meta.dirname, "sunspec");
for (const file of readdirSync(target)) rmSync(path.join(target, file));
const files = readdirSync(source).filter((file) => /^model_\d+\.json$/.test(file));
for (const file of files) {
    const model = JSON.parse(readFileSync(path.join(source, file), "utf8"));
    writeFileSync(path.join(target, `model_${model.id}.yaml`), modelText(model));
}
process.stdout.write(`${files.length} models written\n`);

function modelText({ id, group }) {
    const [idPoint, lengthPoint, ...points] = group.points;
    if (idPoint.name !== "ID" || idPoint.value !== id || lengthPoint.name !== "L") throw new Error(`Model ${id} has no header`);
    const lines = [
        "# Facts from the SunSpec model definitions (SunSpec Alliance, Apache-2.0; see NOTICE), written by generate-sunspec.mjs",
        `id: ${id}`,
        `name: ${scalar(group.name)}`,
        ...(lengthPoint.value === undefined ? [] : [`length: ${lengthPoint.value}`]),
        ...groupLines(id, { ...group, points }, ""),
    ];
    return `${lines.join("\n")}\n`;
}

function groupLines(id, group, indent) {
    const lines = [];
    if (group.type === "sync") lines.push(`${indent}sync: true`);
    // The older models leave the count to be derived from L; that is written 0 there.
    if (group.count !== undefined) lines.push(`${indent}count: ${group.count === 0 ? "L" : scalar(group.count)}`);
    if (group.points.length > 0) lines.push(`${indent}points:`, ...group.points.map((point) => pointText(id, point, `${indent}  `)));
    if (group.groups?.length > 0) {
        lines.push(`${indent}groups:`);
        for (const child of group.groups) lines.push(`${indent}  ${scalar(child.name)}:`, ...groupLines(id, child, `${indent}    `));
    }
    return lines;
}

function pointText(id, point, indent) {
    const unit = unitOf(id, point);
    if (point.type !== "string" && SIZES[point.type] !== point.size) throw new Error(`Model ${id} ${point.name}: size ${point.size}`);
    const parts = [
        `type: ${point.type}`,
        ...(point.type === "string" ? [`size: ${point.size}`] : []),
        ...(point.sf === undefined ? [] : [`sf: ${point.sf}`]),
        ...(unit === null ? [] : [`unit: ${scalar(unit)}`]),
        ...(point.access === "RW" ? ["access: RW"] : []),
        ...(point.mandatory === "M" ? ["mandatory: true"] : []),
        ...(point.static === "S" ? ["static: true"] : []),
    ];
    const symbols = (point.symbols ?? []).map((symbol) => `${scalar(symbol.name)}: ${symbol.value}`);
    const start = `${indent}${scalar(point.name)}: {${parts.join(", ")}`;
    if (symbols.length === 0) return `${start}}`;
    const oneLine = `${start}, symbols: {${symbols.join(", ")}}}`;
    return oneLine.length <= WIDTH ? oneLine : `${start}, symbols: {\n${wrap(symbols, `${indent}    `)}}}`;
}

function wrap(items, indent) {
    const lines = [];
    let line = indent;
    for (const [index, item] of items.entries()) {
        const text = index < items.length - 1 ? `${item},` : item;
        if (line !== indent && line.length + text.length + 1 > WIDTH - 2) {
            lines.push(line);
            line = indent;
        }
        line += line === indent ? text : ` ${text}`;
    }
    return [...lines, line].join("\n");
}

function unitOf(id, point) {
    const corrected = CORRECTED[`${id}.${point.name}`];
    if (corrected !== undefined || point.units === undefined) return corrected ?? null;
    const unit = UNITS[point.units];
    if (unit === undefined) throw new Error(`Model ${id} ${point.name}: unknown unit "${point.units}"`);
    return unit;
}

function scalar(value) {
    const text = String(value);
    const plain = /^[\p{L}°_][\p{L}\d_ ²/.-]*$/u.test(text) && !/^(true|false|null)$/i.test(text);
    return plain || typeof value === "number" ? text : JSON.stringify(text);
}
