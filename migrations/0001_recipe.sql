-- What runs are made from. Each text is kept once, under its sha256.
PRAGMA application_id = 1381650255;  -- 'RZOO'

CREATE TABLE experiment (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- The experiment as resolved: sorted-key JSON, every default filled in.
CREATE TABLE config (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    canonical TEXT NOT NULL CHECK (json_valid(canonical))
) STRICT, WITHOUT ROWID;

-- Files as people wrote them: JSON [{"name": .., "text": ..}]. Experiments and specs alike.
CREATE TABLE source (
    hash  BLOB PRIMARY KEY CHECK (length(hash) = 32),
    files TEXT NOT NULL CHECK (json_valid(files))
) STRICT, WITHOUT ROWID;

CREATE TABLE build (
    id        INTEGER PRIMARY KEY,
    version   TEXT NOT NULL,
    git_sha   TEXT NOT NULL,
    dirty     INTEGER NOT NULL CHECK (dirty IN (0, 1)),
    rustc     TEXT NOT NULL,
    target    TEXT NOT NULL,
    features  TEXT NOT NULL,
    lock_hash TEXT NOT NULL,
    UNIQUE (version, git_sha, dirty, rustc, target, features, lock_hash)
) STRICT;
