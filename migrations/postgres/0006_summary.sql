-- The last, least and greatest value of each metric of a run, kept by the insert itself. NaN is neither least nor greatest.
CREATE TABLE summary (
    run_id    BIGINT NOT NULL REFERENCES run (id),
    key_id    BIGINT NOT NULL REFERENCES metric_key (id),
    last_step BIGINT NOT NULL,
    last      DOUBLE PRECISION,
    min       DOUBLE PRECISION,
    min_step  BIGINT,
    max       DOUBLE PRECISION,
    max_step  BIGINT,
    n         BIGINT NOT NULL,
    PRIMARY KEY (run_id, key_id)
);

CREATE INDEX summary_rank ON summary (key_id, last, run_id);

-- Once a statement, not once a row. Of equal values the one of the smaller step counts.
CREATE FUNCTION metric_summary() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO summary AS kept (run_id, key_id, last_step, last, min, min_step, max, max_step, n)
    SELECT run_id, key_id, max(step), (array_agg(value ORDER BY step DESC))[1],
        min(value), (array_agg(step ORDER BY value, step) FILTER (WHERE value IS NOT NULL))[1],
        max(value), (array_agg(step ORDER BY value DESC, step) FILTER (WHERE value IS NOT NULL))[1], count(*)
    FROM added GROUP BY run_id, key_id
    ON CONFLICT (run_id, key_id) DO UPDATE SET
        last      = CASE WHEN excluded.last_step >= kept.last_step THEN excluded.last ELSE kept.last END,
        last_step = greatest(excluded.last_step, kept.last_step),
        min_step  = CASE WHEN kept.min IS NULL OR excluded.min < kept.min THEN excluded.min_step ELSE kept.min_step END,
        min       = least(excluded.min, kept.min),
        max_step  = CASE WHEN kept.max IS NULL OR excluded.max > kept.max THEN excluded.max_step ELSE kept.max_step END,
        max       = greatest(excluded.max, kept.max),
        n         = kept.n + excluded.n;
    RETURN NULL;
END $$;

CREATE TRIGGER metric_summary AFTER INSERT ON metric REFERENCING NEW TABLE AS added FOR EACH STATEMENT
EXECUTE FUNCTION metric_summary();
