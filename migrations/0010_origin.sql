-- Where a run comes from: the git working tree of its experiment, the environment that may steer it, the run it repeats.
CREATE TABLE code (
    hash       BLOB PRIMARY KEY CHECK (length(hash) = 32),
    git_commit TEXT,                                     -- 40 hexadecimal digits; NULL where there is no repository or commit
    branch     TEXT,
    remote     TEXT,                                     -- without credentials
    patch      BLOB,                                     -- `git apply` takes it from the commit to the tree; NULL: no change
    untracked  TEXT NOT NULL CHECK (json_valid(untracked)),  -- the experiment's files that git does not know
    note       TEXT                                      -- what is missing here, and why
) STRICT, WITHOUT ROWID;

ALTER TABLE run ADD COLUMN code_hash BLOB REFERENCES code (hash);
ALTER TABLE run ADD COLUMN environment TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(environment));
ALTER TABLE run ADD COLUMN rerun_of TEXT CHECK (length(rerun_of) = 36);  -- the other run's uid, which may be in another registry
ALTER TABLE attempt ADD COLUMN isa TEXT;                                 -- avx512bf16, avx512, avx2, portable
ALTER TABLE attempt ADD COLUMN sources_sha256 TEXT;                      -- of the sources that the program was built from

CREATE TRIGGER run_origin BEFORE UPDATE OF code_hash, environment, rerun_of ON run
BEGIN
    SELECT RAISE(ABORT, 'where a run comes from never changes');
END;
