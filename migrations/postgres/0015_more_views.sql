-- Views for the questions that need a run's origin, processes and warnings; docs/sql.md has examples.
CREATE VIEW provenance AS
SELECT run.uid AS run, run.name AS run_name, who.key AS setting, who.value AS set_by
FROM run, json_each_text(run.provenance::json) AS who;

CREATE VIEW origins AS
SELECT run.uid AS run, run.name AS run_name, git_commit, branch, remote, length(patch) AS patch_bytes, untracked, note,
    environment, rerun_of
FROM run LEFT JOIN code ON code.hash = run.code_hash;

CREATE VIEW attempts AS
SELECT run.uid AS run, run.name AS run_name, attempt.lease_epoch AS attempt, host, cpu, isa, device, threads,
    rfc3339(started_ms) AS started, seconds,
    CASE WHEN step_seconds > 0 THEN samples / step_seconds END AS samples_per_second, resumed_from, exit
FROM attempt JOIN run ON run.id = attempt.run_id;

CREATE VIEW warnings AS
SELECT run.uid AS run, run.name AS run_name, step, message, rfc3339(warning.created_ms) AS created
FROM warning JOIN run ON run.id = warning.run_id;
