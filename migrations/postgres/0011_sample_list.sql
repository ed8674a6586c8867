-- Which samples a data set holds, once for all runs on it: lines of JSON, compressed with zlib.
CREATE TABLE sample_list (
    data_sha256 TEXT PRIMARY KEY CHECK (length(data_sha256) = 64),
    samples     BIGINT NOT NULL CHECK (samples > 0),
    zlib        BYTEA NOT NULL
);

-- It is compressed already.
ALTER TABLE sample_list ALTER COLUMN zlib SET STORAGE EXTERNAL;
