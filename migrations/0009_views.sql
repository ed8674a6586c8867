-- For people who type SQL. A dead run still says RUNNING here: only `runs ls` can look whether its process lives.
CREATE VIEW runs AS
SELECT run.uid AS id, run.name, experiment.name AS experiment, run.model, run.state, run.reason, run.cursor_step AS step,
    strftime('%Y-%m-%dT%H:%M:%SZ', run.created_ms / 1000, 'unixepoch') AS created,
    (SELECT sum(seconds) FROM attempt WHERE run_id = run.id) AS seconds,
    run.seed, lower(hex(run.config_hash)) AS config_sha256, run.data_sha256,
    build.git_sha, build.dirty, lower(hex(run.metric_digest)) AS metric_digest
FROM run JOIN experiment ON experiment.id = run.experiment_id JOIN build ON build.id = run.build_id;

CREATE VIEW metrics AS
SELECT run.uid AS run, run.name AS run_name, metric_key.name AS metric, metric.step, metric.value, metric.flag = 1 AS is_nan
FROM metric JOIN run ON run.id = metric.run_id JOIN metric_key ON metric_key.id = metric.key_id;

CREATE VIEW results AS
SELECT run.uid AS run, run.name AS run_name, metric_key.name AS metric, summary.last, summary.last_step,
    iif(goal = 'max', max, iif(goal = 'min', min, NULL)) AS best,
    iif(goal = 'max', max_step, iif(goal = 'min', min_step, NULL)) AS best_step, summary.n AS points
FROM summary JOIN run ON run.id = summary.run_id JOIN metric_key ON metric_key.id = summary.key_id;

CREATE VIEW checkpoints AS
SELECT run.uid AS run, run.name AS run_name, checkpoint.step, checkpoint.role, weights_sha256, state_sha256,
    (SELECT bytes FROM artifact WHERE sha256 = weights_sha256) AS weights_bytes,
    (SELECT bytes FROM artifact WHERE sha256 = state_sha256) AS state_bytes
FROM checkpoint JOIN run ON run.id = checkpoint.run_id;
