-- Plans hold the multiply-accumulates of a sample from now on, and the view shows them.
CREATE OR REPLACE VIEW runs AS
SELECT run.uid AS id, run.name, experiment.name AS experiment, run.model, run.state, run.reason, run.cursor_step AS step,
    rfc3339(run.created_ms) AS created,
    (SELECT sum(seconds) FROM attempt WHERE run_id = run.id) AS seconds,
    run.seed, encode(run.config_hash, 'hex') AS config_sha256, run.data_sha256,
    build.git_sha, build.dirty::int AS dirty, coalesce(encode(run.metric_digest, 'hex'), '') AS metric_digest,
    (plan::json ->> 'params')::bigint AS params, (plan::json ->> 'trained_params')::bigint AS trained_params,
    (plan::json ->> 'macs')::bigint AS macs
FROM run JOIN experiment ON experiment.id = run.experiment_id JOIN build ON build.id = run.build_id;
