-- Which samples a data set holds, once for all runs on it: a line of JSON each, ["train", 3, "9f86d081884c7d65", "cats/a.png"]
-- (part, label, the beginning of the content's sha256, id), compressed with zlib.
CREATE TABLE sample_list (
    data_sha256 TEXT PRIMARY KEY CHECK (length(data_sha256) = 64),
    samples     INTEGER NOT NULL CHECK (samples > 0),
    zlib        BLOB NOT NULL
) STRICT, WITHOUT ROWID;
