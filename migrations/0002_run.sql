-- One run: what it ran, and how far it came.
CREATE TABLE run (
    id            INTEGER PRIMARY KEY,
    uid           TEXT NOT NULL UNIQUE CHECK (length(uid) = 36),          -- UUIDv7
    name          TEXT NOT NULL,
    experiment_id INTEGER NOT NULL REFERENCES experiment (id),
    config_hash   BLOB NOT NULL REFERENCES config (hash),
    source_hash   BLOB NOT NULL REFERENCES source (hash),                 -- the experiment's files
    overrides     TEXT NOT NULL CHECK (json_valid(overrides)),            -- ["optimizer.adamw.lr=3e-4"]
    provenance    TEXT NOT NULL CHECK (json_valid(provenance)),           -- {"seed": "default"}
    model         TEXT NOT NULL,
    spec_hash     BLOB NOT NULL REFERENCES source (hash),                 -- the model's files
    spec_sha256   TEXT NOT NULL,                                          -- the model card's hash of them
    weights       TEXT NOT NULL CHECK (json_valid(weights)),              -- where from, sha256, what was loaded
    data_sha256   TEXT NOT NULL,
    classes       TEXT NOT NULL CHECK (json_valid(classes)),              -- ["T-shirt/top", ..]
    seed          INTEGER NOT NULL,                                       -- the 64 bits of an unsigned number
    build_id      INTEGER NOT NULL REFERENCES build (id),
    state         TEXT NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'INTERRUPTED', 'FAILED', 'COMPLETED')),
    reason        TEXT,
    created_ms    INTEGER NOT NULL,
    ended_ms      INTEGER,
    plan          TEXT CHECK (json_valid(plan)),                          -- steps, samples, parameters
    cursor_step   INTEGER NOT NULL DEFAULT -1,                            -- the last step that is stored
    metric_digest BLOB CHECK (length(metric_digest) = 32),                -- a hash chain over all points
    lease_epoch   INTEGER NOT NULL DEFAULT 0,
    hb_seq        INTEGER NOT NULL DEFAULT 0,
    hb_ms         INTEGER NOT NULL,
    CHECK ((state IN ('FAILED', 'COMPLETED', 'INTERRUPTED')) = (ended_ms IS NOT NULL))
) STRICT;

CREATE INDEX run_list ON run (experiment_id, created_ms DESC);
CREATE INDEX run_config ON run (config_hash, seed, build_id);
CREATE INDEX run_live ON run (state) WHERE state = 'RUNNING';
