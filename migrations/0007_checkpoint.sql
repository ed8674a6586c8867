-- Checkpoints by the sha256 of their two files, which lie in blobs/ab/<sha256> beside the registry.
CREATE TABLE artifact (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    bytes  INTEGER NOT NULL CHECK (bytes >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoint (
    run_id         INTEGER NOT NULL REFERENCES run (id),
    step           INTEGER NOT NULL CHECK (step >= 0),                -- the last step that is in it
    role           TEXT NOT NULL CHECK (role IN ('last', 'best')),
    weights_sha256 TEXT NOT NULL REFERENCES artifact (sha256),        -- the model alone
    state_sha256   TEXT NOT NULL REFERENCES artifact (sha256),        -- what an exact resume needs beside it
    metric_digest  BLOB NOT NULL CHECK (length(metric_digest) = 32),
    created_ms     INTEGER NOT NULL,
    PRIMARY KEY (run_id, step, role)
) STRICT, WITHOUT ROWID;

CREATE INDEX checkpoint_weights ON checkpoint (weights_sha256);
CREATE INDEX checkpoint_state ON checkpoint (state_sha256);
