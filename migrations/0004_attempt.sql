-- One process that worked on a run: the first, or one that resumed it.
CREATE TABLE attempt (
    run_id       INTEGER NOT NULL REFERENCES run (id),
    lease_epoch  INTEGER NOT NULL,
    host         TEXT NOT NULL,
    boot_id      TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    pid_start    INTEGER NOT NULL,
    cpu          TEXT NOT NULL,
    threads      INTEGER NOT NULL,
    device       TEXT NOT NULL,
    build_id     INTEGER NOT NULL REFERENCES build (id),
    resumed_from INTEGER,                                -- the checkpoint's step
    started_ms   INTEGER NOT NULL,
    seconds      REAL NOT NULL DEFAULT 0,                -- by a monotonic clock, up to the last flush
    samples      INTEGER NOT NULL DEFAULT 0,             -- trained on
    step_seconds REAL NOT NULL DEFAULT 0,                -- in training steps
    data_seconds REAL NOT NULL DEFAULT 0,                -- of these, waiting for data
    exit         TEXT CHECK (exit IN ('completed', 'failed', 'interrupted', 'crashed')),
    PRIMARY KEY (run_id, lease_epoch)
) STRICT, WITHOUT ROWID;
