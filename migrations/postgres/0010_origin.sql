-- Where a run comes from: the git working tree of its experiment, the environment that may steer it, the run it repeats.
CREATE TABLE code (
    hash       BYTEA PRIMARY KEY CHECK (length(hash) = 32),
    git_commit TEXT,
    branch     TEXT,
    remote     TEXT,
    patch      BYTEA,
    untracked  TEXT NOT NULL CHECK (json_typeof(untracked::json) IS NOT NULL),
    note       TEXT
);

ALTER TABLE run ADD COLUMN code_hash BYTEA REFERENCES code (hash);
ALTER TABLE run ADD COLUMN environment TEXT NOT NULL DEFAULT '{}' CHECK (json_typeof(environment::json) IS NOT NULL);
ALTER TABLE run ADD COLUMN rerun_of TEXT CHECK (length(rerun_of) = 36);
ALTER TABLE attempt ADD COLUMN isa TEXT;
ALTER TABLE attempt ADD COLUMN sources_sha256 TEXT;

CREATE TRIGGER run_origin BEFORE UPDATE OF code_hash, environment, rerun_of ON run FOR EACH ROW
EXECUTE FUNCTION refuse('where a run comes from never changes');
