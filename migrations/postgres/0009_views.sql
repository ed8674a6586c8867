-- For people who type SQL. Truth is 0 or 1, as in SQLite, so that a query is written once for both.
CREATE FUNCTION rfc3339(ms BIGINT) RETURNS TEXT LANGUAGE sql STABLE AS $$
    SELECT to_char(to_timestamp(ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

CREATE VIEW runs AS
SELECT run.uid AS id, run.name, experiment.name AS experiment, run.model, run.state, run.reason, run.cursor_step AS step,
    rfc3339(run.created_ms) AS created,
    (SELECT sum(seconds) FROM attempt WHERE run_id = run.id) AS seconds,
    run.seed, encode(run.config_hash, 'hex') AS config_sha256, run.data_sha256,
    build.git_sha, build.dirty::int AS dirty, coalesce(encode(run.metric_digest, 'hex'), '') AS metric_digest
FROM run JOIN experiment ON experiment.id = run.experiment_id JOIN build ON build.id = run.build_id;

CREATE VIEW metrics AS
SELECT run.uid AS run, run.name AS run_name, metric_key.name AS metric, metric.step, metric.value,
    (metric.flag = 1)::int AS is_nan
FROM metric JOIN run ON run.id = metric.run_id JOIN metric_key ON metric_key.id = metric.key_id;

CREATE VIEW results AS
SELECT run.uid AS run, run.name AS run_name, metric_key.name AS metric, summary.last, summary.last_step,
    CASE goal WHEN 'max' THEN max WHEN 'min' THEN min END AS best,
    CASE goal WHEN 'max' THEN max_step WHEN 'min' THEN min_step END AS best_step, summary.n AS points
FROM summary JOIN run ON run.id = summary.run_id JOIN metric_key ON metric_key.id = summary.key_id;

CREATE VIEW checkpoints AS
SELECT run.uid AS run, run.name AS run_name, checkpoint.step, checkpoint.role, weights_sha256, state_sha256,
    (SELECT bytes FROM artifact WHERE sha256 = weights_sha256) AS weights_bytes,
    (SELECT bytes FROM artifact WHERE sha256 = state_sha256) AS state_bytes
FROM checkpoint JOIN run ON run.id = checkpoint.run_id;
