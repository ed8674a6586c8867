-- Points are append-only. SQLite stores NaN as NULL and -0.0 as 0.0, so a flag tells.
CREATE TABLE metric_key (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    goal TEXT CHECK (goal IN ('min', 'max'))             -- what is better, where one is
) STRICT;

CREATE TABLE metric (
    run_id INTEGER NOT NULL REFERENCES run (id),
    key_id INTEGER NOT NULL REFERENCES metric_key (id),
    step   INTEGER NOT NULL CHECK (step >= 0),
    value  REAL,
    flag   INTEGER NOT NULL DEFAULT 0 CHECK (flag IN (0, 1, 2) AND (value IS NULL) = (flag = 1)),  -- 1 NaN, 2 -0.0
    PRIMARY KEY (run_id, key_id, step)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER metric_no_update BEFORE UPDATE ON metric
BEGIN
    SELECT RAISE(ABORT, 'metrics are append-only');
END;

CREATE TRIGGER metric_no_delete BEFORE DELETE ON metric
BEGIN
    SELECT RAISE(ABORT, 'metrics are append-only');
END;
