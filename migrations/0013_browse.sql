-- What lists filter and sort by, apart from the long texts of a run: a page of 10,000 runs reads this index alone.
CREATE INDEX run_browse ON run (
    created_ms, name, model, state, experiment_id, seed, config_hash, lease_epoch, cursor_step,
    json_extract(plan, '$.params'), json_extract(plan, '$.trained_params'), json_extract(plan, '$.steps_per_epoch')
);

CREATE INDEX run_name ON run (name);
