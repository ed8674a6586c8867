-- Checkpoints by the sha256 of their two files, which lie in blobs/ab/<sha256> in the folder of whoever wrote them.
CREATE TABLE artifact (
    sha256 TEXT COLLATE "C" PRIMARY KEY CHECK (length(sha256) = 64),
    bytes  BIGINT NOT NULL CHECK (bytes >= 0)
);

CREATE TABLE checkpoint (
    run_id         BIGINT NOT NULL REFERENCES run (id),
    step           BIGINT NOT NULL CHECK (step >= 0),
    role           TEXT COLLATE "C" NOT NULL CHECK (role IN ('last', 'best')),
    weights_sha256 TEXT COLLATE "C" NOT NULL REFERENCES artifact (sha256),
    state_sha256   TEXT COLLATE "C" NOT NULL REFERENCES artifact (sha256),
    metric_digest  BYTEA NOT NULL CHECK (length(metric_digest) = 32),
    created_ms     BIGINT NOT NULL,
    PRIMARY KEY (run_id, step, role)
);

CREATE INDEX checkpoint_weights ON checkpoint (weights_sha256);
CREATE INDEX checkpoint_state ON checkpoint (state_sha256);
