-- Plans hold the multiply-accumulates of a sample from now on: the index that lists read has them, and so has the view.
DROP INDEX run_browse;
CREATE INDEX run_browse ON run (
    created_ms, name, model, state, experiment_id, seed, config_hash, lease_epoch, cursor_step,
    json_extract(plan, '$.params'), json_extract(plan, '$.trained_params'), json_extract(plan, '$.steps_per_epoch'),
    json_extract(plan, '$.macs')
);

DROP VIEW runs;
CREATE VIEW runs AS
SELECT run.uid AS id, run.name, experiment.name AS experiment, run.model, run.state, run.reason, run.cursor_step AS step,
    strftime('%Y-%m-%dT%H:%M:%SZ', run.created_ms / 1000, 'unixepoch') AS created,
    (SELECT sum(seconds) FROM attempt WHERE run_id = run.id) AS seconds,
    run.seed, lower(hex(run.config_hash)) AS config_sha256, run.data_sha256,
    build.git_sha, build.dirty, lower(hex(run.metric_digest)) AS metric_digest,
    json_extract(plan, '$.params') AS params, json_extract(plan, '$.trained_params') AS trained_params,
    json_extract(plan, '$.macs') AS macs
FROM run JOIN experiment ON experiment.id = run.experiment_id JOIN build ON build.id = run.build_id;
