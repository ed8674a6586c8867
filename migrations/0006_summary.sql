-- The last, least and greatest value of each metric of a run, kept by the insert itself. NaN is neither least nor greatest.
CREATE TABLE summary (
    run_id    INTEGER NOT NULL REFERENCES run (id),
    key_id    INTEGER NOT NULL REFERENCES metric_key (id),
    last_step INTEGER NOT NULL,
    last      REAL,
    min       REAL,
    min_step  INTEGER,
    max       REAL,
    max_step  INTEGER,
    n         INTEGER NOT NULL,
    PRIMARY KEY (run_id, key_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX summary_rank ON summary (key_id, last, run_id);

CREATE TRIGGER metric_summary AFTER INSERT ON metric
BEGIN
    INSERT INTO summary VALUES (NEW.run_id, NEW.key_id, NEW.step, NEW.value,
        NEW.value, iif(NEW.value IS NULL, NULL, NEW.step), NEW.value, iif(NEW.value IS NULL, NULL, NEW.step), 1)
    ON CONFLICT DO UPDATE SET
        last      = iif(excluded.last_step >= last_step, excluded.last, last),
        last_step = max(excluded.last_step, last_step),
        min_step  = iif(min IS NULL OR excluded.min < min, excluded.min_step, min_step),
        min       = iif(min IS NULL OR excluded.min < min, excluded.min, min),
        max_step  = iif(max IS NULL OR excluded.max > max, excluded.max_step, max_step),
        max       = iif(max IS NULL OR excluded.max > max, excluded.max, max),
        n         = n + 1;
END;
