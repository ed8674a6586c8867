-- Legal state transitions; COMPLETED is final. RUNNING -> RUNNING is a heartbeat, or the resume of a crashed run.
-- One function refuses for all rules: its argument is what it says.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER run_transition BEFORE UPDATE OF state ON run FOR EACH ROW
WHEN (OLD.state <> NEW.state AND (OLD.state || '>' || NEW.state) NOT IN (
    'QUEUED>RUNNING', 'QUEUED>INTERRUPTED', 'RUNNING>INTERRUPTED', 'RUNNING>FAILED', 'RUNNING>COMPLETED',
    'INTERRUPTED>RUNNING', 'FAILED>RUNNING'
))
EXECUTE FUNCTION refuse('a run does not change state this way');

CREATE TRIGGER run_recipe BEFORE UPDATE OF
    uid, experiment_id, config_hash, source_hash, overrides, provenance, model, spec_hash, spec_sha256, data_sha256,
    classes, seed, build_id, created_ms
ON run FOR EACH ROW
EXECUTE FUNCTION refuse('what a run ran never changes');

CREATE TRIGGER run_lease BEFORE UPDATE OF lease_epoch ON run FOR EACH ROW WHEN (NEW.lease_epoch < OLD.lease_epoch)
EXECUTE FUNCTION refuse('a lease epoch never goes back');

CREATE TRIGGER run_kept BEFORE DELETE ON run FOR EACH ROW
EXECUTE FUNCTION refuse('runs are append-only');

CREATE TRIGGER run_not_emptied BEFORE TRUNCATE ON run
EXECUTE FUNCTION refuse('runs are append-only');
