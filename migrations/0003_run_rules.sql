-- Legal state transitions; COMPLETED is final. RUNNING -> RUNNING is a heartbeat, or the resume of a crashed run.
CREATE TRIGGER run_transition BEFORE UPDATE OF state ON run
WHEN OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN (
    'QUEUED>RUNNING', 'QUEUED>INTERRUPTED', 'RUNNING>INTERRUPTED', 'RUNNING>FAILED', 'RUNNING>COMPLETED',
    'INTERRUPTED>RUNNING', 'FAILED>RUNNING'
)
BEGIN
    SELECT RAISE(ABORT, 'a run does not change state this way');
END;

CREATE TRIGGER run_recipe BEFORE UPDATE OF
    uid, experiment_id, config_hash, source_hash, overrides, provenance, model, spec_hash, spec_sha256, data_sha256,
    classes, seed, build_id, created_ms
ON run
BEGIN
    SELECT RAISE(ABORT, 'what a run ran never changes');
END;

CREATE TRIGGER run_lease BEFORE UPDATE OF lease_epoch ON run WHEN NEW.lease_epoch < OLD.lease_epoch
BEGIN
    SELECT RAISE(ABORT, 'a lease epoch never goes back');
END;

CREATE TRIGGER run_kept BEFORE DELETE ON run
BEGIN
    SELECT RAISE(ABORT, 'runs are append-only');
END;
