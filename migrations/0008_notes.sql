-- What a person should read, and what a resume did not reproduce.
CREATE TABLE warning (
    id         INTEGER PRIMARY KEY,
    run_id     INTEGER NOT NULL REFERENCES run (id),
    step       INTEGER NOT NULL,
    message    TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX warning_run ON warning (run_id);

CREATE TABLE replay_mismatch (
    run_id      INTEGER NOT NULL REFERENCES run (id),
    key_id      INTEGER NOT NULL REFERENCES metric_key (id),
    step        INTEGER NOT NULL,
    old_bits    INTEGER NOT NULL,                        -- of the f64
    new_bits    INTEGER NOT NULL,
    lease_epoch INTEGER NOT NULL,
    PRIMARY KEY (run_id, key_id, step, lease_epoch)
) STRICT, WITHOUT ROWID;
