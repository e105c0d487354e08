// Small files that are there as a whole or not at all, whatever the disk does.
const { randomBytes } = require("node:crypto");
const fs = require("node:fs");

/** Replaces a file that only its owner may read. */
exports.writeWhole = (file, text) => {
    const temporary = `${file}.tmp`;
    try {
        fs.writeFileSync(temporary, text, { mode: 0o600, flush: true });
        fs.renameSync(temporary, file);
    } catch (error) {
        fs.rmSync(temporary, { force: true });
        throw error;
    }
};

/** What a file holds; undefined where it is not there, or empty, as a full disk may have left it. */
const readWhole = (file) => (fs.existsSync(file) && fs.readFileSync(file, "utf8")) || undefined;
exports.readWhole = readWhole;

/** Random text that is made once. */
exports.keptSecret = (file, bytes, encoding) => {
    if (!readWhole(file)?.trim()) exports.writeWhole(file, randomBytes(bytes).toString(encoding));
    return readWhole(file).trim();
};
